use qing_tensor::Tensor;

use super::{
    AveragePool,
    support::{elementwise::each_index, sizes},
};
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// What flows back through an [`AveragePool`](super::AveragePool): every value of `dY` is shared by the values of its
    /// window, each of which collects from all windows it is in.
    AveragePoolGrad = "AveragePoolGrad" in "qing" {
        /// Whether the last, partial window counts.
        ceil_mode: bool = false,
        /// Whether taps in the padding count: their share is lost.
        count_include_pad: bool = false,
        /// Distance between taps, per spatial axis; 1 if empty.
        dilations: Vec<i64> = vec![],
        /// Sizes of the spatial axes that were pooled.
        input_shape: Vec<i64> = vec![],
        /// Taps per spatial axis.
        kernel_shape: Vec<i64> = vec![],
        /// Begins of all spatial axes, then ends; 0 if empty.
        pads: Vec<i64> = vec![],
        /// Step per spatial axis; 1 if empty.
        strides: Vec<i64> = vec![],
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::None("second derivatives are not taken"),
    cases: cases
}

impl AveragePoolGrad {
    /// The pooling whose gradient this is.
    pub fn pool(&self) -> AveragePool {
        AveragePool {
            ceil_mode: self.ceil_mode,
            count_include_pad: self.count_include_pad,
            dilations: self.dilations.clone(),
            kernel_shape: self.kernel_shape.clone(),
            pads: self.pads.clone(),
            strides: self.strides.clone(),
            ..AveragePool::default()
        }
    }

    /// Sizes of the spatial axes that were pooled.
    ///
    /// # Errors
    /// If there are none or one is negative.
    pub fn input(&self) -> Result<Vec<usize>, OpError> {
        if self.input_shape.is_empty() {
            return Err(OpError::invalid("input_shape is required"));
        }
        self.input_shape.iter().map(|n| sizes::dimension(*n)).collect()
    }
}

impl Op for AveragePoolGrad {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (input, pool, element) = (self.input()?, self.pool(), cx.element(0)?);
        let axes = pool.window().axes(&input, &pool.kernel()?)?;
        let Some(dy) = cx.shape(0)? else { return Ok(vec![Type::maybe(element, None)]) };
        let fits = dy.len() == axes.len() + 2
            && dy[2..].iter().zip(&axes).all(|(d, axis)| d.known().is_none_or(|n| n == axis.output));
        if !fits {
            let want: Vec<usize> = axes.iter().map(|a| a.output).collect();
            return Err(OpError::invalid(format!("dY of {} where pooling gives {want:?}", cx.ty(0)?)));
        }
        let shape = dy[..2].iter().cloned().chain(input.into_iter().map(Dim::Known)).collect();
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (dy, input, pool) = (cx.input(0)?, self.input()?, self.pool());
        let kernel = pool.kernel()?;
        let axes = pool.window().axes(&input, &kernel)?;
        let spatial: Vec<usize> = axes.iter().map(|a| a.output).collect();
        if dy.rank() != axes.len() + 2 || dy.shape()[2..] != spatial[..] || !dy.element().is_float() {
            return Err(OpError::invalid(format!("dY {dy:?} where pooling gives {spatial:?}")));
        }
        let shape = [&dy.shape()[..2], &input].concat();
        let (area, positions) = (input.iter().product::<usize>(), spatial.iter().product::<usize>());
        let mut dx = vec![0.0; sizes::limited(&shape)?];
        let dys = dy.to_f64s();
        let mut position = 0;
        each_index(&spatial, |at| {
            let count: usize = axes.iter().zip(at).map(|(axis, at)| pool.taps(axis, *at)).product();
            each_index(&kernel, |k| {
                let to =
                    axes.iter().enumerate().try_fold(0, |i, (d, axis)| Some(i * axis.input + axis.tap(at[d], k[d])?));
                if let Some(to) = to {
                    for plane in 0..shape[0] * shape[1] {
                        dx[plane * area + to] += dys[plane * positions + position] / count as f64;
                    }
                }
            });
            position += 1;
        });
        Ok(vec![Tensor::new(&shape, dx)?.cast(dy.element())])
    }
}

fn cases() -> Vec<Case> {
    let op = |input: &[i64], kernel: &[i64]| AveragePoolGrad {
        input_shape: input.to_vec(),
        kernel_shape: kernel.to_vec(),
        ..AveragePoolGrad::default()
    };
    let padded = AveragePoolGrad { pads: vec![1, 1], strides: vec![2], ..op(&[3], &[2]) };
    vec![
        Case::new("shares_overlap", op(&[3], &[2]))
            .f32(&[1, 1, 2], &[2., 4.])
            .gives(&[1, 1, 3], &[1., 3., 2.]),
        Case::new("planes", AveragePoolGrad { strides: vec![2, 2], ..op(&[2, 2], &[2, 2]) })
            .f32(&[1, 2, 1, 1], &[4., 8.])
            .gives(&[1, 2, 2, 2], &[1., 1., 1., 1., 2., 2., 2., 2.]),
        // The first window has one value, the second two.
        Case::new("padding_does_not_count", padded.clone()).f32(&[1, 1, 2], &[2., 4.]).gives(&[1, 1, 3], &[2., 2., 2.]),
        Case::new("padding_counts", AveragePoolGrad { count_include_pad: true, ..padded })
            .f32(&[1, 1, 2], &[2., 4.])
            .gives(&[1, 1, 3], &[1., 2., 2.]),
        Case::new("partial_window", AveragePoolGrad { ceil_mode: true, strides: vec![2], ..op(&[3], &[2]) })
            .f32(&[1, 1, 2], &[2., 4.])
            .gives(&[1, 1, 3], &[1., 1., 4.]),
        Case::new("dilation", AveragePoolGrad { dilations: vec![2], ..op(&[3], &[2]) })
            .f32(&[1, 1, 1], &[6.])
            .gives(&[1, 1, 3], &[3., 0., 3.]),
    ]
}
