//! Weights and bias of one layer.

use qing_graph::{Graph, Node, QuantRule, Tensor, ops};

use super::{
    assign::{LayerWeights, least_scale, weight_type},
    bitsplit::choose_group,
    feedback::round_group,
    matrix::{Group, Rows, tensor_of_factors, tensor_of_rows},
    options::{Encoding, QuantizeOptions},
    weights::{QuantizedRows, element, largest, nearest, scales},
};
use crate::{LightenError, calibrate::Moments};

/// Quantizes the weights of a dot at `bits`, to what can be encoded if there is an encoding, and if `correct` corrects its bias for what
/// that changes on average.
///
/// # Errors
/// If the node is no dot with constant weights.
pub(super) fn quantize(
    graph: &Graph,
    node: &Node,
    bits: u8,
    x_scale: f32,
    moments: Option<&Moments>,
    correct: bool,
    encoding: Option<Encoding>,
    options: &QuantizeOptions,
) -> Result<LayerWeights, LightenError> {
    let correct = correct && options.bias_correction;
    let QuantRule::Dot { weight, bias, axis } = node.op.quantization() else {
        return Err(LightenError::Option(format!("`{}` has no weights", node.name)));
    };
    let tensor = node
        .input(weight)
        .and_then(|id| graph.constant(id))
        .ok_or_else(|| LightenError::Option(format!("the weights of `{}` are not constant", node.name)))?;
    let rows = Rows::of(tensor, axis);
    let old_bias = node.input(bias).and_then(|id| graph.constant(id)).map(|b| b.to_f64s());
    let moments = moments.filter(|m| m.width() == rows.width() && rows.count.is_multiple_of(m.groups()));
    let group_of = |row: usize| moments.map_or(0, |m| row / (rows.count / m.groups()));
    let importance: Vec<Vec<f64>> = match moments {
        Some(m) if options.error_feedback => (0..m.groups()).map(|g| spread(m, g, correct)).collect(),
        _ => vec![vec![]],
    };
    let weigh = |row: usize| importance[if importance.len() == 1 { 0 } else { group_of(row) }].clone();
    let least = |row: usize| old_bias.as_ref().map_or(0.0, |b| f64::from(least_scale(b[row], x_scale)));
    let nearest = |bits: u8| {
        let mut scale = scales(&rows, bits, options.per_channel, weigh);
        let single = scale.len() == 1;
        for row in 0..rows.count {
            let s = &mut scale[if single { 0 } else { row }];
            *s = s.max(least(row) as f32);
        }
        nearest(&rows, bits, scale)
    };
    let count = moments.map_or(1, Moments::groups);
    let (per_group, m) = (rows.count / count, moments.filter(|_| options.error_feedback));
    let groups: Vec<Group> = (0..count)
        .map(|g| Group {
            span: g * per_group..(g + 1) * per_group,
            importance: importance.get(g).cloned().unwrap_or_default(),
            moments: m.and_then(|m| products(m, g, correct)),
        })
        .collect();
    let plain = |bits: u8| {
        let rounded = nearest(bits);
        let mut quantized = rounded.clone();
        let least = options.per_channel.then_some(&least as &dyn Fn(usize) -> f64);
        for group in &groups {
            round_group(&rows, group, bits, &mut quantized);
            if options.bit_split {
                choose_group(&rows, group, bits, least, &rounded, &mut quantized);
            }
        }
        (element(bits), quantized)
    };
    let mut factored = None;
    let (element, quantized) = match encoding {
        None => plain(bits),
        Some(Encoding::Codebook(codebook)) => {
            let mut words = nearest(bits);
            if codebook.round(&rows, &groups, bits, &mut words) { (element(bits), words) } else { plain(bits) }
        }
        Some(Encoding::Factors(factors)) => {
            match factors.round(&rows, &groups, &nearest(bits).scales, largest(bits), &least) {
                None => plain(bits),
                Some((made, product)) => {
                    let other = plain(factors.plain_bits().min(bits));
                    if made.lost(&rows, &groups) < other.1.lost(&rows, &groups) {
                        factored = tensor_of_factors(element(bits)?, tensor.shape(), axis, &product);
                    }
                    if factored.is_some() { (element(bits), made) } else { other }
                }
            }
        }
    };
    let element = element?;
    let (mut new_bias, mut input_means) = (old_bias.clone(), None);
    if let Some(m) = moments.filter(|_| correct) {
        let mut values = new_bias.unwrap_or_else(|| vec![0.0; rows.count]);
        let means: Vec<Vec<f64>> = (0..m.groups()).map(|g| m.mean(g)).collect();
        for (row, b) in values.iter_mut().enumerate() {
            *b += lost(&rows, &quantized, row, &means[group_of(row)]);
        }
        new_bias = Some(values);
        input_means = means_of(tensor.shape(), axis, &means)?;
    }
    let weights = match factored {
        Some(tensor) => tensor,
        None => tensor_of_rows(element, tensor.shape(), axis, &quantized.ints)?,
    };
    Ok(LayerWeights {
        weights,
        ty: weight_type(element, tensor.shape(), axis, quantized.scales)?,
        bias: new_bias,
        means: input_means,
    })
}

/// Whether the op of a node takes a bias: a plain matrix product takes none, it is a sum after it.
pub(super) fn takes_bias(node: &Node) -> bool {
    !node.op.is::<ops::MatMul>()
}

/// The means of the inputs of every group, in the order of the weights.
fn means_of(shape: &[usize], axis: usize, means: &[Vec<f64>]) -> Result<Option<Tensor>, LightenError> {
    let mut shape = shape.to_vec();
    let rows = if means.len() == 1 { 1 } else { shape[axis] };
    if rows > 1 && axis > 0 {
        return Ok(None);
    }
    shape[axis] = rows;
    let values: Vec<f32> = (0..rows).flat_map(|r| &means[r * means.len() / rows]).map(|m| *m as f32).collect();
    Ok(Some(Tensor::new(&shape, values).map_err(qing_graph::OpError::from)?))
}

/// What the rounding of a row takes away from its output for the mean input.
fn lost(rows: &Rows, quantized: &QuantizedRows, row: usize, mean: &[f64]) -> f64 {
    let scale = f64::from(quantized.scale(row));
    let ints = &quantized.ints[row * rows.width()..];
    rows.row(row).iter().zip(ints).zip(mean).map(|((w, q), m)| (w - f64::from(*q) * scale) * m).sum()
}

/// How much the error of each column matters: the variance of its input where the bias takes care of the mean.
fn spread(moments: &Moments, group: usize, centered: bool) -> Vec<f64> {
    let squares = moments.squares(group);
    let total: f64 = squares.iter().sum::<f64>() / squares.len().max(1) as f64;
    let floor = total * 1e-3 + f64::MIN_POSITIVE;
    let mean = if centered { moments.mean(group) } else { vec![0.0; squares.len()] };
    squares.iter().zip(mean).map(|(s, m)| (s - m * m).max(floor)).collect()
}

/// Second moments, about the mean if `centered`.
fn products(moments: &Moments, group: usize, centered: bool) -> Option<Vec<f64>> {
    let mut h = moments.covariance(group)?;
    if centered {
        let (mean, width) = (moments.mean(group), moments.width());
        for i in 0..width {
            for j in 0..width {
                h[i * width + j] -= mean[i] * mean[j];
            }
        }
    }
    Some(h)
}
