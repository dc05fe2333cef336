use proptest::prelude::*;

use super::*;
use crate::quantized::conv::QConv;
use crate::quantized::testing::{Case, cases, fill};

/// Weights that a kind of digits covers, from arbitrary ones.
fn narrowed(weights: &[i8], kind: usize) -> Vec<i8> {
    let of = |w: i8| -> i8 {
        let u = w as u8;
        match kind {
            0 => [-1, 1][usize::from(u & 1)],
            1 => [-1, 0, 0, 1][usize::from(u & 3)],
            2 => [-3, -1, 1, 3][usize::from(u & 3)],
            3 => [-2, -1, 0, 1][usize::from(u & 3)],
            4 => (u % 7) as i8 - 3,
            _ => (u % 15) as i8 - 7,
        }
    };
    weights.iter().map(|w| of(*w)).collect()
}

/// A case brought down to few bits: weights of a kind, inputs of `planes` bits or bipolar, outputs of `out` bits.
#[derive(Debug, Clone)]
struct Few {
    case: Case,
    codes: Codes,
    out: Option<Codes>,
}

fn few(mut case: Case, kind: usize, planes: usize, bipolar: bool, lo: u8, out: usize, seed: u64) -> Few {
    let codes = if bipolar { Codes { lo: 127, step: 2, planes: 1 } } else { Codes { lo, step: 1, planes } };
    case.weights = narrowed(&case.weights, kind);
    for x in &mut case.x {
        *x = codes.lo + codes.step * (*x & ((1 << codes.planes) - 1));
    }
    case.x_zero = if bipolar { 128 } else { lo + (seed % (1 << planes)) as u8 };
    let mut to_codes = None;
    if let Epilogue::Requantize(to) = &mut case.epilogue {
        let top = (1u8 << out) - 1;
        to_codes = Some(Codes { lo, step: 1, planes: out });
        if let Some(table) = &mut to.table {
            table.iter_mut().for_each(|v| *v = lo + (*v & top));
        } else {
            (to.zero, to.lo, to.hi) = (lo + to.zero % (top + 1), lo + to.lo % (top + 1), lo + top);
        }
    }
    let scale = match &mut case.epilogue {
        Epilogue::Requantize(to) => &mut to.scale,
        Epilogue::Dequantize { scale } => scale,
    };
    // Sums are smaller than those of bytes.
    for scale in scale.iter_mut().filter(|s| **s > 1e-20 && **s < 1e20) {
        *scale *= 100.0;
    }
    if let Some(bias) = &mut case.bias {
        bias.iter_mut().for_each(|b| *b %= 60);
    }
    Few { case, codes, out: to_codes }
}

fn few_bits(channels: impl Strategy<Value = (usize, usize, usize)>) -> impl Strategy<Value = Few> {
    let input = (1usize..5, any::<bool>(), prop::sample::select(vec![0u8, 112, 120, 126, 127]));
    (cases(channels), 0usize..6, input, 1usize..5, any::<u64>())
        .prop_map(|(case, kind, (planes, bipolar, lo), out, seed)| few(case, kind, planes, bipolar, lo, out, seed))
}

/// What the convolution of bytes gives, by its definition.
fn reference(few: &Few) -> Vec<u32> {
    let c = &few.case;
    let conv =
        QConv::pack(Isa::Scalar, c.geometry, &c.weights, c.bias.as_deref(), c.x_zero, c.epilogue.clone()).unwrap();
    crate::quantized::testing::result(c, conv.scratch_bytes(c.threads), |y, scratch, pool| {
        conv.run(&c.x, y, scratch, pool).unwrap();
    })
}

/// A value as planes, one bit after the other.
fn to_planes(codes: Codes, x: &[u8], channels: usize) -> Vec<u32> {
    let words = plane_words(channels);
    let pixels = x.len() / channels;
    let mut planes = vec![0u32; codes.planes * pixels * words];
    for (i, v) in x.iter().enumerate() {
        let (pixel, c) = (i / channels, i % channels);
        let code = (v - codes.lo) / codes.step;
        for plane in 0..codes.planes {
            planes[(plane * pixels + pixel) * words + c / 32] |= u32::from(code >> plane & 1) << (c % 32);
        }
    }
    planes
}

fn check(few: &Few) -> Result<(), TestCaseError> {
    let want = reference(few);
    let c = &few.case;
    let g = &c.geometry;
    let pool = Pool::kept(c.threads);
    let planes = to_planes(few.codes, &c.x, g.in_c);
    // Sums are looked up wherever they can be, and nowhere.
    let kernels = Isa::available().into_iter().flat_map(|isa| [(isa, 0), (isa, usize::MAX)]);
    for (isa, least_uses) in kernels {
        let (epilogue, input) = (c.epilogue.clone(), (few.codes, c.x_zero));
        let conv = BitConv::pack_for(isa, *g, &c.weights, c.bias.as_deref(), input, epilogue, few.out, least_uses);
        let conv = conv.unwrap().expect("few bits");
        let mut scratch = vec![0xa5a5_a5a5u32; conv.scratch_bytes(c.threads).div_ceil(4)];
        // SAFETY: words are bytes.
        let scratch: &mut [u8] = unsafe { scratch.align_to_mut().1 };
        for x in [BitInput::Bytes(&c.x), BitInput::Planes(&planes)] {
            match &c.epilogue {
                Epilogue::Requantize(_) => {
                    let mut y = vec![0u8; g.output_len()];
                    conv.run(x, BitOutput::U8(&mut y), scratch, &pool).unwrap();
                    let got: Vec<u32> = y.iter().map(|y| u32::from(*y)).collect();
                    prop_assert_eq!(&got, &want, "{:?} bytes", isa);
                    if let Some((values, add)) = &c.residual {
                        let mut sum = vec![0u8; g.output_len()];
                        let residual = Some(Residual { values, add });
                        conv.run_adding(x, residual, BitOutput::U8(&mut sum), scratch, &pool).unwrap();
                        let mut added = vec![0u8; g.output_len()];
                        add.run(Isa::Scalar, &y, values, &mut added, &pool).unwrap();
                        prop_assert_eq!(&sum, &added, "{:?} added", isa);
                    }
                    let out = few.out.expect("requantized");
                    prop_assert!(conv.writes_planes());
                    let mut bits = vec![u32::MAX; out.planes * g.out_pixels() * plane_words(g.out_c)];
                    conv.run(x, BitOutput::Planes(&mut bits), scratch, &pool).unwrap();
                    prop_assert_eq!(bits, to_planes(out, &y, g.out_c), "{:?} planes", isa);
                }
                Epilogue::Dequantize { .. } => {
                    let mut y = vec![0f32; g.output_len()];
                    conv.run(x, BitOutput::F32(&mut y), scratch, &pool).unwrap();
                    let got: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                    prop_assert_eq!(&got, &want, "{:?} reals", isa);
                }
            }
        }
    }
    Ok(())
}

fn channels() -> impl Strategy<Value = (usize, usize, usize)> {
    let sizes = prop::sample::select(vec![1usize, 3, 16, 17, 31, 32, 33, 40, 64, 65, 96]);
    (Just(1usize), sizes.clone(), sizes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_instruction_set_equals_the_convolution_of_bytes(few in few_bits(channels())) {
        check(&few)?;
    }

    #[test]
    fn products_of_any_height(
        rows in 1usize..30, k in 1usize..300, columns in 1usize..100, kind in 0usize..6, planes in 1usize..4,
        bipolar: bool, seed: u64, threads in 1usize..4,
    ) {
        let case = fill(ConvGeometry::matmul(rows, k, columns), seed, threads);
        check(&few(case, kind, planes, bipolar, 0, 2, seed))?;
    }
}

#[test]
fn long_windows_do_not_overflow_the_counts_of_bytes() {
    let geometry = ConvGeometry {
        kernel: [3, 3],
        pad_top: 1,
        pad_left: 1,
        in_h: 3,
        out_h: 3,
        ..ConvGeometry::matmul(4, 2048, 40)
    };
    for kind in 0..2 {
        let mut few = few(fill(geometry, 3, 2), kind, 2, false, 126, 2, 1);
        few.case.x.fill(129);
        few.case.weights.fill(1);
        check(&few).unwrap();
    }
}

#[test]
fn weights_and_codes_beyond_few_bits_are_left_alone() {
    let g = ConvGeometry::matmul(2, 4, 3);
    let to = || Epilogue::Dequantize { scale: vec![1.0; 3] };
    let codes = Codes { lo: 0, step: 1, planes: 2 };
    let pack = |g, w: &[i8], codes| BitConv::pack(Isa::detect(), g, &w, None, (codes, 0), to(), None).unwrap();
    assert!(pack(g, &[8; 12], codes).is_none());
    assert!(pack(g, &[1; 12], Codes { planes: 5, ..codes }).is_none());
    assert!(pack(g, &[1; 12], Codes { lo: 254, ..codes }).is_none());
    assert_eq!(pack(g, &[1; 12], codes).map(|c| c.passes()), Some(2));
    assert_eq!(pack(g, &[-3; 12], codes).map(|c| c.passes()), Some(4));
    let grouped = ConvGeometry { groups: 2, in_c: 4, out_c: 6, ..g };
    let to = Epilogue::Dequantize { scale: vec![1.0; 6] };
    assert!(BitConv::pack(Isa::detect(), grouped, &vec![1; 12], None, (codes, 0), to, None).unwrap().is_none());
}

#[test]
fn wrong_lengths_and_outputs_are_errors() {
    let g = ConvGeometry::matmul(2, 40, 3);
    let codes = Codes { lo: 0, step: 1, planes: 1 };
    let to = Epilogue::Dequantize { scale: vec![1.0; 3] };
    let conv = BitConv::pack(Isa::detect(), g, &vec![1; 120], None, (codes, 0), to, None).unwrap().unwrap();
    let pool = Pool::new(1);
    let mut y = [0.0; 6];
    let mut scratch = vec![0; conv.scratch_bytes(1) + 8];
    let at = scratch.as_ptr().align_offset(4);
    let scratch = &mut scratch[at..];
    assert!(conv.run(BitInput::Bytes(&[0; 79]), BitOutput::F32(&mut y), scratch, &pool).is_err());
    assert!(conv.run(BitInput::Planes(&[0; 3]), BitOutput::F32(&mut y), scratch, &pool).is_err());
    assert!(conv.run(BitInput::Bytes(&[0; 80]), BitOutput::U8(&mut [0; 6]), scratch, &pool).is_err());
    assert!(conv.run(BitInput::Bytes(&[0; 80]), BitOutput::Planes(&mut [0; 2]), scratch, &pool).is_err());
    assert!(conv.run(BitInput::Bytes(&[0; 80]), BitOutput::F32(&mut y), &mut [], &pool).is_err());
    assert!(conv.run(BitInput::Bytes(&[0; 80]), BitOutput::F32(&mut y), scratch, &pool).is_ok());
    let overflow = BitConv::pack(
        Isa::detect(),
        ConvGeometry::matmul(1, 3_000_000, 1),
        &vec![7; 3_000_000],
        None,
        (codes, 0),
        Epilogue::Dequantize { scale: vec![1.0] },
        None,
    );
    assert!(matches!(overflow, Err(KernelError::Overflow { channel: 0, .. })));
}
