//! What this machine can do at most, measured, and how close a layer comes to it.
//!
//! The roofline model (Williams, Waterman and Patterson 2009): a layer takes at least the time of its multiply–accumulates at
//! the peak of the arithmetic units, and at least the time of moving its bytes at the peak of the memory they lie in.

use std::{fs, time::Instant};

use qing_kernels::{Isa, Pool, bandwidth, float, quantized};

use crate::{Arithmetic, LayerTime};

/// Repetitions of each measurement; the best counts, because all that disturbs one makes it slower.
const REPEATS: usize = 12;
/// Seconds that one repetition should take: long enough for the clock, short enough to fall between interruptions.
const MOMENT: f64 = 6e-4;
/// Sizes of the caches in bytes where the system does not tell.
const CACHES: [usize; 3] = [32 << 10, 512 << 10, 8 << 20];

/// A level of the memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// `L1`, `L2`, `L3` or `DRAM`.
    pub name: &'static str,
    /// What fits, in bytes: in one core's for L1 and L2, else in what the cores share.
    pub bytes: usize,
    /// Bytes read a second, by all threads together.
    pub per_second: f64,
}

/// What binds a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Moving bytes.
    Memory,
}

/// The least time a layer could take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roof {
    /// The time in nanoseconds.
    pub nanos: f64,
    /// Which of both takes that long.
    pub bound: Bound,
}

/// The peaks of this machine with an instruction set and a number of threads.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    /// Threads measured.
    pub threads: usize,
    /// Multiply–accumulates of floats a second.
    pub float: f64,
    /// Multiply–accumulates of bytes a second.
    pub integer: f64,
    /// The levels of the memory, from the fastest.
    pub memory: Vec<Memory>,
}

impl Roofline {
    /// Measures them, in a quarter of a second or less on a machine that is not busy.
    pub fn measure(isa: Isa, pool: &Pool) -> Roofline {
        let threads = pool.threads();
        let float = peak(pool, |rounds| float::peak::multiply_add(isa, rounds) / 2);
        let integer = peak(pool, |rounds| quantized::peak::dot(isa, rounds) / 2);
        let [l1, l2, l3] = cache_sizes();
        let largest = (2 * l3).clamp(16 << 20, 256 << 20);
        let data = vec![1.0f32; largest / size_of::<f32>()];
        let level = |name, bytes, each: usize| {
            let values = (each / size_of::<f32>()).min(data.len() / threads);
            Memory { name, bytes, per_second: bandwidth_of(isa, pool, &data, values) }
        };
        let memory = vec![
            level("L1", l1, l1 / 2),
            level("L2", l2, l2 / 2),
            level("L3", l3, l3 / 2 / threads),
            level("DRAM", usize::MAX, largest / threads),
        ];
        Roofline { threads, float, integer, memory }
    }

    /// The level that holds `bytes` which are spread over all threads.
    pub fn level(&self, bytes: u64) -> &Memory {
        let fits = |(i, level): (usize, &Memory)| {
            let cores = if i < 2 { self.threads as u64 } else { 1 };
            bytes <= (level.bytes as u64).saturating_mul(cores)
        };
        let found = (0..self.memory.len()).zip(&self.memory).position(fits);
        &self.memory[found.unwrap_or(self.memory.len() - 1)]
    }

    /// The least time for a layer of a network that keeps `footprint` bytes of weights and activations. What a layer reads
    /// and writes is taken to lie where all of it fits; its weights, which were last touched a whole run ago, where the whole
    /// network fits. A layer can beat this roof: by an algorithm that multiplies less (Winograd's), or when weights survive in a
    /// nearer cache.
    pub fn roof(&self, layer: &LayerTime, footprint: u64) -> Roof {
        let rate = match layer.arithmetic {
            Arithmetic::Float => self.float,
            Arithmetic::Integer => self.integer,
        };
        let compute = 1e9 * layer.macs as f64 / rate;
        let moved = |bytes: u64, among: u64| 1e9 * bytes as f64 / self.level(among).per_second;
        let memory = moved(layer.bytes.saturating_sub(layer.weights), layer.held) + moved(layer.weights, footprint);
        if compute >= memory {
            Roof { nanos: compute, bound: Bound::Compute }
        } else {
            Roof { nanos: memory, bound: Bound::Memory }
        }
    }
}

/// Operations a second of all threads; `work(rounds)` does some on one thread and says how many.
fn peak(pool: &Pool, work: impl Fn(usize) -> usize + Sync) -> f64 {
    best(|rounds| {
        pool.run(pool.threads(), &|_| {
            std::hint::black_box(work(rounds));
        });
        (work(1) * rounds * pool.threads()) as f64
    })
}

/// Bytes a second when every thread reads `values` values of its own, again and again.
fn bandwidth_of(isa: Isa, pool: &Pool, data: &[f32], values: usize) -> f64 {
    let parts: Vec<&[f32]> = data.chunks_exact(values).take(pool.threads()).collect();
    let bytes = values / 256 * 1024 * parts.len();
    best(|rounds| {
        pool.run(parts.len(), &|i| {
            for _ in 0..rounds {
                std::hint::black_box(bandwidth::read(isa, std::hint::black_box(parts[i])));
            }
        });
        (bytes * rounds) as f64
    })
}

/// The best rate of some repetitions of `work(rounds)`, which says how much it did, with rounds enough to take a moment.
fn best(work: impl Fn(usize) -> f64) -> f64 {
    let timed = |rounds: usize| {
        let start = Instant::now();
        let done = work(rounds);
        (done, start.elapsed().as_secs_f64().max(1e-9))
    };
    let mut rounds = 1;
    loop {
        // The least of a few: what interrupts a short run would else be taken for its work, and too few rounds be timed.
        let took = (0..3).map(|_| timed(rounds).1).fold(f64::MAX, f64::min);
        if took > MOMENT / 4.0 || rounds >= 1 << 24 {
            rounds = (rounds as f64 * (MOMENT / took).clamp(0.01, 4.0)).ceil().max(1.0) as usize;
            break;
        }
        rounds *= 2;
    }
    (0..REPEATS)
        .map(|_| {
            let (done, took) = timed(rounds);
            done / took
        })
        .fold(1.0, f64::max)
}

/// Sizes of the data caches of a core, levels 1 to 3, as Linux tells them.
fn cache_sizes() -> [usize; 3] {
    let mut sizes = CACHES;
    for index in 0..8 {
        let read = |what: &str| {
            let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}");
            fs::read_to_string(path).map(|text| text.trim().to_string()).ok()
        };
        let (Some(level), Some(size), Some(kind)) = (read("level"), read("size"), read("type")) else { break };
        let bytes = match (size.strip_suffix('K'), size.strip_suffix('M')) {
            (Some(kib), _) => kib.parse::<usize>().map(|n| n << 10),
            (_, Some(mib)) => mib.parse::<usize>().map(|n| n << 20),
            _ => size.parse(),
        };
        if let (Ok(level @ 1..=3), Ok(bytes)) = (level.parse::<usize>(), bytes)
            && kind != "Instruction"
            && (1 << 10..1 << 31).contains(&bytes)
        {
            sizes[level - 1] = bytes;
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(macs: u64, arithmetic: Arithmetic, bytes: u64, weights: u64) -> LayerTime {
        let text = String::new;
        LayerTime { node: text(), op: text(), kernel: text(), nanos: 0, macs, arithmetic, bytes, weights, held: bytes }
    }

    fn machine(threads: usize) -> Roofline {
        let level = |name, bytes, per_second| Memory { name, bytes, per_second };
        let memory = vec![
            level("L1", 1000, 1e11),
            level("L2", 10_000, 5e10),
            level("L3", 100_000, 2e10),
            level("DRAM", usize::MAX, 1e10),
        ];
        Roofline { threads, float: 1e10, integer: 4e10, memory }
    }

    #[test]
    fn what_binds_is_what_takes_longer() {
        let roof = machine(1).roof(&layer(1000, Arithmetic::Float, 500, 0), 500);
        assert_eq!(roof, Roof { nanos: 100.0, bound: Bound::Compute });
        let roof = machine(1).roof(&layer(1000, Arithmetic::Integer, 500, 0), 500);
        assert_eq!(roof, Roof { nanos: 25.0, bound: Bound::Compute });
        // 4,000 bytes in L2 take 80 ns, 1,000 of weights from DRAM 100.
        let roof = machine(1).roof(&layer(10, Arithmetic::Integer, 5000, 1000), 1_000_000);
        assert_eq!(roof, Roof { nanos: 180.0, bound: Bound::Memory });
    }

    #[test]
    fn private_caches_grow_with_the_threads() {
        assert_eq!(machine(1).level(1500).name, "L2");
        assert_eq!(machine(2).level(1500).name, "L1");
        assert_eq!(machine(2).level(150_000).name, "DRAM");
    }

    #[test]
    fn this_machine_has_peaks() {
        for isa in Isa::available() {
            let peaks = Roofline::measure(isa, &Pool::new(2));
            assert!(peaks.float > 1e6 && peaks.integer > 1e6, "{peaks:?}");
            assert_eq!(peaks.memory.iter().map(|m| m.name).collect::<Vec<_>>(), ["L1", "L2", "L3", "DRAM"]);
            assert!(peaks.memory.iter().all(|m| m.per_second > 1e6), "{peaks:?}");
        }
    }
}
