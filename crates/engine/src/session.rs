//! Running a plan.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use qing_graph::{Graph, GraphError, Tensor, interpret};
use qing_kernels::Pool;

use crate::{
    EngineError, LayerTime, Plan,
    memory::Aligned,
    plan::{Planned, Port},
    step::{Slot, StepError, StepIo},
    storage,
};

/// A plan with the memory and threads to run it. One session runs one input at a time; make one per caller.
#[derive(Debug)]
pub struct Session {
    plan: Arc<Plan>,
    pool: Arc<Pool>,
    /// The caller alone, for steps too short to be shared.
    alone: Pool,
    arena: Aligned,
    dynamic: Vec<Option<Tensor>>,
}

impl Session {
    /// A session with threads of its own, as many as the plan was made for.
    pub fn new(plan: Arc<Plan>) -> Session {
        let pool = Arc::new(Pool::new(plan.threads()));
        Session::with_pool(plan, pool)
    }

    /// A session that shares threads with others. The pool must not have more threads than the plan was made for.
    ///
    /// # Panics
    /// If it has more.
    pub fn with_pool(plan: Arc<Plan>, pool: Arc<Pool>) -> Session {
        assert!(pool.threads() <= plan.threads(), "the plan was made for {} threads", plan.threads());
        let arena = Aligned::zeros(plan.arena);
        let mut dynamic = vec![None; plan.dynamics.len()];
        for (slot, tensor) in dynamic.iter_mut().zip(&plan.dynamics) {
            slot.clone_from(tensor);
        }
        Session { plan, pool, alone: Pool::new(1), arena, dynamic }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Runs the graph on one tensor for each input and gives one for each output.
    ///
    /// # Errors
    /// If a tensor does not fit its input, or an op that is run by reference fails.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, EngineError> {
        interpret::check_inputs(&self.plan.graph, inputs)?;
        for (i, tensor) in inputs.iter().enumerate() {
            self.input_mut(i)?.copy_from_slice(tensor.bytes());
        }
        self.run_into()?;
        (0..self.plan.outputs.len()).map(|i| self.output_tensor(i)).collect()
    }

    /// The bytes of input `i`, as a tensor of the input's type holds them; to be filled before [`Session::run_into`]. They
    /// keep their values from run to run.
    ///
    /// # Errors
    /// If there is no such input.
    pub fn input_mut(&mut self, i: usize) -> Result<&mut [u8], EngineError> {
        let count = self.plan.inputs.len();
        match self.plan.inputs.get(i) {
            Some(Port { slot: Slot::Arena(region), .. }) => Ok(&mut self.arena.as_mut()[region.offset..region.end()]),
            _ => Err(EngineError::NoSuchPort { what: "input", index: i, count }),
        }
    }

    /// The bytes of output `i` after a run, as a tensor of the output's type holds them.
    ///
    /// # Errors
    /// If there is no such output.
    pub fn output(&self, i: usize) -> Result<&[u8], EngineError> {
        let count = self.plan.outputs.len();
        let port = self.plan.outputs.get(i).ok_or(EngineError::NoSuchPort { what: "output", index: i, count })?;
        Ok(match port.slot {
            Slot::Arena(region) => &self.arena.as_ref()[region.offset..region.end()],
            Slot::Constant(index, region) => &self.plan.constants[index].as_ref()[region.offset..region.end()],
            Slot::Dynamic(index) => self.dynamic[index].as_ref().map_or(&[], |t| t.bytes()),
        })
    }

    /// The bytes of an input, to be changed, together with those of an output after a run: how a parameter is updated in place by its
    /// gradient.
    ///
    /// # Errors
    /// If there is no such input or output, or the output is that very input.
    pub fn update(&mut self, input: usize, output: usize) -> Result<(&mut [u8], &[u8]), EngineError> {
        let (inputs, outputs) = (self.plan.inputs.len(), self.plan.outputs.len());
        let Some(Slot::Arena(to)) = self.plan.inputs.get(input).map(|port| port.slot) else {
            return Err(EngineError::NoSuchPort { what: "input", index: input, count: inputs });
        };
        let from = self.plan.outputs.get(output).map(|port| port.slot);
        let missing = EngineError::NoSuchPort { what: "output", index: output, count: outputs };
        match from.ok_or(missing)? {
            Slot::Arena(from) => {
                let same =
                    EngineError::NoSuchPort { what: "output apart from its input", index: output, count: outputs };
                if to.offset < from.end() && from.offset < to.end() {
                    return Err(same);
                }
                let arena = self.arena.as_mut();
                let (low, high) = arena.split_at_mut(to.offset.max(from.offset));
                Ok(if to.offset < from.offset {
                    (&mut low[to.offset..to.end()], &high[..from.len])
                } else {
                    (&mut high[..to.len], &low[from.offset..from.end()])
                })
            }
            Slot::Constant(index, region) => Ok((
                &mut self.arena.as_mut()[to.offset..to.end()],
                &self.plan.constants[index].as_ref()[region.offset..region.end()],
            )),
            Slot::Dynamic(index) => Ok((
                &mut self.arena.as_mut()[to.offset..to.end()],
                self.dynamic[index].as_ref().map_or(&[], |t| t.bytes()),
            )),
        }
    }

    /// A copy of output `i` after a run.
    ///
    /// # Errors
    /// If there is no such output, or nothing was run yet.
    pub fn output_tensor(&self, i: usize) -> Result<Tensor, EngineError> {
        let bytes = self.output(i)?;
        let port = &self.plan.outputs[i];
        if let Slot::Dynamic(index) = port.slot {
            return self.dynamic[index].clone().ok_or_else(|| {
                EngineError::Graph(GraphError::Malformed(format!("output `{}` has not been computed", port.name)))
            });
        }
        Ok(storage::to_tensor(storage::Form::Raw(port.element), &port.shape, bytes)?)
    }

    /// Runs the plan on what the input buffers hold. Allocates nothing, unless the plan has nodes that run by reference.
    ///
    /// # Errors
    /// If an op that is run by reference fails.
    pub fn run_into(&mut self) -> Result<(), EngineError> {
        self.run_while(&|| true)
    }

    /// [`Session::run_into`] that another thread can stop by setting `cancel`: it is looked at before every step. A cancelled
    /// run has given no results; the inputs keep their values, and the session may be run again.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], and as [`Session::run_into`].
    pub fn run_cancellable(&mut self, cancel: &AtomicBool) -> Result<(), EngineError> {
        self.run_while(&|| !cancel.load(Ordering::Relaxed))
    }

    fn run_while(&mut self, go_on: &dyn Fn() -> bool) -> Result<(), EngineError> {
        let Session { plan, pool, alone, arena, dynamic } = self;
        for (done, step) in plan.steps.iter().enumerate() {
            if !go_on() {
                return Err(EngineError::Cancelled { done, steps: plan.steps.len() });
            }
            run_step(plan, step, arena, dynamic, if step.alone { alone } else { pool })?;
        }
        Ok(())
    }

    /// [`Session::run_into`], and calls `watch(i)` when step `i` is about to run and `watch(n)` after the last of `n` steps.
    /// What the steps are is in [`Plan::layers`].
    ///
    /// # Errors
    /// As [`Session::run_into`].
    pub fn run_watched(&mut self, watch: &mut dyn FnMut(usize)) -> Result<(), EngineError> {
        let Session { plan, pool, alone, arena, dynamic } = self;
        for (i, step) in plan.steps.iter().enumerate() {
            watch(i);
            run_step(plan, step, arena, dynamic, if step.alone { alone } else { pool })?;
        }
        watch(plan.steps.len());
        Ok(())
    }

    /// Runs the plan on what the input buffers hold, and says what each step took.
    ///
    /// # Errors
    /// As [`Session::run_into`].
    pub fn profile(&mut self) -> Result<Vec<LayerTime>, EngineError> {
        let mut layers = self.plan.layers();
        let mut instants = Vec::with_capacity(layers.len() + 1);
        self.run_watched(&mut |_| instants.push(Instant::now()))?;
        for (layer, pair) in layers.iter_mut().zip(instants.windows(2)) {
            layer.nanos = u64::try_from((pair[1] - pair[0]).as_nanos()).unwrap_or(u64::MAX);
        }
        Ok(layers)
    }

    /// The threads that run it.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

fn run_step(
    plan: &Plan,
    step: &Planned,
    arena: &mut Aligned,
    dynamic: &mut [Option<Tensor>],
    pool: &Pool,
) -> Result<(), EngineError> {
    let mut io = StepIo {
        arena: arena.as_mut(),
        constants: &plan.constants,
        dynamic,
        inputs: &step.inputs,
        outputs: &step.outputs,
        scratch: step.scratch,
    };
    step.step.run(&mut io, pool).map_err(|error| named(&plan.graph, step, error))
}

fn named(graph: &Graph, step: &Planned, error: StepError) -> EngineError {
    let node = graph.nodes.iter().find(|n| n.name == step.node);
    match (node, error) {
        (Some(node), StepError::Op(source)) => graph.node_error(node, source).into(),
        (Some(node), StepError::Kernel(source)) => EngineError::kernel(graph, node, source),
        (None, StepError::Op(source)) => {
            GraphError::Node { node: step.node.clone(), op: step.op.clone(), inputs: String::new(), source }.into()
        }
        (None, StepError::Kernel(source)) => {
            EngineError::Kernel { node: step.node.clone(), op: step.op.clone(), inputs: String::new(), source }
        }
    }
}
