//! Each metadata key and tensor name, once.
