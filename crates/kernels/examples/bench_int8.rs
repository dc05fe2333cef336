//! Speed of the quantized kernels on the layers of some networks, against the peak of this machine.
//!
//! `cargo run --release -p qing-kernels --example bench_int8 [threads] [isa]`

use std::hint::black_box;
use std::time::Instant;

use qing_kernels::quantized::{
    AveragePool, Clip, Epilogue, MaxPool, Output, QAdd, QConv, QDepthwise, Requantize, elementwise, lookup, peak,
};
use qing_kernels::{ConvGeometry, Isa, Pool};

/// Least of many runs, in seconds: what the machine does when nobody else uses it.
fn best(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    // So many at a time that the clock does not count.
    let times = (2e-5 / start.elapsed().as_secs_f64()) as u32 + 1;
    let begin = Instant::now();
    let mut least = f64::MAX;
    for round in 0..1000 {
        let start = Instant::now();
        (0..times).for_each(|_| run());
        least = least.min(start.elapsed().as_secs_f64() / f64::from(times));
        if round > 5 && begin.elapsed().as_secs_f64() > 0.15 {
            break;
        }
    }
    least
}

fn layer(in_c: usize, size: usize, out_c: usize, kernel: usize, stride: usize, groups: usize) -> ConvGeometry {
    ConvGeometry {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c,
        out_h: size.div_ceil(stride),
        out_w: size.div_ceil(stride),
        out_c,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1, 1],
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        groups,
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let isa = arguments.next().and_then(|name| Isa::from_name(&name)).unwrap_or(Isa::detect());
    let pool = Pool::new(threads);

    let rounds = 200_000;
    let top = peak::dot(isa, rounds) as f64 / best(|| _ = black_box(peak::dot(isa, rounds))) / 1e9 * threads as f64;
    println!("{} with {threads} threads, peak {top:.0} GOP/s", isa.name());

    // A hundred at a time, as one is too short for the clock.
    let forks = best(|| (0..100).for_each(|_| pool.run(threads, &|chunk| _ = black_box(chunk))));
    println!("fork and join of nothing {:.2} µs", forks / 100.0 * 1e6);

    let mut networks: Vec<(&str, Vec<(usize, ConvGeometry)>)> = Vec::new();
    networks.push((
        "ResNet-18",
        vec![
            (1, layer(3, 224, 64, 7, 2, 1)),
            (4, layer(64, 56, 64, 3, 1, 1)),
            (1, layer(64, 56, 128, 3, 2, 1)),
            (1, layer(64, 56, 128, 1, 2, 1)),
            (3, layer(128, 28, 128, 3, 1, 1)),
            (1, layer(128, 28, 256, 3, 2, 1)),
            (1, layer(128, 28, 256, 1, 2, 1)),
            (3, layer(256, 14, 256, 3, 1, 1)),
            (1, layer(256, 14, 512, 3, 2, 1)),
            (1, layer(256, 14, 512, 1, 2, 1)),
            (3, layer(512, 7, 512, 3, 1, 1)),
            (1, ConvGeometry::matmul(1, 512, 1000)),
        ],
    ));
    let mut mobile =
        vec![(1, layer(3, 224, 32, 3, 2, 1)), (1, layer(32, 112, 32, 3, 1, 32)), (1, layer(32, 112, 16, 1, 1, 1))];
    let (mut in_c, mut size) = (16, 112);
    for (expand, out_c, repeats, stride) in
        [(6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    {
        for repeat in 0..repeats {
            let stride = if repeat == 0 { stride } else { 1 };
            let wide = in_c * expand;
            let next = layer(in_c, size, wide, 1, 1, 1);
            mobile.push((1, next));
            mobile.push((1, layer(wide, size, wide, 3, stride, wide)));
            size /= stride;
            mobile.push((1, layer(wide, size, out_c, 1, 1, 1)));
            in_c = out_c;
        }
    }
    mobile.push((1, layer(320, 7, 1280, 1, 1, 1)));
    mobile.push((1, ConvGeometry::matmul(1, 1280, 1000)));
    let mut merged: Vec<(usize, ConvGeometry)> = Vec::new();
    for (times, geometry) in mobile {
        match merged.iter_mut().find(|(_, other)| *other == geometry) {
            Some((count, _)) => *count += times,
            None => merged.push((times, geometry)),
        }
    }
    networks.push(("MobileNetV2", merged));

    networks.push((
        "EfficientNet-Lite0, layers with a wide window",
        [(144, 56, 2), (240, 28, 1), (480, 14, 1), (672, 14, 1), (672, 14, 2), (1152, 7, 1)]
            .map(|(c, size, stride)| (1, layer(c, size, c, 5, stride, c)))
            .into(),
    ));

    let spectrogram = ConvGeometry {
        in_h: 49,
        in_w: 10,
        out_h: 25,
        out_w: 5,
        kernel: [10, 4],
        pad_top: 4,
        pad_left: 1,
        ..layer(1, 10, 64, 4, 2, 1)
    };
    let keyword = |kernel, groups| ConvGeometry { in_h: 25, out_h: 25, ..layer(64, 5, 64, kernel, 1, groups) };
    networks.push(("DS-CNN", vec![(1, spectrogram), (4, keyword(3, 64)), (4, keyword(1, 1))]));

    for (name, layers) in networks {
        println!("\n{name}\n  n  in           out   k s groups       µs   GOP/s  of peak");
        let (mut seconds, mut depthwise) = (0.0, 0.0);
        for (times, g) in layers {
            let weights: Vec<i8> = (0..g.weights_len()).map(|i| (i * 37 % 255) as i8).collect();
            let x: Vec<u8> = (0..g.input_len()).map(|i| (i * 31) as u8).collect();
            let bias = vec![100; g.out_c];
            let to =
                Epilogue::Requantize(Requantize { scale: vec![0.001; g.out_c], zero: 0, lo: 0, hi: 255, table: None });
            let mut y = vec![0; g.output_len()];
            let time = if g.is_depthwise() {
                let conv = QDepthwise::pack(isa, g, &weights, Some(&bias), 128, to).expect("a valid layer");
                let mut scratch = vec![0; conv.scratch_bytes(threads)];
                best(|| conv.run(&x, Output::U8(&mut y), &mut scratch, &pool).expect("valid lengths"))
            } else {
                let conv = QConv::pack(isa, g, &weights, Some(&bias), 128, to).expect("a valid layer");
                let mut scratch = vec![0; conv.scratch_bytes(threads)];
                best(|| conv.run(&x, Output::U8(&mut y), &mut scratch, &pool).expect("valid lengths"))
            };
            let rate = 2.0 * g.macs() as f64 / time / 1e9;
            println!(
                "{times:3}  {:3}×{:3}×{:<5} {:<5} {} {} {:<5} {:9.2} {rate:7.0} {:7.0} %",
                g.in_h,
                g.in_w,
                g.in_c,
                g.out_c,
                g.kernel[0],
                g.stride[0],
                g.groups,
                time * 1e6,
                rate / top * 100.0
            );
            seconds += times as f64 * time;
            if g.is_depthwise() {
                depthwise += times as f64 * time;
            }
        }
        println!("  convolutions together {:.3} ms, of which depthwise {:.3} ms", seconds * 1e3, depthwise * 1e3);
    }

    println!("\nOne value at a time and pooling        µs");
    let show = |name: &str, seconds: f64| println!("  {name:32} {:7.1}", seconds * 1e6);
    let clip = Clip { zero: 100, lo: 0, hi: 255 };
    let len = 56 * 56 * 64;
    let x: Vec<u8> = (0..112 * 112 * 64).map(|i| (i * 31) as u8).collect();
    let mut y = vec![0; x.len()];
    let add = QAdd { a_zero: 3, b_zero: 100, m_a: 1 << 14, m_b: 9000, scale: 5e-5, clip };
    show("add 56²×64", best(|| add.run(isa, &x[..len], &x[len..2 * len], &mut y[..len], &pool).expect("lengths")));
    let table: [u8; 256] = std::array::from_fn(|i| (i * 7) as u8);
    show("table 56²×64", best(|| lookup::lookup(isa, &table, &x[..len], &mut y[..len], &pool).expect("lengths")));
    let reals: Vec<f32> = (0..3 * 224 * 224).map(|i| (i % 513) as f32 / 512.0).collect();
    let (quantize, last) = (elementwise::quantize, elementwise::quantize_channels_last);
    show("quantize 224²×3", best(|| quantize(isa, 0.02, clip, &reals, &mut y[..reals.len()], &pool).expect("lengths")));
    let shape = [1, 3, 224 * 224];
    show(
        "quantize 3×224² channel last",
        best(|| last(isa, shape, 0.02, clip, &reals, &mut y[..reals.len()], &pool).expect("lengths")),
    );
    let pooled = MaxPool { geometry: layer(64, 112, 64, 3, 2, 64) };
    let out = pooled.geometry.output_len();
    show("largest of 3² 112²×64", best(|| pooled.run(isa, &x, &mut y[..out], &pool).expect("lengths")));
    let mean = AveragePool::global([1, 49, 1280], 3, 0.02, 0.03, clip);
    show("mean of 7²×1280", best(|| mean.run(isa, &x[..49 * 1280], &mut y[..1280], &pool).expect("lengths")));
}
