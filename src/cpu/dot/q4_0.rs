//! `q4_0` weights.

use katari_gguf::block::BlockQ4_0;

use super::Groups;

impl Groups for BlockQ4_0 {}
