//! Layers as kernels, and chains in their place.

use std::collections::BTreeMap;

use qing_graph::{
    Element, Graph, GraphError, Node, OpError, QuantRule, Tensor, ops,
    rewrite::{Patch, PatchValue, Rule, View, rewrite},
};

use super::{
    dense::Matrix,
    layer::{Chain, Kernel},
};

/// The weights of a layer that can become a chain: a dense convolution of two axes, or a product with a constant matrix.
pub(super) fn kernel(graph: &Graph, node: &Node) -> Option<Kernel> {
    let QuantRule::Dot { weight, axis, .. } = node.op.quantization() else { return None };
    let w = graph.constant(node.input(weight)?)?;
    if w.element() != Element::F32 {
        return None;
    }
    let values = w.to_f64s();
    if let Some(conv) = node.op.downcast::<ops::Conv>() {
        let &[out, channels, height, width] = w.shape() else { return None };
        let taps = height * width;
        return (conv.group == 1 && out * channels * taps > 0).then(|| Kernel {
            weights: Matrix::new(out, channels * taps, values),
            channels,
            taps,
        });
    }
    let plain = match node.op.downcast::<ops::Gemm>() {
        Some(gemm) => gemm.alpha == 1.0 && gemm.beta == 1.0 && !gemm.transA,
        None => node.op.is::<ops::MatMul>(),
    };
    let &[rows, columns] = w.shape() else { return None };
    if !plain || rows * columns == 0 {
        return None;
    }
    let stored = Matrix::new(rows, columns, values);
    let weights = if axis == 0 { stored } else { stored.transposed() };
    let channels = weights.columns;
    Some(Kernel { weights, channels, taps: 1 })
}

/// Puts chains, with the taps of the layers, in the place of layers by name.
///
/// # Errors
/// If the graph would be malformed.
pub(super) fn replace(graph: &mut Graph, chains: BTreeMap<String, (Chain, usize)>) -> Result<(), GraphError> {
    rewrite(graph, &[&Chains { chains }])?;
    Ok(())
}

struct Chains {
    chains: BTreeMap<String, (Chain, usize)>,
}

impl Rule for Chains {
    fn name(&self) -> &'static str {
        "factorize"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let Some((chain, taps)) = self.chains.get(&node.name) else { return Ok(None) };
        let QuantRule::Dot { weight, bias, .. } = node.op.quantization() else { return Ok(None) };
        let Some(x) = node.input(0) else { return Ok(None) };
        let old = node.input(weight).and_then(|id| view.graph.constant(id));
        let old = old.ok_or_else(|| OpError::invalid(format!("the weights of `{}` are not constant", node.name)))?;
        let bias = node.input(bias).map(PatchValue::Old);
        let mut patch = Patch::new();
        let name = |part: &str| format!("{}.{part}", node.name);
        let last = if let Some(conv) = node.op.downcast::<ops::Conv>() {
            let spatial = &old.shape()[2..];
            let layer = |patch: &mut Patch,
                         x: PatchValue,
                         part: &str,
                         m: &Matrix,
                         taps: usize,
                         group: usize,
                         bias: Option<PatchValue>| {
                let shape = match taps {
                    1 => vec![m.rows, m.columns, 1, 1],
                    taps => vec![m.rows, m.columns / taps, spatial[0], spatial[1]],
                };
                let w = patch.constant(&name(&format!("{part}.weight")), tensor(m, &shape)?);
                let op = match taps {
                    1 => ops::Conv::default(),
                    _ => ops::Conv { group: group as i64, ..conv.clone() },
                };
                let inputs = [Some(x), Some(w), bias];
                let inputs = inputs[..if bias.is_some() { 3 } else { 2 }].to_vec();
                Ok::<_, OpError>(patch.any_node(std::sync::Arc::new(op), &name(part), inputs, 1, None))
            };
            match chain {
                // A 1×1 convolution that strides does so in its first part.
                Chain::Svd { first, second } if *taps == 1 => {
                    let y = pointwise(&mut patch, &name("first"), x.into(), first, conv)?;
                    let w =
                        patch.constant(&name("second.weight"), tensor(second, &[second.rows, second.columns, 1, 1])?);
                    let inputs: Vec<Option<PatchValue>> =
                        [Some(y), Some(w)].into_iter().chain(bias.map(Some)).collect();
                    patch.any_node(std::sync::Arc::new(ops::Conv::default()), &name("second"), inputs, 1, None)
                }
                Chain::Svd { first, second } => {
                    let y = layer(&mut patch, x.into(), "first", first, *taps, 1, None)?;
                    layer(&mut patch, y, "second", second, 1, 1, bias)?
                }
                Chain::Tucker { first, core, last } => {
                    let y = layer(&mut patch, x.into(), "first", first, 1, 1, None)?;
                    let y = layer(&mut patch, y, "core", core, *taps, 1, None)?;
                    layer(&mut patch, y, "last", last, 1, 1, bias)?
                }
                Chain::Cp { first, depthwise, last } => {
                    let y = layer(&mut patch, x.into(), "first", first, 1, 1, None)?;
                    let y = layer(&mut patch, y, "depthwise", depthwise, *taps, depthwise.rows, None)?;
                    layer(&mut patch, y, "last", last, 1, 1, bias)?
                }
                Chain::Separable { terms, depthwise, last } => {
                    let channels = depthwise.rows / terms;
                    let mut parts = vec![];
                    for (t, filters) in depthwise.values.chunks_exact(channels * taps).enumerate() {
                        let filters = Matrix::new(channels, *taps, filters.to_vec());
                        let part = match terms {
                            1 => "depthwise".to_string(),
                            _ => format!("depthwise{}", t + 1),
                        };
                        parts.push(layer(&mut patch, x.into(), &part, &filters, *taps, channels, None)?);
                    }
                    let y = match parts[..] {
                        [one] => one,
                        _ => patch.node(ops::Concat { axis: 1 }, &name("terms"), &parts),
                    };
                    layer(&mut patch, y, "last", last, 1, 1, bias)?
                }
            }
        } else {
            let Chain::Svd { first, second } = chain else { return Ok(None) };
            let (a, b) = (first.transposed(), second.transposed());
            let w = patch.constant(&name("first.weight"), tensor(&a, &[a.rows, a.columns])?);
            let y = patch.node(ops::MatMul {}, &name("first"), &[x.into(), w]);
            let w = patch.constant(&name("second.weight"), tensor(&b, &[b.rows, b.columns])?);
            match (bias, node.op.is::<ops::Gemm>()) {
                (Some(bias), true) => patch.node(ops::Gemm::default(), &name("second"), &[y, w, bias]),
                _ => patch.node(ops::MatMul {}, &name("second"), &[y, w]),
            }
        };
        patch.replace(node.outputs[0], last);
        Ok(Some(patch))
    }
}

fn pointwise(
    patch: &mut Patch,
    name: &str,
    x: PatchValue,
    m: &Matrix,
    conv: &ops::Conv,
) -> Result<PatchValue, OpError> {
    let w = patch.constant(&format!("{name}.weight"), tensor(m, &[m.rows, m.columns, 1, 1])?);
    Ok(patch.any_node(std::sync::Arc::new(conv.clone()), name, vec![Some(x), Some(w)], 1, None))
}

fn tensor(m: &Matrix, shape: &[usize]) -> Result<Tensor, OpError> {
    Ok(Tensor::new(shape, m.values.iter().map(|v| *v as f32).collect())?)
}
