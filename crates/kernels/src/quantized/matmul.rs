//! Matrix product of two activations. (A product by constant weights is a pointwise [`super::QConv`].)

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::epilogue::{Epilogue, Output, Requantize};
use super::versions::per_isa;
use crate::cpu::{AVX512, Isa};
use crate::error::{KernelError, expect_len};
use crate::pool::{Pool, SharedMut};

/// Columns summed at a time.
const LANES: usize = 64;

/// `[batch, rows, depth] × [batch, depth, columns]`, both sides bytes with a zero point of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct QMatMul {
    /// Independent products.
    pub batch: usize,
    /// Rows of the left side and of the result.
    pub rows: usize,
    /// Columns of the left side, rows of the right.
    pub depth: usize,
    /// Columns of the right side and of the result.
    pub columns: usize,
    /// Stored value of the left side that means zero.
    pub a_zero: u8,
    /// Stored value of the right side that means zero.
    pub b_zero: u8,
    /// What becomes of the sums; one factor per column.
    pub epilogue: Epilogue,
}

impl QMatMul {
    /// Whether the right side is packed before it is multiplied.
    fn packs(&self, isa: Isa) -> bool {
        AVX512 && isa.or_supported() == Isa::Avx512 && self.depth.is_multiple_of(4)
    }

    /// Bytes of scratch that [`QMatMul::run`] needs on a pool of `threads`.
    #[must_use]
    pub fn scratch_bytes(&self, isa: Isa, threads: usize) -> usize {
        if self.packs(isa) { threads * self.packed_bytes() + 64 } else { 0 }
    }

    /// Bytes of a packed right side and the sums of its columns.
    fn packed_bytes(&self) -> usize {
        let columns = self.columns.next_multiple_of(16);
        (4 * columns * (self.depth.div_ceil(4) + 1)).next_multiple_of(64)
    }

    /// Multiplies `a` by `b` into `y`, `[batch, rows, columns]`.
    ///
    /// `scratch` holds at least [`QMatMul::scratch_bytes`] bytes for the pool's number of threads; what it contains does not matter.
    /// Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong, a sum could overflow, or `y` is not of the kind the epilogue writes.
    pub fn run(
        &self,
        isa: Isa,
        a: &[u8],
        b: &[u8],
        y: Output<'_>,
        scratch: &mut [u8],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let QMatMul { batch, rows, depth, columns, .. } = *self;
        expect_len("left side", a.len(), batch * rows * depth)?;
        expect_len("right side", b.len(), batch * depth * columns)?;
        self.epilogue.check(columns)?;
        self.epilogue.check_output(&y, batch * rows * columns)?;
        let reach = |zero: u8| i64::from(zero.max(255 - zero));
        let bound = reach(self.a_zero) * reach(self.b_zero) * depth as i64;
        if bound > i64::from(i32::MAX) {
            return Err(KernelError::Overflow { channel: 0, bound });
        }
        let (bytes, floats) = match y {
            Output::U8(y) => (Some(SharedMut::new(y)), None),
            Output::F32(y) => (None, Some(SharedMut::new(y))),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = scratch;
        #[cfg(target_arch = "x86_64")]
        if self.packs(isa) {
            let (threads, each) = (pool.threads(), self.packed_bytes());
            expect_len(
                "scratch",
                scratch.len().min(self.scratch_bytes(isa, threads)),
                self.scratch_bytes(isa, threads),
            )?;
            let aligned = scratch.as_ptr().align_offset(64);
            let scratch = SharedMut::new(&mut scratch[aligned..]);
            // Rows are shared out where there are fewer products than threads.
            let groups = if batch < threads { threads.min(rows) } else { 1 };
            let step = rows.div_ceil(groups);
            pool.run_indexed(batch * groups, &|worker, job| {
                let (n, group) = (job / groups, job % groups);
                let rows = n * rows + rows.min(group * step)..n * rows + rows.min((group + 1) * step);
                let (a, b) =
                    (&a[rows.start * depth..rows.end * depth], &b[n * depth * columns..(n + 1) * depth * columns]);
                let range = rows.start * columns..rows.end * columns;
                // SAFETY: no two jobs at a time have the same worker, and jobs are distinct rows.
                let (own, part) = unsafe {
                    let own = scratch.slice(worker * each..(worker + 1) * each);
                    let part = match (&bytes, &floats) {
                        (Some(y), _) => Part::U8(y.slice(range)),
                        (_, Some(y)) => Part::F32(y.slice(range)),
                        _ => return,
                    };
                    (own, part)
                };
                // SAFETY: the machine has the instructions, and the lengths were checked.
                unsafe { avx512::multiply(self, a, b, bytemuck::cast_slice_mut(own), part) };
            });
            return Ok(());
        }
        let blocks = columns.div_ceil(LANES);
        pool.run(batch * blocks, &|job| {
            let (n, first) = (job / blocks, job % blocks * LANES);
            let width = LANES.min(columns - first);
            let b = &b[n * depth * columns..(n + 1) * depth * columns];
            for row in n * rows..(n + 1) * rows {
                let mut sums = [0i32; LANES];
                let a = &a[row * depth..(row + 1) * depth];
                accumulate(isa, (self.a_zero, self.b_zero), a, b, (columns, first, width), &mut sums);
                let range = row * columns + first..row * columns + first + width;
                match (&self.epilogue, &bytes, &floats) {
                    (Epilogue::Requantize(to), Some(y), _) => {
                        // SAFETY: jobs are distinct pairs of product and block of columns.
                        finish(to, &sums, first, unsafe { y.slice(range) });
                    }
                    (Epilogue::Dequantize { scale }, _, Some(y)) => {
                        // SAFETY: as above.
                        let y = unsafe { y.slice(range) };
                        for ((y, sum), scale) in y.iter_mut().zip(sums).zip(&scale[first..]) {
                            *y = sum as f32 * scale;
                        }
                    }
                    _ => unreachable!("the output was checked against the epilogue"),
                }
            }
        });
        Ok(())
    }
}

/// Rows of results.
enum Part<'a> {
    U8(&'a mut [u8]),
    F32(&'a mut [f32]),
}

fn finish(to: &Requantize, sums: &[i32; LANES], first: usize, y: &mut [u8]) {
    for (i, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
        *y = to.apply(*sum, first + i);
    }
}

per_isa! {
    /// Adds row `a` times columns `first..first + width` of `b`, whose rows are `columns` apart.
    fn accumulate(
        zeros: (u8, u8),
        a: &[u8],
        b: &[u8],
        place: (usize, usize, usize),
        sums: &mut [i32; LANES],
    ) {
        let (columns, first, width) = place;
        let (a_zero, b_zero) = (i32::from(zeros.0), i32::from(zeros.1));
        for (k, a) in a.iter().enumerate() {
            let a = i32::from(*a) - a_zero;
            let b = &b[k * columns + first..][..width];
            if let Some(b) = b.first_chunk::<LANES>() {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * (i32::from(*b) - b_zero);
                }
            } else {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * (i32::from(*b) - b_zero);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_instruction_set_equals_the_definition(
            batch in 1usize..3, rows in 1usize..11, depth in 1usize..40, columns in 1usize..140,
            a_zero: u8, b_zero: u8, real: bool, threads in 1usize..4,
        ) {
            let bytes = |len: usize, step: usize| -> Vec<u8> { (0..len).map(|i| (i * step) as u8).collect() };
            let (a, b) = (bytes(batch * rows * depth, 37), bytes(batch * depth * columns, 91));
            let scale: Vec<f32> = (0..columns).map(|c| 1e-4 * (c + 1) as f32).collect();
            let epilogue = if real {
                Epilogue::Dequantize { scale: scale.clone() }
            } else {
                Epilogue::Requantize(Requantize { scale: scale.clone(), zero: 9, lo: 2, hi: 240, table: None })
            };
            let product = QMatMul { batch, rows, depth, columns, a_zero, b_zero, epilogue };
            let pool = Pool::kept(threads);
            let len = batch * rows * columns;
            for isa in Isa::available() {
                let (mut y, mut reals) = (vec![0u8; len], vec![0f32; len]);
                let output = if real { Output::F32(&mut reals) } else { Output::U8(&mut y) };
                let mut scratch = vec![0xab; product.scratch_bytes(isa, threads)];
                product.run(isa, &a, &b, output, &mut scratch, &pool).unwrap();
                for i in 0..len {
                    let (n, row, c) = (i / columns / rows, i / columns, i % columns);
                    let sum: i32 = (0..depth).map(|k| {
                        let b = b[(n * depth + k) * columns + c];
                        (i32::from(a[row * depth + k]) - i32::from(a_zero)) * (i32::from(b) - i32::from(b_zero))
                    }).sum();
                    match &product.epilogue {
                        Epilogue::Requantize(to) => prop_assert_eq!(y[i], to.apply(sum, c)),
                        Epilogue::Dequantize { scale } => prop_assert_eq!(reals[i], sum as f32 * scale[c]),
                    }
                }
            }
        }
    }

    #[test]
    fn sums_that_could_overflow_are_refused() {
        let depth = 40_000;
        let epilogue = Epilogue::Dequantize { scale: vec![1.0] };
        let product = QMatMul { batch: 1, rows: 1, depth, columns: 1, a_zero: 0, b_zero: 0, epilogue };
        let x = vec![255; depth];
        let refused = product.run(Isa::Scalar, &x, &x, Output::F32(&mut [0.0]), &mut [], &Pool::new(1));
        assert!(matches!(refused, Err(KernelError::Overflow { .. })));
    }
}
