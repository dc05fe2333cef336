//! Which constants of a network are trained, and the way there and back.
//!
//! [`expose`] turns a network into the form it is trained in, a [`Model`]: concrete shapes, trainable constants as graph
//! inputs, batch normalization by the statistics of the batch. [`Export`] puts trained values back, so that what comes out
//! is the network that went in, with other numbers.

mod expose;
mod float;
mod slots;
mod strided;

use std::fmt;

use qing_graph::{Graph, ValueId};

pub use expose::{Exposure, Norm, expose};
pub(crate) use expose::{by_batch, concrete};

use crate::TrainError;

/// What a parameter does in its network; weight decay and learning rates go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A factor of sums: decays.
    Weight,
    /// Something added: does not decay.
    Bias,
    /// Scale or shift of a normalization: does not decay.
    Normalization,
    /// A learned step size, threshold or bound of a quantizer: does not decay.
    Scale,
}

impl Role {
    /// Its name in recipes and lists.
    pub fn name(self) -> &'static str {
        match self {
            Role::Weight => "weight",
            Role::Bias => "bias",
            Role::Normalization => "normalization",
            Role::Scale => "scale",
        }
    }
}

/// A trainable value: an f32 input of the training graph.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// The name of the constant it is in the network.
    pub name: String,
    /// The graph input that stands for it.
    pub input: ValueId,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values before training.
    pub value: Vec<f32>,
    /// What it does.
    pub role: Role,
}

/// A value of a batch, f32 `[channels]`, whose average over steps the network needs when it is no longer trained.
#[derive(Debug, Clone)]
pub struct Statistic {
    /// The name of the constant that it is in the network.
    pub name: String,
    /// The value of a batch, in the training graph.
    pub batch: ValueId,
    /// The average before training.
    pub running: Vec<f32>,
    /// Share of the old average in the new one.
    pub momentum: f32,
}

/// Values of all parameters and statistics of a [`Model`], in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// One for each parameter.
    pub parameters: Vec<Vec<f32>>,
    /// One for each statistic.
    pub statistics: Vec<Vec<f32>>,
}

/// A network in the form it is trained in.
pub struct Model {
    /// Its inputs: the network's, in their order, then one for each parameter. Its outputs: the network's. All shapes are
    /// concrete.
    pub graph: Graph,
    /// What is trained.
    pub parameters: Vec<Parameter>,
    /// What is averaged.
    pub statistics: Vec<Statistic>,
    /// The way back.
    pub export: Box<dyn Export>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}, {} parameters)", self.graph.name, self.parameters.len())
    }
}

impl Model {
    /// The values before training.
    pub fn values(&self) -> Values {
        Values {
            parameters: self.parameters.iter().map(|p| p.value.clone()).collect(),
            statistics: self.statistics.iter().map(|s| s.running.clone()).collect(),
        }
    }

    /// The network with these values.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn exported(&self, values: &Values) -> Result<Graph, TrainError> {
        self.export.export(self, values)
    }

    /// Number of trained values.
    pub fn trained(&self) -> usize {
        self.parameters.iter().map(|p| p.value.len()).sum()
    }
}

/// How trained values become a network again.
pub trait Export: Send + Sync {
    /// The network with these values, in the types it will be run in.
    ///
    /// # Errors
    /// If they do not fit.
    fn export(&self, model: &Model, values: &Values) -> Result<Graph, TrainError>;

    /// The network with these values in the form that computes what [`export`](Export::export) will, to the bit, to be trained
    /// further in batches of `batch`; `None` if there is no other form.
    ///
    /// # Errors
    /// If the values do not fit, or an op has no such form.
    fn settled(&self, batch: usize, values: &Values) -> Result<Option<Model>, TrainError> {
        let _ = (batch, values);
        Ok(None)
    }

    /// The weights whose values limit parameter `index`, their scales: a parameter before it.
    fn limited_by(&self, index: usize) -> Option<usize> {
        let _ = index;
        None
    }

    /// Brings parameter `index` back into what is allowed, after an update: scales stay positive, and fit the `weights` that limit them.
    fn constrain(&self, index: usize, value: &mut [f32], weights: &[f32]) {
        let _ = (index, value, weights);
    }
}
