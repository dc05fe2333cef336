//! Networks that a line of text describes: what a search for a design changes.

use std::{fmt, str::FromStr};

use super::{
    Settings,
    builder::{Builder, Window},
};
use crate::TrainError;

/// What the blocks of a design are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Two convolutions with a shortcut around them (He et al., arXiv:1512.03385), ReLU.
    Residual,
    /// 1×1 to more channels, depthwise, 1×1 to few, with a shortcut where it fits (Sandler et al., arXiv:1801.04381), ReLU6.
    Inverted,
}

/// A row of blocks of one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stage {
    /// Channels it gives.
    pub width: usize,
    /// Blocks.
    pub blocks: usize,
    /// Pixels a side of its windows, odd.
    pub kernel: usize,
    /// Pixels the first block steps by.
    pub stride: usize,
    /// How many times the channels there are inside of a block; of inverted ones alone.
    pub expand: usize,
}

/// A network: a 3×3 convolution, stages, pooling and a classifier.
///
/// As text `residual:16,16x3,32x3s2,64x3s2` is ResNet-20: the channels of the first convolution, then of each stage its channels,
/// blocks, and, where they are not 3, 1 and 6, its kernel (`k5`), stride (`s2`) and expansion (`e4`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Design {
    /// Its blocks.
    pub family: Family,
    /// Channels of the first convolution.
    pub stem: usize,
    /// Its stages, one to eight.
    pub stages: Vec<Stage>,
}

const KERNEL: usize = 3;
const EXPAND: usize = 6;
/// More channels, and more blocks to a stage, are refused.
const MOST: [usize; 2] = [4096, 64];

impl Design {
    /// Residual stages, each but the first halving the resolution.
    pub(super) fn residual(blocks: usize) -> Design {
        let stage = |(i, width)| Stage { width, blocks, kernel: KERNEL, stride: 1 + usize::from(i > 0), expand: 1 };
        Design { family: Family::Residual, stem: 16, stages: [16, 32, 64].into_iter().enumerate().map(stage).collect() }
    }

    pub(super) fn build(&self, b: &mut Builder, settings: &Settings) -> Result<(), TrainError> {
        let mut x = b.image();
        x = b.conv_norm(x, "stem", self.stem, Window::square(3, 1), 1)?;
        x = match self.family {
            Family::Residual => b.relu(x, "stem")?,
            Family::Inverted => b.relu6(x, "stem")?,
        };
        for (i, stage) in self.stages.iter().enumerate() {
            for block in 0..stage.blocks {
                let name = format!("stage{}.{block}", i + 1);
                let window = Window::square(stage.kernel, if block == 0 { stage.stride } else { 1 });
                x = match self.family {
                    Family::Residual => residual(b, x, &name, stage.width, window)?,
                    Family::Inverted => inverted(b, x, &name, stage.width, window, stage.expand)?,
                };
            }
        }
        b.classify(x, settings.classes)
    }
}

fn residual(
    b: &mut Builder,
    x: qing_graph::ValueId,
    name: &str,
    width: usize,
    window: Window,
) -> Result<qing_graph::ValueId, TrainError> {
    let (first, second) = (format!("{name}.a"), format!("{name}.b"));
    let inner = b.conv_norm(x, &first, width, window, 1)?;
    let inner = b.relu(inner, &first)?;
    let inner = b.conv_norm(inner, &second, width, Window::square(window.kernel[0], 1), 1)?;
    let straight = match window.stride == 1 && b.channels(x) == width {
        true => x,
        false => b.conv_norm(x, &format!("{name}.project"), width, Window::square(1, window.stride), 1)?,
    };
    let sum = b.add(inner, straight, &format!("{name}.add"))?;
    b.relu(sum, name)
}

pub(super) fn inverted(
    b: &mut Builder,
    x: qing_graph::ValueId,
    name: &str,
    width: usize,
    window: Window,
    expand: usize,
) -> Result<qing_graph::ValueId, TrainError> {
    let inside = b.channels(x) * expand;
    let mut inner = x;
    if expand > 1 {
        let name = format!("{name}.expand");
        inner = b.conv_norm(inner, &name, inside, Window::square(1, 1), 1)?;
        inner = b.relu6(inner, &name)?;
    }
    let depthwise = format!("{name}.depthwise");
    inner = b.conv_norm(inner, &depthwise, inside, window, inside)?;
    inner = b.relu6(inner, &depthwise)?;
    inner = b.conv_norm(inner, &format!("{name}.project"), width, Window::square(1, 1), 1)?;
    match window.stride == 1 && b.channels(x) == width {
        true => b.add(x, inner, &format!("{name}.add")),
        false => Ok(inner),
    }
}

impl fmt::Display for Design {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, usual) = match self.family {
            Family::Residual => ("residual", 1),
            Family::Inverted => ("inverted", EXPAND),
        };
        write!(f, "{family}:{}", self.stem)?;
        for s in &self.stages {
            write!(f, ",{}x{}", s.width, s.blocks)?;
            for (letter, value, usual) in [('k', s.kernel, KERNEL), ('s', s.stride, 1), ('e', s.expand, usual)] {
                if value != usual {
                    write!(f, "{letter}{value}")?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for Design {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Design, TrainError> {
        let bad = |why: &str| {
            TrainError::invalid(format!(
                "design `{text}`: {why}; write for example residual:16,16x3,32x3s2,64x3s2 or inverted:16,16x1e1,24x2k5s2"
            ))
        };
        let (family, rest) = text.split_once(':').ok_or_else(|| bad("`:` is missing"))?;
        let (family, expand) = match family.trim() {
            "residual" => (Family::Residual, 1),
            "inverted" => (Family::Inverted, EXPAND),
            other => return Err(bad(&format!("there is no family `{other}`"))),
        };
        let mut parts = rest.split(',').map(str::trim);
        let number = |text: &str, most: usize| text.parse().ok().filter(|n| (1..=most).contains(n));
        let stem = parts.next().and_then(|s| number(s, MOST[0])).ok_or_else(|| bad("the first width is no number"))?;
        let stages = parts.map(|part| {
            let stage = || -> Option<Stage> {
                let (width, rest) = part.split_once('x')?;
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let mut stage = Stage {
                    width: number(width, MOST[0])?,
                    blocks: number(&rest[..end], MOST[1])?,
                    kernel: KERNEL,
                    stride: 1,
                    expand,
                };
                let mut rest = &rest[end..];
                while let Some(letter) = rest.chars().next() {
                    let digits = rest.get(1..)?;
                    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                    let value = digits[..end].parse().ok()?;
                    match letter {
                        'k' if value % 2 == 1 && value < 12 => stage.kernel = value,
                        's' if (1..=4).contains(&value) => stage.stride = value,
                        'e' if (1..=16).contains(&value) && family == Family::Inverted => stage.expand = value,
                        _ => return None,
                    }
                    rest = &digits[end..];
                }
                Some(stage)
            };
            stage().ok_or_else(|| bad(&format!("`{part}` is no stage")))
        });
        let stages: Vec<Stage> = stages.collect::<Result<_, _>>()?;
        if !(1..=8).contains(&stages.len()) {
            return Err(bad("there are one to eight stages"));
        }
        Ok(Design { family, stem, stages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn designs_are_read_and_written() {
        for text in ["residual:16,16x3,32x3s2,64x3s2", "inverted:8,16x1e1,24x2k5s2,40x3s2e4"] {
            assert_eq!(text.parse::<Design>().unwrap().to_string(), text);
        }
        assert_eq!(Design::residual(3).to_string(), "residual:16,16x3,32x3s2,64x3s2");
        for bad in [
            "residual",
            "dense:16,16x1",
            "residual:16",
            "residual:0,16x1",
            "residual:16,16",
            "residual:16,16x1k4",
            "residual:16,16x1e2",
            "residual:16,16x1é",
        ] {
            let error = bad.parse::<Design>().unwrap_err().to_string();
            assert!(error.contains("for example"), "{error}");
        }
    }
}
