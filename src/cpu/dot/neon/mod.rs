//! What the formats share on NEON: eight rows of weights at a time, one a lane of two
//! accumulators, so that sums across registers are shared by rows.
//!
//! A format is taken apart by [`Unpack`]; how products are summed to 32 bits is an instruction
//! set's, [`Products`]. What is to be added to every sum, an offset's share and [`MAGIC`], is put
//! where the sums start, which costs nothing.
//!
//! What a kernel calls must be inlined into it, so there are no closures on the way, and none of
//! the standard library's functions that take one: they are not always.

mod asm;
pub(in crate::cpu) mod float;
mod k;
mod products;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;

use std::arch::aarch64::*;

use super::{Groups, Weights};
use crate::cpu::activation::{GROUP, Rows};

pub(in crate::cpu) use asm::{narrow_to_halfs, sdot_lane, smmla, widen_halfs, widen_high_halfs};
pub(in crate::cpu) use products::{Baseline, Dotprod, Products};

/// Rows of weights that are done together.
pub(in crate::cpu) const ROWS: usize = 8;

/// The most groups that [`Unpack::unpack`] gives at once.
pub(in crate::cpu) const MAX_STEP: usize = 4;

/// A group of one row: values 0..16 and 16..32.
pub(in crate::cpu) type Group = [int8x16_t; 2];

/// A number of each of the eight rows.
pub(in crate::cpu) type Lanes = [float32x4_t; 2];

/// The factors of a group: of rows `2 i` and `2 i + 1`, `[first half, second half]` of the one
/// and then the other.
pub(in crate::cpu) type Factors = [float32x4_t; 4];

/// The bits of 1.5 * 2^23 as f32. An integer below 2^22 added to them gives the bits of
/// 1.5 * 2^23 plus that integer, and a subtraction makes an f32 of it: sooner than a conversion,
/// which most cores do in one of their pipes only.
pub(in crate::cpu) const MAGIC: i32 = 0x4b40_0000;

/// A quantised format on NEON.
pub(in crate::cpu) trait Unpack: Groups {
    /// What is to be subtracted from the unpacked integers.
    const OFFSET: i32;
    /// Bits of an unpacked integer: 4 and 6 are unsigned, 5 and 8 signed.
    const BITS: u32;
    /// Whether each 16 products have a factor of their own.
    const FACTORS: bool = false;
    /// How many groups are unpacked at once; divides the block's.
    const STEP: usize = 1;
    /// The scales of eight rows' blocks.
    type Scales: Copy;

    /// Loads the scales of eight blocks.
    ///
    /// # Safety
    /// The blocks are readable.
    unsafe fn scales(rows: &[*const Self; ROWS]) -> Self::Scales;

    /// The eight scales of group `g`.
    fn scale(scales: &Self::Scales, g: usize) -> Lanes;

    /// The eight mins of group `g`, for formats that have them.
    #[inline(always)]
    fn min(_scales: &Self::Scales, _g: usize) -> Lanes {
        // SAFETY: every 64-bit ARM has NEON.
        [unsafe { vdupq_n_f32(0.0) }; 2]
    }

    /// For formats with factors those of group `g` of eight blocks.
    ///
    /// # Safety
    /// The blocks are readable.
    #[inline(always)]
    unsafe fn factors(_rows: &[*const Self; ROWS], _g: usize) -> Factors {
        // SAFETY: every 64-bit ARM has NEON.
        [unsafe { vdupq_n_f32(1.0) }; 4]
    }

    /// Unpacks groups `step * STEP..` of a row's block.
    ///
    /// # Safety
    /// The block is readable.
    unsafe fn unpack(row: *const Self, step: usize) -> [Group; MAX_STEP];
}

/// Decode: every row of `w` times the one row of `x`.
///
/// # Safety
/// The instructions of `P`; shapes as the table's type says; `x.n` is 1.
#[inline(always)]
unsafe fn decode_with<B: Unpack, P: Products>(w: Weights<'_>, x: Rows<'_>, out: &mut [f32]) {
    for (panel, out) in out[..w.rows].chunks_mut(ROWS).enumerate() {
        // SAFETY: by this function's contract; rows are clamped to those there are.
        unsafe {
            let rows = panel_rows::<B>(&w, panel * ROWS);
            let sums = panel_dot::<B, P>(&rows, w.stride, &x);
            let mut lanes = [0.0; ROWS];
            vst1q_f32(lanes.as_mut_ptr(), sums[0]);
            vst1q_f32(lanes.as_mut_ptr().add(4), sums[1]);
            out.copy_from_slice(&lanes[..out.len()]);
        }
    }
}

/// [`decode_with`] the baseline's instructions.
///
/// # Safety
/// As [`decode_with`]; every 64-bit ARM has the instructions.
pub(in crate::cpu) unsafe fn decode<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { decode_with::<B, Baseline>(w, x, out) }
}

/// [`decode_with`] dot products.
///
/// # Safety
/// As [`decode_with`], and dotprod.
#[target_feature(enable = "dotprod")]
pub(in crate::cpu) unsafe fn decode_dotprod<B: Unpack>(
    w: Weights<'_>,
    x: Rows<'_>,
    out: &mut [f32],
    _stride: usize,
) {
    // SAFETY: by this function's contract.
    unsafe { decode_with::<B, Dotprod>(w, x, out) }
}

/// Rows `start..start + 8` of `w`; where it ends before, its last row again.
///
/// # Safety
/// `w.bytes` holds `w.rows` rows, at least one.
#[inline(always)]
pub(in crate::cpu) unsafe fn panel_rows<B>(w: &Weights<'_>, start: usize) -> [*const B; ROWS] {
    let mut rows = [std::ptr::null(); ROWS];
    for (i, at) in rows.iter_mut().enumerate() {
        let row = (start + i).min(w.rows - 1);
        // SAFETY: `row` is below `w.rows`.
        *at = unsafe { w.bytes.as_ptr().add(row * w.stride).cast() };
    }
    rows
}

/// Block `b` of each row.
///
/// # Safety
/// The rows have that block.
#[inline(always)]
pub(in crate::cpu) unsafe fn blocks_at<B>(rows: &[*const B; ROWS], b: usize) -> [*const B; ROWS] {
    let mut blocks = *rows;
    for block in &mut blocks {
        // SAFETY: by this function's contract.
        *block = unsafe { block.add(b) };
    }
    blocks
}

/// Eight rows times one row of activations.
///
/// # Safety
/// The instructions of `P`; each of `rows` is as long as `x`.
#[inline(always)]
unsafe fn panel_dot<B: Unpack, P: Products>(
    rows: &[*const B; ROWS],
    stride: usize,
    x: &Rows<'_>,
) -> Lanes {
    let groups = B::LEN / GROUP;
    // SAFETY: by this function's contract: blocks below `x.groups / groups` and activations
    // below `x.groups` are read.
    unsafe {
        let mut acc = [vdupq_n_f32(0.0); 2];
        for b in 0..x.groups / groups {
            let blocks = blocks_at(rows, b);
            prefetch_panel(rows[0], stride, b);
            let scales = B::scales(&blocks);
            for step in 0..groups / B::STEP {
                let at = b * groups + step * B::STEP;
                let sums = [
                    quad_sums::<B, P>(&blocks[..4], step, x, at),
                    quad_sums::<B, P>(&blocks[4..], step, x, at),
                ];
                for j in 0..B::STEP {
                    let g = step * B::STEP + j;
                    let sums = if B::FACTORS {
                        let f = B::factors(&blocks, g);
                        [
                            weighted(sums[0][j], [f[0], f[1]]),
                            weighted(sums[1][j], [f[2], f[3]]),
                        ]
                    } else {
                        [sums[0][j][0], sums[1][j][0]]
                    };
                    let x_scale = *x.scale.get_unchecked(at + j);
                    let x_sum = *x.scaled_sum.get_unchecked(at + j);
                    let (scale, min) = (B::scale(&scales, g), B::min(&scales, g));
                    for i in 0..2 {
                        let scale = vmulq_n_f32(scale[i], x_scale);
                        acc[i] = vfmaq_f32(acc[i], sums[i], scale);
                        if B::HAS_MIN {
                            acc[i] = vfmsq_n_f32(acc[i], min[i], x_sum);
                        }
                    }
                }
            }
        }
        acc
    }
}

/// The sums of a group's halves times their factors, added. All of it is exact: a half's sum is
/// below 2^16 and a factor below 2^8.
#[inline(always)]
fn weighted(sums: [float32x4_t; 2], factors: [float32x4_t; 2]) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let products = (
            vmulq_f32(sums[0], factors[0]),
            vmulq_f32(sums[1], factors[1]),
        );
        vpaddq_f32(products.0, products.1)
    }
}

/// The products of `STEP` groups of four rows, summed: for each group a lane a row in `[0]`, or
/// where halves have factors the two halves' of a row in neighbouring lanes of `[0]` and `[1]`.
///
/// # Safety
/// The instructions of `P`; blocks and groups `at..at + STEP` of `x` are readable.
#[inline(always)]
unsafe fn quad_sums<B: Unpack, P: Products>(
    blocks: &[*const B],
    step: usize,
    x: &Rows<'_>,
    at: usize,
) -> [[float32x4_t; 2]; MAX_STEP] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut start = [[vdupq_n_s32(0); 2]; MAX_STEP];
        let mut xq = [[vdupq_n_s8(0); 2]; MAX_STEP];
        for j in 0..B::STEP {
            let [first, second] = *x.halves.get_unchecked(at + j);
            let (first, second) = (i32::from(first), i32::from(second));
            start[j] = if B::FACTORS {
                [
                    P::start(MAGIC - B::OFFSET * first),
                    P::start(MAGIC - B::OFFSET * second),
                ]
            } else {
                [P::start(MAGIC - B::OFFSET * (first + second)); 2]
            };
            let q = x.q.as_ptr().add((at + j) * GROUP);
            xq[j] = [vld1q_s8(q), vld1q_s8(q.add(16))];
        }
        let mut parts = [[vdupq_n_s32(0); 4]; MAX_STEP];
        for r in 0..4 {
            let w = B::unpack(blocks[r], step);
            for j in 0..B::STEP {
                parts[j][r] = if B::FACTORS {
                    P::halves::<B>(start[j], w[j], xq[j])
                } else {
                    P::group::<B>(start[j][0], w[j], xq[j])
                };
            }
        }
        let mut sums = [[vdupq_n_f32(0.0); 2]; MAX_STEP];
        for j in 0..B::STEP {
            let [a, b, c, d] = parts[j];
            sums[j] = if B::FACTORS {
                [
                    from_magic(P::reduce_halves(start[j], a, b)),
                    from_magic(P::reduce_halves(start[j], c, d)),
                ]
            } else {
                [from_magic(P::reduce::<B>(start[j][0], parts[j])); 2]
            };
        }
        sums
    }
}

/// What was added to [`MAGIC`].
#[inline(always)]
pub(in crate::cpu) fn from_magic(sum: int32x4_t) -> float32x4_t {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        vsubq_f32(
            vreinterpretq_f32_s32(sum),
            vdupq_n_f32(f32::from_bits(MAGIC as u32)),
        )
    }
}

/// Asks for what the next eight rows need. Eight rows lie together, so their bytes are asked for
/// in one stream, as much for each block as one block takes of the eight.
#[inline(always)]
fn prefetch_panel<B>(first: *const B, stride: usize, b: usize) {
    let bytes = ROWS * size_of::<B>();
    let next = first.cast::<u8>().wrapping_add(ROWS * stride + b * bytes);
    for line in (0..bytes).step_by(64) {
        asm::prefetch(next.wrapping_add(line));
    }
}

/// Transposes 4 x 4 u32.
#[inline(always)]
pub(in crate::cpu) fn transpose(v: [uint8x16_t; 4]) -> [uint32x4_t; 4] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        let (a, b) = (vreinterpretq_u32_u8(v[0]), vreinterpretq_u32_u8(v[1]));
        let (c, d) = (vreinterpretq_u32_u8(v[2]), vreinterpretq_u32_u8(v[3]));
        let (ab, cd) = (vtrn1q_u32(a, b), vtrn1q_u32(c, d));
        let even = (vreinterpretq_u64_u32(ab), vreinterpretq_u64_u32(cd));
        let (ab, cd) = (vtrn2q_u32(a, b), vtrn2q_u32(c, d));
        let odd = (vreinterpretq_u64_u32(ab), vreinterpretq_u64_u32(cd));
        [
            vreinterpretq_u32_u64(vzip1q_u64(even.0, even.1)),
            vreinterpretq_u32_u64(vzip1q_u64(odd.0, odd.1)),
            vreinterpretq_u32_u64(vzip2q_u64(even.0, even.1)),
            vreinterpretq_u32_u64(vzip2q_u64(odd.0, odd.1)),
        ]
    }
}

/// Eight f16 as f32, one `offset` bytes into each block.
///
/// # Safety
/// Two bytes there are readable.
#[inline(always)]
unsafe fn load_halfs<B>(rows: &[*const B; ROWS], offset: usize) -> Lanes {
    // SAFETY: by this function's contract.
    unsafe {
        // Put together by the integer units, which have little else to do here.
        let mut four = [0u64; 2];
        for (i, row) in rows.iter().enumerate() {
            let half = row.byte_add(offset).cast::<u16>().read_unaligned();
            four[i / 4] |= u64::from(half) << (16 * (i % 4));
        }
        [
            asm::widen_halfs(vcreate_u16(four[0])),
            asm::widen_halfs(vcreate_u16(four[1])),
        ]
    }
}

/// Eight neighbouring pairs of f16 as f32, one pair `offset` bytes into each block: all firsts,
/// all seconds.
///
/// # Safety
/// Four bytes there are readable.
#[inline(always)]
unsafe fn load_half_pairs<B>(rows: &[*const B; ROWS], offset: usize) -> [Lanes; 2] {
    // SAFETY: by this function's contract.
    unsafe {
        let mut two = [0u64; 4];
        for (i, row) in rows.iter().enumerate() {
            let pair = row.byte_add(offset).cast::<u32>().read_unaligned();
            two[i / 2] |= u64::from(pair) << (32 * (i % 2));
        }
        let low = vcombine_u32(vcreate_u32(two[0]), vcreate_u32(two[1]));
        let high = vcombine_u32(vcreate_u32(two[2]), vcreate_u32(two[3]));
        let (low, high) = (split_half_pairs(low), split_half_pairs(high));
        [[low[0], high[0]], [low[1], high[1]]]
    }
}

/// Four pairs of f16 as f32: all firsts, all seconds.
#[inline(always)]
fn split_half_pairs(pairs: uint32x4_t) -> [float32x4_t; 2] {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        [
            asm::widen_halfs(vmovn_u32(pairs)),
            asm::widen_halfs(vshrn_n_u32::<16>(pairs)),
        ]
    }
}

/// The low and the high nibbles of each byte.
#[inline(always)]
fn nibbles(bytes: uint8x16_t) -> Group {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        [
            vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))),
            vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes)),
        ]
    }
}

/// The low and the high nibbles of each byte, less 16 where the bit of the value is not set.
/// Value `i` has bit `i` of `bits`.
#[inline(always)]
fn nibbles_and_bits(bytes: uint8x16_t, bits: u32) -> Group {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        // Byte i of a half looks at byte i / 8 of the bits (the second register two further).
        let first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
        let which = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        let clear = vreinterpretq_u8_u32(vdupq_n_u32(!bits));
        let second = vaddq_u8(first, vdupq_n_u8(2));
        let is_less = [
            vtstq_u8(vqtbl1q_u8(clear, first), which),
            vtstq_u8(vqtbl1q_u8(clear, second), which),
        ];
        five_bits(bytes, is_less)
    }
}

/// The low and the high nibbles of each byte, less 16 where the value's mask is set. A mask is
/// all ones or all zeros.
#[inline(always)]
fn five_bits(bytes: uint8x16_t, is_less: [uint8x16_t; 2]) -> Group {
    // SAFETY: every 64-bit ARM has NEON.
    unsafe {
        [
            vreinterpretq_s8_u8(vsliq_n_u8::<4>(bytes, is_less[0])),
            vreinterpretq_s8_u8(vsriq_n_u8::<4>(is_less[1], bytes)),
        ]
    }
}
