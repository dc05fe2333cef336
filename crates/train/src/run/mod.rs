//! What a recipe says, done: from files to files.

mod prepare;
mod soft_labels;
mod teacher;
mod update;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use qing_data::Preprocess;
use qing_engine::Pool;
use qing_graph::{Graph, Tensor};

pub use prepare::{Prepared, prepare, start};
pub use teacher::Teacher;

use crate::{
    TrainError,
    checkpoint::Checkpoint,
    curves::{self, Row},
    data::{Batch, Loader},
    evaluate::{self, Measured},
    finetune::Candidate,
    parameters::Values,
    recipe::{Recipe, file},
    trainer::Trainer,
};

/// Steps after which weights that become sparse are pruned again.
const PRUNE_EVERY: u64 = 10;

/// How a run is carried out; nothing here changes what comes of it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The recipe's folder: the paths it names are seen from there.
    pub folder: PathBuf,
    /// Where files are written.
    pub output: PathBuf,
    /// Threads.
    pub threads: usize,
    /// Whether to go on from the checkpoint.
    pub resume: bool,
    /// Steps between checkpoints, besides those after each epoch.
    pub checkpoint_steps: Option<usize>,
    /// Whether the test data is read.
    pub test: bool,
}

/// What happens in a run, as it happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// Before the first step.
    Start {
        /// Trained values.
        parameters: usize,
        /// Steps of an epoch.
        steps: usize,
        /// Epochs.
        epochs: u32,
        /// The epoch and step the run goes on from.
        from: (u32, usize),
        /// Bytes of activations, gradients, parameters and the optimizer's state.
        memory: usize,
        /// Samples in a batch.
        batch: usize,
        /// What could be updated within a budget of memory, and what is; empty where there is none.
        candidates: Vec<Candidate>,
        /// Ops that run by reference semantics for want of a kernel, and so slowly, with the number of their nodes.
        slow: BTreeMap<String, usize>,
    },
    /// After every step.
    Step {
        /// Epochs finished.
        epoch: u32,
        /// Steps of this epoch finished.
        step: usize,
        /// Mean loss of this epoch so far.
        loss: f64,
        /// Share of this epoch's samples classified correctly.
        accuracy: f64,
        /// Samples a second, lately.
        speed: f64,
        /// Seconds until the end, by this speed.
        left: f64,
    },
    /// After every epoch.
    Epoch(Row),
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The trained network.
    pub graph: Graph,
    /// What was measured after each epoch.
    pub history: Vec<Row>,
    /// What the test data says, read once.
    pub test: Option<Measured>,
    /// Seconds trained.
    pub seconds: f64,
    /// Bytes of activations, gradients, parameters and the optimizer's state.
    pub memory: usize,
    /// The files written.
    pub files: Vec<PathBuf>,
}

/// Trains as a recipe says; `watch` is told what happens, and ends the run (resumably) by giving `false`.
///
/// # Errors
/// If recipe, network and data do not fit together, a file cannot be read or written, the loss is no finite number, or
/// `watch` ended the run.
pub fn train(recipe: &Recipe, options: &Options, watch: &mut dyn FnMut(&Event) -> bool) -> Result<Outcome, TrainError> {
    let pool = Arc::new(Pool::new(options.threads.max(1)));
    let prepared = prepare(recipe, &options.folder, &pool)?;
    train_prepared(recipe, prepared, options, &pool, watch)
}

/// [`train`] of what was prepared otherwise: fine-tuning.
///
/// # Errors
/// As [`train`].
pub fn train_prepared(
    recipe: &Recipe,
    prepared: Prepared,
    options: &Options,
    pool: &Arc<Pool>,
    watch: &mut dyn FnMut(&Event) -> bool,
) -> Result<Outcome, TrainError> {
    let mut run = Run::new(recipe, prepared, options, pool)?;
    if options.resume {
        run.resume()?;
    }
    let memory = run.trainer.memory();
    let mut slow = BTreeMap::new();
    for (_, op) in run.trainer.plan().reference_nodes() {
        *slow.entry(op.to_string()).or_insert(0) += 1;
    }
    let start = Event::Start {
        parameters: run.trainer.model().trained(),
        steps: run.prepared.source.batches(),
        epochs: recipe.schedule.epochs,
        from: (run.epoch, run.step),
        memory,
        batch: run.prepared.source.batch,
        candidates: run.prepared.candidates.clone(),
        slow,
    };
    let mut go_on = watch(&start);
    while go_on && run.epoch < recipe.schedule.epochs {
        go_on = run.epoch(watch)?;
    }
    if !go_on {
        run.save()?;
        let at = run.checkpoint.display();
        return Err(TrainError::invalid(format!("stopped; `--resume` goes on from {at}")));
    }
    run.finish(memory)
}

/// A run under way.
struct Run<'a> {
    recipe: &'a Recipe,
    options: &'a Options,
    pool: &'a Arc<Pool>,
    prepared: Prepared,
    trainer: Trainer,
    schedule: crate::Schedule,
    text: String,
    checkpoint: PathBuf,
    epoch: u32,
    step: usize,
    partial: [f64; 3],
    history: Vec<Row>,
    /// Seconds of earlier processes.
    before: f64,
    start: Instant,
}

impl<'a> Run<'a> {
    fn new(
        recipe: &'a Recipe,
        mut prepared: Prepared,
        options: &'a Options,
        pool: &'a Arc<Pool>,
    ) -> Result<Run<'a>, TrainError> {
        // A batch that had to be smaller takes smaller steps (Goyal et al. 2017).
        let share = prepared.source.batch as f32 / recipe.data.batch as f32;
        let schedule = recipe.schedule.schedule(recipe.optimizer.rate * share)?;
        let model = prepared.model.take().ok_or_else(|| TrainError::invalid("a prepared run is used once"))?;
        let settings = crate::trainer::Settings {
            optimizer: recipe.optimizer.settings()?,
            average: recipe.optimizer.average,
            plan: prepared.plan.clone(),
        };
        let trainer = Trainer::new(model, &prepared.objective, &settings, pool)?;
        Ok(Run {
            recipe,
            options,
            pool,
            prepared,
            trainer,
            schedule,
            text: recipe.to_toml(),
            checkpoint: file(&options.output, &recipe.name, "checkpoint.npz"),
            epoch: 0,
            step: 0,
            partial: [0.0; 3],
            history: vec![],
            before: 0.0,
            start: Instant::now(),
        })
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    fn resume(&mut self) -> Result<(), TrainError> {
        let found = Checkpoint::read(&self.checkpoint, self.trainer.model())?;
        if found.recipe != self.text {
            let changed = (found.recipe.lines().zip(self.text.lines())).find(|(a, b)| a != b);
            let (old, new) = changed.unwrap_or(("", "another length"));
            return Err(TrainError::invalid(format!(
                "{}: the recipe has changed since (`{old}` has become `{new}`); start anew without --resume",
                self.checkpoint.display()
            )));
        }
        (self.epoch, self.step, self.partial) = (found.epoch, found.step, found.partial);
        (self.before, self.history) = (found.seconds, found.history);
        self.trainer.resume(found.state)
    }

    fn save(&mut self) -> Result<(), TrainError> {
        if let Some(teacher) = &mut self.prepared.teacher {
            teacher.save()?;
        }
        let checkpoint = Checkpoint {
            recipe: self.text.clone(),
            epoch: self.epoch,
            step: self.step,
            partial: self.partial,
            seconds: self.seconds(),
            history: self.history.clone(),
            state: self.trainer.state()?,
        };
        checkpoint.write(&self.checkpoint, self.trainer.model())
    }

    /// What is left of an epoch; false if `watch` wants to end.
    fn epoch(&mut self, watch: &mut dyn FnMut(&Event) -> bool) -> Result<bool, TrainError> {
        let steps = self.prepared.source.batches();
        let total = steps as u64 * u64::from(self.recipe.schedule.epochs);
        let loader = Loader::start(&self.prepared.source, self.epoch, self.step);
        let (mut last, mut pace) = (Instant::now(), None);
        let mut rate = 0.0;
        for batch in loader {
            let batch = batch?;
            let done = u64::from(self.epoch) * steps as u64 + self.step as u64;
            rate = self.schedule.rate(done, total);
            if done.is_multiple_of(PRUNE_EVERY) {
                self.trainer.prune(done as f32 / total as f32)?;
            }
            let loss = self.one(&batch, rate)?;
            self.step += 1;
            self.partial[0] += f64::from(loss);
            self.partial[2] += batch.labels.len() as f64;
            let took = last.elapsed().as_secs_f64();
            last = Instant::now();
            let pace = pace.insert(pace.map_or(took, |p: f64| 0.95 * p + 0.05 * took));
            let event = Event::Step {
                epoch: self.epoch,
                step: self.step,
                loss: self.partial[0] / self.step as f64,
                accuracy: self.partial[1] / self.partial[2],
                speed: batch.labels.len() as f64 / pace.max(1e-9),
                left: *pace * (total - done - 1) as f64,
            };
            if !watch(&event) {
                return Ok(false);
            }
            if self.options.checkpoint_steps.is_some_and(|n| n > 0 && self.step.is_multiple_of(n)) && self.step < steps
            {
                self.save()?;
            }
        }
        if self.step < steps {
            return Err(TrainError::invalid("the data ended before the epoch did"));
        }
        let mut row = Row {
            epoch: f64::from(self.epoch + 1),
            rate: rate.into(),
            loss: self.partial[0] / steps as f64,
            accuracy: self.partial[1] / self.partial[2].max(1.0),
            ..Row::default()
        };
        if let Some(held) = self.prepared.validate.clone() {
            let graph = self.exported()?;
            let feed = &self.prepared.source.feed;
            let measured = evaluate::measure(&graph, &held, feed, self.prepared.source.batch, self.pool)?;
            (row.held_loss, row.held_accuracy) = (measured.loss, measured.accuracy());
        }
        row.seconds = self.seconds();
        self.history.push(row);
        (self.epoch, self.step, self.partial) = (self.epoch + 1, 0, [0.0; 3]);
        self.save()?;
        curves::write(&self.options.output, &self.recipe.name, &self.history)?;
        Ok(watch(&Event::Epoch(row)))
    }

    fn one(&mut self, batch: &Batch, rate: f32) -> Result<f32, TrainError> {
        let taught: Option<Tensor> = match &mut self.prepared.teacher {
            Some(teacher) => Some(teacher.logits(batch)?),
            None => None,
        };
        let mut inputs = vec![&batch.input, &batch.targets];
        inputs.extend(&taught);
        let loss = self.trainer.step(&inputs, rate)?;
        let logits = self.trainer.output(0)?;
        let classes = logits.len() / batch.labels.len();
        // Where there is no label, the teacher says what is right.
        let said = taught.as_ref().map(Tensor::to_f32s);
        let right = |i: usize| {
            batch.labels[i].or_else(|| said.as_ref().map(|said| evaluate::best(&said[i * classes..][..classes])))
        };
        let agree = logits.chunks_exact(classes).enumerate().filter(|(i, row)| right(*i) == Some(evaluate::best(row)));
        let agree = agree.count();
        self.partial[1] += agree as f64;
        Ok(loss)
    }

    /// The network as it stands, with what it needs to know of its input.
    fn exported(&mut self) -> Result<Graph, TrainError> {
        let values = self.trainer.best()?;
        self.described(&values)
    }

    fn described(&self, values: &Values) -> Result<Graph, TrainError> {
        let mut graph = self.trainer.model().exported(values)?;
        graph.name.clone_from(&self.recipe.name);
        graph.metadata.extend(self.prepared.metadata.clone());
        Ok(graph)
    }

    /// The network in the end: with statistics of many batches, if it was quantized.
    fn last(&mut self) -> Result<Graph, TrainError> {
        let mut values = self.trainer.best()?;
        let batches = self.recipe.quantize.as_ref().map_or(0, |q| q.statistics);
        if batches > 0 && !values.statistics.is_empty() {
            let source = &self.prepared.source;
            // What a teacher says does not change them.
            let zeros = Tensor::new::<f32>(&[source.batch, source.classes], vec![0.0; source.batch * source.classes])?;
            let taught = self.prepared.teacher.as_ref().map(|_| zeros);
            let inputs = Loader::start(source, self.epoch, 0).take(batches).map(|batch| {
                let batch = batch?;
                Ok([batch.input, batch.targets].into_iter().chain(taught.clone()).collect())
            });
            values = self.trainer.with_statistics(values, inputs)?;
        }
        self.described(&values)
    }

    fn finish(mut self, memory: usize) -> Result<Outcome, TrainError> {
        let graph = self.last()?;
        let seconds = self.seconds();
        let (output, name) = (&self.options.output, &self.recipe.name);
        let (onnx, qing) = (file(output, name, "onnx"), file(output, name, "qing"));
        // Integers of few bits are for the engine alone.
        let mut files = vec![];
        if self.recipe.quantize.is_none() {
            qing_formats::onnx::write(&graph, &onnx, &qing_formats::onnx::WriteOptions::default())?;
            files.push(onnx);
        }
        qing_formats::qing::write(&graph, &qing)?;
        // What is measured is what was written.
        let written = qing_formats::read(&qing)?;
        let test = match self.prepared.test.as_ref().filter(|_| self.options.test) {
            Some(data) => {
                let feed = &self.prepared.source.feed;
                Some(evaluate::measure(&written, data, feed, self.recipe.data.batch, self.pool)?)
            }
            None => None,
        };
        files.push(qing);
        if !self.history.is_empty() {
            files.extend(["csv", "svg"].map(|e| file(output, name, e)));
        }
        Ok(Outcome { graph, history: self.history, test, seconds, memory, files })
    }
}

/// How a network's images are prepared, by its metadata.
pub(crate) fn preprocess_of(graph: &Graph) -> Result<Option<Preprocess>, TrainError> {
    match graph.inputs.first() {
        Some(id) => Ok(Preprocess::from_metadata(&graph.metadata, graph.ty(*id))?),
        None => Ok(None),
    }
}

/// The folder a file is in.
pub fn folder_of(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}
