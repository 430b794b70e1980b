//! `katari perplexity`: how well a model predicts a text.

use std::path::PathBuf;

use serde::Serialize;

use super::evaluate::{Wanted, check_length, evaluate};
use super::failure::Failure;
use super::ids;
use super::interrupt::Watch;
use super::model::{FileArg, ModelArgs, Purpose, read_text};
use super::output;
use super::progress::Progress;

/// The window where neither --window nor a shorter context says otherwise.
const DEFAULT_WINDOW: usize = 512;

/// Measure how well a model predicts a text.
///
/// The text's tokens are cut into windows that do not overlap: each of the N predictions of a
/// window is made from the tokens of that window before it. Printed are the mean negative
/// log-likelihood of a token, its exponential (the perplexity), and how many tokens were
/// scored; tokens after the last whole window are left out.
///
/// Line breaks are read as the model reads them in a prompt. The KV cache is f32 unless --kv
/// says otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    katari perplexity model.gguf text.txt --window 256\n  \
    katari perplexity model.gguf --ids-file ids.json --json")]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    /// The text, UTF-8
    #[arg(
        value_name = "TEXTFILE",
        required_unless_present = "ids_file",
        conflicts_with = "ids_file"
    )]
    text_file: Option<PathBuf>,
    /// Read token ids, a JSON list, in place of a text
    #[arg(long, value_name = "PATH")]
    ids_file: Option<PathBuf>,
    /// Predictions a window [default: 512, or the context where that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    window: Option<u32>,
    /// Print JSON: {"nll": mean, "ppl": ..., "tokens": n}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Score {
    /// Mean negative log-likelihood of a token, in nats.
    nll: f64,
    ppl: f64,
    tokens: usize,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let given = match (&args.ids_file, &args.text_file) {
        (Some(path), _) => Ok(ids::read(path)?),
        (None, Some(path)) => Err(read_text(path)?),
        (None, None) => return Err(Failure::usage("give TEXTFILE or --ids-file")),
    };
    let mut model = args.model.open(&args.file.file, Purpose::Measure)?;
    let ids = match given {
        Ok(ids) => ids,
        Err(text) => model.tokenizer.prompt_ids(&text),
    };
    ids::check(&ids, model.engine.n_vocab())?;
    let window = match args.window {
        Some(n) => n as usize,
        None => DEFAULT_WINDOW.min(model.engine.n_ctx()),
    };
    check_length(&model.engine, window)?;
    let n_windows = ids.len().saturating_sub(1) / window;
    if n_windows == 0 {
        return Err(Failure::with_code(
            1,
            format_args!(
                "the text has {} tokens, a window of {window} predictions needs {}; \
             give a longer text or a smaller --window",
                ids.len(),
                window + 1
            ),
        ));
    }

    let watch = Watch::start();
    let mut progress = Progress::new("tokens scored", (n_windows * window) as u64);
    let (mut sum, mut tokens) = (0.0, 0);
    for start in (0..n_windows).map(|i| i * window) {
        // The last token is only predicted.
        let (inputs, targets) = (
            &ids[start..start + window],
            &ids[start + 1..=start + window],
        );
        evaluate(
            &mut model.engine,
            inputs,
            Wanted::All,
            |position, logits| {
                if watch.requested() {
                    return Err(Failure::interrupted());
                }
                sum += negative_log_likelihood(logits, targets[position]);
                tokens += 1;
                Ok(())
            },
        )?;
        progress.at(
            tokens as u64,
            &format!("perplexity {:.3}", (sum / tokens as f64).exp()),
        );
    }
    drop(progress);

    let nll = sum / tokens as f64;
    let score = Score {
        nll,
        ppl: nll.exp(),
        tokens,
    };
    if args.json {
        return output::json(&score);
    }
    output::stream(&format!(
        "perplexity {:.4} (mean negative log-likelihood {:.5}) over {} tokens in windows of {window}\n",
        score.ppl, score.nll, score.tokens
    ))
}

/// `-ln p(target)` under the softmax of `logits`, in f64.
fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |max, l| max.max(*l));
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let target = logits
        .get(target as usize)
        .map_or(f64::NEG_INFINITY, |l| f64::from(l - max));
    sum.ln() - target
}
