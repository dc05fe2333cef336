//! How fast memory is read: the yardstick for work that computes little.

use crate::Isa;
use crate::float::simd::{Kernel, Simd, dispatch};

/// Reads all of `data` once, in order, as fast as this machine can with `isa`; the bytes that were read. What is left
/// over after whole blocks of 1 KiB is not read.
#[must_use]
pub fn read(isa: Isa, data: &[f32]) -> usize {
    dispatch(isa, Read(data))
}

/// Floats in a block: eight of the widest vectors, twice.
const BLOCK: usize = 256;

struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        // Independent sums, so that loads are what is waited for.
        const CHAINS: usize = 8;
        let mut sums = [simd.splat(0.0); CHAINS];
        let blocks = self.0.chunks_exact(BLOCK);
        let bytes = blocks.len() * BLOCK * size_of::<f32>();
        for block in blocks {
            for line in block.chunks_exact(CHAINS * S::LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the line has that many vectors.
                    *sum = simd.add(*sum, unsafe { simd.load_ptr(line.as_ptr().add(i * S::LANES)) });
                }
            }
        }
        let total: f32 = sums.into_iter().map(|sum| simd.sum(sum)).sum();
        std::hint::black_box(total);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_read() {
        let data = vec![1.0; 10 * BLOCK + 7];
        for isa in Isa::available() {
            assert_eq!(read(isa, &data), 10 * 1024, "{}", isa.name());
            assert_eq!(read(isa, &data[..BLOCK - 1]), 0, "{}", isa.name());
        }
    }
}
