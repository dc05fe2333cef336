use proptest::prelude::*;

use super::*;
use crate::float::conv::{ConvWeightGrad, DynamicConv, FilterLayout, Sums, TransposedConv};
use crate::float::testing::{assert_close, noise};

/// The definition: factors rounded, everything else in f64.
fn reference(g: &ConvGeometry, x: &[f32], w: &[f32], bias: &[f32], residual: &[f32], clamp: Clamp) -> Vec<(f64, f64)> {
    let value = |v: f32| f64::from(f32::from_bits(u32::from(rounded(v)) << 16));
    let mut results = vec![];
    for pixel in 0..g.out_pixels() {
        let (image, oy, ox) = (pixel / (g.out_h * g.out_w), pixel / g.out_w % g.out_h, pixel % g.out_w);
        for o in 0..g.out_c {
            let (mut sum, mut magnitude) = (f64::from(bias[o]) + f64::from(residual[pixel * g.out_c + o]), 0.0);
            for (ky, kx) in (0..g.kernel[0]).flat_map(|ky| (0..g.kernel[1]).map(move |kx| (ky, kx))) {
                let iy = (oy * g.stride[0] + ky * g.dilation[0]) as isize - g.pad_top as isize;
                let ix = (ox * g.stride[1] + kx * g.dilation[1]) as isize - g.pad_left as isize;
                if !(0..g.in_h as isize).contains(&iy) || !(0..g.in_w as isize).contains(&ix) {
                    continue;
                }
                for c in 0..g.in_c {
                    let a = x[((image * g.in_h + iy as usize) * g.in_w + ix as usize) * g.in_c + c];
                    let product = value(a) * value(w[((o * g.kernel[0] + ky) * g.kernel[1] + kx) * g.in_c + c]);
                    sum += product;
                    magnitude += product.abs();
                }
            }
            results.push((sum.clamp(clamp.lo.into(), clamp.hi.into()), magnitude + sum.abs()));
        }
    }
    results
}

fn geometry() -> impl Strategy<Value = ConvGeometry> {
    let size = 1usize..8;
    (1usize..3, size.clone(), size, 1usize..70, 1usize..70, 1usize..4, 1usize..4, 1usize..3, 1usize..3).prop_map(
        |(batch, in_h, in_w, in_c, out_c, kh, kw, stride, dilation)| {
            let (pad_top, pad_left) = (kh / 2 * dilation, kw / 2 * dilation);
            let out = |size: usize, k: usize, pad: usize| {
                (size + 2 * pad).saturating_sub((k - 1) * dilation + 1) / stride + 1
            };
            ConvGeometry {
                batch,
                in_h: in_h + 4,
                in_w: in_w + 4,
                in_c,
                out_h: out(in_h + 4, kh, pad_top),
                out_w: out(in_w + 4, kw, pad_left),
                out_c,
                kernel: [kh, kw],
                stride: [stride; 2],
                dilation: [dilation; 2],
                pad_top,
                pad_left,
                groups: 1,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn sums_of_rounded_factors_on_any_number_of_threads(g in geometry(), seed in 1u64..1000, relu: bool) {
        let clamp = if relu { Clamp::RELU6 } else { Clamp::NONE };
        let (x, w) = (noise(seed, g.input_len()), noise(seed + 1, g.weights_len()));
        let (bias, residual) = (noise(seed + 2, g.out_c), noise(seed + 3, g.output_len()));
        let Some(conv) = Bf16Conv::pack(Isa::detect(), g, &w, Some(&bias), clamp).unwrap() else { return Ok(()) };
        let mut first: Option<Vec<f32>> = None;
        for threads in [1, 2, 3] {
            let mut y = vec![f32::NAN; g.output_len()];
            let mut scratch = vec![0xff; conv.scratch_bytes(threads)];
            conv.run(&x, Some(&residual), &mut y, &mut scratch, &Pool::kept(threads)).unwrap();
            for (y, (want, magnitude)) in y.iter().zip(reference(&g, &x, &w, &bias, &residual, clamp)) {
                prop_assert!((f64::from(*y) - want).abs() <= 1e-6 * magnitude + 1e-6, "{y} {want}");
            }
            prop_assert_eq!(first.get_or_insert_with(|| y.clone()), &y);
        }
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    let bits = |v: u32| rounded(f32::from_bits(v));
    assert_eq!(bits(0x3f80_8000), 0x3f80);
    assert_eq!(bits(0x3f81_8000), 0x3f82);
    assert_eq!(bits(0x3f80_8001), 0x3f81);
    assert_eq!(bits(0x7f7f_ffff), 0x7f80);
    assert_eq!(bits(0x8000_0001), 0x8000);
    assert!(f32::from_bits(u32::from(rounded(f32::NAN)) << 16).is_nan());
    #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
    if has_bf16() {
        let values: Vec<f32> = (0..200_003u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        let mut bytes = vec![0; 2 * values.len()];
        // SAFETY: the machine has the instructions.
        unsafe { avx512::round(&values, &mut bytes) };
        for (value, got) in values.iter().zip(bytes.chunks_exact(2)) {
            assert_eq!(u16::from_le_bytes([got[0], got[1]]), rounded(*value), "{value:e} {:08x}", value.to_bits());
        }
    }
}

#[test]
fn what_does_not_pay_is_left_alone() {
    let g = ConvGeometry::matmul(4, 64, 32);
    let pack = |isa, g: ConvGeometry| Bf16Conv::pack(isa, g, &vec![0.5; g.weights_len()], None, Clamp::NONE);
    assert!(pack(Isa::Scalar, g).unwrap().is_none());
    assert!(pack(Isa::detect(), ConvGeometry::matmul(4, 8, 32)).unwrap().is_none());
    assert!(Bf16Conv::pack(Isa::detect(), g, &[0.5], None, Clamp::NONE).is_err());
    assert_eq!(pack(Isa::detect(), g).unwrap().is_some(), has_bf16());
    if let Some(conv) = pack(Isa::detect(), g).unwrap() {
        let pool = Pool::new(1);
        let mut scratch = vec![0; conv.scratch_bytes(1)];
        assert!(conv.run(&[0.0; 255], None, &mut [0.0; 128], &mut scratch, &pool).is_err());
        assert!(conv.run(&[0.0; 256], None, &mut [0.0; 127], &mut scratch, &pool).is_err());
        assert!(conv.run(&[0.0; 256], Some(&[0.0]), &mut [0.0; 128], &mut scratch, &pool).is_err());
        assert!(conv.run(&[0.0; 256], None, &mut [0.0; 128], &mut [], &pool).is_err());
        assert!(conv.run(&[0.0; 256], None, &mut [0.0; 128], &mut scratch, &pool).is_ok());
    }
}

/// Multiples of 1/128 in -1..1, which rounding does not change and whose sums of products are exact.
fn coarse(seed: u64, len: usize) -> Vec<f32> {
    noise(seed, len).into_iter().map(|v| (v * 128.0).round() / 128.0).collect()
}

/// Of one group, with pairs of input channels and sometimes whole vectors of them.
fn paired() -> impl Strategy<Value = ConvGeometry> {
    (geometry(), 1usize..40, 1usize..4, 1usize..3).prop_map(|(g, out_c, vectors, batch)| {
        let in_c = if g.in_c.is_multiple_of(2) { g.in_c } else { LANES * vectors };
        ConvGeometry { in_c, out_c, batch, ..g }
    })
}

/// The results of a convolution, its transpose and the gradient of its weights by each number of threads, all equal, and whether factors were
/// rounded.
fn trained(g: ConvGeometry, sums: Sums, [x, w, dy]: [&[f32]; 3]) -> ([Vec<f32>; 3], [bool; 3]) {
    let (isa, layout) = (Isa::detect(), FilterLayout::planar(&g));
    let forward = DynamicConv::new(isa, g, layout, Clamp::NONE, sums).unwrap();
    let input = TransposedConv::new(isa, g, Clamp::NONE, sums).unwrap();
    let weight = ConvWeightGrad::new(isa, g, layout, sums).unwrap();
    let mut first: Option<[Vec<f32>; 3]> = None;
    for threads in [1, 2, 3] {
        let pool = Pool::kept(threads);
        let mut results = [g.output_len(), g.input_len(), g.weights_len()].map(|len| vec![f32::NAN; len]);
        let [y, dx, dw] = &mut results;
        let scratch = |len: usize| vec![f32::NAN; len];
        forward.run(w, None, x, None, y, &mut scratch(forward.scratch_len(threads)), &pool).unwrap();
        input.run(w, None, dy, None, dx, &mut scratch(input.scratch_len(threads)), &pool).unwrap();
        weight.run(x, dy, dw, &mut scratch(weight.scratch_len(threads)), &pool).unwrap();
        assert_eq!(first.get_or_insert_with(|| results.clone()), &results, "{threads} threads {g:?}");
    }
    (first.unwrap(), [forward.is_rounded(), input.is_rounded(), weight.is_rounded()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn sums_of_short_factors_are_those_of_plain_kernels(g in paired(), seed in 1u64..1000) {
        let (x, w, dy) = (coarse(seed, g.input_len()), coarse(seed + 1, g.weights_len()), coarse(seed + 2, g.output_len()));
        let (plain, none) = trained(g, Sums::Plain, [&x, &w, &dy]);
        let (rounded, which) = trained(g, Sums::Rounded, [&x, &w, &dy]);
        prop_assert_eq!(none, [false; 3]);
        let suits = has_bf16() && Isa::detect() == Isa::Avx512;
        prop_assert!(suits || which == [false; 3]);
        let point = g.taps() == 1 && g.stride != [1, 1];
        prop_assert_eq!(which[2], suits && g.in_c.is_multiple_of(LANES) && !point);
        // Sums are exact in any order; the sign of zero is not compared.
        prop_assert_eq!(plain, rounded, "{:?} {:?}", which, g);
    }
}

#[test]
fn what_is_trained_with_is_rounded_once() {
    let g = ConvGeometry {
        batch: 2,
        in_h: 9,
        in_w: 7,
        in_c: 32,
        out_h: 9,
        out_w: 7,
        out_c: 48,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad_top: 1,
        pad_left: 1,
        groups: 1,
    };
    let short =
        |values: &[f32]| -> Vec<f32> { values.iter().map(|v| f32::from_bits(u32::from(rounded(*v)) << 16)).collect() };
    let (x, w, dy) = (noise(1, g.input_len()), noise(2, g.weights_len()), noise(3, g.output_len()));
    let (bias, residual) = (noise(4, g.out_c), noise(5, g.output_len()));
    let (results, which) = trained(g, Sums::Rounded, [&x, &w, &dy]);
    let (of_short, _) = trained(g, Sums::Plain, [&short(&x), &short(&w), &short(&dy)]);
    let suits = has_bf16() && Isa::detect() == Isa::Avx512;
    assert_eq!(which, [suits; 3]);
    if !suits {
        return;
    }
    for (found, expected) in results.iter().zip(&of_short) {
        let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
        // No sum has more than 9 · 48 products of factors below 1.
        assert_close(found, &expected, &vec![9.0; expected.len()], "rounded");
    }
    // With a bias, a residual and a limit.
    let conv =
        DynamicConv::new(Isa::detect(), g, FilterLayout::channels_last(&g), Clamp::RELU6, Sums::Rounded).unwrap();
    let mut y = vec![f32::NAN; g.output_len()];
    let (mut scratch, pool) = (vec![f32::NAN; conv.scratch_len(2)], Pool::kept(2));
    conv.run(&w, Some(&bias), &x, Some(&residual), &mut y, &mut scratch, &pool).unwrap();
    for (y, (want, magnitude)) in y.iter().zip(reference(&g, &x, &w, &bias, &residual, Clamp::RELU6)) {
        assert!((f64::from(*y) - want).abs() <= 1e-6 * magnitude + 1e-6, "{y} {want}");
    }
    assert!(conv.run(&w, None, &x[1..], None, &mut y, &mut scratch, &pool).is_err());
    assert!(conv.run(&w[1..], None, &x, None, &mut y, &mut scratch, &pool).is_err());
    assert!(conv.run(&w, None, &x, Some(&x[..1]), &mut y, &mut scratch, &pool).is_err());
    assert!(conv.run(&w, None, &x, None, &mut y[1..], &mut scratch, &pool).is_err());
    assert!(conv.run(&w, None, &x, None, &mut y, &mut scratch[..8], &pool).is_err());
}
