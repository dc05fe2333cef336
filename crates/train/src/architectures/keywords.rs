use super::{
    Settings,
    builder::{Builder, Window},
};
use crate::TrainError;

/// A strided 10×4 convolution, four depthwise separable ones, pooling, classifier; 64 channels throughout.
pub(super) fn build(b: &mut Builder, settings: &Settings) -> Result<(), TrainError> {
    const WIDTH: usize = 64;
    let mut x = b.image();
    let window = Window::same([10, 4], 2, b.space(x));
    x = b.conv_norm(x, "stem", WIDTH, window, 1)?;
    x = b.relu(x, "stem")?;
    for block in 1..=4 {
        let (depthwise, pointwise) = (format!("block{block}.depthwise"), format!("block{block}.pointwise"));
        x = b.conv_norm(x, &depthwise, WIDTH, Window::square(3, 1), WIDTH)?;
        x = b.relu(x, &depthwise)?;
        x = b.conv_norm(x, &pointwise, WIDTH, Window::square(1, 1), 1)?;
        x = b.relu(x, &pointwise)?;
    }
    b.classify(x, settings.classes)
}
