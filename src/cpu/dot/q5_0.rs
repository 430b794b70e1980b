//! `q5_0` weights.

use katari_gguf::block::BlockQ5_0;

use super::Groups;

impl Groups for BlockQ5_0 {}
