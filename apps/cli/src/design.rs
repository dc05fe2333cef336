//! `qing design`: the architecture of a recipe, searched for within a budget.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use qing::{
    Graph, Tensor,
    lighten::{
        LightenError,
        design::{DesignOptions, Found, Sight, evolve, scaled, score},
        search::{Budget, Limit, Measure, parse_budgets},
        totals,
    },
    train::{
        TrainError,
        architectures::{self, Design},
        recipe::Recipe,
        run,
    },
};
use serde_json::json;

use crate::{
    npu::quick_cycles,
    output::{self, count, percent},
    process,
    progress::Progress,
    runner::{Runner, random_inputs},
    table::Table,
    timing,
};

/// Images that designs are judged on.
const SEEN: usize = 64;
/// How far the first design is scaled up for comparison, in twentieths.
const WIDEST: usize = 60;
/// Seconds that a latency is measured for.
const SECONDS: f64 = 0.02;

/// Search width, depth, kernel and resolution of a network within a budget, and write the recipe that trains it
///
/// Begins with the architecture of a recipe: one of the ResNets, or a design as text, such as residual:16,16x3,32x3s2,64x3s2 (first
/// width, then stages: width x blocks, k kernel, s stride) or inverted:16,16x1e1,24x2k5s2 (e expansion). An evolution changes it
/// a little at a time; what exceeds the budget is left out, the rest is judged untrained, by its parameters and by how well it tells images
/// of the recipe's data apart. The best few are then trained for a short time, beside the first design at the width that fits, and the most accurate is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A TOML file, as `qing train` takes it
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Change a setting: --set model.architecture=resnet8. Repeatable
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// What the network may cost: "macs<=5M", "params<=80k", "latency<=0.3ms" (measured here, float, one thread), "npu_cycles<=50k" (w8a8),
    /// shares of the recipe's architecture ("macs<=0.5x"), or several with commas between them
    #[arg(long, value_name = "LIMITS")]
    budget: String,
    /// Sides of square images to choose from, with commas between [default: the recipe's]
    #[arg(long, value_name = "PIXELS", value_delimiter = ',')]
    resolutions: Vec<usize>,
    /// Designs that are judged untrained
    #[arg(long, value_name = "N", default_value_t = 300)]
    trials: usize,
    /// How many of the best are trained for a short time; 0 to trust the search
    #[arg(long, value_name = "N", default_value_t = 3)]
    finalists: usize,
    /// Epochs of that
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: u32,
    /// The chip for npu_cycles
    #[arg(long, value_name = "NAME", default_value = "core")]
    preset: String,
    /// The recipe to write [default: NAME-design.toml, beside the one it came from]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the search draws from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A design that may be chosen.
struct Finalist {
    found: Found,
    /// Where it is from.
    origin: &'static str,
    /// Accuracy after a short training, on what is held out if the recipe holds anything out.
    accuracy: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let recipe = Recipe::read(&args.recipe, &args.set)?;
    let folder = run::folder_of(&args.recipe);
    let threads = args.threads.unwrap_or_else(process::cores);
    let name = recipe.model.architecture.as_deref().context(
        "the recipe has no model.architecture to begin with: add  --set model.architecture=resnet8  or a design",
    )?;
    let from = architectures::design(name)?;
    let beside = folder.join(format!("{}-design.toml", recipe.name));
    let output = args.output.clone().unwrap_or(beside);
    ensure!(args.trials > 0, "--trials 0: at least one design has to be judged");

    let (start, batches) = run::start(&recipe, &folder, SEEN)?;
    let batch = first_input(batches)?;
    let &[_, channels, rows, columns] = batch.shape() else {
        bail!("designs are for images, not for inputs of {:?}", batch.shape())
    };
    let classes = start.outputs.first().and_then(|id| start.ty(*id).shape.as_ref()?.last()?.known());
    let classes = classes.context("the recipe's network does not say how many classes it has")?;
    let mut sights = vec![];
    for &side in &args.resolutions {
        let input = vec![channels, side, side];
        let (_, batches) = run::start(&with_design(&recipe, &from, &input, classes), &folder, SEEN)?;
        sights.push(Sight { input, batch: first_input(batches)? });
    }
    if sights.is_empty() {
        sights.push(Sight { input: vec![channels, rows, columns], batch });
    }

    let budgets = parse_budgets(&args.budget)?;
    let cost = |graph: &Graph, measure: &Measure| cost(graph, measure, &args.preset);
    let mut limits = vec![];
    for Budget { measure, limit } in &budgets {
        limits.push(match limit {
            Limit::Amount(amount) => *amount,
            Limit::Share(share) => share * cost(&start, measure)?,
        });
    }
    let mut costs =
        |graph: &Graph| budgets.iter().map(|b| cost(graph, &b.measure)).collect::<Result<Vec<_>, LightenError>>();
    let options = DesignOptions { trials: args.trials, seed: args.seed, threads, ..DesignOptions::default() };
    let mut progress = Progress::new("design", args.trials);
    let found = evolve(&from, classes, &sights, &limits, &mut costs, &options, &mut |p| {
        progress.stage(p.stage, p.done, p.total);
    })?;
    drop(progress);

    let judged = found.len();
    let plain = baseline(&from, classes, &sights, &limits, &mut costs, threads)?;
    let mut finalists: Vec<Finalist> = (found.into_iter())
        .filter(|f| plain.as_ref().is_none_or(|p| (&p.design, &p.input) != (&f.design, &f.input)))
        .take(args.finalists.max(1))
        .map(|found| Finalist { found, origin: "found", accuracy: None })
        .collect();
    finalists.extend(plain.map(|found| Finalist { found, origin: "scaled", accuracy: None }));
    if args.finalists > 0 {
        let total = finalists.len();
        let mut progress = Progress::new("train", total);
        for (done, finalist) in finalists.iter_mut().enumerate() {
            progress.stage("train", done, total);
            let short = with_design(&recipe, &finalist.found.design, &finalist.found.input, classes);
            finalist.accuracy = Some(trained(short, args.epochs, &folder, threads)?);
        }
    }
    let better = |a: &&Finalist, b: &&Finalist| {
        let key = |f: &Finalist| (f.accuracy.unwrap_or(0.0), f.found.score);
        key(a).0.total_cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1))
    };
    let chosen = finalists.iter().max_by(better).context("no design was found")?;
    let mut made = with_design(&recipe, &chosen.found.design, &chosen.found.input, classes);
    made.name = format!("{}-design", recipe.name);
    made.about = format!("{}, found within {}", chosen.found.design, args.budget);
    qing::formats::atomic::write(&output, made.to_toml().as_bytes())?;
    if args.json {
        let all: Vec<_> = (finalists.iter())
            .map(|f| json!({ "design": f.found, "origin": f.origin, "accuracy": f.accuracy }))
            .collect();
        return output::json(&json!({
            "judged": judged, "finalists": all, "chosen": chosen.found, "output": output,
        }));
    }
    show(&finalists, chosen, &budgets)?;
    output::line(&format!("{judged} designs judged untrained; wrote {}", output.display()))?;
    output::line(&format!("train it: qing train {}", output.display()))
}

/// The input of the first of some batches.
fn first_input(batches: Vec<Vec<Tensor>>) -> Result<Tensor> {
    batches.into_iter().flatten().next().context("data.train has no samples")
}

/// The recipe with another network; images are scaled to what it reads.
fn with_design(recipe: &Recipe, design: &Design, input: &[usize], classes: usize) -> Recipe {
    let mut made = recipe.clone();
    made.model.architecture = Some(design.to_string());
    made.model.input = Some(input.to_vec());
    made.model.classes = Some(classes);
    made
}

fn cost(graph: &Graph, measure: &Measure, preset: &str) -> Result<f64, LightenError> {
    let failed = |e: anyhow::Error| LightenError::Option(format!("{measure}: {e:#}"));
    Ok(match measure {
        Measure::Latency => {
            let inputs = random_inputs(graph, 1).map_err(failed)?;
            timing::measure(&mut Runner::new(graph, 1), &inputs, SECONDS).map_err(failed)?.min
        }
        Measure::Other(name) if name == "macs" => totals(graph, None).macs as f64,
        Measure::Other(name) if name == "params" => totals(graph, None).parameters as f64,
        Measure::Other(name) if name == "npu_cycles" => quick_cycles(graph, preset).map_err(failed)?,
        other => {
            return Err(LightenError::Option(format!(
                "a budget of {other} is none for a design: there are macs, params, latency and npu_cycles"
            )));
        }
    })
}

/// The first design at the largest width that fits, at the first resolution where one does.
fn baseline(
    from: &Design,
    classes: usize,
    sights: &[Sight],
    limits: &[f64],
    costs: &mut dyn FnMut(&Graph) -> Result<Vec<f64>, LightenError>,
    threads: usize,
) -> Result<Option<Found>> {
    for sight in sights {
        // Wider costs more: the widest that fits, in steps of a twentieth, by halving.
        let (mut fits, mut exceeds) = (0, WIDEST + 1);
        let mut found = None;
        while fits + 1 < exceeds {
            let step = (fits + exceeds) / 2;
            let design = scaled(from, step as f64 / 20.0);
            let graph = sight.network(&design, classes, 1)?;
            let costs = costs(&graph)?;
            if costs.iter().zip(limits).all(|(c, l)| c <= l) {
                fits = step;
                found = Some((design, graph, costs));
            } else {
                exceeds = step;
            }
        }
        if let Some((design, graph, costs)) = found {
            let score = score(&graph, &sight.batch, threads)?;
            return Ok(Some(Found { design, input: sight.input.clone(), score, costs }));
        }
    }
    Ok(None)
}

/// Accuracy after a few epochs.
fn trained(mut recipe: Recipe, epochs: u32, folder: &std::path::Path, threads: usize) -> Result<f64, TrainError> {
    let output = tempfile::tempdir().map_err(|e| TrainError::invalid(format!("a temporary folder: {e}")))?;
    recipe.schedule.epochs = epochs;
    let options = run::Options {
        folder: fs::canonicalize(folder).unwrap_or_else(|_| folder.into()),
        output: output.path().into(),
        threads,
        resume: false,
        checkpoint_steps: None,
        test: false,
    };
    let outcome = run::train(&recipe, &options, &mut |_| true)?;
    let last = outcome.history.last();
    Ok(last.map_or(0.0, |row| if row.held_accuracy.is_nan() { row.accuracy } else { row.held_accuracy }))
}

fn show(finalists: &[Finalist], chosen: &Finalist, budgets: &[Budget]) -> Result<()> {
    let mut columns = vec!["design".to_string(), "input".into(), "from".into(), ">score".into()];
    columns.extend(budgets.iter().map(|b| format!(">{}", b.measure)));
    columns.extend([">accuracy".to_string(), String::new()]);
    let mut table = Table::new(&columns.iter().map(String::as_str).collect::<Vec<_>>());
    for f in finalists {
        let sizes: Vec<String> = f.found.input.iter().map(usize::to_string).collect();
        let mut cells =
            vec![f.found.design.to_string(), sizes.join("×"), f.origin.to_string(), format!("{:.2}", f.found.score)];
        cells.extend(budgets.iter().zip(&f.found.costs).map(|(b, c)| match b.measure {
            Measure::Latency => b.measure.show(*c),
            _ => count(*c),
        }));
        cells.push(f.accuracy.map_or_else(String::new, percent));
        cells.push(if std::ptr::eq(f, chosen) { "★".into() } else { String::new() });
        table.row(cells);
    }
    output::print(&table.render())
}
