//! Speed of the kernels below eight bits against the kernels of bytes on the same layers, one after the other in turn.
//!
//! `cargo run --release -p qing-kernels --example bench_lowbit [threads] [isa] [count]`
//!
//! With `count` nothing is timed: what runs is only named, and every run lies between two marks, for an emulator to count
//! what is executed (`bench/emulated/tables.py`).

use std::time::Instant;

use qing_kernels::quantized::{
    BitConv, BitInput, BitOutput, Codes, Epilogue, GroupedMatMul, NarrowConv, Output, QConv, Requantize, SparseConv,
};
use qing_kernels::{ConvGeometry, Isa, Pool};

/// What is told of a race.
#[derive(Clone, Copy, PartialEq)]
enum Meter {
    /// Seconds.
    Clock,
    /// Marks for an emulator.
    Marks,
}

/// Marks the begin or the end of what is to be counted: an instruction that does nothing.
fn mark(begin: bool) {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: hints without a meaning change nothing.
    #[allow(unsafe_code)]
    unsafe {
        if begin {
            std::arch::asm!("hint #126");
        } else {
            std::arch::asm!("hint #127");
        }
    }
    let _ = begin;
}

/// Seconds of each contestant: the least and the median of many runs, taken in turn so that all meet the same machine. Nothing
/// where they are only to be counted: then a line says what is, and each runs once between marks.
fn race(
    meter: Meter,
    title: std::fmt::Arguments<'_>,
    contestants: &mut [Box<dyn FnMut() + '_>],
) -> Option<Vec<(f64, f64)>> {
    if meter == Meter::Marks {
        println!("{title}\t{}", contestants.len());
        for run in contestants {
            // Once before, for what is done only the first time.
            run();
            mark(true);
            run();
            mark(false);
        }
        return None;
    }
    let mut times = vec![vec![]; contestants.len()];
    let begin = Instant::now();
    for round in 0..2000 {
        for (run, times) in contestants.iter_mut().zip(&mut times) {
            let start = Instant::now();
            run();
            times.push(start.elapsed().as_secs_f64());
        }
        if round > 20 && begin.elapsed().as_secs_f64() > 0.3 * contestants.len() as f64 {
            break;
        }
    }
    let least_and_median = |mut t: Vec<f64>| {
        t.sort_unstable_by(f64::total_cmp);
        (t[0], t[t.len() / 2])
    };
    Some(times.into_iter().map(least_and_median).collect())
}

/// Prints what stands above a table.
fn head(meter: Meter, lines: &str) {
    if meter == Meter::Clock {
        println!("{lines}");
    }
}

/// A 3×3 layer over an image as ResNets have it at that depth.
fn layer(channels: usize) -> ConvGeometry {
    let size = 56 * 64 / channels;
    ConvGeometry {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c: channels,
        out_h: size,
        out_w: size,
        out_c: channels,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad_top: 1,
        pad_left: 1,
        groups: 1,
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// The part of a buffer from the first cache line on.
fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let start = buffer.as_ptr().align_offset(64);
    &mut buffer[start..]
}

fn requantize(channels: usize, hi: u8) -> Epilogue {
    Epilogue::Requantize(Requantize { scale: vec![0.01; channels], zero: 0, lo: 0, hi, table: None })
}

/// The convolutions: bits of weights (all values, or the symmetric ones) by bits of activations.
fn planes(meter: Meter, isa: Isa, pool: &Pool) {
    let kinds: [(&str, &[i8], usize); 5] = [
        ("1 × 1", &[-1, 1], 1),
        ("1 × 2", &[-1, 1], 2),
        ("2 × 2, −1…1", &[-1, 0, 1, 0], 2),
        ("2 × 2, −2…1", &[-2, -1, 0, 1], 2),
        ("2 × 1, −2…1", &[-2, -1, 0, 1], 1),
    ];
    head(
        meter,
        "\n3×3 convolutions over bit planes, from planes to planes and from bytes to bytes:\n\n\
        | layer | weights × activations | int8 µs | planes µs | ratio | of medians | bytes to bytes |\n\
        |---|---|---|---|---|---|---|",
    );
    for channels in [64, 128, 256, 512] {
        let g = layer(channels);
        let random = noise(g.input_len().max(g.weights_len()));
        let weights: Vec<i8> = random[..g.weights_len()].iter().map(|w| *w as i8).collect();
        let bytes = &random[..g.input_len()];
        let conv = QConv::pack(isa, g, &weights, None, 128, requantize(channels, 255)).expect("a valid layer");
        let mut conv_scratch = vec![0; conv.scratch_bytes(pool.threads())];
        let mut conv_y = vec![0; g.output_len()];
        for (name, values, planes) in kinds {
            let few: Vec<i8> = weights.iter().map(|w| values[*w as u8 as usize % values.len()]).collect();
            let codes = Codes { lo: 0, step: 1, planes };
            let top = (1u8 << planes) - 1;
            let packed = BitConv::pack(isa, g, &few, None, (codes, 0), requantize(channels, top), Some(codes));
            let packed = packed.expect("a valid layer").expect("few bits");
            let codes_x: Vec<u8> = bytes.iter().map(|x| x & top).collect();
            let plane_x: Vec<u32> = vec![0x5a5a_3c3c; planes * g.in_h * g.in_w * channels.div_ceil(32)];
            let mut plane_y = plane_x.clone();
            let mut y = vec![0; g.output_len()];
            let (mut scratch, mut scratch_2) = (
                vec![0; packed.scratch_bytes(pool.threads()) + 64],
                vec![0; packed.scratch_bytes(pool.threads()) + 64],
            );
            let (scratch, scratch_2) = (aligned(&mut scratch), aligned(&mut scratch_2));
            let title = format_args!("planes\t{channels}→{channels}, {}²\t{name}", g.in_h);
            let times = race(
                meter,
                title,
                &mut [
                    Box::new(|| conv.run(bytes, Output::U8(&mut conv_y), &mut conv_scratch, pool).expect("lengths")),
                    Box::new(|| {
                        let y = BitOutput::Planes(&mut plane_y);
                        packed.run(BitInput::Planes(&plane_x), y, scratch, pool).expect("lengths");
                    }),
                    Box::new(|| {
                        packed.run(BitInput::Bytes(&codes_x), BitOutput::U8(&mut y), scratch_2, pool).expect("lengths");
                    }),
                ],
            );
            let Some([int8, bits, through]) = times.as_deref() else { continue };
            println!(
                "| {channels}→{channels}, {}² | {name} | {:.1} | {:.1} | **{:.2}** | {:.2} | {:.2} |",
                g.in_h,
                int8.0 * 1e6,
                bits.0 * 1e6,
                int8.0 / bits.0,
                int8.1 / bits.1,
                int8.0 / through.0
            );
        }
    }
}

/// Convolutions of bytes by weights that are narrow in memory.
fn narrow(meter: Meter, isa: Isa, pool: &Pool) {
    head(
        meter,
        "\n3×3 convolutions of bytes by weights that stay packed:\n\n\
        | layer | weights | int8 µs | packed µs | ratio | of medians | memory of weights |\n\
        |---|---|---|---|---|---|---|",
    );
    for channels in [64, 128, 256, 512] {
        let g = layer(channels);
        let random = noise(g.input_len().max(g.weights_len()));
        let weights: Vec<i8> = random[..g.weights_len()].iter().map(|w| *w as i8).collect();
        let x = &random[..g.input_len()];
        let conv = QConv::pack(isa, g, &weights, None, 128, requantize(channels, 255)).expect("a valid layer");
        let mut conv_scratch = vec![0; conv.scratch_bytes(pool.threads())];
        let mut conv_y = vec![0; g.output_len()];
        for shift in [4, 6, 7] {
            // Of −8 … 7, −2 … 1, and −1, 0 or 1.
            let few: Vec<i8> = weights.iter().map(|w| if shift == 7 { w % 2 } else { w >> shift }).collect();
            let packed = NarrowConv::pack(isa, g, &few, None, 128, requantize(channels, 255));
            let packed = packed.expect("a valid layer").expect("few bits");
            let mut scratch = vec![0; packed.scratch_bytes(pool.threads())];
            let mut y = vec![0; g.output_len()];
            let kind = packed.width().name();
            let memory = 100.0 * packed.weight_bytes() as f64 / weights.len() as f64;
            let title = format_args!("narrow\t{channels}→{channels}, {}²\t{kind}\t{memory:.1} %", g.in_h);
            let times = race(
                meter,
                title,
                &mut [
                    Box::new(|| conv.run(x, Output::U8(&mut conv_y), &mut conv_scratch, pool).expect("lengths")),
                    Box::new(|| packed.run(x, Output::U8(&mut y), &mut scratch, pool).expect("lengths")),
                ],
            );
            let Some([int8, few]) = times.as_deref() else { continue };
            println!(
                "| {channels}→{channels}, {}² | {kind} | {:.1} | {:.1} | **{:.2}** | {:.2} | {memory:.1} % |",
                g.in_h,
                int8.0 * 1e6,
                few.0 * 1e6,
                int8.0 / few.0,
                int8.1 / few.1,
            );
        }
    }
}

/// Convolutions of bytes by weights of which three of four or more are zero.
fn sparse(meter: Meter, isa: Isa, pool: &Pool) {
    head(
        meter,
        "\n3×3 convolutions of bytes by sparse weights:\n\n\
        | layer | weights that are not zero | int8 µs | sparse µs | ratio | of medians | memory of weights |\n\
        |---|---|---|---|---|---|---|",
    );
    for channels in [64, 128, 256, 512] {
        let g = layer(channels);
        let random = noise(g.input_len().max(g.weights_len()));
        let weights: Vec<i8> = random[..g.weights_len()].iter().map(|w| *w as i8 | 1).collect();
        let x = &random[..g.input_len()];
        let conv = QConv::pack(isa, g, &weights, None, 128, requantize(channels, 255)).expect("a valid layer");
        let mut conv_scratch = vec![0; conv.scratch_bytes(pool.threads())];
        let mut conv_y = vec![0; g.output_len()];
        let depth = g.depth();
        // A hash of the place in a run, so that which weights stay differs from channel to channel.
        let mixed = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % 997;
        let kinds: [(&str, &dyn Fn(usize) -> bool); 5] = [
            ("1 of 4 neighbours", &|i| mixed(i / 4) % 4 == i % 4),
            ("4 of 16 neighbours", &|i| (i + mixed(i / 16)) % 16 < 4),
            ("1 of 8 neighbours", &|i| mixed(i / 8) % 8 == i % 8),
            ("1 of 4 blocks of 16 × 4", &|i| mixed(i / depth / 16 * 1009 + i % depth / 4) % 4 == 0),
            ("1 of 10, anywhere", &|i| mixed(i) % 10 == 0),
        ];
        for (name, stays) in kinds {
            let few: Vec<i8> = weights.iter().enumerate().map(|(i, w)| if stays(i) { *w } else { 0 }).collect();
            let packed = SparseConv::pack(isa, g, &few, None, 128, requantize(channels, 255));
            let packed = packed.expect("a valid layer").expect("one group");
            let mut scratch = vec![0; packed.scratch_bytes(pool.threads())];
            let mut y = vec![0; g.output_len()];
            let title = format_args!("sparse\t{channels}→{channels}, {}²\t{name}", g.in_h);
            let times = race(
                meter,
                title,
                &mut [
                    Box::new(|| conv.run(x, Output::U8(&mut conv_y), &mut conv_scratch, pool).expect("lengths")),
                    Box::new(|| packed.run_adding(x, None, Output::U8(&mut y), &mut scratch, pool).expect("lengths")),
                ],
            );
            let Some([int8, few]) = times.as_deref() else { continue };
            println!(
                "| {channels}→{channels}, {}² | {name} | {:.1} | {:.1} | **{:.2}** | {:.2} | {:.1} % |",
                g.in_h,
                int8.0 * 1e6,
                few.0 * 1e6,
                int8.0 / few.0,
                int8.1 / few.1,
                100.0 * packed.weight_bytes() as f64 / weights.len() as f64
            );
        }
    }
}

/// One row by matrices that come from memory: so many in turn that no cache holds them.
fn vector(meter: Meter, isa: Isa, pool: &Pool) {
    const SIZE: usize = 4096;
    // What is only counted may as well come from a cache.
    let copies = |bytes: usize| if meter == Meter::Marks { 1 } else { (96 << 20) / bytes };
    let g = ConvGeometry::matmul(1, SIZE, SIZE);
    let random = noise(SIZE * SIZE);
    let x = &random[..SIZE];
    let weights: Vec<i8> = random.iter().map(|w| *w as i8).collect();
    let real = || Epilogue::Dequantize { scale: vec![0.01; SIZE] };
    let conv = QConv::pack(isa, g, &weights, None, 128, real()).expect("a valid layer");
    let wide = vec![conv; copies(SIZE * SIZE)];
    let few = |shift: i32| -> Vec<i8> { weights.iter().map(|w| if shift == 7 { w % 2 } else { w >> shift }).collect() };
    let narrow: Vec<Vec<NarrowConv>> = [4, 6, 7]
        .map(|shift| {
            let packed = NarrowConv::pack(isa, g, &few(shift), None, 128, real()).expect("valid").expect("few bits");
            vec![packed.clone(); copies(packed.weight_bytes())]
        })
        .into();
    let scales = vec![0.01; SIZE / 128 * SIZE];
    let grouped =
        GroupedMatMul::pack(isa, [1, SIZE, SIZE], 128, &few(4), &scales, 128).expect("valid").expect("few bits");
    let grouped = vec![grouped.clone(); copies(grouped.weight_bytes())];
    let mut ys = vec![vec![0f32; SIZE]; 5];
    let [y0, y1, y2, y3, y4] = &mut ys[..] else { unreachable!("five outputs") };
    let (mut at, mut turns) = (0, [0; 3]);
    let [turn_4, turn_2, turn_3] = &mut turns;
    let mut group_at = 0;
    let mut scratch = vec![0; wide[0].scratch_bytes(pool.threads())];
    fn next<'a, T>(all: &'a [T], at: &mut usize) -> &'a T {
        *at = (*at + 1) % all.len();
        &all[*at]
    }
    let run = |conv: &NarrowConv, y: &mut [f32]| conv.run(x, Output::F32(y), &mut [], pool).expect("lengths");
    let bytes = [
        SIZE * SIZE,
        narrow[0][0].weight_bytes(),
        grouped[0].weight_bytes(),
        narrow[1][0].weight_bytes(),
        narrow[2][0].weight_bytes(),
    ];
    let times = race(
        meter,
        format_args!("vector\t{bytes:?}"),
        &mut [
            Box::new(|| next(&wide, &mut at).run(x, Output::F32(y0), &mut scratch, pool).expect("lengths")),
            Box::new(|| run(next(&narrow[0], turn_4), y1)),
            Box::new(|| next(&grouped, &mut group_at).run(x, y2, pool).expect("lengths")),
            Box::new(|| run(next(&narrow[1], turn_2), y3)),
            Box::new(|| run(next(&narrow[2], turn_3), y4)),
        ],
    );
    let Some(times) = times else { return };
    println!("\nOne row times 4096 × 4096 weights that come from memory:\n");
    println!("| weights | µs | median | ratio | of medians | GB/s |");
    println!("|---|---|---|---|---|---|");
    let names = ["int8", "4-bit", "4-bit, groups of 128", "2-bit", "ternary"];
    for ((name, bytes), (least, median)) in names.iter().zip(bytes).zip(&times) {
        println!(
            "| {name} | {:.1} | {:.1} | **{:.2}** | {:.2} | {:.1} |",
            least * 1e6,
            median * 1e6,
            times[0].0 / least,
            times[0].1 / median,
            bytes as f64 / median / 1e9
        );
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads: usize = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1);
    let isa = arguments.next().map_or(Isa::detect(), |name| {
        Isa::from_name(&name).unwrap_or_else(|| {
            let known = Isa::ALL.map(Isa::name).join(", ");
            eprintln!("`{name}` is no instruction set; there are {known}");
            std::process::exit(2)
        })
    });
    let meter = if arguments.next().as_deref() == Some("count") { Meter::Marks } else { Meter::Clock };
    let pool = Pool::new(threads);
    head(meter, &format!("**{}, {threads} thread{}.**", isa.name(), if threads == 1 { "" } else { "s" }));
    planes(meter, isa, &pool);
    narrow(meter, isa, &pool);
    if isa == Isa::Avx512 {
        sparse(meter, isa, &pool);
    }
    vector(meter, isa, &pool);
}
