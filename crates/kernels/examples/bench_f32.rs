//! Speed of the float convolutions on the layers of known networks, on one thread, beside the fastest rate at which the
//! machine can multiply and add. Rates count the products of the plain sum; where Winograd's method needs fewer, they pass 100 %.
//!
//! `cargo run --release -p qing-kernels --example bench_f32 [FILTER]`

use std::time::Instant;

use qing_kernels::float::Clamp;
use qing_kernels::float::block::{Block, Layer};
use qing_kernels::float::conv::Conv;
use qing_kernels::float::depthwise::Depthwise;
use qing_kernels::float::peak::multiply_add;
use qing_kernels::{ConvGeometry, Isa, Pool};

/// Square image, square kernel, same padding.
fn layer(size: usize, in_c: usize, out_c: usize, kernel: usize, stride: usize, groups: usize) -> ConvGeometry {
    let out = size.div_ceil(stride);
    ConvGeometry {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c,
        out_h: out,
        out_w: out,
        out_c,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1, 1],
        pad_top: (kernel - 1) / 2,
        pad_left: (kernel - 1) / 2,
        groups,
    }
}

/// Layers by network, and how often each occurs.
fn layers() -> Vec<(&'static str, usize, ConvGeometry)> {
    let mut all = Vec::new();
    let mut add = |name, times, geometry| all.push((name, times, geometry));
    add("resnet18", 1, layer(224, 3, 64, 7, 2, 1));
    for (size, channels, times) in [(56, 64, 4), (28, 128, 3), (14, 256, 3), (7, 512, 3)] {
        add("resnet18", times, layer(size, channels, channels, 3, 1, 1));
        if channels > 64 {
            add("resnet18", 1, layer(size * 2, channels / 2, channels, 3, 2, 1));
            add("resnet18", 1, layer(size * 2, channels / 2, channels, 1, 2, 1));
        }
    }
    add("mobilenetv2", 1, layer(224, 3, 32, 3, 2, 1));
    add("mobilenetv2", 1, layer(112, 32, 16, 1, 1, 1));
    // Size, input channels, hidden channels, output channels, stride, times.
    for (size, in_c, out_c, stride, times) in [
        (112, 16, 24, 2, 1),
        (56, 24, 24, 1, 1),
        (56, 24, 32, 2, 1),
        (28, 32, 32, 1, 2),
        (28, 32, 64, 2, 1),
        (14, 64, 64, 1, 3),
        (14, 64, 96, 1, 1),
        (14, 96, 96, 1, 2),
        (14, 96, 160, 2, 1),
        (7, 160, 160, 1, 2),
        (7, 160, 320, 1, 1),
    ] {
        let hidden = in_c * 6;
        add("mobilenetv2", times, layer(size, in_c, hidden, 1, 1, 1));
        add("mobilenetv2", times, layer(size, hidden, hidden, 3, stride, hidden));
        add("mobilenetv2", times, layer(size / stride, hidden, out_c, 1, 1, 1));
    }
    add("mobilenetv2", 1, layer(112, 32, 32, 3, 1, 32));
    add("mobilenetv2", 1, layer(7, 320, 1280, 1, 1, 1));
    add("mobilenetv2", 1, layer(1, 1280, 1000, 1, 1, 1));
    all
}

/// Inverted residual blocks of MobileNetV2: input size, input channels, hidden channels, output channels, stride. The first begins with the
/// network's first layer.
const BLOCKS: [(usize, usize, usize, usize, usize); 12] = [
    (224, 3, 32, 16, 1),
    (112, 16, 96, 24, 2),
    (56, 24, 144, 24, 1),
    (56, 24, 144, 32, 2),
    (28, 32, 192, 32, 1),
    (28, 32, 192, 64, 2),
    (14, 64, 384, 64, 1),
    (14, 64, 384, 96, 1),
    (14, 96, 576, 96, 1),
    (14, 96, 576, 160, 2),
    (7, 160, 960, 160, 1),
    (7, 160, 960, 320, 1),
];

/// Blocks computed as one, beside the time of their layers one by one.
fn blocks(isa: Isa, top: f64, pool: &Pool) {
    for (size, in_c, hidden, out_c, stride) in BLOCKS {
        let first = if in_c == 3 { layer(size, in_c, hidden, 3, 2, 1) } else { layer(size, in_c, hidden, 1, 1, 1) };
        let depthwise = layer(first.out_h, hidden, hidden, 3, stride, hidden);
        let geometries = [first, depthwise, layer(depthwise.out_h, hidden, out_c, 1, 1, 1)];
        let weights = geometries.map(|g| vec![0.1f32; g.weights_len()]);
        let biases = geometries.map(|g| vec![0.1f32; g.out_c]);
        let layers: Vec<Layer<'_>> = (0..3)
            .map(|i| Layer {
                geometry: geometries[i],
                weights: &weights[i],
                bias: Some(&biases[i]),
                clamp: Clamp::RELU6,
            })
            .collect();
        let block = Block::pack(isa, Some(&layers[0]), &layers[1], &layers[2]).expect("valid geometry");
        let x: Vec<f32> = (0..first.input_len()).map(|i| (i % 13) as f32 * 0.1).collect();
        let mut wide = [vec![0.0; first.output_len()], vec![0.0; depthwise.output_len()]];
        let mut y = vec![0.0; geometries[2].output_len()];
        let mut scratch = vec![0.0; block.scratch_len(1)];
        let together = fastest(|| block.run(&x, None, &mut y, &mut scratch, pool).expect("lengths agree"));
        let pack = |l: &Layer<'_>| Conv::pack(isa, l.geometry, l.weights, l.bias, l.clamp).expect("valid geometry");
        let (widen, narrow) = (pack(&layers[0]), pack(&layers[2]));
        let middle =
            Depthwise::pack(isa, depthwise, &weights[1], Some(&biases[1]), Clamp::RELU6).expect("valid geometry");
        let apart = fastest(|| {
            let [a, b] = &mut wide;
            widen.run(&x, None, a, &mut [], pool).expect("lengths agree");
            middle.run(a, b, pool).expect("lengths agree");
            narrow.run(b, None, &mut y, &mut [], pool).expect("lengths agree");
        });
        let macs: usize = geometries.iter().map(ConvGeometry::macs).sum();
        let rate = 2.0 * macs as f64 / together / 1e9;
        println!(
            "block {size:3}x{size:<3} {in_c:3} -> {hidden:3} -> {out_c:3} /{stride}: {:7.1} us {rate:6.1} GFLOP/s {:5.1} %, one by one {:7.1} us",
            together * 1e6,
            100.0 * rate / top,
            apart * 1e6
        );
    }
}

/// Seconds of the fastest of many runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for round in 0.. {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed().as_secs_f64());
        if round >= 5 && start.elapsed().as_secs_f64() > 0.15 {
            break;
        }
    }
    best
}

/// A product that stays in the first-level cache: the microkernel at its best.
fn peak(isa: Isa, pool: &Pool) -> f64 {
    let geometry = ConvGeometry { in_w: 14, out_w: 14, in_h: 1, out_h: 1, ..layer(14, 192, 32, 1, 1, 1) };
    let conv =
        Conv::pack(isa, geometry, &vec![0.5; geometry.weights_len()], None, Clamp::NONE).expect("valid geometry");
    let (x, mut y) = (vec![0.5; geometry.input_len()], vec![0.0; geometry.output_len()]);
    let seconds = fastest(|| {
        for _ in 0..100 {
            conv.run(&x, None, &mut y, &mut [], pool).expect("lengths agree");
        }
    });
    200.0 * geometry.macs() as f64 / seconds / 1e9
}

/// Multiply-adds in registers alone.
fn register_peak(isa: Isa) -> f64 {
    let mut operations = 0;
    let seconds = fastest(|| operations = multiply_add(isa, 1_000_000));
    operations as f64 / seconds / 1e9
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let isa = Isa::detect();
    let pool = Pool::new(1);
    let top = register_peak(isa);
    println!("{}: registers {top:.1} GFLOP/s, product in cache {:.1}", isa.name(), peak(isa, &pool));
    if "block".contains(&filter) {
        blocks(isa, top, &pool);
    }
    let mut total = std::collections::BTreeMap::<&str, f64>::new();
    for (network, times, geometry) in layers() {
        if !network.contains(&filter) {
            continue;
        }
        let weights: Vec<f32> = (0..geometry.weights_len()).map(|i| (i % 17) as f32 * 0.01).collect();
        let bias = vec![0.1; geometry.out_c];
        let x: Vec<f32> = (0..geometry.input_len()).map(|i| (i % 13) as f32 * 0.1).collect();
        let mut y = vec![0.0; geometry.output_len()];
        let seconds = if geometry.is_depthwise() {
            let layer = Depthwise::pack(isa, geometry, &weights, Some(&bias), Clamp::RELU6).expect("valid geometry");
            fastest(|| layer.run(&x, &mut y, &pool).expect("lengths agree"))
        } else {
            let layer = Conv::pack(isa, geometry, &weights, Some(&bias), Clamp::RELU6).expect("valid geometry");
            let mut scratch = vec![0.0; layer.scratch_len(1)];
            fastest(|| layer.run(&x, None, &mut y, &mut scratch, &pool).expect("lengths agree"))
        };
        let rate = 2.0 * geometry.macs() as f64 / seconds / 1e9;
        *total.entry(network).or_default() += seconds * times as f64;
        println!(
            "{network:12} {:3}x{:<3} {:4} -> {:4} {}x{} /{} {:4} groups x{times}: {:8.1} us {rate:6.1} GFLOP/s {:5.1} %",
            geometry.in_h,
            geometry.in_w,
            geometry.in_c,
            geometry.out_c,
            geometry.kernel[0],
            geometry.kernel[1],
            geometry.stride[0],
            geometry.groups,
            seconds * 1e6,
            100.0 * rate / top
        );
    }
    for (network, seconds) in total {
        println!("{network}: {:.2} ms", seconds * 1e3);
    }
}
