use proptest::prelude::*;

use super::*;
use crate::quantized::testing::{Case, agrees, cases, fill, result};
use crate::quantized::{Requantize, Residual, requantize};

/// The result as bytes or as the bits of floats.
fn run(case: &Case, isa: Isa) -> Vec<u32> {
    let conv = QConv::pack(isa, case.geometry, &case.weights, case.bias.as_deref(), case.x_zero, case.epilogue.clone())
        .unwrap();
    let conv = match &case.prelu {
        Some(prelu) => conv.with_prelu(prelu.clone()).unwrap(),
        None => conv,
    };
    let residual = case.residual.as_ref().map(|(values, add)| Residual { values, add });
    result(case, conv.scratch_bytes(case.threads), |y, scratch, pool| {
        conv.run_adding(&case.x, residual, y, scratch, pool).unwrap();
    })
}

fn channels() -> impl Strategy<Value = (usize, usize, usize)> {
    let odd = prop::sample::select(vec![1usize, 2, 3, 4, 5, 8, 16, 17, 20, 31, 32, 33, 48, 64]);
    let few = prop::sample::select(vec![1usize, 2, 3, 4, 5, 8, 17]);
    prop_oneof![
        3 => (Just(1usize), odd.clone(), odd),
        1 => (2usize..5, few.clone(), few),
    ]
}

proptest! {
    #[test]
    fn every_instruction_set_equals_the_definition(case in cases(channels())) {
        agrees(&case, run)?;
    }

    #[test]
    fn matrix_products_of_any_height(
        rows in 1usize..40, k in 1usize..200, columns in 1usize..100, seed: u64, threads in 1usize..4,
    ) {
        agrees(&fill(ConvGeometry::matmul(rows, k, columns), seed, threads), run)?;
    }
}

proptest! {
    /// Rows that AVX-512 reads from the image or a copy of it: wide ones, very wide ones of which it copies the ends alone, short ones of few
    /// channels; few output channels among them, whose kernel columns share a vector.
    #[test]
    fn rows_read_from_the_image(
        (in_c, out_c) in (prop::sample::select(vec![1usize, 2, 3, 4, 8, 12, 20]), prop::sample::select(vec![1usize, 1, 2, 3, 4, 5, 6, 16, 40, 70])),
        (in_h, in_w, batch) in (1usize..8, prop_oneof![3 => 12usize..48, 1 => 2usize..12, 1 => 250usize..280], 1usize..3),
        kernel in [1usize..5, 1usize..10], stride in [1usize..3, 1usize..3], pads in [0usize..3, 0usize..3],
        seed: u64, threads in 1usize..4,
    ) {
        let out = |size: usize, i: usize| (size + 2 * pads[i]).checked_sub(kernel[i]).map(|room| room / stride[i] + 1);
        let (Some(out_h), Some(out_w)) = (out(in_h, 0), out(in_w, 1)) else { return Ok(()) };
        let geometry = ConvGeometry {
            batch, in_h, in_w, in_c, out_h, out_w, out_c, kernel, stride,
            dilation: [1, 1], pad_top: pads[0], pad_left: pads[1], groups: 1,
        };
        agrees(&fill(geometry, seed, threads), run)?;
    }
}

#[test]
fn layers_large_enough_to_be_cut_both_ways() {
    let layer = |in_c, size: usize, out_c, kernel: usize, stride: usize| ConvGeometry {
        batch: 1,
        in_h: size,
        in_w: size,
        in_c,
        out_h: size / stride,
        out_w: size / stride,
        out_c,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1, 1],
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        groups: 1,
    };
    for geometry in [
        layer(3, 32, 16, 3, 2),
        layer(64, 7, 160, 3, 1),
        layer(512, 7, 72, 1, 1),
        layer(24, 28, 96, 1, 1),
        ConvGeometry { groups: 4, ..layer(64, 12, 64, 3, 1) },
    ] {
        for threads in 1..4 {
            agrees(&fill(geometry, 7, threads), run).unwrap();
        }
    }
}

#[test]
fn padding_means_zero_not_the_byte_zero() {
    let geometry = ConvGeometry { kernel: [3, 3], pad_top: 1, pad_left: 1, ..ConvGeometry::matmul(1, 1, 1) };
    let to = Epilogue::Requantize(Requantize { scale: vec![1.0], zero: 100, lo: 0, hi: 255, table: None });
    for isa in Isa::available() {
        let conv = QConv::pack(isa, geometry, &vec![1; 9], Some(&[2]), 50, to.clone()).unwrap();
        let mut scratch = vec![0; conv.scratch_bytes(1)];
        let mut y = [0];
        conv.run(&[53], Output::U8(&mut y), &mut scratch, &Pool::new(1)).unwrap();
        assert_eq!(y, [requantize(3 + 2, 1.0, 100, 0, 255)]);
    }
}

#[test]
fn sums_that_could_overflow_are_refused() {
    let depth = 70_000;
    let geometry = ConvGeometry::matmul(1, depth, 1);
    let to = Epilogue::Dequantize { scale: vec![1.0] };
    let refused = QConv::pack(Isa::Scalar, geometry, &vec![127; depth], None, 0, to.clone());
    assert!(matches!(refused, Err(KernelError::Overflow { channel: 0, .. })));
    assert!(QConv::pack(Isa::Scalar, geometry, &vec![127; depth], None, 128, to).is_ok());
}

#[test]
fn wrong_lengths_and_outputs_are_errors() {
    let geometry = ConvGeometry::matmul(2, 4, 3);
    let to = Epilogue::Dequantize { scale: vec![1.0; 3] };
    let pack = |w: usize, b: Option<&[i32]>| QConv::pack(Isa::detect(), geometry, &vec![1; w], b, 0, to.clone());
    assert!(pack(11, None).is_err());
    assert!(pack(12, Some(&[1, 2])).is_err());
    let conv = pack(12, None).unwrap();
    let pool = Pool::new(1);
    assert!(conv.run(&[0; 7], Output::F32(&mut [0.0; 6]), &mut [], &pool).is_err());
    assert!(conv.run(&[0; 8], Output::F32(&mut [0.0; 5]), &mut [], &pool).is_err());
    assert!(conv.run(&[0; 8], Output::U8(&mut [0; 6]), &mut [], &pool).is_err());
    let mut scratch = vec![0; conv.scratch_bytes(1)];
    assert!(conv.run(&[0; 8], Output::F32(&mut [0.0; 6]), &mut scratch, &pool).is_ok());
}
