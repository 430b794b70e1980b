//! Registers with a row of weights in each i32: four rows with NEON, eight with AVX2, all 16 of a
//! panel with AVX-512. What takes the formats apart is written once over all of them.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use super::pack;

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(in crate::cpu) use x86::Ints;

/// An architecture's narrowest register.
#[cfg(target_arch = "aarch64")]
type Narrowest = std::arch::aarch64::uint8x16_t;
#[cfg(target_arch = "x86_64")]
type Narrowest = std::arch::x86_64::__m256i;

/// The most registers that a panel takes.
pub(in crate::cpu) const MAX_PARTS: usize = Narrowest::PARTS;

/// An integer register, a row an i32.
///
/// # Safety
/// All functions need the instruction set of the type (NEON; AVX2 with FMA and F16C; or AVX-512 F,
/// BW, DQ and VL besides), and that what they read or write is there, without any alignment.
pub(in crate::cpu) trait Wide: Copy {
    /// Rows of a register.
    const ROWS: usize = size_of::<Self>() / 4;
    /// Registers of a panel.
    const PARTS: usize = pack::ROWS / Self::ROWS;
    /// As many f32.
    type Floats: Copy;

    unsafe fn load(at: *const u8) -> Self;
    unsafe fn splat8(x: i8) -> Self;
    unsafe fn and(self, other: Self) -> Self;
    /// The low nibbles of each byte, or the high ones.
    unsafe fn nibbles(self, high: bool) -> Self;
    /// The same, below the `n` bits from bit `at` on of each byte of `bits`.
    unsafe fn nibbles_below(self, high: bool, bits: Self, at: usize, n: usize) -> Self;
    /// The same, below fifth bits; those of quad `t` are bits `4 t..` of each i32 of `bits`.
    unsafe fn nibbles_below_fifth(self, high: bool, bits: Self, t: usize) -> Self;
    /// The top two bits of each byte of `low`, below those of `mid`, below those of `high`.
    unsafe fn tops(low: Self, mid: Self, high: Self) -> Self;
    /// Byte `i` of each i32, unsigned, as f32.
    unsafe fn byte(self, i: usize) -> Self::Floats;

    unsafe fn zeros() -> Self::Floats;
    unsafe fn splat(x: f32) -> Self::Floats;
    /// f16 one after another.
    unsafe fn load_halfs(at: *const u8) -> Self::Floats;
    /// Pairs of f16: all firsts, all seconds.
    unsafe fn half_pairs(self) -> [Self::Floats; 2];
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `-a`.
    unsafe fn neg(a: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `-(a * b) + c`, rounded once.
    unsafe fn fnma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    unsafe fn store(x: Self::Floats, at: *mut f32);
}

/// Writes functions whose body needs no more than the trait's contract.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $t:ty),*) -> $to:ty = $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $t),*) -> $to {
            // SAFETY: by the trait's contract.
            unsafe { $body }
        }
    )*};
}
use intrinsics;

/// For each byte of four i32s which byte of its i32 holds the fifth bits of quad `t`, and which bit
/// it is there.
const fn fifth_bits(t: usize) -> ([i32; 4], i32) {
    let byte = t as i32 / 2 * 0x0101_0101;
    let which = if t.is_multiple_of(2) {
        0x0804_0201
    } else {
        0x8040_2010_u32 as i32
    };
    let bytes = [
        byte,
        0x0404_0404 + byte,
        0x0808_0808 + byte,
        0x0c0c_0c0c + byte,
    ];
    (bytes, which)
}
