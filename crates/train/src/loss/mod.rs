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
}
