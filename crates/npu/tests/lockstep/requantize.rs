//! The requantizer of the RTL against the one function that all executors share, on edges of its domain and millions of random points.

use std::{
    io::{BufWriter, Read, Write},
    process::{Command, Stdio},
};

use qing_graph::arithmetic::requantize;

use crate::rtl::{Random, folder};

type Clamp = (i32, i32, i32);

/// Zero point, least and greatest result, as instructions can hold them.
fn clamp(random: &mut Random) -> Clamp {
    const USUAL: [Clamp; 6] =
        [(0, -128, 127), (0, 0, 255), (-128, -128, 127), (255, 0, 255), (-256, -256, 255), (3, 0, 15)];
    if random.below(2) == 0 {
        return USUAL[random.below(6) as usize];
    }
    let mut value = || random.below(512) as i32 - 256;
    let (zero, a, b) = (value(), value(), value());
    (zero, a.min(b), a.max(b))
}

/// Sums at which the conversion rounds, carries or changes its exponent.
fn sums() -> Vec<i32> {
    let mut sums = vec![0, 1, -1, i32::MAX, i32::MIN, i32::MIN + 1];
    for bit in 0..31 {
        for offset in [-3i64, -2, -1, 0, 1, 2, 3, 0x3f, 0x40, 0x41, -0x41, -0x40, -0x3f] {
            let v = ((1i64 << bit) + offset).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
            sums.extend([v, -v]);
        }
        // Ties of the conversion to 24 bits, to both sides.
        if bit >= 24 {
            let half = 1i64 << (bit - 24);
            for odd in [1i64 << bit, (1i64 << bit) + 2 * half, (1i64 << (bit + 1)) - 2 * half] {
                for tie in [half - 1, half, half + 1] {
                    let v = (odd + tie).min(i32::MAX.into()) as i32;
                    sums.extend([v, -v]);
                }
            }
        }
    }
    sums
}

/// Scales of every exponent with the mantissas at which a product rounds.
fn scales() -> Vec<f32> {
    let mantissas = [0u32, 1, 2, 0x20_0000, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x55_5555, 0x7f_fffe, 0x7f_ffff];
    (1..255).flat_map(|e| mantissas.map(|m| f32::from_bits(e << 23 | m))).collect()
}

#[test]
fn the_requantizer_equals_the_arithmetic() {
    let Some(folder) = folder() else { return };
    let binary = folder.join("requantize/Vnpu_requantize");
    let mut child = Command::new(&binary).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufWriter::with_capacity(1 << 16, child.stdin.take().unwrap());
    let mut count = 0u64;
    let mut random = Random(7);
    let mut put = |acc: i32, scale: f32, (zero, lo, hi): Clamp| -> std::io::Result<()> {
        count += 1;
        let y = requantize(acc, scale, zero, lo, hi);
        for v in [acc, scale.to_bits() as i32, zero, lo, hi, y] {
            out.write_all(&v.to_le_bytes())?;
        }
        Ok(())
    };
    let random_points: u64 = std::env::var("QING_NPU_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000_000);
    let run = || -> std::io::Result<()> {
        for acc in sums() {
            for scale in scales() {
                put(acc, scale, clamp(&mut random))?;
            }
        }
        for i in 0..random_points {
            let acc = (random.next() as i32) >> random.below(32);
            let clamp = clamp(&mut random);
            let scale = match i % 4 {
                // Any.
                0 => f32::from_bits(((1 + random.below(254)) << 23 | random.below(1 << 23)) as u32),
                // Few bits, where products are exact and halves meet.
                1 => (1 + random.below(255)) as f32 * 0.5f32.powi(random.below(40) as i32),
                // Results within the clamps, or not far from them.
                _ => {
                    let target = (1 + random.below(1 << 20)) as f32 / (1 << 11) as f32;
                    (target / (acc as f32).abs().max(1.0)).max(f32::MIN_POSITIVE)
                }
            };
            put(acc, scale, clamp)?;
            // The neighbours of a result that lies at a half.
            if i % 4 == 3 && acc != 0 {
                let half = ((random.below(600) as f32) + 0.5) / (acc as f32).abs();
                for bits in half.to_bits() - 2..=half.to_bits() + 2 {
                    put(acc, f32::from_bits(bits), clamp)?;
                }
            }
        }
        Ok(())
    };
    // A pipe that breaks is a model that found a difference; it says so itself.
    let fed = { run }();
    let _ = out.flush();
    drop(out);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() && fed.is_ok(), "{said}");
    assert_eq!(said.trim(), format!("{count} equal"));
    println!("requantizer: {count} results equal");
}
