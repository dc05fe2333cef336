use qing_tensor::{Tensor, strides};

use super::support::{
    axes::{Along, normalize_all},
    movement::moved,
    resample::{Axis, Coordinates, Kernel, Nearest},
    sizes,
};
use crate::{Backward, Gradients, ValueId, AttrValue, Case, Dim, Element, Eval, Gradient, Infer, Legacy, Op, OpError, QuantRule, Type, op};

op! {
    /// Resamples its input to other sizes: by repeating the nearest value, or interpolating linearly or cubically along
    /// each axis. Inputs: X, the region of a crop, scales, sizes; one of the last two is given. The nearest value of a
    /// quantized tensor is a quantized value as it is.
    Resize = "Resize" {
        /// Whether the kernel is widened when an axis shrinks.
        antialias: bool = false,
        /// The axes that region, scales and sizes speak of; all if empty.
        axes: Vec<i64> = vec![],
        /// How positions in the output map to positions in the input.
        coordinate_transformation_mode: String = "half_pixel".into(),
        /// Coefficient of the cubic kernel.
        cubic_coeff_a: f32 = -0.75,
        /// Whether values beyond the edge weigh nothing, instead of repeating the edge.
        exclude_outside: bool = false,
        /// Value outside the region of `tf_crop_and_resize`.
        extrapolation_value: f32 = 0.0,
        /// Whether sizes are met exactly (`stretch`) or are bounds for one common scale (`not_larger`, `not_smaller`).
        keep_aspect_ratio_policy: String = "stretch".into(),
        /// `nearest`, `linear` or `cubic`.
        mode: String = "nearest".into(),
        /// Which value is nearest: `round_prefer_floor`, `round_prefer_ceil`, `floor` or `ceil`.
        nearest_mode: String = "round_prefer_floor".into(),
    }
    inputs: 1..=4, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases,
    upgrade: upgrade
}

/// In opset 10 the scales were input 1 and positions were not centred.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if node.opset < 11 {
        if node.inputs.len() == 2 {
            node.inputs.insert(1, None);
        }
        node.attrs.set("coordinate_transformation_mode", AttrValue::String("asymmetric".into()));
        node.attrs.set("nearest_mode", AttrValue::String("floor".into()));
    }
    Ok(())
}

/// A tensor that is there and not empty: opset 11 passes empty ones for what is absent.
fn present(tensor: Option<&Tensor>) -> Option<&Tensor> {
    tensor.filter(|t| !t.is_empty())
}

impl Resize {
    fn chosen(&self, rank: usize) -> Result<Vec<usize>, OpError> {
        if self.axes.is_empty() { Ok((0..rank).collect()) } else { normalize_all(&self.axes, rank) }
    }

    /// Size and scale of every axis of the output.
    ///
    /// # Errors
    /// If scales or sizes do not fit the shape.
    pub fn resampled(
        &self,
        shape: &[usize],
        scales: Option<&Tensor>,
        targets: Option<&Tensor>,
    ) -> Result<Vec<Axis>, OpError> {
        let mut axes: Vec<Axis> = shape.iter().map(|n| Axis { input: *n, output: *n, scale: 1.0 }).collect();
        let chosen = self.chosen(shape.len())?;
        let misfit = |n: usize| OpError::invalid(format!("{n} scales or sizes for {} axes", chosen.len()));
        if let Some(targets) = present(targets) {
            let targets = targets.to_i64s();
            if targets.len() != chosen.len() {
                return Err(misfit(targets.len()));
            }
            for (axis, target) in chosen.iter().zip(targets) {
                let (input, output) = (shape[*axis], sizes::dimension(target)?);
                axes[*axis] = Axis { input, output, scale: output as f64 / input as f64 };
            }
            let scales = chosen.iter().map(|a| axes[*a].scale);
            let common = match self.keep_aspect_ratio_policy.as_str() {
                "stretch" => return Ok(axes),
                "not_larger" => scales.fold(f64::INFINITY, f64::min),
                "not_smaller" => scales.fold(0.0, f64::max),
                other => return Err(OpError::invalid(format!("keep_aspect_ratio_policy {other:?}"))),
            };
            for axis in chosen {
                let output = (common * shape[axis] as f64 + 0.5).floor() as usize;
                axes[axis] = Axis { input: shape[axis], output, scale: common };
            }
            return Ok(axes);
        }
        let scales = present(scales).ok_or_else(|| OpError::invalid("neither scales nor sizes"))?.to_f32s();
        if scales.len() != chosen.len() {
            return Err(misfit(scales.len()));
        }
        for (axis, scale) in chosen.into_iter().zip(scales) {
            if !(scale > 0.0 && scale.is_finite()) {
                return Err(OpError::invalid(format!("a scale of {scale}")));
            }
            let output = (scale * shape[axis] as f32).floor() as usize;
            axes[axis] = Axis { input: shape[axis], output, scale: scale.into() };
        }
        Ok(axes)
    }

    /// How positions map along every axis.
    ///
    /// # Errors
    /// If the mode is unknown or a region is missing.
    pub fn coordinates(&self, rank: usize, region: Option<&Tensor>) -> Result<Vec<Coordinates>, OpError> {
        let same = match self.coordinate_transformation_mode.as_str() {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
            "tf_crop_and_resize" => {
                let mut all = vec![Coordinates::Crop { start: 0.0, end: 1.0 }; rank];
                let region = present(region).ok_or(OpError::MissingInput(1))?.to_f64s();
                let chosen = self.chosen(rank)?;
                if region.len() != 2 * chosen.len() {
                    return Err(OpError::invalid(format!("a region of {} values", region.len())));
                }
                for (i, axis) in chosen.iter().enumerate() {
                    all[*axis] = Coordinates::Crop { start: region[i], end: region[chosen.len() + i] };
                }
                return Ok(all);
            }
            other => return Err(OpError::invalid(format!("coordinate_transformation_mode {other:?}"))),
        };
        Ok(vec![same; rank])
    }

    /// How positions are rounded.
    ///
    /// # Errors
    /// If the mode is unknown.
    pub fn nearest(&self) -> Result<Nearest, OpError> {
        Ok(match self.nearest_mode.as_str() {
            "round_prefer_floor" => Nearest::RoundPreferFloor,
            "round_prefer_ceil" => Nearest::RoundPreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(OpError::invalid(format!("nearest_mode {other:?}"))),
        })
    }

    /// Resamples `x` along `axes`.
    ///
    /// # Errors
    /// If an attribute is unknown or the result too large.
    pub(super) fn resample(&self, x: &Tensor, axes: &[Axis], region: Option<&Tensor>) -> Result<Tensor, OpError> {
        let shape: Vec<usize> = axes.iter().map(|a| a.output).collect();
        sizes::limited(&shape)?;
        if x.is_empty() && !shape.contains(&0) {
            return Err(OpError::invalid(format!("an empty tensor resized to {shape:?}")));
        }
        let coordinates = self.coordinates(x.rank(), region)?;
        let positions: Vec<Vec<Option<f64>>> = axes
            .iter()
            .zip(&coordinates)
            .map(|(axis, c)| (0..axis.output).map(|i| axis.position(*c, i)).collect())
            .collect();
        let y = match self.mode.as_str() {
            "nearest" => {
                let (mode, own) = (self.nearest()?, strides(x.shape()));
                let index = |axis: usize, at: usize| {
                    positions[axis][at].map_or(0, |p| mode.index(p, axes[axis].input)) * own[axis]
                };
                moved(x, &shape, |at| at.iter().enumerate().map(|(axis, at)| index(axis, *at)).sum())?
            }
            "linear" | "bilinear" => self.interpolate(x, axes, &positions, Kernel::Linear)?,
            "cubic" => self.interpolate(x, axes, &positions, Kernel::Cubic(self.cubic_coeff_a.into()))?,
            other => return Err(OpError::invalid(format!("mode {other:?}"))),
        };
        if positions.iter().flatten().all(Option::is_some) {
            return Ok(y);
        }
        // What lies outside the region in any axis has the extrapolation value.
        let mut values = y.to_f64s();
        let mut i = 0;
        super::support::elementwise::each_index(&shape, |at| {
            if at.iter().enumerate().any(|(axis, at)| positions[axis][*at].is_none()) {
                values[i] = self.extrapolation_value.into();
            }
            i += 1;
        });
        Ok(Tensor::new(&shape, values)?.cast(x.element()))
    }

    /// The gradient of what was resampled along `axes`: along each of them a product with the transpose of the matrix that
    /// says how much of every value is in every result.
    ///
    /// # Errors
    /// If an attribute is unknown or shapes are not known.
    pub(super) fn gradient_of_resampled(
        &self,
        cx: &Backward<'_>,
        axes: &[Axis],
        region: Option<&Tensor>,
    ) -> Result<ValueId, OpError> {
        let mut g = cx.dy()?;
        let mut shape = cx.shape(g)?;
        let element = cx.element(g);
        for (i, (axis, how)) in axes.iter().zip(self.coordinates(axes.len(), region)?).enumerate() {
            let positions: Vec<Option<f64>> = (0..axis.output).map(|o| axis.position(how, o)).collect();
            if axis.input == axis.output && positions.iter().enumerate().all(|(at, p)| *p == Some(at as f64)) {
                continue;
            }
            let stretch = if self.antialias { axis.scale } else { 1.0 };
            let mut matrix = vec![0.0; sizes::limited(&[axis.output, axis.input])?];
            for (position, row) in positions.into_iter().zip(matrix.chunks_exact_mut(axis.input.max(1))) {
                let Some(p) = position else { continue };
                let taps = match self.mode.as_str() {
                    "nearest" => vec![(self.nearest()?.index(p, axis.input), 1.0)],
                    "cubic" => {
                        let kernel = Kernel::Cubic(self.cubic_coeff_a.into());
                        kernel.weights(p, axis.input, stretch, self.exclude_outside)?
                    }
                    _ => Kernel::Linear.weights(p, axis.input, stretch, self.exclude_outside)?,
                };
                taps.into_iter().for_each(|(j, w)| row[j] += w);
            }
            let matrix = cx.tensor(Tensor::new::<f64>(&[axis.output, axis.input], matrix)?.cast(element));
            let (outer, inner) = (shape[..i].iter().product(), shape[i + 1..].iter().product());
            shape[i] = axis.input;
            g = if inner == 1 {
                cx.matmul(cx.reshape(g, &[outer, axis.output])?, matrix)?
            } else {
                cx.matmul(cx.transpose_last(matrix)?, cx.reshape(g, &[outer, axis.output, inner])?)?
            };
            g = cx.reshape(g, &shape)?;
        }
        Ok(g)
    }

    fn interpolate(
        &self,
        x: &Tensor,
        axes: &[Axis],
        positions: &[Vec<Option<f64>>],
        kernel: Kernel,
    ) -> Result<Tensor, OpError> {
        let mut shape = x.shape().to_vec();
        let mut values = x.to_f64s();
        for (i, axis) in axes.iter().enumerate().rev() {
            let identity = positions[i].iter().enumerate().all(|(at, p)| *p == Some(at as f64));
            if axis.input == axis.output && identity {
                continue;
            }
            let stretch = if self.antialias { axis.scale } else { 1.0 };
            let taps = positions[i]
                .iter()
                .map(|p| kernel.weights(p.unwrap_or(0.0), axis.input, stretch, self.exclude_outside))
                .collect::<Result<Vec<_>, OpError>>()?;
            let along = Along::new(&shape, i);
            shape[i] = axis.output;
            let mut next = Vec::with_capacity(sizes::limited(&shape)?);
            for o in 0..along.outer {
                for taps in &taps {
                    for n in 0..along.inner {
                        let at = |j: usize| values[(o * along.length + j) * along.inner + n];
                        next.push(taps.iter().map(|(j, w)| at(*j) * w).sum());
                    }
                }
            }
            values = next;
        }
        let y = Tensor::new(&shape, values)?;
        if x.element().is_float() {
            return Ok(y.cast(x.element()));
        }
        // Integers round to the nearest that their element holds.
        let (lo, hi) = x.element().range().unwrap_or((0, i64::MAX));
        let rounded = y.to_f64s().into_iter().map(|v| (v.round_ties_even() as i64).clamp(lo, hi)).collect();
        Ok(Tensor::new::<i64>(&shape, rounded)?.cast(x.element()))
    }
}

impl Op for Resize {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let x = cx.ty(0)?;
        let y = |shape| {
            let mut y = x.with_shape(shape);
            // Interpolated values are real numbers.
            if x.quant.is_some() && self.mode != "nearest" {
                (y.element, y.quant) = (Element::F32, None);
            }
            Ok(vec![y])
        };
        let Some(dims) = &x.shape else { return y(None) };
        let (scales, targets) = (cx.constant(2), cx.constant(3));
        if present(scales).or(present(targets)).is_none() {
            return y(Some(vec![Dim::Unknown; dims.len()]));
        }
        if let Some(shape) = x.known_shape() {
            let axes = self.resampled(&shape, scales, targets)?;
            return y(Some(axes.into_iter().map(|a| Dim::Known(a.output)).collect()));
        }
        // Axes do not influence each other, unless they must keep their proportions.
        let chosen = self.chosen(dims.len())?;
        let mut shape = dims.clone();
        let targets = present(targets).map(Tensor::to_i64s);
        let scales = present(scales).map_or(vec![], Tensor::to_f32s);
        for (i, axis) in chosen.into_iter().enumerate() {
            shape[axis] = match (&targets, scales.get(i)) {
                (Some(t), _) if self.keep_aspect_ratio_policy == "stretch" => {
                    t.get(i).and_then(|n| usize::try_from(*n).ok()).map_or(Dim::Unknown, Dim::Known)
                }
                (None, Some(1.0)) => dims[axis].clone(),
                (None, Some(scale)) => dims[axis].map(|n| (scale * n as f32).floor() as usize),
                _ => Dim::Unknown,
            };
        }
        y(Some(shape))
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let x = cx.input(0)?;
        let axes = self.resampled(x.shape(), cx.optional(2), cx.optional(3))?;
        if cx.quant(0).is_some() && self.mode != "nearest" {
            return Err(OpError::unsupported("interpolation of quantized values; expected a float island"));
        }
        Ok(vec![self.resample(x, &axes, cx.optional(1))?])
    }

    fn quantization(&self) -> QuantRule {
        if self.mode == "nearest" { QuantRule::Movement } else { QuantRule::Float }
    }

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let shape = cx.shape(cx.input(0)?)?;
        let (region, scales) = (cx.optional_constant(1)?, cx.optional_constant(2)?);
        let axes = self.resampled(&shape, scales.as_ref(), cx.optional_constant(3)?.as_ref())?;
        let mut all = vec![None; cx.inputs()];
        all[0] = Some(self.gradient_of_resampled(cx, &axes, region.as_ref())?);
        Ok(all)
    }
}

fn cases() -> Vec<Case> {
    let with = |mode: &str, coordinates: &str| Resize {
        mode: mode.into(),
        coordinate_transformation_mode: coordinates.into(),
        ..Resize::default()
    };
    vec![
        Case::new("nearest_doubled", with("nearest", "asymmetric"))
            .f32(&[1, 1, 1, 2], &[1., 2.])
            .no_input()
            .f32(&[4], &[1., 1., 2., 2.])
            .gives(&[1, 1, 2, 4], &[1., 1., 2., 2., 1., 1., 2., 2.]),
        Case::new("linear_to_size", with("linear", "align_corners"))
            .f32(&[1, 3], &[0., 1., 4.])
            .no_input()
            .no_input()
            .i64s(&[1, 5])
            .gives(&[1, 5], &[0., 0.5, 1., 2.5, 4.]),
        // Centres of the outputs lie at −¼, ¼, ¾, 1¼ of the input.
        Case::new("linear_doubled", with("linear", "half_pixel"))
            .f32(&[2], &[0., 4.])
            .no_input()
            .f32(&[1], &[2.])
            .gives(&[4], &[0., 1., 3., 4.]),
        // Position 1½ in 8, 0, 8, 0: weights 0.59375 on each neighbour, −0.09375 on the outer ones.
        Case::new("cubic_middle", with("cubic", "half_pixel"))
            .f32(&[4], &[8., 0., 8., 0.])
            .no_input()
            .no_input()
            .i64s(&[1])
            .gives(&[1], &[4.]),
    ]
}
