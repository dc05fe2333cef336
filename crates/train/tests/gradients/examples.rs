//! What the rules are tried on.

use std::sync::Arc;

use qing_graph::{Op, OpSpec, Tensor, ops};

use crate::random::Random;

/// An op with inputs; those of f64 that are not fixed get a gradient.
pub(crate) struct Example {
    pub(crate) name: String,
    pub(crate) op: Arc<dyn Op>,
    pub(crate) inputs: Vec<Option<Tensor>>,
    pub(crate) outputs: usize,
    pub(crate) fixed: Vec<usize>,
}

/// The values that input `i` of an op is tried on: where it is defined, on both sides of its kinks.
fn domain(name: &str, i: usize) -> (f64, f64) {
    match (name, i) {
        ("Acos" | "Asin" | "Atanh", _) => (-0.9, 0.9),
        ("Acosh", _) => (1.2, 3.0),
        ("Log" | "Sqrt" | "ReduceLogSum", _) => (0.2, 3.0),
        ("Pow", 0) | ("Reciprocal", _) | ("Div" | "Mod", 1) => (0.5, 2.0),
        ("CumProd" | "ReduceProd", _) => (0.5, 2.0),
        ("Tan", _) => (-1.2, 1.2),
        ("BatchNormalization", 4) => (0.5, 2.0),
        ("Clip", 1) => (-1.5, -0.5),
        ("Clip", 2) => (0.5, 1.5),
        ("GridSample", 1) => (-1.4, 1.4),
        ("Exp" | "Sinh" | "Cosh", _) => (-2.0, 2.0),
        _ => (-4.0, 4.0),
    }
}

/// Inputs of floats that say how, not what: they stay as the case has them.
fn structural(name: &str) -> &'static [usize] {
    match name {
        "Dropout" | "Upsample" => &[1],
        "Resize" => &[1, 2],
        _ => &[],
    }
}

fn example(name: String, op: Arc<dyn Op>, inputs: Vec<Option<Tensor>>, outputs: usize) -> Example {
    let fixed = structural(op.name()).to_vec();
    Example { name, op, inputs, outputs, fixed }
}

pub(crate) fn examples(spec: &OpSpec, random: &mut Random) -> Vec<Example> {
    let mut all = vec![];
    for case in (spec.cases)() {
        let quantized = case.inputs.iter().flatten().chain(&case.outputs).any(|(_, q)| q.is_some());
        if quantized {
            continue;
        }
        let inputs = case.inputs.iter().enumerate().map(|(i, input)| {
            let (tensor, _) = input.as_ref()?;
            if !tensor.element().is_float() {
                return Some(tensor.clone());
            }
            if structural(spec.name).contains(&i) {
                return Some(tensor.clone());
            }
            let (low, high) = domain(spec.name, i);
            Some(random.tensor(tensor.shape(), low, high))
        });
        all.push(example(case.name.clone(), case.op.clone(), inputs.collect(), case.outputs.len()));
        // A unary function has no shape of its own.
        if case.op.map(0.0).is_some() {
            let (low, high) = domain(spec.name, 0);
            let rank = random.range(0, 4);
            let shape = random.shape(rank, 4);
            let x = random.tensor(&shape, low, high);
            all.push(example(format!("{}, {shape:?}", case.name), case.op, vec![Some(x)], 1));
        }
    }
    for i in 0..12 {
        all.extend(drawn(spec, random).map(|(op, inputs, outputs)| {
            let shapes: Vec<&[usize]> = inputs.iter().map(Tensor::shape).collect();
            example(format!("drawn {i}, {op:?} of {shapes:?}"), op, inputs.into_iter().map(Some).collect(), outputs)
        }));
    }
    all
}

type Drawn = (Arc<dyn Op>, Vec<Tensor>, usize);

/// An op with random attributes on inputs of random shapes.
fn drawn(spec: &OpSpec, random: &mut Random) -> Option<Drawn> {
    match spec.name {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => broadcast(spec, random, 2),
        "Max" | "Min" | "Sum" | "Mean" => {
            let count = random.range(1, 3);
            broadcast(spec, random, count)
        }
        "Conv" => Some(conv(random)),
        "ConvTranspose" => Some(conv_transpose(random)),
        "MaxPool" | "AveragePool" | "LpPool" => pool(spec, random),
        "MatMul" => Some(matmul(random)),
        "Gemm" => Some(gemm(random)),
        "BatchNormTraining" => Some(batch_norm(random)),
        "GridSample" => Some(grid_sample(random)),
        "Resize" => Some(resize(random)),
        "Softmax" | "LogSoftmax" => softmax(spec, random),
        "LayerNormalization" => Some(layer_norm(random)),
        "Transpose" => Some(transpose(random)),
        "Pad" => Some(pad(random)),
        "Slice" => Some(slice(random)),
        name if name.starts_with("Reduce") => reduce(spec, random),
        "Cast" => Some((Arc::new(ops::Cast::default()), vec![random.tensor(&[2, 3], -4.0, 4.0)], 1)),
        "CastLike" => {
            let like = Tensor::scalar(0f32);
            Some((Arc::new(ops::CastLike::default()), vec![random.tensor(&[2, 3], -4.0, 4.0), like], 1))
        }
        _ => None,
    }
}

/// Inputs whose shapes broadcast together: axes are dropped from the left, or have size 1.
fn broadcast(spec: &OpSpec, random: &mut Random, count: usize) -> Option<Drawn> {
    let rank = random.range(0, 4);
    let whole = random.shape(rank, 4);
    let mut inputs = vec![];
    for i in 0..count {
        let from = random.below(rank + 1);
        let shape: Vec<usize> = whole[from..].iter().map(|n| if random.below(3) == 0 { 1 } else { *n }).collect();
        let (low, high) = domain(spec.name, i);
        inputs.push(random.tensor(&shape, low, high));
    }
    Some(((spec.build)(&qing_graph::Attrs::default()).ok()?, inputs, 1))
}

/// Kernel, strides, dilations, pads and an input that is large enough, of one to three axes.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    input: Vec<usize>,
}

fn window(random: &mut Random) -> Window {
    let axes = random.range(1, 3);
    let mut w = Window { kernel: vec![], strides: vec![], dilations: vec![], pads: vec![0; 2 * axes], input: vec![] };
    for i in 0..axes {
        let (kernel, dilation) = (random.range(1, 3), random.range(1, 2));
        let extent = (kernel - 1) * dilation + 1;
        w.kernel.push(kernel);
        w.dilations.push(dilation as i64);
        w.strides.push(random.range(1, 3) as i64);
        w.pads[i] = random.below(kernel) as i64;
        w.pads[axes + i] = random.below(kernel) as i64;
        w.input.push(extent + random.range(0, 3));
    }
    w
}

fn conv(random: &mut Random) -> Drawn {
    let w = window(random);
    let (group, per_group, out) = (random.range(1, 3), random.range(1, 2), random.range(1, 2));
    let automatic = random.below(4) == 0;
    let op = ops::Conv {
        auto_pad: if automatic { "SAME_UPPER".into() } else { "NOTSET".into() },
        dilations: w.dilations,
        group: group as i64,
        pads: if automatic { vec![] } else { w.pads },
        strides: w.strides,
        ..ops::Conv::default()
    };
    let x = [&[random.range(1, 2), group * per_group], &w.input[..]].concat();
    let filter = [&[group * out, per_group], &w.kernel[..]].concat();
    let mut inputs = vec![random.tensor(&x, -1.0, 1.0), random.tensor(&filter, -1.0, 1.0)];
    if random.chance() {
        inputs.push(random.tensor(&[group * out], -1.0, 1.0));
    }
    (Arc::new(op), inputs, 1)
}

fn conv_transpose(random: &mut Random) -> Drawn {
    let w = window(random);
    let (group, per_group, out) = (random.range(1, 3), random.range(1, 2), random.range(1, 2));
    let extra = w.strides.iter().map(|s| random.below(*s as usize) as i64).collect();
    let op = ops::ConvTranspose {
        dilations: w.dilations,
        group: group as i64,
        output_padding: extra,
        // Small inputs must not be padded away.
        pads: w.pads.iter().map(|p| (*p).min(1)).collect(),
        strides: w.strides,
        ..ops::ConvTranspose::default()
    };
    let x = [&[random.range(1, 2), group * per_group], &w.input[..]].concat();
    let filter = [&[group * per_group, out], &w.kernel[..]].concat();
    let mut inputs = vec![random.tensor(&x, -1.0, 1.0), random.tensor(&filter, -1.0, 1.0)];
    if random.chance() {
        inputs.push(random.tensor(&[group * out], -1.0, 1.0));
    }
    (Arc::new(op), inputs, 1)
}

fn pool(spec: &OpSpec, random: &mut Random) -> Option<Drawn> {
    use qing_graph::AttrValue::{Int, Ints};
    let w = window(random);
    let mut attrs = qing_graph::Attrs::default();
    attrs.set("kernel_shape", Ints(w.kernel.iter().map(|k| *k as i64).collect()));
    attrs.set("strides", Ints(w.strides));
    attrs.set("dilations", Ints(w.dilations));
    attrs.set("pads", Ints(w.pads));
    attrs.set("ceil_mode", Int(random.chance().into()));
    if spec.name == "AveragePool" {
        attrs.set("count_include_pad", Int(random.chance().into()));
    }
    let x = [&[random.range(1, 2), random.range(1, 2)], &w.input[..]].concat();
    Some(((spec.build)(&attrs).ok()?, vec![random.tensor(&x, -4.0, 4.0)], 1))
}

fn matmul(random: &mut Random) -> Drawn {
    let [m, k, n] = [0; 3].map(|_| random.range(1, 4));
    let rank = random.below(3);
    let batch = random.shape(rank, 3);
    let mut operand = |rows: usize, columns: usize, vector: usize| {
        let from = random.below(rank + 1);
        let mut shape: Vec<usize> = batch[from..].iter().map(|n| if random.below(3) == 0 { 1 } else { *n }).collect();
        if random.below(5) == 0 {
            shape = vec![vector];
        } else {
            shape.extend([rows, columns]);
        }
        random.tensor(&shape, -1.0, 1.0)
    };
    let inputs = vec![operand(m, k, k), operand(k, n, k)];
    (Arc::new(ops::MatMul {}), inputs, 1)
}

fn gemm(random: &mut Random) -> Drawn {
    let [m, k, n] = [0; 3].map(|_| random.range(1, 4));
    let op = ops::Gemm { alpha: 0.5, beta: 1.5, transA: random.chance(), transB: random.chance() };
    let a = if op.transA { [k, m] } else { [m, k] };
    let b = if op.transB { [n, k] } else { [k, n] };
    let mut inputs = vec![random.tensor(&a, -1.0, 1.0), random.tensor(&b, -1.0, 1.0)];
    let c: [&[usize]; 5] = [&[m, n], &[n], &[m, 1], &[1, n], &[]];
    if random.chance() {
        let shape = c[random.below(5)];
        inputs.push(random.tensor(shape, -1.0, 1.0));
    }
    (Arc::new(op), inputs, 1)
}

fn batch_norm(random: &mut Random) -> Drawn {
    let axes = random.below(3);
    let channels = random.range(1, 3);
    let x = [&[random.range(2, 4), channels], &random.shape(axes, 4)[..]].concat();
    let inputs = vec![
        random.tensor(&x, -4.0, 4.0),
        random.tensor(&[channels], -2.0, 2.0),
        random.tensor(&[channels], -2.0, 2.0),
    ];
    (Arc::new(ops::BatchNormTraining::default()), inputs, random.range(1, 3))
}

fn grid_sample(random: &mut Random) -> Drawn {
    let op = ops::GridSample {
        align_corners: random.chance(),
        mode: ["linear", "nearest", "cubic"][random.below(3)].into(),
        padding_mode: ["zeros", "border", "reflection"][random.below(3)].into(),
    };
    let axes = random.range(1, 2);
    let (batch, channels) = (random.range(1, 2), random.range(1, 2));
    let x = [&[batch, channels], &random.shape(axes, 4)[..]].concat();
    let grid = [&[batch], &random.shape(axes, 3)[..], &[axes]].concat();
    (Arc::new(op), vec![random.tensor(&x, -2.0, 2.0), random.tensor(&grid, -1.4, 1.4)], 1)
}

fn resize(random: &mut Random) -> Drawn {
    let modes = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"];
    let op = ops::Resize {
        antialias: random.chance(),
        coordinate_transformation_mode: modes[random.below(5)].into(),
        exclude_outside: random.chance(),
        mode: ["nearest", "linear", "cubic"][random.below(3)].into(),
        ..ops::Resize::default()
    };
    let rank = random.range(1, 3);
    let (x, sizes) = (random.shape(rank, 5), random.shape(rank, 6));
    let sizes = Tensor::vector(sizes.into_iter().map(|n| n as i64).collect::<Vec<i64>>());
    let none = || Tensor::new::<f32>(&[0], vec![]).expect("no values");
    (Arc::new(op), vec![random.tensor(&x, -2.0, 2.0), none(), none(), sizes], 1)
}

fn some_shape(random: &mut Random) -> Vec<usize> {
    let rank = random.range(1, 4);
    random.shape(rank, 4)
}

fn softmax(spec: &OpSpec, random: &mut Random) -> Option<Drawn> {
    use qing_graph::AttrValue::Int;
    let x = some_shape(random);
    let mut attrs = qing_graph::Attrs::default();
    attrs.set("axis", Int(random.below(x.len()) as i64));
    attrs.set("coerced", Int(random.chance().into()));
    Some(((spec.build)(&attrs).ok()?, vec![random.tensor(&x, -4.0, 4.0)], 1))
}

fn layer_norm(random: &mut Random) -> Drawn {
    let x = some_shape(random);
    let axis = random.below(x.len());
    let op = ops::LayerNormalization { axis: axis as i64, ..ops::LayerNormalization::default() };
    let mut inputs = vec![random.tensor(&x, -2.0, 2.0), random.tensor(&x[axis..], -2.0, 2.0)];
    if random.chance() {
        inputs.push(random.tensor(&x[axis..], -2.0, 2.0));
    }
    (Arc::new(op), inputs, 1)
}

fn transpose(random: &mut Random) -> Drawn {
    let x = some_shape(random);
    let mut perm: Vec<i64> = (0..x.len() as i64).collect();
    (1..perm.len()).rev().for_each(|i| perm.swap(i, random.below(i + 1)));
    (Arc::new(ops::Transpose { perm }), vec![random.tensor(&x, -2.0, 2.0)], 1)
}

fn pad(random: &mut Random) -> Drawn {
    let mode = ["constant", "edge", "reflect", "wrap"][random.below(4)];
    let x: Vec<usize> = some_shape(random).into_iter().map(|n| n + 2).collect();
    let least = if mode == "constant" { -1.0 } else { 0.0 };
    let pads = (0..2 * x.len()).map(|_| random.uniform(least, 2.99).floor() as i64).collect();
    let mut inputs = vec![random.tensor(&x, -2.0, 2.0), Tensor::vector::<i64>(pads)];
    if mode == "constant" && random.chance() {
        inputs.push(random.tensor(&[], -2.0, 2.0));
    }
    (Arc::new(ops::Pad { mode: mode.into() }), inputs, 1)
}

fn slice(random: &mut Random) -> Drawn {
    let x = some_shape(random);
    let list = |values: Vec<i64>| Tensor::vector::<i64>(values);
    let (mut starts, mut ends, mut steps) = (vec![], vec![], vec![]);
    for n in &x {
        let (a, b) = (random.below(*n) as i64, random.below(*n) as i64);
        let step = random.range(1, 2) as i64;
        // Before the first value there is no position that counts from the begin.
        let (start, end, step) = match random.chance() {
            true => (a.min(b), a.max(b) + 1, step),
            false => (a.max(b), a.min(b) - 1 - *n as i64, -step),
        };
        starts.push(start);
        ends.push(end);
        steps.push(step);
    }
    let axes = list((0..x.len() as i64).collect());
    (Arc::new(ops::Slice {}), vec![random.tensor(&x, -2.0, 2.0), list(starts), list(ends), axes, list(steps)], 1)
}

fn reduce(spec: &OpSpec, random: &mut Random) -> Option<Drawn> {
    use qing_graph::AttrValue::Int;
    let x = some_shape(random);
    let mut attrs = qing_graph::Attrs::default();
    attrs.set("keepdims", Int(random.chance().into()));
    attrs.set("noop_with_empty_axes", Int(random.chance().into()));
    let axes = (0..x.len() as i64).filter(|_| random.chance()).collect();
    let (low, high) = domain(spec.name, 0);
    Some(((spec.build)(&attrs).ok()?, vec![random.tensor(&x, low, high), Tensor::vector::<i64>(axes)], 1))
}
