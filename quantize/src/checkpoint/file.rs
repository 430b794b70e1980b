//! A file read at positions, from several threads at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// An open file and its length when opened.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl SourceFile {
    /// Opens `path` for reading.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let len = file.metadata().map_err(Error::io(path, "read"))?.len();
        Ok(SourceFile {
            path: path.to_path_buf(),
            file,
            len,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The file itself, for readers that seek.
    pub fn handle(&self) -> &File {
        &self.file
    }

    /// Fills `out` from byte `offset` on.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        read_exact_at(&self.file, offset, out).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                Error::file(
                    &self.path,
                    format!(
                        "is truncated: {} bytes at {offset} were expected, the file has {}; \
                         download it again",
                        out.len(),
                        self.len
                    ),
                )
            } else {
                Error::io(&self.path, "read")(e)
            }
        })
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                out = &mut out[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
