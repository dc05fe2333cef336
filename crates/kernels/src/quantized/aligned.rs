//! Owned weights that start on a cache line, so that no packed register is split between two.

use std::ops::Deref;

/// One cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([i8; 64]);

/// Read-only bytes on a 64-byte boundary.
#[derive(Debug, Clone)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl From<&[i8]> for Aligned {
    fn from(values: &[i8]) -> Aligned {
        let line = |piece: &[i8]| {
            let mut line = Line([0; 64]);
            line.0[..piece.len()].copy_from_slice(piece);
            line
        };
        Aligned { lines: values.chunks(64).map(line).collect(), len: values.len() }
    }
}

impl Deref for Aligned {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        // SAFETY: lines are arrays of bytes without gaps and hold at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_byte_and_starts_a_line() {
        for len in [0usize, 1, 63, 64, 65, 200] {
            let values: Vec<i8> = (0..len).map(|i| i as i8).collect();
            let aligned = Aligned::from(&values[..]);
            assert_eq!(aligned[..], values[..]);
            assert_eq!(aligned.as_ptr().align_offset(64), 0);
        }
    }
}
