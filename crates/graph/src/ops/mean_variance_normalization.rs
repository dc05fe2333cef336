use qing_tensor::{Tensor, broadcast_strides};

use super::support::{
    axes::normalize_all,
    elementwise::each_index,
};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// `(X − mean) / (√var + 1e-9)`, mean and variance over `axes`.
    MeanVarianceNormalization = "MeanVarianceNormalization" {
        /// The axes; those of an image and its batch by default.
        axes: Vec<i64> = vec![0, 2, 3],
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for MeanVarianceNormalization {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        if let Some(rank) = x.rank() {
            normalize_all(&self.axes, rank)?;
        }
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let axes = normalize_all(&self.axes, x.rank())?;
        let mut stats = x.shape().to_vec();
        axes.iter().for_each(|a| stats[*a] = 1);
        let steps = broadcast_strides(&stats, x.shape());
        let mut group = Vec::with_capacity(x.len());
        each_index(x.shape(), |at| group.push(at.iter().zip(&steps).map(|(i, s)| i * s).sum::<usize>()));
        let values = x.to_f64s();
        let count = stats.iter().product::<usize>();
        let n = (values.len() / count.max(1)) as f64;
        let (mut mean, mut var) = (vec![0.0; count], vec![0.0; count]);
        values.iter().zip(&group).for_each(|(v, g)| mean[*g] += v / n);
        values.iter().zip(&group).for_each(|(v, g)| var[*g] += (v - mean[*g]) * (v - mean[*g]) / n);
        let y = values.iter().zip(&group).map(|(v, g)| (v - mean[*g]) / (var[*g].sqrt() + 1e-9)).collect();
        Ok(vec![Tensor::new::<f64>(x.shape(), y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let x = cx.input(0)?;
            let axes = normalize_all(&self.axes, cx.rank(x)?)?;
            let centred = cx.sub(x, cx.mean(x, &axes)?)?;
            let deviation = cx.sqrt(cx.mean(cx.square(centred)?, &axes)?)?;
            Ok(vec![Some(cx.div(centred, cx.offset(deviation, 1e-9)?)?)])
        })
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Means 2 and 15, deviations 1 and 5.
        Case::new("per_channel", MeanVarianceNormalization::default())
            .f32(&[2, 2, 1, 1], &[1., 10., 3., 20.])
            .gives(&[2, 2, 1, 1], &[-1., -1., 1., 1.]),
    ]
}
