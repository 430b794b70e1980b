//! The seam between what is generic over devices and what is not: a part of a model on its
//! device, whichever that is.

use std::sync::Arc;

use super::options::{DeviceChoice, EngineOptions, Sizes};
use crate::cpu::Cpu;
use crate::models::{ArchitectureId, Hyper, LoadError, Loader, Model, Part, TensorFile};
use crate::ops::{Batch, Device, DeviceError, KvShape};

/// A part of a model on its device.
pub(super) trait Stage: Send {
    /// Runs the part: [`Device::run`] with its forward pass.
    fn run(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<&[f32], DeviceError>;
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

struct Placed<D: Device> {
    device: D,
    model: Model<D::Tensor>,
    hyper: Arc<Hyper>,
    kv: KvShape,
}

impl<D: Device> Stage for Placed<D> {
    fn run(&mut self, batch: &Batch<'_>, hidden: &[f32]) -> Result<&[f32], DeviceError> {
        let (model, hyper) = (&self.model, &self.hyper);
        let mut forward = |ops: &D::Ops| model.forward(ops, hyper);
        self.device.run(batch, hidden, &mut forward)
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

/// Loads `part` onto a new device of the kind that `options` choose.
pub(super) fn load(
    architecture: ArchitectureId,
    hyper: &Arc<Hyper>,
    part: Part,
    tensors: &mut TensorFile<'_>,
    options: &EngineOptions,
    sizes: &Sizes,
) -> Result<Box<dyn Stage>, LoadError> {
    match options.device {
        DeviceChoice::Auto | DeviceChoice::Cpu => {
            let device = Cpu::new(options.threads(), options.isa)?;
            load_on(device, architecture, hyper, part, tensors, options, sizes)
        }
    }
}

fn load_on<D: Device>(
    mut device: D,
    architecture: ArchitectureId,
    hyper: &Arc<Hyper>,
    part: Part,
    tensors: &mut TensorFile<'_>,
    options: &EngineOptions,
    sizes: &Sizes,
) -> Result<Box<dyn Stage>, LoadError> {
    let mut loader = Loader::new(tensors, &mut device);
    let model = Model::load(architecture, &mut loader, hyper, &part)?;
    let kv = KvShape {
        n_layer: part.layers.len(),
        n_cells: sizes.n_cells as usize,
        heads: hyper.heads,
        keys: options.kv.0,
        values: options.kv.1,
    };
    device.allocate_kv(&kv)?;
    Ok(Box::new(Placed {
        device,
        model,
        hyper: Arc::clone(hyper),
        kv,
    }))
}
