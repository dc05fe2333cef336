//! What the kernel of an instruction set computes at a time: neighbouring pixels of one output row, one or two panels of
//! output channels.

use super::digits::{Digits, LANES};
use crate::geometry::ConvGeometry;
use crate::quantized::epilogue::Requantize;

/// Most runs of neighbouring words a window may fall into.
pub(super) const MOST_SEGMENTS: usize = 256;

/// One digit times one plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) digit: usize,
    pub(super) plane: usize,
    /// How far the sums move up before this pass adds to them.
    pub(super) shift: u32,
}

/// The passes of a layer, from the highest power of two to the lowest: `Σ 2^(digit + plane) …` by Horner's rule.
pub(super) fn passes(digits: usize, planes: usize) -> Vec<Pass> {
    let mut last = digits + planes - 2;
    let of_power = |power: usize| (0..digits).map(move |digit| (digit, power.wrapping_sub(digit)));
    (0..=last)
        .rev()
        .flat_map(of_power)
        .filter(|(_, plane)| *plane < planes)
        .map(|(digit, plane)| {
            let shift = (last - digit - plane) as u32;
            last = digit + plane;
            Pass { digit, plane, shift }
        })
        .collect()
}

/// The runs of neighbouring words that a window reads, as offsets from its first word, and their length.
pub(super) fn segments<'a>(
    g: &ConvGeometry,
    pitch: usize,
    words: usize,
    offsets: &'a mut [usize; MOST_SEGMENTS],
) -> (&'a [usize], usize) {
    let [rows, cols] = g.kernel;
    let (pieces, run) = if g.dilation[1] == 1 { (1, cols * words) } else { (cols, words) };
    assert!(rows * pieces <= MOST_SEGMENTS, "windows of so many taps are not packed");
    for (i, offset) in offsets[..rows * pieces].iter_mut().enumerate() {
        *offset = i / pieces * g.dilation[0] * pitch + i % pieces * g.dilation[1] * words;
    }
    (&offsets[..rows * pieces], run)
}

/// Neighbouring output pixels.
pub(super) struct Strip<'a> {
    /// All planes.
    pub(super) x: &'a [u32],
    /// The first word of the first pixel's window, in plane 0.
    pub(super) start: usize,
    /// Words from the window of one pixel to that of the next.
    pub(super) step: usize,
    /// Words from one plane to the next.
    pub(super) plane: usize,
    pub(super) segments: &'a [usize],
    /// Words of a segment.
    pub(super) run: usize,
    pub(super) passes: &'a [Pass],
    /// How far the sums move up at last: 1 where codes are two apart.
    pub(super) scale_shift: u32,
    pub(super) digits: &'a Digits,
    /// First column; one panel or two are computed from here.
    pub(super) column: usize,
    /// Columns of the layer.
    pub(super) columns: usize,
    /// `[class][padded column]`
    pub(super) bias: &'a [i32],
    /// The class of every pixel, to which `row_class` is added.
    pub(super) classes: &'a [u16],
    pub(super) row_class: usize,
    /// Per padded column.
    pub(super) scale: &'a [f32],
    /// Pixels.
    pub(super) count: usize,
}

impl Strip<'_> {
    /// Panels that this strip computes.
    pub(super) fn panels(&self) -> usize {
        ((self.digits.padded() - self.column) / LANES).min(2)
    }

    /// The bias of a pixel's first column.
    pub(super) fn bias_of(&self, pixel: usize) -> *const i32 {
        let class = self.row_class + usize::from(self.classes[pixel]);
        self.bias[class * self.digits.padded() + self.column..].as_ptr()
    }

    /// Checks that kernels that trust the strip stay inside its slices.
    pub(super) fn check(&self) {
        let most = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
        let planes = self.passes.iter().map(|p| p.plane).max().unwrap_or(0);
        let last = self.start + planes * self.plane + (self.count - 1) * self.step + most(self.segments) + self.run;
        assert!(last <= self.x.len(), "a window leaves the planes");
        assert!(self.segments.len() * self.run == self.digits.steps);
        assert!(self.passes.iter().all(|p| p.digit < self.digits.count));
        assert!(self.column.is_multiple_of(LANES) && self.column < self.columns);
        assert!(self.columns <= self.digits.padded() && self.scale.len() == self.digits.padded());
        let class = self.row_class + usize::from(self.classes.iter().copied().max().unwrap_or(0));
        assert!((class + 1) * self.digits.padded() <= self.bias.len() && self.classes.len() == self.count);
    }
}

/// Where a strip writes, from its first pixel and column on.
pub(super) enum Target<'a> {
    U8 {
        y: *mut u8,
        /// Bytes from one pixel to the next.
        stride: usize,
        to: &'a Requantize,
    },
    F32 {
        y: *mut f32,
        /// Values from one pixel to the next.
        stride: usize,
    },
    Planes {
        /// Half words of sixteen columns; the strip's first column is a multiple of 32.
        y: *mut u16,
        /// Half words from one pixel to the next.
        stride: usize,
        /// Half words from one plane to the next.
        plane: usize,
        planes: usize,
        /// To codes; its factors are those of the strip.
        to: &'a Requantize,
    },
}
