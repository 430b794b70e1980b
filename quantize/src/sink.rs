//! Where a file's bytes go: to any place, from several threads at once.

use std::fs::File;
use std::io;

/// A file to be, or what stands for one in a test.
pub trait Sink: Sync {
    /// Makes it `bytes` long, what is not written yet being zeros.
    ///
    /// # Errors
    /// Those of the system.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Writes all of `bytes` from byte `offset` on.
    ///
    /// # Errors
    /// Those of the system.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Waits until what was written before lies on the disk.
    ///
    /// # Errors
    /// Those of the system, such as a disk that is full, which some report only now.
    fn flush(&self) -> io::Result<()>;
}

impl Sink for File {
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn flush(&self) -> io::Result<()> {
        self.sync_all()
    }

    #[cfg(unix)]
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn write_all_at(&self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !bytes.is_empty() {
            match self.seek_write(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
