//! A network with sessions for the shapes it has met.

use std::sync::Arc;

use anyhow::{Context, Result};
use qing::{Element, Graph, Plan, PlanOptions, Pool, Session, Tensor};

use crate::model::Model;

/// Plans kept at once; a run alternates between full batches and a last smaller one.
const KEPT: usize = 2;

/// Runs a graph on inputs of any shape it allows.
pub(crate) struct Runner {
    graph: Graph,
    options: PlanOptions,
    pool: Arc<Pool>,
    sessions: Vec<(Vec<Vec<usize>>, Session)>,
}

impl Runner {
    /// A runner with threads of its own.
    pub(crate) fn new(graph: &Graph, threads: usize) -> Runner {
        let threads = threads.max(1);
        let options = PlanOptions::threads(threads);
        Runner { graph: graph.clone(), options, pool: Arc::new(Pool::new(threads)), sessions: vec![] }
    }

    /// A runner of a model's network as it was read, which may bring packed weights.
    pub(crate) fn of(model: &Model, threads: usize) -> Runner {
        let mut runner = Runner::new(&model.graph, threads);
        runner.options.prepacked.clone_from(&model.prepacked);
        runner
    }

    /// The same, multiplying floats as bfloat16 if that is wanted.
    pub(crate) fn bf16(mut self, wanted: bool) -> Runner {
        self.options.bf16 = wanted;
        self
    }

    /// The network.
    pub(crate) fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Size of the batches the network insists on, if it does.
    pub(crate) fn fixed_batch(&self) -> Option<usize> {
        self.graph.inputs.iter().find_map(|id| self.graph.ty(*id).shape.as_ref()?.first()?.known())
    }

    /// One run; plans first if the shapes are new.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(self.session(inputs)?.run(inputs)?)
    }

    /// The session for inputs of these shapes.
    pub(crate) fn session(&mut self, inputs: &[Tensor]) -> Result<&mut Session> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
        let at = match self.sessions.iter().position(|(s, _)| *s == shapes) {
            Some(at) => at,
            None => {
                let options = PlanOptions { input_shapes: Some(shapes.clone()), ..self.options.clone() };
                let plan =
                    Plan::new(&self.graph, &options).with_context(|| format!("planning for inputs {shapes:?}"))?;
                if self.sessions.len() == KEPT {
                    self.sessions.remove(0);
                }
                self.sessions.push((shapes, Session::with_pool(Arc::new(plan), self.pool.clone())));
                self.sessions.len() - 1
            }
        };
        Ok(&mut self.sessions[at].1)
    }
}

/// One standard normal input (or integers in range) for every input of the network; open dimensions are 1, the first of
/// them `batch`.
pub(crate) fn random_inputs(graph: &Graph, batch: usize) -> Result<Vec<Tensor>> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut tensors = vec![];
    for id in &graph.inputs {
        let ty = graph.ty(*id);
        let dims = ty.shape.clone().unwrap_or_default();
        let open = |(axis, d): (usize, &qing::Dim)| d.known().unwrap_or(if axis == 0 { batch } else { 1 });
        let shape: Vec<usize> = dims.iter().enumerate().map(open).collect();
        let n: usize = shape.iter().product();
        let real = |_| (-2.0 * next().max(1e-7).ln()).sqrt() * (std::f32::consts::TAU * next()).cos();
        let values: Vec<f32> = (0..n).map(real).collect();
        let tensor = Tensor::new(&shape, values)?;
        tensors.push(match (ty.element, ty.range()) {
            (Element::I64 | Element::I32 | Element::Bool, _) => Tensor::new(&shape, vec![0.0f32; n])?.cast(ty.element),
            (element, Some((lo, hi))) => {
                let (middle, spread) = ((lo as f32 + hi as f32) / 2.0, (hi as f32 - lo as f32) / 6.0);
                let ints: Vec<f32> = tensor
                    .to_f32s()
                    .iter()
                    .map(|v| (middle + spread * v).round().clamp(lo as f32, hi as f32))
                    .collect();
                Tensor::new(&shape, ints)?.cast(element)
            }
            (element, None) => tensor.cast(element),
        });
    }
    Ok(tensors)
}
