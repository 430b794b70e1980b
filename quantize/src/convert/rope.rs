//! Rotary positions in config.json: the old flat keys and the newer nested ones.

use katari_gguf::Metadata;
use katari_gguf::keys::arch;

use super::config::Config;
use crate::Error;

/// Rotary positions as the configuration asks for them.
pub struct Rope {
    /// How many of a head's leading dimensions turn; even.
    pub dims: usize,
    /// Frequency base.
    base: f64,
    /// Positions are divided by this (linear scaling).
    factor: Option<f64>,
}

impl Rope {
    /// GPT-NeoX's: `rotary_pct` of each head's `head_dim` dimensions turn.
    pub fn of_fraction(
        config: &Config<'_>,
        head_dim: usize,
        default_fraction: f64,
    ) -> Result<Self, Error> {
        const FRACTION: [&str; 2] = ["partial_rotary_factor", "rotary_pct"];
        const BASE: [&str; 2] = ["rope_theta", "rotary_emb_base"];
        let nested = config.opt_object("rope_parameters")?;
        let find = |keys: &[&str]| -> Result<Option<f64>, Error> {
            if let Some(nested) = &nested
                && let Some(x) = nested.opt_positive(keys)?
            {
                return Ok(Some(x));
            }
            config.opt_positive(keys)
        };
        let fraction = find(&FRACTION)?.unwrap_or(default_fraction);
        let dims = (head_dim as f64 * fraction) as usize;
        if fraction > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
            return Err(config.wrong(
                &["rotary_pct", "rope_parameters"],
                format!("{fraction}, which rotates {dims} of {head_dim} dimensions"),
                "an even number of them above 0",
            ));
        }
        Ok(Rope {
            dims,
            base: find(&BASE)?.unwrap_or(10_000.0),
            factor: scaling(config)?,
        })
    }

    /// GPT-J's: the number of dimensions is given, the base is fixed.
    pub fn of_dims(config: &Config<'_>, head_dim: usize) -> Result<Self, Error> {
        const DIMS: [&str; 1] = ["rotary_dim"];
        if config.contains("rotary_dim") && config.opt_size(&DIMS)?.is_none() {
            return Err(config.wrong(&DIMS, "null", "how many dimensions of a head turn"));
        }
        let dims = config.opt_size(&DIMS)?.unwrap_or(64);
        if dims > head_dim || !dims.is_multiple_of(2) {
            return Err(config.wrong(
                &DIMS,
                dims,
                &format!("an even number up to the head's width, {head_dim}"),
            ));
        }
        Ok(Rope {
            dims,
            base: 10_000.0,
            factor: scaling(config)?,
        })
    }

    /// Writes `{architecture}.rope.*`.
    pub fn write(&self, architecture: &str, metadata: &mut Metadata) {
        metadata.set(arch::rope_dimension_count(architecture), self.dims as u32);
        metadata.set(arch::rope_freq_base(architecture), self.base as f32);
        if let Some(factor) = self.factor {
            metadata.set(arch::rope_scaling_type(architecture), "linear");
            metadata.set(arch::rope_scaling_factor(architecture), factor as f32);
        }
    }
}

/// Linear scaling's factor; other kinds of scaling are refused by name.
fn scaling(config: &Config<'_>) -> Result<Option<f64>, Error> {
    const TYPE: [&str; 2] = ["rope_type", "type"];
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(nested) = config.opt_object(key)? else {
            continue;
        };
        match nested.opt_str(&TYPE)? {
            None | Some("default") => {}
            Some("linear") => {
                return match nested.opt_positive(&["factor"])? {
                    Some(factor) => Ok(Some(factor)),
                    None => Err(nested.wrong(&["factor"], "absent", "a positive number")),
                };
            }
            Some(other) => {
                return Err(config.wrong(
                    &[key],
                    format!("of type '{other}'"),
                    "default or linear: other scalings are not supported",
                ));
            }
        }
    }
    Ok(None)
}
