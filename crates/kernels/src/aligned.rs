//! Packed weights and buffers that start on a cache line, so that no packed register is split between two.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytes::Bytes;

use crate::prepacked::{self, Tag};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Numbers without gaps, of which every pattern of bits is one.
///
/// # Safety
/// As it says; and the alignment is at most that of a line.
pub(crate) unsafe trait Number: Copy + fmt::Debug + 'static {}

// SAFETY: numbers of the machine.
unsafe impl Number for i8 {}
// SAFETY: as above.
unsafe impl Number for i32 {}
// SAFETY: as above.
unsafe impl Number for f32 {}

/// Numbers on a 64-byte boundary.
pub(crate) struct Aligned<T> {
    memory: Memory,
    len: usize,
    of: PhantomData<T>,
}

enum Memory {
    /// Zeros come from the system's fresh pages: memory is touched when it is filled, not twice. `start`: words before the boundary.
    Own { words: Vec<u64>, start: usize },
    /// Numbers that lie on a boundary in a section of packed weights.
    Shared(Bytes),
}

impl<T: Number> Aligned<T> {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Aligned<T> {
        let words = vec![0u64; if len == 0 { 0 } else { (len * size_of::<T>() + LINE).div_ceil(8) }];
        // Of 64 bytes more than needed, at least one is on a boundary.
        let start = if len == 0 { 0 } else { words.as_ptr().align_offset(LINE) };
        assert!(start <= LINE / 8);
        Aligned { memory: Memory::Own { words, start }, len, of: PhantomData }
    }

    /// `len` numbers that `fill` makes of zeros; or the same, made before ([`crate::prepacked`]). `tag` says what they are.
    pub(crate) fn packed(tag: Tag, len: usize, fill: impl FnOnce(&mut [T])) -> Aligned<T> {
        let found = prepacked::next(tag, |bytes| bytes == len * size_of::<T>());
        let found = found.filter(|(shared, _)| len > 0 && shared.as_ptr().align_offset(LINE) == 0);
        let shared = match found {
            Some((shared, true)) => return Aligned { memory: Memory::Shared(shared), len, of: PhantomData },
            Some((shared, false)) => Some(shared),
            None => None,
        };
        let mut made = Aligned::zeros(len);
        fill(&mut made);
        if let Some(shared) = shared {
            prepacked::judge(tag, shared[..] == *made.bytes());
        }
        prepacked::note(tag, made.bytes());
        made
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the numbers have no gaps and are as many bytes long.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len * size_of::<T>()) }
    }
}

impl<T: Number> From<&[T]> for Aligned<T> {
    fn from(values: &[T]) -> Aligned<T> {
        let mut aligned = Aligned::zeros(values.len());
        aligned.copy_from_slice(values);
        aligned
    }
}

impl<T: Number> Clone for Aligned<T> {
    fn clone(&self) -> Aligned<T> {
        Aligned::from(&self[..])
    }
}

impl<T: Number> fmt::Debug for Aligned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

impl<T: Number> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let first: *const T = match &self.memory {
            Memory::Own { words, start } => words[*start..].as_ptr().cast(),
            Memory::Shared(shared) => shared.as_ptr().cast(),
        };
        // SAFETY: `zeros` made room for `len` numbers after `start` words, which is a boundary; shared bytes were found to be as many, on a
        // boundary, and nobody moves them; any bits are a number.
        unsafe { std::slice::from_raw_parts(first, self.len) }
    }
}

impl<T: Number> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if let Memory::Shared(_) = self.memory {
            *self = self.clone();
        }
        let Memory::Own { words, start } = &mut self.memory else { unreachable!("a copy is owned") };
        let first = words[*start..].as_mut_ptr();
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(first.cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_number_and_starts_a_line() {
        for len in [0usize, 1, 15, 16, 17, 63, 64, 65, 200] {
            let bytes: Vec<i8> = (0..len).map(|i| i as i8).collect();
            let floats: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let (a, b) = (Aligned::from(&bytes[..]), Aligned::from(&floats[..]).clone());
            assert_eq!((&a[..], &b[..]), (&bytes[..], &floats[..]));
            if len > 0 {
                assert_eq!((a.as_ptr().align_offset(LINE), b.as_ptr().align_offset(LINE)), (0, 0));
            }
            assert!(Aligned::<f32>::zeros(len).iter().all(|v| *v == 0.0));
        }
    }
}
