//! Weights of four, two or 1.6 bits in the order the kernels read them.

use std::sync::OnceLock;

use crate::aligned::Aligned;
use crate::cpu::Isa;

/// Output channels of a panel.
pub(super) const LANES: usize = 16;
/// Most panels that lie side by side, so that a product with few rows reads one run of bytes.
pub(super) const BUNDLE: usize = 4;
/// Products that one step adds to each lane.
pub(super) const TAPS: usize = 4;
/// Bytes of a step's weights as bytes, and of what holds the weights of several steps.
pub(super) const LINE: usize = LANES * TAPS;

/// How weights share bytes. A byte holds the weights of the same tap and column in neighbouring steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Two weights to a byte, −8 … 7.
    Four,
    /// Four weights to a byte, −2 … 1.
    Two,
    /// Five weights to a byte, −1 … 1: 3⁵ = 243 of its 256 values.
    Ternary,
}

impl Width {
    /// The narrowest width that holds all the weights, if one does.
    #[must_use]
    pub fn of(weights: &[i8]) -> Option<Width> {
        // Of eight-bit weights, one of the first tells.
        if weights.iter().any(|w| !(-8..=7).contains(w)) {
            return None;
        }
        let (low, high) = weights.iter().fold((0, 0), |(low, high), w| (low.min(*w), high.max(*w)));
        match (low, high) {
            (-1.., ..=1) => Some(Width::Ternary),
            (-2.., ..=1) => Some(Width::Two),
            _ => Some(Width::Four),
        }
    }

    /// Weights in a byte.
    #[must_use]
    pub fn per_byte(self) -> usize {
        match self {
            Width::Four => 2,
            Width::Two => 4,
            Width::Ternary => 5,
        }
    }

    /// The name in plans and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Width::Four => "4-bit",
            Width::Two => "2-bit",
            Width::Ternary => "ternary",
        }
    }

    /// The byte that holds these weights, the one of the first step first.
    fn byte(self, weights: [i8; 5]) -> u8 {
        let [a, b, c, d, _] = weights.map(|w| w as u8);
        match self {
            Width::Four => a << 4 | b & 15,
            Width::Two => a << 6 | (b & 3) << 4 | (c & 3) << 2 | d & 3,
            Width::Ternary => {
                let code = weights.iter().fold(0, |code, w| 3 * code + (w + 1) as usize);
                trits()[code]
            }
        }
    }

    /// Takes the weight of the next step out of a byte: the definition of what the vector kernels do with 64 bytes at once.
    pub(super) fn take(self, byte: &mut u8) -> i8 {
        match self {
            Width::Four => {
                let weight = *byte as i8 >> 4;
                *byte <<= 4;
                weight
            }
            Width::Two => {
                let weight = *byte as i8 >> 6;
                *byte <<= 2;
                weight
            }
            Width::Ternary => {
                let weight = trit(*byte);
                *byte = byte.wrapping_mul(3);
                weight
            }
        }
    }
}

/// What makes two averages round to the right third: found, with its neighbour, as the only one that tells apart all 243
/// fifths of digits.
pub(super) const TRIT_BIAS: u8 = 253;

/// The leading digit to base three of a byte, as a fraction of 256, less one. The two averages give ¾ of the byte and a
/// bias, whose two highest bits are the digit.
fn trit(byte: u8) -> i8 {
    let average = |a: u8, b: u8| (u16::from(a) + u16::from(b)).div_ceil(2) as u8;
    (average(byte, average(byte, TRIT_BIAS)) ^ 0x80) as i8 >> 6
}

/// For every five digits, the first one the most significant, a byte that [`trit`] and multiplications by three take them
/// out of.
fn trits() -> &'static [u8; 243] {
    static BYTES: OnceLock<[u8; 243]> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes = [0; 243];
        for byte in 0..=255u8 {
            let mut rest = byte;
            let digits: [i8; 5] = std::array::from_fn(|_| Width::Ternary.take(&mut rest));
            if digits.iter().all(|d| *d >= -1) {
                bytes[digits.iter().fold(0, |code, d| 3 * code + (d + 1) as usize)] = byte;
            }
        }
        bytes
    })
}

/// Packed weights: one run of bytes that could as well lie in a file,
/// `[bundle of panels][group][line][panel of the bundle][column of 16][tap of four]`.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    bytes: Aligned<i8>,
    pub(super) width: Width,
    /// Steps of four products in a group.
    pub(super) steps: usize,
    /// Lines of a group.
    pub(super) lines: usize,
    /// Groups that the depth is cut into; 1 if all of it is summed at once.
    pub(super) groups: usize,
    panels: usize,
    /// Panels that lie side by side: as many as the kernel computes at once where there are few rows.
    bundle: usize,
}

impl Packed {
    /// Packs `weights`, `[columns, depth]`, of which `group` along the depth belong together. They must fit the width.
    pub(super) fn new(isa: Isa, width: Width, weights: &[i8], [columns, depth, group]: [usize; 3]) -> Packed {
        let bundle = if isa == Isa::Avx512 { BUNDLE } else { 1 };
        let (panels, groups, steps) = (columns.div_ceil(LANES), depth.div_ceil(group), group.div_ceil(TAPS));
        let lines = steps.div_ceil(width.per_byte());
        let mut bytes = Vec::with_capacity(panels * groups * lines * LINE);
        for first in (0..panels).step_by(bundle) {
            for (g, line) in (0..groups).flat_map(|g| (0..lines).map(move |line| (g, line))) {
                let columns_of = LANES * first..LANES * (first + bundle).min(panels);
                for (column, tap) in columns_of.flat_map(|column| (0..TAPS).map(move |tap| (column, tap))) {
                    let weight = |i: usize| {
                        let k = (line * width.per_byte() + i) * TAPS + tap;
                        let inside = column < columns && k < group && g * group + k < depth && i < width.per_byte();
                        if inside { weights[column * depth + g * group + k] } else { 0 }
                    };
                    bytes.push(width.byte(std::array::from_fn(weight)) as i8);
                }
            }
        }
        Packed { bytes: Aligned::from(&bytes[..]), width, steps, lines, groups, panels, bundle }
    }

    /// Columns with those that fill up the last panel.
    pub(super) fn padded(&self) -> usize {
        self.panels * LANES
    }

    /// Where what belongs to a group of a column lies: `[bundle][group][column]`, beside what is read with it.
    pub(super) fn place(&self, group: usize, column: usize) -> usize {
        let panel = column / LANES;
        let bundle = panel / self.bundle * self.bundle * LANES;
        bundle * self.groups + group * self.line_step(panel) / TAPS + column - bundle
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes from one line of a panel to the next: a line of every panel of its bundle.
    pub(super) fn line_step(&self, panel: usize) -> usize {
        self.bundle.min(self.panels - panel / self.bundle * self.bundle) * LINE
    }

    /// The bytes from the first line of `panel` to the last one of `panels` panels of its bundle.
    pub(super) fn panels(&self, panel: usize, panels: usize) -> &[i8] {
        let (bundle, within) = (panel / self.bundle * self.bundle, panel % self.bundle);
        let lines = self.groups * self.lines;
        let start = bundle * lines * LINE + within * LINE;
        let end = start + (lines - 1) * self.line_step(panel) + panels * LINE;
        assert!((within + panels) * LINE <= self.line_step(panel), "a tile reaches over two bundles");
        &self.bytes[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_give_back_the_weights() {
        for (width, low, high) in [(Width::Four, -8i8, 7i8), (Width::Two, -2, 1), (Width::Ternary, -1, 1)] {
            let (values, count) = ((high - low + 1) as usize, width.per_byte());
            for code in 0..values.pow(count as u32) {
                let weights: [i8; 5] =
                    std::array::from_fn(
                        |i| {
                            if i < count { low + (code / values.pow(i as u32) % values) as i8 } else { 0 }
                        },
                    );
                let mut byte = width.byte(weights);
                for weight in &weights[..count] {
                    assert_eq!(width.take(&mut byte), *weight, "{width:?} {weights:?}");
                }
            }
        }
    }

    #[test]
    fn the_narrowest_width_is_chosen() {
        assert_eq!(Width::of(&[]), Some(Width::Ternary));
        assert_eq!(Width::of(&[0, 1, -1]), Some(Width::Ternary));
        assert_eq!(Width::of(&[0, 1, -2]), Some(Width::Two));
        assert_eq!(Width::of(&[2]), Some(Width::Four));
        assert_eq!(Width::of(&[7, -8]), Some(Width::Four));
        assert_eq!(Width::of(&[8]), None);
        assert_eq!(Width::of(&[-9]), None);
    }

    #[test]
    fn a_panel_takes_the_bits_it_says() {
        let weights = vec![1; 32 * 640];
        for (width, bits) in [(Width::Four, 4.0), (Width::Two, 2.0), (Width::Ternary, 1.6)] {
            let packed = Packed::new(Isa::Scalar, width, &weights, [32, 640, 640]);
            assert_eq!(packed.bytes() as f64 * 8.0 / weights.len() as f64, bits);
        }
    }
}
