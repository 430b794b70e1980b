//! The command line: parses, dispatches, and turns failures into exit codes.
#![deny(unsafe_code)]

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
