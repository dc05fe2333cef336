//! Speed of the convolutions of a training step on the layers of residual networks for 32×32 images: the results, the gradient of the input,
//! the gradient of the weights, beside the fastest rate at which one thread can multiply and add. Weights are packed by every run. Rates count the
//! products of the plain sum; where Winograd's method needs fewer, they pass what is possible without it.
//!
//! `cargo run --release -p qing-kernels --example bench_training [BATCH] [THREADS] [exact|bf16]`

use std::time::Instant;

use qing_kernels::float::Clamp;
use qing_kernels::float::conv::{ConvWeightGrad, DynamicConv, FilterLayout, Sums, TransposedConv};
use qing_kernels::float::peak::multiply_add;
use qing_kernels::{ConvGeometry, Isa, Pool};

/// Size, input channels, output channels, window, stride, and how often ResNet-20 has it.
const LAYERS: [(usize, usize, usize, usize, usize, usize); 8] = [
    (32, 3, 16, 3, 1, 1),
    (32, 16, 16, 3, 1, 6),
    (32, 16, 32, 3, 2, 1),
    (32, 16, 32, 1, 2, 1),
    (16, 32, 32, 3, 1, 5),
    (16, 32, 64, 3, 2, 1),
    (16, 32, 64, 1, 2, 1),
    (8, 64, 64, 3, 1, 5),
];

/// Seconds of the fastest of many runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for round in 0.. {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed().as_secs_f64());
        if round >= 5 && start.elapsed().as_secs_f64() > 0.3 {
            break;
        }
    }
    best
}

fn main() {
    let argument = |i: usize, default: usize| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (batch, threads) = (argument(1, 128), argument(2, 1));
    let has = |word: &str| std::env::args().any(|a| a == word);
    let sums = if has("bf16") {
        Sums::Rounded
    } else if has("exact") {
        Sums::Plain
    } else {
        Sums::Fastest
    };
    let (isa, pool) = (Isa::detect(), Pool::new(threads));
    let mut operations = 0;
    let seconds = fastest(|| operations = multiply_add(isa, 1_000_000));
    let top = operations as f64 / seconds / 1e9 * threads as f64;
    println!("{}: {top:.1} GFLOP/s on {threads} thread(s), batch {batch}", isa.name());
    let mut totals = [0.0; 3];
    for (size, in_c, out_c, kernel, stride, times) in LAYERS {
        let out = size.div_ceil(stride);
        let g = ConvGeometry {
            batch,
            in_h: size,
            in_w: size,
            in_c,
            out_h: out,
            out_w: out,
            out_c,
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1, 1],
            pad_top: kernel / 2,
            pad_left: kernel / 2,
            groups: 1,
        };
        let values = |len: usize, step: usize| (0..len).map(|i| (i % step) as f32 * 0.01).collect::<Vec<f32>>();
        let (x, weights, dy) = (values(g.input_len(), 13), values(g.weights_len(), 17), values(g.output_len(), 11));
        let layout = FilterLayout::planar(&g);
        let forward = DynamicConv::new(isa, g, layout, Clamp::NONE, sums).expect("valid geometry");
        let input = TransposedConv::new(isa, g, Clamp::NONE, sums).expect("valid geometry");
        let weight = ConvWeightGrad::new(isa, g, layout, sums).expect("valid geometry");
        let scratch = forward.scratch_len(threads).max(input.scratch_len(threads)).max(weight.scratch_len(threads));
        let (mut scratch, mut y) = (vec![0.0; scratch], vec![0.0; g.output_len()]);
        let (mut dx, mut dw) = (vec![0.0; g.input_len()], vec![0.0; g.weights_len()]);
        let seconds = [
            fastest(|| forward.run(&weights, None, &x, None, &mut y, &mut scratch, &pool).expect("lengths agree")),
            fastest(|| input.run(&weights, None, &dy, None, &mut dx, &mut scratch, &pool).expect("lengths agree")),
            fastest(|| weight.run(&x, &dy, &mut dw, &mut scratch, &pool).expect("lengths agree")),
        ];
        print!("{size:3}x{size:<3}{in_c:3} -> {out_c:<3}{kernel}x{kernel} /{stride} x{times}:");
        for (i, seconds) in seconds.into_iter().enumerate() {
            let rate = 2.0 * g.macs() as f64 / seconds / 1e9;
            // The network's first layer has no use for its input's gradient.
            totals[i] += if i == 1 && in_c == 3 { 0.0 } else { seconds * times as f64 };
            print!("  {:7.2} ms {rate:6.1} GFLOP/s {:5.1} %", seconds * 1e3, 100.0 * rate / top);
        }
        println!();
    }
    let [forward, input, weight] = totals.map(|seconds| seconds * 1e3);
    println!("all: {forward:.1} ms forward, {input:.1} ms to inputs, {weight:.1} ms to weights");
}
