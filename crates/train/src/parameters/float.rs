//! Trained numbers back into the float network they came from.

use qing_graph::{Graph, Tensor};

use super::{Export, Model, Values};
use crate::TrainError;

/// The network as it was given, constants folded; constants of the same names are replaced.
pub(super) struct Float {
    pub(super) base: Graph,
}

impl Export for Float {
    fn export(&self, model: &Model, values: &Values) -> Result<Graph, TrainError> {
        let mut graph = self.base.clone();
        let parameters = model.parameters.iter().map(|p| &p.name).zip(&values.parameters);
        for (name, value) in parameters.chain(model.statistics.iter().map(|s| &s.name).zip(&values.statistics)) {
            let id = graph
                .find(name)
                .ok_or_else(|| TrainError::invalid(format!("the network has no constant `{name}` to write back to")))?;
            let shape = graph.ty(id).known_shape().unwrap_or_default();
            graph.value_mut(id).constant = Some(Tensor::new(&shape, value.clone())?);
        }
        Ok(graph)
    }
}
