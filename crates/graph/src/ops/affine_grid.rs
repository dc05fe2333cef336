use qing_tensor::Tensor;

use super::support::{elementwise::each_index, sizes::shape_of};
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

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
