//! `qing run`: what a network says of some inputs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use qing::{
    Element, Graph, Tensor,
    data::{Item, class_names, npz, zoo},
};
use serde_json::{Value, json};

use crate::{
    accuracy,
    feeds::{Feeds, PreprocessArgs},
    model::{self, Model},
    output, picture, process,
    runner::Runner,
    table::Table,
};

/// Run a network on images (one run each) or arrays
///
/// Images are preprocessed. An .npy array is the next input of the network (or one sample of its only input); an .npz
/// archive gives inputs by name. Without INPUT, zoo:NAME runs on one of its own test images.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Images (JPEG, PNG, WebP), .npy arrays or .npz archives
    #[arg(value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Classes shown for each sample, best first; 0 for none
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Write all outputs, as the network gives them, to this .npz file
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Multiply floats as bfloat16 where this processor can: faster, results about half a percent off
    #[arg(long)]
    bf16: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// One run: what it is called, and its inputs.
pub(crate) struct Job {
    pub name: String,
    pub inputs: Vec<Tensor>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    let jobs = match (args.inputs.is_empty(), model.entry) {
        (false, _) => jobs(&args.inputs, &feeds)?,
        (true, Some(entry)) => vec![example(entry, &feeds, args.json)?],
        (true, None) => bail!("INPUT is needed: images, .npy or .npz files to run {} on", args.model),
    };
    let mut runner = Runner::of(&model, args.threads.unwrap_or_else(process::cores)).bf16(args.bf16);
    let mut results = vec![];
    let mut arrays = vec![];
    for (i, job) in jobs.iter().enumerate() {
        let outputs = runner.run(&job.inputs).with_context(|| job.name.clone())?;
        let outputs: Vec<(String, Tensor)> =
            model.graph.outputs.iter().map(|id| model.graph.value(*id).name.clone()).zip(outputs).collect();
        if args.json {
            results.push(as_json(job, &outputs, &model.graph, args.top));
        } else {
            show(job, &outputs, &model, args.top)?;
        }
        // Several runs: the second one's outputs are called `NAME.1`, and so on.
        let suffix = if i == 0 { String::new() } else { format!(".{i}") };
        arrays.extend(outputs.into_iter().map(|(name, t)| (format!("{name}{suffix}"), t)));
    }
    if args.json {
        output::json(&json!({"model": args.model, "runs": results}))?;
    }
    if let Some(path) = &args.output {
        npz::write(path, &arrays)?;
    }
    Ok(())
}

/// Files as runs: every image is one; arrays fill the inputs in order.
pub(crate) fn jobs(paths: &[PathBuf], feeds: &Feeds) -> Result<Vec<Job>> {
    let mut jobs = vec![];
    let mut waiting: Vec<(Option<String>, PathBuf, Tensor)> = vec![];
    for path in paths {
        if !path.is_file() {
            bail!("{}: no such file", path.display());
        }
        for (name, item) in Item::read(path)? {
            match item {
                Item::Array(array) => waiting.push((name, path.clone(), array)),
                image @ Item::Image(_) => {
                    feeds.warn_if_guessed(&image);
                    let input = feeds.only()?.batch(vec![image]).with_context(|| path.display().to_string())?;
                    jobs.push(Job { name: path.display().to_string(), inputs: vec![input] });
                }
            }
        }
    }
    jobs.extend(array_jobs(waiting, feeds)?);
    Ok(jobs)
}

fn array_jobs(mut waiting: Vec<(Option<String>, PathBuf, Tensor)>, feeds: &Feeds) -> Result<Vec<Job>> {
    let mut jobs = vec![];
    // By name where names are given, else in order.
    while !waiting.is_empty() {
        let path = waiting[0].1.display().to_string();
        let mut inputs = vec![];
        for feed in feeds.all() {
            let named = waiting.iter().position(|(name, ..)| name.as_deref() == Some(feed.name.as_str()));
            let Some(at) = named.or_else(|| (!waiting.is_empty()).then_some(0)) else {
                bail!("input `{}` ({}) of the model is not given", feed.name, feed.ty);
            };
            let (_, file, array) = waiting.remove(at);
            let input = match feed.whole(&array) {
                Ok(input) => input,
                // One sample without its batch axis.
                Err(error) => match feed.batch(vec![Item::Array(array)]) {
                    Ok(input) => input,
                    Err(_) => return Err(error).with_context(|| file.display().to_string()),
                },
            };
            inputs.push(input);
        }
        jobs.push(Job { name: path, inputs });
    }
    Ok(jobs)
}

/// A test image of an embedded network.
pub(crate) fn example(entry: &zoo::Entry, feeds: &Feeds, quiet: bool) -> Result<Job> {
    let test = (entry.test)()?;
    let item = test.item(0)?;
    if let (Item::Image(image), false) = (&item, quiet) {
        output::print(&picture::render(image))?;
    }
    let name = format!("test image 0 of zoo:{}", entry.name);
    Ok(Job { name, inputs: vec![feeds.only()?.batch(vec![item])?] })
}

/// Scores of one sample as reals, if an output looks like a classifier's.
fn scores(graph: &Graph, outputs: &[(String, Tensor)]) -> Option<Vec<f32>> {
    let (_, first) = outputs.first()?;
    let ty = graph.ty(*graph.outputs.first()?);
    let single = first.len() > 1 && first.shape().iter().filter(|n| **n != 1).count() == 1;
    let integers = matches!(first.element(), Element::I64 | Element::I32 | Element::Bool);
    if !single || integers {
        return None;
    }
    let values = first.to_f32s();
    Some(match ty.quant.as_ref().and_then(|q| q.as_per_tensor()) {
        Some((scale, zero)) => values.into_iter().map(|q| scale * (q - zero as f32)).collect(),
        None => values,
    })
}

fn label(names: &[String], class: usize) -> String {
    names.get(class).cloned().unwrap_or_default()
}

pub(crate) fn show(job: &Job, outputs: &[(String, Tensor)], model: &Model, top: usize) -> Result<()> {
    output::line(&job.name)?;
    match scores(&model.graph, outputs).filter(|_| top > 0) {
        Some(scores) => {
            let names = class_names(&model.graph.metadata);
            let mut table = Table::new(&[">class", "name", ">score"]);
            for (class, score) in accuracy::best(&scores, top) {
                table.row([class.to_string(), label(&names, class), format!("{score:.4}")]);
            }
            output::print(&table.render())
        }
        None => {
            let mut table = Table::new(&["output", "type", ">least", ">mean", ">most"]);
            for (name, tensor) in outputs {
                let v = tensor.to_f64s();
                let n = v.len().max(1) as f64;
                let (least, most) =
                    v.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(*x), b.max(*x)));
                let ty = format!("{}{:?}", tensor.element(), tensor.shape());
                let mean = v.iter().sum::<f64>() / n;
                table.row([name.clone(), ty, format!("{least:.4}"), format!("{mean:.4}"), format!("{most:.4}")]);
            }
            output::print(&table.render())
        }
    }
}

fn as_json(job: &Job, outputs: &[(String, Tensor)], graph: &Graph, top: usize) -> Value {
    let names = class_names(&graph.metadata);
    let best = scores(graph, outputs).map(|scores| {
        let best = accuracy::best(&scores, top).into_iter();
        best.map(|(class, score)| json!({"class": class, "name": names.get(class), "score": score})).collect::<Vec<_>>()
    });
    let outputs: Vec<Value> = outputs
        .iter()
        .map(|(name, t)| json!({"name": name, "element": t.element().name(), "shape": t.shape()}))
        .collect();
    json!({"input": job.name, "top": best, "outputs": outputs})
}

/// The predicted class of one sample, for `qing lighten`.
pub(crate) fn predict(runner: &mut Runner, input: Tensor) -> Result<Option<(usize, String)>> {
    let outputs = runner.run(&[input])?;
    let graph = runner.graph();
    let outputs: Vec<(String, Tensor)> = vec![(String::new(), outputs.into_iter().next().context("no output")?)];
    let Some(scores) = scores(graph, &outputs) else { return Ok(None) };
    let class = accuracy::best(&scores, 1)[0].0;
    Ok(Some((class, label(&class_names(&graph.metadata), class))))
}

/// True if a path has this extension.
pub(crate) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
