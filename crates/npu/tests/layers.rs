//! Single layers of random shapes and all widths: the chip gives what the reference evaluator gives, bit for bit, whether
//! the streams wait or not.

mod support;

use qing_graph::{Element, Graph, Tensor, Type, ops};
use qing_npu::{Config, compile};
use support::{Noise, activation, agrees, typed, weights};

/// One convolution of random geometry.
fn convolution(noise: &mut Noise, w: (&str, u8), a: u8, preset: &str) {
    let channels = noise.pick(&[1, 3, 5, 8, 16, 17, 32, 40, 64, 70, 130]);
    let outputs = noise.pick(&[1, 3, 8, 16, 20, 33, 72]);
    let (height, width) = (1 + noise.below(9), 1 + noise.below(20));
    let kernel = [1 + noise.below(3.min(height)), 1 + noise.below(4.min(width))];
    let strides = vec![1 + noise.below(2) as i64, 1 + noise.below(2) as i64];
    let pads = vec![noise.below(2) as i64, noise.below(3) as i64, noise.below(2) as i64, noise.below(2) as i64];
    let mut graph = Graph::new("layer");
    let x = activation(noise, a, &[1, channels, height, width]);
    let x = graph.add_input("x", x);
    let wid = weights(noise, &mut graph, w.0, w.1, &[outputs, channels, kernel[0], kernel[1]]);
    let bias = graph.add_constant("bias", Tensor::new(&[outputs], noise.ints(outputs, -2000, 2000)).unwrap());
    let size = |d: usize| {
        (([height, width][d] + pads[d] as usize + pads[d + 2] as usize) - kernel[d]) / strides[d] as usize + 1
    };
    let shape = [1, outputs, size(0), size(1)];
    let real = noise.below(6) == 0;
    let bits = 1 + noise.below(8) as u8;
    let ty = if real { Type::new(Element::F32, shape) } else { activation(noise, bits, &shape) };
    let what =
        format!("{preset} {w:?} a{a}: {channels}→{outputs} {height}×{width} k{kernel:?} s{strides:?} p{pads:?} {ty}");
    let y = typed(&mut graph, ops::Conv { pads, strides, ..ops::Conv::default() }, &[x, wid, bias], ty);
    graph.mark_output(y);
    agrees(&graph, preset, noise, &what);
}

#[test]
fn convolutions_of_all_pairs_of_widths() {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    for w in 1..=8 {
        for a in 1..=8 {
            let preset = noise.pick(&["core", "edge", "nano"]);
            convolution(&mut noise, ("integer", w), a, preset);
        }
    }
}

#[test]
fn convolutions_of_bipolar_and_ternary_weights() {
    let mut noise = Noise(0x0dd_ba11);
    for a in [1, 2, 4, 8] {
        for kind in ["bipolar", "ternary"] {
            for preset in ["core", "edge"] {
                convolution(&mut noise, (kind, 0), a, preset);
            }
        }
    }
}

#[test]
fn depthwise_convolutions_packed_and_not() {
    let mut noise = Noise(77);
    for case in 0..24 {
        let channels = noise.pick(&[8, 16, 24, 32, 64, 70, 130]);
        let (height, width) = (3 + noise.below(6), noise.pick(&[4, 8, 9, 16, 21]));
        let k = noise.pick(&[3, 3, 3, 5]).min(height).min(width);
        let stride = 1 + noise.below(2) as i64;
        let pad = (k / 2) as i64;
        let a = 1 + noise.below(8) as u8;
        let mut graph = Graph::new("layer");
        // A point-wise layer first, so that the depthwise one reads what the chip has written.
        let x = activation(&mut noise, 4, &[1, 8, height, width]);
        let x = graph.add_input("x", x);
        let w = weights(&mut noise, &mut graph, "integer", 3, &[channels, 8, 1, 1]);
        let ty = activation(&mut noise, a, &[1, channels, height, width]);
        let x = typed(&mut graph, ops::Conv::default(), &[x, w], ty);
        let w = weights(&mut noise, &mut graph, "integer", 8, &[channels, 1, k, k]);
        let size = |n: usize| (n + 2 * (k / 2) - k) / stride as usize + 1;
        let ty = activation(&mut noise, 8, &[1, channels, size(height), size(width)]);
        let op =
            ops::Conv { group: channels as i64, pads: vec![pad; 4], strides: vec![stride; 2], ..ops::Conv::default() };
        let y = typed(&mut graph, op, &[x, w], ty);
        graph.mark_output(y);
        let preset = noise.pick(&["core", "edge"]);
        agrees(&graph, preset, &mut noise, &format!("case {case}: {channels} {height}×{width} k{k} s{stride} a{a}"));
    }
}

#[test]
fn lanes_that_take_turns_compute_the_same_in_more_cycles() {
    for channels in [40, 64, 72] {
        let mut before = 0;
        for aux_lanes in [64, 32, 16, 8] {
            let mut noise = Noise(78);
            let mut graph = Graph::new("layer");
            let x = activation(&mut noise, 8, &[1, channels, 8, 16]);
            let x = graph.add_input("x", x);
            let w = weights(&mut noise, &mut graph, "integer", 8, &[channels, 1, 3, 3]);
            let ty = activation(&mut noise, 8, &[1, channels, 8, 16]);
            let op = ops::Conv { group: channels as i64, pads: vec![1; 4], ..ops::Conv::default() };
            let y = typed(&mut graph, op, &[x, w], ty);
            graph.mark_output(y);
            let config = Config { aux_lanes, ..Config::preset("edge").unwrap() };
            let program = compile(&graph, &config).unwrap();
            let cycles =
                support::computes(&graph, program, &mut noise, &format!("{channels} channels, {aux_lanes} lanes"));
            println!("{channels} channels, {aux_lanes} lanes: {cycles} cycles");
            // A plane of a pixel takes a turn for each share of its channels.
            let turns: usize =
                [channels.min(64), channels.saturating_sub(64)].iter().map(|n| n.div_ceil(aux_lanes)).sum();
            assert!(cycles >= (turns * 128 * 8) as u64 && cycles >= before, "{channels} {aux_lanes}: {cycles}");
            before = cycles;
        }
    }
}

#[test]
fn pooling_addition_and_enlarging() {
    let mut noise = Noise(4242);
    for case in 0..12 {
        let channels = noise.pick(&[8, 20, 64, 100]);
        let (height, width) = (4 + noise.below(5), 4 + noise.below(9));
        let a = 1 + noise.below(8) as u8;
        let mut graph = Graph::new("layer");
        let ty = activation(&mut noise, a, &[1, channels, height, width]);
        let x = graph.add_input("x", ty.clone());
        let max = ops::MaxPool {
            kernel_shape: vec![3, 2],
            strides: vec![1, 1],
            pads: vec![1, 0, 1, 1],
            ..ops::MaxPool::default()
        };
        let x = typed(&mut graph, max, &[x], ty);
        let b = 1 + noise.below(8) as u8;
        let ty = activation(&mut noise, b, &[1, channels, height, width]);
        let other = graph.add_input("other", ty);
        let ty = activation(&mut noise, 8, &[1, channels, height, width]);
        let sum = typed(&mut graph, ops::Add {}, &[x, other], ty);
        graph.mark_output(sum);
        let mean = activation(&mut noise, 8, &[1, channels, 1, 1]);
        let mean = typed(&mut graph, ops::GlobalAveragePool {}, &[sum], mean);
        graph.mark_output(mean);
        agrees(&graph, "core", &mut noise, &format!("case {case}: {channels} {height}×{width} a{a} b{b}"));
    }
}

#[test]
fn streams_that_wait_change_no_result() {
    let mut noise = Noise(99);
    let mut graph = Graph::new("layer");
    let ty = activation(&mut noise, 8, &[1, 16, 12, 12]);
    let x = graph.add_input("x", ty);
    let w = weights(&mut noise, &mut graph, "integer", 4, &[40, 16, 3, 3]);
    let ty = activation(&mut noise, 8, &[1, 40, 10, 10]);
    let y = typed(&mut graph, ops::Conv::default(), &[x, w], ty);
    graph.mark_output(y);
    let program = compile(&graph, &Config::preset("edge").unwrap()).unwrap();
    let input = Tensor::from_ints(graph.ty(x).element, &[1, 16, 12, 12], &{
        let (lo, hi) = graph.ty(x).range().unwrap();
        noise.ints(16 * 144, lo, hi)
    })
    .unwrap();
    let words = program.frame_input(&[input]).unwrap();
    let mut chip = qing_npu::simulate::Chip::new(program.config.clone());
    chip.program(&program.instructions).unwrap();
    chip.run(program.setup, &program.setup_words);
    let free = chip.run(program.frame, &words);
    for period in [2, 3, 7] {
        let mut streams = qing_npu::simulate::Streams {
            input: Box::new(move |t| t % period == 0),
            output: Box::new(move |t| t % (period + 1) == 1),
        };
        let waited = chip.run_with(program.frame, &words, &mut streams);
        assert_eq!(waited.output, free.output, "period {period}");
        assert!(waited.counters.cycles > free.counters.cycles);
    }
    assert_eq!(chip.run(program.frame, &words).counters, free.counters, "a run leaves nothing behind");
}
