use proptest::prelude::*;

use super::*;
use crate::quantized::conv::QConv;
use crate::quantized::testing::{Case, cases, fill, result};

/// Which weights stay.
#[derive(Debug, Clone, Copy)]
enum Pattern {
    /// Each by itself, of a hundred.
    Some(u64),
    /// The first of every so many.
    One(usize),
    /// Blocks of four products by sixteen channels, of a hundred.
    Blocks(u64),
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        (0u64..101).prop_map(Pattern::Some),
        (1usize..20).prop_map(Pattern::One),
        (0u64..101).prop_map(Pattern::Blocks),
    ]
}

fn sparse(mut case: Case, pattern: Pattern) -> Case {
    let depth = case.geometry.depth();
    let chance = |i: usize| (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33 & 0xffff;
    for (i, w) in case.weights.iter_mut().enumerate() {
        let stays = match pattern {
            Pattern::Some(percent) => chance(i) % 100 < percent,
            Pattern::One(of) => (i % depth).is_multiple_of(of),
            Pattern::Blocks(percent) => chance(i / depth / 16 * 1000 + i % depth / 4) % 100 < percent,
        };
        if !stays {
            *w = 0;
        }
    }
    case
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
        let conv = SparseConv::pack(isa, c.geometry, weights, bias, c.x_zero, c.epilogue.clone()).unwrap();
        let conv = conv.expect("no groups");
        let got = result(c, conv.scratch_bytes(c.threads), |y, scratch, pool| {
            let residual = residual.filter(|_| matches!(y, Output::U8(_)));
            conv.run_adding(&c.x, residual, y, scratch, pool).unwrap();
        });
        prop_assert_eq!(got, &want[..], "{:?}", isa);
    }
    Ok(())
}

fn channels() -> impl Strategy<Value = (usize, usize, usize)> {
    let sizes = prop::sample::select(vec![1usize, 2, 3, 4, 5, 8, 16, 17, 20, 31, 32, 33, 48, 64, 80, 130]);
    (Just(1usize), sizes.clone(), sizes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_instruction_set_equals_the_convolution_of_bytes(case in cases(channels()), pattern in pattern()) {
        check(&sparse(case, pattern))?;
    }

    #[test]
    fn products_of_any_height(
        rows in 1usize..60, k in 1usize..300, columns in 1usize..100, seed: u64, threads in 1usize..4, pattern in pattern(),
    ) {
        check(&sparse(fill(ConvGeometry::matmul(rows, k, columns), seed, threads), pattern))?;
    }
}

#[test]
fn slots_are_as_few_as_the_pattern_allows() {
    let g = ConvGeometry::matmul(4, 256, 64);
    let pack = |pattern| {
        let mut case = fill(g, 3, 1);
        case.weights.iter_mut().for_each(|w| *w |= 1);
        let case = sparse(case, pattern);
        let epilogue = Epilogue::Dequantize { scale: vec![1.0; 64] };
        SparseConv::pack(Isa::detect(), g, &case.weights, None, 0, epilogue).unwrap().unwrap()
    };
    let near = |pattern, density: f64| {
        let found = pack(pattern).density();
        assert!((found - density).abs() < 1e-9, "{pattern:?}: {found}, not {density}");
    };
    near(Pattern::One(1), 1.0);
    near(Pattern::One(4), 0.25);
    near(Pattern::One(8), 0.125);
    near(Pattern::One(16), 0.0625);
    near(Pattern::Some(0), 0.0);
    let blocks = pack(Pattern::Blocks(25));
    assert_eq!(blocks.slots.bytes() > 0, blocks.density() > 0.0);
    assert!(blocks.density() < 0.45, "{}", blocks.density());
    assert!(!pack(Pattern::One(1)).pays());
    let vbmi = AVX512 && Isa::detect() == Isa::Avx512 && has_vbmi();
    assert_eq!(pack(Pattern::One(4)).pays(), vbmi);
}
