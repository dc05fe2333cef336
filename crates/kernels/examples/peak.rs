//! What one core of this machine can do at most: fp32 multiply-adds and int8 dot products in registers, as one line of JSON.
//!
//! `cargo run --release -p qing-kernels --example peak [seconds]`

use std::time::{Duration, Instant};

use qing_kernels::{Isa, float, quantized};

/// Most operations a second over bursts that are too short to be interrupted often.
fn most(seconds: f64, burst: impl Fn(usize) -> usize) -> f64 {
    let (begin, mut best, mut rounds) = (Instant::now(), 0.0f64, 1000);
    while begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        let operations = burst(rounds);
        let took = start.elapsed();
        if took < Duration::from_micros(100) {
            rounds *= 2;
        } else {
            best = best.max(operations as f64 / took.as_secs_f64());
        }
    }
    best
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.2);
    let isa = Isa::detect();
    let fp32 = most(seconds / 2.0, |rounds| float::peak::multiply_add(isa, rounds));
    let int8 = most(seconds / 2.0, |rounds| quantized::peak::dot(isa, rounds));
    println!("{{\"isa\": \"{}\", \"fp32\": {fp32:.4e}, \"int8\": {int8:.4e}}}", isa.name());
}
