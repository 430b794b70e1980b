//! `q8_0` weights.

use katari_gguf::block::BlockQ8_0;

use super::Groups;

impl Groups for BlockQ8_0 {}
