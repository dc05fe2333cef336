use proptest::prelude::*;

use super::*;
use crate::quantized::conv::QConv;
use crate::quantized::testing::{Case, cases, fill, result};

/// A case with weights brought down to a width.
fn narrowed(mut case: Case, width: Width) -> Case {
    for w in &mut case.weights {
        *w = match width {
            Width::Four => *w >> 4,
            Width::Two => *w >> 6,
            Width::Ternary => *w as u8 as i8 % 2,
        };
    }
    let scale = match &mut case.epilogue {
        Epilogue::Requantize(to) => &mut to.scale,
        Epilogue::Dequantize { scale } => scale,
    };
    for scale in scale.iter_mut().filter(|s| **s > 1e-20 && **s < 1e20) {
        *scale *= if width == Width::Four { 16.0 } else { 64.0 };
    }
    case
}

fn width() -> impl Strategy<Value = Width> {
    prop::sample::select(vec![Width::Four, Width::Two, Width::Ternary])
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let c = case;
    let (weights, bias) = (&c.weights, c.bias.as_deref());
    let conv = QConv::pack(Isa::Scalar, c.geometry, weights, bias, c.x_zero, c.epilogue.clone()).unwrap();
    let residual = c.residual.as_ref().map(|(values, add)| Residual { values, add });
    let want = result(c, conv.scratch_bytes(c.threads), |y, scratch, pool| {
        let residual = residual.filter(|_| matches!(y, Output::U8(_)));
        conv.run_adding(&c.x, residual, y, scratch, pool).unwrap();
    });
    for isa in Isa::available() {
        let conv = NarrowConv::pack(isa, c.geometry, weights, bias, c.x_zero, c.epilogue.clone()).unwrap();
        let conv = conv.expect("few bits");
        let scratch = conv.scratch_bytes(c.threads);
        let got = result(c, scratch, |y, scratch, pool| {
            let residual = residual.filter(|_| matches!(y, Output::U8(_)));
            conv.run_adding(&c.x, residual, y, scratch, pool).unwrap();
        });
        prop_assert_eq!(got, &want[..], "{:?} {:?}", isa, conv.width());
    }
    Ok(())
}

fn channels() -> impl Strategy<Value = (usize, usize, usize)> {
    let sizes = prop::sample::select(vec![1usize, 2, 3, 4, 5, 8, 16, 17, 20, 31, 32, 33, 48, 64, 80]);
    (Just(1usize), sizes.clone(), sizes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_instruction_set_equals_the_convolution_of_bytes(case in cases(channels()), width in width()) {
        check(&narrowed(case, width))?;
    }

    #[test]
    fn products_of_any_height(
        rows in 1usize..60, k in 1usize..200, columns in 1usize..200, seed: u64, threads in 1usize..4, width in width(),
    ) {
        check(&narrowed(fill(ConvGeometry::matmul(rows, k, columns), seed, threads), width))?;
    }

    #[test]
    fn groups_are_summed_in_their_order(
        rows in 1usize..20, groups in 1usize..6, quarter in 1usize..20, columns in 1usize..150, seed: u64,
        threads in 1usize..4, width in width(), x_zero: u8,
    ) {
        let (group, depth) = (4 * quarter, 4 * quarter * groups);
        let case = narrowed(fill(ConvGeometry::matmul(rows, depth, columns), seed, threads), width);
        let scale: Vec<f32> = (0..groups * columns).map(|i| 1e-3 * ((i * 37 % 101) as f32 + 1.0)).collect();
        let mut want = vec![0u32; rows * columns];
        for (i, want) in want.iter_mut().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let mut sum = 0.0f32;
            for g in 0..groups {
                let acc: i32 = (g * group..(g + 1) * group)
                    .map(|k| (i32::from(case.x[row * depth + k]) - i32::from(x_zero)) * i32::from(case.weights[column * depth + k]))
                    .sum();
                sum += acc as f32 * scale[g * columns + column];
            }
            *want = sum.to_bits();
        }
        for isa in Isa::available() {
            let shape = [rows, depth, columns];
            let product = GroupedMatMul::pack(isa, shape, group, &case.weights, &scale, x_zero).unwrap().expect("few bits");
            let mut y = vec![f32::NAN; rows * columns];
            product.run(&case.x, &mut y, &Pool::kept(threads)).unwrap();
            let got: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
            prop_assert_eq!(&got, &want, "{:?}", isa);
        }
    }
}

#[test]
fn rows_read_from_the_image() {
    let layer = |in_w, in_c, out_c| ConvGeometry {
        batch: 2,
        in_h: 5,
        in_w,
        in_c,
        out_h: 5,
        out_w: in_w,
        out_c,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pad_top: 1,
        pad_left: 1,
        groups: 1,
    };
    // Wide and very wide rows; steps that no byte's weights end with.
    for (in_w, in_c, out_c) in [(20, 8, 70), (13, 12, 128), (260, 4, 20)] {
        for width in [Width::Four, Width::Two, Width::Ternary] {
            for threads in 1..4 {
                check(&narrowed(fill(layer(in_w, in_c, out_c), 11, threads), width)).unwrap();
            }
        }
    }
}

#[test]
fn extreme_sums_stay_exact() {
    for (width, low, high) in [(Width::Four, -8, 7), (Width::Two, -2, 1), (Width::Ternary, -1, 1)] {
        for w in [low, high] {
            let mut case = fill(ConvGeometry::matmul(5, 4096, 40), 1, 1);
            case.weights.fill(w);
            // One other weight, so that the width is the one meant.
            case.weights[0] = low;
            case.x.fill(255);
            assert_eq!(Width::of(&case.weights), Some(width));
            check(&case).unwrap();
        }
    }
}

#[test]
fn what_does_not_fit_is_left_alone() {
    let to = |n| Epilogue::Dequantize { scale: vec![1.0; n] };
    let pack = |g: ConvGeometry, w: &[i8]| NarrowConv::pack(Isa::detect(), g, &w, None, 128, to(g.out_c));
    let g = ConvGeometry::matmul(2, 4, 3);
    assert!(pack(g, &[8; 12]).unwrap().is_none());
    assert!(pack(g, &[7; 12]).unwrap().is_some());
    let long = ConvGeometry::matmul(1, 20_000, 1);
    assert!(pack(long, &vec![7; 20_000]).unwrap().is_none());
    assert!(pack(long, &vec![1; 20_000]).unwrap().is_some());
    assert!(matches!(
        pack(ConvGeometry::matmul(1, 3_000_000, 1), &vec![7; 3_000_000]),
        Err(KernelError::Overflow { .. })
    ));
    let grouped = ConvGeometry { groups: 2, in_c: 4, out_c: 6, ..g };
    assert!(pack(grouped, &[1; 12]).unwrap().is_none());
    let blocks = |group, w: &[i8], scales: usize| {
        GroupedMatMul::pack(Isa::detect(), [1, 12, 1], group, w, &vec![1.0; scales], 0).map(|p| p.is_some())
    };
    assert_eq!(blocks(4, &[1; 12], 3), Ok(true));
    assert_eq!(blocks(8, &[1; 12], 2), Ok(false));
    assert_eq!(blocks(6, &[1; 12], 2), Ok(false));
    assert_eq!(blocks(4, &[9; 12], 3), Ok(false));
    assert!(blocks(4, &[1; 12], 2).is_err());
    assert!(blocks(0, &[1; 12], 2).is_err());
}

#[test]
fn wrong_lengths_and_outputs_are_errors() {
    let g = ConvGeometry::matmul(2, 6, 3);
    let conv = NarrowConv::pack(Isa::detect(), g, &vec![1; 18], None, 0, Epilogue::Dequantize { scale: vec![1.0; 3] });
    let conv = conv.unwrap().unwrap();
    let pool = Pool::new(1);
    let mut scratch = vec![0; conv.scratch_bytes(1)];
    assert!(conv.run(&[0; 11], Output::F32(&mut [0.0; 6]), &mut scratch, &pool).is_err());
    assert!(conv.run(&[0; 12], Output::F32(&mut [0.0; 5]), &mut scratch, &pool).is_err());
    assert!(conv.run(&[0; 12], Output::U8(&mut [0; 6]), &mut scratch, &pool).is_err());
    assert!(conv.run(&[0; 12], Output::F32(&mut [0.0; 6]), &mut [], &pool).is_err());
    assert!(conv.run(&[0; 12], Output::F32(&mut [0.0; 6]), &mut scratch, &pool).is_ok());
}
