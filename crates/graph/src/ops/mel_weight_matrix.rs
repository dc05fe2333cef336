use qing_tensor::Tensor;

use super::support::{
    data_type::element_of,
    integers::one_value,
    sizes::{dimension, limited, single},
};
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The matrix that turns a spectrum into mel bins: triangles over the frequencies, evenly spaced as the ear hears.
    /// Inputs are the number of bins, the length of the transform, the sample rate, and the lowest and highest frequency.
    MelWeightMatrix = "MelWeightMatrix" {
        /// Element of the result, as ONNX numbers it.
        output_datatype: i64 = 1,
    }
    inputs: 5..=5, outputs: 1..=1,
    gradient: Gradient::None("it depends on sizes"),
    cases: cases
}

impl Op for MelWeightMatrix {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let size = |i: usize, f: fn(usize) -> usize| match cx.constant(i) {
            Some(t) => Ok(Dim::Known(f(dimension(single(t, "a size")?)?))),
            None => Ok::<Dim, OpError>(Dim::Unknown),
        };
        Ok(vec![Type::new(element_of(self.output_datatype)?, [size(1, |n| n / 2 + 1)?, size(0, |n| n)?])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let size = |i: usize| dimension(single(cx.input(i)?, "a size")?);
        let (bins, length, rate) = (size(0)?, size(1)?, size(2)?);
        let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
        let (low, high) = (mel(one_value(cx.input(3)?)?), mel(one_value(cx.input(4)?)?));
        let rows = length / 2 + 1;
        let mut y = vec![0.0; limited(&[rows, bins])?];
        if rate == 0 {
            return Err(OpError::invalid("a sample rate of 0"));
        }
        let step = (high - low) / (bins as f64 + 2.0);
        let edge = |i: usize| {
            let hertz = 700.0 * (10f64.powf((i as f64 * step + low) / 2595.0) - 1.0);
            ((length as f64 + 1.0) * hertz / rate as f64).floor() as usize
        };
        for bin in 0..bins {
            let (left, centre, right) = (edge(bin), edge(bin + 1), edge(bin + 2));
            if right > rows || centre >= rows {
                return Err(OpError::invalid(format!("frequencies up to bin {right} of {rows}")));
            }
            for row in left..centre {
                y[row * bins + bin] = (row - left) as f64 / (centre - left) as f64;
            }
            y[centre * bins + bin] = 1.0;
            for row in centre..right {
                y[row * bins + bin] = (right - row) as f64 / (right - centre) as f64;
            }
        }
        Ok(vec![Tensor::new(&[rows, bins], y)?.cast(element_of(self.output_datatype)?)])
    }
}

fn cases() -> Vec<Case> {
    // At 700 Hz and below, edges are nearly linear: 0, 222 and 515 Hz fall on rows 0, 1 and 4 of a transform of 8 at 1000 Hz.
    vec![
        Case::new("one_bin", MelWeightMatrix::default())
            .input(Tensor::scalar(1i64))
            .input(Tensor::scalar(8i64))
            .input(Tensor::scalar(1000i64))
            .input(Tensor::scalar(0f32))
            .input(Tensor::scalar(900f32))
            .gives(&[5, 1], &[0., 1., 2. / 3., 1. / 3., 0.]),
    ]
}
