//! Eight bits against floats on every instruction set of this machine, layer by layer and interleaved.
//!
//! `cargo run --release -p qing-kernels --example bench_isa [rounds]`
//!
//! Times are the least of all rounds, on one thread. Also runs in WebAssembly (`suite/cross/wasi.py`); under an emulator of
//! another processor the times mean nothing.

use std::time::Instant;

use qing_kernels::float::{Clamp, conv::Conv, depthwise::Depthwise};
use qing_kernels::quantized::{Epilogue, Output, QConv, QDepthwise, Requantize};
use qing_kernels::{ConvGeometry, Isa, Pool};

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

/// A layer in both precisions, ready to run.
fn runs(isa: Isa, g: ConvGeometry) -> [Box<dyn FnMut()>; 2] {
    let weights: Vec<i8> = (0..g.weights_len()).map(|i| (i * 37 % 255) as u8 as i8).collect();
    let reals: Vec<f32> = weights.iter().map(|w| f32::from(*w) / 127.0).collect();
    let x: Vec<u8> = (0..g.input_len()).map(|i| (i * 31) as u8).collect();
    let real_x: Vec<f32> = x.iter().map(|x| f32::from(*x) / 255.0).collect();
    let to = Epilogue::Requantize(Requantize { scale: vec![0.001; g.out_c], zero: 0, lo: 0, hi: 255, table: None });
    let (mut y, mut real_y) = (vec![0; g.output_len()], vec![0.0; g.output_len()]);
    let (pool, real_pool) = (Pool::new(1), Pool::new(1));
    if g.is_depthwise() {
        let bytes = QDepthwise::pack(isa, g, &weights, None, 128, to).expect("a valid layer");
        let floats = Depthwise::pack(isa, g, &reals, None, Clamp::RELU).expect("a valid layer");
        let mut scratch = vec![0; bytes.scratch_bytes(1)];
        [
            Box::new(move || bytes.run(&x, Output::U8(&mut y), &mut scratch, &pool).expect("valid lengths")),
            Box::new(move || floats.run(&real_x, &mut real_y, &real_pool).expect("valid lengths")),
        ]
    } else {
        let bytes = QConv::pack(isa, g, &weights, None, 128, to).expect("a valid layer");
        let floats = Conv::pack(isa, g, &reals, None, Clamp::RELU).expect("a valid layer");
        let mut scratch = vec![0; bytes.scratch_bytes(1)];
        let mut room = vec![0.0; floats.scratch_len(1)];
        [
            Box::new(move || bytes.run(&x, Output::U8(&mut y), &mut scratch, &pool).expect("valid lengths")),
            Box::new(move || floats.run(&real_x, None, &mut real_y, &mut room, &real_pool).expect("valid lengths")),
        ]
    }
}

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(40);
    let layers = [
        ("3×3, 64 channels, 28²", layer(64, 28, 64, 3, 1, 1)),
        ("3×3, 256 channels, 14²", layer(256, 14, 256, 3, 1, 1)),
        ("1×1, 96 to 24, 56²", layer(96, 56, 24, 1, 1, 1)),
        ("1×1, 384 to 64, 14²", layer(384, 14, 64, 1, 1, 1)),
        ("depthwise 3×3, 144, 56²", layer(144, 56, 144, 3, 1, 144)),
        ("depthwise 3×3, 384, 14²", layer(384, 14, 384, 3, 1, 384)),
        ("depthwise 5×5, 240, 28²", layer(240, 28, 240, 5, 1, 240)),
        ("first 3×3, 3 to 32, 224² /2", layer(3, 224, 32, 3, 2, 1)),
        ("1 × 1024 by 1024²", ConvGeometry::matmul(1, 1024, 1024)),
    ];
    // The scalar set is the definition of the others and is not meant to be fast.
    let sets: Vec<Isa> = Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar).collect();
    print!("| µs, int8 / f32 / times faster |");
    sets.iter().for_each(|isa| print!(" {} |", isa.name()));
    print!("\n|---|");
    sets.iter().for_each(|_| print!("---|"));
    println!();
    for (name, geometry) in layers {
        let mut work: Vec<_> = sets.iter().map(|isa| runs(*isa, geometry)).collect();
        let mut least = vec![[f64::MAX; 2]; sets.len()];
        for round in 0..=rounds {
            for (runs, least) in work.iter_mut().zip(&mut least) {
                for (run, least) in runs.iter_mut().zip(least) {
                    let start = Instant::now();
                    run();
                    // The first round warms up.
                    if round > 0 {
                        *least = least.min(start.elapsed().as_secs_f64());
                    }
                }
            }
        }
        print!("| {name} |");
        for [bytes, floats] in least {
            print!(" {:.0} / {:.0} / {:.2} |", bytes * 1e6, floats * 1e6, floats / bytes);
        }
        println!();
    }
}
