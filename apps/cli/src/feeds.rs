//! The flags that say how data becomes inputs, and the inputs they make.

use anyhow::{Context, Result, bail, ensure};
use qing::{
    Graph, Tensor,
    data::{DataSpec, Dataset, Feed, Item, PRESETS, Preprocess},
};

use crate::output::note;

/// How images become inputs. What is not given is read from the model's metadata, else guessed from its input.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Preprocessing (default: what the model's metadata says)")]
pub(crate) struct PreprocessArgs {
    /// Resize images first: the short side (256), or height,width (28,28); `none` to leave them
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Then keep the centre: 224, or height,width; `none` to keep all
    #[arg(long, value_name = "SIZE")]
    crop: Option<String>,
    /// Divide pixels (0–255) by this
    #[arg(long, value_name = "NUMBER")]
    scale: Option<String>,
    /// Then subtract this; one number or one for each channel: 0.485,0.456,0.406
    #[arg(long, value_name = "NUMBERS", allow_hyphen_values = true)]
    mean: Option<String>,
    /// Then divide by this; one number or one for each channel
    #[arg(long, value_name = "NUMBERS")]
    std: Option<String>,
    /// Colours the network takes: gray, rgb or bgr
    #[arg(long, value_name = "ORDER")]
    channels: Option<String>,
    /// Order of the input's axes: nchw or nhwc
    #[arg(long, value_name = "LAYOUT")]
    layout: Option<String>,
    /// Scale, mean and std by name: imagenet, cifar10, lite0, signed, unit or raw
    #[arg(long, value_name = "NAME", value_parser = PRESETS.iter().map(|p| p.0).collect::<Vec<_>>())]
    preset: Option<String>,
}

impl PreprocessArgs {
    fn given(&self) -> bool {
        let flags =
            [&self.size, &self.crop, &self.scale, &self.mean, &self.std, &self.channels, &self.layout, &self.preset];
        flags.iter().any(|f| f.is_some())
    }
}

/// What each input of a network takes.
#[derive(Debug)]
pub(crate) struct Feeds {
    feeds: Vec<Feed>,
    /// True if nobody said how images are normalized.
    guessed: bool,
}

impl Feeds {
    /// From the metadata of the model, with the flags over it.
    pub(crate) fn new(graph: &Graph, args: &PreprocessArgs) -> Result<Feeds> {
        let mut feeds: Vec<Feed> =
            (0..graph.inputs.len()).map(|i| Feed::for_input(graph, i)).collect::<Result<_, _>>()?;
        if args.given() {
            let Some(p) = feeds.iter_mut().find_map(|f| f.preprocess.as_mut()) else {
                bail!(
                    "the model has no image input (rank 4 with 1 or 3 channels), so preprocessing flags mean nothing; \
                     give prepared arrays (.npy, .npz)"
                );
            };
            if let Some(layout) = &args.layout {
                p.set("layout", layout).context("--layout")?;
            }
            if let Some(channels) = &args.channels {
                p.set("channels", channels).context("--channels")?;
            }
            if let Some(preset) = &args.preset {
                *p = p.clone().with_preset(preset)?;
            }
            for (field, value) in [
                ("size", &args.size),
                ("crop", &args.crop),
                ("scale", &args.scale),
                ("mean", &args.mean),
                ("std", &args.std),
            ] {
                if let Some(value) = value {
                    let value = if value == "none" { "" } else { value };
                    p.set(field, value).with_context(|| format!("--{field}"))?;
                }
            }
        }
        let normalized = args.preset.is_some() || args.mean.is_some() || args.std.is_some() || args.scale.is_some();
        let quantized = feeds.iter().any(Feed::is_quantized);
        let guessed = !normalized && !quantized && !Preprocess::is_in(&graph.metadata);
        Ok(Feeds { feeds, guessed })
    }

    /// The feeds, one an input.
    pub(crate) fn all(&self) -> &[Feed] {
        &self.feeds
    }

    /// The feed samples go to: a network for data sets has one input.
    pub(crate) fn only(&self) -> Result<&Feed> {
        match &self.feeds[..] {
            [feed] => Ok(feed),
            feeds => bail!(
                "data sets feed networks of one input; this one has {}: {}",
                feeds.len(),
                feeds.iter().map(|f| format!("{}: {}", f.name, f.ty)).collect::<Vec<_>>().join(", ")
            ),
        }
    }

    /// How images are prepared, if an input is one.
    pub(crate) fn preprocess(&self) -> Option<&Preprocess> {
        self.feeds.iter().find_map(|f| f.preprocess.as_ref())
    }

    /// The first `limit` samples of what `--calibrate` names, in whole batches of the network's size, or of `batch`.
    pub(crate) fn batches(&self, spec: &str, limit: usize, batch: usize) -> Result<Vec<Vec<Tensor>>> {
        let data = open("--calibrate", spec, Some(limit))?;
        self.warn_if_guessed(&data.item(0)?);
        let feed = self.only()?;
        let size = feed.ty.shape.as_ref().and_then(|s| s.first()?.known()).unwrap_or(batch.min(data.len())).max(1);
        ensure!(data.len() >= size, "the network takes batches of {size}; there are {} samples", data.len());
        let batches = (0..data.len() / size * size).step_by(size);
        batches
            .map(|first| {
                let items = (first..first + size).map(|i| data.item(i)).collect::<Result<Vec<_>, _>>()?;
                Ok(vec![feed.batch(items)?])
            })
            .collect()
    }

    /// Warns if images, or integers that stand for reals, are normalized by guess.
    pub(crate) fn warn_if_guessed(&self, item: &Item) {
        let normalized = match item {
            Item::Image(_) => true,
            Item::Array(x) => !x.element().is_float() && self.feeds.iter().any(|f| f.ty.element.is_float()),
        };
        if let (true, true, Some(p)) = (self.guessed, normalized, self.preprocess()) {
            note(&format!(
                "note: the model does not say how its input is prepared; assuming (x / {} − {:?}) / {:?}. If results look \
                 wrong, give --preset or --scale, --mean and --std.",
                p.scale, p.mean, p.std
            ));
        }
    }
}

/// Opens DATA, naming the flag it was given to.
pub(crate) fn open(flag: &str, spec: &str, limit: Option<usize>) -> Result<Dataset> {
    let data = Dataset::open(spec).with_context(|| format!("{flag} {spec}"))?;
    Ok(match limit {
        Some(n) => data.take(n),
        None => data,
    })
}

/// Whether two selections of one data set share samples, as far as their text tells.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let (Ok(a), Ok(b)) = (a.parse::<DataSpec>(), b.parse::<DataSpec>()) else { return false };
    const PROBE: usize = 1000;
    let inside = b.slice.indices(PROBE);
    a.path == b.path && a.split == b.split && a.slice.indices(PROBE).iter().any(|i| inside.binary_search(i).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complements_do_not_overlap() {
        assert!(!overlap("data@0::10", "data@!0::10"));
        assert!(!overlap("data:train", "data:test"));
        assert!(overlap("data@0::10", "data"));
    }
}
