//! Networks whose activations do not fit the memory whole: computed strip by strip, they give what the reference evaluator gives, bit for bit.

mod support;

use qing_graph::{Element, Graph, Tensor, Type, ValueId, ops};
use qing_npu::{Config, compile};
use support::{Noise, activation, agrees, computes, typed, weights};

/// A convolution; `group` is 1 or the number of channels.
fn conv(
    noise: &mut Noise,
    graph: &mut Graph,
    x: ValueId,
    channels: usize,
    k: usize,
    stride: usize,
    group: usize,
) -> ValueId {
    let shape = graph.ty(x).known_shape().unwrap();
    let kind = noise.pick(&["integer", "integer", "ternary", "bipolar"]);
    let kind = if group > 1 { "integer" } else { kind };
    let bits = noise.pick(&[2, 4, 8]);
    let w = weights(noise, graph, kind, bits, &[channels, shape[1] / group, k, k]);
    let size = |n: usize| (n - 1) / stride + 1;
    let bits = noise.pick(&[3, 8, 8]);
    let ty = activation(noise, bits, &[1, channels, size(shape[2]), size(shape[3])]);
    let pad = (k / 2) as i64;
    let op =
        ops::Conv { group: group as i64, pads: vec![pad; 4], strides: vec![stride as i64; 2], ..ops::Conv::default() };
    typed(graph, op, &[x, w], ty)
}

/// A random part of a network.
fn part(noise: &mut Noise, graph: &mut Graph, x: ValueId) -> ValueId {
    let shape = graph.ty(x).known_shape().unwrap();
    let channels = noise.pick(&[8, 12, 16, 24, 40]);
    match noise.below(7) {
        // As in MobileNet, with strides or without.
        0 | 1 => {
            let wide = noise.pick(&[16, 32, 72]);
            let stride = 1 + noise.below(2);
            let y = conv(noise, graph, x, wide, 1, 1, 1);
            let y = conv(noise, graph, y, wide, 3, stride, wide);
            conv(noise, graph, y, channels, 1, 1, 1)
        }
        // As in ResNet.
        2 | 3 => {
            let k = noise.pick(&[3, 3, 5]);
            let y = conv(noise, graph, x, channels, k, 1, 1);
            let y = conv(noise, graph, y, shape[1], 3, 1, 1);
            let bits = noise.pick(&[5, 8]);
            let ty = activation(noise, bits, &shape);
            typed(graph, ops::Add {}, &[x, y], ty)
        }
        4 => {
            let y = conv(noise, graph, x, channels, 3, 1, 1);
            let shape = graph.ty(y).known_shape().unwrap();
            let (k, stride) = noise.pick(&[(2, 2), (3, 1), (3, 2)]);
            let pads = if k == 3 { vec![1; 4] } else { vec![0; 4] };
            let size = |n: usize| (n + (k - 2) * 2 - k) / stride + 1;
            let to = [1, channels, size(shape[2]), size(shape[3])];
            let ty = graph.ty(y).with_shape(Type::new(Element::F32, to).shape);
            let op = ops::MaxPool {
                kernel_shape: vec![k as i64; 2],
                strides: vec![stride as i64; 2],
                pads,
                ..ops::MaxPool::default()
            };
            typed(graph, op, &[y], ty)
        }
        5 => {
            let y = conv(noise, graph, x, channels, 3, 1, 1);
            let z = conv(noise, graph, x, 11, 1, 1, 1);
            let ty = activation(noise, 8, &[1, channels + 11, shape[2], shape[3]]);
            let joined = typed(graph, ops::Concat { axis: 1 }, &[y, z], ty);
            conv(noise, graph, joined, channels, 1, 1, 1)
        }
        _ => {
            let y = conv(noise, graph, x, channels, 3, 2, 1);
            let small = graph.ty(y).known_shape().unwrap();
            let scales = graph.add_constant("scales", Tensor::vector(vec![1.0f32, 1.0, 2.0, 2.0]));
            let to = [1, channels, 2 * small[2], 2 * small[3]];
            let ty = graph.ty(y).with_shape(Type::new(Element::F32, to).shape);
            let large = typed(graph, ops::Upsample::default(), &[y, scales], ty);
            conv(noise, graph, large, channels, 3, 1, 1)
        }
    }
}

#[test]
fn random_networks_in_ever_smaller_memories() {
    let mut noise = Noise(0x57_1295);
    let (mut in_strips, mut layers, mut in_place) = (0, 0, 0);
    for case in 0..24 {
        let mut graph = Graph::new("strips");
        let (height, width) = (10 + noise.below(20), 6 + noise.below(14));
        let first = noise.pick(&[3, 8, 16]);
        let bits = noise.pick(&[4, 8]);
        let ty = activation(&mut noise, bits, &[1, first, height, width]);
        let mut x = graph.add_input("x", ty);
        for _ in 0..1 + noise.below(3) {
            x = part(&mut noise, &mut graph, x);
        }
        if noise.below(2) == 0 {
            // Nothing but a few numbers comes out.
            let channels = graph.ty(x).known_shape().unwrap()[1];
            let ty = activation(&mut noise, 8, &[1, channels, 1, 1]);
            x = typed(&mut graph, ops::GlobalAveragePool {}, &[x], ty);
        }
        graph.mark_output(x);
        let preset = ["nano", "edge", "core"][case % 3];
        for shift in 6..14 {
            // From the smallest memory that will do to those that hold everything.
            let config = Config {
                bank_words: 1 << shift,
                weight_words: 1 << 16,
                parameter_vectors: 4096,
                instructions: 4096,
                ..Config::preset(preset).unwrap()
            };
            let Ok(program) = compile(&graph, &config) else { continue };
            let strips: Vec<usize> = program.layers.iter().map(|l| l.strips).collect();
            if strips.iter().all(|s| *s == 1) {
                break;
            }
            in_strips += 1;
            layers += strips.iter().filter(|s| **s > 1).count();
            let bases = |t: usize| program.buffers[t].base;
            let adds = program.network.layers.iter().filter(|l| l.op == "Add");
            in_place += adds.filter(|l| bases(l.output) == bases(l.input)).count();
            let what = format!("case {case} on {preset} with {} words: {strips:?}", config.activation_words());
            computes(&graph, program, &mut noise, &what);
        }
    }
    println!("{in_strips} programs with {layers} layers in strips, {in_place} sums in place");
    assert!(in_strips > 20 && in_place > 0, "{in_strips} {in_place}");
}

#[test]
fn what_fits_is_not_cut() {
    let mut noise = Noise(3);
    let mut graph = Graph::new("whole");
    let ty = activation(&mut noise, 8, &[1, 8, 12, 12]);
    let x = graph.add_input("x", ty);
    let y = conv(&mut noise, &mut graph, x, 16, 3, 1, 1);
    let y = conv(&mut noise, &mut graph, y, 16, 3, 1, 1);
    graph.mark_output(y);
    let program = compile(&graph, &Config::preset("edge").unwrap()).unwrap();
    assert!(program.layers.iter().all(|l| l.strips == 1));
    agrees(&graph, "edge", &mut noise, "two convolutions");
}

#[test]
fn what_no_strips_can_help_is_an_error_with_its_sizes() {
    let mut noise = Noise(4);
    let mut graph = Graph::new("large");
    let ty = activation(&mut noise, 8, &[1, 64, 64, 64]);
    let x = graph.add_input("x", ty);
    let y = conv(&mut noise, &mut graph, x, 8, 3, 1, 1);
    graph.mark_output(y);
    let error = compile(&graph, &Config::preset("nano").unwrap()).unwrap_err().to_string();
    assert!(error.contains("bytes of activations") && error.contains("`nano` holds 32768"), "{error}");
}
