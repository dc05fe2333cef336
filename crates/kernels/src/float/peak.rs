//! The yardstick that benchmarks hold kernels against.

use super::simd::{Kernel, Simd, dispatch};
use crate::Isa;

/// Multiplies and adds in registers for `rounds` rounds, as fast as this machine can with `isa`, and returns the number of floating
/// point operations that were done (two for each lane of each multiply-add).
#[must_use]
pub fn multiply_add(isa: Isa, rounds: usize) -> usize {
    dispatch(isa, Chains(rounds))
}

struct Chains(usize);

impl Kernel for Chains {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        // Enough independent sums to hide the latency of two units, few enough for sixteen registers.
        const CHAINS: usize = 12;
        let mut sums = [simd.splat(0.0); CHAINS];
        let (a, b) = (simd.splat(0.999), simd.splat(0.001));
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.fma(*sum, a, b);
            }
        }
        let total: f32 = sums.into_iter().map(|sum| simd.sum(sum)).sum();
        std::hint::black_box(total);
        self.0 * CHAINS * S::LANES * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_grow_with_the_vectors() {
        for isa in Isa::available() {
            let per_round = multiply_add(isa, 1);
            assert!(per_round >= 12 * 4 * 2, "{}", isa.name());
            assert_eq!(multiply_add(isa, 5), 5 * per_round, "{}", isa.name());
        }
    }
}
