//! Moves the bytes: read, convert and quantize, write, all three at once.
//!
//! One thread reads slabs of rows, the thread pool converts a slab's rows in parallel, one thread
//! writes. Buffers go round between the three, so that memory is bounded by their number and not
//! by the model: `BUFFERS` slabs of `SLAB_ELEMENTS` elements on each side. Rows are quantized
//! one by one, so the bytes are the same whatever the number of threads.

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use half::slice::HalfFloatSliceExt;
use katari_gguf::{Format, Metadata, TensorSpec, Writer};
use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, Dtype, Stored};
use crate::convert::{Layout, Output, Source};
use crate::plan::Planned;
use crate::{Error, Progress};

/// Elements that are read, converted and written at a time: 16 MiB of F16, 32 MiB of F32. Large
/// enough that starting a slab's work costs nothing against it.
const SLAB_ELEMENTS: usize = 8 << 20;
/// Slabs in flight on each side: one being filled, one being worked on, one waiting.
const BUFFERS: usize = 3;
/// Elements that a worker converts at a time, so that their f32 form stays in its core's cache.
const GROUP_ELEMENTS: usize = 64 << 10;

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
        katari_gguf::file_bytes(self.metadata, &self.specs()).map_err(|e| write_error(path, 0, e))
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

/// A fault of writing `needed` bytes to `path`.
fn write_error(path: &Path, needed: u64, source: katari_gguf::Error) -> Error {
    match source {
        katari_gguf::Error::Io(e) => write_io_error(path, needed, e),
        source => Error::Gguf {
            path: path.to_path_buf(),
            source,
        },
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

/// Writes the whole file to `out`.
///
/// `path` is what errors call it.
///
/// # Errors
/// The first fault of reading, converting or writing; what was written until then is no file.
pub fn run<W: Write + Send>(
    job: &Job<'_>,
    pool: &rayon::ThreadPool,
    out: W,
    path: &Path,
    progress: &dyn Progress,
) -> Result<W, Error> {
    let needed = job.file_bytes(path)?;
    let failed = |e| write_error(path, needed, e);
    let mut writer = Writer::new(out, job.metadata, &job.specs()).map_err(failed)?;

    let (to_convert, filled) = channel();
    let (free_raw, raw_buffers) = buffers();
    let (to_write, converted) = channel::<Vec<u8>>();
    let (free_converted, converted_buffers) = buffers();
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || read_all(job, &raw_buffers, &to_convert));
        let writing = scope.spawn(move || {
            for bytes in converted {
                writer.write(&bytes).map_err(failed)?;
                // The converter may be gone already: it has nothing left to convert.
                let _ = free_converted.send(bytes);
            }
            writer.finish().map_err(failed)
        });
        let converting = (|| -> Result<bool, Error> {
            for slab in filled {
                if progress.is_cancelled() {
                    return Err(Error::Interrupted);
                }
                let Ok(mut bytes) = converted_buffers.recv() else {
                    return Ok(false); // writing failed, and knows why
                };
                pool.install(|| convert(job, &slab, &mut bytes))?;
                progress.advance(slab.raw.len() as u64);
                let _ = free_raw.send(slab.raw);
                if to_write.send(bytes).is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        })();
        // Lets the two threads end.
        drop((to_write, free_raw));
        let read = join(reading);
        let written = join(writing);
        if !matches!(converting, Ok(true)) {
            converting?;
            return written;
        }
        read?;
        written
    })
}

/// A channel that [`BUFFERS`] empty buffers wait in.
fn buffers() -> (Sender<Vec<u8>>, Receiver<Vec<u8>>) {
    let (free, waiting) = channel();
    for _ in 0..BUFFERS {
        let _ = free.send(Vec::new());
    }
    (free, waiting)
}

/// A thread's result; its panic goes on in this one.
fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Rows of one tensor, read.
struct Slab {
    /// Which tensor.
    index: usize,
    /// Its rows.
    rows: Range<usize>,
    /// The stored bytes: `[rows, cols]`, or `[cols, rows]` where the layout is transposed.
    raw: Vec<u8>,
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

/// Reads every tensor, a slab at a time, until the converter stops listening.
fn read_all(
    job: &Job<'_>,
    buffers: &Receiver<Vec<u8>>,
    to_convert: &Sender<Slab>,
) -> Result<(), Error> {
    for (index, output) in job.outputs.iter().enumerate() {
        let Some(piece) = Piece::whole(job.checkpoint, output) else {
            return Err(Error::tensor(
                job.checkpoint.dir(),
                &output.name,
                "its source is gone",
            ));
        };
        let step = (SLAB_ELEMENTS / piece.n_cols.max(1)).max(1);
        let mut start = 0;
        while start < piece.n_rows {
            let rows = start..piece.n_rows.min(start + step);
            start = rows.end;
            let Ok(mut raw) = buffers.recv() else {
                return Ok(()); // converting stopped, and knows why
            };
            fill(job.checkpoint, &piece, rows.clone(), &mut raw)?;
            if to_convert.send(Slab { index, rows, raw }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads the stored elements behind `rows` into `raw`.
fn fill(
    checkpoint: &Checkpoint,
    piece: &Piece<'_>,
    rows: Range<usize>,
    raw: &mut Vec<u8>,
) -> Result<(), Error> {
    let Some((stored, _)) = piece.stored else {
        raw.clear();
        return Ok(());
    };
    let width = stored.dtype.bytes().unwrap_or(0) as usize;
    raw.resize(rows.len() * piece.n_cols * width, 0);
    let mut rest = raw.as_mut_slice();
    for run in piece.runs(rows) {
        let (bytes, tail) = rest.split_at_mut(run.len * width);
        checkpoint.read(stored, run.first as u64, bytes)?;
        rest = tail;
    }
    Ok(())
}

/// Converts a slab to its tensor's format, groups of rows in parallel.
fn convert(job: &Job<'_>, slab: &Slab, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let (Some(output), Some(planned)) = (job.outputs.get(slab.index), job.plan.get(slab.index))
    else {
        return Ok(());
    };
    let Some(piece) = Piece::whole(job.checkpoint, output) else {
        return Ok(());
    };
    let n_cols = piece.n_cols;
    let format = planned.to;
    let row_bytes = format.bytes(n_cols as u64).unwrap_or(0) as usize;
    bytes.resize(slab.rows.len() * row_bytes, 0);
    let Some((stored, layout)) = piece.stored else {
        bytes.fill(0); // zeros, in f32
        return Ok(());
    };
    let source = Raw {
        bytes: &slab.raw,
        dtype: &stored.dtype,
        n_rows: slab.rows.len(),
        n_cols,
        is_transposed: layout == Layout::Transposed,
    };
    let group = (GROUP_ELEMENTS / n_cols.max(1)).max(1);
    let limit = largest_finite(format);
    bytes
        .par_chunks_mut(group * row_bytes.max(1))
        .enumerate()
        .try_for_each_init(Vec::new, |values: &mut Vec<f32>, (i, target)| {
            let first = i * group;
            let n = group.min(source.n_rows - first);
            values.resize(n * n_cols, 0.0);
            source.rows_to_f32(first, values);
            // NaN compares false. No early exit, so that this becomes vector code.
            let is_good = values
                .iter()
                .fold(true, |good, x| good & (x.abs() <= limit));
            if !is_good {
                return Err(bad_value(
                    job,
                    output,
                    planned,
                    slab.rows.start + first,
                    values,
                ));
            }
            format.quantize(values, target);
            Ok(())
        })
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

/// The error for a value that a format cannot hold.
fn bad_value(
    job: &Job<'_>,
    output: &Output,
    planned: &Planned,
    first_row: usize,
    values: &[f32],
) -> Error {
    let limit = largest_finite(planned.to);
    let holds = |x: &f32| x.abs() <= limit;
    let at = values.iter().position(|x| !holds(x)).unwrap_or(0);
    let value = values.get(at).copied().unwrap_or(f32::NAN);
    let row = first_row + at / output.cols().max(1);
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

/// A slab's stored elements.
struct Raw<'a> {
    bytes: &'a [u8],
    dtype: &'a Dtype,
    n_rows: usize,
    n_cols: usize,
    is_transposed: bool,
}

/// Columns that are gathered at a time when transposing: a cache line of f32.
const TILE: usize = 16;

impl Raw<'_> {
    /// Rows from `first` on as f32, as many as `out` has room for: `[n, n_cols]`.
    fn rows_to_f32(&self, first: usize, out: &mut [f32]) {
        if !self.is_transposed {
            self.elements(first * self.n_cols, out);
            return;
        }
        // bytes are [n_cols, n_rows]: convert a tile of columns' runs, then deal them out.
        let n = out.len() / self.n_cols.max(1);
        let mut tile = vec![0f32; TILE * n];
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
            Dtype::F16 => match bytemuck::try_cast_slice::<u8, half::f16>(bytes) {
                Ok(halves) if cfg!(target_endian = "little") => halves.convert_to_f32_slice(out),
                _ => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
            },
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
