use qing_graph::{Graph, ValueId, ops};

use super::Terms;
use crate::TrainError;

/// How far the student's classes are from the teacher's: `T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, the mean over
/// samples (Hinton et al., "Distilling the knowledge in a neural network", 2015). Both are logits `[samples, classes]`; the
/// teacher's get no gradient if they are a graph input.
///
/// # Errors
/// If the shapes do not fit or the temperature is not positive.
pub fn distillation(
    graph: &mut Graph,
    student: ValueId,
    teacher: ValueId,
    temperature: f32,
) -> Result<ValueId, TrainError> {
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(TrainError::invalid(format!("a distillation temperature is positive, got {temperature}")));
    }
    let mut t = Terms::new(graph, "distillation");
    let student = t.times(student, 1.0 / temperature)?;
    let teacher = t.times(teacher, 1.0 / temperature)?;
    let log_student = t.log_softmax(student, 1)?;
    let log_teacher = t.log_softmax(teacher, 1)?;
    let share = t.node(ops::Softmax { axis: 1, ..ops::Softmax::default() }, &[teacher])?;
    let difference = t.sub(log_teacher, log_student)?;
    let terms = t.mul(share, difference)?;
    let of_sample = t.sum(terms, 1)?;
    let mean = t.mean(of_sample)?;
    t.times(mean, temperature * temperature)
}

/// How far features of the student are from the teacher's, as directions: the mean over samples of
/// `‖f/‖f‖ − g/‖g‖‖²` of the flattened features (the normalization of Zagoruyko and Komodakis, "Paying more attention to
/// attention", 2017). Both are `[samples, …]` of one shape.
///
/// # Errors
/// If the shapes do not fit.
pub fn features(graph: &mut Graph, student: ValueId, teacher: ValueId) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "features");
    let mut unit = vec![];
    for x in [student, teacher] {
        let flat = t.node(ops::Flatten { axis: 1 }, &[x])?;
        let square = t.mul(flat, flat)?;
        let axes = t.integers(&[1]);
        let sum = t.node(ops::ReduceSum::default(), &[square, axes])?;
        let sum = t.plus(sum, 1e-12)?;
        let length = t.sqrt(sum)?;
        unit.push(t.div(flat, length)?);
    }
    let difference = t.sub(unit[0], unit[1])?;
    let square = t.mul(difference, difference)?;
    let of_sample = t.sum(square, 1)?;
    t.mean(of_sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::{close, value};

    fn softmax(x: &[f64]) -> Vec<f64> {
        let z: f64 = x.iter().map(|v| v.exp()).sum();
        x.iter().map(|v| v.exp() / z).collect()
    }

    #[test]
    fn divergence_by_hand() {
        let (s, t) = ([1.0f32, 0.0, -1.0], [2.0f32, 1.0, -4.0]);
        let at = |x: &[f32]| softmax(&x.iter().map(|v| f64::from(*v) / 4.0).collect::<Vec<_>>());
        let want: f64 = at(&t).iter().zip(at(&s)).map(|(p, q)| p * (p / q).ln()).sum::<f64>() * 16.0;
        let loss = |a: &[f32], b: &[f32]| value(&[(&[1, 3], a), (&[1, 3], b)], |g, i| distillation(g, i[0], i[1], 4.0));
        close(loss(&s, &t), want);
        close(loss(&t, &t), 0.0);
    }

    #[test]
    fn features_are_compared_as_directions() {
        let loss =
            |a: &[f32], b: &[f32]| value(&[(&[1, 2, 1, 1], a), (&[1, 2, 1, 1], b)], |g, i| features(g, i[0], i[1]));
        close(loss(&[1.0, 2.0], &[3.0, 6.0]), 0.0);
        close(loss(&[1.0, 0.0], &[0.0, 5.0]), 2.0);
        assert!(loss(&[0.0, 0.0], &[1.0, 0.0]).is_finite());
    }
}
