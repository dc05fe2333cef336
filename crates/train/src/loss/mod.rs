//! What is made small: graphs over existing ops that end in one number.
//!
//! A loss adds nodes to the graph and gives the value of shape `[]` they end in; its gradient follows from its nodes, as that
//! of any graph. Losses for classes take soft targets `[samples, classes]`, so that label smoothing, mixup and distillation
//! need no losses of their own.

mod boxes;
mod classes;
mod distill;
mod regression;
mod survival;
mod terms;

pub use boxes::{BoxLoss, box_overlap};
pub use classes::{cross_entropy, focal};
pub use distill::{distillation, features};
pub use regression::{charbonnier, mean_squared, smooth_l1};
pub use survival::{cox, cox_targets, discrete_time, discrete_time_targets};
pub use terms::Terms;

#[cfg(test)]
mod testing {
    use qing_graph::{Element, Graph, Tensor, Type, ValueId, interpret::interpret};

    use crate::TrainError;

    /// The value of a loss of these inputs, by reference semantics.
    pub(super) fn value(
        inputs: &[(&[usize], &[f32])],
        build: impl Fn(&mut Graph, &[ValueId]) -> Result<ValueId, TrainError>,
    ) -> f64 {
        let mut graph = Graph::new("loss");
        let ids: Vec<ValueId> = (inputs.iter().enumerate())
            .map(|(i, (shape, _))| graph.add_input(&format!("in{i}"), Type::new(Element::F32, shape.iter().copied())))
            .collect();
        let loss = build(&mut graph, &ids).unwrap();
        assert_eq!(graph.ty(loss).known_shape(), Some(vec![]), "a loss is one number");
        graph.mark_output(loss);
        qing_graph::verify::verify(&graph).unwrap();
        let tensors: Vec<Tensor> =
            inputs.iter().map(|(shape, values)| Tensor::new(shape, values.to_vec()).unwrap()).collect();
        interpret(&graph, &tensors).unwrap()[0].to_f64s()[0]
    }

    pub(super) fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= 2e-5 * want.abs().max(1.0), "{got}, expected {want}");
    }

    type Inputs<'a> = &'a [(&'a [usize], &'a [f32])];

    /// Holds the gradients of a loss by its first `trained` inputs against central differences of its value.
    fn slopes(
        name: &str,
        inputs: Inputs<'_>,
        trained: usize,
        build: impl Fn(&mut Graph, &[ValueId]) -> Result<ValueId, TrainError>,
    ) {
        let mut graph = Graph::new("loss");
        let ids: Vec<ValueId> = (inputs.iter().enumerate())
            .map(|(i, (shape, _))| graph.add_input(&format!("in{i}"), Type::new(Element::F32, shape.iter().copied())))
            .collect();
        let loss = build(&mut graph, &ids).unwrap();
        let with = crate::differentiate(&graph, loss, &ids[..trained]).unwrap();
        let mut backward = with.graph;
        backward.outputs.clear();
        with.gradients.iter().for_each(|g| backward.mark_output(*g));
        let tensors: Vec<Tensor> =
            inputs.iter().map(|(shape, values)| Tensor::new(shape, values.to_vec()).unwrap()).collect();
        let gradients = interpret(&backward, &tensors).unwrap();
        let mut largest = 0.0f64;
        for (i, gradient) in gradients.iter().enumerate() {
            for (k, got) in gradient.to_f64s().into_iter().enumerate() {
                // Losses are computed in f32: a step that is large against its rounding, and errors of its square.
                const STEP: f32 = 1.0 / 128.0;
                let moved = |by: f32| {
                    let mut values: Vec<Vec<f32>> = inputs.iter().map(|(_, v)| v.to_vec()).collect();
                    values[i][k] += by;
                    let inputs: Vec<(&[usize], &[f32])> =
                        inputs.iter().zip(&values).map(|((shape, _), v)| (*shape, v.as_slice())).collect();
                    value(&inputs, &build)
                };
                let want = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
                assert!((got - want).abs() <= 1e-3 + 5e-3 * want.abs(), "{name}: input {i} value {k}: {got}, {want}");
                largest = largest.max(got.abs());
            }
        }
        assert!(largest > 0.01, "{name} has no slope here");
    }

    #[test]
    fn every_loss_has_the_slope_of_its_value() {
        use super::*;
        let x = [0.3f32, -1.2, 0.8, 2.0, -0.4, 0.1];
        let y = [0.5f32, 0.2, 0.3, 0.1, 0.8, 0.1];
        let rows: [(&[usize], &[f32]); 2] = [(&[2, 3], &x), (&[2, 3], &y)];
        slopes("cross_entropy", &rows, 1, |g, i| cross_entropy(g, i[0], i[1]));
        slopes("focal", &rows, 1, |g, i| focal(g, i[0], i[1], 0.25, 2.0));
        slopes("mean_squared", &rows, 2, |g, i| mean_squared(g, i[0], i[1]));
        slopes("charbonnier", &rows, 2, |g, i| charbonnier(g, i[0], i[1], 0.1));
        slopes("smooth_l1", &rows, 2, |g, i| smooth_l1(g, i[0], i[1], 0.6));
        for temperature in [1.0, 4.0] {
            slopes("distillation", &rows, 1, |g, i| distillation(g, i[0], i[1], temperature));
        }
        slopes("features", &rows, 1, |g, i| features(g, i[0], i[1]));
        let (a, b) = ([0.0f32, 0.1, 2.0, 2.2, 4.0, 4.1, 5.5, 7.0], [1.0f32, 0.8, 3.1, 5.0, 3.5, 4.4, 5.0, 6.2]);
        let boxes: [(&[usize], &[f32]); 2] = [(&[2, 4], &a), (&[2, 4], &b)];
        for kind in [BoxLoss::Iou, BoxLoss::Giou] {
            slopes("box_overlap", &boxes, 1, |g, i| box_overlap(g, i[0], i[1], kind));
        }
        let (times, events) = ([3.0f32, 1.0, 2.0, 5.0], [true, true, false, true]);
        let hazards = [0.2f32, -0.7, 1.1, 0.4];
        let (risk, event) = cox_targets(&times, &events).unwrap();
        let (risk_values, event_values) = (risk.to_f32s(), event.to_f32s());
        let cohort: [(&[usize], &[f32]); 3] =
            [(&[4, 1], &hazards), (risk.shape(), &risk_values), (event.shape(), &event_values)];
        slopes("cox", &cohort, 1, |g, i| cox(g, i[0], i[1], i[2]));
        let (survived, died) = discrete_time_targets(&times, &events, &[1.5, 3.0, 6.0]).unwrap();
        let logits: Vec<f32> = (0..12).map(|i| (i as f32 * 0.77).sin()).collect();
        let (survived_values, died_values) = (survived.to_f32s(), died.to_f32s());
        let intervals: [(&[usize], &[f32]); 3] =
            [(&[4, 3], &logits), (survived.shape(), &survived_values), (died.shape(), &died_values)];
        slopes("discrete_time", &intervals, 1, |g, i| discrete_time(g, i[0], i[1], i[2]));
    }
}
