use qing_tensor::Tensor;

use super::support::{
    axes::Along,
    normalization::{by_channel, channel_vectors, infer_channels, moments},
};
use crate::{Backward, Case, Eval, Gradient, Gradients, Infer, Op, OpError, Type, op};

op! {
    /// Batch normalization as training does it (Ioffe and Szegedy, 2015): `(X − mean) / √(var + epsilon) · scale + bias` for each
    /// channel (axis 1) of `X`, mean and biased variance being those of the batch, which are further outputs. Running
    /// statistics are kept outside.
    BatchNormTraining = "BatchNormTraining" in "qing" {
        /// Keeps the divisor from zero.
        epsilon: f32 = 1e-5,
    }
    inputs: 3..=3, outputs: 1..=3,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for BatchNormTraining {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let statistics = infer_channels(cx, &[1, 2])?;
        let x = cx.ty(0)?;
        Ok(vec![Type::maybe(x.element, x.shape.clone()), statistics.clone(), statistics])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (Along { length: channels, .. }, [scale, bias]) = channel_vectors(cx, [1, 2])?;
        let mut y = x.to_f64s();
        let (mut means, mut vars) = (vec![0.0; channels], vec![0.0; channels]);
        for (c, places) in by_channel(x.shape()).enumerate() {
            let values: Vec<f64> = places.iter().map(|i| y[*i]).collect();
            let (mean, var) = moments(&values);
            let factor = scale[c] / (var + f64::from(self.epsilon)).sqrt();
            places.iter().for_each(|i| y[*i] = (y[*i] - mean) * factor + bias[c]);
            (means[c], vars[c]) = (mean, var);
        }
        let vector = |v: Vec<f64>| Tensor::vector(v).cast(x.element());
        Ok(vec![Tensor::new(x.shape(), y)?.cast(x.element()), vector(means), vector(vars)])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, scale) = (cx.input(0)?, cx.input(1)?);
        let (mean, var) = match (cx.output(1), cx.output(2)) {
            (Ok(mean), Ok(var)) => (mean, var),
            _ => {
                let inputs = [Some(x), Some(scale), cx.optional(2)];
                let again = cx.emit_all(self.clone(), &inputs, 3)?;
                (again[1], again[2])
            }
        };
        let mut all = match cx.gradient(0) {
            None => vec![None; 3],
            Some(dy) => {
                let op = super::BatchNormGrad { epsilon: self.epsilon };
                let inputs = [x, scale, mean, var, dy].map(Some);
                cx.emit_all(op, &inputs, 3)?.into_iter().map(Some).collect()
            }
        };
        // What depends on the statistics themselves.
        let shape = cx.shape(x)?;
        let (rank, n) = (shape.len(), shape.iter().product::<usize>() as f64 / shape[1] as f64);
        let mut more = vec![];
        if let Some(dmean) = cx.gradient(1) {
            more.push(cx.expand(cx.along(cx.scale(dmean, 1.0 / n)?, 1, rank)?, &shape)?);
        }
        if let Some(dvar) = cx.gradient(2) {
            let centred = cx.sub(x, cx.along(mean, 1, rank)?)?;
            more.push(cx.mul(centred, cx.along(cx.scale(dvar, 2.0 / n)?, 1, rank)?)?);
        }
        for part in more {
            all[0] = Some(all[0].map_or(Ok(part), |sum| cx.add(sum, part))?);
        }
        Ok(all)
    }
}

fn cases() -> Vec<Case> {
    let x = [1., 3., 2., 2., 5., 7., 2., 10.];
    vec![
        // Channel 0 is 1, 3, 5, 7: mean 4, variance 5; channel 1 is 2, 2, 2, 10: mean 4, variance 12.
        Case::new("two_channels", BatchNormTraining { epsilon: 4.0 })
            .f32(&[2, 2, 2], &x)
            .f32(&[2], &[3., 2.])
            .f32(&[2], &[10., -1.])
            .gives(&[2, 2, 2], &[7., 9., -2., -2., 11., 13., -2., 2.])
            .gives(&[2], &[4., 4.])
            .gives(&[2], &[5., 12.]),
        Case::new("matrix", BatchNormTraining { epsilon: 0.0 })
            .f32(&[2, 1], &[1., 3.])
            .f32(&[1], &[2.])
            .f32(&[1], &[0.5])
            .gives(&[2, 1], &[-1.5, 2.5]),
    ]
}
