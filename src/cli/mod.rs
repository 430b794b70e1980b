//! The verbs: flags as data, one file a verb.
//!
//! Text and JSON that was asked for goes to standard output, all else to standard error. The
//! exit code is 0 for success, 1 for failure, 2 for a wrong command line and 130 after Ctrl-C;
//! a reader that closes the pipe ends the program without an error.

mod bench;
mod card;
mod chat;
mod compare;
mod completions;
mod demo;
mod devices;
mod evaluate;
mod failure;
mod folders;
mod generation;
mod ids;
mod inspect;
mod interrupt;
mod logits;
mod man;
mod model;
mod output;
mod perplexity;
mod progress;
mod quantize;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod tokenize;
mod writer;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use failure::Failure;

/// Quantizes Japanese GPT-J, GPT-NeoX and GPT-2 models and writes with them.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Example:\n  \
        katari quantize ./japanese-gpt-neox-3.6b --type q4_k_m -o model.gguf\n  \
        katari run model.gguf \"昔々、あるところに\"\n\n\
        Nothing at hand? `katari demo` brings its own small model."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// A line a verb: its name, and the module that has its `Args`, whose documentation is its help,
/// and its `run`.
macro_rules! verbs {
    ($($(#[$attribute:meta])* $name:ident($module:ident);)*) => {
        #[derive(Debug, clap::Subcommand)]
        enum Verb {
            $($(#[$attribute])* $name($module::Args),)*
        }

        impl Verb {
            fn run(self) -> Result<(), Failure> {
                match self {
                    $($(#[$attribute])* Verb::$name(args) => $module::run(args),)*
                }
            }
        }
    };
}

verbs! {
    Quantize(quantize);
    Run(run);
    #[cfg(feature = "serve")] Serve(serve);
    Demo(demo);
    Inspect(inspect);
    Tokenize(tokenize);
    Logits(logits);
    Perplexity(perplexity);
    Bench(bench);
    Devices(devices);
    Compare(compare);
    Completions(completions);
    Man(man);
}

/// The command line as data.
fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    match Cli::parse().verb.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
