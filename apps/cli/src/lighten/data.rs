//! What a network is calibrated on, and what it is judged by.

use anyhow::{Result, ensure};
use qing::{
    Tensor,
    data::{Dataset, Item, synthetic},
    train::{Purpose, Random, data::Augment},
};

use super::Args;
use crate::{
    feeds::{self, Feeds},
    model::Model,
    output::note,
};

/// Samples in one batch of calibration data.
const CALIBRATION_BATCH: usize = 8;
/// Images made up where there is no calibration data.
const SYNTHETIC: usize = 64;

pub(super) fn test_data(args: &Args, model: &Model) -> Result<Option<Dataset>> {
    match (&args.evaluate, model.entry) {
        (Some(spec), _) => {
            if args.calibrate.as_ref().is_some_and(|c| feeds::overlap(c, spec)) {
                note("note: some samples calibrate and evaluate; keep them apart with @0::10 and @!0::10.");
            }
            feeds::open("--evaluate", spec, args.limit).map(Some)
        }
        (None, Some(_)) => feeds::open("--evaluate", &args.model, args.limit).map(Some),
        (None, None) => Ok(None),
    }
}

/// Calibration data as the network takes it.
pub(super) struct Batches {
    pub tensors: Vec<Vec<Tensor>>,
    pub source: String,
    /// The samples as a data set, and how many were taken.
    pub spec: String,
    pub samples: usize,
    pub synthetic: bool,
}

pub(super) fn calibration(args: &Args, model: &Model, feeds: &Feeds) -> Result<Batches> {
    let spec = match (&args.calibrate, model.entry) {
        (Some(spec), _) => Some(spec.clone()),
        (None, Some(_)) => Some(format!("{}:calibrate", args.model)),
        (None, None) => None,
    };
    let Some(spec) = spec else {
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
    let data = feeds::open("--calibrate", &spec, Some(args.calibration_limit))?;
    let items = (0..data.len()).map(|i| data.item(i)).collect::<Result<Vec<_>, _>>()?;
    feeds.warn_if_guessed(&items[0]);
    let samples = items.len();
    let mut source = format!("{samples} samples of {}", data.name());
    if args.calibration_views > 1 {
        source += &format!(", each in {} views", args.calibration_views);
    }
    let items = views(&items, args.calibration_views)?;
    Ok(Batches { tensors: batched(items, feeds)?, source, spec, samples, synthetic: false })
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
