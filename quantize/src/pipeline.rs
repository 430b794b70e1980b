//! Moves the bytes: read, convert and quantize, write.
//!
//! Each thread takes the next few rows, reads them, converts them and writes them to their place
//! in the file, all by itself: what it moves stays in its core's cache, and memory is bounded by
//! the number of threads, not by the model. Rows are handed out in order, so that both files are
//! gone through from front to back. The bytes are the same whatever the number of threads. Another
//! thread has what is written brought to the disk meanwhile, which would otherwise begin at the end.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use katari_gguf::{FileLayout, Format, Metadata, TensorSpec, block};

use crate::checkpoint::{Checkpoint, Dtype, Stored};
use crate::convert::{Layout, Output, Source};
use crate::plan::Planned;
use crate::sink::Sink;
use crate::{Error, Progress};

/// Elements that are read, converted and written at a time: 512 KiB of F16, half of a usual
/// second-level cache. Large enough that a call of the system costs nothing against it.
const ITEM_ELEMENTS: usize = 256 << 10;
/// The same where rows are to be gathered from columns, each of which is read apart.
const TRANSPOSED_ELEMENTS: usize = 4 << 20;
/// Bytes written after which the disk is to take them: a part of a second for most disks, and
/// many times what a call of the system costs.
const FLUSH_BYTES: u64 = 64 << 20;
/// Elements that are f32 at a time: 16 KiB of a first-level cache. A multiple of every block.
const CHUNK_ELEMENTS: usize = 4 << 10;
/// The same, about, where rows are gathered from columns.
const GATHERED_ELEMENTS: usize = 64 << 10;

/// What to write: the tensors, their formats and the metadata.
pub struct Job<'a> {
    /// Where the values come from.
    pub checkpoint: &'a Checkpoint,
    /// The tensors in order.
    pub outputs: &'a [Output],
    /// Their formats, in the same order.
    pub plan: &'a [Planned],
    /// The file's metadata.
    pub metadata: &'a Metadata,
}

impl Job<'_> {
    /// Bytes that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.outputs
            .iter()
            .filter_map(|output| Piece::whole(self.checkpoint, output)?.stored_bytes())
            .sum()
    }

    /// Bytes of the file to be written, `path` for errors.
    pub fn file_bytes(&self, path: &Path) -> Result<u64, Error> {
        katari_gguf::file_bytes(self.metadata, &self.specs()).map_err(|e| write_error(path, e))
    }

    fn specs(&self) -> Vec<TensorSpec> {
        self.plan
            .iter()
            .map(|planned| TensorSpec {
                name: planned.name.clone(),
                dims: planned.shape.iter().rev().map(|&d| d as u64).collect(),
                format: planned.to,
            })
            .collect()
    }
}

/// What cannot be a file.
fn write_error(path: &Path, source: katari_gguf::Error) -> Error {
    Error::Gguf {
        path: path.to_path_buf(),
        source,
    }
}

/// A fault of the system while writing `needed` bytes to `path`.
pub fn write_io_error(path: &Path, needed: u64, source: io::Error) -> Error {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    match source.kind() {
        StorageFull | QuotaExceeded => Error::DiskFull {
            path: path.to_path_buf(),
            needed,
        },
        _ => Error::io(path, "write")(source),
    }
}

/// Rows of one tensor.
struct Item {
    /// Which tensor.
    index: usize,
    rows: Range<usize>,
}

impl Job<'_> {
    /// The work in pieces, in order.
    fn items(&self) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        for (index, output) in self.outputs.iter().enumerate() {
            let piece = self.piece(output)?;
            let elements = match piece.is_transposed() {
                true => TRANSPOSED_ELEMENTS,
                false => ITEM_ELEMENTS,
            };
            let step = (elements / piece.n_cols.max(1)).max(1);
            let starts = (0..piece.n_rows).step_by(step);
            items.extend(starts.map(|start| Item {
                index,
                rows: start..piece.n_rows.min(start + step),
            }));
        }
        Ok(items)
    }

    fn piece(&self, output: &Output) -> Result<Piece<'_>, Error> {
        let gone = || Error::tensor(self.checkpoint.dir(), &output.name, "its source is gone");
        Piece::whole(self.checkpoint, output).ok_or_else(gone)
    }
}

/// Writes the whole file to `out`, down to the disk.
///
/// `path` is what errors call it.
///
/// # Errors
/// The first fault of reading, converting or writing; what was written until then is no file.
pub fn run(
    job: &Job<'_>,
    pool: &rayon::ThreadPool,
    out: &dyn Sink,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let layout = FileLayout::new(job.metadata, &job.specs());
    let layout = layout.map_err(|e| write_error(path, e))?;
    let failed = |e| write_io_error(path, layout.bytes, e);
    out.set_len(layout.bytes).map_err(failed)?;
    out.write_all_at(0, &layout.header).map_err(failed)?;

    let items = job.items()?;
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let fail = |error| {
        // Nothing is left to take for the others.
        next.store(items.len(), Ordering::Relaxed);
        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    };
    let written = AtomicU64::new(0);
    let work = |buffers: &mut Buffers, flush: &mpsc::SyncSender<()>| -> Result<(), Error> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if progress.is_cancelled() {
                return Err(Error::Interrupted);
            }
            let Some(&start) = layout.offsets.get(item.index) else {
                continue; // as many as outputs
            };
            let position = buffers.convert(job, item, start)?;
            let converted = buffers.converted.get();
            out.write_all_at(position, converted).map_err(failed)?;
            let len = converted.len() as u64;
            let before = written.fetch_add(len, Ordering::Relaxed);
            if before / FLUSH_BYTES != (before + len) / FLUSH_BYTES {
                // Where one is asked for already, that will do.
                let _ = flush.try_send(());
            }
            progress.advance(buffers.raw.get().len() as u64);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let (flush, asked) = mpsc::sync_channel(1);
        let flusher = || {
            for () in asked {
                out.flush().map_err(failed).unwrap_or_else(fail);
            }
        };
        // Where the system has no thread to give, the disk begins at the end.
        let _ = std::thread::Builder::new().spawn_scoped(scope, flusher);
        pool.broadcast(|_| work(&mut Buffers::default(), &flush).unwrap_or_else(fail));
        drop(flush);
    });
    let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), Err)?;
    out.flush().map_err(failed)
}

/// A tensor seen as rows: a vector is a column, since its elements move like a matrix's rows.
struct Piece<'a> {
    stored: Option<(&'a Stored, Layout)>,
    n_rows: usize,
    n_cols: usize,
}

impl<'a> Piece<'a> {
    /// `None` where the tensor is not in the checkpoint, which converting has proven.
    fn whole(checkpoint: &'a Checkpoint, output: &Output) -> Option<Self> {
        let (n_rows, n_cols) = match output.shape.as_slice() {
            [n] => (*n, 1),
            _ => (output.rows(), output.cols()),
        };
        let stored = match &output.source {
            Source::Zeros => None,
            Source::Stored { tensor, layout } => Some((checkpoint.get(tensor)?, *layout)),
        };
        Some(Piece {
            stored,
            n_rows,
            n_cols,
        })
    }

    fn is_transposed(&self) -> bool {
        matches!(self.stored, Some((_, Layout::Transposed)))
    }

    fn stored_bytes(&self) -> Option<u64> {
        let (stored, _) = self.stored?;
        Some(self.n_rows as u64 * self.n_cols as u64 * stored.dtype.bytes()?)
    }

    /// The stored elements behind `rows`, in the order in which a slab holds them.
    fn runs(&self, rows: Range<usize>) -> Vec<Run> {
        let layout = match self.stored {
            Some((_, layout)) => layout,
            None => return Vec::new(),
        };
        let cols = self.n_cols;
        let consecutive = |first_row: usize, n: usize| Run {
            first: first_row * cols,
            len: n * cols,
        };
        match layout {
            Layout::Same => vec![consecutive(rows.start, rows.len())],
            Layout::Transposed if rows.len() == self.n_rows => vec![consecutive(0, self.n_rows)],
            Layout::Transposed => (0..cols)
                .map(|col| Run {
                    first: col * self.n_rows + rows.start,
                    len: rows.len(),
                })
                .collect(),
            Layout::SplitQkv { n_head, head_dim } => {
                let mut runs = Vec::new();
                let mut row = rows.start;
                while row < rows.end {
                    // Written row (part * n_head + head) * head_dim + d is stored row
                    // (head * 3 + part) * head_dim + d.
                    let (unit, d) = (row / head_dim, row % head_dim);
                    let (part, head) = (unit / n_head, unit % n_head);
                    let n = (head_dim - d).min(rows.end - row);
                    runs.push(consecutive((head * 3 + part) * head_dim + d, n));
                    row += n;
                }
                runs
            }
        }
    }
}

/// Consecutive stored elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: usize,
    len: usize,
}

/// A multiple of every cache line's length and, on most systems, a page.
const PAGE: usize = 4096;

/// Bytes on their way from or to a file, at an address that differs from their position there by
/// whole pages. The system's copies are three times as slow where the two are a few bytes apart.
#[derive(Default)]
struct Staging {
    all: Vec<u8>,
    used: Range<usize>,
}

impl Staging {
    /// `len` bytes for `position` of a file, of any content.
    fn place(&mut self, position: u64, len: usize) -> &mut [u8] {
        let room = len + 2 * PAGE;
        if self.all.len() < room {
            self.all.resize(room, 0);
        }
        let first = self.all.as_ptr().align_offset(PAGE).min(PAGE);
        let start = first + (position % PAGE as u64) as usize;
        self.used = start..start + len;
        self.get_mut()
    }

    /// The bytes placed last.
    fn get(&self) -> &[u8] {
        &self.all[self.used.clone()]
    }

    /// The same, to write.
    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.all[self.used.clone()]
    }
}

/// What a thread works with, over and over.
#[derive(Default)]
struct Buffers {
    /// The stored bytes of an item: `[rows, cols]`, or `[cols, rows]` where the layout is
    /// transposed.
    raw: Staging,
    /// A part of it as f32.
    values: Vec<f32>,
    /// Columns on their way to rows.
    tile: Vec<f32>,
    /// The item in its tensor's format.
    converted: Staging,
}

impl Buffers {
    /// Reads an item and converts it. Returns where it lies in the file, its tensor beginning at
    /// byte `start`.
    fn convert(&mut self, job: &Job<'_>, item: &Item, start: u64) -> Result<u64, Error> {
        let (Some(output), Some(planned)) = (job.outputs.get(item.index), job.plan.get(item.index))
        else {
            return Ok(start); // an item is one of them
        };
        let piece = job.piece(output)?;
        let (n_rows, n_cols) = (item.rows.len(), piece.n_cols);
        let format = planned.to;
        let bytes = |elements: usize| format.bytes(elements as u64).unwrap_or(0);
        let position = start + bytes(item.rows.start * n_cols);
        let converted = (self.converted).place(position, bytes(n_rows * n_cols) as usize);
        fill(job.checkpoint, &piece, item.rows.clone(), &mut self.raw)?;
        let Some((stored, _)) = piece.stored else {
            converted.fill(0); // zeros, in f32
            return Ok(position);
        };
        let source = Raw {
            bytes: self.raw.get(),
            dtype: &stored.dtype,
            n_rows,
            n_cols,
        };
        let step = match piece.is_transposed() {
            true => (GATHERED_ELEMENTS / n_cols.max(1)).max(1) * n_cols,
            false => CHUNK_ELEMENTS,
        };
        let limit = largest_finite(format);
        let targets = converted.chunks_mut((bytes(step) as usize).max(1));
        for (start, target) in (0..n_rows * n_cols).step_by(step.max(1)).zip(targets) {
            let n = step.min(n_rows * n_cols - start);
            self.values.resize(n, 0.0);
            if piece.is_transposed() {
                source.gather_rows(start / n_cols, &mut self.values, &mut self.tile);
            } else {
                source.elements(start, &mut self.values);
            }
            if !block::all_within(&self.values, limit) {
                let first = item.rows.start * n_cols + start;
                return Err(bad_value(job, output, planned, first, &self.values));
            }
            format.quantize(&self.values, target);
        }
        Ok(position)
    }
}

/// Reads the stored elements behind `rows` into `raw`.
fn fill(
    checkpoint: &Checkpoint,
    piece: &Piece<'_>,
    rows: Range<usize>,
    raw: &mut Staging,
) -> Result<(), Error> {
    let Some((stored, _)) = piece.stored else {
        raw.place(0, 0);
        return Ok(());
    };
    let width = stored.dtype.bytes().unwrap_or(0) as usize;
    let len = rows.len() * piece.n_cols * width;
    let runs = piece.runs(rows);
    let position = runs
        .first()
        .and_then(|run| stored.position(run.first as u64));
    let mut rest = raw.place(position.unwrap_or(0), len);
    for run in runs {
        let (bytes, tail) = rest.split_at_mut(run.len * width);
        checkpoint.read(stored, run.first as u64, bytes)?;
        rest = tail;
    }
    Ok(())
}

/// The largest magnitude that a format is sure to hold: the scales of the quantized formats, as
/// f16 itself, end at 65504.
fn largest_finite(format: Format) -> f32 {
    match format {
        Format::F32 => f32::MAX,
        Format::BF16 => half::bf16::MAX.to_f32(),
        _ => half::f16::MAX.to_f32(),
    }
}

/// The error for a value that a format cannot hold; `values` begin with the tensor's element
/// `first`.
fn bad_value(
    job: &Job<'_>,
    output: &Output,
    planned: &Planned,
    first: usize,
    values: &[f32],
) -> Error {
    let limit = largest_finite(planned.to);
    let holds = |x: &f32| x.abs() <= limit;
    let at = values.iter().position(|x| !holds(x)).unwrap_or(0);
    let value = values.get(at).copied().unwrap_or(f32::NAN);
    let row = (first + at) / output.cols().max(1);
    let (tensor, path) = match &output.source {
        Source::Stored { tensor, .. } => (
            tensor.clone(),
            job.checkpoint
                .get(tensor)
                .map_or(job.checkpoint.dir(), |s| job.checkpoint.path_of(s)),
        ),
        Source::Zeros => (output.name.clone(), job.checkpoint.dir()),
    };
    let message = if value.is_finite() {
        format!(
            "row {row} holds {value}, more than {} can ({limit}); choose --type bf16 or f32",
            planned.to
        )
    } else {
        format!("row {row} holds {value}: the weights are damaged")
    };
    Error::tensor(path, tensor, message)
}

/// An item's stored elements.
struct Raw<'a> {
    bytes: &'a [u8],
    dtype: &'a Dtype,
    n_rows: usize,
    n_cols: usize,
}

/// Columns that are gathered at a time when transposing: a cache line of f32.
const TILE: usize = 16;

impl Raw<'_> {
    /// Rows from `first` on as f32, as many as `out` has room for, `[n, n_cols]`, where the stored
    /// elements are `[n_cols, n_rows]`: converts a tile of columns' runs, then deals them out.
    fn gather_rows(&self, first: usize, out: &mut [f32], tile: &mut Vec<f32>) {
        let n = out.len() / self.n_cols.max(1);
        tile.resize(TILE * n, 0.0);
        for col in (0..self.n_cols).step_by(TILE) {
            let width = TILE.min(self.n_cols - col);
            for (i, run) in tile.chunks_exact_mut(n).take(width).enumerate() {
                self.elements((col + i) * self.n_rows + first, run);
            }
            for (row, target) in out.chunks_exact_mut(self.n_cols).enumerate() {
                for (i, value) in target[col..col + width].iter_mut().enumerate() {
                    *value = tile[i * n + row];
                }
            }
        }
    }

    /// Elements from `start` on as f32.
    fn elements(&self, start: usize, out: &mut [f32]) {
        let width = self.dtype.bytes().unwrap_or(0) as usize;
        let bytes = &self.bytes[start * width..(start + out.len()) * width];
        match self.dtype {
            Dtype::F16 => block::f16_to_f32(bytes.as_chunks().0, out),
            Dtype::BF16 => each(bytes, out, |b| {
                f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
            }),
            Dtype::F32 => each(bytes, out, f32::from_le_bytes),
            // Refused when converting the header.
            Dtype::Other(_) => out.fill(f32::NAN),
        }
    }
}

/// Converts elements of `N` bytes one by one.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in out.iter_mut().zip(bytes.chunks_exact(N)) {
        let mut element = [0; N];
        element.copy_from_slice(bytes);
        *value = convert(element);
    }
}
