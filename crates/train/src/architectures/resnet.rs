use super::{
    Settings,
    builder::{Builder, Window},
};
use crate::TrainError;

/// Three stages of 16, 32 and 64 channels with `blocks` residual blocks each.
pub(super) fn build(b: &mut Builder, settings: &Settings, blocks: usize) -> Result<(), TrainError> {
    let mut x = b.image();
    x = b.conv_norm(x, "stem", 16, Window::square(3, 1), 1)?;
    x = b.relu(x, "stem")?;
    for (stage, width) in [16, 32, 64].into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("stage{}.{block}", stage + 1);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let (first, second) = (format!("{name}.a"), format!("{name}.b"));
            let inner = b.conv_norm(x, &first, width, Window::square(3, stride), 1)?;
            let inner = b.relu(inner, &first)?;
            let inner = b.conv_norm(inner, &second, width, Window::square(3, 1), 1)?;
            let straight = match stride {
                1 => x,
                _ => b.conv_norm(x, &format!("{name}.project"), width, Window::square(1, 2), 1)?,
            };
            let sum = b.add(inner, straight, &format!("{name}.add"))?;
            x = b.relu(sum, &name)?;
        }
    }
    b.classify(x, settings.classes)
}
