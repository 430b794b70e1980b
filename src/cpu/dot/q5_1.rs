//! `q5_1` weights.

use katari_gguf::block::BlockQ5_1;

use super::Groups;

impl Groups for BlockQ5_1 {}
