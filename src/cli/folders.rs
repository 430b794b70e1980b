//! Where this machine keeps a program's files.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// The folder for what can be made again: `XDG_CACHE_HOME` wherever it is set, else the
/// system's own. `variable` reads the environment.
pub fn cache(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    folder(&variable, "XDG_CACHE_HOME", ".cache", "Library/Caches")
        .context("there is no cache folder: set XDG_CACHE_HOME to one that can be written to")
}

/// The folder for what is kept between runs and may be lost, as histories are:
/// `XDG_STATE_HOME` wherever it is set, else the system's own, if there is one.
pub fn state(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let macos = "Library/Application Support";
    folder(&variable, "XDG_STATE_HOME", ".local/state", macos)
}

/// The program's folder in the one that `xdg` names, or else in `unix` or `macos` of the home
/// folder. As the XDG specification has it, a relative path is ignored.
fn folder(
    variable: impl Fn(&str) -> Option<OsString>,
    xdg: &str,
    unix: &str,
    macos: &str,
) -> Option<PathBuf> {
    let absolute = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let system = || {
        if cfg!(windows) {
            absolute("LOCALAPPDATA")
        } else {
            let inside = if cfg!(target_os = "macos") {
                macos
            } else {
                unix
            };
            absolute("HOME").map(|home| home.join(inside))
        }
    };
    let folder = absolute(xdg).or_else(system)?;
    Some(folder.join("katari"))
}
