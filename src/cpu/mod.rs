//! The CPU backend: [`Ops`](crate::ops::Ops) run at once, in Rust.
//!
//! - `pool` threads that wait for work; `arena` buffers that passes reuse
//! - `isa` detects once what the processor has: one table of kernels for each instruction set
//! - `dot` products with weights, one format a file; `gemm` those with
//!   many rows of activations
//! - `math` the arithmetic between them; `attend` and `kv` the attention and what it reads, written
//!   with the vectors of `lanes`
//! - `limits` what the machine can do at best, measured
//!
//! A row's result is the same to the bit whatever else is in the batch, whatever the number of
//! threads, and however a prompt is cut into passes; see `dot` and `attend` for how.
#![allow(unsafe_code)]

mod activation;
mod ahead;
mod arena;
mod attend;
mod disjoint;
mod dot;
mod gemm;
mod isa;
mod kv;
mod lanes;
mod limits;
mod linear;
mod math;
mod ops;
mod pages;
mod pool;
mod rope;
mod tensor;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use arena::Value;
pub use isa::{Isa, UnknownIsa};
pub use limits::{Ahead, Limits, Stream};
pub use ops::CpuOps;
pub use tensor::Tensor;

use crate::ops::{Batch, Device, DeviceError, KvShape, Rope, TensorView, Threads};
use kv::Kv;
use pool::Pool;
use rope::RopeTable;

/// The CPU.
pub struct Cpu {
    ops: CpuOps,
    /// What the last pass gave; its buffer is reused by the next.
    result: Option<Value>,
}

impl Cpu {
    /// A CPU backend of `threads` threads (the caller is one of them) with the kernels of `isa`,
    /// or of the best instruction set there is.
    ///
    /// # Errors
    /// Where `threads` is 0 or the system refuses them, or the processor lacks `isa`.
    pub fn new(threads: usize, isa: Option<Isa>) -> Result<Cpu, DeviceError> {
        if threads == 0 {
            return Err(DeviceError(
                "0 threads cannot compute; give 1 or more".into(),
            ));
        }
        let isa = isa.unwrap_or_else(Isa::best);
        let kernels = isa.kernels().ok_or_else(|| {
            let available: Vec<_> = Isa::ALL
                .iter()
                .filter(|isa| isa.is_available())
                .map(|isa| isa.name())
                .collect();
            DeviceError(format!(
                "this processor does not have the instruction set {isa} (it has {})",
                available.join(", ")
            ))
        })?;
        Ok(Cpu {
            ops: CpuOps::new(Arc::new(pool(threads)?), kernels),
            result: None,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.ops.kernels.isa()
    }

    /// How many threads compute.
    pub fn n_threads(&self) -> usize {
        self.ops.pool.threads()
    }

    fn kv(&mut self) -> Result<&mut Kv, DeviceError> {
        let kv = self.ops.kv.get_mut().as_mut();
        kv.ok_or_else(|| DeviceError("no KV cache was allocated".into()))
    }
}

/// `n` threads (the caller is one of them) for work beside the passes of other devices.
///
/// # Errors
/// The system refuses them.
pub fn threads(n: usize) -> Result<Arc<dyn Threads>, DeviceError> {
    Ok(Arc::new(pool(n)?))
}

fn pool(n: usize) -> Result<Pool, DeviceError> {
    Pool::new(n).map_err(|e| DeviceError(format!("cannot start {n} threads: {e}")))
}

impl Device for Cpu {
    type Tensor = Tensor;
    type Ops = CpuOps;

    fn upload(&mut self, tensor: TensorView<'_>) -> Result<Tensor, DeviceError> {
        Tensor::new(&tensor, self.isa().panel())
    }

    fn allocate_kv(&mut self, shape: &KvShape) -> Result<(), DeviceError> {
        *self.ops.kv.get_mut() = Some(Kv::new(shape)?);
        Ok(())
    }

    fn run(
        &mut self,
        batch: &Batch<'_>,
        hidden: &[f32],
        forward: &mut dyn FnMut(&CpuOps) -> Value,
    ) -> Result<&[f32], DeviceError> {
        self.result = None;
        self.ops.begin(batch, hidden)?;
        let result = self.result.insert(forward(&self.ops));
        Ok(result.data())
    }

    fn threads(&self) -> Option<Arc<dyn Threads>> {
        Some(Arc::clone(&self.ops.pool) as Arc<dyn Threads>)
    }

    fn trace(
        &mut self,
        batch: &Batch<'_>,
        hidden: &[f32],
        forward: &mut dyn FnMut(&CpuOps) -> Value,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        self.ops.observed.get_mut().clear();
        self.run(batch, hidden, forward)?;
        Ok(self.ops.observed.take())
    }

    fn shift_keys(&mut self, cells: &[u32], delta: i32, rope: &Rope) -> Result<(), DeviceError> {
        let math = self.ops.kernels.math();
        let kv = self.kv()?;
        kv.shape.check_cells(cells.iter().copied())?;
        let mut table = RopeTable::default();
        table.set(rope, std::iter::once(delta as f32));
        let (cos, sin) = table.row(0);
        kv.turn_keys(cells, rope.dims, |head| {
            math.rotate(head, cos, sin, rope.pairs)
        });
        Ok(())
    }

    fn copy_cells(&mut self, pairs: &[(u32, u32)]) -> Result<(), DeviceError> {
        let kv = self.kv()?;
        kv.shape
            .check_cells(pairs.iter().flat_map(|&(from, to)| [from, to]))?;
        kv.copy(pairs);
        Ok(())
    }

    fn export(&self, cells: &[u32]) -> Result<Vec<u8>, DeviceError> {
        let kv = self.ops.kv.borrow();
        let Some(kv) = kv.as_ref() else {
            return Err(DeviceError("no KV cache was allocated".into()));
        };
        kv.shape.check_cells(cells.iter().copied())?;
        Ok(kv.export(cells))
    }

    fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError> {
        let kv = self.kv()?;
        kv.shape.check_cells(cells.iter().copied())?;
        kv.import(cells, bytes)
    }
}
