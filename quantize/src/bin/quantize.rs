//! `quantize DIR`: the same as `katari quantize DIR`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use katari_quantize::Options;

#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(e) = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)) {
        // Not by `eprintln!`, which panics where nobody reads stderr any more.
        let _ = writeln!(
            std::io::stderr(),
            "warning: Ctrl-C will leave the unfinished file behind: {e}"
        );
    }
    ExitCode::from(katari_quantize::cli::run(&cli.options, &INTERRUPTED))
}
