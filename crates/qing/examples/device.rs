//! What a device needs and no more: reads a model file, plans it, runs it, and says what that took.
//!
//! `cargo run --profile device -p qing --no-default-features --example device MODEL.qing [threads] [runs] [compact]`
//!
//! Prints one line of JSON. `base_kib` and `peak_kib` are resident memory before reading and the most of it until the end; `model_kib` is what
//! is resident of the mapped model file at the end, and `program_kib` how much more of other files than before: pages of the program that
//! have been run since. `weight_bytes` are all constants at their own width, `activation_bytes` the arena. With `compact` the plan keeps
//! memory small where that costs speed. `suite/device/build` makes the smallest binary of it.

use std::{error::Error, fs, path::Path, time::Instant};

use qing::{Plan, PlanOptions, Prepacked, Session, formats, formats::qing::Opened};

/// A line of `/proc/self/status` in KiB; 0 where there is none.
fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// KiB that are resident of mappings of a file; 0 where the system does not say.
fn resident(path: &Path) -> u64 {
    let Ok(path) = path.canonicalize() else { return 0 };
    let path = path.to_string_lossy();
    let text = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut within = false;
    let mut total = 0;
    for line in text.lines() {
        // A mapping begins with its addresses and ends with its file; what is said of it follows as `Key: number kB`.
        match line.split_once(':') {
            Some((key, value)) if !key.contains(' ') => {
                if within && key == "Rss" {
                    total += value.trim().trim_end_matches(" kB").parse().unwrap_or(0);
                }
            }
            _ => within = line.ends_with(&*path),
        }
    }
    total
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
    let weights: usize =
        graph.values().filter_map(|(id, _)| graph.constant(id)).map(|constant| constant.bytes().len()).sum();
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
    let (peak, model) = (status("VmHWM:"), resident(Path::new(&path)));
    println!(
        "{{\"read_ms\": {:.3}, \"plan_ms\": {:.3}, \"load_ms\": {:.3}, \"first_run_ms\": {:.3}, \"run_ms\": {:.3}, \
         \"weight_bytes\": {weights}, \"activation_bytes\": {activations}, \"base_kib\": {base}, \"peak_kib\": {peak}, \"model_kib\": {model}, \
         \"program_kib\": {}, \"output_sum\": {sum}}}",
        ms(read),
        ms(planned - read),
        ms(loaded),
        ms(first),
        ms(mean),
        status("RssFile:").saturating_sub(file + model),
    );
    Ok(())
}
