//! The transpose of a convolution by its input, by weights that come with every run: the gradient of its input.
//!
//! With a stride of 1 it is the convolution by the reversed window. Else the pixels of the result fall into phases, by their place between two
//! steps of the window, and each phase is a convolution by those taps that meet it (Shi et al., "Is the deconvolution layer the same as
//! a convolutional layer?", 2016).

use super::direct::{Direct, Places};
use super::{DynamicConv, FilterLayout, Sums};
use crate::float::Clamp;
use crate::pool::SharedMut;
use crate::{ConvGeometry, Isa, KernelError, Pool, expect_len};

/// One axis of a phase: the taps that meet a place between two steps, in the order of the input, as a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Phase {
    /// Results of the phase.
    outputs: usize,
    /// Taps that meet it; 0 if none does.
    taps: usize,
    /// The tap that meets the first pixel of the input.
    first_tap: usize,
    /// From one tap to the next, counted down.
    tap_step: usize,
    /// Pixels between what two neighbouring taps read.
    dilation: usize,
    /// How many pixels before the input the window of the first result begins; negative if it begins inside.
    pad: isize,
}

impl Phase {
    /// Phase `r` of an axis: results `r`, `r + stride`, … of `results`, from a window of `kernel` taps that the forward convolution, with padding
    /// `pad`, moved in steps of `stride` over them.
    fn new(r: usize, results: usize, kernel: usize, stride: usize, dilation: usize, pad: usize) -> Phase {
        // Result p receives from tap k the input at (p + pad - k·dilation) / stride, where that is whole.
        let meets = |tap: usize| {
            let far = (r + pad) as isize - (tap * dilation) as isize;
            (far.rem_euclid(stride as isize) == 0).then(|| far.div_euclid(stride as isize))
        };
        let outputs = results.saturating_sub(r).div_ceil(stride);
        let meeting = || (0..kernel).filter_map(|tap| meets(tap).map(|at| (tap, at)));
        let Some((last_tap, last)) = meeting().next_back() else {
            return Phase { outputs, taps: 0, first_tap: 0, tap_step: 1, dilation: 1, pad: 0 };
        };
        let (tap_step, dilation) = match (meeting().next(), meeting().nth(1)) {
            (Some((a, x)), Some((b, y))) => (b - a, (x - y) as usize),
            _ => (1, 1),
        };
        Phase { outputs, taps: meeting().count(), first_tap: last_tap, tap_step, dilation, pad: -last }
    }
}

/// The transpose of a dense or grouped convolution.
#[derive(Debug, Clone)]
pub struct TransposedConv {
    /// Of the convolution that is transposed: its output is what is read here.
    forward: ConvGeometry,
    method: Method,
}

#[derive(Debug, Clone)]
enum Method {
    Reversed(Box<DynamicConv>),
    /// How each is computed, and where its weights are.
    Phases(Vec<(Direct, FilterLayout)>),
}

/// What transposing makes of the place of a weight.
fn transposed_layout(forward: &ConvGeometry) -> FilterLayout {
    // Planar [out_c, in_c / groups, taps] of the forward convolution: its outputs are inputs here.
    let layout = FilterLayout::planar(forward);
    let [group, output, input, down, right] = layout.steps;
    FilterLayout { offset: layout.offset, steps: [group, input, output, down, right] }
}

impl TransposedConv {
    /// The transpose of the convolution with geometry `forward`, whose weights are `[out_c, in_c / groups, kernel[0], kernel[1]]`. With
    /// a stride of more than 1, all sums are plain and factors are not rounded.
    ///
    /// # Errors
    /// [`KernelError`] when the geometry contradicts itself or an image has 2^28 values or more.
    pub fn new(isa: Isa, forward: ConvGeometry, clamp: Clamp, sums: Sums) -> Result<TransposedConv, KernelError> {
        forward.check()?;
        let whole = transposed_layout(&forward);
        let [stride_down, stride_right] = forward.stride;
        let axis = |i: usize, r: usize| {
            let (results, pad) =
                if i == 0 { (forward.in_h, forward.pad_top) } else { (forward.in_w, forward.pad_left) };
            Phase::new(r, results, forward.kernel[i], forward.stride[i], forward.dilation[i], pad)
        };
        let mut phases = vec![];
        for (r, c) in (0..stride_down).flat_map(|r| (0..stride_right).map(move |c| (r, c))) {
            let (rows, cols) = (axis(0, r), axis(1, c));
            if rows.outputs == 0 || cols.outputs == 0 {
                continue;
            }
            let kernel = if rows.taps * cols.taps == 0 { [0, 0] } else { [rows.taps, cols.taps] };
            let geometry = ConvGeometry {
                batch: forward.batch,
                in_h: forward.out_h,
                in_w: forward.out_w,
                in_c: forward.out_c,
                out_h: rows.outputs,
                out_w: cols.outputs,
                out_c: forward.in_c,
                kernel,
                stride: [1, 1],
                dilation: [rows.dilation, cols.dilation],
                pad_top: rows.pad.max(0).unsigned_abs(),
                pad_left: cols.pad.max(0).unsigned_abs(),
                groups: forward.groups,
            };
            let [group, output, input, down, right] = whole.steps;
            let first = rows.first_tap as isize * down + cols.first_tap as isize * right;
            let layout = FilterLayout {
                offset: whole.offset.wrapping_add_signed(first),
                steps: [group, output, input, -(rows.tap_step as isize) * down, -(cols.tap_step as isize) * right],
            };
            let places = Places {
                image: forward.in_h * forward.in_w * forward.in_c,
                first: (r * forward.in_w + c) * forward.in_c,
                down: stride_down * forward.in_w * forward.in_c,
                right: stride_right * forward.in_c,
                skip: [rows, cols].map(|phase| phase.pad.min(0).unsigned_abs()),
            };
            phases.push((geometry, layout, places));
        }
        if let [(geometry, layout, Places { skip: [0, 0], .. })] = phases[..]
            && geometry.taps() > 0
        {
            let reversed = DynamicConv::new(isa, geometry, layout, clamp, sums)?;
            return Ok(TransposedConv { forward, method: Method::Reversed(Box::new(reversed)) });
        }
        let mut parts = vec![];
        for (geometry, layout, places) in phases {
            parts.push((Direct::new(isa, geometry, clamp, Some(places))?, layout));
        }
        Ok(TransposedConv { forward, method: Method::Phases(parts) })
    }

    /// The geometry of the convolution that is transposed.
    #[must_use]
    pub fn forward(&self) -> &ConvGeometry {
        &self.forward
    }

    /// Whether results are those of a transform rather than plain sums.
    #[must_use]
    pub fn is_transformed(&self) -> bool {
        matches!(&self.method, Method::Reversed(conv) if conv.is_transformed())
    }

    /// Whether factors are rounded to bfloat16.
    #[must_use]
    pub fn is_rounded(&self) -> bool {
        matches!(&self.method, Method::Reversed(conv) if conv.is_rounded())
    }

    /// How many values of scratch [`TransposedConv::run`] needs on a pool of at most so many threads.
    #[must_use]
    pub fn scratch_len(&self, threads: usize) -> usize {
        match &self.method {
            Method::Reversed(conv) => conv.scratch_len(threads),
            Method::Phases(parts) => {
                let weights: usize = parts.iter().map(|(part, _)| packed_len(part)).sum();
                weights + parts.first().map_or(0, |(part, _)| part.bias_len())
            }
        }
    }

    /// Computes `y = clamp(transpose(x) + bias + residual)` for `x` `[batch, out_h, out_w, out_c]` of the forward convolution and `y` and
    /// `residual` `[batch, in_h, in_w, in_c]`, `bias` `[in_c]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError`] when a slice does not have the length the geometry implies.
    pub fn run(
        &self,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
        scratch: &mut [f32],
        pool: &Pool,
    ) -> Result<(), KernelError> {
        expect_len("weights", weights.len(), self.forward.weights_len())?;
        bias.map_or(Ok(()), |bias| expect_len("bias", bias.len(), self.forward.in_c))?;
        let parts = match &self.method {
            Method::Reversed(conv) => return conv.run(weights, bias, x, residual, y, scratch, pool),
            Method::Phases(parts) => parts,
        };
        let forward = &self.forward;
        expect_len("input", x.len(), forward.output_len())?;
        expect_len("output", y.len(), forward.input_len())?;
        residual.map_or(Ok(()), |residual| expect_len("residual", residual.len(), y.len()))?;
        let least = self.scratch_len(pool.threads());
        if scratch.len() < least {
            return Err(KernelError::Length { what: "scratch", expected: least, found: scratch.len() });
        }
        let padded = parts.first().map_or(0, |(part, _)| part.bias_len());
        let (biases, packed) = scratch[..least].split_at_mut(padded);
        let biases = match (bias, parts.first()) {
            (Some(bias), Some((part, _))) => {
                part.pack_bias(bias, biases);
                &*biases
            }
            _ => &[],
        };
        let mut rest = &mut *packed;
        for (part, layout) in parts {
            let (packed, after) = rest.split_at_mut(packed_len(part));
            part.pack_weights(weights, layout, &mut packed[..part.weights_len()], pool);
            rest = after;
        }
        let packed = &*packed;
        let weights_of =
            |parts: &[(Direct, FilterLayout)]| parts.iter().map(|(part, _)| packed_len(part)).sum::<usize>();
        if forward.batch * forward.groups >= 2 * pool.threads() || pool.threads() == 1 {
            // All phases of an image, one after the other: together they fill its lines while these are in cache.
            let out = SharedMut::new(y);
            pool.run(forward.batch * forward.groups, &|item| {
                let place = [item / forward.groups, item % forward.groups];
                for (i, (part, _)) in parts.iter().enumerate() {
                    let weights = &packed[weights_of(&parts[..i])..][..part.weights_len()];
                    let residual = residual.map_or(std::ptr::null(), <[f32]>::as_ptr);
                    // SAFETY: the lengths were checked above, and items have a group of an image of their own.
                    unsafe { part.run_image((weights, biases), x, residual, out.as_mut_ptr(), place) };
                }
            });
            return Ok(());
        }
        for (i, (part, _)) in parts.iter().enumerate() {
            let weights = &packed[weights_of(&parts[..i])..][..part.weights_len()];
            part.run(weights, biases, x, residual, y, pool)?;
        }
        Ok(())
    }
}

/// Values of a phase's packed weights, and what keeps the next on a cache line.
fn packed_len(part: &Direct) -> usize {
    part.weights_len().next_multiple_of(16)
}
