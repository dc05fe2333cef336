//! From pixels to the numbers a network was trained on.

use std::collections::BTreeMap;

use qing_graph::Type;

use crate::{DataError, Pixels};

/// Order of colours in a network's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// One channel.
    Gray,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

impl Channels {
    /// 1 or 3.
    pub fn count(self) -> usize {
        if self == Channels::Gray { 1 } else { 3 }
    }
}

/// Where the channel axis of a network's input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Batch, channels, rows, columns: ONNX.
    Nchw,
    /// Batch, rows, columns, channels: TFLite.
    Nhwc,
}

/// How an image becomes an input: resize, cut out the centre, then `(x / scale − mean) / std` channel by channel.
///
/// In a model's metadata it is `qing.input.size`, `crop`, `scale`, `mean`, `std`, `channels` and `layout`. `size` and
/// `crop` are one number or `height,width`; empty means that the step is left out. One number for `size` is the length of
/// the short side, the ratio of the sides being kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    /// What the image is resized to, if at all: the short side, or height and width.
    pub size: Option<Extent>,
    /// Height and width of the centre that is kept, if not all.
    pub crop: Option<(usize, usize)>,
    /// What pixel values (0–255) are divided by first.
    pub scale: f32,
    /// Then subtracted; one for all channels or one each.
    pub mean: Vec<f32>,
    /// Then divided by; one for all channels or one each.
    pub std: Vec<f32>,
    /// Order of colours.
    pub channels: Channels,
    /// Where the channel axis is.
    pub layout: Layout,
}

/// What an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The short side; the long one follows.
    Short(usize),
    /// Height and width.
    Exact(usize, usize),
}

/// Ways of normalizing that are common enough to have a name: name, scale, mean, std, and who uses it.
pub const PRESETS: &[(&str, f32, &[f32], &[f32], &str)] = &[
    ("imagenet", 255.0, &[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225], "torchvision's networks"),
    (
        "cifar10",
        255.0,
        &[0.485, 0.456, 0.406],
        &[0.229, 0.224, 0.225],
        "CIFAR networks trained with ImageNet's numbers",
    ),
    ("lite0", 1.0, &[127.0], &[128.0], "EfficientNet-Lite"),
    ("signed", 127.5, &[1.0], &[1.0], "−1 … 1: networks from TensorFlow"),
    ("unit", 255.0, &[0.0], &[1.0], "0 … 1"),
    ("raw", 1.0, &[0.0], &[1.0], "0 … 255: networks that normalize inside"),
];

impl Preprocess {
    /// What can be guessed from the type of an image input: layout and channels from the shape; inputs of at least 64
    /// pixels are the centre of an image whose short side is 8/7 as long, smaller ones the whole image; three channels are
    /// normalized like `imagenet`, one like `unit`, quantized ones not at all. `None` if this is no image input.
    pub fn guess(input: &Type) -> Option<Preprocess> {
        let dims: Vec<Option<usize>> = input.shape.as_ref()?.iter().map(|d| d.known()).collect();
        let [_, a, b, c] = dims[..] else { return None };
        let (layout, count, height, width) = match (a, c) {
            (Some(1 | 3), _) => (Layout::Nchw, a?, b, c),
            (_, Some(1 | 3)) => (Layout::Nhwc, c?, a, b),
            _ => return None,
        };
        let channels = if count == 1 { Channels::Gray } else { Channels::Rgb };
        let preset = if input.quant.is_some() {
            "raw"
        } else if count == 1 {
            "unit"
        } else {
            "imagenet"
        };
        let (size, crop) = match (height, width) {
            (Some(h), Some(w)) if h.min(w) >= 64 => {
                (Some(Extent::Short((h.min(w) as f64 * 8.0 / 7.0).round() as usize)), Some((h, w)))
            }
            (Some(h), Some(w)) => (Some(Extent::Exact(h, w)), None),
            _ => (None, None),
        };
        let base = Preprocess { size, crop, scale: 1.0, mean: vec![0.0], std: vec![1.0], channels, layout };
        base.with_preset(preset).ok()
    }

    /// The same geometry, normalized like one of [`PRESETS`].
    ///
    /// # Errors
    /// If there is no such preset.
    pub fn with_preset(mut self, name: &str) -> Result<Preprocess, DataError> {
        let Some((_, scale, mean, std, _)) = PRESETS.iter().find(|p| p.0 == name) else {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
            return Err(DataError::invalid(format!("no preset `{name}`; there are {}", names.join(", "))));
        };
        (self.scale, self.mean, self.std) = (*scale, mean.to_vec(), std.to_vec());
        if self.channels == Channels::Gray && self.mean.len() == 3 {
            let middle = |v: &[f32]| vec![v.iter().sum::<f32>() / v.len() as f32];
            (self.mean, self.std) = (middle(&self.mean), middle(&self.std));
        }
        Ok(self)
    }

    /// True if a model's metadata says how its input is prepared.
    pub fn is_in(metadata: &BTreeMap<String, String>) -> bool {
        metadata.keys().any(|k| k.starts_with("qing.input."))
    }

    /// What a model's metadata says, over what can be [guessed](Preprocess::guess) from its input.
    ///
    /// # Errors
    /// If an entry cannot be understood.
    pub fn from_metadata(metadata: &BTreeMap<String, String>, input: &Type) -> Result<Option<Preprocess>, DataError> {
        let Some(mut out) = Preprocess::guess(input) else { return Ok(None) };
        for (key, value) in metadata {
            if let Some(field) = key.strip_prefix("qing.input.") {
                out.set(field, value).map_err(|e| DataError::invalid(format!("the model's metadata `{key}`: {e}")))?;
            }
        }
        Ok(Some(out))
    }

    /// Sets one field by its metadata name; unknown names are ignored, so that newer files open.
    ///
    /// # Errors
    /// If the value cannot be understood.
    pub fn set(&mut self, field: &str, value: &str) -> Result<(), DataError> {
        let value = value.trim();
        match field {
            "size" => {
                self.size = match sizes(value)?[..] {
                    [] => None,
                    [n] => Some(Extent::Short(n)),
                    [h, w, ..] => Some(Extent::Exact(h, w)),
                };
            }
            "crop" => {
                self.crop = match sizes(value)?[..] {
                    [] => None,
                    [n] => Some((n, n)),
                    [h, w, ..] => Some((h, w)),
                };
            }
            "scale" => self.scale = one_positive(&numbers(value)?, "scale")?,
            "mean" => self.mean = per_channel(numbers(value)?, "mean")?,
            "std" => {
                self.std = per_channel(numbers(value)?, "std")?;
                if self.std.iter().any(|s| *s <= 0.0) {
                    return Err(DataError::invalid("std must be positive"));
                }
            }
            "channels" => {
                self.channels = match value {
                    "gray" | "grey" => Channels::Gray,
                    "rgb" => Channels::Rgb,
                    "bgr" => Channels::Bgr,
                    _ => return Err(DataError::invalid(format!("channels are gray, rgb or bgr, not `{value}`"))),
                };
            }
            "layout" => {
                self.layout = match value {
                    "nchw" => Layout::Nchw,
                    "nhwc" => Layout::Nhwc,
                    _ => return Err(DataError::invalid(format!("the layout is nchw or nhwc, not `{value}`"))),
                };
            }
            _ => {}
        }
        Ok(())
    }

    /// The metadata entries that say the same.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let join = |v: &[f32]| v.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        let size = match self.size {
            None => String::new(),
            Some(Extent::Short(n)) => n.to_string(),
            Some(Extent::Exact(h, w)) => format!("{h},{w}"),
        };
        let channels = match self.channels {
            Channels::Gray => "gray",
            Channels::Rgb => "rgb",
            Channels::Bgr => "bgr",
        };
        [
            ("size", size),
            ("crop", self.crop.map(|(h, w)| format!("{h},{w}")).unwrap_or_default()),
            ("scale", self.scale.to_string()),
            ("mean", join(&self.mean)),
            ("std", join(&self.std)),
            ("channels", channels.to_string()),
            ("layout", if self.layout == Layout::Nchw { "nchw" } else { "nhwc" }.to_string()),
        ]
        .into_iter()
        .map(|(k, v)| (format!("qing.input.{k}"), v))
        .collect()
    }

    /// Resizes, cuts and recolours, without normalizing: what the network will see, as an image.
    ///
    /// # Errors
    /// If the image is smaller than the centre to cut out of it.
    pub fn view(&self, image: Pixels) -> Result<Pixels, DataError> {
        let mut image = image.with_channels(self.channels.count());
        let (h, w) = (image.height, image.width);
        match self.size {
            None => {}
            Some(Extent::Exact(height, width)) => image = image.resize(width, height),
            Some(Extent::Short(short)) => {
                let along = |side: usize| ((side * short) as f64 / h.min(w) as f64).round() as usize;
                image = image.resize(along(w), along(h));
            }
        }
        if let Some((height, width)) = self.crop {
            if height > image.height || width > image.width {
                let (h, w) = (image.height, image.width);
                return Err(DataError::invalid(format!(
                    "cannot cut the centre {height}×{width} out of an image of {h}×{w} (height × width); \
                     give --size to resize it first"
                )));
            }
            image = image.crop((image.width - width) / 2, (image.height - height) / 2, width, height)?;
        }
        Ok(image)
    }

    /// The numbers of an image, in this layout, with its height and width.
    ///
    /// # Errors
    /// As [`Preprocess::view`].
    pub fn apply(&self, image: Pixels) -> Result<(usize, usize, Vec<f32>), DataError> {
        let image = self.view(image)?;
        let (c, plane) = (image.channels, image.width * image.height);
        let mut out = vec![0.0; image.data.len()];
        for to in 0..c {
            let from = if self.channels == Channels::Bgr { 2 - to } else { to };
            let table: Vec<f32> = (0..=255u8).map(|v| self.normalize(v.into(), to)).collect();
            for i in 0..plane {
                let at = if self.layout == Layout::Nchw { to * plane + i } else { i * c + to };
                out[at] = table[usize::from(image.data[i * c + from])];
            }
        }
        Ok((image.height, image.width, out))
    }

    /// `(x / scale − mean) / std` for one value of a channel.
    pub fn normalize(&self, x: f32, channel: usize) -> f32 {
        let of = |v: &[f32]| *v.get(channel).or(v.first()).unwrap_or(&0.0);
        (x / self.scale - of(&self.mean)) / of(&self.std)
    }
}

fn numbers(text: &str) -> Result<Vec<f32>, DataError> {
    let parts = text.split(',').map(str::trim).filter(|s| !s.is_empty());
    parts
        .map(|s| match s.parse::<f32>() {
            Ok(v) if v.is_finite() => Ok(v),
            _ => Err(DataError::invalid(format!("`{s}` is not a number"))),
        })
        .collect()
}

fn sizes(text: &str) -> Result<Vec<usize>, DataError> {
    let parts = text.split([',', 'x', '×']).map(str::trim).filter(|s| !s.is_empty());
    parts
        .map(|s| match s.parse::<usize>() {
            Ok(v) if (1..=1 << 14).contains(&v) => Ok(v),
            _ => Err(DataError::invalid(format!("`{s}` is not a size in pixels (1–16384)"))),
        })
        .collect()
}

fn one_positive(values: &[f32], name: &str) -> Result<f32, DataError> {
    match values {
        [v] if *v > 0.0 => Ok(*v),
        _ => Err(DataError::invalid(format!("{name} is one positive number"))),
    }
}

fn per_channel(values: Vec<f32>, name: &str) -> Result<Vec<f32>, DataError> {
    match values.len() {
        1 | 3 => Ok(values),
        n => Err(DataError::invalid(format!("{name} is one number or three, got {n}"))),
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::{Dim, Element};

    use super::*;

    fn input(shape: [usize; 4]) -> Type {
        Type::new(Element::F32, shape.map(Dim::Known))
    }

    #[test]
    fn guesses() {
        let cases = [
            ([1, 3, 224, 224], Some((Some(Extent::Short(256)), Some((224, 224)), Channels::Rgb, Layout::Nchw))),
            ([1, 3, 32, 32], Some((Some(Extent::Exact(32, 32)), None, Channels::Rgb, Layout::Nchw))),
            ([1, 96, 96, 3], Some((Some(Extent::Short(110)), Some((96, 96)), Channels::Rgb, Layout::Nhwc))),
            ([1, 49, 10, 1], Some((Some(Extent::Exact(49, 10)), None, Channels::Gray, Layout::Nhwc))),
            ([1, 64, 7, 7], None),
        ];
        for (shape, want) in cases {
            let got = Preprocess::guess(&input(shape)).map(|p| (p.size, p.crop, p.channels, p.layout));
            assert_eq!(got, want, "{shape:?}");
        }
    }

    #[test]
    fn metadata_round_trips() {
        let mut p = Preprocess::guess(&input([1, 3, 224, 224])).unwrap().with_preset("lite0").unwrap();
        p.set("channels", "bgr").unwrap();
        p.set("size", "").unwrap();
        let back = Preprocess::from_metadata(&p.to_metadata(), &input([1, 3, 224, 224])).unwrap().unwrap();
        assert_eq!(back, p);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut p = Preprocess::guess(&input([1, 3, 8, 8])).unwrap();
        for (field, value) in [
            ("size", "-3"),
            ("size", "9999999999"),
            ("scale", "0"),
            ("mean", "1,2"),
            ("std", "0"),
            ("mean", "NaN"),
            ("channels", "cmyk"),
            ("layout", "nc"),
        ] {
            assert!(p.set(field, value).is_err(), "{field}={value}");
        }
        assert!(p.with_preset("none").is_err());
    }

    #[test]
    fn layouts_and_colours() {
        let image = Pixels::new(2, 1, 3, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let mut p = Preprocess::guess(&input([1, 3, 1, 2])).unwrap().with_preset("raw").unwrap();
        assert_eq!(p.apply(image.clone()).unwrap().2, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        p.layout = Layout::Nhwc;
        p.channels = Channels::Bgr;
        assert_eq!(p.apply(image.clone()).unwrap().2, [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        p.crop = Some((2, 2));
        p.size = None;
        assert!(p.apply(image).unwrap_err().to_string().contains("--size"));
    }
}
