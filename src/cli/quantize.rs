//! `katari quantize`: the quantize crate's verb.

use std::path::Path;

use katari_quantize::progress::Terminal;
use katari_quantize::{FileType, Options};

use super::failure::Failure;
use super::interrupt::Watch;

pub use katari_quantize::Options as Args;

pub fn run(options: Args) -> Result<(), Failure> {
    let watch = Watch::start();
    match katari_quantize::cli::run(&options, watch.flag()) {
        0 => Ok(()),
        code => Err(Failure::reported(code)),
    }
}

/// Quantizes the checkpoint in `dir` to `output`, which is replaced.
pub fn quantize(dir: &Path, file_type: FileType, output: &Path) -> Result<(), Failure> {
    let watch = Watch::start();
    let options = Options {
        dir: dir.to_path_buf(),
        output: Some(output.to_path_buf()),
        file_type,
        force: true,
        tokenizer: None,
        pure: false,
        dry_run: false,
        threads: None,
        chat_template: None,
        json: false,
    };
    let progress = Terminal::new(watch.flag());
    match katari_quantize::quantize(&options, &progress) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::with_code(error.exit_code(), error)),
    }
}
