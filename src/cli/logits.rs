//! `katari logits`: the raw logits after a sequence of token ids.

use std::io::{self, Write};

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

/// What is printed: one row, or a row a position.
#[derive(Serialize)]
#[serde(untagged)]
enum Rows<T> {
    Last(T),
    All(Vec<T>),
}

#[derive(Serialize)]
struct Logits {
    logits: Rows<Vec<f32>>,
}

#[derive(Serialize)]
struct Top {
    top: Rows<Vec<Best>>,
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
    let mut rows = Vec::new();
    let wanted = if args.all { Wanted::All } else { Wanted::Last };
    evaluate(&mut model.engine, ids, wanted, |position, row| {
        rows.push((position, row.to_vec()));
        Ok(())
    })?;
    match args.top {
        None if args.json => output::json(&Logits {
            logits: arrange(rows.into_iter().map(|(_, row)| row), args.all),
        }),
        None => print(
            rows.iter().map(|(position, row)| {
                (
                    *position,
                    (0..)
                        .zip(row)
                        .map(|(id, logit)| format!("{id}\t{logit}"))
                        .collect(),
                )
            }),
            args.all,
        ),
        Some(k) => {
            let tokenizer = &model.tokenizer;
            let best =
                (rows.iter()).map(|(position, row)| (*position, best(row, k as usize, tokenizer)));
            if args.json {
                return output::json(&Top {
                    top: arrange(best.map(|(_, best)| best), args.all),
                });
            }
            print(
                best.map(|(position, best)| {
                    (
                        position,
                        best.iter()
                            .map(|b| format!("{}\t{}\t{}", b.id, b.logit, b.piece))
                            .collect(),
                    )
                }),
                args.all,
            )
        }
    }
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

fn arrange<T>(mut rows: impl Iterator<Item = T>, all: bool) -> Rows<T> {
    match (all, rows.next()) {
        (false, Some(row)) => Rows::Last(row),
        (_, first) => Rows::All(first.into_iter().chain(rows).collect()),
    }
}

/// Prints lines, under a heading a position where there may be several.
fn print(rows: impl Iterator<Item = (usize, Vec<String>)>, headings: bool) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for (position, lines) in rows {
        if headings {
            writeln!(out, "position {position}")?;
        }
        for line in lines {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()?;
    Ok(())
}
