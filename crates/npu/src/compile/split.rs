//! Weights that are brought in with every frame: layers are cut until two fit the memory side by side.
//!
//! While one part is computed the next is brought in. Parts are output channels, in whole tiles of columns.

use super::{
    image::{form, reduction},
    network::{Kind, Layer, Network},
};
use crate::Config;

/// Cuts large layers of a network whose weights do not fit as a whole.
pub(super) fn split(network: &mut Network, config: &Config) {
    let sizes: Vec<Size> = network.layers.iter().map(|l| size(network, l, config)).collect();
    if sizes.iter().map(|s| s.tile * s.tiles).sum::<usize>() <= config.weight_words {
        return;
    }
    let layers = std::mem::take(&mut network.layers);
    for (layer, size) in layers.into_iter().zip(sizes) {
        let fit = (config.weight_words / 2).checked_div(size.tile).unwrap_or(size.tiles);
        if size.tiles <= fit || fit == 0 || layer.merge > 1 {
            network.layers.push(layer);
            continue;
        }
        // Parts of about the same size.
        let each = size.tiles.div_ceil(size.tiles.div_ceil(fit)) * config.columns;
        for first in (0..layer.channels).step_by(each) {
            network.layers.push(part(&layer, first, each.min(layer.channels - first)));
        }
    }
}

/// Words of a layer's weights.
struct Size {
    /// Of one tile of columns.
    tile: usize,
    tiles: usize,
}

fn size(network: &Network, layer: &Layer, config: &Config) -> Size {
    let Kind::Dense { weights, window } = &layer.kind else { return Size { tile: 0, tiles: 1 } };
    let groups = reduction(network.tensors[layer.input].channels, window.taps()).groups;
    Size { tile: groups * form(weights).map_or(0, |f| f.bits), tiles: layer.channels.div_ceil(config.columns) }
}

/// Some output channels of a layer.
fn part(layer: &Layer, first: usize, channels: usize) -> Layer {
    fn some<T: Copy>(values: &[T], first: usize, count: usize) -> Vec<T> {
        if values.len() == 1 { values.to_vec() } else { values[first..first + count].to_vec() }
    }
    let mut part = Layer { first_channel: layer.first_channel + first, channels, ..layer.clone() };
    if let Kind::Dense { weights, .. } = &mut part.kind {
        let each = weights.len() / layer.channels;
        *weights = weights[first * each..(first + channels) * each].to_vec();
    }
    part.finish.bias = some(&layer.finish.bias, first, channels);
    part.finish.scale = some(&layer.finish.scale, first, channels);
    part.macs = layer.macs * channels as u64 / layer.channels as u64;
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::network::{Finish, Tensor, Window};

    #[test]
    fn parts_are_whole_tiles_and_lose_nothing() {
        let config = Config { weight_words: 100, ..Config::preset("nano").unwrap() };
        let tensor = |channels| Tensor {
            name: String::new(),
            height: 1,
            width: 1,
            channels,
            bits: 8,
            signed: true,
            zero: 0,
            unpacked: false,
            windowed: false,
            bipolar: false,
        };
        let finish =
            Finish { bias: (0..100).collect(), scale: vec![1.0], zero: 0, lo: -128, hi: 127, table: None, raw: false };
        let weights: Vec<i16> = (0..6400).map(|i| (i % 255 - 127) as i16).collect();
        let layer = Layer {
            name: "matmul".into(),
            op: "Gemm".into(),
            kind: Kind::Dense { weights: weights.clone(), window: Window::POINT },
            input: 0,
            output: 1,
            first_channel: 0,
            channels: 100,
            merge: 1,
            finish,
            macs: 6400,
        };
        let network = Network { tensors: vec![tensor(64), tensor(100)], layers: vec![layer], ..Network::default() };
        // Thirteen tiles of eight words; six fit half of the memory.
        let mut cut = network.clone();
        split(&mut cut, &config);
        let parts: Vec<(usize, usize)> = cut.layers.iter().map(|l| (l.first_channel, l.channels)).collect();
        assert_eq!(parts, [(0, 40), (40, 40), (80, 20)]);
        let all = |f: fn(&Layer) -> Vec<i64>| cut.layers.iter().flat_map(f).collect::<Vec<i64>>();
        let values = |l: &Layer| match &l.kind {
            Kind::Dense { weights, .. } => weights.iter().map(|w| i64::from(*w)).collect(),
            _ => vec![],
        };
        assert_eq!(all(values), weights.iter().map(|w| i64::from(*w)).collect::<Vec<i64>>());
        assert_eq!(all(|l| l.finish.bias.iter().map(|b| i64::from(*b)).collect()), (0..100).collect::<Vec<i64>>());
        assert_eq!(all(|l| vec![l.macs as i64]).iter().sum::<i64>(), 6400);
        // What fits stays as it is.
        let mut whole = network.clone();
        split(&mut whole, &Config { weight_words: 104, ..config });
        assert_eq!(whole, network);
    }
}
