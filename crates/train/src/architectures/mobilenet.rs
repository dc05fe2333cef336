use super::{
    Settings,
    builder::{Builder, Window},
    design::inverted,
};
use crate::TrainError;

/// Expansion, channels, blocks and first stride of each stage, as published for width 1.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
const WIDTH: f64 = 0.35;
/// Images smaller than this keep their size in the first two reductions.
const SMALL: usize = 64;

/// A number of channels at reduced width: a multiple of 8, not more than a tenth below the wish.
fn scaled(channels: usize) -> usize {
    let wish = channels as f64 * WIDTH;
    let near = (((wish + 4.0) / 8.0) as usize * 8).max(8);
    if (near as f64) < 0.9 * wish { near + 8 } else { near }
}

pub(super) fn build(b: &mut Builder, settings: &Settings) -> Result<(), TrainError> {
    let mut x = b.image();
    let small = b.space(x).iter().any(|n| *n < SMALL);
    x = b.conv_norm(x, "stem", scaled(32), Window::square(3, if small { 1 } else { 2 }), 1)?;
    x = b.relu6(x, "stem")?;
    for (stage, (expand, channels, blocks, stride)) in STAGES.into_iter().enumerate() {
        let stride = if small && stage == 1 { 1 } else { stride };
        for block in 0..blocks {
            let name = format!("stage{}.{block}", stage + 1);
            let window = Window::square(3, if block == 0 { stride } else { 1 });
            x = inverted(b, x, &name, scaled(channels), window, expand)?;
        }
    }
    x = b.conv_norm(x, "head", 1280, Window::square(1, 1), 1)?;
    x = b.relu6(x, "head")?;
    b.classify(x, settings.classes)
}
