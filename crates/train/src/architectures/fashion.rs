use super::{
    Settings,
    builder::{Builder, Window},
};
use crate::TrainError;

/// A stem, two strided convolutions each followed by a residual block, pooling, classifier.
pub(super) fn build(b: &mut Builder, settings: &Settings) -> Result<(), TrainError> {
    let mut x = b.image();
    for (name, width, stride, block) in
        [("stem", 16, 1, None), ("down1", 32, 2, Some("block1")), ("down2", 48, 2, Some("block2"))]
    {
        x = b.conv_norm(x, name, width, Window::square(3, stride), 1)?;
        x = b.relu(x, name)?;
        let Some(block) = block else { continue };
        let (first, second) = (format!("{block}.a"), format!("{block}.b"));
        let inner = b.conv_norm(x, &first, width, Window::square(3, 1), 1)?;
        let inner = b.relu(inner, &first)?;
        let inner = b.conv_norm(inner, &second, width, Window::square(3, 1), 1)?;
        let sum = b.add(x, inner, &format!("{block}.add"))?;
        x = b.relu(sum, block)?;
    }
    b.classify(x, settings.classes)
}
