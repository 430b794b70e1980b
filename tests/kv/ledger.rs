//! The ledger against a naive model: each sequence's contents, position by position.

use std::collections::HashSet;

use katari::kv::{EXTENT, KvType, Ledger, LedgerError};
use proptest::prelude::*;

const N_SEQUENCES: u32 = 4;

/// What can be done to a ledger. Sequences may be one too many, lengths too long.
#[derive(Debug, Clone)]
enum Step {
    Append(u32, usize),
    Share(u32, u32, usize),
    Copy(u32, u32, usize),
    Truncate(u32, usize),
    Shift(u32, usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let sequence = || 0..N_SEQUENCES + 1;
    let n = || 0..10usize;
    prop_oneof![
        4 => (sequence(), n()).prop_map(|(s, n)| Step::Append(s, n)),
        2 => (sequence(), sequence(), n()).prop_map(|(a, b, n)| Step::Share(a, b, n)),
        1 => (sequence(), sequence(), n()).prop_map(|(a, b, n)| Step::Copy(a, b, n)),
        2 => (sequence(), n()).prop_map(|(s, n)| Step::Truncate(s, n)),
        2 => (sequence(), n(), n()).prop_map(|(s, k, d)| Step::Shift(s, k, d)),
    ]
}

/// What was written at a position, and how far it was moved since.
type Content = (u64, i32);

/// The ledger, storage as a device would keep it, and the model.
struct Pair {
    ledger: Ledger,
    storage: Vec<Content>,
    model: Vec<Vec<Content>>,
    written: u64,
}

impl Pair {
    fn new(n_cells: u32) -> Self {
        Pair {
            ledger: Ledger::new(n_cells, N_SEQUENCES),
            storage: vec![(0, 0); n_cells as usize],
            model: vec![Vec::new(); N_SEQUENCES as usize],
            written: 0,
        }
    }

    /// Applies `step` to both.
    fn apply(&mut self, step: &Step) -> Result<(), LedgerError> {
        match *step {
            Step::Append(s, n) => {
                for &cell in self.ledger.append(s, n)? {
                    self.written += 1;
                    self.storage[cell as usize] = (self.written, 0);
                    self.model[s as usize].push((self.written, 0));
                }
            }
            Step::Share(from, to, n) => {
                self.ledger.share(from, to, n)?;
                self.model[to as usize] = self.model[from as usize][..n].to_vec();
            }
            Step::Copy(from, to, n) => {
                for (source, target) in self.ledger.copy(from, to, n)? {
                    self.storage[target as usize] = self.storage[source as usize];
                }
                self.model[to as usize] = self.model[from as usize][..n].to_vec();
            }
            Step::Truncate(s, n) => {
                self.ledger.truncate(s, n)?;
                self.model[s as usize].truncate(n);
            }
            Step::Shift(s, keep, discard) => {
                let shift = self.ledger.shift(s, keep, discard)?;
                assert_eq!(shift.delta, -(discard as i32));
                for (source, target) in shift.copies {
                    self.storage[target as usize] = self.storage[source as usize];
                }
                for &cell in &shift.cells {
                    self.storage[cell as usize].1 += shift.delta;
                    assert_eq!(self.ledger.references(cell), 1, "a shared key was turned");
                }
                assert_eq!(shift.cells, self.ledger.cells(s)[keep..]);
                let model = &mut self.model[s as usize];
                model.drain(keep..keep + discard);
                for content in &mut model[keep..] {
                    content.1 += shift.delta;
                }
            }
        }
        Ok(())
    }

    /// Every sequence reads what the model has, every cell counts its holders, none is lost.
    fn check(&self) {
        let mut held: HashSet<u32> = HashSet::new();
        for s in 0..N_SEQUENCES {
            let cells = self.ledger.cells(s);
            let found: Vec<Content> = cells.iter().map(|&c| self.storage[c as usize]).collect();
            assert_eq!(found, self.model[s as usize], "sequence {s}");
            held.extend(cells);
        }
        for cell in 0..self.storage.len() as u32 {
            let holders = (0..N_SEQUENCES).filter(|&s| self.ledger.cells(s).contains(&cell));
            assert_eq!(
                self.ledger.references(cell),
                holders.count() as u32,
                "cell {cell}"
            );
        }
        assert_eq!(self.ledger.n_free(), self.storage.len() - held.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn ledger_does_what_the_naive_model_does(
        n_cells in 20..2 * EXTENT + 10,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut pair = Pair::new(n_cells);
        for step in &steps {
            let before = pair.ledger.clone();
            if pair.apply(step).is_err() {
                // Refused: as it was.
                for s in 0..N_SEQUENCES {
                    prop_assert_eq!(pair.ledger.cells(s), before.cells(s));
                }
                prop_assert_eq!(pair.ledger.n_free(), before.n_free());
            }
            pair.check();
        }
    }
}

#[test]
fn ledger_refuses_only_what_has_no_place() {
    let mut ledger = Ledger::new(4, 2);
    assert_eq!(ledger.append(0, 3).unwrap().len(), 3);
    let full = ledger.append(1, 2).unwrap_err();
    assert_eq!(
        full.to_string(),
        "the KV cache is full: 2 cells needed, 1 of 4 free"
    );
    // Sharing takes no cells; shifting shared ones does, but for those it lets go.
    ledger.share(0, 1, 3).unwrap();
    ledger.shift(1, 1, 1).unwrap();
    assert_eq!(ledger.n_free(), 0);
    assert!(matches!(
        ledger.shift(1, 0, 4),
        Err(LedgerError::TooShort { .. })
    ));
    assert!(matches!(
        ledger.shift(0, usize::MAX, 2),
        Err(LedgerError::TooShort { .. })
    ));
    assert!(matches!(
        ledger.clear(2),
        Err(LedgerError::NoSequence { .. })
    ));
}

#[test]
fn sequences_that_grow_together_have_their_cells_in_runs() {
    let (n, len) = (5, 4 * EXTENT);
    let mut ledger = Ledger::new(n * len + EXTENT / 2, n);
    for _ in 0..len {
        for sequence in 0..n {
            ledger.append(sequence, 1).unwrap();
        }
    }
    for sequence in 0..n {
        let cells = ledger.cells(sequence);
        let gaps = cells.windows(2).filter(|pair| pair[1] != pair[0] + 1);
        assert!(gaps.count() <= 3, "{cells:?}");
    }
    // What is left is given out to the last cell, whether it lies together or not.
    ledger.truncate(2, EXTENT as usize + 5).unwrap();
    ledger.truncate(4, 7).unwrap();
    let free = ledger.n_free();
    assert_eq!(ledger.append(0, free).unwrap().len(), free);
    assert_eq!(ledger.n_free(), 0);
    assert!(ledger.append(1, 1).is_err());
}

#[test]
fn kv_types_are_found_by_name() {
    for &kv in KvType::ALL {
        assert_eq!(kv.name().parse(), Ok(kv));
    }
    let error = "q3_0".parse::<KvType>().unwrap_err().to_string();
    assert_eq!(
        error,
        "'q3_0' is no type of the KV cache (expected f32, f16, q8_0, q4_0)"
    );
    // Heads of 80 are padded to three blocks.
    assert_eq!(KvType::Q8_0.head_bytes(80), 3 * 34);
    assert_eq!(KvType::F16.head_bytes(80), 160);
}
