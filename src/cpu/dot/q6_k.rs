//! `q6_k` weights: two 16-groups with integer scales in each group of 32.

use katari_gguf::block::{BlockQ6K, Quantized};

use super::{Groups, Integers};

impl Groups for BlockQ6K {
    fn groups(&self, out: &mut Integers) {
        let (mut scale, mut min) = ([0.0; 16], [0.0; 16]);
        self.integers(&mut out.q, &mut scale, &mut min);
        for (factor, &scale) in out.factor.iter_mut().zip(&self.scales) {
            *factor = i32::from(scale);
        }
        out.scale.fill(self.d.to_f32());
    }
}
