//! Buffers that passes hand on to each other, so that decoding allocates nothing: a value takes
//! one when it is made and gives it back when it is dropped.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::activation::Quantized;

/// One cache line, the unit and alignment of all buffers.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

/// f32s a line.
const LINE: usize = 16;

/// Memory aligned to cache lines. Its content is what the last user left.
#[derive(Default)]
pub(super) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// Grows to hold at least `n` f32s.
    pub(super) fn reserve(&mut self, n: usize) {
        let lines = n.div_ceil(LINE);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line([0.0; LINE]));
        }
    }

    /// All of it, as any plain numbers.
    pub(super) fn of<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.lines)
    }

    /// All of it, as any plain numbers.
    pub(super) fn of_mut<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}

/// The buffers nobody uses now.
#[derive(Default)]
pub(super) struct Arena {
    free: Mutex<Vec<Buffer>>,
}

impl Arena {
    /// A buffer of at least `n` f32s (4 n bytes): the smallest free one that is large enough,
    /// or else the largest, grown.
    pub(super) fn take(&self, n: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = n.div_ceil(LINE);
        let best = (0..free.len()).min_by_key(|&i| {
            let have = free[i].lines.len();
            if have >= lines {
                (0, have)
            } else {
                (1, usize::MAX - have)
            }
        });
        let mut buffer = best.map(|i| free.swap_remove(i)).unwrap_or_default();
        drop(free);
        buffer.reserve(n);
        buffer
    }

    /// Takes a buffer back.
    pub(super) fn give(&self, buffer: Buffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
    }

    /// Frees what is not in use, after a pass much larger than those to come.
    pub(super) fn clear(&self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.clear();
    }
}

/// An activation, `[rows, width]`.
pub struct Value {
    pub(super) rows: usize,
    pub(super) width: usize,
    buffer: Buffer,
    /// The same rows as integers, made when the first linear asks for them.
    pub(super) quantized: OnceLock<Quantized>,
    arena: Arc<Arena>,
}

impl Value {
    /// An activation whose content is yet to be written.
    pub(super) fn new(arena: &Arc<Arena>, rows: usize, width: usize) -> Value {
        Value {
            rows,
            width,
            buffer: arena.take(rows * width),
            quantized: OnceLock::new(),
            arena: Arc::clone(arena),
        }
    }

    /// All elements, row after row.
    pub(super) fn data(&self) -> &[f32] {
        &self.buffer.of()[..self.rows * self.width]
    }

    /// All elements, to write; forgets the integers.
    pub(super) fn data_mut(&mut self) -> &mut [f32] {
        if let Some(old) = self.quantized.take() {
            self.arena.give(old.into_buffer());
        }
        &mut self.buffer.of_mut()[..self.rows * self.width]
    }

    /// Row `i`, `[width]`.
    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.data()[i * self.width..(i + 1) * self.width]
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Some(quantized) = self.quantized.take() {
            self.arena.give(quantized.into_buffer());
        }
        self.arena.give(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back() {
        let arena = Arc::new(Arena::default());
        let a = Value::new(&arena, 3, 100);
        let b = Value::new(&arena, 1, 10);
        let (pa, pb) = (a.data().as_ptr(), b.data().as_ptr());
        assert_eq!(pa as usize % 64, 0);
        drop(a);
        drop(b);
        // The small request takes the small buffer, though the large one would do.
        assert_eq!(Value::new(&arena, 1, 16).data().as_ptr(), pb);
        assert_eq!(Value::new(&arena, 2, 100).data().as_ptr(), pa);
    }
}
