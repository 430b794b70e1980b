//! A Hugging Face checkpoint folder: its configuration, and its tensors by positioned reads.
//!
//! Nothing is mapped and no weight file is read whole: opening reads headers, and
//! [`Checkpoint::read`] reads the bytes of the rows that are asked for.

mod file;
mod index;
pub mod pickle;
pub mod safetensors;
mod torch;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::Error;
use file::SourceFile;

/// The element type of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE half.
    F16,
    /// The upper half of an f32.
    BF16,
    /// IEEE single.
    F32,
    /// Anything else, as its file calls it: found in buffers, an error in a weight.
    Other(String),
}

impl Dtype {
    /// From safetensors' name of it.
    fn from_safetensors(name: &str) -> Self {
        match name {
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            "F32" => Dtype::F32,
            other => Dtype::Other(other.to_string()),
        }
    }

    /// Bytes an element takes, where that is a known whole number.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Dtype::F16 | Dtype::BF16 => Some(2),
            Dtype::F32 => Some(4),
            Dtype::Other(name) => match name.as_str() {
                "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
                "U16" | "I16" => Some(2),
                "U32" | "I32" => Some(4),
                "U64" | "I64" | "F64" | "C64" => Some(8),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F32 => "F32",
            Dtype::Other(name) => name,
        })
    }
}

/// Where a tensor lies: contiguous elements in row-major order, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first, as the framework prints them.
    pub shape: Vec<u64>,
    /// Which of [`Checkpoint`]'s files.
    file: usize,
    /// First byte, from the start of that file.
    offset: u64,
}

impl Stored {
    /// Where element `i` lies in its file, in bytes; `None` beyond 64 bits.
    pub fn position(&self, i: u64) -> Option<u64> {
        let skip = i.checked_mul(self.dtype.bytes().unwrap_or(1))?;
        skip.checked_add(self.offset)
    }
}

/// An opened checkpoint folder.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: serde_json::Value,
    files: Vec<SourceFile>,
    tensors: BTreeMap<String, Stored>,
}

/// Weight files in the order in which they are looked for, as the reference does.
const SINGLE_SAFETENSORS: &str = "model.safetensors";
const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
const SINGLE_TORCH: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// JSON files of a checkpoint are small; what is larger is none.
const MAX_JSON_BYTES: u64 = 64 << 20;

impl Checkpoint {
    /// Opens the folder: config.json, then the weights' headers.
    ///
    /// # Errors
    /// Where a file is missing, damaged or lying; the message names it.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.is_dir() {
            let found = if dir.exists() {
                "is a file"
            } else {
                "does not exist"
            };
            return Err(Error::file(
                dir,
                format!("{found}; expected a checkpoint folder with config.json and weights"),
            ));
        }
        let config_path = dir.join("config.json");
        if !config_path.exists() {
            return Err(Error::file(
                dir,
                "holds no config.json; expected a Hugging Face checkpoint folder",
            ));
        }
        let config = read_json(&config_path)?;
        if !config.is_object() {
            return Err(Error::file(&config_path, "is not a JSON object"));
        }
        let mut checkpoint = Checkpoint {
            dir: dir.to_path_buf(),
            config,
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if dir.join(SINGLE_SAFETENSORS).exists() {
            checkpoint.add_file(&dir.join(SINGLE_SAFETENSORS))?;
        } else if dir.join(SAFETENSORS_INDEX).exists() {
            checkpoint.add_shards(&dir.join(SAFETENSORS_INDEX))?;
        } else if dir.join(SINGLE_TORCH).exists() {
            checkpoint.add_file(&dir.join(SINGLE_TORCH))?;
        } else if dir.join(TORCH_INDEX).exists() {
            checkpoint.add_shards(&dir.join(TORCH_INDEX))?;
        } else {
            let foreign = ["tf_model.h5", "flax_model.msgpack", "rust_model.ot"]
                .into_iter()
                .find(|name| dir.join(name).exists())
                .map(|name| format!("; {name} is of another framework and not read"))
                .unwrap_or_default();
            return Err(Error::file(
                dir,
                format!(
                    "holds no weights; expected {SINGLE_SAFETENSORS}, {SAFETENSORS_INDEX}, \
                     {SINGLE_TORCH} or {TORCH_INDEX}{foreign}"
                ),
            ));
        }
        Ok(checkpoint)
    }

    /// A checkpoint of headers alone, which can be converted and planned but not read: `name`
    /// stands for the folder in errors.
    pub(crate) fn of_header(
        name: &str,
        config: serde_json::Value,
        tensors: impl Iterator<Item = (String, Dtype, Vec<u64>)>,
    ) -> Self {
        let tensors = tensors.map(|(name, dtype, shape)| {
            let stored = Stored {
                dtype,
                shape,
                file: 0,
                offset: 0,
            };
            (name, stored)
        });
        Checkpoint {
            dir: name.into(),
            config,
            files: Vec::new(),
            tensors: tensors.collect(),
        }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of config.json, for errors.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// config.json, an object.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file that holds a tensor, for errors.
    pub fn path_of(&self, tensor: &Stored) -> &Path {
        match self.files.get(tensor.file) {
            Some(file) => file.path(),
            None => &self.dir,
        }
    }

    /// Fills `out` with the tensor's bytes from element `first` on.
    ///
    /// # Errors
    /// Where the file ends or cannot be read; the caller stays inside the tensor, whose span was
    /// checked when opening.
    pub fn read(&self, tensor: &Stored, first: u64, out: &mut [u8]) -> Result<(), Error> {
        match (tensor.position(first), self.files.get(tensor.file)) {
            (Some(start), Some(file)) => file.read_exact_at(start, out),
            _ => Err(Error::file(&self.dir, "tensor lies outside its file")),
        }
    }

    /// Adds one weight file, safetensors or torch by its extension.
    fn add_file(&mut self, path: &Path) -> Result<Vec<String>, Error> {
        let file = SourceFile::open(path)?;
        refuse_lfs_pointer(&file)?;
        let index = self.files.len();
        let is_torch = path.extension().is_some_and(|e| e == "bin");
        let tensors = if is_torch {
            torch::tensors(&file)?
        } else {
            safetensors::tensors(&file)?
        };
        self.files.push(file);
        let mut names = Vec::with_capacity(tensors.len());
        for (name, dtype, shape, offset) in tensors {
            let stored = Stored {
                dtype,
                shape,
                file: index,
                offset,
            };
            if let Some(other) = self.tensors.insert(name.clone(), stored) {
                let first = self.path_of(&other).display().to_string();
                let message = if other.file == index {
                    "is there twice".to_string()
                } else {
                    format!("is in {first} too")
                };
                return Err(Error::tensor(path, name, message));
            }
            names.push(name);
        }
        Ok(names)
    }

    /// Adds every shard that an index names, and checks that each holds what the index says.
    fn add_shards(&mut self, index_path: &Path) -> Result<(), Error> {
        let index = index::parse(index_path, &read_json(index_path)?)?;
        for (shard, expected) in &index {
            let path = self.dir.join(shard);
            if !path.exists() {
                return Err(Error::file(
                    index_path,
                    format!(
                        "names the shard {shard} (for {} tensors), which is not in the folder; \
                         download it again",
                        expected.len()
                    ),
                ));
            }
            let found: HashSet<String> = self.add_file(&path)?.into_iter().collect();
            for name in expected {
                if !found.contains(name) {
                    return Err(Error::tensor(
                        &path,
                        name,
                        format!(
                            "is not in this shard, though {} says so",
                            index_path.display()
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// One tensor as a file's header has it: name, type, shape, first byte.
type Listed = (String, Dtype, Vec<u64>, u64);

/// Reads and parses a small JSON file.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, Error> {
    let text = read_text(path)?;
    serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("is not valid JSON: {e}; download it again")))
}

/// Reads a small text file whole.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let length = std::fs::metadata(path)
        .map_err(Error::io(path, "read"))?
        .len();
    if length > MAX_JSON_BYTES {
        return Err(Error::file(
            path,
            format!("has {length} bytes; expected at most {MAX_JSON_BYTES}"),
        ));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    String::from_utf8(bytes).map_err(|_| Error::file(path, "is not UTF-8 text"))
}

/// A clone made without Git LFS holds small text files in the weights' place.
fn refuse_lfs_pointer(file: &SourceFile) -> Result<(), Error> {
    const POINTER: &[u8] = b"version https://git-lfs";
    let mut head = [0u8; POINTER.len()];
    if file.len() >= POINTER.len() as u64 {
        file.read_exact_at(0, &mut head)?;
        if head == POINTER {
            return Err(Error::file(
                file.path(),
                "is a Git LFS pointer, not the weights themselves; run `git lfs pull` in the folder",
            ));
        }
    }
    Ok(())
}
