//! `q4_k` weights.

use katari_gguf::block::BlockQ4K;

use super::Groups;

impl Groups for BlockQ4K {}
