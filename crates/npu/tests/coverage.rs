//! What networks have beside convolutions, on every preset: groups, joined channels, enlarged images, functions of one value.

mod support;

use std::sync::Arc;

use qing_graph::{Element, Graph, Op, Tensor, Type, ValueId, interpret::interpret, ops};
use qing_npu::{Config, compile};
use support::{Noise, activation, agrees, computes, typed, weights};

const PRESETS: [&str; 3] = ["nano", "edge", "core"];

/// A point-wise layer, so that what follows reads what the chip has written.
fn pointwise(noise: &mut Noise, graph: &mut Graph, x: ValueId, channels: usize, bits: u8) -> ValueId {
    let shape = graph.ty(x).known_shape().unwrap();
    let wbits = noise.pick(&[2, 4, 8]);
    let w = weights(noise, graph, "integer", wbits, &[channels, shape[1], 1, 1]);
    let ty = activation(noise, bits, &[1, channels, shape[2], shape[3]]);
    typed(graph, ops::Conv::default(), &[x, w], ty)
}

/// The type of a value with another shape.
fn shaped(graph: &Graph, x: ValueId, shape: &[usize]) -> Type {
    graph.ty(x).with_shape(Type::new(Element::F32, shape.iter().copied()).shape)
}

#[test]
fn grouped_convolutions() {
    let mut noise = Noise(0x6_7072);
    for preset in PRESETS {
        for (groups, depth, each) in [(2, 8, 8), (4, 4, 4), (3, 5, 7), (8, 1, 2), (2, 40, 24), (12, 1, 1)] {
            let k = noise.pick(&[1, 3]);
            let (stride, dilation) = (1 + noise.below(2) as i64, 1 + noise.below(2) as i64);
            let (height, width) = (5 + noise.below(4), 5 + noise.below(6));
            let a = 1 + noise.below(8) as u8;
            let mut graph = Graph::new("groups");
            let ty = activation(&mut noise, a, &[1, groups * depth, height, width]);
            let x = graph.add_input("x", ty);
            let kind = noise.pick(&["integer", "bipolar", "ternary"]);
            let w = weights(&mut noise, &mut graph, kind, 5, &[groups * each, depth, k, k]);
            let pad = (k / 2) as i64;
            let size = |n: usize| (n + 2 * pad as usize - (k - 1) * dilation as usize - 1) / stride as usize + 1;
            let ty = activation(&mut noise, 8, &[1, groups * each, size(height), size(width)]);
            let op = ops::Conv {
                group: groups as i64,
                pads: vec![pad; 4],
                strides: vec![stride; 2],
                dilations: vec![dilation; 2],
                ..ops::Conv::default()
            };
            let y = typed(&mut graph, op, &[x, w], ty);
            graph.mark_output(y);
            let what = format!("{preset}: {groups} groups {depth}→{each} k{k} s{stride} d{dilation} {kind} a{a}");
            agrees(&graph, preset, &mut noise, &what);
        }
    }
}

#[test]
fn joined_channels() {
    let mut noise = Noise(0x00c0_4ca7);
    let lists: [&[usize]; 10] = [
        &[8, 8],
        &[16, 8, 8],
        &[3, 5],
        &[24, 72],
        &[20, 50],
        &[5, 60, 7],
        &[64, 64],
        &[100, 30],
        &[50, 1, 40],
        &[1, 1],
    ];
    for preset in PRESETS {
        for channels in lists {
            let (height, width) = (3 + noise.below(3), 4 + noise.below(5));
            let mut graph = Graph::new("concat");
            let a = 1 + noise.below(8) as u8;
            let ty = activation(&mut noise, a, &[1, 6, height, width]);
            let x = graph.add_input("x", ty);
            let mut parts: Vec<ValueId> = channels
                .iter()
                .map(|c| {
                    let bits = 1 + noise.below(8) as u8;
                    pointwise(&mut noise, &mut graph, x, *c, bits)
                })
                .collect();
            let mut all: usize = channels.iter().sum();
            if noise.below(2) == 0 {
                // What the host brings as well.
                parts.push(x);
                all += 6;
            }
            let ty = activation(&mut noise, 8, &[1, all, height, width]);
            let joined = typed(&mut graph, ops::Concat { axis: 1 }, &parts, ty);
            let y = pointwise(&mut noise, &mut graph, joined, 9, 7);
            graph.mark_output(joined);
            graph.mark_output(y);
            agrees(&graph, preset, &mut noise, &format!("{preset}: {channels:?} of {all} {height}×{width}"));
        }
    }
}

#[test]
fn enlarged_images() {
    let mut noise = Noise(0x001a_26e5);
    for preset in PRESETS {
        for ([fy, fx], channels) in [([2, 2], 8), ([1, 3], 20), ([4, 2], 3), ([2, 1], 64), ([3, 3], 70), ([2, 2], 16)] {
            let (height, width) = (2 + noise.below(5), 3 + noise.below(4));
            let mut graph = Graph::new("resize");
            let a = 1 + noise.below(8) as u8;
            let ty = activation(&mut noise, a, &[1, 6, height, width]);
            let input = graph.add_input("x", ty);
            let x = pointwise(&mut noise, &mut graph, input, channels, a);
            let scales = graph.add_constant("scales", Tensor::vector(vec![1.0f32, 1.0, fy as f32, fx as f32]));
            let shape = [1, channels, fy * height, fx * width];
            let ty = shaped(&graph, x, &shape);
            let large = if noise.below(2) == 0 {
                typed(&mut graph, ops::Upsample::default(), &[x, scales], ty)
            } else {
                let op = ops::Resize {
                    coordinate_transformation_mode: "asymmetric".into(),
                    nearest_mode: "floor".into(),
                    ..ops::Resize::default()
                };
                let inputs = [Some(x), None, Some(scales)];
                graph.add_typed_node(Arc::new(op), "layer", &inputs, vec![ty]).unwrap()[0]
            };
            // As decoders of segmentation networks do it: beside a finer image, then a convolution.
            let ty = activation(&mut noise, 5, &[1, 8, shape[2], shape[3]]);
            let fine = graph.add_input("fine", ty);
            let ty = activation(&mut noise, 8, &[1, channels + 8, shape[2], shape[3]]);
            let joined = typed(&mut graph, ops::Concat { axis: 1 }, &[large, fine], ty);
            let w = weights(&mut noise, &mut graph, "integer", 3, &[10, channels + 8, 3, 3]);
            let ty = activation(&mut noise, 8, &[1, 10, shape[2], shape[3]]);
            let conv = ops::Conv { pads: vec![1; 4], ..ops::Conv::default() };
            let y = typed(&mut graph, conv, &[joined, w], ty);
            graph.mark_output(large);
            graph.mark_output(y);
            agrees(&graph, preset, &mut noise, &format!("{preset}: {channels} × {height}×{width} by {fy}×{fx} a{a}"));
        }
    }
}

fn function(noise: &mut Noise, graph: &mut Graph, x: ValueId, which: usize) -> ValueId {
    let op: Arc<dyn Op> = match which {
        0 => Arc::new(ops::Sigmoid {}),
        1 => Arc::new(ops::HardSwish {}),
        2 => Arc::new(ops::Tanh {}),
        _ => Arc::new(ops::Gelu::default()),
    };
    let bits = 1 + noise.below(8) as u8;
    let shape = graph.ty(x).known_shape().unwrap();
    let ty = activation(noise, bits, &shape);
    graph.add_typed_node(op, "function", &[Some(x)], vec![ty]).unwrap()[0]
}

#[test]
fn functions_of_one_value() {
    let mut noise = Noise(0x007a_b1e5);
    for preset in PRESETS {
        for case in 0..8 {
            let (height, width) = (3 + noise.below(4), 3 + noise.below(6));
            let channels = noise.pick(&[1, 3, 8, 20, 70]);
            let mut graph = Graph::new("tables");
            let a = 1 + noise.below(8) as u8;
            let ty = activation(&mut noise, a, &[1, channels, height, width]);
            let mut x = graph.add_input("x", ty);
            // Of what the host brings, of what a layer makes for it alone, or for another as well.
            if case % 4 > 0 {
                x = pointwise(&mut noise, &mut graph, x, 12, a);
            }
            if case % 4 == 2 {
                graph.mark_output(x);
            }
            let y = function(&mut noise, &mut graph, x, case % 4);
            let z = pointwise(&mut noise, &mut graph, y, 9, 6);
            graph.mark_output(z);
            if case % 4 == 3 {
                let again = function(&mut noise, &mut graph, y, 0);
                graph.mark_output(again);
            }
            agrees(&graph, preset, &mut noise, &format!("{preset}: case {case}, {channels} × {height}×{width} a{a}"));
        }
    }
}

#[test]
fn bounds_one_after_another() {
    let mut noise = Noise(0x000c_11b0);
    for preset in PRESETS {
        for bounds in [[(-10.0, 5.0), (-3.0, 9.0)], [(1.0, 2.0), (3.0, 4.0)], [(3.0, 4.0), (1.0, 2.0)]] {
            let mut graph = Graph::new("clips");
            let ty = activation(&mut noise, 8, &[1, 8, 4, 4]);
            let x = graph.add_input("x", ty);
            let mut y = pointwise(&mut noise, &mut graph, x, 8, 8);
            let scale = graph.ty(y).quant.as_ref().unwrap().scale(0);
            for (low, high) in bounds {
                let low = graph.add_constant("low", Tensor::scalar(low * 8.0 * scale));
                let high = graph.add_constant("high", Tensor::scalar(high * 8.0 * scale));
                let ty = graph.ty(y).clone();
                y = typed(&mut graph, ops::Clip {}, &[y, low, high], ty);
            }
            graph.mark_output(y);
            agrees(&graph, preset, &mut noise, &format!("{preset}: {bounds:?}"));
        }
    }
}

#[test]
fn sums_of_few_channels() {
    let mut noise = Noise(0xadd);
    for preset in PRESETS {
        for channels in [1, 2, 3, 5, 9] {
            let mut graph = Graph::new("add");
            let a = 1 + noise.below(8) as u8;
            let ty = activation(&mut noise, a, &[1, channels, 5, 7]);
            let x = graph.add_input("x", ty);
            let y = pointwise(&mut noise, &mut graph, x, channels, 4);
            let ty = activation(&mut noise, 8, &[1, channels, 5, 7]);
            let z = typed(&mut graph, ops::Add {}, &[x, y], ty);
            graph.mark_output(z);
            agrees(&graph, preset, &mut noise, &format!("{preset}: {channels} channels a{a}"));
        }
    }
}

#[test]
fn products_with_more_weights_than_there_is_room_for() {
    let mut noise = Noise(0x9_0d);
    let mut graph = Graph::new("product");
    let ty = activation(&mut noise, 8, &[1, 640]);
    let x = graph.add_input("x", ty);
    let w = weights(&mut noise, &mut graph, "integer", 8, &[128, 640]);
    let ty = activation(&mut noise, 8, &[1, 128]);
    let y = typed(&mut graph, ops::Gemm { transB: true, ..ops::Gemm::default() }, &[x, w], ty);
    let w = weights(&mut noise, &mut graph, "integer", 8, &[300, 128]);
    let ty = activation(&mut noise, 8, &[1, 300]);
    let z = typed(&mut graph, ops::Gemm { transB: true, ..ops::Gemm::default() }, &[y, w], ty);
    graph.mark_output(z);
    let program = compile(&graph, &Config::preset("nano").unwrap()).unwrap();
    // Output channels are cut, so that one part is computed while the next is brought in.
    assert!(program.layers.len() > 2 && program.layers.iter().any(|l| !l.resident), "{:?}", program.layers);
    computes(&graph, program, &mut noise, "two products on nano");
}

/// Adds an op that moves values, after a point-wise layer, with everything else it takes as constants.
fn moves(noise: &mut Noise, graph: &mut Graph, x: ValueId, op: Arc<dyn Op>, constants: &[Vec<i64>]) -> Vec<ValueId> {
    let mut inputs = vec![Some(x)];
    for values in constants {
        inputs.push(Some(graph.add_constant("constant", Tensor::vector(values.clone()))));
    }
    let shape = graph.ty(x).known_shape().unwrap();
    let float = Tensor::new(&shape, vec![0.0f32; shape.iter().product()]).unwrap();
    // What it makes of floats says the shapes.
    let mut probe = Graph::new("shapes");
    let p = probe.add_input("x", Type::new(Element::F32, shape.iter().copied()));
    let mut probed = vec![Some(p)];
    for values in constants {
        probed.push(Some(probe.add_constant("constant", Tensor::vector(values.clone()))));
    }
    let halves = if op.name() == "Split" { 2 } else { 1 };
    let types = vec![Type::new(Element::F32, shape.iter().copied()).with_shape(None); halves];
    for y in probe.add_typed_node(op.clone(), "op", &probed, types).unwrap() {
        probe.mark_output(y);
    }
    let made = interpret(&probe, &[float]).unwrap();
    let types = made.iter().map(|t| shaped(graph, x, t.shape())).collect();
    let outputs = graph.add_typed_node(op, "op", &inputs, types).unwrap();
    for y in &outputs {
        let z = pointwise(noise, graph, *y, 9, 7);
        graph.mark_output(*y);
        graph.mark_output(z);
    }
    outputs
}

#[test]
fn chosen_pixels_and_channels() {
    let mut noise = Noise(0x05e1_ec70);
    let pad = || Arc::new(ops::Pad::default());
    let cases: [(&str, Arc<dyn Op>, Vec<Vec<i64>>); 8] = [
        ("every other pixel", Arc::new(ops::Slice {}), vec![vec![0, 0], vec![9, 9], vec![2, 3], vec![2, 2]]),
        ("from the second row", Arc::new(ops::Slice {}), vec![vec![1, 2], vec![9, 8], vec![2, 3], vec![1, 1]]),
        ("some channels", Arc::new(ops::Slice {}), vec![vec![3], vec![11], vec![1], vec![2]]),
        ("channels of zeros", pad(), vec![vec![0, 5, 0, 0, 0, 9, 0, 0]]),
        ("a frame of zeros", pad(), vec![vec![0, 0, 2, 1, 0, 0, 0, 3]]),
        ("halves", Arc::new(ops::Split { axis: 1, ..ops::Split::default() }), vec![vec![5, 7]]),
        ("blocks as channels", Arc::new(ops::SpaceToDepth { blocksize: 2 }), vec![]),
        (
            "channels in another order",
            Arc::new(ops::Gather { axis: 1 }),
            vec![vec![11, 0, 10, 1, 9, 2, 8, 3, 7, 4, 6, 5]],
        ),
    ];
    for preset in PRESETS {
        for (what, op, constants) in &cases {
            for bits in [8, 3] {
                let mut graph = Graph::new("choice");
                let ty = activation(&mut noise, 8, &[1, 12, 8, 10]);
                let input = graph.add_input("x", ty);
                let x = pointwise(&mut noise, &mut graph, input, 12, bits);
                moves(&mut noise, &mut graph, x, op.clone(), constants);
                agrees(&graph, preset, &mut noise, &format!("{preset}: {what}, {bits} bits"));
            }
        }
    }
}

#[test]
fn what_is_no_choice_is_refused_by_name() {
    let mut noise = Noise(0x0ff);
    let mirrored: (Arc<dyn Op>, Vec<Vec<i64>>) =
        (Arc::new(ops::Slice {}), vec![vec![-1], vec![-99], vec![3], vec![-1]]);
    let edge: (Arc<dyn Op>, Vec<Vec<i64>>) =
        (Arc::new(ops::Pad { mode: "edge".into() }), vec![vec![0, 0, 1, 1, 0, 0, 1, 1]]);
    for (op, constants) in [mirrored, edge] {
        let mut graph = Graph::new("refused");
        let ty = activation(&mut noise, 8, &[1, 12, 8, 10]);
        let input = graph.add_input("x", ty);
        let x = pointwise(&mut noise, &mut graph, input, 12, 8);
        let name = op.name();
        moves(&mut noise, &mut graph, x, op, &constants);
        let error = compile(&graph, &Config::preset("core").unwrap()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn other_scales_take_no_tables() {
    let mut noise = Noise(0x5ca1e);
    for preset in PRESETS {
        let mut graph = Graph::new("requantized");
        let ty = activation(&mut noise, 8, &[1, 12, 5, 6]);
        let input = graph.add_input("x", ty);
        // A residual stream of eight bits, read by ever other layers with fewer: more of them than any preset has tables.
        let mut stream = pointwise(&mut noise, &mut graph, input, 12, 8);
        for _ in 0..20 {
            graph.mark_output(stream);
            let bits = 2 + noise.below(6) as u8;
            let ty = activation(&mut noise, bits, &[1, 12, 5, 6]);
            let narrow = typed(&mut graph, ops::Quantize {}, &[stream], ty);
            stream = pointwise(&mut noise, &mut graph, narrow, 12, 8);
        }
        graph.mark_output(stream);
        let program = compile(&graph, &Config::preset(preset).unwrap()).unwrap();
        assert!(program.network.layers.iter().all(|l| l.finish.table.is_none()), "{preset}");
        agrees(&graph, preset, &mut noise, preset);
    }
}
