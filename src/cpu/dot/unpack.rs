//! How the formats are taken apart, for all tables but the scalar one: a register of weights at a
//! time, as [`pack`](super::pack) lays them, a row in each i32.
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

use super::Groups;
use super::pack;
use super::wide::Wide;
use crate::cpu::activation::GROUP;

/// Steps of four values in a group.
pub(in crate::cpu) const STEPS: usize = GROUP / 4;

/// The scales of a register of rows' blocks.
pub(in crate::cpu) trait Scales<V: Wide>: Copy {
    /// Loads those of part `i` of a panel.
    ///
    /// # Safety
    /// The instruction set; the blocks are readable, `i` is below `V::PARTS`.
    unsafe fn load(block: *const u8, i: usize) -> Self;

    /// The scales of group `g`.
    ///
    /// # Safety
    /// The instruction set.
    unsafe fn scale(&self, g: usize) -> V::Floats;

    /// The mins of group `g`, for formats that have them.
    ///
    /// # Safety
    /// The instruction set.
    #[inline(always)]
    unsafe fn min(&self, _g: usize) -> V::Floats {
        // SAFETY: by this function's contract.
        unsafe { V::zeros() }
    }

    /// For formats with factors a word of each row that holds those of group `g`: bytes
    /// `2 (g % 2)` and the next, signed.
    ///
    /// # Safety
    /// The instruction set.
    #[inline(always)]
    unsafe fn factors(&self, _g: usize) -> V {
        unreachable!("the format has no factors")
    }
}

/// A quantised format. `block` points to the blocks of a panel, of whose rows part `i` is
/// taken; groups and steps are constants wherever these are called.
pub(in crate::cpu) trait Unpack: Groups {
    /// What is to be subtracted from the unpacked integers; 0 where they are signed.
    const OFFSET: i16;
    /// How many sums of two products of an unpacked integer and one of -127..=127 can be added
    /// in i16. 1 means that the integers are signed; they are unsigned otherwise.
    const CHAIN: usize;
    /// Whether each 16 products have a factor of their own. Values have six bits then, laid by
    /// [`sixes`](super::pack), are multiplied four groups together, and their offset is
    /// [`CENTRE`](crate::cpu::activation::CENTRE).
    const FACTORS: bool = false;
    /// Whether steps `t` and `t + 4` of a group are the low and the high nibbles of one word, as in
    /// blocks of one group that have two values a byte.
    const SPLIT: bool = Self::LEN == GROUP && Self::CHAIN > 1;
    /// How many groups, one after the other, are multiplied together, 1, 2 or 4, since their
    /// values share bytes.
    const TOGETHER: usize = 1;
    /// Whether the values of two groups that are multiplied together are the low and the high
    /// nibbles of words, and nothing else: AVX2 has a step for them.
    #[cfg(target_arch = "x86_64")]
    const NIBBLES: bool = false;
    /// The scales of a register of rows' blocks.
    type Scales<V: Wide>: Scales<V>;

    /// The word of step `t` of groups `g` and `g + 1`, where they are [nibbles](Self::NIBBLES).
    ///
    /// # Safety
    /// As [`Unpack::unpack`].
    #[inline(always)]
    unsafe fn nibbles<V: Wide>(_block: *const u8, _i: usize, _g: usize, _t: usize) -> V {
        unreachable!("the format has no such words")
    }

    /// The words of groups `g..g + 4`, for formats with [factors](Self::FACTORS).
    #[inline(always)]
    fn sixes(_block: *const u8, _g: usize) -> *const u8 {
        unreachable!("the format has no such words")
    }

    /// Unpacks step `t` of group `g`: values `4 t..4 t + 4` of each row in its i32.
    ///
    /// # Safety
    /// The instruction set; the blocks are readable, `i` is below `V::PARTS`.
    unsafe fn unpack<V: Wide>(block: *const u8, i: usize, g: usize, t: usize) -> V;
}

/// Blocks that begin with a scale.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Scale<V: Wide>(V::Floats);

impl<V: Wide> Scales<V> for Scale<V> {
    #[inline(always)]
    unsafe fn load(block: *const u8, i: usize) -> Scale<V> {
        // SAFETY: by the trait's contract.
        unsafe { Scale(halfs::<V>(block, i)) }
    }

    #[inline(always)]
    unsafe fn scale(&self, _g: usize) -> V::Floats {
        self.0
    }
}

/// Blocks that begin with a scale and the least value.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct ScaleAndLeast<V: Wide> {
    scale: V::Floats,
    min: V::Floats,
}

impl<V: Wide> Scales<V> for ScaleAndLeast<V> {
    #[inline(always)]
    unsafe fn load(block: *const u8, i: usize) -> ScaleAndLeast<V> {
        // SAFETY: by the trait's contract.
        unsafe {
            let [scale, least] = word::<V>(block, i, 0).half_pairs();
            // The format adds its least value.
            let min = V::neg(least);
            ScaleAndLeast { scale, min }
        }
    }

    #[inline(always)]
    unsafe fn scale(&self, _g: usize) -> V::Floats {
        self.scale
    }

    #[inline(always)]
    unsafe fn min(&self, _g: usize) -> V::Floats {
        self.min
    }
}

/// Runs `$body` with `$i` as each of `0..$n`, a constant, for `$n` of 1, 2, 4 or 8: not as a loop,
/// which the compiler might leave one.
macro_rules! unroll {
    ($n:expr, $i:ident => $body:expr) => {{
        macro_rules! each {
            ($at:literal) => {{
                const $i: usize = $at;
                $body
            }};
        }
        each!(0);
        if $n > 1 {
            each!(1);
        }
        if $n > 2 {
            each!(2);
            each!(3);
        }
        if $n > 4 {
            each!(4);
            each!(5);
            each!(6);
            each!(7);
        }
    }};
}
pub(in crate::cpu) use unroll;

/// Word `t` of the rows of part `i`, of words that begin at `words`.
///
/// # Safety
/// The instruction set; they are readable, `i` is below `V::PARTS`.
#[inline(always)]
pub(super) unsafe fn word<V: Wide>(words: *const u8, i: usize, t: usize) -> V {
    // SAFETY: by this function's contract.
    unsafe { V::load(words.add(t * 4 * pack::ROWS + i * 4 * V::ROWS)) }
}

/// The f16s of the rows of part `i`, as f32.
///
/// # Safety
/// The instruction set; they are readable, `i` is below `V::PARTS`.
#[inline(always)]
pub(super) unsafe fn halfs<V: Wide>(at: *const u8, i: usize) -> V::Floats {
    // SAFETY: by this function's contract.
    unsafe { V::load_halfs(at.add(i * 2 * V::ROWS)) }
}

/// Where a field begins that has `bytes` bytes of a block before it.
#[inline(always)]
pub(super) fn field(block: *const u8, bytes: usize) -> *const u8 {
    block.wrapping_add(bytes * pack::ROWS)
}
