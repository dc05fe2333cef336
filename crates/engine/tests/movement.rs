//! Ops that depend on where values lie, fed plain and channels-last values of random shapes, against the reference.

use std::sync::Arc;

use proptest::prelude::*;
use qing_engine::{Options, Plan, Session};
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

    fn chance(&mut self, percent: usize) -> bool {
        self.range(1, 100) <= percent
    }

    fn reals(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.next() as f32 / (1u64 << 30) as f32 - 1.0).collect::<Vec<f32>>();
        Tensor::new(shape, values).expect("fits")
    }
}

struct Builder {
    graph: Graph,
    dice: Dice,
    inputs: Vec<Tensor>,
    quantized: bool,
}

impl Builder {
    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.ty(id).known_shape().expect("all shapes are known")
    }

    fn quant() -> Quant {
        Quant::per_tensor(0.03, 110).expect("a positive scale")
    }

    /// A node whose outputs are quantized if its first input is.
    fn node(&mut self, op: impl Op, inputs: &[ValueId], outputs: usize) -> Option<Vec<ValueId>> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let name = format!("node{}", self.graph.nodes.len());
        let quant = self.graph.ty(inputs[0]?).quant.clone();
        let (op, mut probe) = (Arc::new(op), self.graph.clone());
        let made = probe.add_node(op.clone(), &name, &inputs, outputs).ok()?;
        if quant.is_none() {
            return self.graph.add_node(op, &name, &inputs, outputs).ok();
        }
        let types = made.iter().map(|id| Type { element: Element::U8, quant: quant.clone(), ..probe.ty(*id).clone() });
        self.graph.add_typed_node(op, &name, &inputs, types.collect()).ok()
    }

    fn one(&mut self, op: impl Op, inputs: &[ValueId]) -> Option<ValueId> {
        Some(self.node(op, inputs, 1)?[0])
    }

    /// An input of a shape; half the time behind a convolution, so that it lies channels last.
    fn value(&mut self, shape: &[usize]) -> Option<ValueId> {
        let name = format!("in{}", self.inputs.len());
        let tensor = self.dice.reals(shape);
        self.inputs.push(tensor);
        let mut x = self.graph.add_input(&name, Type::new(Element::F32, shape.iter().copied()));
        if self.quantized {
            let ty = self.graph.ty(x).clone().quantized(Element::U8, Builder::quant());
            x = self.graph.add_typed_node(Arc::new(ops::Quantize {}), &name, &[Some(x)], vec![ty]).ok()?[0];
        }
        if shape.len() >= 3 && self.dice.chance(60) {
            let pool = ops::MaxPool { kernel_shape: vec![1; shape.len() - 2], ..ops::MaxPool::default() };
            x = self.one(pool, &[x])?;
        }
        Some(x)
    }

    fn ints(&mut self, values: Vec<i64>) -> ValueId {
        self.graph.add_constant("ints", Tensor::vector(values))
    }

    fn dims(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.dice.range(1, 6)).collect()
    }

    /// A shape that broadcasts with `shape`.
    fn narrowed(&mut self, shape: &[usize]) -> Vec<usize> {
        let skip = if self.dice.chance(40) { self.dice.range(0, shape.len() - 1) } else { 0 };
        shape[skip..].iter().map(|d| if self.dice.chance(40) { 1 } else { *d }).collect()
    }

    /// One op on random operands: its outputs, or `None` if the dice fell on something illegal.
    fn op(&mut self) -> Option<Vec<ValueId>> {
        let rank = self.dice.range(1, 4);
        let shape = self.dims(rank);
        let kind = self.dice.range(0, if self.quantized { 9 } else { 17 });
        let spatial = vec![self.dice.range(1, 2), self.dice.range(1, 6), self.dice.range(2, 6), self.dice.range(2, 6)];
        match kind {
            0 => {
                let x = self.value(&shape)?;
                let mut perm: Vec<i64> = (0..rank as i64).collect();
                for i in (1..rank).rev() {
                    let j = self.dice.range(0, i);
                    perm.swap(i, j);
                }
                self.node(ops::Transpose { perm }, &[x], 1)
            }
            1 => {
                let x = self.value(&shape)?;
                let axis = self.dice.range(0, rank - 1);
                let parts = self.dice.range(1, 3).min(shape[axis]);
                let mut sizes = vec![1i64; parts];
                sizes[parts - 1] = (shape[axis] - parts + 1) as i64;
                let sizes = self.ints(sizes);
                self.node(ops::Split { axis: axis as i64, ..ops::Split::default() }, &[x, sizes], parts)
            }
            2 => {
                let axis = self.dice.range(0, rank - 1);
                let mut parts = vec![];
                for _ in 0..self.dice.range(1, 3) {
                    let mut shape = shape.clone();
                    shape[axis] = self.dice.range(1, 4);
                    parts.push(self.value(&shape)?);
                }
                self.node(ops::Concat { axis: axis as i64 }, &parts, 1)
            }
            3 => {
                let x = self.value(&shape)?;
                let axes: Vec<usize> = (0..rank).filter(|_| self.dice.chance(60)).collect();
                let (mut starts, mut ends, mut steps) = (vec![], vec![], vec![]);
                for axis in &axes {
                    let size = shape[*axis] as i64;
                    let start = self.dice.range(0, shape[*axis] - 1) as i64;
                    if self.dice.chance(30) {
                        starts.push(start);
                        ends.push(-size - 1);
                        steps.push(-(self.dice.range(1, 2) as i64));
                    } else {
                        starts.push(start - size);
                        ends.push(size + 3);
                        steps.push(self.dice.range(1, 3) as i64);
                    }
                }
                let axes = axes.into_iter().map(|a| a as i64).collect();
                let inputs = [x, self.ints(starts), self.ints(ends), self.ints(axes), self.ints(steps)];
                self.node(ops::Slice {}, &inputs, 1)
            }
            4 => {
                let x = self.value(&shape)?;
                let pads = (0..2 * rank).map(|_| if self.dice.chance(50) { self.dice.range(0, 2) as i64 } else { 0 });
                let pads = pads.collect();
                let pads = self.ints(pads);
                self.node(ops::Pad { mode: "constant".into() }, &[x, pads], 1)
            }
            5 => {
                let x = self.value(&shape)?;
                let shape = vec![-1, *shape.last()? as i64];
                let shape = self.ints(shape);
                self.node(ops::Reshape::default(), &[x, shape], 1)
            }
            6 => {
                let x = self.value(&shape)?;
                let axis = self.dice.range(0, rank - 1);
                let indices = (0..self.dice.range(1, 4)).map(|_| self.dice.range(0, shape[axis] - 1) as i64).collect();
                let indices = self.ints(indices);
                self.node(ops::Gather { axis: axis as i64 }, &[x, indices], 1)
            }
            7 => {
                let x = self.value(&spatial)?;
                let scales =
                    Tensor::vector(vec![1.0f32, 1.0, self.dice.range(1, 3) as f32, self.dice.range(1, 3) as f32]);
                let scales = self.graph.add_constant("scales", scales);
                let mode = if self.quantized || self.dice.chance(50) { "nearest" } else { "linear" };
                let op = ops::Resize { mode: mode.into(), ..ops::Resize::default() };
                let name = format!("node{}", self.graph.nodes.len());
                let inputs = [Some(x), None, Some(scales)];
                let mut probe = self.graph.clone();
                let id = probe.add_node(Arc::new(op.clone()), &name, &inputs, 1).ok()?[0];
                let mut ty = probe.ty(id).clone();
                (ty.element, ty.quant) = (self.graph.ty(x).element, self.graph.ty(x).quant.clone());
                self.graph.add_typed_node(Arc::new(op), &name, &inputs, vec![ty]).ok()
            }
            8 => {
                let mut shape = spatial;
                shape[1] = 4 * self.dice.range(1, 3);
                let x = self.value(&shape)?;
                let mode = if self.dice.chance(50) { "DCR" } else { "CRD" };
                self.node(ops::DepthToSpace { blocksize: 2, mode: mode.into() }, &[x], 1)
            }
            9 => {
                let x = self.value(&shape)?;
                let narrow = self.narrowed(&shape);
                let b = self.value(&narrow)?;
                let pair = if self.dice.chance(50) { [x, b] } else { [b, x] };
                self.node(ops::Add {}, &pair, 1)
            }
            10 | 11 => {
                let x = self.value(&shape)?;
                let narrow = self.narrowed(&shape);
                let b = if self.dice.chance(50) {
                    self.value(&narrow)?
                } else {
                    let tensor = self.dice.reals(&narrow);
                    self.graph.add_constant("b", tensor)
                };
                let pair = if self.dice.chance(50) { [x, b] } else { [b, x] };
                match self.dice.range(0, 3) {
                    0 => self.node(ops::Sub {}, &pair, 1),
                    1 => self.node(ops::Mul {}, &pair, 1),
                    2 => self.node(ops::Max {}, &pair, 1),
                    _ => self.node(ops::PRelu {}, &[x, b], 1),
                }
            }
            12 => {
                let x = self.value(&shape)?;
                let axis = self.dice.range(0, rank - 1) as i64;
                self.node(ops::Softmax { axis, coerced: false }, &[x], 1)
            }
            13 => {
                let x = self.value(&shape)?;
                let axis = self.dice.range(0, rank - 1);
                let (scale, bias) = (self.dice.reals(&shape[axis..]), self.dice.reals(&shape[axis..]));
                let (scale, bias) = (self.graph.add_constant("scale", scale), self.graph.add_constant("bias", bias));
                self.node(
                    ops::LayerNormalization { axis: axis as i64, ..ops::LayerNormalization::default() },
                    &[x, scale, bias],
                    1,
                )
            }
            14 => {
                let x = self.value(&shape)?;
                let axes: Vec<i64> = (0..rank as i64).filter(|_| self.dice.chance(50)).collect();
                let axes = self.ints(axes);
                let keepdims = self.dice.chance(50);
                match self.dice.range(0, 2) {
                    0 => self.node(ops::ReduceMean { keepdims, ..ops::ReduceMean::default() }, &[x, axes], 1),
                    1 => self.node(ops::ReduceMax { keepdims, ..ops::ReduceMax::default() }, &[x, axes], 1),
                    _ => self.node(ops::ReduceSum { keepdims, ..ops::ReduceSum::default() }, &[x, axes], 1),
                }
            }
            15 => {
                let (depth, cols) = (self.dice.range(1, 20), self.dice.range(1, 20));
                let mut a_shape = self.dims(rank - 1);
                a_shape.extend([self.dice.range(1, 5), depth]);
                let mut b_shape = if self.dice.chance(50) { vec![] } else { a_shape[..rank - 1].to_vec() };
                b_shape.extend([depth, cols]);
                let (a, b) = (self.value(&a_shape)?, self.value(&b_shape)?);
                self.node(ops::MatMul {}, &[a, b], 1)
            }
            16 => {
                let x = self.value(&spatial)?;
                let channels = spatial[1];
                let mut constants = vec![x];
                for name in ["scale", "bias", "mean", "variance"] {
                    let mut tensor = self.dice.reals(&[channels]);
                    if name == "variance" {
                        let positive = tensor.to_f32s().into_iter().map(|v| v.abs() + 0.1).collect();
                        tensor = Tensor::new::<f32>(&[channels], positive).expect("fits");
                    }
                    constants.push(self.graph.add_constant(name, tensor));
                }
                self.node(ops::BatchNormalization::default(), &constants, 1)
            }
            _ => {
                let x = self.value(&shape)?;
                let target: Vec<i64> = shape.iter().map(|d| if *d == 1 { 3 } else { *d as i64 }).collect();
                let target = self.ints(target);
                self.node(ops::Expand {}, &[x, target], 1)
            }
        }
    }
}

fn check(seed: u64, quantized: bool) -> Result<(), TestCaseError> {
    let mut builder = Builder { graph: Graph::new("op"), dice: Dice(seed), inputs: vec![], quantized };
    let Some(outputs) = builder.op() else { return Ok(()) };
    for y in &outputs {
        // What reads the result cares how it lies.
        let shape = builder.shape(*y);
        if shape.len() >= 3 && builder.dice.chance(50) {
            let pool = ops::MaxPool { kernel_shape: vec![1; shape.len() - 2], ..ops::MaxPool::default() };
            if let Some(z) = builder.one(pool, &[*y]) {
                builder.graph.mark_output(z);
            }
        }
        builder.graph.mark_output(*y);
    }
    let Builder { graph, inputs, .. } = builder;
    let want = interpret(&graph, &inputs).expect("a legal graph");
    let plan = Plan::new(&graph, &Options::threads(2)).expect("a legal graph");
    let dump = plan.dump();
    let mut session = Session::new(Arc::new(plan));
    let got = session.run(&inputs).expect("runs");
    for (g, w) in got.iter().zip(&want) {
        prop_assert_eq!((g.element(), g.shape()), (w.element(), w.shape()), "{}", dump);
        if quantized {
            prop_assert_eq!(g, w, "{}", dump);
        }
        for (g, w) in g.to_f64s().iter().zip(w.to_f64s()) {
            prop_assert!((g - w).abs() <= 1e-4 * w.abs().max(1.0), "{} for {}\n{}", g, w, dump);
        }
    }
    prop_assert_eq!(session.run(&inputs).expect("runs"), got, "a second run differs\n{}", dump);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn floats_are_close_wherever_they_lie(seed in any::<u64>()) {
        check(seed, false)?;
    }

    #[test]
    fn quantized_values_are_equal_wherever_they_lie(seed in any::<u64>()) {
        check(seed, true)?;
    }
}
