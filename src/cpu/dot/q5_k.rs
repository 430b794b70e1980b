//! `q5_k` weights.

use katari_gguf::block::BlockQ5K;

use super::Groups;

impl Groups for BlockQ5K {}
