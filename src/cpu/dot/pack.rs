//! Rows interleaved: what all kernels but the scalar ones read in place of rows as they lie.
//!
//! 16 rows are a panel. Their blocks at one place of the row follow one another, cut into
//! words of four bytes: a word of all 16 rows, another, and so on, in the order in which they are
//! wanted; a lone f16 that a block has is in front in the same way. A register of words then needs
//! no shuffle to be multiplied, sums never cross lanes, and memory is read in one stream, a line
//! after the other, which is what its speed depends on. The bytes are as many as before; rows that
//! a last panel lacks are zeros.

use katari_gguf::Format;

use super::unpack::STEPS;

/// Rows that are interleaved.
pub(in crate::cpu) const ROWS: usize = 16;

/// Where a block of `format` has an f16 beside its words of four bytes.
fn lone_half(format: Format) -> Option<usize> {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => Some(0),
        Format::Q6_K => Some(format.block_bytes() - 2),
        _ => None,
    }
}

/// Where word `i` of a block of `format` goes.
#[inline(always)]
fn place(format: Format, i: usize) -> usize {
    match (format, i) {
        // Fifth bits alternate with the words of the first two groups.
        (Format::Q5_K, 4..12) => 4 + (i - 4) * 2,
        (Format::Q5_K, 12..20) => 5 + (i - 12) * 2,
        // Factors come first, where the file has them last.
        (Format::Q6_K, 48..) => i - 48,
        (Format::Q6_K, _) => i + 4,
        _ => i,
    }
}

/// Interleaves up to [`ROWS`] rows of `stride` bytes each, to `out` of `ROWS * stride` bytes.
pub(in crate::cpu) fn pack(format: Format, rows: &[u8], stride: usize, out: &mut [u8]) {
    // One loop for each, so that sizes and places are constants in them.
    match format {
        Format::Q4_0 => pack_blocks::<18>(Format::Q4_0, rows, stride, out),
        Format::Q4_1 => pack_blocks::<20>(Format::Q4_1, rows, stride, out),
        Format::Q5_0 => pack_blocks::<22>(Format::Q5_0, rows, stride, out),
        Format::Q5_1 => pack_blocks::<24>(Format::Q5_1, rows, stride, out),
        Format::Q8_0 => pack_blocks::<34>(Format::Q8_0, rows, stride, out),
        Format::Q4_K => pack_blocks::<144>(Format::Q4_K, rows, stride, out),
        Format::Q5_K => pack_blocks::<176>(Format::Q5_K, rows, stride, out),
        Format::Q6_K => pack_blocks::<210>(Format::Q6_K, rows, stride, out),
        Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats stay as they lie"),
    }
}

/// Blocks of `N` bytes.
#[inline(always)]
fn pack_blocks<const N: usize>(format: Format, rows: &[u8], stride: usize, out: &mut [u8]) {
    debug_assert_eq!(N, format.block_bytes());
    let half = lone_half(format);
    let n_words = N / 4;
    // Words begin behind an f16: there if it is in front, here wherever it is.
    let from = if half == Some(0) { 2 } else { 0 };
    let skip = if half.is_some() { 2 } else { 0 };
    let zeros = [0; N];
    for (b, out) in out.chunks_exact_mut(ROWS * N).enumerate() {
        for first in (0..ROWS).step_by(4) {
            let mut blocks: [&[u8; N]; 4] = std::array::from_fn(|r| {
                let block = rows.get((first + r) * stride + b * N..);
                block.and_then(<[u8]>::first_chunk).unwrap_or(&zeros)
            });
            let anew;
            if format == Format::Q6_K {
                anew = blocks.map(sixes);
                blocks = anew.each_ref();
            }
            if let Some(at) = half {
                let halfs = out[first * 2..].chunks_exact_mut(2);
                for (half, block) in halfs.zip(blocks) {
                    half.copy_from_slice(&block[at..at + 2]);
                }
            }
            // Four words of four rows at once, which the compiler turns in registers; then the rest.
            let to = &mut out[skip * ROWS + first * 4..];
            let whole = n_words / 4 * 4;
            for i in (0..whole).step_by(4) {
                put::<N, 4>(format, &blocks, from, i, to);
            }
            for i in whole..n_words {
                put::<N, 1>(format, &blocks, from, i, to);
            }
        }
    }
}

/// Puts `K` words of four blocks, from word `i` on, where they belong; words begin at byte `from`
/// of a block, the first row's at `to`.
#[inline(always)]
fn put<const N: usize, const K: usize>(
    format: Format,
    blocks: &[&[u8; N]; 4],
    from: usize,
    i: usize,
    to: &mut [u8],
) {
    let words = blocks.map(|block| {
        let mut words = [0; K];
        for (word, bytes) in words
            .iter_mut()
            .zip(block[from + 4 * i..][..4 * K].chunks_exact(4))
        {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        words
    });
    for k in 0..K {
        let to = &mut to[place(format, i + k) * 4 * ROWS..][..16];
        let column = [words[0][k], words[1][k], words[2][k], words[3][k]];
        for (to, word) in to.chunks_exact_mut(4).zip(column) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
    }
}

/// A Q6_K block with its values laid anew. In the file the groups of a half have 16 words of low and
/// high nibbles, and eight of the upper two bits of all four groups, so that each value is put
/// together from two. Here the words of each step are three: bytes of the values of groups 0, 1 and
/// 2, and above each two bits of the value of group 3, from the lowest on.
#[inline(always)]
fn sixes<const N: usize>(block: &[u8; N]) -> [u8; N] {
    let word = |i: usize| u32::from_ne_bytes(std::array::from_fn(|k| block[4 * i + k]));
    let every = |byte: u8| u32::from_ne_bytes([byte; 4]);
    let mut out = *block;
    for half in 0..2 {
        for t in 0..STEPS {
            let first = word(half * 16 + t);
            let second = word(half * 16 + STEPS + t);
            let upper = word(32 + half * STEPS + t);
            let words = [
                first & every(0x0f) | (upper & every(0x03)) << 4 | (second & every(0x30)) << 2,
                second & every(0xcf) | (upper & every(0x0c)) << 2,
                first >> 4 & every(0x0f) | upper & every(0xf0),
            ];
            for (i, word) in words.into_iter().enumerate() {
                out[4 * ((half * STEPS + t) * 3 + i)..][..4].copy_from_slice(&word.to_ne_bytes());
            }
        }
    }
    out
}
