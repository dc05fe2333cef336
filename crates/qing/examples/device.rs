//! What a device needs and no more: reads a model file, plans it, runs it, and says what that took.
//!
//! `cargo run --profile device -p qing --no-default-features --example device MODEL.qing [threads] [runs] [compact]`
//!
//! Prints one line of JSON. `base_kib` and `peak_kib` are resident memory before reading and the most of it until the end; `file_kib` is how
//! much more of files is resident at the end than before: pages of the program that have been run since, and what is left of the model's.
//! With `compact` the plan keeps memory small where that costs speed. `suite/device/build` makes the smallest binary of it.

use std::{error::Error, fs, path::Path, time::Instant};

use qing::{Plan, PlanOptions, Prepacked, Session, formats, formats::qing::Opened};

/// A line of `/proc/self/status` in KiB; 0 where there is none.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: device MODEL [threads] [runs] [compact]")?;
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let runs: u32 = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let compact = arguments.next().is_some_and(|word| word == "compact");
    let (base, file) = (status("VmRSS:"), status("RssFile:"));

    let start = Instant::now();
    let options = PlanOptions { threads, compact, ..PlanOptions::default() };
    let Opened { graph, packed } = formats::qing::open(Path::new(&path), &options.packing())?;
    let options = PlanOptions { prepacked: packed.and_then(Prepacked::new), ..options };
    let read = start.elapsed();
    let plan = Plan::new(&graph, &options)?;
    drop(graph);
    let planned = start.elapsed();
    let activations = plan.peak_memory();
    let mut session = Session::new(plan.into());
    let loaded = start.elapsed();

    let start = Instant::now();
    session.run_into()?;
    let first = start.elapsed();
    let start = Instant::now();
    for _ in 0..runs {
        session.run_into()?;
    }
    let mean = start.elapsed() / runs.max(1);
    let sum: u64 = session.output(0)?.iter().map(|byte| u64::from(*byte)).sum();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    println!(
        "{{\"read_ms\": {:.3}, \"plan_ms\": {:.3}, \"load_ms\": {:.3}, \"first_run_ms\": {:.3}, \"run_ms\": {:.3}, \
         \"activation_bytes\": {activations}, \"base_kib\": {base}, \"peak_kib\": {}, \"file_kib\": {}, \"output_sum\": {sum}}}",
        ms(read),
        ms(planned - read),
        ms(loaded),
        ms(first),
        ms(mean),
        status("VmHWM:"),
        status("RssFile:").saturating_sub(file),
    );
    Ok(())
}
