//! Ops that only choose among pixels and channels (slices, pads, splits, shuffled channels, space to depth), as dots with one weight that is 1.

use super::network::Window;

/// Most rows or columns of taps that a choice may span.
const REACH: usize = 8;

/// Where the values of an image come from: output channel c at (y, x) is the input's channel at (y · stride + offset), or the zero point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    /// For every output channel an input channel and offsets in rows and columns; nothing for one that is all zero.
    sources: Vec<Option<(usize, [i64; 2])>>,
    /// Rows and columns of the input from an output pixel to the next.
    stride: [usize; 2],
}

impl Selection {
    /// From what an op does with positions: `picked[i]` is the place in the input (channels, rows, columns) that output `i` comes from, nothing
    /// where it is zero. Nothing if the op does something else with them.
    pub(super) fn of(from: [usize; 3], to: [usize; 3], picked: &[Option<usize>]) -> Option<Selection> {
        let [channels, height, width] = to;
        let at = |c: usize, y: usize, x: usize| {
            let place = picked[(c * height + y) * width + x]?;
            Some((place / (from[1] * from[2]), [(place / from[2] % from[1]) as i64, (place % from[2]) as i64]))
        };
        let pixels = || (0..channels * height * width).map(|i| (i / (height * width), i / width % height, i % width));
        // The first two neighbours that both come from the input say how far apart such are.
        let step = |axis: usize| {
            let next = |y, x| if axis == 0 { (y + 1, x) } else { (y, x + 1) };
            let apart = pixels().find_map(|(c, y, x)| {
                let (ny, nx) = next(y, x);
                let near = (ny < height && nx < width).then(|| at(c, ny, nx))??;
                Some(near.1[axis] - at(c, y, x)?.1[axis])
            });
            usize::try_from(apart.unwrap_or(1)).ok().filter(|s| *s > 0)
        };
        let stride = [step(0)?, step(1)?];
        let mut sources = vec![None; channels];
        for (c, y, x) in pixels() {
            if let (None, Some((source, [row, column]))) = (sources[c], at(c, y, x)) {
                sources[c] = Some((source, [row - (y * stride[0]) as i64, column - (x * stride[1]) as i64]));
            }
        }
        let expected = |c: usize, y: usize, x: usize| {
            let (source, offset) = sources[c]?;
            let [row, column] = [(y * stride[0]) as i64 + offset[0], (x * stride[1]) as i64 + offset[1]];
            let inside = (0..from[1] as i64).contains(&row) && (0..from[2] as i64).contains(&column);
            inside.then_some((source, [row, column]))
        };
        pixels().all(|(c, y, x)| at(c, y, x) == expected(c, y, x)).then_some(Selection { sources, stride })
    }

    /// The window in which all sources of an output pixel lie, and the weights `[output][tap][channel]` that choose among `channels`; nothing if
    /// the window is too large.
    pub(super) fn dot(&self, channels: usize) -> Option<(Window, Vec<i16>)> {
        let offsets = || self.sources.iter().flatten().map(|s| s.1);
        let (mut kernel, mut pad) = ([1, 1], [0, 0]);
        for axis in 0..2 {
            let least = offsets().map(|o| o[axis]).min().unwrap_or(0);
            let most = offsets().map(|o| o[axis]).max().unwrap_or(0);
            pad[axis] = usize::try_from(-least).unwrap_or(0);
            kernel[axis] = usize::try_from(most + pad[axis] as i64 + 1).ok()?.max(1);
        }
        if kernel.iter().chain(&pad).any(|n| *n > REACH) {
            return None;
        }
        let taps = kernel[0] * kernel[1];
        let mut weights = vec![0; self.sources.len() * taps * channels];
        for (o, source) in self.sources.iter().enumerate() {
            let Some((channel, offset)) = source else { continue };
            let [row, column] = [0, 1].map(|axis| (offset[axis] + pad[axis] as i64) as usize);
            weights[(o * taps + row * kernel[1] + column) * channels + channel] = 1;
        }
        Some((Window { kernel, stride: self.stride, pad, ..Window::POINT }, weights))
    }

    /// Whether an output channel comes from the input; it is all zero otherwise.
    pub(super) fn comes_from_input(&self, channel: usize) -> bool {
        self.sources[channel].is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_pixel_between_channels_of_zeros() {
        // Two channels of 4 × 4 become four of 2 × 2, the middle ones from the input: the shortcut of a ResNet for CIFAR-10.
        let mut picked = vec![None; 16];
        for c in 0..2 {
            for (i, [y, x]) in [[0, 0], [0, 2], [2, 0], [2, 2]].iter().enumerate() {
                picked[(c + 1) * 4 + i] = Some(c * 16 + y * 4 + x);
            }
        }
        let selection = Selection::of([2, 4, 4], [4, 2, 2], &picked).unwrap();
        let (window, weights) = selection.dot(2).unwrap();
        assert_eq!(window, Window { stride: [2, 2], ..Window::POINT });
        assert_eq!(weights, [0, 0, 1, 0, 0, 1, 0, 0]);
        assert_eq!([0, 1, 2, 3].map(|c| selection.comes_from_input(c)), [false, true, true, false]);
    }

    #[test]
    fn rows_moved_down_are_padding() {
        // [a b c] becomes [0 a b]: the tap before.
        let selection = Selection::of([1, 1, 3], [1, 1, 3], &[None, Some(0), Some(1)]).unwrap();
        let (window, weights) = selection.dot(1).unwrap();
        assert_eq!((window.kernel, window.pad, window.stride), ([1, 1], [0, 1], [1, 1]));
        assert_eq!(weights, [1]);
    }

    #[test]
    fn what_is_no_choice_of_pixels_is_refused() {
        // Mirrored; one of three; a zero in the middle; a pixel twice.
        for picked in [
            [Some(2), Some(1), Some(0)],
            [Some(0), Some(2), Some(1)],
            [Some(0), None, Some(2)],
            [Some(0), Some(0), Some(1)],
        ] {
            assert_eq!(Selection::of([1, 1, 3], [1, 1, 3], &picked), None, "{picked:?}");
        }
        let far = Selection::of([1, 1, 40], [1, 1, 4], &[Some(30), Some(31), Some(32), Some(33)]).unwrap();
        assert_eq!(far.dot(1), None);
    }
}
