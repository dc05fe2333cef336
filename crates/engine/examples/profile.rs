//! Plans an ONNX model and prints where its time goes.
//!
//! `cargo run --release -p qing-engine --example profile MODEL [threads] [isa] [dump]`

use std::{path::Path, sync::Arc, time::Instant};

use qing_engine::{Isa, LayerTime, Options, Plan, Session};

/// Profiled runs of which each layer's fastest counts.
const RUNS: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("which model?")?;
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let isa = arguments.next().and_then(|name| Isa::from_name(&name));
    let dump = arguments.next().is_some();

    let start = Instant::now();
    let graph = qing_formats::read(Path::new(&path))?;
    let read = start.elapsed();
    let start = Instant::now();
    let plan = Arc::new(Plan::new(&graph, &Options { threads, isa, ..Options::default() })?);
    println!(
        "{path}: read in {read:.1?}, planned in {:.1?} for {} on {threads} thread(s), {:.1} MB of activations",
        start.elapsed(),
        plan.isa().name(),
        plan.peak_memory() as f64 / 1e6
    );
    if dump {
        print!("{}", plan.dump());
    }
    let mut session = Session::new(Arc::clone(&plan));
    for (i, id) in plan.graph().inputs.iter().enumerate() {
        // Something that is neither zero nor denormal: 0.5 in f32, small integers elsewhere.
        let bytes = session.input_mut(i)?;
        if plan.graph().ty(*id).element == qing_graph::Element::F32 {
            bytes.chunks_exact_mut(4).for_each(|b| b.copy_from_slice(&0.5f32.to_le_bytes()));
        } else if plan.graph().ty(*id).element == qing_graph::Element::U8 {
            bytes.fill(100);
        }
    }
    let mut best: Vec<LayerTime> = session.profile()?;
    for _ in 0..RUNS {
        for (best, now) in best.iter_mut().zip(session.profile()?) {
            best.nanos = best.nanos.min(now.nanos);
        }
    }
    let total: u64 = best.iter().map(|l| l.nanos).sum();
    for layer in &best {
        println!(
            "{:9.1} µs {:5.1} % {:7.1} GOP/s {:6.1} GB/s  {:32} {:24} {}",
            layer.nanos as f64 / 1e3,
            100.0 * layer.nanos as f64 / total as f64,
            2.0 * layer.macs as f64 / layer.nanos.max(1) as f64,
            layer.bytes as f64 / layer.nanos.max(1) as f64,
            layer.kernel,
            layer.op,
            layer.node
        );
    }
    let mut fastest = u128::MAX;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        session.run_into()?;
        fastest = fastest.min(start.elapsed().as_nanos());
    }
    println!("sum of layers {:.3} ms, fastest run {:.3} ms", total as f64 / 1e6, fastest as f64 / 1e6);
    Ok(())
}
