//! One step after another: run the graph, update the parameters.

use std::sync::Arc;

use qing_engine::{EngineError, Options, Plan, Pool, Session};
use qing_graph::{Tensor, ValueId};

use crate::{
    BackwardOptions, TrainError, differentiate_with,
    optimize::{self, Average, Optimizer},
    parameters::{Model, Values},
};

/// What a network is trained for: a number to make small, in its graph.
#[derive(Debug, Clone)]
pub struct Objective {
    /// The loss, of shape `[]`.
    pub loss: ValueId,
    /// Graph inputs that only the loss reads: targets, what a teacher says.
    pub inputs: Vec<ValueId>,
}

/// How steps are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From gradients to values.
    pub optimizer: optimize::Settings,
    /// Share of an average of all values that stays at each step, if there shall be one.
    pub average: Option<f32>,
    /// How the graph is planned.
    pub plan: Options,
}

/// Where a parameter and its gradient are in the plan.
#[derive(Debug, Clone, Copy)]
struct Ports {
    input: usize,
    gradient: usize,
}

/// A network that is being trained: a session over its forward and backward pass, and the optimizer's state.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    session: Session,
    data: Vec<usize>,
    ports: Vec<Ports>,
    outputs: usize,
    running: Vec<Vec<f32>>,
    optimizer: Optimizer,
    average: Option<Average>,
}

/// State of a [`Trainer`]; with it and the same batches another one comes to the same values.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Parameters and running statistics.
    pub values: Values,
    /// Their averages with the number of updates.
    pub average: Option<(u64, Values)>,
    /// Steps of the optimizer.
    pub steps: u64,
    /// The vectors the optimizer keeps for each parameter.
    pub optimizer: Vec<Vec<Vec<f32>>>,
}

impl Trainer {
    /// Differentiates, plans, and puts the parameters where the session reads them. If the plan would need more memory than it
    /// may, cheap values are computed again in the backward pass instead of being kept.
    ///
    /// # Errors
    /// If an op on the way from a parameter to the loss has no gradient, the plan needs too much memory, or a setting is out
    /// of range.
    pub fn new(
        mut model: Model,
        objective: &Objective,
        settings: &Settings,
        pool: &Arc<Pool>,
    ) -> Result<Trainer, TrainError> {
        let wrt: Vec<ValueId> = model.parameters.iter().map(|p| p.input).collect();
        let network = model.graph.outputs.clone();
        let outputs = network.len();
        model.graph.outputs.extend(model.statistics.iter().map(|s| s.batch));
        let training = |recompute: bool| {
            let with = differentiate_with(&model.graph, objective.loss, &wrt, BackwardOptions { recompute })?;
            let mut graph = with.graph;
            graph.outputs.clear();
            graph.outputs.push(objective.loss);
            graph.outputs.extend(&network);
            graph.outputs.extend(model.statistics.iter().map(|s| s.batch));
            let first = graph.outputs.len();
            graph.outputs.extend(&with.gradients);
            let shapes: Option<Vec<Vec<usize>>> = graph.inputs.iter().map(|id| graph.ty(*id).known_shape()).collect();
            let options = Options { input_shapes: shapes, threads: pool.threads(), ..settings.plan.clone() };
            let plan = Plan::new(&graph, &options)?;
            Ok((graph, first, plan))
        };
        // What does not fit into memory may fit if less is kept.
        let (graph, first, plan) = match training(false) {
            Err(TrainError::Engine(EngineError::Memory { .. })) => training(true)?,
            other => other?,
        };
        let position = |id: ValueId| {
            graph.inputs.iter().position(|i| *i == id).ok_or_else(|| {
                let name = &graph.value(id).name;
                TrainError::invalid(format!("`{name}` is no input of the training graph"))
            })
        };
        let ports = (wrt.iter().enumerate())
            .map(|(i, id)| Ok(Ports { input: position(*id)?, gradient: first + i }))
            .collect::<Result<Vec<_>, TrainError>>()?;
        let others = |id: &&ValueId| !wrt.contains(id) && !objective.inputs.contains(id);
        let mut data: Vec<usize> =
            graph.inputs.iter().filter(others).map(|id| position(*id)).collect::<Result<_, _>>()?;
        for id in &objective.inputs {
            data.push(position(*id)?);
        }
        let session = Session::with_pool(Arc::new(plan), pool.clone());
        let optimizer = Optimizer::new(&settings.optimizer, &model.parameters)?;
        let average = settings.average.map(|d| Average::new(d, model.values())).transpose()?;
        let running = model.statistics.iter().map(|s| s.running.clone()).collect();
        model.graph.outputs = network;
        let mut trainer = Trainer { model, session, data, ports, outputs, running, optimizer, average };
        let values = trainer.model.values();
        trainer.put(&values)?;
        Ok(trainer)
    }

    /// The network in training form.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The plan of forward and backward pass.
    pub fn plan(&self) -> &Plan {
        self.session.plan()
    }

    /// The plan and the network in training form; everything else that training took is given back.
    pub fn into_parts(self) -> (Arc<Plan>, Model) {
        (self.session.plan().clone(), self.model)
    }

    /// The session that runs it, for profiles.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Bytes that training takes beyond the constants of the plan: activations, gradients, parameters, scratch, what the
    /// optimizer keeps, and the averages.
    pub fn memory(&self) -> usize {
        let average = self.average.as_ref().map_or(0, |_| self.model.trained() * size_of::<f32>());
        self.plan().peak_memory() + self.optimizer.bytes() + average
    }

    /// One step: the inputs of the network, then those of the objective. Gives the loss before the update.
    ///
    /// # Errors
    /// If an input does not fit, or the loss is no finite number.
    pub fn step(&mut self, inputs: &[&Tensor], rate: f32) -> Result<f32, TrainError> {
        let loss = self.run(inputs)?;
        if !loss.is_finite() {
            let step = self.optimizer.steps() + 1;
            return Err(TrainError::invalid(format!(
                "the loss became {loss} at step {step}; lower the learning rate, warm up for longer, or clip gradients"
            )));
        }
        self.update(rate)?;
        Ok(loss)
    }

    /// Forward and backward pass alone; gives the loss.
    ///
    /// # Errors
    /// If an input does not fit.
    pub fn run(&mut self, inputs: &[&Tensor]) -> Result<f32, TrainError> {
        if inputs.len() != self.data.len() {
            let (want, got) = (self.data.len(), inputs.len());
            return Err(TrainError::invalid(format!("a step takes {want} inputs, {got} were given")));
        }
        for (port, tensor) in self.data.iter().zip(inputs) {
            let bytes = self.session.input_mut(*port)?;
            if bytes.len() != tensor.bytes().len() {
                let (want, shape) = (bytes.len(), tensor.shape());
                return Err(TrainError::invalid(format!("an input of {want} bytes was given {shape:?}")));
            }
            bytes.copy_from_slice(tensor.bytes());
        }
        self.session.run_into()?;
        Ok(floats(self.session.output(0)?)[0])
    }

    /// Makes weights that shall become sparse as sparse as they shall be at a share `at` of the run.
    ///
    /// # Errors
    /// If a parameter is not where the plan says.
    pub fn prune(&mut self, at: f32) -> Result<(), TrainError> {
        for (i, ports) in self.ports.iter().enumerate() {
            let value = bytemuck::cast_slice_mut(self.session.input_mut(ports.input)?);
            let zeros = self.optimizer.prune(i, at, value);
            if let Some(average) = &mut self.average {
                average.zero(i, zeros);
            }
        }
        Ok(())
    }

    fn update(&mut self, rate: f32) -> Result<(), TrainError> {
        let statistics = 1 + self.outputs;
        for (i, statistic) in self.model.statistics.iter().enumerate() {
            let batch = floats(self.session.output(statistics + i)?);
            for (running, new) in self.running[i].iter_mut().zip(batch) {
                *running += (1.0 - statistic.momentum) * (new - *running);
            }
        }
        let mut gradients = Vec::with_capacity(self.ports.len());
        for ports in &self.ports {
            gradients.push(floats(self.session.output(ports.gradient)?));
        }
        let factor = self.optimizer.begin(gradients.into_iter());
        let share = self.average.as_mut().map(Average::begin);
        for (i, ports) in self.ports.iter().enumerate() {
            let weights = match self.model.export.limited_by(i) {
                Some(of) => floats(self.session.input_mut(self.ports[of].input)?).to_vec(),
                None => vec![],
            };
            let (value, gradient) = self.session.update(ports.input, ports.gradient)?;
            let value = bytemuck::cast_slice_mut(value);
            self.optimizer.update(i, rate, factor, value, floats(gradient));
            self.model.export.constrain(i, value, &weights);
            if let (Some(average), Some(share)) = (&mut self.average, share) {
                average.parameter(i, share, value);
            }
        }
        if let (Some(average), Some(share)) = (&mut self.average, share) {
            self.running.iter().enumerate().for_each(|(i, value)| average.statistic(i, share, value));
        }
        Ok(())
    }

    /// Output `i` of the network in the last run, f32.
    ///
    /// # Errors
    /// If there is no such output.
    pub fn output(&self, i: usize) -> Result<&[f32], TrainError> {
        Ok(floats(self.session.output(1 + i)?))
    }

    /// The gradient of parameter `i` in the last run.
    ///
    /// # Errors
    /// If there is no such parameter.
    pub fn gradient(&self, i: usize) -> Result<&[f32], TrainError> {
        let port = self.ports.get(i).ok_or_else(|| TrainError::invalid(format!("no parameter {i}")))?;
        Ok(floats(self.session.output(port.gradient)?))
    }

    /// The current values.
    ///
    /// # Errors
    /// None once a trainer is made.
    pub fn values(&mut self) -> Result<Values, TrainError> {
        let mut parameters = vec![];
        for ports in &self.ports {
            parameters.push(floats(self.session.input_mut(ports.input)?).to_vec());
        }
        Ok(Values { parameters, statistics: self.running.clone() })
    }

    /// The values that count: their averages if there are any, else the current ones.
    ///
    /// # Errors
    /// As [`Trainer::values`].
    pub fn best(&mut self) -> Result<Values, TrainError> {
        match &self.average {
            Some(average) => Ok(average.values().clone()),
            None => self.values(),
        }
    }

    fn put(&mut self, values: &Values) -> Result<(), TrainError> {
        for (ports, value) in self.ports.iter().zip(&values.parameters) {
            let bytes = self.session.input_mut(ports.input)?;
            if bytes.len() != size_of_val(&value[..]) {
                return Err(TrainError::invalid("the values are of other parameters"));
            }
            bytes.copy_from_slice(bytemuck::cast_slice(value));
        }
        self.running.clone_from(&values.statistics);
        Ok(())
    }

    /// These values with statistics that are means over batches rather than running averages; the inputs of each batch are as
    /// for [`Trainer::step`]. What is trained stays as it is.
    ///
    /// # Errors
    /// If an input or the values do not fit.
    pub fn with_statistics(
        &mut self,
        mut values: Values,
        batches: impl Iterator<Item = Result<Vec<Tensor>, TrainError>>,
    ) -> Result<Values, TrainError> {
        let current = self.values()?;
        self.put(&values)?;
        let mut sums: Vec<Vec<f64>> = values.statistics.iter().map(|v| vec![0.0; v.len()]).collect();
        let mut count = 0u32;
        for batch in batches {
            self.run(&batch?.iter().collect::<Vec<_>>())?;
            for (i, sums) in sums.iter_mut().enumerate() {
                let found = floats(self.session.output(1 + self.outputs + i)?);
                sums.iter_mut().zip(found).for_each(|(sum, v)| *sum += f64::from(*v));
            }
            count += 1;
        }
        self.put(&current)?;
        if count > 0 {
            let mean = |sums: &Vec<f64>| sums.iter().map(|sum| (sum / f64::from(count)) as f32).collect();
            values.statistics = sums.iter().map(mean).collect();
        }
        Ok(values)
    }

    /// Everything that later steps depend on.
    ///
    /// # Errors
    /// As [`Trainer::values`].
    pub fn state(&mut self) -> Result<State, TrainError> {
        Ok(State {
            values: self.values()?,
            average: self.average.as_ref().map(|a| (a.updates(), a.values().clone())),
            steps: self.optimizer.steps(),
            optimizer: self.optimizer.state().to_vec(),
        })
    }

    /// Takes up where another trainer was.
    ///
    /// # Errors
    /// If the state is one of other parameters.
    pub fn resume(&mut self, state: State) -> Result<(), TrainError> {
        let sizes = |v: &Values| {
            let of = |v: &[Vec<f32>]| v.iter().map(Vec::len).collect::<Vec<_>>();
            (of(&v.parameters), of(&v.statistics))
        };
        let fits = sizes(&state.values) == sizes(&self.model.values())
            && state.average.as_ref().is_none_or(|(_, v)| sizes(v) == sizes(&state.values))
            && state.average.is_some() == self.average.is_some();
        if !fits {
            return Err(TrainError::invalid("the checkpoint is of another network, or of other settings"));
        }
        self.put(&state.values)?;
        self.optimizer.resume(state.steps, state.optimizer, &state.values.parameters)?;
        if let (Some(average), Some((updates, values))) = (&mut self.average, state.average) {
            average.resume(updates, values);
        }
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> &[f32] {
    bytemuck::cast_slice(bytes)
}
