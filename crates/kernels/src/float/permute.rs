//! Reordering of axes, for any type.

use crate::pool::SharedMut;
use crate::{KernelError, Pool, expect_len};

/// The most axes that are left when those that stay together are merged.
const MAX_RANK: usize = 8;

/// Side of the squares that are copied when the last axis moves: what is read and what is written both stay in cache.
const SIDE: usize = 32;

/// The most channels for which pixels are taken apart or put together whole.
const FEW: usize = 4;

/// Values that one task moves at least.
const BLOCK: usize = 8192;

/// An axis of the output: its length, and the distance between its neighbours in the input and in the output.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Axis {
    len: usize,
    from: usize,
    to: usize,
}

/// Writes `x`, of shape `shape`, to `y` with its axes in the order `order`: axis `i` of the output is axis `order[i]` of the input.
/// Allocates nothing.
///
/// # Errors
/// [`KernelError`] when `order` is not a permutation, a slice has another length than `shape` says, or more than eight groups of
/// axes move independently.
pub fn permute<T: Copy + Send + Sync>(
    shape: &[usize],
    order: &[usize],
    x: &[T],
    y: &mut [T],
    pool: &Pool,
) -> Result<(), KernelError> {
    let wrong = || KernelError::Geometry(format!("{order:?} is not an order of the axes of {shape:?}"));
    if order.len() != shape.len() || (0..shape.len()).any(|axis| !order.contains(&axis)) {
        return Err(wrong());
    }
    let len = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size)).ok_or_else(wrong)?;
    expect_len("input", x.len(), len)?;
    expect_len("output", y.len(), len)?;
    if len == 0 {
        return Ok(());
    }
    let mut axes = [Axis::default(); MAX_RANK];
    let rank = merged(shape, order, &mut axes)
        .ok_or_else(|| KernelError::Unsupported(format!("{order:?} of {shape:?} moves more than {MAX_RANK} axes")))?;
    let axes = &mut axes[..rank];
    let y = SharedMut::new(y);
    match axes {
        [] => {
            // SAFETY: nothing else uses the output.
            unsafe { y.slice(0..len) }.copy_from_slice(x);
        }
        [run] if run.from == 1 => {
            // SAFETY: nothing else uses the output.
            unsafe { y.slice(0..len) }.copy_from_slice(x);
        }
        [outer @ .., line, run] if run.from == 1 => match run.len {
            2 => runs::<T, 2>(outer, *line, *run, x, &y, pool),
            3 => runs::<T, 3>(outer, *line, *run, x, &y, pool),
            4 => runs::<T, 4>(outer, *line, *run, x, &y, pool),
            8 => runs::<T, 8>(outer, *line, *run, x, &y, pool),
            _ => runs::<T, 0>(outer, *line, *run, x, &y, pool),
        },
        [outer @ .., last] => {
            // The axis along which input lies side by side; the last one of the input, so there is one.
            let Some(at) = outer.iter().position(|axis| axis.from == 1) else { return Err(wrong()) };
            outer[at..].rotate_left(1);
            let [outer @ .., side] = outer else { return Err(wrong()) };
            if side.to == last.len && last.len <= FEW {
                match last.len {
                    2 => interleave::<T, 2>(outer, *side, *last, x, &y, pool),
                    3 => interleave::<T, 3>(outer, *side, *last, x, &y, pool),
                    _ => interleave::<T, 4>(outer, *side, *last, x, &y, pool),
                }
                return Ok(());
            }
            if last.from == side.len && side.len <= FEW {
                match side.len {
                    2 => separate::<T, 2>(outer, *side, *last, x, &y, pool),
                    3 => separate::<T, 3>(outer, *side, *last, x, &y, pool),
                    _ => separate::<T, 4>(outer, *side, *last, x, &y, pool),
                }
                return Ok(());
            }
            match size_of::<T>() {
                1 => squares::<T, 16>(outer, *side, *last, x, &y, pool),
                2 => squares::<T, 8>(outer, *side, *last, x, &y, pool),
                4 => squares::<T, 4>(outer, *side, *last, x, &y, pool),
                _ => squares::<T, 1>(outer, *side, *last, x, &y, pool),
            }
        }
    }
    Ok(())
}

/// Runs of values that stay together, of `N` values, or of any number if that is 0; lines of them one after the other.
fn runs<T: Copy + Send + Sync, const N: usize>(
    outer: &[Axis],
    line: Axis,
    run: Axis,
    x: &[T],
    y: &SharedMut<'_, T>,
    pool: &Pool,
) {
    let count = if N == 0 { run.len } else { N };
    let lines: usize = outer.iter().map(|axis| axis.len).product();
    let step = BLOCK.div_ceil(count * line.len);
    pool.run(lines.div_ceil(step), &|chunk| {
        for index in chunk * step..lines.min((chunk + 1) * step) {
            let (from, to) = place(outer, index);
            for i in 0..line.len {
                // SAFETY: every run has an output of its own.
                let to = unsafe { y.slice(to + i * line.to..to + i * line.to + count) };
                let from = &x[from + i * line.from..from + i * line.from + count];
                to.copy_from_slice(from);
            }
        }
    });
}

/// `C` planes become pixels of `C` values: the output is written from its begin to its end.
fn interleave<T: Copy + Send + Sync, const C: usize>(
    outer: &[Axis],
    side: Axis,
    last: Axis,
    x: &[T],
    y: &SharedMut<'_, T>,
    pool: &Pool,
) {
    let bands = side.len.div_ceil(BLOCK / C);
    let images: usize = outer.iter().map(|axis| axis.len).product();
    pool.run(images * bands, &|job| {
        let (from, to) = place(outer, job / bands);
        let first = job % bands * (BLOCK / C);
        let width = (BLOCK / C).min(side.len - first);
        let planes: [&[T]; C] = std::array::from_fn(|c| &x[from + c * last.from + first..][..width]);
        // SAFETY: jobs are distinct runs of pixels.
        let y = unsafe { y.slice(to + first * C..to + (first + width) * C) };
        for (i, pixel) in y.chunks_exact_mut(C).enumerate() {
            for (value, plane) in pixel.iter_mut().zip(&planes) {
                *value = plane[i];
            }
        }
    });
}

/// Pixels of `C` values become `C` planes: the input is read from its begin to its end.
fn separate<T: Copy + Send + Sync, const C: usize>(
    outer: &[Axis],
    side: Axis,
    last: Axis,
    x: &[T],
    y: &SharedMut<'_, T>,
    pool: &Pool,
) {
    let bands = last.len.div_ceil(BLOCK / C);
    let images: usize = outer.iter().map(|axis| axis.len).product();
    pool.run(images * bands, &|job| {
        let (from, to) = place(outer, job / bands);
        let first = job % bands * (BLOCK / C);
        let width = (BLOCK / C).min(last.len - first);
        let x = &x[from + first * C..][..width * C];
        // SAFETY: the planes do not overlap, and jobs are distinct runs of pixels.
        let mut planes: [&mut [T]; C] = std::array::from_fn(|c| unsafe {
            let start = to + c * side.to + first;
            y.slice(start..start + width)
        });
        for (i, pixel) in x.chunks_exact(C).enumerate() {
            for (plane, value) in planes.iter_mut().zip(pixel) {
                plane[i] = *value;
            }
        }
    });
}

/// Rows become columns: squares of `N` × `N` values, as many as a small vector register has a row of, are transposed in registers.
fn squares<T: Copy + Send + Sync, const N: usize>(
    outer: &[Axis],
    side: Axis,
    last: Axis,
    x: &[T],
    y: &SharedMut<'_, T>,
    pool: &Pool,
) {
    const { assert!(SIDE.is_multiple_of(N)) };
    // Few rows make wide bands, so that a task is still worth having.
    let band = SIDE.max(BLOCK / last.len.min(BLOCK)).next_multiple_of(N);
    let bands = side.len.div_ceil(band);
    let planes = outer.iter().map(|axis| axis.len).product::<usize>();
    pool.run(planes * bands, &|job| {
        let (from, to) = place(outer, job / bands);
        let first = job % bands * band;
        let end = (first + band).min(side.len);
        let x = &x[from..];
        assert!(x.len() > (last.len - 1) * last.from + side.len - 1);
        for top in (0..last.len).step_by(SIDE) {
            let bottom = (top + SIDE).min(last.len);
            let whole = (top + (bottom - top) / N * N, first + (end - first) / N * N);
            // SAFETY: rows below `bottom` and columns below `end` lie in the input, as was asserted; each has one place in the output, which
            // no other job writes.
            unsafe {
                let y = y.as_mut_ptr().add(to);
                for column in (first..whole.1).step_by(N) {
                    for row in (top..whole.0).step_by(N) {
                        let rows: [[T; N]; N] = std::array::from_fn(|i| {
                            x.as_ptr().add((row + i) * last.from + column).cast::<[T; N]>().read()
                        });
                        for (i, values) in transposed(rows).into_iter().enumerate() {
                            y.add((column + i) * side.to + row).cast::<[T; N]>().write(values);
                        }
                    }
                }
                for row in top..bottom {
                    for column in if row < whole.0 { whole.1 } else { first }..end {
                        *y.add(column * side.to + row) = *x.as_ptr().add(row * last.from + column);
                    }
                }
            }
        }
    });
}

/// A square with rows and columns exchanged: halves are zipped as often as it takes, which compilers make instructions of vectors of.
#[inline(always)]
fn transposed<T: Copy, const N: usize>(mut square: [[T; N]; N]) -> [[T; N]; N] {
    let zipped = |a: &[T; N], b: &[T; N], from: usize| {
        std::array::from_fn(|k| if k % 2 == 0 { a[from + k / 2] } else { b[from + k / 2] })
    };
    for _ in 0..N.ilog2() {
        let halves = square;
        for i in 0..N / 2 {
            let (upper, lower) = (&halves[i], &halves[i + N / 2]);
            square[2 * i] = zipped(upper, lower, 0);
            square[2 * i + 1] = zipped(upper, lower, N / 2);
        }
    }
    square
}

/// The axes of the output, those of length 1 left out and those that stay neighbours merged: how many.
fn merged(shape: &[usize], order: &[usize], axes: &mut [Axis; MAX_RANK]) -> Option<usize> {
    let mut rank = 0;
    for (i, axis) in order.iter().enumerate() {
        let next = Axis {
            len: shape[*axis],
            from: shape[axis + 1..].iter().product(),
            to: order[i + 1..].iter().map(|axis| shape[*axis]).product(),
        };
        if next.len == 1 {
            continue;
        }
        match axes[..rank].last_mut() {
            Some(last) if last.from == next.from * next.len => {
                *last = Axis { len: last.len * next.len, ..next };
            }
            _ => {
                *axes.get_mut(rank)? = next;
                rank += 1;
            }
        }
    }
    Some(rank)
}

/// Where the `index`-th combination of positions along `axes` is, in the input and in the output.
fn place(axes: &[Axis], mut index: usize) -> (usize, usize) {
    let (mut from, mut to) = (0, 0);
    for axis in axes.iter().rev() {
        let position = index % axis.len;
        index /= axis.len;
        from += position * axis.from;
        to += position * axis.to;
    }
    (from, to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expected(shape: &[usize], order: &[usize], x: &[u32]) -> Vec<u32> {
        (0..x.len())
            .map(|mut index| {
                let mut from = 0;
                for axis in order.iter().rev() {
                    from += index % shape[*axis] * shape[axis + 1..].iter().product::<usize>();
                    index /= shape[*axis];
                }
                x[from]
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_order_agrees(
            (shape, order) in prop::collection::vec(1..=7usize, 0..=5)
                .prop_flat_map(|shape| (Just(shape.clone()), Just((0..shape.len()).collect::<Vec<_>>()).prop_shuffle())),
            threads in 1..=3usize,
        ) {
            let x: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
            let mut y = vec![u32::MAX; x.len()];
            permute(&shape, &order, &x, &mut y, &Pool::kept(threads)).unwrap();
            prop_assert_eq!(y, expected(&shape, &order, &x));
        }
    }

    #[test]
    fn larger_ones_that_take_several_tasks() {
        let cases: [(&[usize], &[usize]); 6] = [
            (&[2, 3, 100, 60], &[0, 2, 3, 1]),
            (&[2, 100, 60, 3], &[0, 3, 1, 2]),
            (&[2, 35, 67, 9], &[0, 3, 1, 2]),
            (&[2, 9, 35, 67], &[0, 2, 3, 1]),
            (&[3, 40, 4, 65], &[0, 2, 3, 1]),
            (&[3, 40, 4, 65], &[0, 2, 1, 3]),
        ];
        for (shape, order) in cases {
            let x: Vec<u32> = (0..shape.iter().product::<usize>() as u32).collect();
            for threads in 1..=3 {
                let mut y = vec![u32::MAX; x.len()];
                permute(shape, order, &x, &mut y, &Pool::kept(threads)).unwrap();
                assert_eq!(y, expected(shape, order, &x), "{shape:?} {order:?}");
            }
        }
    }

    #[test]
    fn elements_of_every_size() {
        let (shape, order) = ([2, 37, 50], [0, 2, 1]);
        let x: Vec<u32> = (0..2 * 37 * 50).collect();
        let wanted = expected(&shape, &order, &x);
        macro_rules! of {
            ($($element:ty)*) => {
                $(let few: Vec<$element> = x.iter().map(|x| *x as $element).collect();
                let mut y = vec![0; few.len()];
                permute(&shape, &order, &few, &mut y, &Pool::kept(2)).unwrap();
                assert!(y.iter().zip(&wanted).all(|(y, x)| *y == *x as $element), stringify!($element));)*
            };
        }
        of!(u8 u16 u32 u64);
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let pool = Pool::new(1);
        for order in [&[0usize][..], &[0, 0], &[0, 2], &[1, 0, 2]] {
            assert!(permute(&[2, 2], order, &[0u8; 4], &mut [0; 4], &pool).is_err(), "{order:?}");
        }
        assert!(permute(&[2, 2], &[1, 0], &[0u8; 3], &mut [0; 4], &pool).is_err());
        assert_eq!(permute(&[0, 2], &[1, 0], &[0u8; 0], &mut [], &pool), Ok(()));
    }
}
