//! rten: networks are read from ONNX and run by a pool of its own.

mod measure;

use std::sync::Arc;

use anyhow::{Context, Result};
use measure::{Input, Job};
use rten::{ModelOptions, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::{AsView, Tensor};

fn main() -> Result<()> {
    let job = Job::from_arguments()?;
    let mut values: Vec<Value> = vec![];
    for input in &job.inputs {
        values.push(match input {
            Input::F32(shape, data) => Tensor::from_data(shape.as_slice(), data.clone()).into(),
            // rten's integers have 32 bits; it reads int64 inputs as those.
            Input::I64(shape, data) => Tensor::from_data(shape.as_slice(), data.iter().map(|v| *v as i32).collect::<Vec<i32>>()).into(),
        });
    }
    let options = RunOptions::default().with_thread_pool(Some(Arc::new(ThreadPool::with_num_threads(job.threads))));
    job.measure(
        |job| {
            let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&job.model)?;
            let ids = model.input_ids().to_vec();
            let output = *model.output_ids().first().context("no output")?;
            Ok(move || {
                let inputs = ids.iter().zip(&values).map(|(id, value)| (*id, ValueOrView::from(value))).collect();
                Ok(model.run(inputs, &[output], Some(options.clone()))?.remove(0))
            })
        },
        |out: Value| {
            let tensor: Tensor<f32> = out.try_into()?;
            Ok(tensor.to_vec())
        },
    )
}
