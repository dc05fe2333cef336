use qing_tensor::Tensor;

use super::support::heads::{Heads, head_dims};
use crate::{Backward, Dim, Gradients, Case, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Pairs of values of each head, `[batch, heads, length, size]` or `[batch, length, heads·size]`, rotated by the angle
    /// of their position, whose cosines and sines are given.
    RotaryEmbedding = "RotaryEmbedding" {
        /// Whether a pair is two neighbours, rather than one value of each half.
        interleaved: bool = false,
        /// Heads, where the input has three axes.
        num_heads: Option<i64> = None,
        /// How many values of a head are rotated; all if 0.
        rotary_embedding_dim: i64 = 0,
    }
    inputs: 3..=4, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for RotaryEmbedding {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        if let Some(dims) = &x.shape {
            head_dims(dims, self.num_heads)?;
        }
        Ok(vec![Type::maybe(x.element, x.shape.clone())])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let mut heads = Heads::new(x, self.num_heads)?;
        let width = match usize::try_from(self.rotary_embedding_dim) {
            Ok(0) => heads.size,
            Ok(n) if n <= heads.size => n,
            _ => return Err(OpError::invalid(format!("{} rotated of {}", self.rotary_embedding_dim, heads.size))),
        };
        let half = width / 2;
        let (cos, sin) = (cx.input(1)?, cx.input(2)?);
        if cos.shape() != sin.shape() || cos.shape().last() != Some(&half) || width % 2 != 0 {
            return Err(OpError::invalid(format!("cosines of {:?}, sines of {:?}", cos.shape(), sin.shape())));
        }
        let rows = cos.len().checked_div(half).unwrap_or(0);
        let positions: Vec<i64> = match cx.optional(3) {
            Some(ids) => ids.to_i64s(),
            None => (0..(heads.batch * heads.length) as i64).collect(),
        };
        let in_range = |p: &i64| usize::try_from(*p).is_ok_and(|p| p < rows);
        if positions.len() != heads.batch * heads.length || (half > 0 && !positions.iter().all(in_range)) {
            return Err(OpError::invalid(format!("{} positions, {rows} angles", positions.len())));
        }
        let (cos, sin) = (cos.to_f64s(), sin.to_f64s());
        let all: Vec<(usize, usize, usize)> = heads.rows().collect();
        for (b, h, i) in all {
            let angle = positions[b * heads.length + i] as usize * half;
            let line = heads.at_mut(b, h, i);
            for p in 0..half {
                let (first, second) = if self.interleaved { (2 * p, 2 * p + 1) } else { (p, half + p) };
                let (c, s) = (cos[angle + p], sin[angle + p]);
                let (real, imaginary) = (line[first], line[second]);
                line[first] = c * real - s * imaginary;
                line[second] = s * real + c * imaginary;
            }
        }
        Ok(vec![heads.tensor(x.rank() == 3)?.cast(x.element())])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| {
            let x = cx.input(0)?;
            let shape = cx.shape(x)?;
            let dims: Vec<Dim> = shape.iter().map(|n| Dim::Known(*n)).collect();
            let dims: Vec<usize> = head_dims(&dims, self.num_heads)?.iter().filter_map(Dim::known).collect();
            let [batch, heads, length, size] = dims[..] else { return Err(OpError::invalid("dimensions")) };
            let lines = if shape.len() == 4 {
                x
            } else {
                cx.transpose(cx.reshape(x, &[batch, length, heads, size])?, &[0, 2, 1, 3])?
            };
            let width = if self.rotary_embedding_dim == 0 { size } else { self.rotary_embedding_dim as usize };
            let half = width / 2;
            let angles = |i: usize| {
                let all = cx.cast_like(cx.input(i)?, x)?;
                let chosen = match cx.optional(3) {
                    None => all,
                    Some(ids) => {
                        let rows = cx.shape(all)?.iter().product::<usize>() / half.max(1);
                        cx.emit(super::Gather { axis: 0 }, &[cx.reshape(all, &[rows, half])?, ids])?
                    }
                };
                // A pair of neighbours, or two values half a head apart.
                let last: &[usize] = if self.interleaved { &[half, 1] } else { &[1, half] };
                cx.reshape(chosen, &[&[batch, 1, length], last].concat())
            };
            let (cos, sin) = (angles(1)?, angles(2)?);
            let (pairs, axis) = if self.interleaved { ([half, 2], 4) } else { ([2, half], 3) };
            let turned = cx.slice(lines, 3, 0, width)?;
            let turned = cx.reshape(turned, &[&[batch, heads, length], &pairs[..]].concat())?;
            let (real, imaginary) = (cx.slice(turned, axis, 0, 1)?, cx.slice(turned, axis, 1, 2)?);
            let new_real = cx.sub(cx.mul(cos, real)?, cx.mul(sin, imaginary)?)?;
            let new_imaginary = cx.add(cx.mul(sin, real)?, cx.mul(cos, imaginary)?)?;
            let turned = cx.emit(super::Concat { axis: axis as i64 }, &[new_real, new_imaginary])?;
            let mut y = cx.reshape(turned, &[batch, heads, length, width])?;
            if width < size {
                y = cx.emit(super::Concat { axis: 3 }, &[y, cx.slice(lines, 3, width, size)?])?;
            }
            if shape.len() == 3 {
                y = cx.reshape(cx.transpose(y, &[0, 2, 1, 3])?, &shape)?;
            }
            Ok(vec![Some(y)])
        })
    }
}

fn cases() -> Vec<Case> {
    let inputs = |name: &str, op: RotaryEmbedding| {
        // Position 0 does not turn, position 1 turns by a right angle.
        Case::new(name, op)
            .f32(&[1, 1, 1, 4], &[1., 2., 3., 4.])
            .f32(&[2, 2], &[1., 1., 0., 0.])
            .f32(&[2, 2], &[0., 0., 1., 1.])
            .input(Tensor::new(&[1, 1], vec![1i64]).expect("fits"))
    };
    vec![
        inputs("halves", RotaryEmbedding::default()).gives(&[1, 1, 1, 4], &[-3., -4., 1., 2.]),
        inputs("interleaved", RotaryEmbedding { interleaved: true, ..RotaryEmbedding::default() })
            .gives(&[1, 1, 1, 4], &[-2., 1., -4., 3.]),
    ]
}
