//! One measurement of a network in this process, and one line of JSON about it like `qing bench --json`.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// Runs before timing, and the fewest that are timed.
const WARM: usize = 2;
const FEWEST: usize = 3;

/// What the command line asks for: `MODEL FEEDS THREADS SECONDS OUTPUT`.
pub struct Job {
    pub model: PathBuf,
    pub inputs: Vec<Input>,
    pub threads: usize,
    seconds: f64,
    output: PathBuf,
}

/// The input of a network, as `inputs.txt` and `N.bin` of its folder have it.
pub enum Input {
    F32(Vec<usize>, Vec<f32>),
    I64(Vec<usize>, Vec<i64>),
}

impl Job {
    pub fn from_arguments() -> Result<Job> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [model, feeds, threads, seconds, output] = arguments.as_slice() else {
            bail!("MODEL FEEDS THREADS SECONDS OUTPUT are needed");
        };
        Ok(Job {
            model: model.into(),
            inputs: inputs(Path::new(feeds))?,
            threads: threads.parse()?,
            seconds: seconds.parse()?,
            output: output.into(),
        })
    }

    /// Loads, warms up, times, and prints what was measured. `load` gives what runs the network once and returns its first output.
    pub fn measure<R: FnMut() -> Result<O>, O>(
        &self,
        load: impl FnOnce(&Job) -> Result<R>,
        values: impl FnOnce(O) -> Result<Vec<f32>>,
    ) -> Result<()> {
        let base = resident("VmRSS:")?;
        let start = Instant::now();
        let mut run = load(self)?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        for _ in 1..WARM {
            black_box(run()?);
        }
        let first = run()?;
        let (mut wall, mut cpu) = (vec![], vec![]);
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < self.seconds || wall.len() < FEWEST {
            let (c, t) = (cpu_seconds(), Instant::now());
            black_box(run()?);
            wall.push(t.elapsed().as_secs_f64() * 1e3);
            cpu.push((cpu_seconds() - c) * 1e3);
        }
        let peak = resident("VmHWM:")?;
        let bytes: Vec<u8> = values(first)?.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(&self.output, bytes)?;
        let runs = wall.len();
        let ((wall, least), (cpu, _)) = (median_and_least(wall), median_and_least(cpu));
        println!(
            "{{\"latency_ms\": {{\"median\": {wall}, \"min\": {least}}}, \"cpu_ms\": {{\"median\": {cpu}}}, \"runs\": {runs}, \
             \"load_ms\": {load_ms}, \"peak_memory_bytes\": {peak}, \"base_memory_bytes\": {base}}}"
        );
        Ok(())
    }
}

fn inputs(folder: &Path) -> Result<Vec<Input>> {
    let mut inputs = vec![];
    for (i, line) in std::fs::read_to_string(folder.join("inputs.txt"))?.lines().enumerate() {
        let (element, dims) = line.split_once(' ').with_context(|| format!("{line}: an element and dimensions are expected"))?;
        let shape: Vec<usize> = dims.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let bytes = std::fs::read(folder.join(format!("{i}.bin")))?;
        let size = if element == "float32" { 4 } else { 8 };
        ensure!(bytes.len() == size * shape.iter().product::<usize>(), "{i}.bin has {} bytes", bytes.len());
        inputs.push(match element {
            "float32" => Input::F32(shape, bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect()),
            "int64" => Input::I64(shape, bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes"))).collect()),
            other => bail!("{other}: float32 or int64 is expected"),
        });
    }
    Ok(inputs)
}

fn median_and_least(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = if times.len() % 2 == 1 { times[middle] } else { (times[middle - 1] + times[middle]) / 2.0 };
    (median, times[0])
}

/// Processor time of all threads of this process.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// A line of this process's status, in bytes.
fn resident(key: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with(key)).with_context(|| format!("no {key} in /proc/self/status"))?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()? * 1024)
}
