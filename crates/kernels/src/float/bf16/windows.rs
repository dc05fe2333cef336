//! A convolution by weights that come with every run: bands of an image are rounded once, with their padding, and the rows of all windows are
//! read where they lie in them.

#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use super::avx512;
use super::{LANES, LINE, MIN_DEPTH, PAIR, rounded};
use crate::cpu::has_bf16;
use crate::float::Clamp;
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use crate::float::ahead::Ahead;
use crate::float::conv::FilterLayout;
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// Bytes of a rounded band: it stays in the second-level cache beside the weights.
#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
const BAND_BYTES: usize = 64 * 1024;

/// A dense convolution of rounded factors.
#[derive(Debug, Clone)]
pub(in crate::float) struct Windows {
    geometry: ConvGeometry,
    clamp: Clamp,
    /// Output rows of a band.
    band: usize,
    /// Where there are no such instructions, there is none of these, and no code for it.
    #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
    never: std::convert::Infallible,
}

impl Windows {
    /// Whether this machine has the instructions, and the rows of windows are pairs of channels side by side, enough to gain.
    pub(in crate::float) fn pays(isa: Isa, g: &ConvGeometry) -> bool {
        isa == Isa::Avx512
            && has_bf16()
            && g.groups == 1
            && g.in_c.is_multiple_of(PAIR)
            && g.depth() >= MIN_DEPTH
            && (g.kernel[1] == 1 || g.dilation[1] == 1)
    }

    /// For a checked geometry that [`Windows::pays`] is satisfied with.
    #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
    pub(in crate::float) fn new(geometry: ConvGeometry, clamp: Clamp) -> Windows {
        let of = |band: usize| Windows { geometry, clamp, band };
        of(geometry.band(|band| of(band).band_bytes() <= BAND_BYTES))
    }

    /// There are no such geometries.
    #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
    pub(in crate::float) fn new(_: ConvGeometry, _: Clamp) -> Windows {
        unreachable!("the method is not chosen on a machine without the instructions")
    }

    /// Columns of a band: all that windows read.
    fn width(&self) -> usize {
        let g = &self.geometry;
        (g.out_w - 1) * g.stride[1] + g.kernel[1]
    }

    fn band_bytes(&self) -> usize {
        (2 * self.geometry.rows_under(self.band) * self.width() * self.geometry.in_c).next_multiple_of(LINE)
    }

    /// Pairs of a row of the window.
    fn steps(&self) -> usize {
        self.geometry.kernel[1] * self.geometry.in_c / PAIR
    }

    fn panel_bytes(&self) -> usize {
        self.geometry.kernel[0] * self.steps() * LINE
    }

    /// Packed weights, in values of four bytes.
    pub(in crate::float) fn weights_len(&self) -> usize {
        self.geometry.out_c.div_ceil(LANES) * self.panel_bytes() / 4
    }

    /// Packed bias: whole panels.
    pub(in crate::float) fn bias_len(&self) -> usize {
        self.geometry.out_c.next_multiple_of(LANES)
    }

    /// Bands of so many threads, in values of four bytes.
    pub(in crate::float) fn scratch_len(&self, threads: usize) -> usize {
        threads.max(1) * self.band_bytes() / 4
    }

    /// Rounds and packs weights that a layout, which has been checked, finds in `from`: `[panel][row and column of the window][pair of
    /// channels][column of 16][two]`.
    pub(in crate::float) fn pack_weights(&self, from: &[f32], layout: &FilterLayout, into: &mut [f32], pool: &Pool) {
        let g = &self.geometry;
        let into = SharedMut::new(bytemuck::cast_slice_mut::<f32, u16>(into));
        let panel_len = self.panel_bytes() / 2;
        pool.run(g.out_c.div_ceil(LANES), &|panel| {
            // SAFETY: panels are distinct ranges.
            let into = unsafe { into.slice(panel * panel_len..(panel + 1) * panel_len) };
            let outputs = panel * LANES..g.out_c.min((panel + 1) * LANES);
            let mut lines = into.chunks_exact_mut(LINE / 2);
            for tap in 0..g.taps() {
                for pair in (0..g.in_c).step_by(PAIR) {
                    let Some(line) = lines.next() else { return };
                    line.fill(0);
                    for (output, values) in outputs.clone().zip(line.chunks_exact_mut(PAIR)) {
                        let at = layout.at(0, output, pair, tap / g.kernel[1], tap % g.kernel[1]);
                        values[0] = rounded(from[at]);
                        values[1] = rounded(from[at.wrapping_add_signed(layout.steps[2])]);
                    }
                }
            }
        });
    }

    /// As [`crate::float::conv::Conv::run`], with packed weights and bias (empty for none).
    pub(in crate::float) fn run(
        &self,
        weights: &[f32],
        bias: &[f32],
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        let g = &self.geometry;
        expect_len("packed weights", weights.len(), self.weights_len())?;
        expect_len("packed bias", bias.len(), if bias.is_empty() { 0 } else { self.bias_len() })?;
        expect_len("input", x.len(), g.input_len())?;
        expect_len("output", y.len(), g.output_len())?;
        residual.map_or(Ok(()), |residual| expect_len("residual", residual.len(), y.len()))?;
        let least = self.scratch_len(pool.threads());
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let (bands, bytes) = (g.out_h.div_ceil(self.band), self.band_bytes());
        let scratch = SharedMut::new(bytemuck::cast_slice_mut::<f32, u8>(scratch));
        let y = SharedMut::new(y);
        pool.run_indexed(g.batch * bands, &|worker, chunk| {
            let (image, first) = (chunk / bands, chunk % bands * self.band);
            // SAFETY: a worker runs one chunk at a time and its range is its own.
            let rounded = unsafe { scratch.slice(worker * bytes..(worker + 1) * bytes) };
            let image_len = g.in_h * g.in_w * g.in_c;
            let input = &x[image * image_len..][..image_len];
            self.band(weights, bias, input, residual, &y, rounded, [image, first]);
        });
        Ok(())
    }

    /// The band of an image from an output row on.
    fn band(
        &self,
        weights: &[f32],
        bias: &[f32],
        input: &[f32],
        residual: Option<&[f32]>,
        y: &SharedMut<'_, f32>,
        rounded: &mut [u8],
        [image, first]: [usize; 2],
    ) {
        #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
        {
            let g = &self.geometry;
            let rows = self.band.min(g.out_h - first);
            let line = 2 * self.width() * g.in_c;
            let top = first * g.stride[0];
            let three = (g.kernel[1] == 3 && g.stride[1] == 1).then_some(g.in_c / PAIR);
            for (row, to) in rounded.chunks_exact_mut(line).take(g.rows_under(rows)).enumerate() {
                match (top + row).checked_sub(g.pad_top).filter(|row| *row < g.in_h) {
                    Some(row) => {
                        let before = (2 * g.pad_left * g.in_c).min(line);
                        let (left, to) = to.split_at_mut(before);
                        let from = &input[row * g.in_w * g.in_c..][..g.in_w * g.in_c];
                        let from = &from[..from.len().min(to.len() / 2)];
                        let (middle, right) = to.split_at_mut(2 * from.len());
                        left.fill(0);
                        right.fill(0);
                        // SAFETY: the machine has the instructions, or the method would not have been chosen.
                        unsafe { avx512::round(from, middle) };
                    }
                    None => to.fill(0),
                }
            }
            // Rows fetch their shares of the band that comes next.
            let (row_len, end) = (g.in_w * g.in_c, (top + g.rows_under(rows)).saturating_sub(g.pad_top));
            let next = Ahead::new(input, end * row_len, rows * g.stride[0] * row_len, rows);
            for row in 0..rows {
                next.lines(row).for_each(avx512::prefetch);
                let at = ((image * g.out_h + first + row) * g.out_w) * g.out_c;
                assert!(at + g.out_w * g.out_c <= y.len() && residual.is_none_or(|r| r.len() == y.len()));
                let block = avx512::Block {
                    a: &rounded[row * g.stride[0] * line..],
                    stride: 2 * g.stride[1] * g.in_c,
                    rows: g.out_w,
                    pieces: g.kernel[0],
                    piece: g.dilation[0] * line,
                    steps: self.steps(),
                    three,
                    weights: bytemuck::cast_slice(weights),
                    bias,
                    clamp: self.clamp,
                    columns: g.out_c,
                    residual: residual.map(|r| r[at..].as_ptr()),
                    y: y.as_mut_ptr().wrapping_add(at),
                    y_stride: g.out_c,
                };
                // SAFETY: the machine has the instructions; the windows of the row lie in the band, and the row's results are this chunk's.
                unsafe { avx512::block(&block) };
            }
        }
        #[cfg(not(all(target_arch = "x86_64", feature = "avx512")))]
        {
            let _ = (weights, bias, input, residual, y, rounded, image, first, self.clamp);
            match self.never {}
        }
    }
}
