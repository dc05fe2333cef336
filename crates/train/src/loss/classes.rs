use qing_graph::{Graph, ValueId};

use super::Terms;
use crate::TrainError;

/// Cross entropy `−Σ targets · ln softmax(logits)`, the mean over samples. `logits` and `targets` are `[samples, classes]`; the
/// targets of a sample are shares of classes and add up to one.
///
/// # Errors
/// If the shapes do not fit.
pub fn cross_entropy(graph: &mut Graph, logits: ValueId, targets: ValueId) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "cross_entropy");
    let log = t.log_softmax(logits, 1)?;
    let picked = t.mul(log, targets)?;
    let of_sample = t.sum(picked, 1)?;
    let mean = t.mean(of_sample)?;
    t.neg(mean)
}

/// Focal loss of independent yes-or-no classes (Lin et al., "Focal loss for dense object detection", 2017):
/// `−Σ a · (1 − p)^gamma · ln p`, where `p` is what the sigmoid of the logit gives to the right answer and `a` is `alpha` for
/// yes, `1 − alpha` for no; summed and divided by the number of yeses, at least one. Any shape; targets are 0 or 1.
///
/// # Errors
/// If the shapes do not fit.
pub fn focal(
    graph: &mut Graph,
    logits: ValueId,
    targets: ValueId,
    alpha: f32,
    gamma: f32,
) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "focal");
    // ln p = −softplus(∓x), and 1 − p = σ(∓x): no logarithm of what may be zero.
    let not = t.neg(targets)?;
    let not = t.plus(not, 1.0)?;
    let opposite = t.neg(logits)?;
    let mut parts = vec![];
    for (x, wrong, share, weight) in [(opposite, opposite, targets, alpha), (logits, logits, not, 1.0 - alpha)] {
        let surprise = t.softplus(x)?;
        // (1 − p)^gamma = e^(gamma · ln σ), and ln σ(x) = −softplus(−x).
        let right = t.neg(wrong)?;
        let log = t.softplus(right)?;
        let log = t.times(log, -gamma)?;
        let hard = t.exp(log)?;
        let part = t.mul(surprise, hard)?;
        let part = t.mul(part, share)?;
        parts.push(t.times(part, weight)?);
    }
    let both = t.add(parts[0], parts[1])?;
    let sum = t.total(both)?;
    let count = t.total(targets)?;
    let one = t.number(1.0);
    let count = t.max(count, one)?;
    t.div(sum, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::{close, value};

    #[test]
    fn cross_entropy_of_soft_targets() {
        let logits = [2.0f32, 1.0, 0.0, 0.0, 0.0, 100.0];
        let targets = [0.9f32, 0.1, 0.0, 0.0, 0.0, 1.0];
        let z = (2f64.exp() + 1f64.exp() + 1.0).ln();
        let want = -(0.9 * (2.0 - z) + 0.1 * (1.0 - z)) / 2.0;
        close(value(&[(&[2, 3], &logits), (&[2, 3], &targets)], |g, i| cross_entropy(g, i[0], i[1])), want);
    }

    #[test]
    fn focal_of_yes_and_no() {
        let (logits, targets) = ([1.5f32, -2.0, 60.0], [1.0f32, 0.0, 1.0]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (yes, no) = (sigmoid(1.5), 1.0 - sigmoid(-2.0));
        let want = (-0.25 * (1.0 - yes).powi(2) * yes.ln() - 0.75 * (1.0 - no).powi(2) * no.ln()) / 2.0;
        close(value(&[(&[1, 3], &logits), (&[1, 3], &targets)], |g, i| focal(g, i[0], i[1], 0.25, 2.0)), want);
        // Nothing to find: still a number.
        let want = -0.75 * (1.0 - no).powi(2) * no.ln();
        close(value(&[(&[1], &[-2.0]), (&[1], &[0.0])], |g, i| focal(g, i[0], i[1], 0.25, 2.0)), want);
    }
}
