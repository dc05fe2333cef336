use qing_tensor::Tensor;

use super::support::{
    axes::{Along, normalize},
    fourier::{mirrored, transform},
    sizes::{dimension, limited, single},
};
use crate::{Backward, Gradients, AttrValue, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, Type, op};

op! {
    /// The discrete Fourier transform along an axis of real values `[…, 1]` or complex ones `[…, 2]`.
    Dft = "DFT" {
        /// Whether to transform back.
        inverse: bool = false,
        /// Whether the spectrum is its first half only, the rest being its mirror image.
        onesided: bool = false,
    }
    inputs: 1..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 20 the axis was an attribute, 1 by default.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if node.opset < 20 {
        let axis = match node.attrs.remove("axis") {
            Some(AttrValue::Int(axis)) => axis,
            _ => 1,
        };
        node.constant(2, "axis", Tensor::scalar(axis));
    }
    Ok(())
}

impl Dft {
    /// The length of the transform, of a line of `length` values.
    fn length(&self, wanted: Option<&Tensor>, length: usize) -> Result<usize, OpError> {
        match wanted {
            Some(wanted) => dimension(single(wanted, "dft_length")?),
            None if self.inverse && self.onesided => Ok(2 * length.saturating_sub(1)),
            None => Ok(length),
        }
    }

    /// Results along the axis, and whether they are complex.
    fn results(&self, n: usize) -> (usize, usize) {
        match (self.onesided, self.inverse) {
            (true, false) => (n / 2 + 1, 2),
            (true, true) => (n, 1),
            (false, _) => (n, 2),
        }
    }
}

impl Op for Dft {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let Some(dims) = &x.shape else { return Ok(vec![Type::maybe(x.element, None)]) };
        let mut shape = dims.clone();
        if let Some(last) = shape.last_mut() {
            *last = Dim::Known(self.results(0).1);
        }
        let axis = match (cx.optional(2), cx.constant(2)) {
            (None, _) => -2,
            (Some(_), Some(axis)) => single(axis, "axis")?,
            (Some(_), None) => return Ok(vec![Type::maybe(x.element, Some(vec![Dim::Unknown; dims.len()]))]),
        };
        let axis = normalize(axis, dims.len())?;
        shape[axis] = match (dims[axis].known(), cx.optional(1), cx.constant(1)) {
            (_, Some(_), None) | (None, None, _) => Dim::Unknown,
            (length, _, wanted) => Dim::Known(self.results(self.length(wanted, length.unwrap_or(0))?).0),
        };
        Ok(vec![Type::maybe(x.element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let axis = cx.optional(2).map_or(Ok(-2), |t| single(t, "axis"))?;
        let axis = normalize(axis, x.rank())?;
        let Some(&parts @ (1 | 2)) = x.shape().last().filter(|_| axis + 1 < x.rank()) else {
            return Err(OpError::invalid(format!("axis {axis} of {:?}; expected […, 1] or […, 2]", x.shape())));
        };
        let n = self.length(cx.optional(1), x.shape()[axis])?;
        let (bins, kinds) = self.results(n);
        let mut shape = x.shape().to_vec();
        shape[axis] = bins;
        *shape.last_mut().unwrap_or(&mut 0) = kinds;
        let mut y = vec![0.0; limited(&shape)?];
        if n == 0 || y.is_empty() {
            return Err(OpError::invalid(format!("a transform of {n} values of {:?}", x.shape())));
        }
        let values = x.to_f64s();
        let along = Along::new(&x.shape()[..x.rank() - 1], axis);
        for (o, i) in (0..along.outer).flat_map(|o| (0..along.inner).map(move |i| (o, i))) {
            let complex = |t: usize| {
                let at = ((o * along.length + t) * along.inner + i) * parts;
                (values[at], if parts == 2 { values[at + 1] } else { 0.0 })
            };
            let mut line: Vec<(f64, f64)> = (0..along.length).map(complex).collect();
            if self.inverse && self.onesided {
                line = mirrored(&line, n);
            }
            for (k, (re, im)) in transform(&line, n, bins, self.inverse).into_iter().enumerate() {
                let at = ((o * bins + k) * along.inner + i) * kinds;
                y[at] = re;
                if kinds == 2 {
                    y[at + 1] = im;
                }
            }
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        let (shape, given) = (cx.shape(x)?, cx.shape(dy)?);
        let rank = shape.len();
        let axis = normalize(cx.optional_constant(2)?.map_or(Ok(-2), |t| single(&t, "axis"))?, rank)?;
        let (length, parts, bins, kinds) = (shape[axis], shape[rank - 1], given[axis], given[rank - 1]);
        // The transform is linear: its matrix is what it makes of the unit vectors.
        let n = length * parts;
        let mut units = vec![0.0; limited(&[n, n])?];
        (0..n).for_each(|i| units[i * n + i] = 1.0);
        let units = Tensor::new::<f64>(&[n, length, parts], units)?;
        let (wanted, along) = (cx.optional_constant(1)?, Tensor::scalar(1i64));
        let inputs = [Some(&units), wanted.as_ref(), Some(&along)];
        let matrix = self.eval(&Eval { inputs: &inputs, types: &[None; 3], outputs: &[] })?.remove(0);
        let matrix = cx.tensor(matrix.reshaped(&[n, bins * kinds])?.cast(cx.element(x)));
        // Bins and their parts side by side at the end, and back.
        let mut order: Vec<usize> = (0..rank - 1).filter(|i| *i != axis).collect();
        let outer: Vec<usize> = order.iter().map(|i| shape[*i]).collect();
        order.extend([axis, rank - 1]);
        let mut back = vec![0; rank];
        order.iter().enumerate().for_each(|(to, from)| back[*from] = to);
        let lines = cx.reshape(cx.transpose(dy, &order)?, &[&outer[..], &[bins * kinds]].concat())?;
        let dx = cx.matmul(lines, cx.transpose_last(matrix)?)?;
        let dx = cx.transpose(cx.reshape(dx, &[&outer[..], &[length, parts]].concat())?, &back)?;
        Ok(vec![Some(dx), None, None])
    }
}

fn cases() -> Vec<Case> {
    let half = Dft { onesided: true, ..Dft::default() };
    vec![
        Case::new("real", Dft::default())
            .f32(&[1, 4, 1], &[1., 2., 3., 4.])
            .gives(&[1, 4, 2], &[10., 0., -2., 2., -2., 0., -2., -2.]),
        Case::new("inverse", Dft { inverse: true, ..Dft::default() })
            .f32(&[1, 4, 2], &[10., 0., -2., 2., -2., 0., -2., -2.])
            .gives(&[1, 4, 2], &[1., 0., 2., 0., 3., 0., 4., 0.]),
        Case::new("half", half).f32(&[1, 4, 1], &[1., 2., 3., 4.]).gives(&[1, 3, 2], &[10., 0., -2., 2., -2., 0.]),
        Case::new("half_inverse", Dft { inverse: true, onesided: true })
            .f32(&[1, 3, 2], &[10., 0., -2., 2., -2., 0.])
            .gives(&[1, 4, 1], &[1., 2., 3., 4.]),
    ]
}
