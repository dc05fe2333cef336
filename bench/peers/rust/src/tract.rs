//! tract: networks are read from ONNX, optimized, and run by its thread pool.

mod measure;

use anyhow::Result;
use measure::{Input, Job};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

fn main() -> Result<()> {
    let job = Job::from_arguments()?;
    if job.threads > 1 {
        set_default_executor(Executor::multithread(job.threads));
    }
    let mut inputs = TVec::<TValue>::new();
    for input in &job.inputs {
        let tensor = match input {
            Input::F32(shape, values) => Tensor::from_shape(shape, values)?,
            Input::I64(shape, values) => Tensor::from_shape(shape, values)?,
        };
        inputs.push(tensor.into_tvalue());
    }
    job.measure(
        |job| {
            let plan = tract_onnx::onnx().model_for_path(&job.model)?.into_optimized()?.into_runnable()?;
            Ok(move || Ok(plan.run(inputs.clone())?.remove(0)))
        },
        |out| Ok(out.cast_to::<f32>()?.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()),
    )
}
