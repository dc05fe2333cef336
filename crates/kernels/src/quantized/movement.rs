//! Copies that change where values lie and none of them: padding, nearest-neighbour enlargement, transposition,
//! and joining along the channel.

use crate::error::{KernelError, expect_len};
use crate::pool::{Pool, SharedMut};

/// Surrounds images with `value`: `[batch, h, w, c]` to `[batch, top + h + bottom, left + w + right, c]`.
///
/// # Errors
/// When a length is wrong.
pub fn pad<T: Copy + Send + Sync>(
    [batch, h, w, c]: [usize; 4],
    [top, left, bottom, right]: [usize; 4],
    value: T,
    x: &[T],
    y: &mut [T],
    pool: &Pool,
) -> Result<(), KernelError> {
    let (out_h, out_w) = (top + h + bottom, left + w + right);
    expect_len("input", x.len(), batch * h * w * c)?;
    expect_len("output", y.len(), batch * out_h * out_w * c)?;
    pool.for_each_chunk_mut(y, (out_w * c).max(1), |row, y| {
        let (image, row) = (row / out_h, row % out_h);
        let Some(from) = row.checked_sub(top).filter(|row| *row < h) else {
            y.fill(value);
            return;
        };
        let from = (image * h + from) * w * c;
        y[..left * c].fill(value);
        y[left * c..(left + w) * c].copy_from_slice(&x[from..from + w * c]);
        y[(left + w) * c..].fill(value);
    });
    Ok(())
}

/// Repeats every pixel `rows` times down and `columns` times across: `[batch, h, w, c]` to
/// `[batch, h·rows, w·columns, c]`.
///
/// # Errors
/// When a length is wrong.
pub fn enlarge<T: Copy + Send + Sync>(
    [batch, h, w, c]: [usize; 4],
    [rows, columns]: [usize; 2],
    x: &[T],
    y: &mut [T],
    pool: &Pool,
) -> Result<(), KernelError> {
    expect_len("input", x.len(), batch * h * w * c)?;
    expect_len("output", y.len(), batch * h * rows * w * columns * c)?;
    let line = w * columns * c;
    pool.for_each_chunk_mut(y, (rows * line).max(1), |row, y| {
        let (first, others) = y.split_at_mut(line);
        let from = &x[row * w * c..(row + 1) * w * c];
        for (pixel, copies) in from.chunks_exact(c).zip(first.chunks_exact_mut(columns * c)) {
            for copy in copies.chunks_exact_mut(c) {
                copy.copy_from_slice(pixel);
            }
        }
        for other in others.chunks_exact_mut(line) {
            other.copy_from_slice(first);
        }
    });
    Ok(())
}

/// Swaps the last two axes: `[batch, rows, columns]` to `[batch, columns, rows]`.
///
/// # Errors
/// When a length is wrong.
pub fn transpose<T: Copy + Send + Sync>(
    [batch, rows, columns]: [usize; 3],
    x: &[T],
    y: &mut [T],
    pool: &Pool,
) -> Result<(), KernelError> {
    const SIDE: usize = 32;
    expect_len("input", x.len(), batch * rows * columns)?;
    expect_len("output", y.len(), batch * rows * columns)?;
    if x.is_empty() {
        return Ok(());
    }
    let bands = columns.div_ceil(SIDE);
    let y = SharedMut::new(y);
    pool.run(batch * bands, &|job| {
        let (image, first) = (job / bands, job % bands * SIDE);
        let x = &x[image * rows * columns..(image + 1) * rows * columns];
        let width = SIDE.min(columns - first);
        let start = (image * columns + first) * rows;
        // SAFETY: jobs are distinct pairs of image and band of output rows.
        let y = unsafe { y.slice(start..start + width * rows) };
        // Square by square, so that the lines being written stay in cache until they are full.
        for top in (0..rows).step_by(SIDE) {
            for row in top..(top + SIDE).min(rows) {
                let from = &x[row * columns + first..][..width];
                for (column, value) in from.iter().enumerate() {
                    y[column * rows + row] = *value;
                }
            }
        }
    });
    Ok(())
}

/// Copies `x`, `[pixels, channels]`, into channels `first..first + channels` of `y`, `[pixels, total]`.
///
/// # Errors
/// When a length is wrong or the channels do not fit.
pub fn join_channels<T: Copy + Send + Sync>(
    channels: usize,
    first: usize,
    total: usize,
    x: &[T],
    y: &mut [T],
    pool: &Pool,
) -> Result<(), KernelError> {
    if channels == 0 || first + channels > total || !x.len().is_multiple_of(channels) {
        return Err(KernelError::Geometry(format!(
            "{channels} channels from {first} of {total} for {} values",
            x.len()
        )));
    }
    expect_len("output", y.len(), x.len() / channels * total)?;
    // Enough pixels to a chunk that claiming it costs nothing.
    let pixels = 8192usize.div_ceil(total);
    pool.for_each_chunk_mut(y, pixels * total, |chunk, y| {
        let x = &x[chunk * pixels * channels..];
        for (y, x) in y.chunks_exact_mut(total).zip(x.chunks_exact(channels)) {
            y[first..first + channels].copy_from_slice(x);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_surrounds_every_image() {
        let mut y = [0; 18];
        pad([2, 1, 1, 1], [1, 1, 1, 1], 9, &[1, 2], &mut y, &Pool::kept(2)).unwrap();
        assert_eq!(y, [9, 9, 9, 9, 1, 9, 9, 9, 9, 9, 9, 9, 9, 2, 9, 9, 9, 9]);
    }

    #[test]
    fn enlarging_repeats_pixels() {
        let mut y = [0; 16];
        enlarge([1, 1, 2, 2], [2, 2], &[1, 2, 3, 4], &mut y, &Pool::new(1)).unwrap();
        assert_eq!(y, [1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4]);
    }

    #[test]
    fn channels_are_joined_in_place() {
        let mut y = [0; 6];
        join_channels(1, 0, 3, &[1, 2], &mut y, &Pool::new(1)).unwrap();
        join_channels(2, 1, 3, &[3, 4, 5, 6], &mut y, &Pool::new(1)).unwrap();
        assert_eq!(y, [1, 3, 4, 2, 5, 6]);
        assert!(join_channels(2, 2, 3, &[3, 4], &mut y, &Pool::new(1)).is_err());
    }

    proptest! {
        #[test]
        fn transposing_swaps_indices(batch in 1usize..3, rows in 1usize..80, columns in 1usize..80, threads in 1usize..4) {
            let x: Vec<u32> = (0..(batch * rows * columns) as u32).collect();
            let mut y = vec![0; x.len()];
            transpose([batch, rows, columns], &x, &mut y, &Pool::kept(threads)).unwrap();
            for n in 0..batch {
                for r in 0..rows {
                    for c in 0..columns {
                        prop_assert_eq!(y[(n * columns + c) * rows + r], x[(n * rows + r) * columns + c]);
                    }
                }
            }
        }
    }
}
