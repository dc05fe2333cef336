//! `--budget`: limits instead of widths.

use anyhow::Result;
use qing::{
    Graph,
    data::Dataset,
    lighten::{
        Effort, LightenError, Lightened, Options, Progress, Report, Search, lighten, lighten_within,
        search::{Budget, Measure, MixedOptions, parse_budgets},
        shape::Shapes,
    },
    npu::Config,
};

use super::{
    Args,
    npu::{NAME, NpuCycles},
};
use crate::{
    accuracy,
    calibration::Batches,
    feeds::{self, Feeds},
    model::Model,
    output::{self, note},
    runner::Runner,
    table::Table,
};

/// Decibels of the output over its error below which a network has little to do with what it was made of.
const LEAST_CLARITY: f64 = 3.0;
/// Most labelled samples that a budget of drop is judged on.
const JUDGED: usize = 2000;

/// What may be limited.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Budgets (instead of --bits: widths are chosen layer by layer)")]
pub(crate) struct SearchArgs {
    /// What the network may cost: "size<=500kB", "latency<=2ms" (measured here), "bitops<=0.1x" (of the float network),
    /// "drop<=0.5" (points of accuracy), or several with commas between them
    #[arg(long, value_name = "LIMITS", value_parser = budgets, conflicts_with = "bits")]
    budget: Option<Budgets>,
    /// Labelled samples that a budget of drop is judged on; keep them apart from those of --evaluate
    /// [default: the calibration data, if it has labels]
    #[arg(long, value_name = "DATA", requires = "budget")]
    validate: Option<String>,
    /// Choose widths and nothing else. Otherwise, where no widths keep the budget, channels are taken out or layers factorized before
    /// (with --effort thorough that is always tried)
    #[arg(long, requires = "budget")]
    widths_alone: bool,
}

fn budgets(text: &str) -> Result<Budgets, LightenError> {
    parse_budgets(text).map(Budgets)
}

/// What one flag says.
#[derive(Debug, Clone)]
struct Budgets(Vec<Budget>);

impl SearchArgs {
    /// Whether widths are searched for.
    pub(crate) fn given(&self) -> bool {
        self.budget.is_some()
    }
}

/// Makes the network lighter: within the budgets if there are any.
pub(crate) fn run(
    args: &Args,
    model: &Model,
    feeds: &Feeds,
    batches: &Batches,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Lightened> {
    let Some(Budgets(budgets)) = &args.search.budget else {
        return Ok(lighten(&model.graph, &batches.tensors, options, progress)?);
    };
    let judged = match budgets.iter().any(|b| b.measure == Measure::Drop) {
        true => judged(args, model)?,
        false => None,
    };
    let shapes = match args.effort {
        _ if args.search.widths_alone => Shapes::Whole,
        Effort::Quick | Effort::Standard => Shapes::AsNeeded,
        Effort::Thorough => Shapes::All,
    };
    let mut search = Search { options: MixedOptions::new(budgets.clone()), models: vec![], judge: None, shapes };
    if budgets.iter().any(|b| b.measure == named(NAME)) {
        search.models.push(Box::new(NpuCycles { config: Config::preset("core")? }));
    }
    if let Some(data) = &judged {
        let threads = options.threads;
        search.judge = Some(Box::new(move |graph: &Graph| {
            let measure = || -> Result<f64> {
                Ok(accuracy::measure(&mut Runner::new(graph, threads), data, feeds.only()?, 1, "judge")?.top1())
            };
            measure().map_err(|e| LightenError::Judge(format!("{e:#}")))
        }));
    }
    Ok(lighten_within(&model.graph, &batches.tensors, options, search, progress)?)
}

/// What a drop is measured on: labelled samples that are not those the result is reported on.
fn judged(args: &Args, model: &Model) -> Result<Option<Dataset>> {
    if let Some(spec) = &args.search.validate {
        if args.data.evaluate.as_ref().is_some_and(|e| feeds::overlap(e, spec)) {
            note("note: some samples both choose the widths and evaluate them; keep them apart with @0::2 and @1::2.");
        }
        return feeds::open("--validate", spec, Some(JUDGED)).map(Some);
    }
    let Some(spec) = args.data.calibration_spec(model) else { return Ok(None) };
    let data = feeds::open("--calibrate", &spec, Some(JUDGED))?;
    Ok(data.label(0).is_some().then_some(data))
}

/// What was chosen, and what else could have been.
pub(crate) fn show(report: &Report) -> Result<()> {
    let Some(search) = &report.search else { return Ok(()) };
    let measures: Vec<&str> = search.front.first().map_or(vec![], |p| p.costs.iter().map(|c| c.0.as_str()).collect());
    let heads: Vec<String> = ["what budgets buy", ">size"]
        .into_iter()
        .map(String::from)
        .chain(measures.iter().map(|m| format!(">{m}")))
        .chain([">disturbance".into(), ">drop".into(), "".into()])
        .collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    for point in &search.front {
        let mut row = vec![point.label.clone(), Measure::Size.show(point.size)];
        row.extend(point.costs.iter().map(|(name, cost)| named(name).show(*cost)));
        row.push(format!("{:.5}", point.error));
        row.push(point.drop.map_or(String::new(), |d| format!("{d:.2}")));
        row.push(if point.chosen { "← chosen".into() } else { String::new() });
        table.row(row);
    }
    output::line("")?;
    output::print(&table.render())?;
    for kept in &search.kept {
        let measure = named(&kept.measure);
        let (limit, found) = (measure.show(kept.limit), measure.show(kept.measured));
        output::line(&format!("budget: {measure} {found}, at most {limit} wanted"))?;
    }
    if !search.shapes.is_empty() {
        let mut table = Table::new(&["made of", ">size", ">output above its error", ""]);
        for tried in &search.shapes {
            let size = tried.file_bytes.map(|b| Measure::Size.show(b as f64));
            table.row([
                tried.shape.clone(),
                size.unwrap_or_else(|| "does not keep the budget".into()),
                tried.output_sqnr_db.map_or(String::new(), |db| format!("{db:.1} dB")),
                if tried.chosen { "← chosen".into() } else { String::new() },
            ]);
        }
        output::line("")?;
        output::print(&table.render())?;
        let clarity = search.shapes.iter().find(|t| t.chosen).and_then(|t| t.output_sqnr_db);
        if clarity.is_some_and(|db| db < LEAST_CLARITY) {
            note(
                "WARNING: what is left computes something else than the float network did, until it learns again: give labelled samples with \
                 --recover, or a larger budget.",
            );
        }
    }
    if search.gap > 0.0 {
        output::line(&format!("the choice may be {:.2e} of disturbance from the best", search.gap))?;
    }
    output::line("")
}

fn named(name: &str) -> Measure {
    match name {
        "size" => Measure::Size,
        "latency" => Measure::Latency,
        "bitops" => Measure::BitOperations,
        "drop" => Measure::Drop,
        other => Measure::Other(other.into()),
    }
}
