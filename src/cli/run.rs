//! `katari run`: writes on from a prompt.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::Context;

use super::failure::Failure;
use super::generation::GenerationArgs;
use super::model::{FileArg, Model, ModelArgs, Purpose, read_text, utf8};
use super::writer::{Report, summarize, write};
use super::{chat, output};

/// Write on from a prompt, or hold a conversation.
///
/// The prompt is PROMPT, a file, or else standard input; one line break at the end of a file or
/// of standard input does not count. The text that follows the prompt goes to standard output
/// as it is written, with a line break at its end; speed and seed go to standard error.
///
/// Settings that are not given are those that the file's model card recommends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari run model.gguf \"昔々、あるところに\" --echo\n  \
    katari run model.gguf \"登場人物: \" --json-schema person.json\n  \
    katari run model.gguf --file chapter1.txt --max-new-tokens 400 --temperature 0.8 --seed 7\n  \
    katari run instruct.gguf --chat")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// Text to write on from
    #[arg(value_name = "PROMPT", conflicts_with = "prompt_file")]
    prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    prompt_file: Option<PathBuf>,
    /// Hold a conversation in the model's own format: each line of standard input is answered;
    /// PROMPT or the file is the first thing said. Lines that begin with / are commands, as
    /// /retry, /undo and /save FILE: /help lists them
    #[arg(long)]
    chat: bool,
    /// With --chat at a terminal, neither read nor keep a history of what is typed
    #[arg(long, requires = "chat")]
    no_history: bool,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// What of a text is shown, and how.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ShowArgs {
    /// Begin the output with the prompt
    #[arg(long, conflicts_with = "json")]
    pub echo: bool,
    /// Print one JSON object at the end in place of text: text, ids, finish, seed and timings
    #[arg(long)]
    pub json: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    if args.chat {
        if args.show.echo {
            return Err(Failure::usage("--echo has no meaning with --chat"));
        }
        let first = given_prompt(&args)?;
        let mut model = args.model.open(&args.file.file, Purpose::Write)?;
        let settings = args.generation.settings(&model)?;
        return chat::converse(
            &mut model,
            first,
            &settings,
            args.show.json,
            !args.no_history,
        );
    }
    let prompt = match given_prompt(&args)? {
        Some(prompt) => prompt,
        None => read_stdin()?,
    };
    let mut model = args.model.open(&args.file.file, Purpose::Write)?;
    tell(&mut model, &prompt, &args.generation, &args.show)
}

/// Writes on from `prompt` and shows it.
pub fn tell(
    model: &mut Model,
    prompt: &str,
    generation: &GenerationArgs,
    show: &ShowArgs,
) -> Result<(), Failure> {
    let settings = generation.settings(model)?;
    let mut ids = model.tokenizer.prompt_ids(prompt);
    if ids.is_empty() {
        // A text from nothing begins with bos, where the model has one.
        ids.extend(model.tokenizer.bos());
    }
    if ids.is_empty() {
        return Err(Failure::usage(
            "the prompt is empty, and the model has no token that begins a text; give a prompt",
        ));
    }
    if show.echo {
        output::stream(prompt)?;
    }
    let written = write(model, ids, &settings, |text| match show.json {
        true => Ok(()),
        false => output::stream(text),
    })?;
    if show.json {
        output::json(&Report::new(
            prompt,
            &written,
            settings.seed,
            model.load_time,
        ))?;
    } else {
        output::stream("\n")?;
    }
    summarize(&written, settings.seed, Some(model.load_time));
    match written.interrupted() {
        true => Err(Failure::interrupted()),
        false => Ok(()),
    }
}

/// The prompt of the command line.
fn given_prompt(args: &Args) -> Result<Option<String>, Failure> {
    match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => Ok(Some(prompt.clone())),
        (None, Some(path)) => Ok(Some(without_last_line_break(read_text(path)?))),
        (None, None) => Ok(None),
    }
}

fn read_stdin() -> Result<String, Failure> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::usage(
            "no prompt: give PROMPT, --file PATH, or text on standard input (--chat converses)",
        ));
    }
    let mut bytes = Vec::new();
    (stdin.read_to_end(&mut bytes)).context("cannot read standard input")?;
    Ok(without_last_line_break(utf8(bytes, "standard input")?))
}

fn without_last_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}
