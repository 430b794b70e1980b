//! Collects the tensors to be written, and proves that they are exactly the checkpoint's.

use std::collections::HashSet;

use super::{Layout, Output, Source};
use crate::Error;
use crate::checkpoint::{Checkpoint, Dtype, Stored};

/// How many names an error lists.
const NAMES_SHOWN: usize = 6;

/// Buffers that checkpoints carry and that hold no weights: the causal mask, its fill value, and
/// the table of RoPE's frequencies, all recomputed from the configuration.
const BUFFERS: [&str; 7] = [
    ".attn.bias",
    ".attn.masked_bias",
    ".attn.embed_positions",
    ".attention.bias",
    ".attention.masked_bias",
    ".attention.rotary_emb.inv_freq",
    "rotary_emb.inv_freq",
];

/// Modules beside the model, which its prefix does not cover.
const HEADS: [&str; 2] = ["lm_head.", "embed_out."];

/// Collects outputs and the names of the stored tensors behind them.
pub struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    /// The prefix of the model inside the checkpoint, which some exports leave out.
    prefix: &'static str,
    used: HashSet<String>,
    missing: Vec<String>,
    outputs: Vec<Output>,
}

impl<'a> Builder<'a> {
    /// Nothing collected yet.
    pub fn new(checkpoint: &'a Checkpoint, prefix: &'static str) -> Self {
        Builder {
            checkpoint,
            prefix,
            used: HashSet::new(),
            missing: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// The stored tensor `from`, with the prefix or without it.
    fn find(&self, from: &str) -> Option<(String, &'a Stored)> {
        let with = format!("{}{from}", self.prefix);
        if let Some(stored) = self.checkpoint.get(&with) {
            return Some((with, stored));
        }
        Some((from.to_string(), self.checkpoint.get(from)?))
    }

    /// Writes the stored tensor `from` as `to`, whose written shape is `shape`.
    pub fn add(
        &mut self,
        to: String,
        from: &str,
        shape: &[usize],
        layout: Layout,
    ) -> Result<(), Error> {
        let Some((tensor, stored)) = self.find(from) else {
            let is_head = HEADS.iter().any(|head| from.starts_with(head));
            let prefix = if is_head { "" } else { self.prefix };
            self.missing.push(format!("{prefix}{from}"));
            return Ok(());
        };
        let path = self.checkpoint.path_of(stored);
        let mut expected: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
        if layout == Layout::Transposed {
            expected.reverse();
        }
        if stored.shape != expected {
            return Err(Error::tensor(
                path,
                tensor,
                format!(
                    "has shape {:?}, expected {expected:?} from config.json",
                    stored.shape
                ),
            ));
        }
        if let Dtype::Other(other) = &stored.dtype {
            return Err(Error::tensor(
                path,
                tensor,
                format!("has elements of type {other}, expected F16, BF16 or F32"),
            ));
        }
        self.used.insert(tensor.clone());
        self.outputs.push(Output {
            name: to,
            shape: shape.to_vec(),
            source: Source::Stored { tensor, layout },
        });
        Ok(())
    }

    /// Writes `from.weight` as `to.weight`.
    pub fn weight(&mut self, to: &str, from: &str, shape: [usize; 2]) -> Result<(), Error> {
        self.add(
            katari_gguf::keys::tensor::weight(to),
            &format!("{from}.weight"),
            &shape,
            Layout::Same,
        )
    }

    /// Writes `from.bias` as `to.bias`.
    pub fn bias(&mut self, to: &str, from: &str, n: usize) -> Result<(), Error> {
        self.add(
            katari_gguf::keys::tensor::bias(to),
            &format!("{from}.bias"),
            &[n],
            Layout::Same,
        )
    }

    /// A linear `[n_out, n_in]` with its bias.
    pub fn linear(&mut self, to: &str, from: &str, shape: [usize; 2]) -> Result<(), Error> {
        self.weight(to, from, shape)?;
        self.bias(to, from, shape[0])
    }

    /// A layer norm: weight and bias of `n`.
    pub fn norm(&mut self, to: &str, from: &str, n: usize) -> Result<(), Error> {
        self.add(
            katari_gguf::keys::tensor::weight(to),
            &format!("{from}.weight"),
            &[n],
            Layout::Same,
        )?;
        self.bias(to, from, n)
    }

    /// The bias `to.bias` of `n` zeros, which the model does not have and readers demand.
    pub fn zero_bias(&mut self, to: &str, n: usize) {
        self.outputs.push(Output {
            name: katari_gguf::keys::tensor::bias(to),
            shape: vec![n],
            source: Source::Zeros,
        });
    }

    /// The first of `names` that the checkpoint has, else the first of them.
    pub fn either<'n>(&self, names: &[&'n str]) -> &'n str {
        names
            .iter()
            .find(|name| self.find(&format!("{name}.weight")).is_some())
            .or(names.first())
            .unwrap_or(&"")
    }

    /// Takes note of a stored tensor that is not written, being tied to another.
    pub fn skip(&mut self, from: &str) {
        if let Some((name, _)) = self.find(from) {
            self.used.insert(name);
        }
    }

    /// The outputs, if the checkpoint had all of their tensors and no others.
    pub fn finish(self) -> Result<Vec<Output>, Error> {
        let dir = self.checkpoint.dir();
        let surplus: Vec<String> = self
            .checkpoint
            .names()
            .filter(|name| !self.used.contains(*name))
            .filter(|name| !BUFFERS.iter().any(|buffer| name.ends_with(buffer)))
            .map(str::to_string)
            .collect();
        let mut faults = Vec::new();
        if !self.missing.is_empty() {
            faults.push(format!(
                "lacks tensors that config.json calls for: {}",
                list(&self.missing)
            ));
        }
        if !surplus.is_empty() {
            faults.push(format!(
                "has tensors that its architecture does not: {}",
                list(&surplus)
            ));
        }
        if faults.is_empty() {
            return Ok(self.outputs);
        }
        Err(Error::file(
            dir,
            format!("the checkpoint {}", faults.join("; and it ")),
        ))
    }
}

/// The first few names, and how many more there are.
fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
