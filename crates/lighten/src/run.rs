//! Running a graph to look at values inside it.

use std::sync::Arc;

use qing_engine::{Plan, Session};
use qing_graph::{Graph, Tensor, ValueId};

use crate::LightenError;

/// Runs a graph on the engine and gives chosen values of it.
pub(crate) struct Observer {
    /// The graph, with the values that are computed as its outputs.
    graph: Graph,
    wanted: Vec<Source>,
    threads: usize,
    /// The session for the input shapes of the last run.
    session: Option<(Vec<Vec<usize>>, Session)>,
}

/// Where a wanted value comes from.
enum Source {
    Input(usize),
    Constant(Tensor),
    Output(usize),
}

impl Observer {
    /// Prepares a graph to show `wanted`; ids are the graph's.
    pub(crate) fn new(graph: &Graph, wanted: &[ValueId], threads: usize) -> Observer {
        let mut graph = graph.clone();
        graph.outputs.clear();
        let mut sources = vec![];
        for id in wanted {
            sources.push(if let Some(i) = graph.inputs.iter().position(|input| input == id) {
                Source::Input(i)
            } else if let Some(constant) = graph.constant(*id) {
                Source::Constant(constant.clone())
            } else {
                let known = graph.outputs.iter().position(|out| out == id);
                Source::Output(known.unwrap_or_else(|| {
                    graph.outputs.push(*id);
                    graph.outputs.len() - 1
                }))
            });
        }
        graph.remove_dead_nodes();
        Observer { graph, wanted: sources, threads, session: None }
    }

    /// One run; the values in the order they were asked for.
    ///
    /// # Errors
    /// If the inputs do not fit or an op fails.
    pub(crate) fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, LightenError> {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|t| t.shape().to_vec()).collect();
        let mut session = match self.session.take() {
            Some((same, session)) if same == shapes => session,
            _ => {
                let mut options = qing_engine::Options::threads(self.threads);
                options.input_shapes = Some(shapes.clone());
                Session::new(Arc::new(Plan::new(&self.graph, &options)?))
            }
        };
        let outputs = session.run(inputs)?;
        self.session = Some((shapes, session));
        let take = |source: &Source| match source {
            Source::Input(i) => inputs[*i].clone(),
            Source::Constant(tensor) => tensor.clone(),
            Source::Output(i) => outputs[*i].clone(),
        };
        Ok(self.wanted.iter().map(take).collect())
    }
}
