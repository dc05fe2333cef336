//! SmoothQuant (Xiao et al. 2023, arXiv:2211.10438): in transformers some channels of what matrix products read are many times
//! larger than the others, which are left few of the integers they all share. Each channel is divided by
//! `max|x|^α / max|w|^(1−α)` and the weights that read it are multiplied by that, so that both are about as hard to quantize.
//!
//! The division goes where the value is written: into gain and bias of a normalization, or into weights and bias of a matrix
//! product, of which those that make the values of attention count too. Where others read the value as well, as after the
//! normalizations of BERT, or a function is in between, a multiplication is put before the layers; that must be worth it.
//! The paper has one strength α for a network; here each value has its own, of a few the one with the least error of the layers
//! that read it.

use std::sync::Arc;

use qing_graph::{Graph, NodeId, OpError, Tensor, ValueId, ops};
use serde::Serialize;

use super::{
    decide::Mode,
    dense::{Links, Writer, attended, map_inputs, map_outputs, sizes, sort, writer},
    options::{QuantizeOptions, Smoothing},
    probe::{Sample, Trials, decibels, sample},
};
use crate::LightenError;

/// Strengths that are tried.
const STRENGTHS: [f64; 4] = [0.35, 0.5, 0.65, 0.8];

/// Factors stay between this and its inverse.
const LARGEST_FACTOR: f64 = 1024.0;

/// What must be left of the error, at most, where it costs a multiplication: 1 dB less.
const WORTH: f64 = 0.8;

/// A value whose channels were evened out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Smoothed {
    /// Its name.
    pub value: String,
    /// The layers that read it.
    pub layers: Vec<String>,
    /// The share of its channels' spread that moved into their weights.
    pub strength: f64,
    /// Whether that takes a multiplication, because what writes the value could not take it.
    pub multiplied: bool,
    /// Error of these layers before over that after, by rounding each weight to the nearest, in decibels.
    pub gain_db: f64,
}

/// A value that can be smoothed.
struct Site {
    value: ValueId,
    channels: usize,
    layers: Vec<NodeId>,
    /// What takes the division; a multiplication is put in if nothing does.
    writer: Option<Writer>,
}

/// The same network with outliers moved into weights, and where; no place if there is none.
///
/// # Errors
/// If the network cannot be run on the batches, or an option is out of range.
pub(crate) fn smooth(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    options: &QuantizeOptions,
    threads: usize,
) -> Result<(Graph, Vec<Smoothed>), LightenError> {
    let strengths: &[f64] = match &options.smooth {
        Smoothing::Off => return Ok((graph.clone(), vec![])),
        Smoothing::Measured => &STRENGTHS,
        Smoothing::Strength(one) => std::slice::from_ref(one),
    };
    let trials = Trials::new(graph, options);
    let sites = sites(graph, &trials.decision.modes);
    let values: Vec<(ValueId, usize)> = sites.iter().map(|s| (s.value, s.channels)).collect();
    let samples = sample(graph, &values, batches, threads)?;
    let (mut made, mut done) = (graph.clone(), vec![]);
    for site in &sites {
        let Some(seen) = samples.get(&site.value) else { continue };
        let probe = trials.probe(site.value, &site.layers, seen);
        let plain = probe.error(&|_| {}, &|_| {})?;
        let mut best: Option<(f64, f64, Vec<f64>)> = None;
        for strength in strengths {
            let factors = factors(graph, site, seen, *strength);
            let error = probe.error(&|row| divide(row, &factors), &|row| multiply(row, &factors))?;
            if best.as_ref().is_none_or(|b| error < b.0) {
                best = Some((error, *strength, factors));
            }
        }
        let Some((error, strength, factors)) = best else { continue };
        let limit = if site.writer.is_some() { 1.0 } else { WORTH };
        let fixed = matches!(options.smooth, Smoothing::Strength(_));
        if !fixed && error >= limit * plain {
            continue;
        }
        match site.writer {
            Some(writer) => map_outputs(&mut made, writer, &|row| divide(row, &factors))?,
            None => insert(&mut made, site, &factors)?,
        }
        for layer in &site.layers {
            map_inputs(&mut made, *layer, &|row| multiply(row, &factors))?;
        }
        done.push(Smoothed {
            value: graph.value(site.value).name.clone(),
            layers: site.layers.iter().map(|i| graph.nodes[*i].name.clone()).collect(),
            strength,
            multiplied: site.writer.is_none(),
            gain_db: decibels(plain, error),
        });
    }
    sort(&mut made);
    Ok((made, done))
}

fn divide(row: &mut [f64], factors: &[f64]) {
    row.iter_mut().zip(factors).for_each(|(v, f)| *v /= f);
}

fn multiply(row: &mut [f64], factors: &[f64]) {
    row.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
}

/// The values that matrix products on integers read.
fn sites(graph: &Graph, modes: &[Mode]) -> Vec<Site> {
    let links = Links::new(graph);
    let mut sites = vec![];
    for (value, _) in graph.values().filter(|(id, v)| v.constant.is_none() && !graph.inputs.contains(id)) {
        let all = links.products(graph, value);
        let integer = |i: &NodeId| !matches!(modes[*i], Mode::Float(_));
        let some: Vec<NodeId> = all.iter().copied().filter(integer).collect();
        let Some((channels, _)) = some.first().and_then(|i| sizes(graph, &graph.nodes[*i])) else { continue };
        let closed = !graph.outputs.contains(&value) && all.len() == links.consumers(value).len();
        let folded = closed.then(|| fold(graph, &links, value, channels)).flatten();
        // A multiplication costs little where the value is in floating point anyway.
        let float = links.producer(value).is_some_and(|i| modes[i] != Mode::Integer);
        match folded {
            Some(writer) => sites.push(Site { value, channels, layers: all, writer: Some(writer) }),
            None if float => sites.push(Site { value, channels, layers: some, writer: None }),
            None => {}
        }
    }
    sites
}

/// What can divide the channels of a value that matrix products alone read.
fn fold(graph: &Graph, links: &Links, value: ValueId, channels: usize) -> Option<Writer> {
    writer(graph, links, value, channels).or_else(|| {
        let (source, _) = attended(graph, links, value)?;
        writer(graph, links, source, channels).filter(|w| matches!(w, Writer::Dense { .. }))
    })
}

/// By what each channel is divided.
fn factors(graph: &Graph, site: &Site, seen: &Sample, strength: f64) -> Vec<f64> {
    let mut reach = vec![0.0f64; site.channels];
    for layer in &site.layers {
        let Some(weights) = super::dense::matrix(graph, &graph.nodes[*layer]) else { continue };
        for (i, r) in reach.iter_mut().enumerate() {
            *r = weights.row(i).iter().fold(*r, |m, v| m.max(v.abs()));
        }
    }
    let raw: Vec<f64> = seen.peaks.iter().zip(reach).map(|(x, w)| x.powf(strength) / w.powf(1.0 - strength)).collect();
    let legal = |v: &f64| v.is_finite() && *v > 0.0;
    let alive: Vec<f64> = raw.iter().copied().filter(legal).collect();
    let middle = (alive.iter().map(|v| v.ln()).sum::<f64>() / alive.len().max(1) as f64).exp();
    raw.iter().map(|v| if legal(v) { (v / middle).clamp(1.0 / LARGEST_FACTOR, LARGEST_FACTOR) } else { 1.0 }).collect()
}

/// Puts a multiplication between the value and the layers.
fn insert(graph: &mut Graph, site: &Site, factors: &[f64]) -> Result<(), LightenError> {
    let name = graph.value(site.value).name.clone();
    let values = factors.iter().map(|f| (1.0 / f) as f32).collect();
    let inverse = Tensor::new(&[factors.len()], values).map_err(OpError::from)?;
    let inverse = graph.add_constant(&format!("{name}.smoothing"), inverse);
    let op = Arc::new(ops::Mul {});
    let smooth = graph.add_node(op, &format!("{name}.smoothed"), &[Some(site.value), Some(inverse)], 1)?[0];
    for layer in &site.layers {
        graph.nodes[*layer].inputs[0] = Some(smooth);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use qing_graph::{Element, Type, interpret::interpret};

    use super::*;

    /// A normalization, a product, a function and a product, with a channel far larger than the others before each product.
    fn network() -> Graph {
        let n = 16;
        let noise = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
        let mut g = Graph::new("n");
        let mut x = g.add_input("x", Type::new(Element::F32, [1usize, 6, n]));
        let mut gain = vec![1.0f32; n];
        gain[3] = 40.0;
        let gain = g.add_constant("gain", Tensor::vector(gain));
        x = g.add_node(Arc::new(ops::LayerNormalization::default()), "norm", &[Some(x), Some(gain)], 1).unwrap()[0];
        for (k, name) in ["first", "second"].into_iter().enumerate() {
            let size = |i: usize| if i % n == 5 && k == 0 { 40.0 } else { 1.0 };
            let w = (0..n * n).map(|i| noise(i + k * 500) * size(i) / if i / n == 3 + 2 * k { 40.0 } else { 1.0 });
            let w = g.add_constant(&format!("{name}.w"), Tensor::new(&[n, n], w.collect()).unwrap());
            x = g.add_node(Arc::new(ops::MatMul {}), name, &[Some(x), Some(w)], 1).unwrap()[0];
            if k == 0 {
                let b = g.add_constant("b", Tensor::vector((0..n).map(noise).collect::<Vec<_>>()));
                x = g.add_node(Arc::new(ops::Add {}), "biased", &[Some(x), Some(b)], 1).unwrap()[0];
                x = g.add_node(Arc::new(ops::Gelu::default()), "gelu", &[Some(x)], 1).unwrap()[0];
            }
        }
        g.mark_output(x);
        g
    }

    #[test]
    fn smoothing_moves_outliers_and_computes_the_same() {
        let graph = network();
        let batch = |s: usize| {
            let values = (0..96).map(|i| ((i * 31 + s * 977) % 1013) as f32 / 506.0 - 1.0).collect();
            vec![Tensor::new(&[1, 6, 16], values).unwrap()]
        };
        let batches: Vec<_> = (0..4).map(batch).collect();
        let (made, moved) = smooth(&graph, &batches, &QuantizeOptions::default(), 1).unwrap();
        let found: Vec<_> = moved.iter().map(|s| (s.value.as_str(), s.multiplied)).collect();
        assert_eq!(found, [("norm", false), ("gelu", true)]);
        assert!(moved.iter().all(|s| s.gain_db > 6.0), "{moved:?}");
        qing_graph::verify::verify(&made).unwrap();
        let run = |g: &Graph| interpret(g, &batch(9)).unwrap()[0].to_f64s();
        for (a, b) in run(&graph).into_iter().zip(run(&made)) {
            assert!((a - b).abs() < 1e-4 * (1.0 + a.abs()), "{a} {b}");
        }
        let off = QuantizeOptions { smooth: Smoothing::Off, ..QuantizeOptions::default() };
        assert!(smooth(&graph, &batches, &off, 1).unwrap().1.is_empty());
        let all = QuantizeOptions { smooth: Smoothing::Strength(0.5), ..QuantizeOptions::default() };
        assert!(smooth(&graph, &batches, &all, 1).unwrap().1.iter().all(|s| s.strength == 0.5));
    }
}
