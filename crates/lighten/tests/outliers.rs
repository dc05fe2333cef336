//! Transformers with outlier channels: what smoothing and rotation make of them.

use std::sync::Arc;

use qing_graph::{Element, Graph, Tensor, Type, ValueId, interpret::interpret, ops, verify::verify};
use qing_lighten::{Options, QuantizeOptions, Smoothing, lighten};

const TOKENS: usize = 12;
const WIDTH: usize = 64;
const HEADS: usize = 4;
const BLOCKS: usize = 2;

/// Channels of every normalization's result that are so many times larger than the others.
const OUTLIERS: [usize; 2] = [5, 42];

fn noise(shape: &[usize], seed: usize, size: f32) -> Tensor {
    let value = |i: usize| {
        let mut h = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((h >> 40) as f32 / 16_777_216.0 - 0.5) * 2.0 * size
    };
    Tensor::new(shape, (0..shape.iter().product()).map(value).collect()).unwrap()
}

/// A transformer's encoder, with the operators that exporters write.
struct Builder {
    graph: Graph,
    seed: usize,
    /// Factor of the outlier channels: of the normalization's gain and bias, and its inverse of the weights that read them.
    outlier: f32,
}

impl Builder {
    fn node(&mut self, op: impl qing_graph::Op, inputs: &[ValueId]) -> ValueId {
        let op: Arc<dyn qing_graph::Op> = Arc::new(op);
        let name = format!("{}_{}", op.name().to_lowercase(), self.graph.nodes.len());
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.graph.add_node(op, &name, &inputs, 1).unwrap()[0]
    }

    fn constant(&mut self, tensor: Tensor) -> ValueId {
        self.seed += 1;
        self.graph.add_constant(&format!("c{}", self.seed), tensor)
    }

    fn random(&mut self, shape: &[usize], size: f32) -> Tensor {
        self.seed += 1;
        noise(shape, self.seed, size)
    }

    /// A product and a bias; of the result of a normalization with outliers if `evened`.
    fn dense(&mut self, x: ValueId, inputs: usize, outputs: usize, evened: bool) -> ValueId {
        let w = self.random(&[inputs, outputs], (3.0 / inputs as f32).sqrt());
        let mut values = w.to_f32s();
        for c in OUTLIERS.iter().filter(|_| evened) {
            values[c * outputs..(c + 1) * outputs].iter_mut().for_each(|v| *v /= self.outlier);
        }
        let w = self.constant(Tensor::new(&[inputs, outputs], values).unwrap());
        let b = self.random(&[outputs], 0.05);
        let b = self.constant(b);
        let y = self.node(ops::MatMul {}, &[x, w]);
        self.node(ops::Add {}, &[b, y])
    }

    fn norm(&mut self, x: ValueId, outliers: bool) -> ValueId {
        let (mut gain, mut bias) = (vec![1.0f32; WIDTH], self.random(&[WIDTH], 0.1).to_f32s());
        for (i, g) in gain.iter_mut().enumerate() {
            *g += 0.2 * ((i * 37 % 11) as f32 / 11.0 - 0.5);
        }
        for c in OUTLIERS.iter().filter(|_| outliers) {
            gain[*c] *= self.outlier;
            bias[*c] *= self.outlier;
        }
        let (gain, bias) = (self.constant(Tensor::vector(gain)), self.constant(Tensor::vector(bias)));
        self.node(ops::LayerNormalization::default(), &[x, gain, bias])
    }

    fn heads(&mut self, x: ValueId, perm: [i64; 4]) -> ValueId {
        let shape = self.constant(Tensor::vector(vec![1i64, TOKENS as i64, HEADS as i64, (WIDTH / HEADS) as i64]));
        let x = self.node(ops::Reshape::default(), &[x, shape]);
        self.node(ops::Transpose { perm: perm.to_vec() }, &[x])
    }

    fn attention(&mut self, x: ValueId) -> ValueId {
        let mut part = |perm| {
            let y = self.dense(x, WIDTH, WIDTH, true);
            self.heads(y, perm)
        };
        let (q, k, v) = (part([0, 2, 1, 3]), part([0, 2, 3, 1]), part([0, 2, 1, 3]));
        let scores = self.node(ops::MatMul {}, &[q, k]);
        let root = self.constant(Tensor::scalar(((WIDTH / HEADS) as f32).sqrt()));
        let scores = self.node(ops::Div {}, &[scores, root]);
        let weights = self.node(ops::Softmax::default(), &[scores]);
        let y = self.node(ops::MatMul {}, &[weights, v]);
        let y = self.node(ops::Transpose { perm: vec![0, 2, 1, 3] }, &[y]);
        let shape = self.constant(Tensor::vector(vec![1i64, TOKENS as i64, WIDTH as i64]));
        let y = self.node(ops::Reshape::default(), &[y, shape]);
        self.dense(y, WIDTH, WIDTH, false)
    }

    fn mlp(&mut self, x: ValueId) -> ValueId {
        let y = self.dense(x, WIDTH, 2 * WIDTH, true);
        let y = self.node(ops::Gelu::default(), &[y]);
        self.dense(y, 2 * WIDTH, WIDTH, false)
    }
}

/// A network whose normalizations are before attention and functions of tokens (`first`, as in GPT) or after the sums (as in BERT),
/// with some channels `outlier` times as large in their results: where they come first, that changes nothing in what it computes.
fn transformer(first: bool, outlier: f32) -> Graph {
    let mut b = Builder { graph: Graph::new("transformer"), seed: 0, outlier };
    let mut x = b.graph.add_input("x", Type::new(Element::F32, [1usize, TOKENS, WIDTH]));
    if !first {
        x = b.norm(x, true);
    }
    for _ in 0..BLOCKS {
        for part in [Builder::attention, Builder::mlp] {
            let read = if first { b.norm(x, true) } else { x };
            let y = part(&mut b, read);
            x = b.node(ops::Add {}, &[y, x]);
            if !first {
                x = b.norm(x, true);
            }
        }
    }
    let x = if first { b.norm(x, true) } else { x };
    let y = b.dense(x, WIDTH, 24, true);
    b.graph.mark_output(y);
    b.graph
}

fn data(from: usize, count: usize) -> Vec<Vec<Tensor>> {
    (0..count).map(|i| vec![noise(&[1, TOKENS, WIDTH], 5000 + from + i, 1.5)]).collect()
}

/// Mean power of the result over that of its error, in decibels, on inputs that calibrated nothing.
fn clarity(graph: &Graph, made: &Graph) -> f64 {
    let (mut signal, mut error) = (0.0, 0.0);
    for input in data(100, 6) {
        let run = |g: &Graph| interpret(g, &input).unwrap()[0].to_f64s();
        for (a, b) in run(graph).into_iter().zip(run(made)) {
            signal += a * a;
            error += (a - b) * (a - b);
        }
    }
    10.0 * (signal / error).log10()
}

fn options(bits: &str) -> QuantizeOptions {
    QuantizeOptions { smooth: Smoothing::Off, rotate: false, ..QuantizeOptions::with_bits(bits.parse().unwrap()) }
}

fn made(graph: &Graph, quantize: QuantizeOptions) -> qing_lighten::Lightened {
    let made = lighten(graph, &data(0, 8), &Options { quantize, ..Options::default() }, &mut |_| {}).unwrap();
    verify(&made.graph).unwrap();
    made
}

#[test]
fn smoothing_wins_back_what_outliers_cost() {
    // After the sums outliers stay in the residual, so that few channels would be all there is if they were as large.
    for (first, outlier, bits, least) in
        [(true, 30.0, "w8a8", 8.0), (true, 30.0, "w4a8", 5.0), (false, 4.0, "w8a8", 1.0)]
    {
        let graph = transformer(first, outlier);
        let plain = clarity(&graph, &made(&graph, options(bits)).graph);
        let smoothed = made(&graph, QuantizeOptions { smooth: Smoothing::Measured, ..options(bits) });
        let smooth = clarity(&graph, &smoothed.graph);
        // A normalization takes the division where products alone read it, else a multiplication does.
        let norms = smoothed.report.smoothed.iter().filter(|s| s.value.starts_with("layer") && s.multiplied != first);
        assert!(norms.count() >= 3, "{:?}", smoothed.report.smoothed);
        assert!(smooth > plain + least, "first {first}, {bits}: {plain} dB, smoothed {smooth} dB");
    }
}

#[test]
fn rotation_wins_back_what_outliers_cost() {
    for (bits, least) in [("w8a8", 12.0), ("w4a8", 3.0), ("w4a4", 8.0)] {
        let graph = transformer(true, 30.0);
        let plain = clarity(&graph, &made(&graph, options(bits)).graph);
        let rotated = made(&graph, QuantizeOptions { rotate: true, ..options(bits) });
        let turned = clarity(&graph, &rotated.graph);
        // The stream, all its normalizations at once, for the price of rotating what comes in.
        let stream = &rotated.report.rotated[0];
        assert!(stream.layers.len() == 9 && stream.products == 1, "{:?}", rotated.report.rotated);
        assert!(turned > plain + least, "{bits}: {plain} dB, rotated {turned} dB");
    }
}

#[test]
fn both_are_never_worse_than_one() {
    let graph = transformer(true, 30.0);
    let of = |smooth, rotate| {
        made(&graph, QuantizeOptions { smooth, rotate, ..options("w4a4") }).report.output_sqnr_db.unwrap()
    };
    let (smooth, turned) = (of(Smoothing::Measured, false), of(Smoothing::Off, true));
    let both = of(Smoothing::Measured, true);
    assert!(both >= smooth.max(turned), "{smooth} {turned} {both}");
}
