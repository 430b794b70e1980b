//! `katari tokenize`: text to ids and back, exactly as the reference tokenizer.

use katari::text::{SpecialTokens, Tokenizer};
use serde::Serialize;

use super::failure::Failure;
use super::ids::{self, Ids};
use super::model::{FileArg, ModelFile, tokenizer};
use super::output;

/// Turn text into token ids, or ids into text.
///
/// Exactly as the model's own tokenizer does. Nothing is added: no bos, no eos, and a line break stays one. The ids and their pieces are
/// printed, a token a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari tokenize model.gguf \"吾輩は猫である\" --json\n  \
    katari tokenize model.gguf --decode --ids 319,123,1314")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// The text
    #[arg(value_name = "TEXT", allow_hyphen_values = true, required_unless_present = "decode", conflicts_with_all = ["decode", "ids"])]
    text: Option<String>,
    /// Print the text of --ids in place of the ids of TEXT
    #[arg(long, requires = "ids")]
    decode: bool,
    /// Token ids, joined by commas
    #[arg(
        long,
        value_name = "IDS",
        requires = "decode",
        conflicts_with = "special"
    )]
    ids: Option<Ids>,
    /// The names of special tokens in TEXT: those tokens, plain text, or what the reference
    /// tokenizer takes them for; --special alone is --special=parse
    #[arg(long, value_name = "HOW", value_enum, default_value = "reference", default_missing_value = "parse", num_args = 0..=1, require_equals = true)]
    special: Special,
    /// Print JSON: {"ids": [...], "pieces": [...]}, or {"text": "..."} with --decode
    #[arg(long)]
    json: bool,
}

/// What the names of special tokens in a text are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Special {
    Reference,
    Parse,
    Text,
}

impl From<Special> for SpecialTokens {
    fn from(special: Special) -> Self {
        match special {
            Special::Reference => SpecialTokens::Reference,
            Special::Parse => SpecialTokens::Parse,
            Special::Text => SpecialTokens::AsText,
        }
    }
}

#[derive(Serialize)]
struct Tokens<'a> {
    ids: &'a [u32],
    pieces: Vec<&'a str>,
}

#[derive(Serialize)]
struct Text {
    text: String,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let model = ModelFile::open(&args.file.file)?;
    let tokenizer = tokenizer(&model)?;
    match (args.ids, args.text) {
        (Some(ids), _) => decode(&tokenizer, &ids.0, args.json),
        (None, text) => {
            let text = text.unwrap_or_default();
            encode(&tokenizer, &text, args.special.into(), args.json)
        }
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], json: bool) -> Result<(), Failure> {
    ids::check(ids, tokenizer.len()).map_err(Failure::usage)?;
    let text = tokenizer.decode(ids);
    match json {
        true => output::json(&Text { text }),
        false => output::stream(&(text + "\n")),
    }
}

fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    special: SpecialTokens,
    json: bool,
) -> Result<(), Failure> {
    let ids = tokenizer.encode(text, special);
    let pieces: Vec<&str> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
    if json {
        return output::json(&Tokens { ids: &ids, pieces });
    }
    let lines: String = (ids.iter().zip(pieces))
        .map(|(id, piece)| format!("{id:>8}  {piece}\n"))
        .collect();
    output::stream(&lines)
}
