//! A slice that threads write disjoint parts of.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that can be taken apart from several threads at once.
pub(super) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts are handed out; callers of `part` promise that parts in
// use at one time do not overlap, so each element is reached from one thread at a time.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// Elements `range`.
    ///
    /// # Safety
    /// No two parts that overlap are in use at one time.
    #[allow(clippy::mut_from_ref)] // what this type is for
    pub(super) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the slice that `self` borrows mutably; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
