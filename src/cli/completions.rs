//! `katari completions`: what a shell needs to complete this program's command line.

use clap_complete::{Shell, generate};

use super::failure::Failure;
use super::{command, output};

/// Print a shell's completions of this program's command line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari completions bash > ~/.local/share/bash-completion/completions/katari\n  \
    katari completions fish > ~/.config/fish/completions/katari.fish")]
pub struct Args {
    /// The shell
    shell: Shell,
}

pub fn run(args: Args) -> Result<(), Failure> {
    // Into memory first: the generator takes a closed pipe for a bug.
    let mut script = Vec::new();
    generate(args.shell, &mut command(), "katari", &mut script);
    output::print(|out| out.write_all(&script))
}
