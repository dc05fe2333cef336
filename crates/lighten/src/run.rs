//! Running a graph to look at values inside it.

use qing_graph::{Graph, Tensor, ValueId, interpret};

use crate::LightenError;

/// Runs a graph and gives chosen values of it.
pub(crate) struct Observer {
    graph: Graph,
    wanted: Vec<ValueId>,
}

impl Observer {
    /// Prepares a graph to show `wanted`; ids are the graph's.
    pub(crate) fn new(graph: &Graph, wanted: &[ValueId]) -> Observer {
        Observer { graph: graph.clone(), wanted: wanted.to_vec() }
    }

    /// One run; the values in the order they were asked for.
    ///
    /// # Errors
    /// If the inputs do not fit or an op fails.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, LightenError> {
        let mut seen: Vec<Option<Tensor>> = self.wanted.iter().map(|id| self.graph.constant(*id).cloned()).collect();
        for (slot, id) in seen.iter_mut().zip(&self.wanted) {
            if let Some(i) = self.graph.inputs.iter().position(|input| input == id) {
                *slot = inputs.get(i).cloned();
            }
        }
        interpret::interpret_with(&self.graph, inputs, |id, tensor| {
            for (slot, _) in seen.iter_mut().zip(&self.wanted).filter(|(_, w)| **w == id) {
                *slot = Some(tensor.clone());
            }
        })?;
        seen.into_iter()
            .zip(&self.wanted)
            .map(|(t, id)| {
                t.ok_or_else(|| LightenError::Calibration(format!("`{}` was not computed", self.graph.value(*id).name)))
            })
            .collect()
    }
}
