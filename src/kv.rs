//! The KV cache's ledger: which cells each sequence owns. No tensors; storage is the device's.
//!
//! A cell holds the keys and values of one position. A sequence is a list of cells in order of
//! position: its `i`-th cell is position `i`. Cells may be shared by sequences that have the
//! same prefix.

/// Element type of the K or V store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each variant is the type of its name
pub enum KvType {
    F32,
    F16,
    Q8_0,
    Q4_0,
}

/// Which cells each sequence owns.
#[derive(Debug)]
pub struct Ledger {
    /// `cells[sequence]`, in order of position.
    cells: Vec<Vec<u32>>,
}

impl Ledger {
    /// The cells of `sequence`, in order of position.
    pub fn cells(&self, sequence: u32) -> &[u32] {
        &self.cells[sequence as usize]
    }
}
