use qing_tensor::Tensor;

use super::support::sizes::{dimension, limited};
use crate::{AttrValue, Case, Dim, Eval, Gradient, Infer, Legacy, Op, OpError, Type, op};

op! {
    /// Regions of `X [batch, channels, height, width]`, resampled to one size: Mask R-CNN (He et al., 2017). Inputs: X, regions
    /// `[count, 4]` as x and y of two corners, and which image of the batch each is of.
    RoiAlign = "RoiAlign" {
        /// `half_pixel` or, as before opset 16, `output_half_pixel`: whether positions are shifted by half a pixel.
        coordinate_transformation_mode: String = "half_pixel".into(),
        /// `avg` or `max` of the samples of a bin.
        mode: String = "avg".into(),
        /// Rows of the result.
        output_height: i64 = 1,
        /// Columns of the result.
        output_width: i64 = 1,
        /// Samples along each axis of a bin; as many as it has pixels if 0.
        sampling_ratio: i64 = 0,
        /// Pixels of X for one unit of the regions.
        spatial_scale: f32 = 1.0,
    }
    inputs: 3..=3, outputs: 1..=1,
    gradient: Gradient::None("which values its samples read is known only when it runs"),
    cases: cases,
    upgrade: upgrade
}

/// Before opset 16 positions were not shifted.
fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    if node.opset < 16 {
        node.attrs.set("coordinate_transformation_mode", AttrValue::String("output_half_pixel".into()));
    }
    Ok(())
}

/// Most samples along an axis of a bin: regions of a hostile model may be of any size.
const MOST_SAMPLES: f64 = 512.0;

/// Indices and weights of the four pixels around a position; none if it is outside.
fn around(y: f64, x: f64, height: usize, width: usize) -> Option<[(usize, f64); 4]> {
    if !(-1.0..=height as f64).contains(&y) || !(-1.0..=width as f64).contains(&x) {
        return None;
    }
    let side = |v: f64, size: usize| {
        let v = v.clamp(0.0, (size - 1) as f64);
        let low = v.floor() as usize;
        (low, (low + 1).min(size - 1), v - low as f64)
    };
    let ((top, bottom, down), (left, right, across)) = (side(y, height), side(x, width));
    Some([
        (top * width + left, (1.0 - down) * (1.0 - across)),
        (top * width + right, (1.0 - down) * across),
        (bottom * width + left, down * (1.0 - across)),
        (bottom * width + right, down * across),
    ])
}

impl Op for RoiAlign {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let first = |i: usize, axis: usize| {
            Ok::<Dim, OpError>(cx.shape(i)?.and_then(|s| s.get(axis).cloned()).unwrap_or(Dim::Unknown))
        };
        let (rows, columns) = (dimension(self.output_height)?, dimension(self.output_width)?);
        Ok(vec![Type::new(cx.element(0)?, [first(1, 0)?, first(0, 1)?, rows.into(), columns.into()])])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let (x, regions, images) = (cx.input(0)?, cx.input(1)?, cx.input(2)?.to_i64s());
        let (&[batch, channels, height, width], &[count, 4]) = (x.shape(), regions.shape()) else {
            return Err(OpError::invalid(format!("X {:?} and regions {:?}", x.shape(), regions.shape())));
        };
        if images.len() != count || height == 0 || width == 0 {
            return Err(OpError::invalid(format!("{} images for {count} regions of X {:?}", images.len(), x.shape())));
        }
        let half = match self.coordinate_transformation_mode.as_str() {
            "half_pixel" => 0.5,
            "output_half_pixel" => 0.0,
            other => return Err(OpError::invalid(format!("coordinate_transformation_mode {other:?}"))),
        };
        let largest = match self.mode.as_str() {
            "avg" => false,
            "max" => true,
            other => return Err(OpError::invalid(format!("mode {other:?}"))),
        };
        let (rows, columns) = (dimension(self.output_height)?, dimension(self.output_width)?);
        let shape = [count, channels, rows, columns];
        let mut y = vec![0.0; limited(&shape)?];
        let values = x.to_f64s();
        let area = height * width;
        for (r, region) in regions.to_f64s().chunks_exact(4).enumerate() {
            let image = super::support::movement::position(images[r], batch)?;
            let at = |i: usize| region[i] * f64::from(self.spatial_scale) - half;
            let (left, top) = (at(0), at(1));
            let least = if half == 0.0 { 1.0 } else { f64::NEG_INFINITY };
            let (bin_width, bin_height) =
                ((at(2) - left).max(least) / columns as f64, (at(3) - top).max(least) / rows as f64);
            let samples = |bin: f64| {
                let n = if self.sampling_ratio > 0 { self.sampling_ratio as f64 } else { bin.ceil() };
                if n <= MOST_SAMPLES {
                    Ok(n.max(0.0) as usize)
                } else {
                    Err(OpError::unsupported(format!("{n} samples")))
                }
            };
            let (down, across) = (samples(bin_height)?, samples(bin_width)?);
            for (row, column) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                let mut taps = vec![];
                for (i, j) in (0..down).flat_map(|i| (0..across).map(move |j| (i, j))) {
                    let py = top + (row as f64 + (i as f64 + 0.5) / down as f64) * bin_height;
                    let px = left + (column as f64 + (j as f64 + 0.5) / across as f64) * bin_width;
                    taps.push(around(py, px, height, width).unwrap_or([(0, 0.0); 4]));
                }
                for c in 0..channels {
                    let plane = &values[(image * channels + c) * area..][..area];
                    let parts = taps.iter().map(|four| four.map(|(i, w)| plane[i] * w));
                    let value = if largest {
                        parts.flatten().fold(f64::NEG_INFINITY, f64::max)
                    } else {
                        parts.flatten().sum::<f64>() / (taps.len().max(1)) as f64
                    };
                    let value = if taps.is_empty() { 0.0 } else { value };
                    y[((r * channels + c) * rows + row) * columns + column] = value;
                }
            }
        }
        Ok(vec![Tensor::new(&shape, y)?.cast(x.element())])
    }
}

fn cases() -> Vec<Case> {
    let op = |mode: &str, coordinates: &str| RoiAlign {
        coordinate_transformation_mode: coordinates.into(),
        mode: mode.into(),
        sampling_ratio: 1,
        output_width: 2,
        ..RoiAlign::default()
    };
    let case = |name: &str, op: RoiAlign, y: [f32; 2]| {
        Case::new(name, op)
            .f32(&[1, 1, 2, 3], &[1., 2., 3., 5., 6., 7.])
            .f32(&[1, 4], &[0., 0., 2., 1.])
            .i64s(&[0])
            .gives(&[1, 1, 1, 2], &y)
    };
    vec![
        // Samples at y = ½ and x = ½ and 1½.
        case("not_shifted", op("avg", "output_half_pixel"), [3.5, 4.5]),
        // Samples at y = 0 and x = 0 and 1.
        case("half_pixel", op("avg", "half_pixel"), [1., 2.]),
        // The largest of the weighted four: a quarter of 6, and of 7.
        case("max", op("max", "output_half_pixel"), [1.5, 1.75]),
    ]
}
