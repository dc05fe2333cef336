//! Matrix multiplication: by a constant packed once, or of two matrices that both change.

use super::Clamp;
use super::product::panels::Panels;
use super::product::{Parts, Product, Rows, tile_rows};
use crate::aligned::Aligned;
use crate::pool::SharedMut;
use crate::prepacked::Tag;
use crate::{Isa, KernelError, Pool, expect_len};

/// The longest row of a left operand, in values.
const MAX_DEPTH: usize = 1 << 27;

/// Multiplication by a constant matrix, packed for one instruction set: a fully connected layer.
#[derive(Debug, Clone)]
pub struct MatMul {
    isa: Isa,
    depth: usize,
    cols: usize,
    panels: Panels,
    weights: Aligned<f32>,
    bias: Aligned<f32>,
    clamp: Clamp,
}

impl MatMul {
    /// Packs `weights`, `[depth, cols]` or, if `transposed`, `[cols, depth]`, and `bias`, `[cols]`, for `isa` (or the best set
    /// below it that this machine has).
    ///
    /// # Errors
    /// [`KernelError`] when a size is 0 or an argument has another length than they say.
    pub fn pack(
        isa: Isa,
        depth: usize,
        cols: usize,
        weights: &[f32],
        transposed: bool,
        bias: Option<&[f32]>,
        clamp: Clamp,
    ) -> Result<MatMul, KernelError> {
        let values = size(&[depth, cols])?;
        check_depth(depth)?;
        expect_len("weights", weights.len(), values)?;
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), cols)?;
        }
        let isa = isa.or_supported();
        let panels = Panels::new(isa, depth, cols);
        let (step, column) = if transposed { (1, depth) } else { (cols, 1) };
        let tag = Tag::new("panels f32", &[depth, cols, panels.lanes(), transposed.into()]);
        let packed = Aligned::packed(tag, panels.len(), |packed| {
            for panel in 0..panels.count() {
                panels.pack(panel, weights, step, column, &mut packed[panels.offset(panel)..]);
            }
        });
        let mut biases = Aligned::zeros(bias.map_or(0, |_| panels.padded_cols()));
        if let Some(bias) = bias {
            biases[..cols].copy_from_slice(bias);
        }
        Ok(MatMul { isa, depth, cols, panels, weights: packed, bias: biases, clamp })
    }

    /// Length of the rows it takes.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Length of the rows it gives.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Computes `y = clamp(x · weights + bias + residual)` for any number of rows: `x` is `[rows, depth]`, `y` and `residual`
    /// `[rows, cols]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError`] when a slice does not have the length that follows from `x`.
    pub fn run(&self, x: &[f32], residual: Option<&[f32]>, y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
        let rows = x.len() / self.depth;
        expect_len("left operand", x.len(), rows * self.depth)?;
        expect_len("output", y.len(), rows * self.cols)?;
        if let Some(residual) = residual {
            expect_len("residual", residual.len(), y.len())?;
        }
        let parts = Parts::new(rows, 4 * self.depth, &self.panels, Parts::wanted(pool));
        let product = Product {
            left: x.as_ptr(),
            rows: Rows::Strided(self.depth),
            count: rows,
            tile_rows: tile_rows(rows, self.panels.rows()),
            taps: 1,
            depth: self.depth,
            zeros: &[],
            panels: self.panels,
            right: &self.weights,
            bias: &self.bias,
            clamp: self.clamp,
            in_order: false,
            out: y.as_mut_ptr(),
            residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
            stride: self.cols,
        };
        pool.run(parts.count(), &|part| {
            let (tiles, panels) = parts.get(part);
            // SAFETY: the lengths were checked above; parts share no results.
            unsafe { product.run_part(self.isa, tiles, panels) };
        });
        Ok(())
    }
}

/// Sizes of a product of two matrices, or of a batch of such products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatMulShape {
    /// Products to compute.
    pub batch: usize,
    /// Rows of each left operand and result.
    pub rows: usize,
    /// Columns of the left operand and rows of the right one.
    pub depth: usize,
    /// Columns of each result.
    pub cols: usize,
    /// Whether the right operand is stored as `[cols, depth]` instead of `[depth, cols]`.
    pub transposed: bool,
    /// Whether all products share one left operand.
    pub shared_left: bool,
    /// Whether all products share one right operand.
    pub shared_right: bool,
}

impl MatMulShape {
    fn left_len(&self) -> usize {
        if self.shared_left { self.rows * self.depth } else { self.batch * self.rows * self.depth }
    }

    fn right_len(&self) -> usize {
        self.depth * self.cols * self.rights()
    }

    /// Number of right operands.
    fn rights(&self) -> usize {
        if self.shared_right { 1 } else { self.batch }
    }

    /// How many values of scratch [`multiply`] needs.
    ///
    /// # Errors
    /// [`KernelError::Geometry`] when a size is 0 or overflows.
    pub fn scratch_len(&self, isa: Isa) -> Result<usize, KernelError> {
        size(&[self.batch, self.rows, self.depth])?;
        size(&[self.batch, self.rows, self.cols])?;
        size(&[self.batch, self.depth, self.cols.saturating_add(16)])?;
        check_depth(self.depth)?;
        // One vector more, to start on a boundary.
        Ok(Panels::new(isa, self.depth, self.cols).len() * self.rights() + 16)
    }
}

/// Computes `y[i] = scale · left[i] · right[i]` for a batch of matrices that are not known before. `scratch` has
/// [`MatMulShape::scratch_len`] values. Allocates nothing.
///
/// # Errors
/// [`KernelError`] when a size is 0 or a slice has another length than the shape implies.
pub fn multiply(
    isa: Isa,
    shape: &MatMulShape,
    left: &[f32],
    right: &[f32],
    scale: f32,
    y: &mut [f32],
    scratch: &mut [f32],
    pool: &Pool,
) -> Result<(), KernelError> {
    let isa = isa.or_supported();
    expect_len("scratch", scratch.len(), shape.scratch_len(isa)?)?;
    expect_len("left operand", left.len(), shape.left_len())?;
    expect_len("right operand", right.len(), shape.right_len())?;
    expect_len("output", y.len(), shape.batch * shape.rows * shape.cols)?;
    let panels = Panels::new(isa, shape.depth, shape.cols);
    let start = scratch.as_ptr().align_offset(64).min(16);
    let packed = &mut scratch[start..][..panels.len() * shape.rights()];

    let (step, column) = if shape.transposed { (1, shape.depth) } else { (shape.cols, 1) };
    let into = SharedMut::new(packed);
    pool.run(shape.rights() * panels.count(), &|chunk| {
        let (item, panel) = (chunk / panels.count(), chunk % panels.count());
        let at = item * panels.len() + panels.offset(panel);
        // SAFETY: panels of one operand and operands of one batch do not overlap.
        let into = unsafe { into.slice(at..at + panels.width(panel) * shape.depth) };
        panels.pack(panel, &right[item * shape.depth * shape.cols..], step, column, into);
        if scale != 1.0 {
            into.iter_mut().for_each(|value| *value *= scale);
        }
    });

    let packed = &scratch[start..][..panels.len() * shape.rights()];
    let parts = Parts::new(shape.rows, 4 * shape.depth, &panels, Parts::wanted(pool).div_ceil(shape.batch));
    let out = SharedMut::new(y);
    pool.run(shape.batch * parts.count(), &|chunk| {
        let (item, part) = (chunk / parts.count(), chunk % parts.count());
        let left = if shape.shared_left { left } else { &left[item * shape.rows * shape.depth..] };
        let right = if shape.shared_right { packed } else { &packed[item * panels.len()..][..panels.len()] };
        let (tiles, range) = parts.get(part);
        // SAFETY: the lengths were checked above; products of a batch and parts of a product share no results.
        unsafe {
            let product = Product {
                left: left.as_ptr(),
                rows: Rows::Strided(shape.depth),
                count: shape.rows,
                tile_rows: tile_rows(shape.rows, panels.rows()),
                taps: 1,
                depth: shape.depth,
                zeros: &[],
                panels,
                right,
                bias: &[],
                clamp: Clamp::NONE,
                in_order: false,
                out: out.as_mut_ptr().add(item * shape.rows * shape.cols),
                residual: std::ptr::null(),
                stride: shape.cols,
            };
            product.run_part(isa, tiles, range);
        }
    });
    Ok(())
}

/// The product of sizes, none of which may be 0.
fn size(sizes: &[usize]) -> Result<usize, KernelError> {
    sizes
        .iter()
        .try_fold(1usize, |all, size| all.checked_mul(*size))
        .filter(|all| (1..=isize::MAX as usize / 8).contains(all))
        .ok_or_else(|| KernelError::Geometry(format!("a matrix cannot have sizes {sizes:?}")))
}

fn check_depth(depth: usize) -> Result<(), KernelError> {
    if depth < MAX_DEPTH {
        Ok(())
    } else {
        Err(KernelError::Unsupported(format!("rows of {depth} values are too long to index")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::float::testing::{assert_close, noise};

    fn reference(shape: &MatMulShape, left: &[f32], right: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
        for i in 0..shape.batch * shape.rows * shape.cols {
            let (item, row, col) = (i / shape.cols / shape.rows, i / shape.cols % shape.rows, i % shape.cols);
            let (l, r) = (if shape.shared_left { 0 } else { item }, if shape.shared_right { 0 } else { item });
            let terms = (0..shape.depth).map(|k| {
                let at = if shape.transposed { col * shape.depth + k } else { k * shape.cols + col };
                let a = left[(l * shape.rows + row) * shape.depth + k];
                f64::from(a) * f64::from(right[r * shape.depth * shape.cols + at])
            });
            values.push(terms.clone().sum());
            magnitudes.push(terms.map(f64::abs).sum());
        }
        (values, magnitudes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn products_agree_with_the_reference(
            batch in 1..=3usize, rows in 1..=40usize, depth in 1..=40usize, cols in 1..=90usize,
            transposed: bool, shared_left: bool, shared_right: bool,
        ) {
            let shape = MatMulShape { batch, rows, depth, cols, transposed, shared_left, shared_right };
            let (left, right) = (noise(1, shape.left_len()), noise(2, shape.right_len()));
            let (expected, magnitudes) = reference(&shape, &left, &right);
            let halves: Vec<f64> = expected.iter().map(|v| v * 0.5).collect();
            for isa in Isa::available() {
                for threads in 1..=3 {
                    let mut scratch = vec![f32::NAN; shape.scratch_len(isa).unwrap()];
                    let mut y = vec![f32::NAN; expected.len()];
                    multiply(isa, &shape, &left, &right, 0.5, &mut y, &mut scratch, &Pool::kept(threads)).unwrap();
                    assert_close(&y, &halves, &magnitudes, &format!("{} {threads} {shape:?}", isa.name()));
                }
            }
        }

        #[test]
        fn layers_agree_with_the_reference(
            rows in 1..=40usize, depth in 1..=70usize, cols in 1..=90usize, transposed: bool, bias: bool, residual: bool,
        ) {
            let shape = MatMulShape { batch: 1, rows, depth, cols, transposed, shared_left: false, shared_right: false };
            let (left, right) = (noise(1, rows * depth), noise(2, depth * cols));
            let bias = bias.then(|| noise(3, cols));
            let residual = residual.then(|| noise(4, rows * cols));
            let (mut expected, mut magnitudes) = reference(&shape, &left, &right);
            for (i, (value, magnitude)) in expected.iter_mut().zip(&mut magnitudes).enumerate() {
                for extra in [bias.as_ref().map(|b| b[i % cols]), residual.as_ref().map(|r| r[i])].into_iter().flatten() {
                    *value += f64::from(extra);
                    *magnitude += f64::from(extra.abs());
                }
                *value = value.max(0.0);
            }
            for isa in Isa::available() {
                let layer = MatMul::pack(isa, depth, cols, &right, transposed, bias.as_deref(), Clamp::RELU).unwrap();
                for threads in 1..=3 {
                    let mut y = vec![f32::NAN; rows * cols];
                    layer.run(&left, residual.as_deref(), &mut y, &Pool::kept(threads)).unwrap();
                    assert_close(&y, &expected, &magnitudes, &format!("{} {threads} {shape:?}", isa.name()));
                }
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(MatMul::pack(Isa::Scalar, 0, 3, &[], false, None, Clamp::NONE).is_err());
        assert!(MatMul::pack(Isa::Scalar, 2, 3, &[0.0; 5], false, None, Clamp::NONE).is_err());
        assert!(MatMul::pack(Isa::Scalar, usize::MAX, 3, &[0.0; 5], false, None, Clamp::NONE).is_err());
        let layer = MatMul::pack(Isa::Scalar, 2, 3, &[0.0; 6], false, None, Clamp::NONE).unwrap();
        let pool = Pool::new(1);
        assert!(layer.run(&[0.0; 3], None, &mut [0.0; 3], &pool).is_err());
        assert!(layer.run(&[0.0; 4], None, &mut [0.0; 5], &pool).is_err());
        assert_eq!(layer.run(&[0.0; 4], None, &mut [0.0; 6], &pool), Ok(()));
        assert_eq!(layer.run(&[], None, &mut [], &pool), Ok(()));
    }
}
