//! Bytes that start on a cache line, without `unsafe`.

use qing_graph::ops::support::order::sort_indices;

/// Bytes of a cache line: what every buffer is aligned to.
pub(crate) const LINE: usize = 64;

/// An owned buffer on a 64-byte boundary.
#[derive(Debug)]
pub(crate) struct Aligned {
    words: Vec<u64>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zero bytes.
    pub(crate) fn zeros(len: usize) -> Aligned {
        let words = vec![0u64; (len + LINE).div_ceil(8)];
        let start = words.as_ptr().align_offset(LINE).min(LINE / 8) * 8;
        Aligned { words, start, len }
    }

    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Aligned {
        let mut aligned = Aligned::zeros(bytes.len());
        aligned.as_mut().copy_from_slice(bytes);
        aligned
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.start..self.start + self.len]
    }
}

impl AsMut<[u8]> for Aligned {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[self.start..self.start + self.len]
    }
}

/// A range of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// First byte.
    pub(crate) offset: usize,
    /// Bytes.
    pub(crate) len: usize,
}

impl Region {
    /// One past the last byte.
    pub(crate) fn end(self) -> usize {
        self.offset + self.len
    }
}

/// How long a block of memory is needed, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime {
    /// Bytes.
    pub(crate) bytes: usize,
    /// The step that first writes it.
    pub(crate) first: usize,
    /// The step that last reads it.
    pub(crate) last: usize,
}

/// Offsets for the blocks such that no two that are alive at the same step overlap, and the size of the arena. Blocks
/// are placed by size, the largest first, each in the lowest gap that fits (Pisarchyk and Lee, "Efficient memory management
/// for deep neural net inference", 2020).
pub(crate) fn assign(blocks: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    sort_indices(&mut order, &|i, j| {
        (std::cmp::Reverse(blocks[i].bytes), blocks[i].first)
            .cmp(&(std::cmp::Reverse(blocks[j].bytes), blocks[j].first))
    });
    let mut offsets = vec![0; blocks.len()];
    // By offset, so that gaps are met in order.
    let mut placed: Vec<usize> = vec![];
    let mut size = 0;
    for i in order {
        let block = blocks[i];
        let bytes = block.bytes.next_multiple_of(LINE);
        if bytes == 0 {
            continue;
        }
        let taken = placed
            .iter()
            .filter(|j| blocks[**j].first <= block.last && block.first <= blocks[**j].last)
            .map(|j| (offsets[*j], offsets[*j] + blocks[*j].bytes.next_multiple_of(LINE)));
        let mut at = 0;
        for (start, end) in taken {
            if at + bytes <= start {
                break;
            }
            at = at.max(end);
        }
        offsets[i] = at;
        size = size.max(at + bytes);
        placed.insert(placed.partition_point(|j| offsets[*j] <= at), i);
    }
    (offsets, size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buffers_start_on_a_line() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let mut a = Aligned::zeros(len);
            assert_eq!(a.as_ref().as_ptr().align_offset(LINE), 0);
            assert_eq!(a.as_mut().len(), len);
        }
        assert_eq!(Aligned::copy_of(&[1, 2, 3]).as_ref(), [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn blocks_alive_together_do_not_overlap(blocks in prop::collection::vec((0usize..500, 0usize..20, 0usize..6), 0..40)) {
            let blocks: Vec<Lifetime> =
                blocks.into_iter().map(|(bytes, first, n)| Lifetime { bytes, first, last: first + n }).collect();
            let (offsets, size) = assign(&blocks);
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(offsets[i] + a.bytes <= size);
                prop_assert_eq!(offsets[i] % LINE, 0);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(!together || apart, "{:?} at {}, {:?} at {}", a, offsets[i], b, offsets[j]);
                }
            }
        }
    }
}
