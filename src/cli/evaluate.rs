//! Forward passes for measuring: one sequence, in pieces that keep the logits small.

use anyhow::Result;
use katari::engine::{Engine, Feed};

use super::failure::Failure;

/// Tokens a pass: enough to make full use of the weights once read, few enough that their
/// logits (50,400 columns at most) stay below 52 MB.
const PIECE: usize = 256;

/// Which positions' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Last,
    All,
}

/// Evaluates `ids` as a sequence of its own and calls `row` with each wanted position and its
/// logits, `[n_vocab]`, in order.
pub fn evaluate(
    engine: &mut Engine,
    ids: &[u32],
    wanted: Wanted,
    mut row: impl FnMut(usize, &[f32]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    engine.session().truncate(0, 0)?;
    let mut feeds = Vec::with_capacity(PIECE);
    for (piece, start) in ids.chunks(PIECE).zip((0..).step_by(PIECE)) {
        feeds.clear();
        feeds.extend((start..).zip(piece).map(|(position, &token)| Feed {
            sequence: 0,
            token,
            wants_logits: wanted == Wanted::All || position + 1 == ids.len(),
        }));
        let logits = engine.evaluate(&feeds)?;
        let positions = (start..).zip(&feeds).filter(|(_, feed)| feed.wants_logits);
        for ((position, _), logits) in positions.zip(logits.rows()) {
            row(position, logits)?;
        }
    }
    Ok(())
}

/// An error where a sequence of `n` tokens does not fit the context.
pub fn check_length(engine: &Engine, n: usize) -> Result<(), Failure> {
    let n_ctx = engine.n_ctx();
    if n > n_ctx {
        return Err(Failure::usage(format_args!(
            "{n} tokens do not fit the context of {n_ctx}; give fewer, or a longer --ctx"
        )));
    }
    Ok(())
}
