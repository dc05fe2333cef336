//! Random networks through the engine and the reference evaluator: integers bit for bit, floats within rounding, the same
//! results for every number of threads and, for integers, every instruction set.

use std::sync::Arc;

use proptest::prelude::*;
use qing_engine::{Isa, Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Quant, Tensor, Type, ValueId, interpret::interpret, ops};

/// A stream of numbers from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// `low ..= high`
    fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.next() as usize % (high - low + 1)
    }

    fn real(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 31) as f32 * 2.0 - 1.0
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.range(1, 100) <= percent
    }
}

struct Builder {
    graph: Graph,
    dice: Dice,
    quantized: bool,
    /// Values that later layers may read.
    values: Vec<ValueId>,
}

impl Builder {
    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.ty(id).known_shape().expect("all shapes are known")
    }

    /// A random type for results of a shape.
    fn ty(&mut self, shape: &[usize]) -> Type {
        let ty = Type::new(Element::F32, shape.iter().copied());
        if !self.quantized {
            return ty;
        }
        let bits = if self.dice.chance(60) { 8 } else { self.dice.range(1, 7) as u8 };
        let element = Element::integer(bits, self.dice.chance(50)).expect("1 to 8 bits");
        let (lo, hi) = element.range().expect("an integer");
        let zero = self.dice.range(0, (hi - lo) as usize) as i32 + lo as i32;
        ty.quantized(element, Quant::per_tensor(0.02 + self.dice.real().abs(), zero).expect("a positive scale"))
    }

    fn add(&mut self, op: impl Op, name: &str, inputs: &[ValueId], ty: Type) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let name = format!("{name}{}", self.graph.nodes.len());
        self.graph.add_typed_node(Arc::new(op), &name, &inputs, vec![ty]).expect("a legal node")[0]
    }

    /// The type `op` gives for these inputs, of the results' own quantization.
    fn typed(&mut self, op: &impl Op, inputs: &[ValueId]) -> Option<Type> {
        let types: Vec<Option<&Type>> = inputs.iter().map(|id| Some(self.graph.ty(*id))).collect();
        let constants: Vec<Option<&Tensor>> = inputs.iter().map(|id| self.graph.constant(*id)).collect();
        let cx = qing_graph::Infer { types: &types, constants: &constants, outputs: 1 };
        let shape = op.infer(&cx).ok()?[0].known_shape()?;
        (!shape.contains(&0)).then(|| self.ty(&shape))
    }

    fn weights(&mut self, shape: &[usize]) -> ValueId {
        let count: usize = shape.iter().product();
        let name = format!("w{}", self.graph.nodes.len());
        if !self.quantized {
            let values: Vec<f32> = (0..count).map(|_| self.dice.real()).collect();
            return self.graph.add_constant(&name, Tensor::new(shape, values).expect("fits"));
        }
        let element = match self.dice.range(0, 9) {
            0 => Element::Bipolar,
            bits @ 1..=8 => Element::integer(bits as u8, true).expect("1 to 8 bits"),
            _ => Element::U8,
        };
        let values: Vec<i32> = (0..count).map(|_| self.dice.next() as i32 % 256 - 128).collect();
        let scales = (0..shape[0]).map(|_| 0.001 + self.dice.real().abs() * 0.05).collect();
        let zero = if element == Element::U8 { 128 } else { 0 };
        let quant = Quant::new(qing_graph::Granularity::Axis(0), scales, vec![zero]).expect("positive scales");
        let ty = Type::new(Element::F32, shape.iter().copied()).quantized(element, quant);
        self.graph.add_typed_constant(&name, ty, Tensor::from_ints(element, shape, &values).expect("fits"))
    }

    fn bias(&mut self, channels: usize) -> ValueId {
        let name = format!("b{}", self.graph.nodes.len());
        let tensor = if self.quantized {
            Tensor::vector((0..channels).map(|_| self.dice.next() as i32 % 2000 - 1000).collect::<Vec<i32>>())
        } else {
            Tensor::vector((0..channels).map(|_| self.dice.real()).collect::<Vec<f32>>())
        };
        self.graph.add_constant(&name, tensor)
    }

    fn conv(&mut self, x: ValueId) -> Option<ValueId> {
        let shape = self.shape(x);
        let channels = shape[1];
        let spatial = shape.len() - 2;
        let (groups, out) = match self.dice.range(0, 3) {
            0 => (channels, channels),
            1 if channels.is_multiple_of(2) => (2, 2 * self.dice.range(1, 5)),
            _ => (1, self.dice.range(1, 20)),
        };
        let kernel: Vec<usize> = (0..spatial).map(|_| self.dice.range(1, 3)).collect();
        let per_axis = |dice: &mut Dice, high: usize| (0..spatial).map(|_| dice.range(1, high) as i64).collect();
        let op = ops::Conv {
            group: groups as i64,
            strides: per_axis(&mut self.dice, 2),
            dilations: if self.dice.chance(20) { per_axis(&mut self.dice, 2) } else { vec![] },
            pads: (0..2 * spatial).map(|_| self.dice.range(0, 2) as i64).collect(),
            ..ops::Conv::default()
        };
        let mut w_shape = vec![out, channels / groups];
        w_shape.extend(kernel);
        let w = self.weights(&w_shape);
        let mut inputs = vec![x, w];
        if self.dice.chance(70) {
            inputs.push(self.bias(out));
        }
        let ty = self.typed(&op, &inputs)?;
        Some(self.add(op, "conv", &inputs, ty))
    }

    /// A PReLU, which between quantized values is an island of floats.
    fn island(&mut self, x: ValueId) -> ValueId {
        let shape = self.shape(x);
        let channels = if self.dice.chance(80) { shape[1] } else { 1 };
        let slopes: Vec<f32> = (0..channels).map(|_| self.dice.real()).collect();
        let mut along = vec![1; shape.len() - 1];
        along[0] = channels;
        let slope = format!("slope{}", self.graph.nodes.len());
        let slope = self.graph.add_constant(&slope, Tensor::new(&along, slopes).expect("fits"));
        let real = Type::new(Element::F32, shape.iter().copied());
        let x = if self.quantized { self.add(ops::Dequantize {}, "real", &[x], real.clone()) } else { x };
        let y = self.add(ops::PRelu {}, "prelu", &[x, slope], real);
        if !self.quantized {
            return y;
        }
        let ty = self.ty(&shape);
        self.add(ops::Quantize {}, "whole", &[y], ty)
    }

    /// One more layer on a value; `None` if the dice fell on something illegal.
    fn layer(&mut self, x: ValueId) -> Option<ValueId> {
        let shape = self.shape(x);
        let same = |ty: &Type| ty.clone();
        Some(match self.dice.range(0, 12) {
            0..=3 => self.conv(x)?,
            4 => {
                let ty = if self.dice.chance(60) { same(self.graph.ty(x)) } else { self.ty(&shape) };
                self.add(ops::Relu {}, "relu", &[x], ty)
            }
            5 => {
                let (low, high) = (self.dice.real() - 1.0, self.dice.real() + 1.5);
                let low = self.graph.add_constant("low", Tensor::scalar(low));
                let high = self.graph.add_constant("high", Tensor::scalar(high));
                let ty = if self.dice.chance(60) { same(self.graph.ty(x)) } else { self.ty(&shape) };
                self.add(ops::Clip {}, "clip", &[x, low, high], ty)
            }
            6 => {
                let ty = self.ty(&shape);
                self.add(ops::Sigmoid {}, "sigmoid", &[x], ty)
            }
            7 => {
                let other = self.values.iter().rev().copied().find(|v| *v != x && self.shape(*v) == shape)?;
                let ty = self.ty(&shape);
                let pair = if self.dice.chance(50) { [x, other] } else { [other, x] };
                self.add(ops::Add {}, "add", &pair, ty)
            }
            8 => {
                let spatial = shape.len() - 2;
                let op = ops::MaxPool {
                    kernel_shape: vec![2; spatial],
                    strides: vec![self.dice.range(1, 2) as i64; spatial],
                    ..ops::MaxPool::default()
                };
                let out = self.typed(&op, &[x])?.shape;
                let ty = self.graph.ty(x).with_shape(out);
                self.add(op, "max", &[x], ty)
            }
            9 => {
                let spatial = shape.len() - 2;
                let op = ops::AveragePool {
                    kernel_shape: vec![3; spatial],
                    pads: vec![1; 2 * spatial],
                    count_include_pad: self.dice.chance(50),
                    ..ops::AveragePool::default()
                };
                let ty = self.typed(&op, &[x])?;
                self.add(op, "mean", &[x], ty)
            }
            10 => {
                let other = self.values.iter().rev().copied().find(|v| {
                    let other = self.shape(*v);
                    other.len() == shape.len() && other[0] == shape[0] && other[2..] == shape[2..]
                })?;
                let op = ops::Concat { axis: 1 };
                let ty = self.typed(&op, &[x, other])?;
                self.add(op, "concat", &[x, other], ty)
            }
            11 => self.island(x),
            _ => {
                // Batch and channels change places: nothing a convolution likes.
                let mut perm: Vec<i64> = (0..shape.len() as i64).collect();
                perm.swap(0, 1);
                let op = ops::Transpose { perm };
                let out = self.typed(&op, &[x])?.shape;
                let ty = self.graph.ty(x).with_shape(out);
                self.add(op, "transpose", &[x], ty)
            }
        })
    }
}

fn network(seed: u64, quantized: bool) -> Graph {
    let mut builder = Builder { graph: Graph::new("random"), dice: Dice(seed), quantized, values: vec![] };
    let dice = &mut builder.dice;
    let mut shape = vec![dice.range(1, 2), dice.range(1, 6)];
    for _ in 0..if dice.chance(85) { 2 } else { 1 } {
        shape.push(dice.range(3, 9));
    }
    let ty = builder.ty(&shape);
    let mut x = builder.graph.add_input("x", ty);
    builder.values.push(x);
    for _ in 0..builder.dice.range(2, 8) {
        let from =
            if builder.dice.chance(75) { x } else { builder.values[builder.dice.range(0, builder.values.len() - 1)] };
        if let Some(y) = builder.layer(from) {
            builder.values.push(y);
            x = y;
        }
    }
    if builder.dice.chance(20) {
        let other = builder.values[builder.dice.range(0, builder.values.len() - 1)];
        builder.graph.mark_output(other);
    }
    if builder.dice.chance(50) {
        let shape = builder.shape(x);
        let op = ops::GlobalAveragePool {};
        if let Some(ty) = builder.typed(&op, &[x]) {
            x = builder.add(op, "global", &[x], ty);
            let flat = ops::Flatten { axis: 1 };
            let out = builder.typed(&flat, &[x]).and_then(|t| t.shape);
            let ty = builder.graph.ty(x).with_shape(out);
            x = builder.add(flat, "flat", &[x], ty);
            let classes = builder.dice.range(1, 12);
            let w = builder.weights(&[classes, shape[1]]);
            let b = builder.bias(classes);
            let gemm = ops::Gemm { transB: true, ..ops::Gemm::default() };
            if let Some(mut ty) = builder.typed(&gemm, &[x, w, b]) {
                if builder.dice.chance(50) {
                    ty = Type::maybe(Element::F32, ty.shape);
                }
                x = builder.add(gemm, "classify", &[x, w, b], ty);
            }
        }
    }
    builder.graph.mark_output(x);
    builder.graph
}

fn input(graph: &Graph, seed: u64) -> Tensor {
    let mut dice = Dice(seed ^ 0x5555);
    let ty = graph.ty(graph.inputs[0]);
    let shape = ty.known_shape().expect("known");
    let count: usize = shape.iter().product();
    if ty.quant.is_some() {
        let values: Vec<i32> = (0..count).map(|_| dice.next() as i32).collect();
        return Tensor::from_ints(ty.element, &shape, &values).expect("fits");
    }
    Tensor::new(&shape, (0..count).map(|_| dice.real()).collect::<Vec<f32>>()).expect("fits")
}

fn run(graph: &Graph, options: &Options, x: &Tensor) -> (Vec<Tensor>, String) {
    let plan = Plan::new(graph, options).expect("a legal graph");
    let mut session = Session::new(Arc::new(plan));
    let first = session.run(std::slice::from_ref(x)).expect("a legal input");
    let again = session.run(std::slice::from_ref(x)).expect("a legal input");
    assert_eq!(first, again, "a second run differs:\n{}", session.plan().dump());
    (again, session.plan().dump())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn quantized_networks_equal_the_reference(seed in any::<u64>()) {
        let graph = network(seed, true);
        let x = input(&graph, seed);
        let want = interpret(&graph, std::slice::from_ref(&x)).expect("a legal graph");
        for isa in Isa::available() {
            for threads in [1, 3] {
                let options = Options { isa: Some(isa), threads, ..Options::default() };
                let (got, dump) = run(&graph, &options, &x);
                prop_assert_eq!(&got, &want, "{} with {} threads:\n{}", isa.name(), threads, dump);
                prop_assert!(!dump.contains("reference"), "no kernel:\n{}", dump);
            }
        }
    }

    #[test]
    fn float_networks_are_close_to_the_reference(seed in any::<u64>()) {
        let graph = network(seed, false);
        let x = input(&graph, seed);
        let want = interpret(&graph, std::slice::from_ref(&x)).expect("a legal graph");
        for isa in Isa::available() {
            let options = Options { isa: Some(isa), ..Options::default() };
            let (got, dump) = run(&graph, &options, &x);
            prop_assert!(!dump.contains("reference"), "no kernel:\n{}", dump);
            for (got, want) in got.iter().zip(&want) {
                let scale = want.to_f64s().iter().fold(1.0f64, |m, v| m.max(v.abs()));
                for (g, w) in got.to_f64s().iter().zip(want.to_f64s()) {
                    prop_assert!((g - w).abs() <= 2e-5 * scale, "{}: {} for {}\n{}", isa.name(), g, w, dump);
                }
            }
            let (threaded, _) = run(&graph, &Options { threads: 3, ..options }, &x);
            prop_assert_eq!(got, threaded, "threads change the result");
        }
    }
}
