//! `qing finetune`: a trained network goes on learning, on other data, or to be updated where memory is scarce.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use qing::train::{
    recipe::Recipe,
    run::{self, Options},
};

use crate::{
    process,
    train::{Watcher, show},
};

/// Train a network further: on other data, for fewer bits, with a teacher, within a budget of memory
///
/// Writes NAME.onnx, NAME.qing, the curves and a checkpoint, and the recipe it made of the flags, NAME.toml: `qing train` on it does
/// the same again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME, not quantized
    #[arg(value_name = "MODEL")]
    model: String,
    /// Labelled samples to train on, PATH[:SPLIT][@SLICE]
    #[arg(long, value_name = "DATA")]
    data: String,
    /// Samples held out, measured after every epoch
    #[arg(long, value_name = "DATA")]
    validate: Option<String>,
    /// Samples measured once, at the end
    #[arg(long, value_name = "DATA")]
    test: Option<String>,
    /// Train for so few bits of weights and activations, 1–8 each; what is written is the integer network
    #[arg(long, value_name = "wXaY")]
    bits: Option<String>,
    /// A network to learn from besides the labels
    #[arg(long, value_name = "MODEL")]
    teacher: Option<String>,
    /// The most memory for activations, gradients, updated parameters and the optimizer's state: 1MB, 256kB. What is updated
    /// is chosen by what it contributes; normalizations keep their statistics
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Update only constants of these names, `*` standing for anything: --only 'stage3*'. Repeatable
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Update only biases
    #[arg(long)]
    biases: bool,
    /// Times every sample is seen
    #[arg(long, value_name = "N", default_value_t = 5)]
    epochs: u32,
    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    rate: f32,
    /// Samples in a batch; smaller ones are taken where memory asks for it
    #[arg(long, value_name = "N", default_value_t = 128)]
    batch: usize,
    /// Any other setting of a recipe: --set augment.flip=0.5. Repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Name of the files [default: MODEL-tuned, or MODEL-wXaY]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Folder files are written to
    #[arg(long, short, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// Go on from NAME.checkpoint.npz
    #[arg(long)]
    resume: bool,
    /// Also write a checkpoint every N steps
    #[arg(long, value_name = "N")]
    checkpoint_steps: Option<usize>,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON: a line for every epoch, then one for the result
    #[arg(long)]
    json: bool,
}

/// Text as TOML writes it.
fn quoted(text: &str) -> String {
    let escaped: String =
        text.chars().flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] }).collect();
    format!("\"{escaped}\"")
}

impl Args {
    /// The recipe the flags mean.
    fn recipe(&self) -> String {
        let stem = PathBuf::from(self.model.trim_start_matches("zoo:"));
        let stem = stem.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
        let what = self.bits.as_deref().unwrap_or("tuned");
        let name = self.name.clone().unwrap_or_else(|| format!("{stem}-{what}"));
        let mut text = format!("name = {}\n\n[model]\nfile = {}\n\n", quoted(&name), quoted(&self.model));
        text += &format!("[data]\ntrain = {}\nbatch = {}\n", quoted(&self.data), self.batch);
        for (key, value) in [("validate", &self.validate), ("test", &self.test)] {
            text += &value.as_ref().map_or_else(String::new, |v| format!("{key} = {}\n", quoted(v)));
        }
        text += &format!("\n[optimizer]\nrate = {}\n\n[schedule]\nepochs = {}\n", self.rate, self.epochs);
        if let Some(teacher) = &self.teacher {
            text += &format!("\n[distill]\nteacher = {}\n", quoted(teacher));
        }
        text += &self.bits.as_ref().map_or_else(String::new, |b| format!("\n[quantize]\nbits = {}\n", quoted(b)));
        if self.memory.is_some() || self.biases || !self.only.is_empty() {
            let only: Vec<String> = self.only.iter().map(|o| quoted(o)).collect();
            text += &format!("\n[update]\nbiases = {}\nonly = [{}]\n", self.biases, only.join(", "));
            text += &self.memory.as_ref().map_or_else(String::new, |m| format!("memory = {}\n", quoted(m)));
        }
        text
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let recipe = Recipe::parse(&args.recipe(), &args.set)?;
    ensure!(args.output.is_dir() || !args.output.exists(), "{} is no folder", args.output.display());
    fs::create_dir_all(&args.output).with_context(|| args.output.display().to_string())?;
    let options = Options {
        folder: PathBuf::from("."),
        output: args.output.clone(),
        threads: args.threads.unwrap_or_else(process::cores),
        resume: args.resume,
        checkpoint_steps: args.checkpoint_steps,
        test: true,
    };
    let written = args.output.join(format!("{}.toml", recipe.name));
    qing::formats::atomic::write(&written, recipe.to_toml().as_bytes())?;
    let mut watcher = Watcher::new(args.json);
    let mut outcome = run::train(&recipe, &options, &mut |event| watcher.see(event))?;
    drop(watcher);
    outcome.files.push(written);
    show(&recipe.name, &outcome, args.json)
}
