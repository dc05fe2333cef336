//! What flows into a block for every sample of the calibration data.

use std::sync::Arc;

use qing_engine::{Options, Plan, Pool, Session};
use qing_graph::{Graph, OpError, Tensor};

use crate::LightenError;

/// Values of a block's input that are run at a time.
const VALUES_AT_A_TIME: usize = 1 << 18;

/// One value for all samples, f32.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    /// Shape of one sample's, without the axis of samples.
    pub shape: Vec<usize>,
    /// Samples.
    pub count: usize,
    /// One after the other.
    pub values: Vec<f32>,
}

impl Cache {
    /// The inputs of a network.
    ///
    /// # Errors
    /// If there are none, or they are not of one shape.
    pub(super) fn of(batches: &[Vec<Tensor>]) -> Result<Cache, LightenError> {
        let refuse = |what: String| LightenError::Calibration(what);
        let first = batches.first().and_then(|b| b.first()).filter(|t| t.rank() > 0);
        let first = first.ok_or_else(|| refuse("reconstruction learns from data, and there is none".into()))?;
        let mut cache = Cache { shape: first.shape()[1..].to_vec(), count: 0, values: vec![] };
        for tensor in batches.iter().filter_map(|b| b.first()) {
            if tensor.shape().get(1..) != Some(&cache.shape[..]) {
                let (want, got) = (&cache.shape, tensor.shape());
                return Err(refuse(format!("a batch of shape {got:?} among samples of {want:?}")));
            }
            cache.count += tensor.shape()[0];
            cache.values.extend(tensor.to_f32s());
        }
        if cache.values.is_empty() {
            return Err(refuse("reconstruction learns from data, and there is none".into()));
        }
        Ok(cache)
    }

    /// Values of one sample.
    pub(super) fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// Samples that are run at a time: few of large ones, so that what lies between the layers stays in the cache.
    pub(super) fn batch_that_fits(&self) -> usize {
        (VALUES_AT_A_TIME / self.width().max(1)).clamp(1, 32).min(self.count)
    }

    /// The shape of a batch.
    pub(super) fn batch_shape(&self, batch: usize) -> Vec<usize> {
        [&[batch], &self.shape[..]].concat()
    }

    /// Sample `i`.
    pub(super) fn sample(&self, i: usize) -> &[f32] {
        &self.values[i * self.width()..(i + 1) * self.width()]
    }

    /// Mean square.
    pub(super) fn power(&self) -> f64 {
        self.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / self.values.len().max(1) as f64
    }

    /// Mean squared difference.
    pub(super) fn error(&self, other: &Cache) -> f64 {
        let all = self.values.iter().zip(&other.values).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        all / self.values.len().max(1) as f64
    }
}

/// Runs a block over all samples.
pub(super) struct Runner {
    session: Session,
    shape: Vec<usize>,
}

impl Runner {
    /// Plans `graph` for inputs of `shape`, the first axis being the batch.
    ///
    /// # Errors
    /// If it cannot be planned.
    pub(super) fn new(graph: &Graph, shape: &[usize], pool: &Arc<Pool>) -> Result<Runner, LightenError> {
        let options = Options { input_shapes: Some(vec![shape.to_vec()]), ..Options::threads(pool.threads()) };
        let plan = Arc::new(Plan::new(graph, &options)?);
        Ok(Runner { session: Session::with_pool(plan, pool.clone()), shape: shape.to_vec() })
    }

    /// What the block gives for every sample.
    ///
    /// # Errors
    /// If an op fails.
    pub(super) fn run(&mut self, inputs: &Cache) -> Result<Cache, LightenError> {
        let (batch, width) = (self.shape[0], inputs.width());
        let mut made = Cache { shape: vec![], count: inputs.count, values: vec![] };
        let mut done = 0;
        while done < inputs.count {
            // The last batch overlaps the one before.
            let from = done.min(inputs.count - batch);
            let values = inputs.values[from * width..(from + batch) * width].to_vec();
            let tensor = Tensor::new(&self.shape, values).map_err(OpError::from)?;
            let outputs = self.session.run(&[tensor])?;
            let output = outputs.first().ok_or_else(|| LightenError::Option("a block without a result".into()))?;
            if output.shape().first() != Some(&batch) {
                return Err(LightenError::Option(format!(
                    "a block of {batch} samples gives {:?}; reconstruction is for networks that keep samples apart along \
                     the first axis",
                    output.shape()
                )));
            }
            made.shape = output.shape()[1..].to_vec();
            let out = output.to_f32s();
            made.values.extend(&out[(done - from) * made.width()..]);
            done = from + batch;
        }
        Ok(made)
    }
}
