//! Opens a GGUF file, places its layers on devices and owns the session: the sequences, their
//! tokens and the KV ledger. Forward passes only; which tokens travel together is for
//! [`schedule`](crate::schedule) to say.

mod devices;
mod options;
mod place;
mod session;
mod snapshot;
mod stage;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use katari_gguf::Gguf;

pub use devices::{
    DeviceChoice, DeviceInfo, Family, GpuLayers, NoGpuLayers, UnknownDevice, devices, memory_rate,
    missing,
};
pub use options::EngineOptions;
pub use place::Placement;
pub use session::{Feed, Logits, Session, SessionError};
pub use snapshot::SnapshotError;

use crate::cpu;
pub use crate::cpu::Isa;
use crate::models::{ArchitectureId, Hyper, LoadError, TensorFile};
use crate::ops::{Bytes, DeviceError, Mapping};
pub use crate::ops::{Difference, Step, compare};

/// What could not be done with a model file.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file cannot be read.
    #[error("{}: {cause}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The file is no GGUF, or a damaged one.
    #[error("{}: {cause}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: katari_gguf::Error,
    },
    /// The file is no model of ours.
    #[error("{}: {cause}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: LoadError,
    },
    /// An option does not fit the model.
    #[error("{option} {found}: expected {expected}")]
    Option {
        /// Which one.
        option: &'static str,
        /// What was asked for.
        found: usize,
        /// What would do.
        expected: String,
    },
}

/// A GGUF file in memory, its header parsed.
pub struct ModelFile {
    path: PathBuf,
    mapping: Mapping,
    gguf: Gguf,
}

impl ModelFile {
    /// Maps the file at `path` and parses its header; no tensor is read.
    pub fn open(path: &Path) -> Result<ModelFile, EngineError> {
        let open = |cause| EngineError::Open {
            path: path.into(),
            cause,
        };
        ModelFile::parse(path, map(path).map_err(open)?)
    }

    /// A file that lies in memory alone, `bytes`; errors call it `name`.
    pub fn in_memory(
        name: &Path,
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
    ) -> Result<ModelFile, EngineError> {
        ModelFile::parse(name, Arc::new(bytes))
    }

    fn parse(path: &Path, mapping: Mapping) -> Result<ModelFile, EngineError> {
        let gguf = Gguf::parse(mapping.bytes()).map_err(|cause| EngineError::Parse {
            path: path.into(),
            cause,
        })?;
        Ok(ModelFile {
            path: path.into(),
            mapping,
            gguf,
        })
    }

    /// The header.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.mapping.bytes()
    }

    /// The architecture and its hyper-parameters.
    pub fn architecture(&self) -> Result<(ArchitectureId, Hyper), EngineError> {
        ArchitectureId::read(&self.gguf).map_err(|cause| self.load_error(cause))
    }

    /// Bytes that running it as `options` say takes.
    pub fn memory(&self, options: &EngineOptions) -> Result<Memory, EngineError> {
        let (_, hyper) = self.architecture()?;
        let sizes = options.sizes(&hyper)?;
        Ok(Memory {
            weights: self.gguf.tensors.iter().map(|t| t.bytes).sum(),
            kv: place::kv_shape(&hyper, options, &sizes, hyper.n_layer).bytes(),
            scratch: hyper.scratch_bytes(options.n_batch.min(sizes.n_ctx), options.n_sequences),
        })
    }

    fn load_error(&self, cause: LoadError) -> EngineError {
        EngineError::Load {
            path: self.path.clone(),
            cause,
        }
    }
}

/// Maps a whole file for reading.
fn map(path: &Path) -> std::io::Result<Mapping> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Err(std::io::Error::other("the file is empty (expected a GGUF)"));
    }
    // SAFETY: a map is undefined behaviour only where the file's bytes change under it. We map
    // it read-only, never write to model files, and replace them by renaming, which leaves this
    // map on the old one; that no other program truncates or rewrites a model in place while it
    // runs is the same demand as every engine makes that reads weights where they lie.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Arc::new(MappedFile(map)))
}

/// A file mapped for reading.
struct MappedFile(memmap2::Mmap);

impl Bytes for MappedFile {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn give_back(&self, span: Range<usize>) {
        #[cfg(unix)]
        {
            use memmap2::UncheckedAdvice::DontNeed;
            // Advice only: where the system declines, the pages stay in memory.
            // SAFETY: the map is of a file and nobody writes to it, so pages that are dropped
            // come back with the same bytes when they are next read.
            #[allow(unsafe_code)]
            let _ = unsafe {
                self.0
                    .unchecked_advise_range(DontNeed, span.start, span.len())
            };
        }
        #[cfg(not(unix))]
        let _ = span;
    }
}

/// Bytes that a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The tensors, as they lie in the file.
    pub weights: u64,
    /// The KV cache.
    pub kv: u64,
    /// Activations of the largest pass; an estimate.
    pub scratch: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights
            .saturating_add(self.kv)
            .saturating_add(self.scratch)
    }
}

/// A model on its devices with its session.
pub struct Engine {
    file: ModelFile,
    architecture: ArchitectureId,
    memory: Memory,
    placement: Vec<Placement>,
    session: Session,
}

impl Engine {
    /// Opens the GGUF file at `path`.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Engine, EngineError> {
        Engine::new(ModelFile::open(path)?, options)
    }

    /// Loads an open file: proves every tensor, places the layers, allocates the KV cache.
    pub fn new(file: ModelFile, options: &EngineOptions) -> Result<Engine, EngineError> {
        Engine::with_progress(file, options, &mut |_, _| ())
    }

    /// The same; `progress` hears how many bytes of weights are in the memory of devices of their
    /// own, and how many there will be. The CPU backend reads the file in place, and says nothing.
    pub fn with_progress(
        file: ModelFile,
        options: &EngineOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Engine, EngineError> {
        let (architecture, hyper) = file.architecture()?;
        let sizes = options.sizes(&hyper)?;
        let memory = file.memory(options)?;
        let hyper = Arc::new(hyper);
        let placed = place::place(&file.gguf, &hyper, options, &sizes)
            .map_err(|cause| file.load_error(cause.into()))?;
        let placement: Vec<Placement> = placed.iter().map(|p| p.placement.clone()).collect();
        let offloaded = placement.iter().filter(|p| p.offloaded);
        let (mut done, total) = (0, offloaded.map(|p| p.weights).sum());
        let mut tensors = TensorFile::new(&file.gguf, &file.mapping);
        let mut loading = stage::Loading {
            architecture,
            hyper: &hyper,
            tensors: &mut tensors,
            options,
            sizes: &sizes,
        };
        let stages = placed.iter().map(|placed| loading.load(placed));
        let mut stages = stages
            .collect::<Result<Vec<_>, _>>()
            .and_then(|stages| {
                tensors.refuse_surplus(architecture.name())?;
                Ok(stages)
            })
            .map_err(|cause| file.load_error(cause))?;
        // Last, since it takes long: every refusal comes before.
        let mut progress = |bytes| {
            done += bytes;
            progress(done, total);
        };
        for (stage, placement) in stages.iter_mut().zip(&placement) {
            stage.transfer(&mut progress).map_err(|cause| {
                let cause = DeviceError(format!("{}: {cause}", placement.device));
                file.load_error(cause.into())
            })?;
        }
        let threads = match stages.iter().rev().find_map(|stage| stage.threads()) {
            Some(threads) => threads,
            None => cpu::threads(options.threads()).map_err(|e| file.load_error(e.into()))?,
        };
        let session = Session::new(stages, threads, hyper, &sizes);
        Ok(Engine {
            file,
            architecture,
            memory,
            placement,
            session,
        })
    }

    /// The file's header.
    pub fn gguf(&self) -> &Gguf {
        &self.file.gguf
    }

    /// The file.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// The architecture.
    pub fn architecture(&self) -> ArchitectureId {
        self.architecture
    }

    /// The hyper-parameters.
    pub fn hyper(&self) -> &Hyper {
        self.session.hyper()
    }

    /// Rows of the embedding, the width of the logits.
    pub fn n_vocab(&self) -> usize {
        self.hyper().n_vocab
    }

    /// The longest a sequence may grow.
    pub fn n_ctx(&self) -> usize {
        self.session.n_ctx()
    }

    /// Positions the model was trained on.
    pub fn n_ctx_train(&self) -> usize {
        self.hyper().n_ctx
    }

    /// Bytes it takes.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// What each device runs, in order of the layers.
    pub fn placement(&self) -> &[Placement] {
        &self.placement
    }

    /// The sequences and what can be done with them.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Appends tokens to their sequences and runs them in one forward pass; see
    /// [`Session::evaluate`].
    pub fn evaluate(&mut self, feeds: &[Feed]) -> Result<Logits<'_>, SessionError> {
        self.session.evaluate(feeds)
    }

    /// Everything of `sequence` that a later session of the same file needs to go on.
    pub fn export(&self, sequence: u32) -> Result<Vec<u8>, SnapshotError> {
        snapshot::export(&self.file, &self.session, sequence)
    }

    /// Makes `sequence` what [`export`](Engine::export) gave. The bytes are not trusted: a
    /// snapshot of another file or of other KV types, or a damaged one, is refused, and the
    /// sequence is then as it was or empty.
    pub fn import(&mut self, sequence: u32, bytes: &[u8]) -> Result<(), SnapshotError> {
        snapshot::import(&self.file, &mut self.session, sequence, bytes)
    }
}
