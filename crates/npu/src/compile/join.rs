//! Joined channels that do not begin where the chip can write them.
//!
//! Results come in vectors of as many channels as the array has columns, at multiples of that. An operand of a concatenation that would
//! straddle two groups of 64 channels is therefore multiplied by a matrix on the array that moves its channels to where a vector begins. The
//! channels before it that this overwrites are those of the operands before it, which are written afterwards.

use super::network::{Kind, Layer, Network, Window};
use crate::Config;

/// Makes the operands of concatenations begin at multiples of the chip's columns.
pub(super) fn align(network: &mut Network, config: &Config) {
    let mut first = 0;
    while first < network.layers.len() {
        let output = network.layers[first].output;
        let run = network.layers[first..].iter().take_while(|l| l.output == output).count();
        let operands = &mut network.layers[first..first + run];
        if operands.iter().any(|l| straddles(l, config)) {
            for layer in operands.iter_mut().filter(|l| straddles(l, config)) {
                shift(layer, network.tensors[layer.input].channels, config);
            }
            operands.reverse();
        }
        first += run;
    }
}

/// Whether a layer's vectors would cross from one group of 64 channels into the next.
fn straddles(layer: &Layer, config: &Config) -> bool {
    let lane = layer.first_channel % 64;
    matches!(layer.kind, Kind::Sum { window: Window::POINT, repeat: [1, 1] })
        && !lane.is_multiple_of(config.columns)
        && lane + layer.channels > 64
}

/// Makes a copy of channels a product on the array that begins earlier, with channels of zeros.
fn shift(layer: &mut Layer, channels: usize, config: &Config) {
    let before = layer.first_channel % config.columns;
    layer.first_channel -= before;
    layer.channels = before + channels;
    let mut weights = vec![0i16; layer.channels * channels];
    for c in 0..channels {
        weights[(before + c) * channels + c] = 1;
    }
    layer.kind = Kind::Dense { weights, window: Window::POINT };
}
