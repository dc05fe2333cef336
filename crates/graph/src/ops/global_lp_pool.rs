use qing_tensor::Tensor;

use super::support::window::{global, global_dims};
use crate::{Backward, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// The norm over all spatial axes of `X [batch, channels, spatial…]`.
    GlobalLpPool = "GlobalLpPool" {
        /// Order of the norm.
        p: i64 = 2,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for GlobalLpPool {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let shape = x.shape.as_deref().map(global_dims).transpose()?;
        Ok(vec![Type::maybe(x.element, shape)])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let (shape, _, area) = global(x)?;
        let p = self.p as f64;
        let norm = |plane: &[f64]| plane.iter().map(|v| v.abs().powf(p)).sum::<f64>().powf(1.0 / p);
        let y: Vec<f64> = x.to_f64s().chunks_exact(area).map(norm).collect();
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let (x, y, dy) = (cx.input(0)?, cx.output(0)?, cx.dy()?);
        // sign(x) · (|x| / y)^(p − 1); zero where all is zero.
        let ratio = cx.div(cx.emit(super::Abs {}, &[x])?, y)?;
        let power = cx.emit(super::Pow {}, &[ratio, cx.scalar(x, self.p as f64 - 1.0)])?;
        let slope = cx.mul(cx.emit(super::Sign {}, &[x])?, power)?;
        Ok(vec![Some(cx.masked(cx.above(y, 0.0)?, cx.mul(dy, slope)?)?)])
    }
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("planes", GlobalLpPool::default()).f32(&[1, 2, 2], &[3., 4., -5., 12.]).gives(&[1, 2, 1], &[5., 13.]),
    ]
}
