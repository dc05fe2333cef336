use proptest::prelude::*;

use super::*;
use crate::quantized::testing::{Case, agrees, cases, fill, result};

/// The result as bytes or as the bits of floats.
fn run(case: &Case, isa: Isa) -> Vec<u32> {
    let conv =
        QDepthwise::pack(isa, case.geometry, &case.weights, case.bias.as_deref(), case.x_zero, case.epilogue.clone())
            .unwrap();
    result(case, conv.scratch_bytes(case.threads), |y, scratch, pool| conv.run(&case.x, y, scratch, pool).unwrap())
}

proptest! {
    #[test]
    fn every_instruction_set_equals_the_definition(
        case in cases(
            prop::sample::select(vec![1usize, 3, 5, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 130])
                .prop_map(|channels| (channels, 1, 1)),
        ),
    ) {
        agrees(&case, run)?;
    }
}

#[test]
fn rows_longer_than_the_scratch_and_kernels_taller_than_four() {
    for (channels, width, kernel, stride, pad) in [
        (3, 300, [3, 3], [1, 1], 1),
        (70, 260, [3, 3], [2, 2], 1),
        (5, 130, [5, 5], [1, 1], 2),
        (16, 90, [9, 2], [1, 3], 4),
    ] {
        let geometry = ConvGeometry {
            batch: 2,
            in_h: 9,
            in_w: width,
            in_c: channels,
            out_h: (9 + 2 * pad - kernel[0]) / stride[0] + 1,
            out_w: (width + 2 * pad - kernel[1]) / stride[1] + 1,
            out_c: channels,
            kernel,
            stride,
            dilation: [1, 1],
            pad_top: pad,
            pad_left: pad,
            groups: channels,
        };
        for threads in 1..4 {
            agrees(&fill(geometry, 11, threads), run).unwrap();
        }
    }
}

#[test]
fn only_one_output_for_each_channel() {
    let geometry = ConvGeometry { groups: 4, out_c: 8, ..ConvGeometry::matmul(1, 4, 4) };
    let to = Epilogue::Dequantize { scale: vec![1.0; 8] };
    let packed = QDepthwise::pack(Isa::Scalar, geometry, &vec![1; 8], None, 0, to);
    assert!(matches!(packed, Err(KernelError::Geometry(_))));
}
