use qing_tensor::Tensor;

use super::support::{elementwise::each_index, sizes::shape_of};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Where the positions of an image `[batch, channels, height, width]` (or with depth) go under affine maps
    /// `[batch, 2, 3]` (or `[batch, 3, 4]`): coordinates from −1 to 1, for `GridSample`.
    AffineGrid = "AffineGrid" {
        /// Whether −1 and 1 are the centres of the outermost positions, rather than their edges.
        align_corners: bool = false,
    }
    inputs: 2..=2, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for AffineGrid {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(0)?;
        let Some(size) = cx.constant(1).map(|t| shape_of(&t.to_i64s())).transpose()? else {
            return Ok(vec![Type::maybe(element, None)]);
        };
        if !(4..=5).contains(&size.len()) {
            return Err(OpError::invalid(format!("an image of size {size:?}")));
        }
        let mut shape: Vec<Dim> = [&size[..1], &size[2..]].concat().into_iter().map(Dim::Known).collect();
        shape.push(Dim::Known(size.len() - 2));
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (theta, size) = (cx.input(0)?, shape_of(&cx.input(1)?.to_i64s())?);
        let axes = size.len().saturating_sub(2);
        if !(2..=3).contains(&axes) || theta.shape() != [size[0], axes, axes + 1] {
            return Err(OpError::invalid(format!("maps of {:?} for an image of {size:?}", theta.shape())));
        }
        let maps = theta.to_f64s();
        let coordinate = |i: usize, n: usize| match self.align_corners {
            true if n == 1 => -1.0,
            true => 2.0 * i as f64 / (n as f64 - 1.0) - 1.0,
            false => (2.0 * i as f64 + 1.0) / n as f64 - 1.0,
        };
        let spatial = &size[2..];
        let mut grid = vec![];
        for map in maps.chunks_exact(axes * (axes + 1)) {
            each_index(spatial, |at| {
                // The map takes x first, the image has it last.
                let mut point: Vec<f64> = at.iter().zip(spatial).map(|(i, n)| coordinate(*i, *n)).rev().collect();
                point.push(1.0);
                grid.extend(map.chunks_exact(axes + 1).map(|row| row.iter().zip(&point).map(|(a, b)| a * b).sum::<f64>()));
            });
        }
        let shape = [&size[..1], spatial, &[axes]].concat();
        Ok(vec![Tensor::new(&shape, grid)?.cast(theta.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (theta, dy) = (cx.input(0)?, cx.dy()?);
        let size = shape_of(&cx.constant_input(1)?.to_i64s())?;
        let (axes, points) = (size.len() - 2, size[2..].iter().product::<usize>());
        // What the grid is made of shows in the maps that pick one coordinate each.
        let mut unit = vec![0.0; (axes + 1) * axes * (axes + 1)];
        (0..=axes).for_each(|j| unit[j * axes * (axes + 1) + j] = 1.0);
        let unit = Tensor::new::<f64>(&[axes + 1, axes, axes + 1], unit)?;
        let mut one_each: Vec<i64> = size.iter().map(|n| *n as i64).collect();
        one_each[0] = axes as i64 + 1;
        let sizes = Tensor::vector(one_each);
        let picked = self.eval(&Eval { inputs: &[Some(&unit), Some(&sizes)], types: &[None, None], outputs: &[] })?.remove(0);
        let base = picked.take(&[axes + 1, points], (0..(axes + 1) * points).map(|i| i * axes))?;
        let base = cx.tensor(base.cast(cx.element(theta)));
        let by_axis = cx.transpose(cx.reshape(dy, &[size[0], points, axes])?, &[0, 2, 1])?;
        Ok(vec![Some(cx.matmul(by_axis, cx.transpose_last(base)?)?), None])
    }
}

fn cases() -> Vec<Case> {
    let inputs = |name: &str, align_corners: bool| {
        // x is doubled, y moved by one half.
        Case::new(name, AffineGrid { align_corners })
            .f32(&[1, 2, 3], &[2., 0., 0., 0., 1., 0.5])
            .i64s(&[1, 1, 1, 2])
    };
    vec![
        inputs("edges", false).gives(&[1, 1, 2, 2], &[-1., 0.5, 1., 0.5]),
        inputs("centres", true).gives(&[1, 1, 2, 2], &[-2., -0.5, 2., -0.5]),
    ]
}
