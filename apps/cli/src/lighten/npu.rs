//! Cycles on the chip as a cost that budgets may limit: `npu_cycles<=…`.

use std::collections::BTreeMap;

use qing::{
    Graph, Tensor,
    lighten::{
        LightenError,
        search::{CostModel, Costs, Forms, Measure},
    },
    npu::{Config, NpuError, Session, compile},
};

use crate::runner::random_inputs;

/// The name in a budget.
pub(super) const NAME: &str = "npu_cycles";

/// Cycles of a frame on a chip, as the simulator counts them.
#[derive(Debug)]
pub(super) struct NpuCycles {
    /// The chip.
    pub config: Config,
}

impl CostModel for NpuCycles {
    fn measure(&self) -> Measure {
        Measure::Other(NAME.into())
    }

    fn costs(&mut self, forms: &Forms<'_>) -> Result<Costs, LightenError> {
        let mut costs = Costs { layers: vec![vec![]; forms.layers.len()], fixed: 0.0, float: f64::INFINITY };
        for (bits, graph) in forms.forms {
            let by = self.layers(graph).map_err(|e| LightenError::Option(format!("{NAME} at {bits:?}: {e}")))?;
            for (layer, costs) in forms.layers.iter().zip(&mut costs.layers) {
                costs.push(by.get(layer).copied().unwrap_or(0.0));
            }
            let others = by.iter().filter(|(name, _)| !forms.layers.contains(name)).map(|(_, c)| c);
            costs.fixed = costs.fixed.max(others.sum());
        }
        Ok(costs)
    }
}

impl NpuCycles {
    /// What every layer adds to a frame.
    fn layers(&self, graph: &Graph) -> Result<BTreeMap<String, f64>, NpuError> {
        let mut session = Session::new(compile(graph, &self.config)?)?;
        let inputs: Vec<Tensor> =
            random_inputs(&session.program().graph, 1).map_err(|e| NpuError::Input(e.to_string()))?;
        let frame = session.run(&inputs)?;
        let mut by = BTreeMap::new();
        for layer in session.program().profile(&frame.run).layers {
            *by.entry(layer.name).or_insert(0.0) += layer.cycles as f64;
        }
        Ok(by)
    }
}
