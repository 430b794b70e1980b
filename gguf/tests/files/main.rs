//! Whole files: what is written is read back, and no bytes do harm.

mod anything;
mod lies;
mod made;
mod refused;
mod round_trip;
#[path = "../support/mod.rs"]
mod support;
