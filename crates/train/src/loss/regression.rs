use qing_graph::{Graph, ValueId};

use super::Terms;
use crate::TrainError;

/// The mean of `(x − target)²`.
///
/// # Errors
/// If the shapes do not fit.
pub fn mean_squared(graph: &mut Graph, x: ValueId, target: ValueId) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "mean_squared");
    let difference = t.sub(x, target)?;
    let square = t.mul(difference, difference)?;
    t.mean(square)
}

/// The mean of `√((x − target)² + epsilon²)`, a smooth absolute error (Charbonnier et al. 1994; the usual loss of
/// super-resolution, with epsilon 1e-3).
///
/// # Errors
/// If the shapes do not fit.
pub fn charbonnier(graph: &mut Graph, x: ValueId, target: ValueId, epsilon: f32) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "charbonnier");
    let difference = t.sub(x, target)?;
    let square = t.mul(difference, difference)?;
    let square = t.plus(square, epsilon * epsilon)?;
    let root = t.sqrt(square)?;
    t.mean(root)
}

/// The mean of `d² / (2 · beta)` where `d = |x − target|` is below `beta`, of `d − beta / 2` elsewhere (Girshick, "Fast R-CNN",
/// 2015).
///
/// # Errors
/// If the shapes do not fit.
pub fn smooth_l1(graph: &mut Graph, x: ValueId, target: ValueId, beta: f32) -> Result<ValueId, TrainError> {
    if !(beta.is_finite() && beta > 0.0) {
        return Err(TrainError::invalid(format!("smooth L1 turns linear at a positive beta, got {beta}")));
    }
    let mut t = Terms::new(graph, "smooth_l1");
    let difference = t.sub(x, target)?;
    let d = t.abs(difference)?;
    // With m = min(d, beta): m · (d − m / 2) / beta is both branches.
    let bound = t.number(beta);
    let m = t.min(d, bound)?;
    let half = t.times(m, 0.5)?;
    let rest = t.sub(d, half)?;
    let product = t.mul(m, rest)?;
    let scaled = t.times(product, 1.0 / beta)?;
    t.mean(scaled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::{close, value};

    #[test]
    fn by_hand() {
        let (x, y) = ([1.0f32, 2.0, -3.0, 0.5], [1.5f32, 2.0, 1.0, 0.4]);
        let d = [-0.5f64, 0.0, -4.0, 0.1];
        let mean = |f: &dyn Fn(f64) -> f64| d.iter().map(|d| f(*d)).sum::<f64>() / 4.0;
        let inputs: [(&[usize], &[f32]); 2] = [(&[2, 2], &x), (&[2, 2], &y)];
        close(value(&inputs, |g, i| mean_squared(g, i[0], i[1])), mean(&|d| d * d));
        close(value(&inputs, |g, i| charbonnier(g, i[0], i[1], 0.01)), mean(&|d| (d * d + 1e-4).sqrt()));
        let huber = |d: f64| if d.abs() < 0.2 { d * d / 0.4 } else { d.abs() - 0.1 };
        close(value(&inputs, |g, i| smooth_l1(g, i[0], i[1], 0.2)), mean(&huber));
    }
}
