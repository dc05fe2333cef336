//! How long a run takes.

use std::time::{Duration, Instant};

use anyhow::Result;
use qing::Tensor;

use crate::{process, runner::Runner};

/// Runs before the first that counts.
const WARM_UP: usize = 3;
/// Runs that count, at least.
const FEWEST: usize = 5;

/// Times of many runs, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Wall time, half of the runs were faster.
    pub median: f64,
    /// Wall time of the fastest run.
    pub min: f64,
    /// Processor time of all threads, half of the runs took less.
    pub cpu_median: f64,
    /// Runs measured.
    pub runs: usize,
}

/// Repeats a run for so many seconds.
pub(crate) fn measure(runner: &mut Runner, inputs: &[Tensor], seconds: f64) -> Result<Timing> {
    let session = runner.session(inputs)?;
    for _ in 0..WARM_UP {
        session.run(inputs)?;
    }
    let (mut wall, mut cpu) = (vec![], vec![]);
    let end = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 3600.0));
    while wall.len() < FEWEST || Instant::now() < end {
        let (cpu_start, start) = (process::cpu_time(), Instant::now());
        session.run_into()?;
        wall.push(start.elapsed().as_secs_f64() * 1e3);
        cpu.push((process::cpu_time() - cpu_start).as_secs_f64() * 1e3);
    }
    let min = wall.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(Timing { runs: wall.len(), min, median: median(wall), cpu_median: median(cpu) })
}

/// The middle value, or the mean of both that are.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n.is_multiple_of(2) { (values[n / 2 - 1] + values[n / 2]) / 2.0 } else { values[n / 2] }
}

#[cfg(test)]
mod tests {
    #[test]
    fn medians() {
        assert_eq!(super::median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(super::median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
