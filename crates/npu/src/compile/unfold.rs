//! First layers of few channels: the host lays out windows instead of pixels.
//!
//! A pixel of three channels fills three of 64 lanes, and every tap is a read. Where the host brings, for every output pixel (or for several side by side),
//! the whole row of a window as the channels of one pixel, a tap row is one read, and output pixels side by side are computed as
//! further output channels. What the chip reads from outside grows by what windows overlap; it is chosen by the cycles of the slower of both.

use super::{
    image::{form, reduction},
    network::{Kind, Network, Unfold, Window},
};
use crate::Config;

/// Unfolds inputs where that makes their layer faster.
pub(super) fn unfold(network: &mut Network, config: &Config) {
    for port in 0..network.inputs.len() {
        let tensor = network.inputs[port].view.tensor;
        let readers: Vec<usize> = (0..network.layers.len()).filter(|l| reads(network, *l, tensor)).collect();
        let [layer] = readers[..] else { continue };
        let Some(merge) = choose(network, config, layer) else { continue };
        apply(network, port, layer, merge);
    }
}

fn reads(network: &Network, layer: usize, tensor: usize) -> bool {
    super::layout::inputs(&network.layers[layer].kind, network.layers[layer].input).contains(&tensor)
}

/// How many output pixels side by side to compute as one, if unfolding pays.
fn choose(network: &Network, config: &Config, l: usize) -> Option<usize> {
    let layer = &network.layers[l];
    let Kind::Dense { weights, window } = &layer.kind else { return None };
    let (input, output) = (&network.tensors[layer.input], &network.tensors[layer.output]);
    if window.dilation != [1, 1] || window.kernel[1] == 1 || input.unpacked || layer.channels != output.channels {
        return None;
    }
    let bits = form(weights)?.bits;
    let cost = |pixels: usize, channels: usize, taps: usize, outputs: usize, words: usize| {
        let groups = reduction(channels, taps).groups;
        let tile = (groups * input.bits * bits).max(taps * input.bits).max(config.rows);
        let array = pixels.div_ceil(config.rows) * outputs.div_ceil(config.columns) * tile;
        // The array begins when an eighth of the words is there.
        let fetch = words * input.bits;
        (array.max(fetch) + fetch.min(array) / 8, fetch)
    };
    let lanes = input.channels.next_power_of_two();
    let words = (input.pixels() * lanes).div_ceil(64);
    let plain = cost(output.pixels(), input.channels, window.taps(), layer.channels, words);
    let mut best = (plain, None);
    for merge in [1usize, 2, 4, 8] {
        let width = window.kernel[1] + (merge - 1) * window.stride[1];
        let channels = width * input.channels;
        let merges = merge == 1
            || (!output.unpacked
                && output.channels >= 8
                && output.channels.is_power_of_two()
                && merge * output.channels <= 64
                && output.bits <= 8);
        if channels > 64 || !output.width.is_multiple_of(merge) || !merges {
            continue;
        }
        let pixels = input.height * output.width / merge;
        let words = (pixels * channels.next_power_of_two()).div_ceil(64);
        let outputs = layer.channels * merge;
        let this = cost(output.pixels() / merge, channels, window.kernel[0], outputs, words);
        if this < best.0 {
            best = (this, Some(merge));
        }
    }
    best.1
}

fn apply(network: &mut Network, port: usize, l: usize, merge: usize) {
    let layer = &mut network.layers[l];
    let Kind::Dense { weights, window } = &layer.kind else { return };
    let width = window.kernel[1] + (merge - 1) * window.stride[1];
    let tensor = &network.tensors[layer.input];
    let (channels, [kh, kw], outputs) = (tensor.channels, window.kernel, layer.channels);
    let wide = width * channels;
    let mut unfolded = vec![0i16; merge * outputs * kh * wide];
    for q in 0..merge {
        for o in 0..outputs {
            for t in 0..kh * kw {
                for c in 0..channels {
                    let to = ((q * outputs + o) * kh + t / kw) * wide + (t % kw + q * window.stride[1]) * channels + c;
                    unfolded[to] = weights[(o * kh * kw + t) * channels + c];
                }
            }
        }
    }
    network.inputs[port].unfold = Some(Unfold {
        window: width,
        step: merge * window.stride[1],
        pad: window.pad[1],
        size: [channels, tensor.height, tensor.width],
    });
    let width = network.tensors[layer.output].width / merge;
    let tensor = &mut network.tensors[layer.input];
    (tensor.width, tensor.channels) = (width, wide);
    let window = Window { kernel: [kh, 1], stride: [window.stride[0], 1], pad: [window.pad[0], 0], ..Window::POINT };
    layer.kind = Kind::Dense { weights: unfolded, window };
    layer.channels = outputs * merge;
    layer.merge = merge;
    if layer.finish.bias.len() > 1 {
        layer.finish.bias = layer.finish.bias.repeat(merge);
    }
    if layer.finish.scale.len() > 1 {
        layer.finish.scale = layer.finish.scale.repeat(merge);
    }
}
