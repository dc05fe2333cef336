//! Images a second of a whole training step: forward, backward and update, on random images.
//!
//!     cargo run --release -p qing-train --example bench_step -- resnet20 128 2
//!
//! `--bits=w4a4` trains for these widths, `--bf16` with products of bfloat16, `--profile` says what the time goes to.
//!
//! For every line on standard input, a number of seconds, it trains for so long and prints a line of JSON; `bench/train/run.py`
//! takes turns between it and another framework. Without input it prints what one run of five seconds gives.

use std::{
    error::Error,
    fs,
    io::{self, BufRead as _, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use qing_engine::{Options, Pool};
use qing_graph::{Element, Tensor, Type};
use qing_train::{
    Purpose, Random, architectures, loss, optimize,
    parameters::{Exposure, expose},
    quantize,
    trainer::{Objective, Settings, Trainer},
};

/// A field of `/proc/self/status` in bytes; 0 where there is none.
fn status(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "resnet20".into());
    let batch: usize = args.next().map_or(Ok(128), |a| a.parse())?;
    let threads: usize = args.next().map_or(Ok(1), |a| a.parse())?;
    let before = status("VmRSS");

    let known = architectures::find(&name)?;
    let graph = architectures::build(
        &name,
        &architectures::Settings { input: known.input.to_vec(), classes: known.classes, seed: 1 },
    )?;
    let bits = std::env::args().find_map(|a| a.strip_prefix("--bits=").map(str::to_owned));
    let mut model = match &bits {
        Some(bits) => {
            let mut random = Random::new(1, Purpose::Probe, 1, 0);
            let shape = [&[16], &known.input[..]].concat();
            let some = Tensor::new(&shape, (0..shape.iter().product()).map(|_| random.normal()).collect::<Vec<f32>>())?;
            quantize::prepare(&graph, batch, &quantize::Config::with_bits(bits.parse()?), &[vec![some]])?
        }
        None => expose(&graph, &Exposure::all(batch))?,
    };
    drop(graph);
    let logits = model.graph.outputs[0];
    let targets = model.graph.add_input("targets", Type::new(Element::F32, [batch, known.classes]));
    let loss = loss::cross_entropy(&mut model.graph, logits, targets)?;
    let settings = Settings {
        optimizer: optimize::Settings::default(),
        average: None,
        plan: Options {
            exact: bits.is_some(),
            bf16: std::env::args().any(|a| a == "--bf16"),
            ..Options::threads(threads)
        },
    };
    let pool = Arc::new(Pool::new(threads));
    let mut trainer = Trainer::new(model, &Objective { loss, inputs: vec![targets] }, &settings, &pool)?;
    if std::env::args().any(|a| a == "--profile") {
        eprintln!("{:?}", trainer.plan());
    }

    let mut random = Random::new(1, Purpose::Probe, 0, 0);
    let shape = [&[batch], &known.input[..]].concat();
    let images = Tensor::new(&shape, (0..shape.iter().product()).map(|_| random.normal()).collect::<Vec<f32>>())?;
    let mut shares = vec![0.0f32; batch * known.classes];
    shares.chunks_mut(known.classes).for_each(|row| row[random.below(row.len() as u32) as usize] = 1.0);
    let shares = Tensor::new(&[batch, known.classes], shares)?;
    let first = trainer.step(&[&images, &shares], 0.01)?;
    eprintln!("loss of the first step: {first}");

    if std::env::args().any(|a| a == "--profile") {
        let mut layers = trainer.session().profile()?;
        let total: u64 = layers.iter().map(|l| l.nanos).sum();
        layers.sort_by_key(|l| std::cmp::Reverse(l.nanos));
        let mut by_op: std::collections::BTreeMap<(String, String), (u64, usize)> = Default::default();
        for l in &layers {
            let entry = by_op.entry((l.op.clone(), l.kernel.clone())).or_default();
            *entry = (entry.0 + l.nanos, entry.1 + 1);
        }
        let mut by_op: Vec<_> = by_op.into_iter().collect();
        by_op.sort_by_key(|(_, (nanos, _))| std::cmp::Reverse(*nanos));
        for ((op, kernel), (nanos, n)) in by_op {
            let share = 100.0 * nanos as f64 / total as f64;
            eprintln!("{share:5.1} % {:9.3} ms  {n:3} × {op} [{kernel}]", nanos as f64 / 1e6);
        }
    }
    let mut measure = |seconds: f64| -> Result<(), Box<dyn Error>> {
        let (start, mut steps, mut value) = (Instant::now(), 0u32, 0.0);
        while start.elapsed() < Duration::from_secs_f64(seconds) {
            value = trainer.step(&[&images, &shares], 0.01)?;
            steps += 1;
        }
        let speed = f64::from(steps) * batch as f64 / start.elapsed().as_secs_f64();
        let peak = status("VmHWM").saturating_sub(before);
        println!(
            "{{\"images_per_second\": {speed:.1}, \"peak_bytes\": {peak}, \"planned_bytes\": {}, \"loss\": {value}}}",
            trainer.memory()
        );
        Ok(io::stdout().flush()?)
    };
    let mut any = false;
    for line in io::stdin().lock().lines() {
        any = true;
        measure(line?.trim().parse()?)?;
    }
    if !any {
        measure(5.0)?;
    }
    Ok(())
}
