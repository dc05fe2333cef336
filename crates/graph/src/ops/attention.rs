use qing_tensor::{Element, Tensor, broadcast, broadcast_strides, element_count};

use super::support::{
    heads::{Heads, head_dims},
    softmax::softmax_line,
};
use crate::{ValueId, Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// Scaled dot-product attention, `softmax(Q·Kᵀ·scale + mask)·V`, with grouped heads and a cache of past keys and values.
    /// Inputs `Q`, `K`, `V` (`[batch, heads, length, size]`, or `[batch, length, heads·size]`), mask, past key, past value,
    /// and the number of keys of each instance that are no padding. Outputs the result, present key, present value and the
    /// scores.
    Attention = "Attention" {
        /// Whether a query sees only keys that are not later.
        is_causal: bool = false,
        /// Heads of keys and values, where inputs have three axes.
        kv_num_heads: Option<i64> = None,
        /// Heads of queries, where inputs have three axes.
        q_num_heads: Option<i64> = None,
        /// Which scores are the fourth output: 0 as multiplied, 1 masked, 2 capped, 3 after the softmax.
        qk_matmul_output_mode: i64 = 0,
        /// Factor of the scores; one over the root of the head size if absent.
        scale: Option<f32> = None,
        /// Bound that scores are bent to stay within; none if 0.
        softcap: f32 = 0.0,
        /// Element of the softmax, as ONNX numbers it; here it is always computed in f64.
        softmax_precision: Option<i64> = None,
    }
    inputs: 3..=7, outputs: 1..=4,
    gradient: Gradient::Smooth,
    cases: cases
}

impl Op for Attention {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(0)?;
        let dims = |i: usize, heads: Option<i64>| cx.shape(i)?.map(|s| head_dims(s, heads)).transpose();
        let all: Result<Vec<_>, OpError> =
            [dims(0, self.q_num_heads), dims(1, self.kv_num_heads), dims(2, self.kv_num_heads)].into_iter().collect();
        let [Some(q), Some(k), Some(v)] = &mut all?[..] else {
            return Ok((0..4).map(|i| Type::maybe(cx.optional(i.min(2)).map_or(element, |t| t.element), None)).collect());
        };
        if cx.optional(4).is_some() {
            let past = cx.shape(4)?.and_then(|s| s.get(2)?.known());
            let total = past.map_or(Dim::Unknown, |past| k[2].map(|n| n + past));
            (k[2], v[2]) = (total.clone(), total);
        }
        let y = if cx.shape(0)?.is_some_and(|s| s.len() == 3) {
            let width = match (q[1].known(), v[3].known()) {
                (Some(heads), Some(size)) => Dim::Known(heads * size),
                _ => Dim::Unknown,
            };
            vec![q[0].clone(), q[2].clone(), width]
        } else {
            vec![q[0].clone(), q[1].clone(), q[2].clone(), v[3].clone()]
        };
        let scores = vec![q[0].clone(), q[1].clone(), q[2].clone(), k[2].clone()];
        Ok(vec![
            Type::maybe(element, Some(y)),
            Type::maybe(cx.element(1)?, Some(k.to_vec())),
            Type::maybe(cx.element(2)?, Some(v.to_vec())),
            Type::maybe(element, Some(scores)),
        ])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let q = Heads::new(cx.input(0)?, self.q_num_heads)?;
        let k = Heads::new(cx.input(1)?, self.kv_num_heads)?.after(cx.optional(4))?;
        let v = Heads::new(cx.input(2)?, self.kv_num_heads)?.after(cx.optional(5))?;
        let fits = k.batch == q.batch
            && v.batch == q.batch
            && k.size == q.size
            && k.length == v.length
            && k.heads == v.heads
            && k.heads > 0
            && q.heads.is_multiple_of(k.heads);
        if !fits {
            let shapes = [0, 1, 2].map(|i| cx.optional(i).map_or(&[][..], Tensor::shape));
            return Err(OpError::invalid(format!("queries, keys and values of {shapes:?}")));
        }
        let past = cx.optional(4).and_then(|t| t.shape().get(2)).copied().unwrap_or(0);
        let mask = Mask::new(self.is_causal.then_some(past), cx.optional(3), cx.optional(6), &q, k.length)?;
        let scale = self.scale.map_or(1.0 / (q.size as f64).sqrt(), f64::from);
        let cap = f64::from(self.softcap);
        let total = k.length;
        element_count(&[q.batch, q.heads, q.length, total.max(v.size)])?;
        let mut y = vec![0.0; q.batch * q.heads * q.length * v.size];
        let mut scores = Vec::with_capacity(q.batch * q.heads * q.length * total);
        let (mut line, mut weights) = (vec![0.0; total], vec![0.0; total]);
        for (row, (b, h, i)) in q.rows().enumerate() {
            let group = h / (q.heads / k.heads);
            for (j, score) in line.iter_mut().enumerate() {
                *score = q.at(b, h, i).iter().zip(k.at(b, group, j)).map(|(a, b)| a * b).sum::<f64>() * scale;
            }
            let mut shown = line.clone();
            for (j, score) in line.iter_mut().enumerate() {
                *score += mask.bias(b, h, i, j);
            }
            if self.qk_matmul_output_mode == 1 {
                shown.clone_from(&line);
            }
            if cap > 0.0 {
                line.iter_mut().for_each(|v| *v = (*v / cap).tanh() * cap);
            }
            if self.qk_matmul_output_mode == 2 {
                shown.clone_from(&line);
            }
            softmax_line(&line, &mut weights);
            if self.qk_matmul_output_mode == 3 {
                shown.clone_from(&weights);
            }
            scores.extend(shown);
            let out = &mut y[row * v.size..(row + 1) * v.size];
            for (j, w) in weights.iter().enumerate() {
                out.iter_mut().zip(v.at(b, group, j)).for_each(|(o, v)| *o += w * v);
            }
        }
        let scores_shape = [q.batch, q.heads, q.length, total];
        let y = Heads { values: y, size: v.size, ..q };
        Ok(vec![
            y.tensor(cx.input(0)?.rank() == 3)?.cast(cx.input(0)?.element()),
            k.tensor(false)?.cast(cx.input(1)?.element()),
            v.tensor(false)?.cast(cx.input(2)?.element()),
            Tensor::new(&scores_shape, scores)?.cast(cx.input(0)?.element()),
        ])
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        cx.by_parts(|| self.in_simpler_ops(cx))
    }
}

impl Attention {
    /// All four outputs by matrix products and a softmax.
    fn in_simpler_ops(&self, cx: &Backward<'_>) -> Gradients {
        let heads = |i: usize, count: Option<i64>| {
            let x = cx.input(i)?;
            let dims: Vec<Dim> = cx.shape(x)?.into_iter().map(Dim::Known).collect();
            let own: Vec<usize> = head_dims(&dims, count)?.iter().filter_map(Dim::known).collect();
            if dims.len() == 4 {
                return Ok(x);
            }
            cx.transpose(cx.reshape(x, &[own[0], own[2], own[1], own[3]])?, &[0, 2, 1, 3])
        };
        let after = |past: usize, x: ValueId| match cx.optional(past) {
            None => Ok(x),
            Some(past) => cx.emit(super::Concat { axis: 2 }, &[past, x]),
        };
        let q = heads(0, self.q_num_heads)?;
        let (key, value) = (after(4, heads(1, self.kv_num_heads)?)?, after(5, heads(2, self.kv_num_heads)?)?);
        let (q_shape, k_shape) = (cx.shape(q)?, cx.shape(key)?);
        let (length, total) = (q_shape[2], k_shape[2]);
        // Every head of queries reads the keys of its group.
        let repeated = |x: ValueId| {
            let s = cx.shape(x)?;
            let times = q_shape[1] / s[1].max(1);
            let wide = cx.expand(cx.reshape(x, &[s[0], s[1], 1, s[2], s[3]])?, &[s[0], s[1], times, s[2], s[3]])?;
            cx.reshape(wide, &[s[0], s[1] * times, s[2], s[3]])
        };
        let scale = self.scale.map_or(1.0 / (q_shape[3] as f64).sqrt(), f64::from);
        let plain = cx.scale(cx.matmul(q, cx.transpose_last(repeated(key)?)?)?, scale)?;
        let hidden = cx.scalar(q, f64::NEG_INFINITY);
        let mut scores = plain;
        if let Some(mask) = cx.optional(3) {
            let covered = cx.shape(mask)?.last().copied().unwrap_or(total);
            let mut mask = match cx.element(mask) {
                Element::Bool => cx.choose(mask, cx.scalar(q, 0.0), hidden)?,
                _ => cx.cast_like(mask, q)?,
            };
            if covered < total {
                let mut rest = cx.shape(mask)?;
                let last = rest.len() - 1;
                rest[last] = total - covered;
                mask = cx.emit(super::Concat { axis: -1 }, &[mask, cx.expand(hidden, &rest)?])?;
            }
            scores = cx.add(scores, mask)?;
        }
        if self.is_causal {
            let past = total - cx.shape(cx.input(1)?).map(|s| if s.len() == 4 { s[2] } else { s[1] })?;
            let later: Vec<bool> = (0..length * total).map(|i| i % total > i / total + past).collect();
            scores = cx.choose(cx.tensor(Tensor::from_bools(&[length, total], &later)?), hidden, scores)?;
        }
        if let Some(lengths) = cx.optional(6) {
            let keys = cx.tensor(Tensor::vector((0..total as i64).collect::<Vec<i64>>()).cast(cx.element(lengths)));
            let lengths = cx.reshape(lengths, &[k_shape[0], 1, 1, 1])?;
            scores = cx.choose(cx.emit(super::Less {}, &[keys, lengths])?, scores, hidden)?;
        }
        let masked = scores;
        if self.softcap > 0.0 {
            let cap = f64::from(self.softcap);
            scores = cx.scale(cx.emit(super::Tanh {}, &[cx.scale(scores, 1.0 / cap)?])?, cap)?;
        }
        let weights = cx.emit(super::Softmax::default(), &[scores])?;
        let mut y = cx.matmul(weights, repeated(value)?)?;
        if cx.rank(cx.input(0)?)? == 3 {
            let s = cx.shape(y)?;
            y = cx.reshape(cx.transpose(y, &[0, 2, 1, 3])?, &[s[0], s[2], s[1] * s[3]])?;
        }
        let shown = [plain, masked, scores, weights].get(self.qk_matmul_output_mode as usize).copied();
        Ok(vec![Some(y), Some(key), Some(value), shown])
    }
}

/// What is added to a score: −∞ where the key must not be seen.
struct Mask {
    /// With causal masking, how many keys precede the first query.
    causal: Option<usize>,
    /// Values, strides over `[batch, heads, length]`, and how many keys it covers.
    given: Option<(Vec<f64>, Vec<usize>, usize)>,
    /// For each instance, how many keys are no padding.
    lengths: Option<Vec<i64>>,
}

impl Mask {
    fn new(
        causal: Option<usize>,
        given: Option<&Tensor>,
        lengths: Option<&Tensor>,
        q: &Heads,
        total: usize,
    ) -> Result<Mask, OpError> {
        let given = match given {
            None => None,
            Some(t) => {
                let fail = || OpError::invalid(format!("a mask of shape {:?}", t.shape()));
                let covered = *t.shape().last().ok_or_else(fail)?;
                let shape = [q.batch, q.heads, q.length, covered];
                if covered > total || broadcast(&shape, t.shape()).map_err(|_| fail())? != shape {
                    return Err(fail());
                }
                let values = if t.element() == Element::Bool {
                    t.to_bools().into_iter().map(|seen| if seen { 0.0 } else { f64::NEG_INFINITY }).collect()
                } else {
                    t.to_f64s()
                };
                Some((values, broadcast_strides(t.shape(), &shape), covered))
            }
        };
        let lengths = lengths.map(Tensor::to_i64s);
        if lengths.as_ref().is_some_and(|l| l.len() != q.batch) {
            return Err(OpError::invalid(format!("lengths for a batch of {}", q.batch)));
        }
        Ok(Mask { causal, given, lengths })
    }

    fn bias(&self, b: usize, h: usize, i: usize, j: usize) -> f64 {
        let hidden = self.causal.is_some_and(|past| j > i + past)
            || self.lengths.as_ref().is_some_and(|l| j as i64 >= l[b])
            || self.given.as_ref().is_some_and(|(_, _, covered)| j >= *covered);
        match &self.given {
            _ if hidden => f64::NEG_INFINITY,
            None => 0.0,
            Some((values, steps, covered)) => {
                // A last axis of one key is one key, not a broadcast.
                let key = if *covered == 1 { 0 } else { j };
                values[b * steps[0] + h * steps[1] + i * steps[2] + key]
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let ln3 = 1.098_612_3;
    vec![
        // Scores 0 and ln 3: weights 1/4 and 3/4.
        Case::new("one_head", Attention { scale: Some(1.0), ..Attention::default() })
            .f32(&[1, 1, 1, 1], &[ln3])
            .f32(&[1, 1, 2, 1], &[0., 1.])
            .f32(&[1, 1, 2, 2], &[4., 8., 8., 0.])
            .gives(&[1, 1, 1, 2], &[7., 2.]),
        // The first query sees the first key alone; both heads of queries share one of keys.
        Case::new(
            "causal_grouped",
            Attention { is_causal: true, q_num_heads: Some(2), kv_num_heads: Some(1), ..Attention::default() },
        )
        .f32(&[1, 2, 2], &[5., 6., 0., 0.])
        .f32(&[1, 2, 1], &[1., 2.])
        .f32(&[1, 2, 1], &[10., 20.])
        .gives(&[1, 2, 2], &[10., 10., 15., 15.]),
    ]
}
