//! `katari logits`: the raw logits after a sequence of token ids.

use std::collections::BTreeMap;

use katari::text::Tokenizer;
use serde::Serialize;

use super::evaluate::{Wanted, check_length, evaluate};
use super::failure::Failure;
use super::ids::{self, Ids};
use super::model::{FileArg, ModelArgs, Purpose};
use super::output;

/// Print the raw logits after a sequence of token ids.
///
/// They are those of the last position, one for every row of the embedding, before any
/// sampling. The KV cache is f32 unless --kv says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari logits model.gguf --ids 319,123,1314 --top 5\n  \
    katari logits model.gguf --ids 319,123,1314 --json")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// Token ids, joined by commas
    #[arg(long, value_name = "IDS")]
    ids: Ids,
    /// Print a row for each of the ids: the logits after it
    #[arg(long)]
    all: bool,
    /// Print only the K greatest logits, the greatest first, with their pieces
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    /// Print JSON: {"logits": [...]}, with --all {"logits": [[...], ...]}; with --top
    /// {"top": [{"id": 1, "logit": 2.5, "piece": "..."}, ...]}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// One of the greatest logits.
#[derive(Serialize)]
struct Best {
    id: u32,
    logit: f32,
    piece: String,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut model = args.model.open(&args.file.file, Purpose::Measure)?;
    let ids = &args.ids.0;
    if ids.is_empty() {
        return Err(Failure::usage("--ids is empty: give at least one token id"));
    }
    ids::check(ids, model.engine.n_vocab()).map_err(Failure::usage)?;
    check_length(&model.engine, ids.len())?;
    let wanted = if args.all { Wanted::All } else { Wanted::Last };
    let mut rows = Vec::new();
    evaluate(&mut model.engine, ids, wanted, |_, row| {
        rows.push(row.to_vec());
        Ok(())
    })?;
    let Some(k) = args.top else {
        return show("logits", &rows, &args, |row| {
            let lines = (0..).zip(row);
            lines.map(|(id, logit)| format!("{id}\t{logit}")).collect()
        });
    };
    let best: Vec<Vec<Best>> = (rows.iter())
        .map(|row| best(row, k as usize, &model.tokenizer))
        .collect();
    show("top", &best, &args, |best| {
        let lines = best.iter();
        lines
            .map(|b| format!("{}\t{}\t{}", b.id, b.logit, b.piece))
            .collect()
    })
}

/// The `k` greatest logits of `row`, the lower id first among equals.
fn best(row: &[f32], k: usize, tokenizer: &Tokenizer) -> Vec<Best> {
    let mut all: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    (all.into_iter().take(k))
        .map(|(id, logit)| Best {
            id,
            logit,
            piece: tokenizer.piece(id).to_string(),
        })
        .collect()
}

/// Prints the last position's row, or with `--all` a row a position: as JSON under `key`, or as
/// lines.
fn show<T: Serialize>(
    key: &str,
    rows: &[T],
    args: &Args,
    lines: impl Fn(&T) -> Vec<String>,
) -> Result<(), Failure> {
    match rows {
        rows if args.json && args.all => output::json(&BTreeMap::from([(key, rows)])),
        [row] if args.json => output::json(&BTreeMap::from([(key, row)])),
        rows => output::print(|out| {
            for (position, row) in rows.iter().enumerate() {
                if args.all {
                    writeln!(out, "position {position}")?;
                }
                for line in lines(row) {
                    writeln!(out, "{line}")?;
                }
            }
            Ok(())
        }),
    }
}
