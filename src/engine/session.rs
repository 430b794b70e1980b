//! The sequences of an engine: their tokens, their cells, and the passes that extend them.

use std::sync::Arc;

use super::options::Sizes;
use super::stage::Stage;
use crate::kv::{Ledger, LedgerError};
use crate::models::Hyper;
use crate::ops::{Batch, DeviceError, KvShape, Row, Step, Threads};

/// What a session refuses. Unless said otherwise nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The ledger refused.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A token that the model does not have.
    #[error("token {token} is beyond the vocabulary (expected 0 to {})", n_vocab.saturating_sub(1))]
    NoToken {
        /// The id.
        token: u32,
        /// Rows of the embedding.
        n_vocab: usize,
    },
    /// A sequence would grow beyond the context.
    #[error("sequence {sequence} would have {len} tokens, more than the context of {n_ctx}")]
    ContextFull {
        /// The sequence.
        sequence: u32,
        /// What its length would be.
        len: usize,
        /// The longest it may be.
        n_ctx: usize,
    },
    /// A pass without tokens.
    #[error("a forward pass needs at least one token")]
    NoTokens,
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// One token to append to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feed {
    /// The sequence, below `n_sequences`.
    pub sequence: u32,
    /// The token's id, below `n_vocab`.
    pub token: u32,
    /// Whether to compute the logits of what follows it.
    pub wants_logits: bool,
}

/// Logits `[n_outputs, n_vocab]`: a row for each [`Feed`] that wanted them, in order.
#[derive(Clone, Copy)]
pub struct Logits<'a> {
    values: &'a [f32],
    n_vocab: usize,
    threads: &'a dyn Threads,
}

impl<'a> Logits<'a> {
    /// The rows, each `[n_vocab]`.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [f32]> + use<'a> {
        self.values.chunks_exact(self.n_vocab)
    }

    /// Row `i`, if there is one.
    pub fn row(&self, i: usize) -> Option<&'a [f32]> {
        self.rows().nth(i)
    }

    /// Calls `body` with each row and its number, on all threads that computed them; returns when
    /// every call has.
    pub fn for_each(&self, body: impl Fn(usize, &[f32]) + Sync) {
        let (values, n_vocab) = (self.values, self.n_vocab);
        self.threads.for_each(self.rows().len(), &|i| {
            body(i, &values[i * n_vocab..(i + 1) * n_vocab]);
        });
    }
}

#[derive(Debug, Clone, Default)]
struct Sequence {
    tokens: Vec<u32>,
    /// Where a context shift cut: the keys and values from here on are those of a longer past,
    /// not what a fresh evaluation gives. `None` where there was no shift.
    cut: Option<usize>,
}

impl Sequence {
    fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cut = self.cut.filter(|&cut| cut < len);
    }
}

/// Sequences of tokens and their keys and values.
pub struct Session {
    stages: Vec<Box<dyn Stage>>,
    /// Those that compute, or wait while a device of its own does.
    threads: Arc<dyn Threads>,
    hyper: Arc<Hyper>,
    n_ctx: usize,
    ledger: Ledger,
    sequences: Vec<Sequence>,
    /// Rows of the pass being formed; kept to allocate nothing while decoding.
    rows: Vec<Row>,
}

impl Session {
    pub(super) fn new(
        stages: Vec<Box<dyn Stage>>,
        threads: Arc<dyn Threads>,
        hyper: Arc<Hyper>,
        sizes: &Sizes,
    ) -> Self {
        Session {
            stages,
            threads,
            hyper,
            n_ctx: sizes.n_ctx,
            ledger: Ledger::new(sizes.n_cells, sizes.n_sequences),
            sequences: vec![Sequence::default(); sizes.n_sequences as usize],
            rows: Vec::new(),
        }
    }

    /// The model's hyper-parameters.
    pub fn hyper(&self) -> &Hyper {
        &self.hyper
    }

    /// The longest a sequence may grow.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// How many sequences there are.
    pub fn n_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// How many tokens `sequence` has; none where there is no such sequence.
    pub fn len(&self, sequence: u32) -> usize {
        self.tokens(sequence).len()
    }

    /// Whether `sequence` has no tokens.
    pub fn is_empty(&self, sequence: u32) -> bool {
        self.len(sequence) == 0
    }

    /// The tokens of `sequence`.
    pub fn tokens(&self, sequence: u32) -> &[u32] {
        let sequence = self.sequences.get(sequence as usize);
        sequence.map_or(&[], |s| s.tokens.as_slice())
    }

    /// The first tokens of `sequence` whose keys and values are those of a fresh evaluation:
    /// what another sequence that begins alike may share.
    pub fn reusable(&self, sequence: u32) -> &[u32] {
        let tokens = self.tokens(sequence);
        let cut = self.sequences.get(sequence as usize).and_then(|s| s.cut);
        cut.and_then(|cut| tokens.get(..cut)).unwrap_or(tokens)
    }

    /// Appends tokens to their sequences, which may be several, and runs them in one forward
    /// pass. Tokens of one sequence are in order. One pass holds all of them: the caller splits
    /// long prompts.
    ///
    /// # Errors
    /// A token, sequence or length that does not exist, or what the device could not do; the
    /// sequences are then as before.
    pub fn evaluate(&mut self, feeds: &[Feed]) -> Result<Logits<'_>, SessionError> {
        self.append(feeds)?;
        let batch = Batch {
            rows: &self.rows,
            ledger: &self.ledger,
        };
        let n_vocab = self.hyper.n_vocab;
        let n_logits = batch.n_outputs() * n_vocab;
        match run(&mut self.stages, &batch, &[]) {
            Ok(values) if values.len() == n_logits => Ok(Logits {
                values,
                n_vocab,
                threads: &*self.threads,
            }),
            result => {
                let cause = match result {
                    Err(cause) => cause,
                    Ok(values) => DeviceError(format!(
                        "the device gave {} logits, expected {n_logits}",
                        values.len()
                    )),
                };
                take_back(&mut self.sequences, &mut self.ledger, feeds)?;
                Err(cause.into())
            }
        }
    }

    /// How many operations the devices were given for the last pass; those that do not count
    /// theirs, such as the CPU backend, add nothing.
    pub fn operations(&self) -> usize {
        self.stages.iter().filter_map(|s| s.operations()).sum()
    }

    /// Runs the pass that [`evaluate`](Session::evaluate) would, and gives what each operation of
    /// each device gave; the sequences are afterwards as before.
    ///
    /// # Errors
    /// As [`evaluate`](Session::evaluate).
    pub fn trace(&mut self, feeds: &[Feed]) -> Result<Vec<Step>, SessionError> {
        self.append(feeds)?;
        let batch = Batch {
            rows: &self.rows,
            ledger: &self.ledger,
        };
        let mut steps: Vec<Step> = Vec::new();
        let mut outcome = Ok(());
        for stage in &mut self.stages {
            let hidden = steps.last().map_or(&[][..], |step| &step.values);
            match stage.trace(&batch, hidden) {
                Ok(more) => steps.extend(more),
                Err(cause) => {
                    outcome = Err(cause);
                    break;
                }
            }
        }
        take_back(&mut self.sequences, &mut self.ledger, feeds)?;
        outcome?;
        Ok(steps)
    }

    /// Appends tokens to their sequences, and forms the rows of their pass.
    fn append(&mut self, feeds: &[Feed]) -> Result<(), SessionError> {
        self.check(feeds)?;
        self.rows.clear();
        for feed in feeds {
            let tokens = &mut self.sequences[feed.sequence as usize].tokens;
            // `check` proved that there is a free cell for each.
            for &cell in self.ledger.append(feed.sequence, 1)? {
                self.rows.push(Row {
                    token: feed.token,
                    position: tokens.len() as u32,
                    sequence: feed.sequence,
                    cell,
                    wants_logits: feed.wants_logits,
                });
            }
            tokens.push(feed.token);
        }
        Ok(())
    }

    /// Proves that `feeds` can be run: tokens and sequences exist, and there is room.
    fn check(&self, feeds: &[Feed]) -> Result<(), SessionError> {
        if feeds.is_empty() {
            return Err(SessionError::NoTokens);
        }
        for (i, feed) in feeds.iter().enumerate() {
            let sequence = feed.sequence;
            self.check_sequence(sequence)?;
            if feed.token as usize >= self.hyper.n_vocab {
                return Err(SessionError::NoToken {
                    token: feed.token,
                    n_vocab: self.hyper.n_vocab,
                });
            }
            // The sequence's length after the pass, looked at where its last token stands.
            if feeds[i + 1..].iter().all(|f| f.sequence != sequence) {
                let fed = feeds.iter().filter(|f| f.sequence == sequence).count();
                let len = self.len(sequence) + fed;
                if len > self.n_ctx {
                    return Err(SessionError::ContextFull {
                        sequence,
                        len,
                        n_ctx: self.n_ctx,
                    });
                }
            }
        }
        if feeds.len() > self.ledger.n_free() {
            return Err(SessionError::Ledger(LedgerError::Full {
                needed: feeds.len(),
                free: self.ledger.n_free(),
                total: self.ledger.n_cells(),
            }));
        }
        Ok(())
    }

    fn check_sequence(&self, sequence: u32) -> Result<(), LedgerError> {
        if (sequence as usize) < self.sequences.len() {
            return Ok(());
        }
        Err(LedgerError::NoSequence {
            sequence,
            n_sequences: self.sequences.len(),
        })
    }

    /// Keeps the first `len` tokens of `sequence`.
    pub fn truncate(&mut self, sequence: u32, len: usize) -> Result<(), SessionError> {
        self.ledger.truncate(sequence, len)?;
        self.sequences[sequence as usize].truncate(len);
        Ok(())
    }

    /// Makes `to` begin as `from` does: it holds the first `len` tokens of `from` in place of
    /// its own, without evaluating or copying anything.
    pub fn share(&mut self, from: u32, to: u32, len: usize) -> Result<(), SessionError> {
        self.ledger.share(from, to, len)?;
        let mut shared = self.sequences[from as usize].clone();
        shared.truncate(len);
        self.sequences[to as usize] = shared;
        Ok(())
    }

    /// Makes `sequence` `len` tokens long by repeating what it holds, tokens, keys and values:
    /// a long context at the price of a short one, for measuring. What follows it means nothing.
    pub fn repeat(&mut self, sequence: u32, len: usize) -> Result<(), SessionError> {
        let old = self.len(sequence);
        let more = len.saturating_sub(old);
        if old == 0 && more > 0 {
            let asked = 1;
            return Err(SessionError::Ledger(LedgerError::TooShort {
                sequence,
                len: old,
                asked,
            }));
        }
        if len > self.n_ctx {
            let n_ctx = self.n_ctx;
            return Err(SessionError::ContextFull {
                sequence,
                len,
                n_ctx,
            });
        }
        self.ledger.append(sequence, more)?;
        let (sources, fresh) = self.ledger.cells(sequence).split_at(old);
        let sources = sources.iter().cycle();
        let pairs: Vec<_> = sources.copied().zip(fresh.iter().copied()).collect();
        for stage in &mut self.stages {
            if let Err(cause) = stage.copy_cells(&pairs) {
                self.ledger.truncate(sequence, old)?;
                return Err(cause.into());
            }
        }
        let tokens = &mut self.sequences[sequence as usize].tokens;
        for i in 0..more {
            tokens.push(tokens[i]);
        }
        Ok(())
    }

    /// Makes room in a full sequence: takes tokens `keep..keep + discard` out of it and moves
    /// the later ones down.
    ///
    /// With rotary positions the cached keys are turned, and nothing is left to do: what comes
    /// back is empty. With learned positions the keys cannot be moved; the sequence is cut to
    /// its first `keep` tokens, and what comes back are the tokens to feed again. (The caller
    /// feeds them, since they may be many, and others' passes should go on.)
    ///
    /// # Errors
    /// As [`evaluate`](Session::evaluate); after a device's failure the sequence is empty.
    pub fn shift(
        &mut self,
        sequence: u32,
        keep: usize,
        discard: usize,
    ) -> Result<Vec<u32>, SessionError> {
        if self.hyper.rope.is_none() {
            let moved_from = keep.saturating_add(discard);
            let tokens = self.tokens(sequence);
            let Some(again) = tokens.get(moved_from..).map(<[u32]>::to_vec) else {
                let (len, asked) = (tokens.len(), moved_from);
                return Err(SessionError::Ledger(LedgerError::TooShort {
                    sequence,
                    len,
                    asked,
                }));
            };
            self.truncate(sequence, keep)?;
            return Ok(again);
        }
        let shift = self.ledger.shift(sequence, keep, discard)?;
        for stage in &mut self.stages {
            let moved = stage
                .copy_cells(&shift.copies)
                .and_then(|()| stage.shift_keys(&shift.cells, shift.delta));
            if let Err(cause) = moved {
                self.truncate_all(sequence)?;
                return Err(cause.into());
            }
        }
        let sequence = &mut self.sequences[sequence as usize];
        sequence.tokens.drain(keep..keep + discard);
        sequence.cut = Some(sequence.cut.map_or(keep, |cut| cut.min(keep)));
        Ok(Vec::new())
    }

    /// Empties a sequence whose ledger and tokens may differ in length.
    fn truncate_all(&mut self, sequence: u32) -> Result<(), LedgerError> {
        self.sequences[sequence as usize].truncate(0);
        self.ledger.clear(sequence)
    }

    /// What each device stores of a cell.
    pub(super) fn stores(&self) -> impl Iterator<Item = &KvShape> {
        self.stages.iter().map(|stage| stage.kv())
    }

    /// The stored keys and values of `sequence`, device by device.
    pub(super) fn export(&self, sequence: u32) -> Result<Vec<Vec<u8>>, SessionError> {
        self.check_sequence(sequence)?;
        let cells = self.ledger.cells(sequence);
        let stores = self.stages.iter().map(|stage| stage.export(cells));
        Ok(stores.collect::<Result<_, _>>()?)
    }

    /// Makes `sequence` one of `tokens` with the stored keys and values of `stores`, device by
    /// device; after an error the sequence is as it was or empty.
    pub(super) fn import(
        &mut self,
        sequence: u32,
        tokens: Vec<u32>,
        cut: Option<usize>,
        stores: &[&[u8]],
    ) -> Result<(), SessionError> {
        self.check_sequence(sequence)?;
        let n_vocab = self.hyper.n_vocab;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= n_vocab) {
            return Err(SessionError::NoToken { token, n_vocab });
        }
        if tokens.len() > self.n_ctx {
            return Err(SessionError::ContextFull {
                sequence,
                len: tokens.len(),
                n_ctx: self.n_ctx,
            });
        }
        self.truncate(sequence, 0)?;
        self.ledger.append(sequence, tokens.len())?;
        for (stage, bytes) in self.stages.iter_mut().zip(stores) {
            if let Err(cause) = stage.import(self.ledger.cells(sequence), bytes) {
                self.truncate_all(sequence)?;
                return Err(cause.into());
            }
        }
        self.sequences[sequence as usize] = Sequence { tokens, cut };
        Ok(())
    }
}

/// Takes the tokens of `feeds`, which are the last of their sequences, out again.
fn take_back(
    sequences: &mut [Sequence],
    ledger: &mut Ledger,
    feeds: &[Feed],
) -> Result<(), LedgerError> {
    for feed in feeds.iter().rev() {
        let sequence = &mut sequences[feed.sequence as usize];
        let len = sequence.tokens.len().saturating_sub(1);
        sequence.truncate(len);
        ledger.truncate(feed.sequence, len)?;
    }
    Ok(())
}

/// Runs `stages` one after another, each on the hidden states of the one before.
fn run<'a>(
    stages: &'a mut [Box<dyn Stage>],
    batch: &Batch<'_>,
    hidden: &[f32],
) -> Result<&'a [f32], DeviceError> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        return Err(DeviceError("the model has no layers".into()));
    };
    let hidden = stage.run(batch, hidden)?;
    match rest {
        [] => Ok(hidden),
        rest => run(rest, batch, hidden),
    }
}
