//! What a network that is lightened is calibrated on, and what it is judged by.

use anyhow::{Result, ensure};
use qing::{
    Tensor,
    data::{Dataset, Item, synthetic},
    train::{Purpose, Random, data::Augment},
};

use crate::{
    feeds::{self, Feeds},
    model::Model,
    output::note,
};

/// Most samples taken from calibration data unless --calibration-limit says otherwise.
const ENOUGH: usize = 256;
/// Samples that learning should see: fewer images are seen in several views.
const LEARNED: usize = 400;
/// Views of an image at most, where nobody said how many.
const MOST_VIEWS: usize = 8;
/// Samples in one batch of calibration data.
const CALIBRATION_BATCH: usize = 8;
/// Images made up where there is no calibration data.
const SYNTHETIC: usize = 64;

/// Where calibration data comes from: what was named, or the network's own.
pub(crate) fn spec(named: Option<&String>, model: &Model) -> Option<String> {
    let own = || Some(format!("zoo:{}:calibrate", model.entry?.name));
    named.cloned().or_else(own)
}

/// Samples to look at and samples to judge by.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DataArgs {
    /// Samples to choose ranges with, PATH[:SPLIT][@SLICE], labels not needed. A hundred typical ones are enough
    #[arg(long, value_name = "DATA")]
    pub calibrate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N", default_value_t = ENOUGH)]
    calibration_limit: usize,
    /// See every calibration image so many times: as it is, then moved by up to a sixteenth and mirrored at random [default: 1; where
    /// roundings are learned, as many as make 400 samples, so that few images go further]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    calibration_views: Option<u32>,
    /// Labelled samples to measure accuracy on
    #[arg(long, value_name = "DATA")]
    pub evaluate: Option<String>,
    /// Take at most N of them
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl DataArgs {
    /// What accuracy is measured on: what was named, or the network's own.
    pub(crate) fn test(&self, model: &Model) -> Result<Option<Dataset>> {
        match (&self.evaluate, model.entry) {
            (Some(spec), _) => {
                if self.calibrate.as_ref().is_some_and(|c| feeds::overlap(c, spec)) {
                    note("note: some samples calibrate and evaluate; keep them apart with @0::10 and @!0::10.");
                }
                feeds::open("--evaluate", spec, self.limit).map(Some)
            }
            (None, Some(entry)) => feeds::open("--evaluate", &format!("zoo:{}", entry.name), self.limit).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Where calibration data comes from.
    pub(crate) fn calibration_spec(&self, model: &Model) -> Option<String> {
        spec(self.calibrate.as_ref(), model)
    }

    /// The calibration data, on which roundings are learned or not; made up, with a warning, if there is none.
    pub(crate) fn calibration(&self, model: &Model, feeds: &Feeds, learns: bool) -> Result<Batches> {
        let Some(spec) = self.calibration_spec(model) else {
            note(
                "WARNING: no calibration data. Ranges are chosen on made-up inputs, and accuracy may suffer badly.\n\
                 WARNING: give some typical inputs with --calibrate DATA; a hundred are enough, labels are not needed.",
            );
            let source = "MADE-UP DATA".to_string();
            let images = match feeds.all() {
                [feed] => synthetic(feed, SYNTHETIC, 0),
                _ => None,
            };
            let tensors = images.map(|items| batched(items, feeds)).transpose()?.unwrap_or_default();
            return Ok(Batches { tensors, source, spec: String::new(), samples: SYNTHETIC, synthetic: true });
        };
        let data = feeds::open("--calibrate", &spec, Some(self.calibration_limit))?;
        let items = (0..data.len()).map(|i| data.item(i)).collect::<Result<Vec<_>, _>>()?;
        feeds.warn_if_guessed(&items[0]);
        let samples = items.len();
        let images = items.iter().all(|item| matches!(item, Item::Image(_)));
        let enough = if learns && images { LEARNED.div_ceil(samples.max(1)).min(MOST_VIEWS) as u32 } else { 1 };
        let count = self.calibration_views.unwrap_or(enough);
        let mut source = format!("{samples} samples of {}", data.name());
        if count > 1 {
            source += &format!(", each in {count} views");
        }
        let items = views(&items, count)?;
        Ok(Batches { tensors: batched(items, feeds)?, source, spec, samples, synthetic: false })
    }
}

/// Calibration data as the network takes it.
pub(crate) struct Batches {
    pub tensors: Vec<Vec<Tensor>>,
    pub source: String,
    /// The samples as a data set, and how many were taken.
    pub spec: String,
    pub samples: usize,
    pub synthetic: bool,
}

/// Every item, and behind them all, `count` − 1 times, every image moved by up to a sixteenth of its short side and mirrored or not.
fn views(items: &[Item], count: u32) -> Result<Vec<Item>> {
    let mut all = items.to_vec();
    for view in 1..count {
        for (i, item) in (0u32..).zip(items) {
            if let Item::Image(image) = item {
                let crop = image.width.min(image.height) / 16;
                let moved = Augment { crop, flip: 0.5, ..Augment::default() };
                all.push(moved.apply(item.clone(), &mut Random::new(0, Purpose::Augment, view, i))?);
            }
        }
    }
    Ok(all)
}

fn batched(items: Vec<Item>, feeds: &Feeds) -> Result<Vec<Vec<Tensor>>> {
    let feed = feeds.only()?;
    let fixed = feed.ty.shape.as_ref().and_then(|s| s.first()?.known());
    let size = fixed.unwrap_or(CALIBRATION_BATCH).max(1);
    let whole = if fixed.is_some() { items.len() / size * size } else { items.len() };
    ensure!(whole > 0, "the network takes batches of {size}, so calibration needs at least as many samples");
    let mut items = items.into_iter().take(whole).peekable();
    let mut batches = vec![];
    while items.peek().is_some() {
        batches.push(vec![feed.batch(items.by_ref().take(size).collect())?]);
    }
    Ok(batches)
}
