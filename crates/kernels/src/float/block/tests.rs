use proptest::prelude::*;

use super::*;
use crate::float::conv::tests::reference;
use crate::float::testing::noise;

/// The layers one after the other in `f64`, rounded to f32 between them.
fn expected(layers: &[Layer<'_>], x: &[f32], residual: Option<&[f32]>) -> (Vec<f64>, f64) {
    let mut x = x.to_vec();
    let mut largest = 0.0f64;
    let mut values = vec![];
    for (i, layer) in layers.iter().enumerate() {
        let residual = residual.filter(|_| i + 1 == layers.len());
        let (found, magnitudes) = reference(&layer.geometry, &x, layer.weights, layer.bias, residual, layer.clamp);
        x = found.iter().map(|v| *v as f32).collect();
        largest = magnitudes.into_iter().fold(largest, f64::max);
        values = found;
    }
    (values, largest)
}

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    h: usize,
    w: usize,
    channels: [usize; 3],
    kernel: usize,
    stride: usize,
    pad: usize,
    /// 0: no first layer; 1: a pointwise one; else a window of three with one step less.
    first: usize,
    residual: bool,
    relu: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1..=2usize, 3..=19usize, 3..=19usize, 1..=20usize, 1..=70usize, 1..=40usize);
    (sizes, any::<bool>(), 1..=2usize, 0..=2usize, 0..=3usize, any::<bool>(), any::<bool>()).prop_map(
        |((batch, h, w, a, b, c), five, stride, pad, first, residual, relu)| {
            let kernel = if five && h + 2 * pad >= 5 && w + 2 * pad >= 5 { 5 } else { 3 };
            Case { batch, h, w, channels: [a, b, c], kernel, stride, pad, first, residual, relu }
        },
    )
}

fn geometries(case: &Case) -> [ConvGeometry; 3] {
    let dense = |h: usize, w: usize, from: usize, to: usize| ConvGeometry {
        batch: case.batch,
        in_h: h,
        in_w: w,
        in_c: from,
        out_h: h,
        out_w: w,
        out_c: to,
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pad_top: 0,
        pad_left: 0,
        groups: 1,
    };
    let [a, b, c] = case.channels;
    let widen = match case.first {
        0 | 1 => dense(case.h, case.w, a, b),
        // A window of three, with or without a stride.
        step => ConvGeometry {
            in_h: case.h * (step - 1),
            in_w: case.w * (step - 1),
            kernel: [3, 3],
            stride: [step - 1; 2],
            pad_top: 1,
            pad_left: 1,
            ..dense(case.h, case.w, a.min(4), b)
        },
    };
    let out = |size: usize| (size + 2 * case.pad - case.kernel) / case.stride + 1;
    let depthwise = ConvGeometry {
        out_h: out(case.h),
        out_w: out(case.w),
        kernel: [case.kernel; 2],
        stride: [case.stride; 2],
        pad_top: case.pad,
        pad_left: case.pad,
        groups: b,
        ..dense(case.h, case.w, b, b)
    };
    [widen, depthwise, dense(depthwise.out_h, depthwise.out_w, b, c)]
}

fn check(case: &Case) {
    let geometries = geometries(case);
    let data: Vec<(Vec<f32>, Vec<f32>)> =
        geometries.iter().enumerate().map(|(i, g)| (noise(i as u64, g.weights_len()), noise(9, g.out_c))).collect();
    let clamp = if case.relu { Clamp::RELU6 } else { Clamp::NONE };
    let layer = |i: usize| Layer {
        geometry: geometries[i],
        weights: &data[i].0,
        bias: (i != 1 || case.relu).then_some(&data[i].1[..]),
        clamp: if i == 2 { Clamp::NONE } else { clamp },
    };
    let layers = [layer(0), layer(1), layer(2)];
    // The last two alone are a block, too.
    let layers = &layers[usize::from(case.first == 0)..];
    let x = noise(20, layers[0].geometry.input_len());
    let residual = case.residual.then(|| noise(21, geometries[2].output_len()));
    let (expected, largest) = expected(layers, &x, residual.as_deref());
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar) {
        let block =
            Block::pack(isa, layers.iter().rev().nth(2), &layers[layers.len() - 2], &layers[layers.len() - 1]).unwrap();
        let mut first: Option<Vec<f32>> = None;
        for threads in [1, 2, 3, 8] {
            let mut y = vec![f32::NAN; expected.len()];
            let mut scratch = vec![f32::NAN; block.scratch_len(threads)];
            block.run(&x, residual.as_deref(), &mut y, &mut scratch, &Pool::kept(threads)).unwrap();
            for (i, (y, expected)) in y.iter().zip(&expected).enumerate() {
                let error = (f64::from(*y) - expected).abs();
                assert!(error <= 1e-5 * largest, "{} {case:?} {i}: {y}, not {expected}", isa.name());
            }
            assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{} {threads} threads {case:?}", isa.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_block_is_its_layers(case in cases()) {
        check(&case);
    }
}

#[test]
fn sizes_of_known_networks() {
    for (w, channels, kernel, stride, first) in [
        (28, [32, 192, 32], 3, 1, 1),
        (28, [24, 144, 40], 5, 2, 1),
        (56, [3, 32, 16], 3, 1, 3),
        (15, [8, 48, 24], 5, 1, 1),
        (5, [64, 64, 64], 3, 1, 0),
        (7, [8, 48, 24], 3, 1, 1),
        (7, [40, 240, 40], 3, 1, 1),
        (14, [16, 104, 24], 3, 2, 1),
        (14, [16, 88, 16], 5, 1, 1),
    ] {
        let residual = channels[0] == channels[2];
        check(&Case { batch: 1, h: w, w, channels, kernel, stride, pad: kernel / 2, first, residual, relu: true });
    }
}

#[test]
fn layers_that_do_not_fit_are_refused() {
    let case = Case {
        batch: 1,
        h: 8,
        w: 8,
        channels: [4, 8, 4],
        kernel: 3,
        stride: 1,
        pad: 1,
        first: 1,
        residual: false,
        relu: false,
    };
    let [widen, depthwise, narrow] = geometries(&case);
    assert!(Block::applies(Some(&widen), &depthwise, &narrow));
    assert!(!Block::applies(Some(&ConvGeometry { out_c: 16, ..widen }), &depthwise, &narrow));
    assert!(!Block::applies(Some(&widen), &ConvGeometry { dilation: [2, 2], ..depthwise }, &narrow));
    assert!(!Block::applies(Some(&widen), &depthwise, &ConvGeometry { kernel: [3, 3], ..narrow }));
    let weights = noise(1, 100);
    let layer = |geometry: ConvGeometry, len: usize| Layer {
        geometry,
        weights: &weights[..len],
        bias: None,
        clamp: Clamp::NONE,
    };
    let (a, b, c) = (layer(widen, 32), layer(depthwise, 72), layer(narrow, 32));
    assert!(Block::pack(Isa::Scalar, Some(&a), &b, &c).is_err());
    let isa = Isa::detect();
    if isa == Isa::Scalar {
        return;
    }
    assert!(Block::pack(isa, Some(&a), &b, &layer(narrow, 31)).is_err());
    assert!(Block::pack(isa, Some(&a), &layer(ConvGeometry { groups: 1, ..depthwise }, 72), &c).is_err());
    let block = Block::pack(isa, Some(&a), &b, &c).unwrap();
    let (pool, mut scratch) = (Pool::new(1), vec![0.0; block.scratch_len(1)]);
    assert!(block.run(&[0.0; 255], None, &mut [0.0; 256], &mut scratch, &pool).is_err());
    assert!(block.run(&[0.0; 256], None, &mut [0.0; 256], &mut [], &pool).is_err());
    assert_eq!(block.run(&[0.0; 256], None, &mut [0.0; 256], &mut scratch, &pool), Ok(()));
}
