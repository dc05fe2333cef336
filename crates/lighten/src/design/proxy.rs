//! How well a network with fresh weights tells inputs apart.

use qing_graph::{Graph, Tensor, ops};

use crate::{LightenError, factorize::cholesky, run::Observer};

/// Added to the agreement of an input with itself: keeps the determinant away from zero.
const EASE: f64 = 1e-6;

/// The logarithm of the determinant of the share of units of the network that agree (are on or off together) for every pair of inputs of a
/// batch, by input: NASWOT (Mellor et al., arXiv:2006.04647) without what the mere number of units adds. At most 0; where all inputs light
/// the same units it is far below. Units are what ReLU and ReLU6 give.
///
/// # Errors
/// If the network has no such units, or cannot be run on the batch.
pub fn separation(graph: &Graph, batch: &Tensor, threads: usize) -> Result<f64, LightenError> {
    let activations: Vec<_> = (graph.nodes.iter())
        .filter(|n| n.op.is::<ops::Relu>() || n.op.is::<ops::Clip>())
        .filter_map(|n| n.outputs.first().copied())
        .collect();
    if activations.is_empty() {
        return Err(LightenError::Option(format!("`{}` has no ReLU to judge it by", graph.name)));
    }
    let count = batch.shape().first().copied().unwrap_or(0);
    let mut agreed = vec![0u64; count * count];
    let mut units = 0;
    for value in Observer::new(graph, &activations, threads).run(std::slice::from_ref(batch))? {
        let values = value.to_f32s();
        let each = values.len() / count.max(1);
        units += each;
        let codes: Vec<Vec<u64>> = values.chunks(each.max(1)).map(code).collect();
        for i in 0..count {
            for j in 0..i {
                let apart: u32 = codes[i].iter().zip(&codes[j]).map(|(a, b)| (a ^ b).count_ones()).sum();
                agreed[i * count + j] += each as u64 - u64::from(apart);
            }
        }
    }
    let mut shares: Vec<f64> = agreed.iter().map(|n| *n as f64 / units as f64).collect();
    (0..count).for_each(|i| shares[i * count + i] = 1.0 + EASE);
    Ok(log_determinant(shares, count) / count.max(1) as f64)
}

/// Which values are positive, a bit each.
fn code(values: &[f32]) -> Vec<u64> {
    let word = |part: &[f32]| part.iter().enumerate().fold(0, |bits, (i, v)| bits | u64::from(*v > 0.0) << i);
    values.chunks(64).map(word).collect()
}

/// Of a positive definite matrix, of which the lower triangle is read.
fn log_determinant(mut matrix: Vec<f64>, n: usize) -> f64 {
    cholesky(&mut matrix, n);
    (0..n).map(|i| 2.0 * matrix[i * n + i].ln()).sum()
}

#[cfg(test)]
mod tests {
    use qing_train::{
        Purpose, Random,
        architectures::{Settings, build},
    };

    use super::*;

    #[test]
    fn determinants() {
        assert!((log_determinant(vec![4.0, 2.0, 2.0, 3.0], 2) - 8f64.ln()).abs() < 1e-12);
        assert_eq!(code(&[1.0, -1.0, 0.0, 2.0]), [0b1001]);
    }

    #[test]
    fn inputs_that_differ_score_more() {
        let score = |design: &str, spread: f32| {
            let settings = Settings { input: vec![3, 16, 16], classes: 4, seed: 1 };
            let graph = build(design, &settings).unwrap();
            let mut random = Random::new(5, Purpose::Probe, 0, 0);
            let first: Vec<f32> = (0..3 * 256).map(|_| random.normal()).collect();
            let values = (0..12 * 3 * 256).map(|i| first[i % 768] + spread * random.normal()).collect();
            separation(&graph, &Tensor::new(&[12, 3, 16, 16], values).unwrap(), 1).unwrap()
        };
        for design in ["residual:8,8x1,16x1s2", "inverted:8,8x1e2,16x1s2"] {
            let (apart, alike) = (score(design, 1.0), score(design, 0.1));
            assert!(apart < 0.0 && apart > alike + 0.2, "{apart} {alike}");
        }
    }
}
