use qing_tensor::{Tensor, strides};

use super::support::{REQUIRED, movement::moved, sizes::dimension};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, QuantRule, Type, op};

op! {
    /// Moves channels into blocks of space: `[batch, channels, height, width]` becomes
    /// `[batch, channels/b², height·b, width·b]`. The sub-pixel upsampling of super-resolution networks.
    DepthToSpace = "DepthToSpace" {
        /// Side `b` of a block.
        blocksize: i64 = REQUIRED,
        /// Order of the channels: `DCR` block row, block column, channel; `CRD` channel, block row, block column.
        mode: String = "DCR".into(),
    }
    inputs: 1..=1, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

/// The side of a block.
///
/// # Errors
/// If it is not positive.
pub(super) fn block_side(blocksize: i64) -> Result<usize, OpError> {
    match dimension(blocksize)? {
        b if b > 0 && b <= 1 << 16 => Ok(b),
        b => Err(OpError::invalid(format!("a block size of {b}"))),
    }
}

impl Op for DepthToSpace {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let (x, b) = (cx.ty(0)?, block_side(self.blocksize)?);
        let shape = match x.shape.as_deref() {
            None => vec![Dim::Unknown; 4],
            Some([n, c, h, w]) => {
                if c.known().is_some_and(|c| c % (b * b) != 0) {
                    return Err(OpError::invalid(format!("{c} channels into blocks of {b}×{b}")));
                }
                let times = |d: &Dim| if b == 1 { d.clone() } else { d.map(|d| d.saturating_mul(b)) };
                vec![n.clone(), c.map(|c| c / (b * b)), times(h), times(w)]
            }
            Some(dims) => return Err(OpError::invalid(format!("a tensor of rank {}; expected 4", dims.len()))),
        };
        Ok(vec![x.with_shape(Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, b) = (cx.input(0)?, block_side(self.blocksize)?);
        let &[n, c, h, w] = x.shape() else {
            return Err(OpError::invalid(format!("a tensor of shape {:?}; expected rank 4", x.shape())));
        };
        if c % (b * b) != 0 {
            return Err(OpError::invalid(format!("{c} channels into blocks of {b}×{b}")));
        }
        let channels = c / (b * b);
        let shape = [n, channels, h.saturating_mul(b), w.saturating_mul(b)];
        let own = strides(x.shape());
        let depth_first = match self.mode.as_str() {
            "DCR" => true,
            "CRD" => false,
            other => return Err(OpError::invalid(format!("mode {other:?}"))),
        };
        let from = |at: &[usize]| {
            let block = at[2] % b * b + at[3] % b;
            let channel = if depth_first { block * channels + at[1] } else { at[1] * b * b + block };
            at[0] * own[0] + channel * own[1] + at[2] / b * own[2] + at[3] / b
        };
        Ok(vec![moved(x, &shape, from)?])
    }

    fn quantization(&self) -> QuantRule {
        QuantRule::Movement
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let x = cx.input(0)?;
        let packed = cx.emit(super::SpaceToDepth { blocksize: self.blocksize }, &[cx.dy()?])?;
        if self.mode == "DCR" {
            return Ok(vec![Some(packed)]);
        }
        // Space to depth has the block before the channel.
        let (shape, b) = (cx.shape(x)?, block_side(self.blocksize)?);
        let blocks = cx.reshape(packed, &[shape[0], b * b, shape[1] / (b * b), shape[2], shape[3]])?;
        Ok(vec![Some(cx.reshape(cx.transpose(blocks, &[0, 2, 1, 3, 4])?, &shape)?)])
    }
}

fn cases() -> Vec<Case> {
    let op = |mode: &str| DepthToSpace { blocksize: 2, mode: mode.into() };
    let x = [0., 1., 2., 3., 4., 5., 6., 7.];
    vec![
        Case::new("dcr", op("DCR")).f32(&[1, 8, 1, 1], &x).gives(&[1, 2, 2, 2], &[0., 2., 4., 6., 1., 3., 5., 7.]),
        Case::new("crd", op("CRD")).f32(&[1, 8, 1, 1], &x).gives(&[1, 2, 2, 2], &x),
        Case::new("wide", op("CRD"))
            .f32(&[1, 4, 1, 2], &x)
            .gives(&[1, 1, 2, 4], &[0., 2., 1., 3., 4., 6., 5., 7.]),
    ]
}
