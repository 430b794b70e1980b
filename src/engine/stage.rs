//! The seam between what is generic over devices and what is not: a part of a model on its
//! device, whichever that is.

use std::cell::RefCell;
use std::sync::Arc;

use super::options::{EngineOptions, Sizes};
use super::place::{Placed, kv_shape};
use crate::cpu::Cpu;
#[cfg(feature = "ggml")]
use crate::ggml::Ggml;
use crate::models::{ArchitectureId, Hyper, LoadError, Loader, Model, Part, TensorFile};
use crate::ops::{Batch, Device, DeviceError, KvShape, PassShape, Step, Threads, Traced};

/// A part of a model on its device.
pub(super) trait Stage: Send {
    /// [`Device::transfer`].
    fn transfer(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), DeviceError>;
    /// Runs the part: [`Device::run`] with its forward pass.
    fn run(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<&[f32], DeviceError>;
    /// The same, and what each operation gave.
    fn trace(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<Vec<Step>, DeviceError>;
    /// [`Device::threads`].
    fn threads(&self) -> Option<Arc<dyn Threads>>;
    /// [`Device::operations`].
    fn operations(&self) -> Option<usize>;
    /// [`Device::shift_keys`] with the model's rotation; nothing where it has none.
    fn shift_keys(&mut self, cells: &[u32], delta: i32) -> Result<(), DeviceError>;
    /// [`Device::copy_cells`].
    fn copy_cells(&mut self, pairs: &[(u32, u32)]) -> Result<(), DeviceError>;
    /// [`Device::export`].
    fn export(&self, cells: &[u32]) -> Result<Vec<u8>, DeviceError>;
    /// [`Device::import`].
    fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError>;
    /// What its KV store looks like.
    fn kv(&self) -> &KvShape;
}

struct OnDevice<D: Device> {
    device: D,
    model: Model<D::Tensor>,
    hyper: Arc<Hyper>,
    /// The model's number of its first layer.
    first_layer: usize,
    kv: KvShape,
}

impl<D: Device> Stage for OnDevice<D> {
    fn transfer(&mut self, progress: &mut dyn FnMut(u64)) -> Result<(), DeviceError> {
        self.device.transfer(progress)
    }

    fn run(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<&[f32], DeviceError> {
        let (model, hyper) = (&self.model, &self.hyper);
        let mut forward = |ops: &D::Ops| model.forward(ops, hyper);
        self.device.run(batch, hidden, &mut forward)
    }

    fn trace(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<Vec<Step>, DeviceError> {
        let (model, hyper, first) = (&self.model, &self.hyper, self.first_layer);
        let names = RefCell::default();
        let mut forward = |ops: &D::Ops| model.forward(&Traced::new(ops, &names, first), hyper);
        let values = self.device.trace(batch, hidden, &mut forward)?;
        let steps = names.into_inner().into_iter().zip(values);
        Ok(steps
            .map(|(operation, values)| Step { operation, values })
            .collect())
    }

    fn threads(&self) -> Option<Arc<dyn Threads>> {
        self.device.threads()
    }

    fn operations(&self) -> Option<usize> {
        self.device.operations()
    }

    fn shift_keys(&mut self, cells: &[u32], delta: i32) -> Result<(), DeviceError> {
        match &self.hyper.rope {
            Some(rope) => self.device.shift_keys(cells, delta, rope),
            None => Ok(()),
        }
    }

    fn copy_cells(&mut self, pairs: &[(u32, u32)]) -> Result<(), DeviceError> {
        self.device.copy_cells(pairs)
    }

    fn export(&self, cells: &[u32]) -> Result<Vec<u8>, DeviceError> {
        self.device.export(cells)
    }

    fn import(&mut self, cells: &[u32], bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.import(cells, bytes)
    }

    fn kv(&self) -> &KvShape {
        &self.kv
    }
}

/// What loading a part needs beside the part.
pub(super) struct Loading<'l, 'a> {
    pub architecture: ArchitectureId,
    pub hyper: &'l Arc<Hyper>,
    pub tensors: &'l mut TensorFile<'a>,
    pub options: &'l EngineOptions,
    pub sizes: &'l Sizes,
}

impl Loading<'_, '_> {
    /// Proves a part's weights and takes the memory for it on a new device of its target;
    /// [`Stage::transfer`] brings the weights there.
    pub(super) fn load(&mut self, placed: &Placed) -> Result<Box<dyn Stage>, LoadError> {
        let threads = self.options.threads();
        match &placed.target {
            None => self.load_on(Cpu::new(threads, self.options.isa)?, &placed.part),
            #[cfg(feature = "ggml")]
            Some(target) => {
                let stage = self.load_on(Ggml::new(target, threads)?, &placed.part);
                stage.map_err(|error| match error {
                    LoadError::Device(cause) => DeviceError(format!("{target}: {cause}")).into(),
                    other => other,
                })
            }
            #[cfg(not(feature = "ggml"))]
            Some(target) => match *target {},
        }
    }

    fn load_on<D: Device>(
        &mut self,
        mut device: D,
        part: &Part,
    ) -> Result<Box<dyn Stage>, LoadError> {
        let mut loader = Loader::new(self.tensors, &mut device);
        let model = Model::load(self.architecture, &mut loader, self.hyper, part)?;
        let kv = kv_shape(self.hyper, self.options, self.sizes, part.layers.len());
        device.allocate_kv(&kv)?;
        let hyper = self.hyper;
        let shape = PassShape {
            n_tokens: self.options.n_batch.min(self.sizes.n_ctx),
            n_outputs: self.options.n_sequences,
            n_hidden: if part.first { 0 } else { hyper.n_embd },
        };
        device.reserve(shape, &mut |ops| model.forward(ops, hyper))?;
        Ok(Box::new(OnDevice {
            device,
            model,
            hyper: Arc::clone(hyper),
            first_layer: part.layers.start,
            kv,
        }))
    }
}
