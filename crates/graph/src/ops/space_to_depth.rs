use qing_tensor::{Tensor, strides};

use super::support::{REQUIRED, movement::moved};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Moves blocks of space into channels: `[batch, channels, height, width]` becomes
    /// `[batch, channels·b², height/b, width/b]`, channels ordered by block row, block column, channel.
    SpaceToDepth = "SpaceToDepth" {
        /// Side `b` of a block.
        blocksize: i64 = REQUIRED,
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for SpaceToDepth {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (x, b) = (cx.ty(0)?, super::depth_to_space::block_side(self.blocksize)?);
        let shape = match x.shape.as_deref() {
            None => vec![Dim::Unknown; 4],
            Some([n, c, h, w]) => {
                if [h, w].iter().any(|d| d.known().is_some_and(|d| d % b != 0)) {
                    return Err(OpError::invalid(format!("{h}×{w} values into blocks of {b}×{b}")));
                }
                vec![n.clone(), c.map(|c| c.saturating_mul(b * b)), h.map(|h| h / b), w.map(|w| w / b)]
            }
            Some(dims) => return Err(OpError::invalid(format!("a tensor of rank {}; expected 4", dims.len()))),
        };
        Ok(vec![x.with_shape(Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, b) = (cx.input(0)?, super::depth_to_space::block_side(self.blocksize)?);
        let &[n, c, h, w] = x.shape() else {
            return Err(OpError::invalid(format!("a tensor of shape {:?}; expected rank 4", x.shape())));
        };
        if h % b != 0 || w % b != 0 {
            return Err(OpError::invalid(format!("{h}×{w} values into blocks of {b}×{b}")));
        }
        let shape = [n, c.saturating_mul(b * b), h / b, w / b];
        let own = strides(x.shape());
        let from = |at: &[usize]| {
            let (block, channel) = (at[1] / c, at[1] % c);
            at[0] * own[0] + channel * own[1] + (at[2] * b + block / b) * own[2] + at[3] * b + block % b
        };
        Ok(vec![moved(x, &shape, from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let op = super::DepthToSpace { blocksize: self.blocksize, ..super::DepthToSpace::default() };
        Ok(vec![Some(cx.emit(op, &[cx.dy()?])?)])
    }
}

fn cases() -> Vec<Case> {
    let x = [0., 1., 2., 3., 4., 5., 6., 7.];
    let op = || SpaceToDepth { blocksize: 2 };
    vec![
        Case::new("one_channel", op())
            .f32(&[1, 1, 2, 4], &x)
            .gives(&[1, 4, 1, 2], &[0., 2., 1., 3., 4., 6., 5., 7.]),
        Case::new("two_channels", op())
            .f32(&[1, 2, 2, 2], &x)
            .gives(&[1, 8, 1, 1], &[0., 4., 1., 5., 2., 6., 3., 7.]),
    ]
}
