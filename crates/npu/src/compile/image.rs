//! Weights, parameters and tables as the words that the chip holds.

use super::network::{Finish, Kind, Layer};
use crate::{Config, config::TAPS};

/// How the weights of a dense layer are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WeightForm {
    /// Planes.
    pub bits: usize,
    /// The top plane is negative.
    pub signed: bool,
    /// −1 and +1, coded 0 and 1.
    pub bipolar: bool,
}

/// The fewest planes that hold these weights; `None` if eight are not enough.
pub(super) fn form(weights: &[i16]) -> Option<WeightForm> {
    if weights.iter().all(|w| *w == 1 || *w == -1) {
        return Some(WeightForm { bits: 1, signed: false, bipolar: true });
    }
    let (low, high) = weights.iter().fold((0, 0), |(l, h), w| (*w.min(&l), *w.max(&h)));
    let bits = if low >= 0 {
        (1..=8).find(|b| high < 1 << b)
    } else {
        (1..=8).find(|b| low >= -(1 << (b - 1)) && high < 1 << (b - 1))
    };
    bits.map(|bits| WeightForm { bits, signed: low < 0, bipolar: false })
}

/// How the reduction of a dense layer is cut into groups of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reduction {
    /// log2 of taps per group.
    pub lg_taps: usize,
    /// Groups of 64 channels.
    pub channel_groups: usize,
    /// Channels of the last.
    pub last_channels: usize,
    /// Groups of lanes.
    pub groups: usize,
}

/// The cut for a layer of `channels` inputs and `taps` taps.
pub(super) fn reduction(channels: usize, taps: usize) -> Reduction {
    let channel_groups = channels.div_ceil(64);
    let last_channels = channels - 64 * (channel_groups - 1);
    let lanes = channels.next_power_of_two().max(4);
    let lg_taps = if taps > 1 && lanes < 64 { (64 / lanes).trailing_zeros() as usize } else { 0 };
    let groups = if lg_taps == 0 { taps * channel_groups } else { taps.div_ceil(1 << lg_taps) };
    Reduction { lg_taps, channel_groups, last_channels, groups }
}

/// The parts of the weight words of a dense layer, in order of tiles, groups and planes.
pub(super) fn dense(
    weights: &[i16],
    outputs: usize,
    taps: usize,
    channels: usize,
    form: WeightForm,
    config: &Config,
) -> Vec<u64> {
    let cut = reduction(channels, taps);
    let columns = config.columns;
    let tiles = outputs.div_ceil(columns);
    let mut words = vec![0u64; tiles * cut.groups * form.bits * columns];
    for o in 0..outputs {
        let (tile, column) = (o / columns, o % columns);
        for t in 0..taps {
            for c in 0..channels {
                let w = weights[(o * taps + t) * channels + c];
                let code = if form.bipolar { u64::from(w > 0) } else { w as u64 };
                let (group, lane) = if cut.lg_taps == 0 {
                    (t * cut.channel_groups + c / 64, c % 64)
                } else {
                    (t >> cut.lg_taps, (t & ((1 << cut.lg_taps) - 1)) * (64 >> cut.lg_taps) + c)
                };
                let first = (tile * cut.groups + group) * form.bits;
                for j in 0..form.bits {
                    words[(first + j) * columns + column] |= (code >> j & 1) << lane;
                }
            }
        }
    }
    words
}

/// The parts of the weight words of a depthwise layer, in order of groups and blocks; for `copies` pixels in a word.
pub(super) fn depthwise(
    weights: &[i8],
    channels: usize,
    kernel: [usize; 2],
    copies: usize,
    config: &Config,
) -> Vec<u64> {
    let [kh, kw] = kernel;
    let (rows, columns) = (kh.div_ceil(3), kw.div_ceil(3));
    let block = config.tap_words() * config.columns;
    let mut words = vec![0u64; channels.div_ceil(64) * rows * columns * block];
    let lanes = 64 / copies;
    for (copy, c) in (0..copies).flat_map(|k| (0..channels).map(move |c| (k, c))) {
        for y in 0..kh {
            for x in 0..kw {
                let b = (c / 64) * rows * columns + (y / 3) * columns + x / 3;
                let tap = 3 * (y % 3) + x % 3;
                debug_assert!(tap < TAPS);
                let lane = copy * lanes + c % 64;
                let part = b * block + tap * 8 + lane / 8;
                words[part] |= u64::from(weights[c * kh * kw + y * kw + x] as u8) << (8 * (lane % 8));
            }
        }
    }
    words
}

/// The parameter vectors of a layer, and whether they advance with the channels; for `copies` pixels in a word.
pub(super) fn parameters(layer: &Layer, copies: usize, config: &Config) -> (Vec<u64>, bool) {
    let Finish { bias, scale, .. } = &layer.finish;
    let columns = config.columns;
    let one = bias.len() == 1 && scale.len() == 1;
    let dense = matches!(layer.kind, Kind::Dense { .. });
    let count = if one && !dense {
        columns
    } else if dense {
        layer.channels.div_ceil(columns) * columns
    } else {
        layer.channels.div_ceil(64) * 64
    };
    let lanes = if copies > 1 { 64 / copies } else { count };
    let at = |values: usize, c: usize| if values == 1 { 0 } else { (c % lanes).min(values - 1) };
    let words = (0..count)
        .map(|c| {
            let b = bias[at(bias.len(), c)] as u32;
            u64::from(b) | u64::from(scale[at(scale.len(), c)].to_bits()) << 32
        })
        .collect();
    (words, !one)
}
