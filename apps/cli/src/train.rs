//! `qing train`: a recipe goes in, a trained network and its curves come out.

use std::{
    cell::Cell,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use qing::train::{
    curves::Row,
    finetune::Candidate,
    recipe::Recipe,
    run::{self, Event, Options, Outcome},
};
use serde_json::{Value, json};

use crate::{
    output::{self, bytes, count, note, percent},
    process,
};

const TEMPLATES: &str = "\
A recipe:
  name = \"resnet20\"
  [model]
  architecture = \"resnet20\"          # or file = \"net.onnx\"
  [data]
  train = \"cifar10:train@!0::10\"
  validate = \"cifar10:train@0::10\"   # judged after every epoch
  test = \"cifar10:test\"              # read once, at the end
  preset = \"cifar10\"
  [augment]
  crop = 4
  flip = 0.5
  [optimizer]
  rate = 0.1
  weight_decay = 5e-4
  [schedule]
  epochs = 60
  # [quantize] bits = \"w2a2\", [distill] teacher = \"net.onnx\", [update] memory = \"1MB\"

With augment.views = 8 there are eight augmented views of each sample, shown in turn, and
distill.cache = \"said.npz\" keeps what the teacher says of them: this run and later ones ask it once.

model.weights = \"OTHER.checkpoint.npz\" beside [quantize] goes on from what another run of this
network learned: few bits begin from more.

A key that means nothing is an error that lists those that do. Paths are seen from the recipe's folder.";

/// Train a network as a recipe says: model, data, loss, optimizer, schedule
///
/// Writes NAME.onnx, NAME.qing, NAME.csv and NAME.svg (curves), and, after every epoch, NAME.checkpoint.npz.
#[derive(Debug, clap::Args)]
#[command(after_long_help = TEMPLATES)]
pub(crate) struct Args {
    /// A TOML file
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Change a setting: --set optimizer.rate=0.05. Repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// Go on from NAME.checkpoint.npz
    #[arg(long)]
    resume: bool,
    /// Folder files are written to
    #[arg(long, short, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,
    /// Also write a checkpoint every N steps
    #[arg(long, value_name = "N")]
    checkpoint_steps: Option<usize>,
    /// Leave the test data unread, for choosing settings
    #[arg(long)]
    no_test: bool,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON: a line for every epoch, then one for the result
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let recipe = Recipe::read(&args.recipe, &args.set)?;
    ensure!(args.output.is_dir() || !args.output.exists(), "{} is no folder", args.output.display());
    fs::create_dir_all(&args.output).with_context(|| args.output.display().to_string())?;
    let options = Options {
        folder: run::folder_of(&args.recipe),
        output: args.output.clone(),
        threads: args.threads.unwrap_or_else(process::cores),
        resume: args.resume,
        checkpoint_steps: args.checkpoint_steps,
        test: !args.no_test,
    };
    let mut watcher = Watcher::new(args.json);
    let outcome = run::train(&recipe, &options, &mut |event| watcher.see(event))?;
    drop(watcher);
    show(&recipe.name, &outcome, args.json)
}

/// What came of it.
pub(crate) fn show(name: &str, outcome: &Outcome, json: bool) -> Result<()> {
    let files: Vec<String> = outcome.files.iter().map(|f| f.display().to_string()).collect();
    if json {
        let test = outcome.test.as_ref();
        return line(&json!({
            "result": name, "seconds": outcome.seconds, "memory": outcome.memory,
            "test_samples": test.map(|t| t.samples), "test_accuracy": test.map(qing::train::Measured::accuracy),
            "held_accuracy": outcome.history.last().and_then(|r| number(r.held_accuracy)), "files": files,
        }));
    }
    if let Some(test) = &outcome.test {
        output::line(&format!(
            "test   {} of {} samples, loss {:.4}",
            percent(test.accuracy()),
            test.samples,
            test.loss
        ))?;
    }
    output::line(&format!("time   {}", duration(outcome.seconds)))?;
    output::line(&format!("wrote  {}", files.join(", ")))
}

fn line(value: &Value) -> Result<()> {
    output::line(&value.to_string())
}

/// A part of a network: its constant and the channels.
fn part(candidate: &Candidate) -> String {
    let part = &candidate.part;
    format!("{}[{}:{}]", part.name, part.start, part.end)
}

/// No NaN in JSON.
fn number(v: f64) -> Option<f64> {
    v.is_finite().then_some(v)
}

/// `1 h 02 min`, `3 min 20 s`, `4.1 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Says what happens: a bar on a terminal, a line for every epoch.
pub(crate) struct Watcher {
    bar: ProgressBar,
    json: bool,
    steps: u64,
    epochs: u32,
    shown: Instant,
    failed: Cell<bool>,
}

impl Watcher {
    pub(crate) fn new(json: bool) -> Watcher {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {msg}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Watcher { bar, json, steps: 1, epochs: 1, shown: Instant::now(), failed: Cell::new(false) }
    }

    /// Always goes on.
    pub(crate) fn see(&mut self, event: &Event) -> bool {
        match event {
            Event::Start { parameters, steps, epochs, from, memory, batch, candidates, slow } => {
                (self.steps, self.epochs) = (*steps as u64, *epochs);
                self.bar.set_length(self.steps * u64::from(*epochs));
                let resumed = if *from == (0, 0) { String::new() } else { format!(", from epoch {}", from.0 + 1) };
                self.say(&format!(
                    "{} parameters, {epochs} epochs of {steps} steps{resumed}, {} of memory",
                    count(*parameters as f64),
                    bytes(*memory as f64)
                ));
                if !candidates.is_empty() {
                    let chosen: Vec<String> = candidates.iter().filter(|c| c.chosen).map(part).collect();
                    let all = candidates.len();
                    self.say(&format!(
                        "batches of {batch}; updated, the most gain for its memory first ({} of {all}): {}",
                        chosen.len(),
                        chosen.join(", ")
                    ));
                }
                if !slow.is_empty() {
                    let ops: Vec<String> = slow.iter().map(|(op, n)| format!("{n} × {op}")).collect();
                    self.say(&format!("note: without a fast kernel, so slow: {}", ops.join(", ")));
                }
            }
            Event::Step { epoch, step, loss, accuracy, speed, left } => {
                // A terminal cannot show more, and drawing takes time from training.
                if self.shown.elapsed() > Duration::from_millis(200) {
                    self.shown = Instant::now();
                    self.bar.set_prefix(format!("epoch {}/{}", epoch + 1, self.epochs));
                    self.bar.set_position(u64::from(*epoch) * self.steps + *step as u64);
                    self.bar.set_message(format!(
                        "loss {loss:.4}  {}  {} images/s  {} left",
                        percent(*accuracy),
                        count(*speed),
                        duration(*left)
                    ));
                }
            }
            Event::Epoch(row) => self.epoch(row),
        }
        !self.failed.get()
    }

    fn epoch(&self, row: &Row) {
        if self.json {
            let text = json!({
                "epoch": row.epoch, "rate": row.rate, "loss": row.loss, "accuracy": row.accuracy,
                "held_loss": number(row.held_loss), "held_accuracy": number(row.held_accuracy), "seconds": row.seconds,
            });
            // Nobody listening: end, resumably.
            self.failed.set(line(&text).is_err());
            return;
        }
        let held = match row.held_accuracy.is_nan() {
            true => String::new(),
            false => format!("  held out {:.4} {}", row.held_loss, percent(row.held_accuracy)),
        };
        self.say(&format!(
            "epoch {:3}  loss {:.4} {}{held}  {}",
            row.epoch,
            row.loss,
            percent(row.accuracy),
            duration(row.seconds)
        ));
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_read_them() {
        assert_eq!(duration(4.11), "4.1 s");
        assert_eq!(duration(200.0), "3 min 20 s");
        assert_eq!(duration(3725.0), "1 h 02 min");
    }
}
