//! `q4_1` weights.

use katari_gguf::block::BlockQ4_1;

use super::Groups;

impl Groups for BlockQ4_1 {}
