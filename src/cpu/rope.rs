//! Rotary position embedding: the table of a pass's angles.

use crate::ops::Rope;

/// Cosines and sines of each row's angles.
#[derive(Default)]
pub(super) struct RopeTable {
    /// What the table is for; nothing yet where `None`.
    rope: Option<Rope>,
    /// `[n_tokens, dims / 2]`.
    cos: Vec<f32>,
    /// `[n_tokens, dims / 2]`.
    sin: Vec<f32>,
}

impl RopeTable {
    /// Forgets the last pass.
    pub(super) fn clear(&mut self) {
        self.rope = None;
    }

    /// Makes the table for `positions` unless it is there.
    pub(super) fn set(&mut self, rope: &Rope, positions: impl Iterator<Item = f32>) {
        if self.rope != Some(*rope) {
            self.rope = Some(*rope);
            self.cos.clear();
            self.sin.clear();
            for position in positions {
                for angle in angles(rope, position) {
                    let (sin, cos) = angle.sin_cos();
                    self.cos.push(cos as f32);
                    self.sin.push(sin as f32);
                }
            }
        }
    }

    /// Cosines and sines of row `i`.
    pub(super) fn row(&self, i: usize) -> (&[f32], &[f32]) {
        let half = self.rope.map_or(0, |rope| rope.dims / 2);
        let row = i * half..(i + 1) * half;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

/// The angles of a position, `[dims / 2]`.
///
/// Frequencies and their products with the position are rounded to f32, since the models were
/// trained, and the reference runs, with such angles.
fn angles(rope: &Rope, position: f32) -> impl Iterator<Item = f64> {
    let Rope {
        dims, base, scale, ..
    } = *rope;
    (0..dims / 2).map(move |i| {
        let exponent = -2.0 * i as f64 / dims as f64;
        let frequency = f64::from(base).powf(exponent) as f32;
        f64::from(position * scale * frequency)
    })
}
