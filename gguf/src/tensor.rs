//! What holds of every tensor, read or written.

use crate::Format;

/// The alignment where the metadata names none.
pub(crate) const DEFAULT_ALIGNMENT: u64 = 32;
/// The greatest alignment taken, 64 KiB: more would be padding for nobody's use.
const MAX_ALIGNMENT: u64 = 1 << 16;
/// ggml's bound on the number of dimensions.
pub(crate) const MAX_DIMS: usize = 4;
/// The specification's bound on a tensor's name, in bytes.
const MAX_TENSOR_NAME: usize = 64;
/// The specification's bound on a key, in bytes.
const MAX_KEY: usize = 65535;

/// Tensor data begins, and each tensor within it, at multiples of the alignment: a power of two
/// from 8 to 64 KiB.
pub(crate) fn check_alignment(alignment: u64) -> Result<u64, String> {
    if alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment) {
        Ok(alignment)
    } else {
        Err(format!(
            "{} is {alignment}, expected a power of two from 8 to {MAX_ALIGNMENT}",
            crate::keys::general::ALIGNMENT
        ))
    }
}

/// Bytes from `position` to the next multiple of `alignment`, a power of two.
pub(crate) fn padding(position: u64, alignment: u64) -> u64 {
    position.wrapping_neg() & (alignment - 1)
}

pub(crate) fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        len => Err(format!(
            "a metadata key has {len} bytes, expected 1 to {MAX_KEY}"
        )),
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), String> {
    match name.len() {
        1..=MAX_TENSOR_NAME => Ok(()),
        len => Err(format!(
            "the name of tensor '{name}' has {len} bytes, expected 1 to {MAX_TENSOR_NAME}"
        )),
    }
}

/// The bytes of a tensor: its shape checked, every product too.
pub(crate) fn size(name: &str, dims: &[u64], format: Format) -> Result<u64, String> {
    if dims.is_empty() || dims.len() > MAX_DIMS {
        return Err(format!(
            "tensor '{name}' has {} dimensions, expected 1 to {MAX_DIMS}",
            dims.len()
        ));
    }
    if let Some(i) = dims.iter().position(|&dim| dim == 0) {
        return Err(format!("dimension {i} of tensor '{name}' is 0"));
    }
    if !dims[0].is_multiple_of(format.block_len() as u64) {
        return Err(format!(
            "tensor '{name}' has rows of {} values, expected a multiple of {} as {format} needs",
            dims[0],
            format.block_len()
        ));
    }
    let values = dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
    values
        .and_then(|n| format.bytes(n))
        .ok_or_else(|| format!("tensor '{name}' has shape {dims:?}, whose size exceeds 64 bits"))
}
