use super::*;

fn noise(i: usize) -> f64 {
    ((i * 7919 + 13) % 1009) as f64 / 1009.0 - 0.5
}

/// A matrix and the second moments of inputs that go together.
fn example(rows: usize, columns: usize) -> (Matrix, Vec<f64>) {
    let values = (0..rows * columns).map(noise).collect();
    let mut h = vec![0.0; columns * columns];
    for s in 0..400 {
        let x: Vec<f64> =
            (0..columns).map(|i| 2.0 * noise(s * 31 + 5 + i / 8) + noise(s * columns * 3 + i * 17 + 1)).collect();
        for (i, j) in (0..columns).flat_map(|i| (0..columns).map(move |j| (i, j))) {
            h[i * columns + j] += x[i] * x[j] / 400.0;
        }
    }
    (Matrix { rows, columns, values, order: (0..columns).collect() }, h)
}

const PATTERNS: [Pattern; 5] = [
    Pattern::Any { share: 0.75 },
    Pattern::NofM { keep: 4, of: 16 },
    Pattern::NofM { keep: 1, of: 4 },
    Pattern::NofM { keep: 2, of: 4 },
    Pattern::Blocks { share: 0.5 },
];

#[test]
fn surgery_loses_less_than_magnitude_in_every_pattern() {
    for pattern in PATTERNS {
        let (mut plain, h) = example(32, 48);
        let before = plain.values.clone();
        let (mut operated, _) = example(32, 48);
        pattern::by_magnitude(&mut plain, pattern);
        surgery::operate(&mut operated, &h, pattern);
        let share = |m: &Matrix| m.values.iter().filter(|v| **v == 0.0).count() as f64 / m.values.len() as f64;
        assert!((share(&operated) - pattern.share()).abs() < 0.02, "{pattern:?}: {}", share(&operated));
        let (plain, operated) = (lost(&before, &plain, &h), lost(&before, &operated, &h));
        assert!(operated < 0.8 * plain, "{pattern:?}: {operated} is not less than {plain}");
    }
}

#[test]
fn patterns_are_kept() {
    for (keep, of) in [(4, 16), (1, 4), (3, 7)] {
        let (mut m, h) = example(8, 50);
        surgery::operate(&mut m, &h, Pattern::NofM { keep, of });
        for run in m.values.chunks(50).flat_map(|row| row.chunks(of)) {
            assert!(run.iter().filter(|v| **v != 0.0).count() <= keep);
        }
    }
    let (mut m, h) = example(32, 64);
    surgery::operate(&mut m, &h, Pattern::Blocks { share: 0.75 });
    let whole = (0..2)
        .flat_map(|r| (0..16).map(move |c| (r, c)))
        .filter(|(r, c)| (0..16).any(|i| (0..4).any(|j| m.values[(r * 16 + i) * 64 + c * 4 + j] != 0.0)));
    assert_eq!(whole.count(), 8);
}

#[test]
fn what_is_no_pattern_is_said() {
    assert_eq!("4:16".parse::<Pattern>().unwrap(), Pattern::NofM { keep: 4, of: 16 });
    assert_eq!("75%".parse::<Pattern>().unwrap(), Pattern::Any { share: 0.75 });
    assert_eq!("blocks:50%".parse::<Pattern>().unwrap(), Pattern::Blocks { share: 0.5 });
    for bad in ["", "4:4", "0:4", "100%", "half", "blocks:0%", "blocks", "5:x"] {
        let error = bad.parse::<Pattern>().unwrap_err().to_string();
        assert!(error.contains("4:16"), "{bad}: {error}");
    }
}

#[test]
fn nothing_seen_is_judged_by_magnitude() {
    let (mut m, _) = example(8, 16);
    let (mut plain, _) = example(8, 16);
    surgery::operate(&mut m, &[0.0; 256], Pattern::NofM { keep: 1, of: 4 });
    pattern::by_magnitude(&mut plain, Pattern::NofM { keep: 1, of: 4 });
    assert_eq!(m.values, plain.values);
}
