//! Weights of four, two or 1.6 bits in the order the kernels read them.

use std::sync::OnceLock;

use crate::aligned::Aligned;
use crate::cpu::Isa;
use crate::prepacked::Tag;
use crate::quantized::IntegerSource;
use crate::quantized::versions::per_isa;

/// Most panels that lie side by side, so that a product with few rows reads one run of bytes.
pub(super) use crate::quantized::panelled::{BUNDLE, LANES};
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

    /// The width whose bytes hold so many weights.
    pub(super) fn holding(weights: i32) -> Option<Width> {
        [Width::Four, Width::Two, Width::Ternary].into_iter().find(|width| width.per_byte() as i32 == weights)
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

    /// The bytes that hold these weights, those of four taps at once: a word is one of each tap, the one of the first step first.
    fn bytes(self, steps: [u32; 5]) -> [u8; TAPS] {
        const EACH: u32 = 0x0101_0101;
        let [a, b, c, d, _] = steps;
        match self {
            Width::Four => (a << 4 & (0xf0 * EACH) | b & (0x0f * EACH)).to_le_bytes(),
            Width::Two => {
                let pair = |w: u32| w & (3 * EACH);
                (pair(a) << 6 | pair(b) << 4 | pair(c) << 2 | pair(d)).to_le_bytes()
            }
            Width::Ternary => {
                // One more than each digit, without a carry into the next byte.
                let digit = |w: u32| ((w & (3 * EACH)) + EACH) & (3 * EACH);
                let codes = steps.iter().fold(0, |codes, w| 3 * codes + digit(*w));
                codes.to_le_bytes().map(|code| trits()[usize::from(code)])
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
    pub(super) fn new(
        isa: Isa,
        width: Width,
        weights: IntegerSource<'_>,
        [columns, depth, group]: [usize; 3],
    ) -> Packed {
        let bundle = if isa == Isa::Avx512 { BUNDLE } else { 1 };
        let (panels, groups, steps) = (columns.div_ceil(LANES), depth.div_ceil(group), group.div_ceil(TAPS));
        let lines = steps.div_ceil(width.per_byte());
        let tag = Tag::new("narrow", &[width.per_byte(), columns, depth, group, bundle]);
        let bytes = Aligned::packed(tag, panels * groups * lines * LINE, |bytes| {
            let weights: &[i8] = weights;
            let per_line = width.per_byte() * TAPS;
            // What a bundle of panels is, group by group: a line is of all its columns. Columns that are not there read zeros.
            for (first, into) in (0..panels).step_by(bundle).zip(bytes.chunks_mut(bundle * groups * lines * LINE)) {
                let side = bundle.min(panels - first) * LANES;
                for g in 0..groups {
                    let into = &mut into[g * lines * side * TAPS..][..lines * side * TAPS];
                    for column in 0..side {
                        let own = match LANES * first + column {
                            c if c < columns => &weights[c * depth + g * group..c * depth + depth.min((g + 1) * group)],
                            _ => &[],
                        };
                        for line in 0..lines {
                            let mut taken = [0u32; 5];
                            let from = &own[own.len().min(line * per_line)..own.len().min((line + 1) * per_line)];
                            for (word, taps) in taken.iter_mut().zip(from.chunks(TAPS)) {
                                let mut each = [0u8; TAPS];
                                each.iter_mut().zip(taps).for_each(|(to, tap)| *to = *tap as u8);
                                *word = u32::from_le_bytes(each);
                            }
                            let to = &mut into[(line * side + column) * TAPS..][..TAPS];
                            to.copy_from_slice(&width.bytes(taken).map(|byte| byte as i8));
                        }
                    }
                }
            }
        });
        Packed { bytes, width, steps, lines, groups, panels, bundle }
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

    /// Bytes of the weights as bytes, if all steps are summed at once.
    pub(super) fn spread_bytes(&self) -> usize {
        self.panels * self.steps * LINE
    }

    /// All weights as bytes, `[bundle][step][column of the bundle][tap of four]`. There is one group.
    pub(super) fn spread(&self, isa: Isa, to: &mut [i8]) {
        debug_assert_eq!(self.groups, 1);
        let bundles = self.bytes.chunks(self.bundle * self.lines * LINE);
        for (from, to) in bundles.zip(to.chunks_mut(self.bundle * self.steps * LINE)) {
            let line = from.len() / self.lines;
            for (from, to) in from.chunks_exact(line).zip(to.chunks_mut(self.width.per_byte() * line)) {
                spread(isa, self.width, from, to);
            }
        }
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

per_isa! {
    /// Takes the weights of several steps out of a line of a bundle, as long as there is room for a step.
    fn spread(width: Width, line: &[i8], to: &mut [i8]) {
        let mut bytes = [0u8; BUNDLE * LINE];
        let bytes = &mut bytes[..line.len()];
        bytes.iter_mut().zip(line).for_each(|(to, from)| *to = *from as u8);
        for step in to.chunks_exact_mut(line.len()) {
            let weights = step.iter_mut().zip(&mut *bytes);
            // One loop for each width, which the compiler makes vectors of.
            match width {
                Width::Four => weights.for_each(|(weight, byte)| *weight = Width::Four.take(byte)),
                Width::Two => weights.for_each(|(weight, byte)| *weight = Width::Two.take(byte)),
                Width::Ternary => weights.for_each(|(weight, byte)| *weight = Width::Ternary.take(byte)),
            }
        }
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
                let [mut byte, ..] = width.bytes(weights.map(|w| u32::from(w as u8)));
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
