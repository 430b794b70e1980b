//! Loading weights: every tensor is found by name, its shape and format are proven, and it is
//! handed to the device. Afterwards the forward pass can go wrong no more.

use std::collections::HashSet;
use std::ops::Range;

use katari_gguf::keys::tensor;
use katari_gguf::{Format, Gguf};

use crate::ops::{Device, DeviceError, Linear, Mapping, Norm, TensorView};

/// Why a file's header does not make a model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A metadata key is absent or of another type.
    #[error(transparent)]
    Metadata(#[from] katari_gguf::Error),
    /// A metadata key's value makes no sense.
    #[error("metadata key '{key}' is {found}, expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A tensor is absent.
    #[error("the file has no tensor '{name}' (expected {expected})")]
    MissingTensor {
        /// Its name.
        name: String,
        /// Its shape.
        expected: String,
    },
    /// A tensor has another shape or format than the hyper-parameters say.
    #[error("tensor '{name}' is {found}, expected {expected}")]
    Tensor {
        /// Its name.
        name: String,
        /// Its shape or format.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The file has tensors that the architecture does not: running without them would give
    /// another model's text.
    #[error("the file has tensors that {architecture} does not: {names}")]
    Surplus {
        /// The architecture.
        architecture: &'static str,
        /// The first few names.
        names: String,
    },
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A consecutive piece of a model that one device runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its layers.
    pub layers: Range<usize>,
    /// Whether it begins with the embedding.
    pub first: bool,
    /// Whether it ends with the head.
    pub last: bool,
}

/// A parsed file, and which of its tensors were asked for.
pub struct TensorFile<'a> {
    gguf: &'a Gguf,
    mapping: &'a Mapping,
    used: HashSet<String>,
}

impl<'a> TensorFile<'a> {
    /// None asked for yet. `gguf` was parsed from `mapping`.
    pub fn new(gguf: &'a Gguf, mapping: &'a Mapping) -> Self {
        TensorFile {
            gguf,
            mapping,
            used: HashSet::new(),
        }
    }

    /// An error naming the tensors that nobody asked for, if there are any.
    pub fn refuse_surplus(&self, architecture: &'static str) -> Result<(), LoadError> {
        /// How many names an error lists.
        const SHOWN: usize = 5;
        let surplus: Vec<&str> = self
            .gguf
            .tensors
            .iter()
            .map(|t| t.name.as_str())
            .filter(|name| !self.used.contains(*name))
            .collect();
        if surplus.is_empty() {
            return Ok(());
        }
        let mut names = surplus[..surplus.len().min(SHOWN)].join(", ");
        if surplus.len() > SHOWN {
            names += &format!(" and {} more", surplus.len() - SHOWN);
        }
        Err(LoadError::Surplus {
            architecture,
            names,
        })
    }

    /// The tensor `name` if the file has it, in the shape `dims` (GGUF's order, the contiguous
    /// dimension first; absent ones are 1).
    fn find(&mut self, name: &str, dims: &[usize]) -> Result<Option<TensorView<'a>>, LoadError> {
        let Some(tensor) = self.gguf.tensor(name) else {
            return Ok(None);
        };
        let wrong = |found, expected| LoadError::Tensor {
            name: name.into(),
            found,
            expected,
        };
        let n_dims = tensor.dims.len().max(dims.len());
        let same = (0..n_dims).all(|i| {
            let found = tensor.dims.get(i).copied().unwrap_or(1);
            found == dims.get(i).copied().unwrap_or(1) as u64
        });
        if !same {
            let dims: Vec<u64> = dims.iter().map(|&n| n as u64).collect();
            return Err(wrong(shape(&tensor.dims), shape(&dims)));
        }
        let cols = dims.first().copied().unwrap_or(1);
        let block = tensor.format.block_len();
        if cols % block != 0 {
            return Err(wrong(
                format!("{} with rows of {cols} elements", tensor.format),
                format!("whole blocks of {block} elements a row"),
            ));
        }
        // Parsing proved that the span lies in the file, so both fit.
        let span =
            |n: u64| usize::try_from(n).map_err(|_| wrong(format!("at byte {n}"), "less".into()));
        let start = span(self.gguf.data_start() + tensor.offset)?;
        let len = span(tensor.bytes)?;
        self.used.insert(name.to_string());
        Ok(Some(TensorView {
            name: &tensor.name,
            cols,
            rows: dims.get(1).copied().unwrap_or(1),
            format: tensor.format,
            file: self.mapping,
            start,
            len,
        }))
    }
}

/// `[rows, cols]` as the documentation writes shapes, from GGUF's order.
fn shape(dims: &[u64]) -> String {
    let dims: Vec<u64> = dims.iter().rev().copied().collect();
    format!("{dims:?}")
}

/// Uploads a file's tensors to one device.
pub struct Loader<'l, 'a, D> {
    file: &'l mut TensorFile<'a>,
    device: &'l mut D,
}

impl<'l, 'a, D: Device> Loader<'l, 'a, D> {
    /// Uploads tensors of `file` to `device`.
    pub fn new(file: &'l mut TensorFile<'a>, device: &'l mut D) -> Self {
        Loader { file, device }
    }

    /// The matrix `name`, `[rows, cols]` of any format.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<D::Tensor, LoadError> {
        self.opt_matrix(name, rows, cols)?
            .ok_or_else(|| missing(name, &[cols as u64, rows as u64]))
    }

    /// The matrix `name`, `[rows, cols]` of any format, if the file has it.
    pub fn opt_matrix(
        &mut self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Option<D::Tensor>, LoadError> {
        match self.file.find(name, &[cols, rows])? {
            Some(view) => Ok(Some(self.device.upload(view)?)),
            None => Ok(None),
        }
    }

    /// The table `name`, `[rows, cols]` of any format, of which passes read single rows.
    pub fn table(&mut self, name: &str, rows: usize, cols: usize) -> Result<D::Tensor, LoadError> {
        let view = self.file.find(name, &[cols, rows])?;
        let view = view.ok_or_else(|| missing(name, &[cols as u64, rows as u64]))?;
        Ok(self.device.upload_table(view)?)
    }

    /// The vector `name`, `[n]` in f32.
    pub fn vector(&mut self, name: &str, n: usize) -> Result<D::Tensor, LoadError> {
        let view = self
            .file
            .find(name, &[n])?
            .ok_or_else(|| missing(name, &[n as u64]))?;
        if view.format != Format::F32 {
            return Err(LoadError::Tensor {
                name: name.into(),
                found: view.format.to_string(),
                expected: format!("{}, as all vectors", Format::F32),
            });
        }
        Ok(self.device.upload(view)?)
    }

    /// The linear `name.weight`, `[n_out, n_in]`, with its `name.bias` where `bias` says so.
    pub fn linear(
        &mut self,
        name: &str,
        n_out: usize,
        n_in: usize,
        bias: bool,
    ) -> Result<Linear<D::Tensor>, LoadError> {
        let weight = self.matrix(&tensor::weight(name), n_out, n_in)?;
        let bias = match bias {
            true => Some(self.vector(&tensor::bias(name), n_out)?),
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    /// The layer norm `name.weight` and `name.bias`, `[n]` each.
    pub fn norm(&mut self, name: &str, n: usize, eps: f32) -> Result<Norm<D::Tensor>, LoadError> {
        Ok(Norm {
            weight: self.vector(&tensor::weight(name), n)?,
            bias: Some(self.vector(&tensor::bias(name), n)?),
            eps,
        })
    }
}

fn missing(name: &str, dims: &[u64]) -> LoadError {
    LoadError::MissingTensor {
        name: name.into(),
        expected: shape(dims),
    }
}
