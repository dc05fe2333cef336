//! A mutable slice that several threads write at once, each in its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice borrowed mutably by many threads that promise to touch different parts of it, as the tiles of a
/// matrix do.
#[derive(Debug)]
pub struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose parts are handed out under the contract of `slice`.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above; no `&T` is ever given out, so `T: Sync` is not needed.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Takes the slice for as long as the wrapper lives.
    #[must_use]
    pub fn new(data: &'a mut [T]) -> Self {
        SharedMut { start: data.as_mut_ptr(), len: data.len(), owner: PhantomData }
    }

    /// How many values there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values of `range`.
    ///
    /// # Safety
    /// No other part that overlaps `range` may be alive at the same time.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[allow(clippy::mut_from_ref)]
    #[must_use]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is outside a slice of {}", self.len);
        // SAFETY: the range was checked against the length; exclusiveness is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The values of `range`, to be read.
    ///
    /// # Safety
    /// No part that overlaps `range` may be written while the result lives.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[must_use]
    pub unsafe fn view(&self, range: Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is outside a slice of {}", self.len);
        // SAFETY: the range was checked against the length; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// The address of the first value, for kernels that write rows with a stride.
    ///
    /// Writing through it obeys the contract of [`SharedMut::slice`].
    #[must_use]
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }
}
