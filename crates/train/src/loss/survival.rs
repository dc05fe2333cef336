//! Times until something happens, some of them cut off.

use qing_graph::{Graph, Tensor, ValueId};

use super::{Terms, cross_entropy};
use crate::TrainError;

/// What is added to a log hazard that is not in a risk set.
const OUT: f32 = -1e30;

/// Cox's negative log partial likelihood with Breslow's treatment of ties (Cox 1972; Katzman et al., "DeepSurv", 2018): for
/// every event the log hazard of whom it happened to, less the logarithm of the summed hazards of all still at risk; the
/// mean over events. `hazards` `[samples, 1]` are log hazards; `risk` and `events` `[samples, samples]` are of [`cox_targets`].
///
/// # Errors
/// If the shapes do not fit.
pub fn cox(graph: &mut Graph, hazards: ValueId, risk: ValueId, events: ValueId) -> Result<ValueId, TrainError> {
    // Each event is a choice among those at risk: a cross entropy of one class a sample.
    let samples = graph.ty(risk).shape.as_ref().and_then(|s| s.first()?.known());
    let mut t = Terms::new(graph, "cox");
    let shape = t.integers(&[1, -1]);
    let row = t.node(qing_graph::ops::Reshape::default(), &[hazards, shape])?;
    let choices = t.add(row, risk)?;
    let mean = cross_entropy(graph, choices, events)?;
    // The targets are shares of events, not of samples.
    let samples = samples.ok_or_else(|| TrainError::invalid("Cox's likelihood needs a known number of samples"))?;
    Terms::new(graph, "cox").times(mean, samples as f32)
}

/// For [`cox`]: `[samples, samples]` with 0 where the column's time is not before the row's and −1e30 elsewhere, and
/// `[samples, samples]` with one over the number of events on the diagonal where there was one.
///
/// # Errors
/// If there are not as many events as times.
pub fn cox_targets(times: &[f32], events: &[bool]) -> Result<(Tensor, Tensor), TrainError> {
    let n = times.len();
    if events.len() != n {
        return Err(TrainError::invalid(format!("{n} times, but {} events", events.len())));
    }
    let risk = times.iter().flat_map(|at| times.iter().map(move |t| if t >= at { 0.0 } else { OUT })).collect();
    let share = 1.0 / events.iter().filter(|e| **e).count().max(1) as f32;
    let mut diagonal = vec![0.0f32; n * n];
    (0..n).filter(|i| events[*i]).for_each(|i| diagonal[i * n + i] = share);
    Ok((Tensor::new(&[n, n], risk)?, Tensor::new(&[n, n], diagonal)?))
}

/// The negative log likelihood of a hazard in each interval of time (Gensheimer and Narasimhan, "A scalable discrete-time
/// survival model", 2019), the mean over samples. All `[samples, intervals]`: `logits` of the hazards, `survived` with 1 where
/// the interval was lived through, `died` with 1 in the interval of the event.
///
/// # Errors
/// If the shapes do not fit.
pub fn discrete_time(
    graph: &mut Graph,
    logits: ValueId,
    survived: ValueId,
    died: ValueId,
) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "discrete_time");
    // −ln(1 − σ(x)) = softplus(x) and −ln σ(x) = softplus(x) − x.
    let at_risk = t.add(survived, died)?;
    let surprise = t.softplus(logits)?;
    let all = t.mul(surprise, at_risk)?;
    let hit = t.mul(logits, died)?;
    let both = t.sub(all, hit)?;
    let of_sample = t.sum(both, 1)?;
    t.mean(of_sample)
}

/// For [`discrete_time`]: `survived` and `died` of times cut into intervals that end at `ends` (ascending). Who is cut off
/// counts as having lived through the intervals of which half or more was seen.
///
/// # Errors
/// If there are not as many events as times, or the ends do not ascend.
pub fn discrete_time_targets(times: &[f32], events: &[bool], ends: &[f32]) -> Result<(Tensor, Tensor), TrainError> {
    let (n, m) = (times.len(), ends.len());
    if events.len() != n || m == 0 || !ends.is_sorted() {
        return Err(TrainError::invalid(format!("{n} times, {} events, interval ends {ends:?}", events.len())));
    }
    let (mut survived, mut died) = (vec![0.0f32; n * m], vec![0.0f32; n * m]);
    for i in 0..n {
        for j in 0..m {
            let start = if j == 0 { 0.0 } else { ends[j - 1] };
            let (time, end) = (times[i], ends[j]);
            if events[i] {
                survived[i * m + j] = f32::from(time > end);
                died[i * m + j] = f32::from(time > start && time <= end || j == 0 && time <= start);
            } else {
                survived[i * m + j] = f32::from(time >= (start + end) / 2.0);
            }
        }
    }
    Ok((Tensor::new(&[n, m], survived)?, Tensor::new(&[n, m], died)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::{close, value};

    #[test]
    fn partial_likelihood_by_hand() {
        let (times, events) = ([3.0f32, 1.0, 2.0, 2.0], [true, true, false, true]);
        let hazards = [0.3f32, -0.2, 80.0, 0.1];
        let h = hazards.map(f64::from);
        let log_sum = |of: &[usize]| of.iter().map(|i| (h[*i] - 80.0).exp()).sum::<f64>().ln() + 80.0;
        let want = -((h[0] - h[0]) + (h[1] - log_sum(&[0, 1, 2, 3])) + (h[3] - log_sum(&[0, 2, 3]))) / 3.0;
        let (risk, diagonal) = cox_targets(&times, &events).unwrap();
        let (risk, diagonal) = (risk.to_f32s(), diagonal.to_f32s());
        let inputs: [(&[usize], &[f32]); 3] = [(&[4, 1], &hazards), (&[4, 4], &risk), (&[4, 4], &diagonal)];
        close(value(&inputs, |g, i| cox(g, i[0], i[1], i[2])), want);
        assert!(cox_targets(&times, &[true]).is_err());
    }

    #[test]
    fn intervals_by_hand() {
        let (survived, died) =
            discrete_time_targets(&[1.5, 2.6, 9.0], &[true, false, false], &[1.0, 2.0, 3.0]).unwrap();
        assert_eq!(survived.to_f32s(), [1., 0., 0., 1., 1., 1., 1., 1., 1.]);
        assert_eq!(died.to_f32s(), [0., 1., 0., 0., 0., 0., 0., 0., 0.]);
        let logits = [0.5f32, -1.0, 7.0];
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let want = -(1.0 - sigmoid(0.5)).ln() - sigmoid(-1.0).ln();
        let (survived, died) = (&survived.to_f32s()[..3], &died.to_f32s()[..3]);
        let inputs: [(&[usize], &[f32]); 3] = [(&[1, 3], &logits), (&[1, 3], survived), (&[1, 3], died)];
        close(value(&inputs, |g, i| discrete_time(g, i[0], i[1], i[2])), want);
    }
}
