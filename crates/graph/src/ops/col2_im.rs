use qing_tensor::Tensor;

use super::support::{
    elementwise::each_index,
    sizes::{dimension, limited},
    window::WindowAttrs,
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The sum of overlapping blocks: `[batch, channels·block, blocks]` to `[batch, channels, image…]`; the reverse of taking
    /// the windows of a convolution apart. Inputs: data, image shape, block shape.
    Col2Im = "Col2Im" {
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

fn dimensions(tensor: &Tensor) -> Result<Vec<usize>, OpError> {
    tensor.to_i64s().into_iter().map(dimension).collect()
}

impl Op for Col2Im {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = match (&x.shape, cx.constant(1), cx.constant(2)) {
            (Some(dims), Some(image), Some(block)) if dims.len() == 3 => {
                let taps = limited(&dimensions(block)?)?.max(1);
                let mut shape = vec![dims[0].clone(), dims[1].map(|c| c / taps)];
                shape.extend(dimensions(image)?.into_iter().map(Dim::Known));
                Some(shape)
            }
            _ => None,
        };
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, image, block) = (cx.input(0)?, dimensions(cx.input(1)?)?, dimensions(cx.input(2)?)?);
        let window = WindowAttrs {
            auto_pad: "NOTSET",
            pads: &self.pads,
            strides: &self.strides,
            dilations: &self.dilations,
            ceil: false,
        };
        let axes = window.axes(&image, &block)?;
        let positions: Vec<usize> = axes.iter().map(|a| a.output).collect();
        let (taps, blocks) = (limited(&block)?, limited(&positions)?);
        let &[batch, columns, length] = x.shape() else {
            return Err(OpError::invalid(format!("data of shape {:?}; expected rank 3", x.shape())));
        };
        if taps == 0 || !columns.is_multiple_of(taps) || length != blocks {
            return Err(OpError::invalid(format!("data of shape {:?} for {blocks} blocks of {taps}", x.shape())));
        }
        let channels = columns / taps;
        let shape = [&[batch, channels][..], &image].concat();
        let area: usize = image.iter().product();
        let mut y = vec![0.0; limited(&shape)?];
        // The tap and position of every column entry, and the place in the image it adds to.
        let mut pairs = vec![];
        let mut tap = 0;
        each_index(&block, |k| {
            let mut position = 0;
            each_index(&positions, |at| {
                let to =
                    axes.iter().enumerate().try_fold(0, |i, (d, axis)| Some(i * axis.input + axis.tap(at[d], k[d])?));
                pairs.extend(to.map(|to| (tap * length + position, to)));
                position += 1;
            });
            tap += 1;
        });
        let values = x.to_f64s();
        for plane in 0..batch * channels {
            let (from, to) = (&values[plane * taps * length..], &mut y[plane * area..][..area]);
            pairs.iter().for_each(|(i, j)| to[*j] += from[*i]);
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, dy) = (cx.input(0)?, cx.dy()?);
        let (image, block) = (dimensions(&cx.constant_input(1)?)?, dimensions(&cx.constant_input(2)?)?);
        let (shape, taps) = (cx.shape(x)?, limited(&block)?);
        // A convolution with one output for each tap takes the windows apart again.
        let mut one_each = vec![0.0; limited(&[taps, taps])?];
        (0..taps).for_each(|i| one_each[i * taps + i] = 1.0);
        let weights = Tensor::new::<f64>(&[&[taps, 1], &block[..]].concat(), one_each)?;
        let planes = cx.reshape(dy, &[&[shape[0] * (shape[1] / taps), 1], &image[..]].concat())?;
        let op = super::Conv {
            dilations: self.dilations.clone(),
            pads: self.pads.clone(),
            strides: self.strides.clone(),
            ..super::Conv::default()
        };
        let apart = cx.emit(op, &[planes, cx.tensor(weights.cast(cx.element(dy)))])?;
        Ok(vec![Some(cx.reshape(apart, &shape)?), None, None])
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Blocks of two values at positions 0, 1, 2 overlap in the middle.
        Case::new("overlapping", Col2Im::default())
            .f32(&[1, 2, 3], &[1., 2., 3., 10., 20., 30.])
            .i64s(&[4])
            .i64s(&[2])
            .gives(&[1, 1, 4], &[1., 12., 23., 30.]),
        Case::new("side_by_side", Col2Im { strides: vec![1, 2], ..Col2Im::default() })
            .f32(&[1, 2, 2], &[1., 2., 10., 20.])
            .i64s(&[1, 4])
            .i64s(&[1, 2])
            .gives(&[1, 1, 1, 4], &[1., 10., 2., 20.]),
    ]
}
