//! A file that is whole or not there: written under a temporary name, then renamed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::Error;

/// A file being written beside its destination; removed when dropped before it is kept.
pub struct Temporary {
    file: File,
    path: PathBuf,
    target: PathBuf,
    is_kept: bool,
}

impl Temporary {
    /// Creates the file beside `target`.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::Usage(format!("{} names no file", target.display())))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io(target, "create"))?;
        Ok(Temporary {
            file,
            path,
            target: target.to_path_buf(),
            is_kept: false,
        })
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the written file its name. Without `force`, a file of that name stays.
    pub fn keep(mut self, force: bool) -> Result<(), Error> {
        refuse_existing(&self.target, force)?;
        std::fs::rename(&self.path, &self.target).map_err(Error::io(&self.target, "create"))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// An error where `target` is there and may not be replaced.
pub fn refuse_existing(target: &Path, force: bool) -> Result<(), Error> {
    if target.is_dir() {
        return Err(Error::Usage(format!(
            "{} is a folder, expected a file to write",
            target.display()
        )));
    }
    if !force && target.exists() {
        return Err(Error::Usage(format!(
            "{} exists already; --force replaces it, -o chooses another name",
            target.display()
        )));
    }
    Ok(())
}
