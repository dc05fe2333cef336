use qing_tensor::Tensor;

use super::support::{
    fourier::transform,
    sizes::{dimension, limited, single},
};
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Fourier transforms of overlapping frames of a signal `[batch, length]`, `[…, 1]` or `[…, 2]`: inputs signal, step
    /// between frames, window, and length of a frame.
    Stft = "STFT" {
        /// Whether only the first half of each spectrum is wanted.
        onesided: bool = true,
    }
    inputs: 2..=4, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

/// Frames and results of each, for a signal of `length` values.
fn frames(length: usize, step: &Tensor, frame: usize, onesided: bool) -> Result<(usize, usize, usize), OpError> {
    let step = dimension(single(step, "frame_step")?)?;
    if step == 0 || frame == 0 || frame > length {
        return Err(OpError::invalid(format!("frames of {frame} every {step} of {length} values")));
    }
    Ok(((length - frame) / step + 1, step, if onesided { frame / 2 + 1 } else { frame }))
}

impl Op for Stft {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(0)?;
        let mut shape = vec![Dim::Unknown, Dim::Unknown, Dim::Unknown, Dim::Known(2)];
        if let Some([batch, length, ..]) = cx.shape(0)? {
            shape[0] = batch.clone();
            let window = cx.optional(2).and_then(|w| w.shape.as_ref()?.first()?.known());
            let frame = match (cx.optional(3), cx.constant(3)) {
                (Some(_), Some(frame)) => Some(dimension(single(frame, "frame_length")?)?),
                (Some(_), None) => None,
                (None, _) if cx.optional(2).is_some() => window,
                (None, _) => length.known(),
            };
            if let (Some(length), Some(step), Some(frame)) = (length.known(), cx.constant(1), frame) {
                let (count, _, bins) = frames(length, step, frame, self.onesided)?;
                (shape[1], shape[2]) = (Dim::Known(count), Dim::Known(bins));
            }
        }
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, window) = (cx.input(0)?, cx.optional(2));
        let (batch, length, parts) = match *x.shape() {
            [batch, length] => (batch, length, 1),
            [batch, length, parts @ (1 | 2)] => (batch, length, parts),
            _ => return Err(OpError::invalid(format!("a signal of shape {:?}", x.shape()))),
        };
        let frame = match cx.optional(3) {
            Some(frame) => dimension(single(frame, "frame_length")?)?,
            None => window.map_or(length, Tensor::len),
        };
        let (count, step, bins) = frames(length, cx.input(1)?, frame, self.onesided)?;
        let weights = window.map_or_else(|| vec![1.0; frame], Tensor::to_f64s);
        if weights.len() != frame {
            return Err(OpError::invalid(format!("a window of {} for frames of {frame}", weights.len())));
        }
        let shape = [batch, count, bins, 2];
        let mut y = Vec::with_capacity(limited(&shape)?);
        let values = x.to_f64s();
        for (b, f) in (0..batch).flat_map(|b| (0..count).map(move |f| (b, f))) {
            let complex = |(t, w): (usize, &f64)| {
                let at = (b * length + f * step + t) * parts;
                (values[at] * w, if parts == 2 { values[at + 1] * w } else { 0.0 })
            };
            let line: Vec<(f64, f64)> = weights.iter().enumerate().map(complex).collect();
            y.extend(transform(&line, frame, bins, false).into_iter().flat_map(|(re, im)| [re, im]));
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let x = cx.input(0)?;
            let (shape, window) = (cx.shape(x)?, cx.optional(2));
            let frame = match cx.optional_constant(3)? {
                Some(frame) => dimension(single(&frame, "frame_length")?)?,
                None => window.map_or(Ok(shape[1]), |w| Ok::<_, OpError>(cx.shape(w)?[0]))?,
            };
            let (count, step, _) = frames(shape[1], &cx.constant_input(1)?, frame, self.onesided)?;
            let parts = shape.get(2).copied().unwrap_or(1);
            let places = (0..count).flat_map(|f| (0..frame).map(move |t| (f * step + t) as i64)).collect();
            let places = cx.tensor(Tensor::new::<i64>(&[count, frame], places)?);
            let signal = cx.reshape(x, &[shape[0], shape[1], parts])?;
            let mut framed = cx.emit(super::Gather { axis: 1 }, &[signal, places])?;
            if let Some(window) = window {
                framed = cx.mul(framed, cx.reshape(cx.cast_like(window, x)?, &[frame, 1])?)?;
            }
            let axis = cx.tensor(Tensor::scalar(2i64));
            let dft = super::Dft { onesided: self.onesided, ..super::Dft::default() };
            Ok(vec![Some(cx.emit_all(dft, &[Some(framed), None, Some(axis)], 1)?[0])])
        })
    }
}

fn cases() -> Vec<Case> {
    vec![
        // Frames (1, 2) and (3, 4), the second value of each halved.
        Case::new("windowed", Stft::default())
            .f32(&[1, 4, 1], &[1., 2., 3., 4.])
            .input(Tensor::scalar(2i64))
            .f32(&[2], &[1., 0.5])
            .gives(&[1, 2, 2, 2], &[2., 0., 0., 0., 5., 0., 1., 0.]),
    ]
}
