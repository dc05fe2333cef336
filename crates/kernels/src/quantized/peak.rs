//! The yardstick that benchmarks hold kernels against.

#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::Isa;

/// Multiplies and adds bytes in registers for `rounds` rounds, as fast as this machine can with `isa`, and returns
/// the number of operations done: two for each multiply–accumulate.
#[must_use]
pub fn dot(isa: Isa, rounds: usize) -> usize {
    match isa.or_supported() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the instructions.
        Isa::Avx512 if AVX512 => unsafe { avx512(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::AvxVnni => unsafe { vnni(rounds) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(rounds) },
        _ => {
            let mut sum = 0i32;
            for round in 0..rounds {
                sum = sum.wrapping_add(std::hint::black_box(round as i32) * 3);
            }
            std::hint::black_box(sum);
            2 * rounds
        }
    }
}

/// Independent sums, enough to hide the latency of two units.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn avx512(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    let (x, w) = (_mm512_set1_epi8(3), _mm512_set1_epi8(-5));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, w);
        }
    }
    std::hint::black_box(sums);
    rounds * CHAINS * 64 * 2
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
fn vnni(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    let (x, w) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, x, w);
        }
    }
    std::hint::black_box(sums);
    rounds * CHAINS * 32 * 2
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(rounds: usize) -> usize {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    let w = _mm256_set1_epi16(-5);
    for _ in 0..rounds {
        // Hidden from the compiler, which would else see that all rounds add the same.
        let x = std::hint::black_box(w);
        for sum in &mut sums {
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, *sum));
        }
    }
    std::hint::black_box(sums);
    rounds * CHAINS * 16 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_grow_with_the_rounds() {
        for isa in Isa::available() {
            assert_eq!(dot(isa, 6), 6 * dot(isa, 1), "{}", isa.name());
        }
    }
}
