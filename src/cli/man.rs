//! `katari man`: this program's manual pages, for those who package it.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use super::command;
use super::failure::Failure;

/// Write the manual pages of the program and of each verb into a folder.
#[derive(Debug, clap::Args)]
#[command(
    hide = true,
    after_help = "Example:\n  katari man /usr/local/share/man/man1"
)]
pub struct Args {
    /// The folder, which is made where it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let folder = args.folder;
    fs::create_dir_all(&folder)
        .and_then(|()| clap_mangen::generate_to(command(), &folder))
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(())
}
