//! Random convolutions for the tests of this room.

use proptest::prelude::*;

use super::{Clip, Epilogue, Output, QAdd, QPRelu, Requantize};
use crate::{Isa, Pool, geometry::ConvGeometry};

/// A convolution with everything it needs, drawn at random.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) geometry: ConvGeometry,
    pub(crate) x: Vec<u8>,
    pub(crate) weights: Vec<i8>,
    pub(crate) bias: Option<Vec<i32>>,
    pub(crate) x_zero: u8,
    pub(crate) epilogue: Epilogue,
    /// What may be applied to results of one byte that go through no table.
    pub(crate) prelu: Option<QPRelu>,
    /// What may be added to results of one byte.
    pub(crate) residual: Option<(Vec<u8>, QAdd)>,
    pub(crate) threads: usize,
}

/// Deterministic bytes: proptest would spend its time shrinking them one by one.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Fills in data and epilogue for a geometry.
pub(crate) fn fill(geometry: ConvGeometry, seed: u64, threads: usize) -> Case {
    let g = &geometry;
    let control = bytes(seed ^ 0x9e37_79b9, 16);
    let weights = bytes(seed ^ 1, g.weights_len()).iter().map(|w| *w as i8).collect();
    let bias = (!control[0].is_multiple_of(4)).then(|| {
        bytes(seed ^ 2, 4 * g.out_c)
            .chunks(4)
            .map(|b| i32::from_le_bytes([b[0], b[1], b[2] % 4, 0]) - 0x1_0000)
            .collect()
    });
    // Around what brings the sums to the range of a byte, with some far outside it.
    let unit = 1.0 / (40.0 * 74.0 * (g.depth() as f32).sqrt());
    let scale: Vec<f32> = bytes(seed ^ 3, g.out_c)
        .iter()
        .map(|s| match s {
            0..=3 => 1e30,
            4..=7 => 1e-30,
            s => unit * f32::from(*s),
        })
        .collect();
    let (lo, hi) = (control[1].min(control[2]), control[1].max(control[2]));
    let narrow = control[3].is_multiple_of(2);
    let epilogue = if control[4].is_multiple_of(4) {
        Epilogue::Dequantize { scale }
    } else {
        Epilogue::Requantize(Requantize {
            scale,
            zero: control[5],
            lo: if narrow { lo } else { 0 },
            hi: if narrow { hi } else { 255 },
            table: control[6].is_multiple_of(3).then(|| {
                let table: [u8; 256] = bytes(seed ^ 4, 256).try_into().unwrap();
                Box::new(table)
            }),
        })
    };
    let residual = (control[8].is_multiple_of(2) && matches!(epilogue, Epilogue::Requantize(_))).then(|| {
        let factor = |low: u8, high: u8| i32::from(u16::from_le_bytes([low, high])).min(1 << 14);
        let clip = Clip { zero: control[9], lo, hi };
        let (m_a, m_b) = (factor(control[10], control[11]), factor(control[12], control[13]));
        let scale = f32::from(control[14]) * 2e-6;
        (bytes(seed ^ 6, g.output_len()), QAdd { a_zero: control[5], b_zero: control[15], m_a, m_b, scale, clip })
    });
    let prelu = match &epilogue {
        Epilogue::Requantize(to) if to.table.is_none() && control[8] % 4 < 2 => Some(QPRelu {
            x_zero: to.zero,
            above: f32::from(control[11]) * 0.01,
            below: bytes(seed ^ 7, g.out_c).iter().map(|b| f32::from(*b as i8) * 0.01).collect(),
            clip: Clip { zero: control[10], lo, hi },
        }),
        _ => None,
    };
    Case {
        prelu,
        residual,
        x: bytes(seed ^ 5, g.input_len()),
        weights,
        bias,
        x_zero: control[7],
        epilogue,
        threads,
        geometry,
    }
}

/// Kernels, strides, dilations and paddings of every kind; channels as `channels` gives them:
/// `(groups, inputs of a group, outputs of a group)`.
pub(crate) fn cases(channels: impl Strategy<Value = (usize, usize, usize)>) -> impl Strategy<Value = Case> {
    let kernel = prop_oneof![
        2 => Just([1usize, 1]),
        3 => Just([3, 3]),
        1 => (1usize..6, 1usize..6).prop_map(|(h, w)| [h, w]),
    ];
    let step = (1usize..3, 1usize..3);
    (
        (1usize..3, 1usize..12, 1usize..20),
        channels,
        kernel,
        (step.clone(), step, any::<bool>()),
        (0usize..3, 0usize..3, 0usize..3, 0usize..3),
        any::<u64>(),
        1usize..4,
    )
        .prop_map(|((batch, h, w), (groups, cin, cout), kernel, (stride, dilation, plain), pad, seed, threads)| {
            let (stride, dilation) =
                if plain { ([1, 1], [1, 1]) } else { ([stride.0, stride.1], [dilation.0, dilation.1]) };
            let out = |size: usize, pads: usize, axis: usize| {
                let reach = dilation[axis] * (kernel[axis] - 1) + 1;
                (size + pads).saturating_sub(reach) / stride[axis] + 1
            };
            let geometry = ConvGeometry {
                batch,
                in_h: h,
                in_w: w,
                in_c: groups * cin,
                out_h: out(h, pad.0 + pad.1, 0),
                out_w: out(w, pad.2 + pad.3, 1),
                out_c: groups * cout,
                kernel,
                stride,
                dilation,
                pad_top: pad.0,
                pad_left: pad.2,
                groups,
            };
            fill(geometry, seed, threads)
        })
}

/// What `run` writes for a case, as bytes or as the bits of floats. Scratch is full of rubbish.
pub(crate) fn result(case: &Case, scratch: usize, run: impl FnOnce(Output<'_>, &mut [u8], &Pool)) -> Vec<u32> {
    let pool = Pool::kept(case.threads);
    let mut scratch = vec![0xa5; scratch];
    let len = case.geometry.output_len();
    match case.epilogue {
        Epilogue::Requantize(_) => {
            let mut y = vec![0; len];
            run(Output::U8(&mut y), &mut scratch, &pool);
            y.iter().map(|y| u32::from(*y)).collect()
        }
        Epilogue::Dequantize { .. } => {
            let mut y = vec![0.0; len];
            run(Output::F32(&mut y), &mut scratch, &pool);
            y.iter().map(|y: &f32| y.to_bits()).collect()
        }
    }
}

/// Every instruction set gives what the scalar one gives, to the bit.
pub(crate) fn agrees(case: &Case, run: impl Fn(&Case, Isa) -> Vec<u32>) -> Result<(), TestCaseError> {
    let want = run(case, Isa::Scalar);
    for isa in Isa::available() {
        prop_assert_eq!(&run(case, isa), &want, "{:?}", isa);
    }
    Ok(())
}
