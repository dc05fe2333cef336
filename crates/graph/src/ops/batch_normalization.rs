use qing_tensor::Tensor;

use super::support::axes::Along;
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, Type, op};

op! {
    /// `(X − mean) / √(var + epsilon) · scale + B` for each channel (axis 1) of `X`. In training mode mean and variance are
    /// those of the batch, and the running ones, mixed with them, are further outputs.
    BatchNormalization = "BatchNormalization" {
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
        /// Share of the old running mean and variance in the new ones.
        momentum: f32 = 0.9,
        /// Whether to normalize by the statistics of the batch.
        training_mode: bool = false,
    }
    inputs: 5..=5, outputs: 1..=3,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// Before opset 9 statistics could be per activation, and before opset 7 a flag said that this is a test.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("consumed_inputs");
    node.attrs.remove("is_test");
    if node.attrs.read("spatial", true)? {
        node.attrs.remove("spatial");
        return Ok(());
    }
    Err(OpError::unsupported("statistics of each activation (spatial = 0); expected of each channel"))
}

impl Op for BatchNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let channels = x.shape.as_ref().map(|s| s.get(1).cloned().unwrap_or(Dim::Known(1)));
        for i in 1..5 {
            let have = cx.shape(i)?;
            if let (Some(Some(want)), Some([have])) = (channels.as_ref().map(Dim::known), have)
                && have.known().is_some_and(|n| n != want)
            {
                return Err(OpError::invalid(format!("input {i} has {have} values for {want} channels")));
            }
        }
        let y = Type::maybe(x.element, x.shape.clone());
        if !self.training_mode {
            return Ok(vec![y]);
        }
        let running = |i| -> Result<Type, OpError> { Ok(cx.ty(i)?.with_shape(channels.clone().map(|c| vec![c]))) };
        Ok(vec![y, running(3)?, running(4)?])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let mut shape = x.shape().to_vec();
        if shape.is_empty() {
            return Err(OpError::invalid("a scalar has no channels"));
        }
        if shape.len() == 1 {
            shape.push(1);
        }
        let Along { outer, length: channels, inner } = Along::new(&shape, 1);
        let inputs: Vec<Vec<f64>> = (1..5).map(|i| Ok(cx.input(i)?.to_f64s())).collect::<Result<_, OpError>>()?;
        if let Some(odd) = inputs.iter().find(|v| v.len() != channels) {
            return Err(OpError::invalid(format!("{} statistics for {channels} channels", odd.len())));
        }
        let [scale, bias, mean, var] = &inputs[..] else { unreachable!("four inputs were read") };
        let xs = x.to_f64s();
        let mut y = vec![0.0; xs.len()];
        let (mut new_mean, mut new_var) = (mean.clone(), var.clone());
        let momentum = f64::from(self.momentum);
        for c in 0..channels {
            let of_channel = || (0..outer).flat_map(|o| (0..inner).map(move |i| (o * channels + c) * inner + i));
            let (mut m, mut v) = (mean[c], var[c]);
            if self.training_mode {
                let n = (outer * inner) as f64;
                m = of_channel().map(|i| xs[i]).sum::<f64>() / n;
                v = of_channel().map(|i| (xs[i] - m) * (xs[i] - m)).sum::<f64>() / n;
                new_mean[c] = mean[c] * momentum + m * (1.0 - momentum);
                new_var[c] = var[c] * momentum + v * (1.0 - momentum);
            }
            let factor = scale[c] / (v + f64::from(self.epsilon)).sqrt();
            for i in of_channel() {
                y[i] = (xs[i] - m) * factor + bias[c];
            }
        }
        let y = Tensor::new(x.shape(), y)?.cast(x.element());
        if !self.training_mode {
            return Ok(vec![y]);
        }
        let running = |v: Vec<f64>, i| -> Result<Tensor, OpError> { Ok(Tensor::vector(v).cast(cx.input(i)?.element())) };
        Ok(vec![y, running(new_mean, 3)?, running(new_var, 4)?])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, scale, dy) = (cx.input(0)?, cx.input(1)?, cx.dy()?);
        let rank = cx.rank(x)?;
        if self.training_mode {
            let training = super::BatchNormTraining { epsilon: self.epsilon };
            let statistics = cx.emit_all(training, &[Some(x), Some(scale), cx.optional(2)], 3)?;
            let op = super::BatchNormGrad { epsilon: self.epsilon };
            let all = cx.emit_all(op, &[x, scale, statistics[1], statistics[2], dy].map(Some), 3)?;
            return Ok(vec![Some(all[0]), Some(all[1]), Some(all[2]), None, None]);
        }
        let (mean, var) = (cx.input(3)?, cx.input(4)?);
        let inverse = cx.emit(super::Reciprocal {}, &[cx.sqrt(cx.offset(var, self.epsilon.into())?)?])?;
        let factor = cx.mul(scale, inverse)?;
        let mut all = vec![None; 5];
        if cx.wants(1) || cx.wants(4) {
            // Σ dY · (X − mean), for each channel.
            let centred = cx.sub(x, cx.along(mean, 1, rank)?)?;
            let product = cx.sum_to_channels(cx.mul(dy, centred)?)?;
            all[1] = cx.wanted(1, || cx.mul(product, inverse))?;
            all[4] = cx.wanted(4, || cx.scale(cx.mul(product, cx.mul(factor, cx.square(inverse)?)?)?, -0.5))?;
        }
        if cx.wants(2) || cx.wants(3) {
            let sum = cx.sum_to_channels(dy)?;
            all[2] = cx.wanted(2, || Ok(sum))?;
            all[3] = cx.wanted(3, || cx.neg(cx.mul(sum, factor)?))?;
        }
        all[0] = cx.wanted(0, || cx.mul(dy, cx.along(factor, 1, rank)?))?;
        Ok(all)
    }
}

fn cases() -> Vec<Case> {
    let inputs = |name: &str, op: BatchNormalization| {
        Case::new(name, op)
            .f32(&[1, 2, 2], &[1., 3., 10., 20.])
            .f32(&[2], &[2., 1.])
            .f32(&[2], &[0.5, 0.])
            .f32(&[2], &[1., 5.])
            .f32(&[2], &[3., 24.])
    };
    let exact = BatchNormalization { epsilon: 1.0, ..BatchNormalization::default() };
    let training = BatchNormalization { epsilon: 0.0, momentum: 0.5, training_mode: true };
    vec![
        // Divisors 2 and 5.
        inputs("inference", exact).gives(&[1, 2, 2], &[0.5, 2.5, 1., 3.]),
        // Batch means 2 and 15, variances 1 and 25.
        inputs("training", training)
            .gives(&[1, 2, 2], &[-1.5, 2.5, -1., 1.])
            .gives(&[2], &[1.5, 10.])
            .gives(&[2], &[2., 24.5]),
    ]
}
