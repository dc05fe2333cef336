use proptest::prelude::*;

use super::*;
use crate::float::testing::{assert_close, noise};

/// The convolution in `f64`, and for each result the sum of the magnitudes that made it.
pub(crate) fn reference(
    geometry: &ConvGeometry,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    clamp: Clamp,
) -> (Vec<f64>, Vec<f64>) {
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for out in 0..geometry.output_len() {
        let (pixel, channel) = (out / geometry.out_c, out % geometry.out_c);
        let (col, row) = (pixel % geometry.out_w, pixel / geometry.out_w % geometry.out_h);
        let image = pixel / geometry.out_w / geometry.out_h;
        let group = channel / geometry.group_out();
        let mut terms = vec![bias.map_or(0.0, |b| f64::from(b[channel])), residual.map_or(0.0, |r| f64::from(r[out]))];
        for tap in 0..geometry.taps() {
            let at =
                (geometry.input_row(row, tap / geometry.kernel[1]), geometry.input_col(col, tap % geometry.kernel[1]));
            let (Some(y), Some(z)) = at else { continue };
            for c in 0..geometry.group_in() {
                let from =
                    ((image * geometry.in_h + y) * geometry.in_w + z) * geometry.in_c + group * geometry.group_in() + c;
                let weight = (channel * geometry.taps() + tap) * geometry.group_in() + c;
                terms.push(f64::from(x[from]) * f64::from(weights[weight]));
            }
        }
        values.push(terms.iter().sum::<f64>().max(f64::from(clamp.lo)).min(f64::from(clamp.hi)));
        magnitudes.push(terms.iter().map(|t| t.abs()).sum());
    }
    (values, magnitudes)
}

/// Runs a geometry on every instruction set and 1 to 3 threads.
fn check(geometry: ConvGeometry, clamp: Clamp, with_bias: bool, with_residual: bool) {
    let x = noise(1, geometry.input_len());
    let weights = noise(2, geometry.weights_len());
    let bias = with_bias.then(|| noise(3, geometry.out_c));
    let residual = with_residual.then(|| noise(4, geometry.output_len()));
    let (expected, magnitudes) = reference(&geometry, &x, &weights, bias.as_deref(), residual.as_deref(), clamp);
    let layout = FilterLayout::channels_last(&geometry);
    for isa in Isa::available() {
        let conv = Conv::pack_exact(isa, geometry, &weights, bias.as_deref(), clamp).unwrap();
        let dynamic = DynamicConv::new(isa, geometry, layout, clamp, Sums::Plain).unwrap();
        for threads in 1..=3 {
            let mut y = vec![f32::NAN; geometry.output_len()];
            let pool = Pool::kept(threads);
            conv.run(&x, residual.as_deref(), &mut y, &mut [], &pool).unwrap();
            assert_close(&y, &expected, &magnitudes, &format!("{} {threads} {geometry:?}", isa.name()));
            let mut again = vec![f32::NAN; geometry.output_len()];
            let mut scratch = vec![f32::NAN; dynamic.scratch_len(threads)];
            let (bias, residual) = (bias.as_deref(), residual.as_deref());
            dynamic.run(&weights, bias, &x, residual, &mut again, &mut scratch, &pool).unwrap();
            assert_eq!(y, again, "{} {threads} {geometry:?}", isa.name());
        }
    }
}

/// A random geometry of at most a few thousand results.
pub(crate) fn geometries() -> impl Strategy<Value = ConvGeometry> {
    let window = (1..=4usize, 1..=4usize, 1..=3usize, 1..=3usize, 1..=2usize, 1..=2usize);
    let images = (1..=2usize, 1..=11usize, 1..=11usize, 0..=2usize, 0..=2usize, 0..=2usize, 0..=2usize);
    let channels = (1..=3usize, 1..=20usize, 1..=40usize);
    (window, images, channels).prop_map(
        |((kh, kw, sh, sw, dh, dw), (batch, h, w, top, left, bottom, right), (groups, ic, oc))| {
            let out = |size: usize, pads: usize, kernel: usize, stride: usize, dilation: usize| {
                ((size + pads).saturating_sub((kernel - 1) * dilation + 1)) / stride + 1
            };
            ConvGeometry {
                batch,
                in_h: h,
                in_w: w,
                in_c: groups * ic,
                out_h: out(h, top + bottom, kh, sh, dh),
                out_w: out(w, left + right, kw, sw, dw),
                out_c: groups * oc,
                kernel: [kh, kw],
                stride: [sh, sw],
                dilation: [dh, dw],
                pad_top: top,
                pad_left: left,
                groups,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_set_agrees_with_the_reference(geometry in geometries(), bias: bool, residual: bool, relu: bool) {
        check(geometry, if relu { Clamp::RELU6 } else { Clamp::NONE }, bias, residual);
    }
}

/// The transpose by its definition: every product of the forward convolution, the other way round.
pub(crate) fn transposed(
    g: &ConvGeometry,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> (Vec<f64>, Vec<f64>) {
    let added = |at: usize| {
        let bias = bias.map_or(0.0, |b| f64::from(b[at % g.in_c]));
        (bias, residual.map_or(0.0, |r| f64::from(r[at])))
    };
    let mut values: Vec<f64> = (0..g.input_len()).map(|at| added(at).0 + added(at).1).collect();
    let mut magnitudes: Vec<f64> = (0..g.input_len()).map(|at| added(at).0.abs() + added(at).1.abs()).collect();
    let layout = FilterLayout::planar(g);
    for (at, x) in x.iter().enumerate() {
        let (o, pixel) = (at % g.out_c, at / g.out_c);
        let (col, row, image) = (pixel % g.out_w, pixel / g.out_w % g.out_h, pixel / g.out_w / g.out_h);
        let group = o / g.group_out();
        for (down, right) in (0..g.kernel[0]).flat_map(|d| (0..g.kernel[1]).map(move |r| (d, r))) {
            let (Some(y), Some(z)) = (g.input_row(row, down), g.input_col(col, right)) else { continue };
            for i in 0..g.group_in() {
                let to = ((image * g.in_h + y) * g.in_w + z) * g.in_c + group * g.group_in() + i;
                let product = f64::from(*x) * f64::from(weights[layout.at(group, o % g.group_out(), i, down, right)]);
                values[to] += product;
                magnitudes[to] += product.abs();
            }
        }
    }
    (values, magnitudes)
}

/// Transposes a geometry on every instruction set and 1 to 3 threads.
fn check_transposed(g: ConvGeometry, with_bias: bool, with_residual: bool, sums: Sums) {
    let (x, weights) = (noise(1, g.output_len()), noise(2, g.weights_len()));
    let (bias, residual) = (with_bias.then(|| noise(3, g.in_c)), with_residual.then(|| noise(4, g.input_len())));
    let (bias, residual) = (bias.as_deref(), residual.as_deref());
    let (expected, magnitudes) = transposed(&g, &x, &weights, bias, residual);
    // A transform's roundings follow the magnitudes of neighbours.
    let most = magnitudes.iter().copied().fold(0.0, f64::max);
    let magnitudes = if sums == Sums::Plain { magnitudes } else { vec![most; magnitudes.len()] };
    for isa in Isa::available() {
        let conv = TransposedConv::new(isa, g, Clamp::NONE, sums).unwrap();
        assert!(sums == Sums::Fastest || !conv.is_transformed());
        for threads in 1..=3 {
            let mut y = vec![f32::NAN; g.input_len()];
            let mut scratch = vec![f32::NAN; conv.scratch_len(threads)];
            conv.run(&weights, bias, &x, residual, &mut y, &mut scratch, &Pool::kept(threads)).unwrap();
            assert_close(&y, &expected, &magnitudes, &format!("{} {threads} {g:?}", isa.name()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn transposes_agree_with_the_reference(geometry in geometries(), bias: bool, residual: bool) {
        check_transposed(geometry, bias, residual, Sums::Plain);
    }
}

#[test]
fn the_transposes_of_a_residual_network() {
    for (kernel, stride, in_c, out_c) in [(3, 1, 16, 16), (3, 2, 16, 32), (1, 2, 16, 32), (3, 1, 36, 32), (2, 2, 5, 7)]
    {
        let out = (8 + 2 * (kernel / 2) - kernel) / stride + 1;
        let g = ConvGeometry {
            batch: 3,
            in_h: 8,
            in_w: 8,
            in_c,
            out_h: out,
            out_w: out,
            out_c,
            kernel: [kernel; 2],
            stride: [stride; 2],
            pad_top: kernel / 2,
            pad_left: kernel / 2,
            ..PLAIN
        };
        for sums in [Sums::Plain, Sums::Fastest] {
            check_transposed(g, false, true, sums);
        }
    }
}

const PLAIN: ConvGeometry = ConvGeometry {
    batch: 1,
    in_h: 9,
    in_w: 10,
    in_c: 20,
    out_h: 9,
    out_w: 10,
    out_c: 70,
    kernel: [3, 3],
    stride: [1, 1],
    dilation: [1, 1],
    pad_top: 1,
    pad_left: 1,
    groups: 1,
};

#[test]
fn the_shapes_of_known_networks() {
    let cases = [
        PLAIN,
        // Pointwise, batched, with every size of leftover tile.
        ConvGeometry { batch: 3, kernel: [1, 1], pad_top: 0, pad_left: 0, ..PLAIN },
        ConvGeometry { in_w: 1, out_w: 1, in_h: 33, out_h: 33, kernel: [3, 1], pad_left: 0, ..PLAIN },
        // First layers.
        ConvGeometry { in_c: 3, kernel: [7, 7], stride: [2, 2], out_h: 5, out_w: 5, pad_top: 3, pad_left: 3, ..PLAIN },
        ConvGeometry { in_c: 1, kernel: [5, 5], dilation: [1, 2], pad_left: 4, pad_top: 2, ..PLAIN },
        // Downsampling shortcut.
        ConvGeometry { kernel: [1, 1], stride: [2, 2], out_h: 5, out_w: 5, pad_top: 0, pad_left: 0, ..PLAIN },
        ConvGeometry { groups: 10, ..PLAIN },
        // Few output channels, in rows of every length of run.
        ConvGeometry { out_c: 16, batch: 2, ..PLAIN },
        ConvGeometry { out_c: 13, in_c: 3, in_w: 16, out_w: 16, ..PLAIN },
        ConvGeometry { out_c: 8, in_c: 1, in_w: 37, out_w: 37, ..PLAIN },
        ConvGeometry { out_c: 4, in_w: 24, out_w: 24, kernel: [5, 3], dilation: [2, 1], pad_top: 4, ..PLAIN },
        ConvGeometry { out_c: 15, in_w: 8, out_w: 8, kernel: [1, 3], pad_top: 0, ..PLAIN },
    ];
    for case in cases {
        check(case, Clamp::RELU, true, true);
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let weights = noise(1, PLAIN.weights_len());
    assert!(Conv::pack(Isa::Scalar, PLAIN, &weights[1..], None, Clamp::NONE).is_err());
    assert!(Conv::pack(Isa::Scalar, PLAIN, &weights, Some(&[1.0]), Clamp::NONE).is_err());
    let conv = Conv::pack(Isa::Scalar, PLAIN, &weights, None, Clamp::NONE).unwrap();
    let (x, mut y) = (noise(1, PLAIN.input_len()), vec![0.0; PLAIN.output_len()]);
    let pool = Pool::new(1);
    assert!(conv.run(&x[1..], None, &mut y, &mut [], &pool).is_err());
    assert!(conv.run(&x, Some(&[0.0]), &mut y, &mut [], &pool).is_err());
    assert!(conv.run(&x, None, &mut y[1..], &mut [], &pool).is_err());
}

#[test]
fn the_fast_method_agrees_too() {
    let geometry = ConvGeometry { in_c: 32, out_c: 36, ..PLAIN };
    let (x, weights) = (noise(1, geometry.input_len()), noise(2, geometry.weights_len()));
    let (bias, residual) = (noise(3, geometry.out_c), noise(4, geometry.output_len()));
    let (expected, magnitudes) = reference(&geometry, &x, &weights, Some(&bias), Some(&residual), Clamp::RELU);
    for isa in Isa::available() {
        let conv = Conv::pack(isa, geometry, &weights, Some(&bias), Clamp::RELU).unwrap();
        assert_eq!(matches!(conv.method, Method::Winograd(_)), isa != Isa::Scalar);
        let mut y = vec![f32::NAN; geometry.output_len()];
        let mut scratch = vec![f32::NAN; conv.scratch_len(2)];
        conv.run(&x, Some(&residual), &mut y, &mut scratch, &Pool::kept(2)).unwrap();
        assert_close(&y, &expected, &magnitudes, isa.name());
        assert!(conv.run(&x, None, &mut y[1..], &mut scratch, &Pool::new(1)).is_err());
        let layout = FilterLayout::channels_last(&geometry);
        let dynamic = DynamicConv::new(isa, geometry, layout, Clamp::RELU, Sums::Fastest).unwrap();
        assert_eq!(dynamic.is_transformed(), isa != Isa::Scalar);
        let mut scratch = vec![f32::NAN; dynamic.scratch_len(2)];
        let mut again = vec![f32::NAN; geometry.output_len()];
        let pool = Pool::kept(2);
        dynamic.run(&weights, Some(&bias), &x, Some(&residual), &mut again, &mut scratch, &pool).unwrap();
        assert_close(&again, &expected, &magnitudes, isa.name());
        assert!(dynamic.run(&weights[1..], None, &x, None, &mut again, &mut scratch, &pool).is_err());
        assert!(dynamic.run(&weights, None, &x, None, &mut again, &mut [], &pool).is_err());
        assert_eq!(conv.run(&x, None, &mut y, &mut [], &Pool::new(1)).is_err(), isa != Isa::Scalar);
    }
}
