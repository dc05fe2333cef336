//! Axes: negative ones count from the end, and a tensor seen along one axis is `[outer, length, inner]`.

use crate::OpError;

/// The axis in `0 .. rank` that `axis` names; negative values count from the end.
///
/// # Errors
/// If there is no such axis.
pub fn normalize(axis: i64, rank: usize) -> Result<usize, OpError> {
    let wide = rank as i64;
    let positive = if axis < 0 { axis.saturating_add(wide) } else { axis };
    usize::try_from(positive)
        .ok()
        .filter(|a| *a < rank)
        .ok_or_else(|| OpError::invalid(format!("axis {axis} of a tensor of rank {rank}")))
}

/// All of `axes`, normalized; their order is kept.
///
/// # Errors
/// If one does not exist or is named twice.
pub fn normalize_all(axes: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let mut all: Vec<usize> = Vec::with_capacity(axes.len());
    for &axis in axes {
        let axis = normalize(axis, rank)?;
        if all.contains(&axis) {
            return Err(OpError::invalid(format!("axis {axis} is named twice in {axes:?}")));
        }
        all.push(axis);
    }
    Ok(all)
}

/// Elements before, along and after an axis: element `(o, i, n)` is at `(o · length + i) · inner + n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Along {
    /// Product of the dimensions before the axis; 0 if there are no elements at all.
    pub outer: usize,
    /// Size of the axis.
    pub length: usize,
    /// Product of the dimensions after the axis.
    pub inner: usize,
}

impl Along {
    /// A shape seen along its axis `axis < rank`.
    pub fn new(shape: &[usize], axis: usize) -> Along {
        Along { outer: shape[..axis].iter().product(), length: shape[axis], inner: shape[axis + 1..].iter().product() }
    }

    /// Replaces every line of `values` along the axis by `f(line)`, which keeps its length.
    pub fn map_lines(&self, values: &[f64], mut f: impl FnMut(&[f64], &mut [f64])) -> Vec<f64> {
        let mut out = vec![0.0; values.len()];
        let (mut line, mut result) = (vec![0.0; self.length], vec![0.0; self.length]);
        for o in 0..self.outer {
            for n in 0..self.inner {
                let at = |i: usize| (o * self.length + i) * self.inner + n;
                for i in 0..self.length {
                    line[i] = values[at(i)];
                }
                f(&line, &mut result);
                for i in 0..self.length {
                    out[at(i)] = result[i];
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!(normalize(-1, 3), Ok(2));
        assert!(normalize(3, 3).is_err() && normalize(-4, 3).is_err() && normalize(i64::MIN, 0).is_err());
        assert!(normalize_all(&[1, -1], 2).is_err());
    }

    #[test]
    fn lines_run_along_the_axis() {
        let along = Along::new(&[2, 2, 2], 1);
        let sums = along.map_lines(&[1., 2., 3., 4., 5., 6., 7., 8.], |line, out| out.fill(line.iter().sum()));
        assert_eq!(sums, [4., 6., 4., 6., 12., 14., 12., 14.]);
    }
}
