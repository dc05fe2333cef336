//! Designs near a design.

use qing_train::{
    Random,
    architectures::{Design, Family},
};

/// Channels are multiples of so many: what kernels work on at once.
const STEP: usize = 8;
/// Windows there are.
const KERNELS: [usize; 3] = [3, 5, 7];
/// Expansions of inverted blocks.
const EXPANSIONS: [usize; 5] = [1, 2, 3, 4, 6];
/// Blocks of a stage, at most.
const DEEPEST: usize = 12;

/// All widths by `factor`, in whole steps.
#[must_use]
pub fn scaled(design: &Design, factor: f64) -> Design {
    let width = |w: usize| ((w as f64 * factor / STEP as f64).round() as usize).max(1) * STEP;
    let mut made = design.clone();
    made.stem = width(made.stem);
    made.stages.iter_mut().for_each(|s| s.width = width(s.width));
    made
}

/// One thing about a design changed: a width, a number of blocks, a window, an expansion.
pub(super) fn changed(design: &Design, random: &mut Random) -> Design {
    loop {
        let mut made = design.clone();
        let stage = random.below(made.stages.len() as u32) as usize;
        let kinds = if made.family == Family::Inverted { 5 } else { 4 };
        match random.below(kinds) {
            0 | 1 => {
                // The first width is one more to choose from.
                let first = random.below(made.stages.len() as u32 + 1) == 0;
                let width = if first { &mut made.stem } else { &mut made.stages[stage].width };
                *width = wider(*width, random);
            }
            2 => {
                let s = &mut made.stages[stage];
                s.blocks = if random.below(2) == 0 { s.blocks + 1 } else { s.blocks - 1 }.clamp(1, DEEPEST);
            }
            3 => made.stages[stage].kernel = KERNELS[random.below(KERNELS.len() as u32) as usize],
            _ => made.stages[stage].expand = EXPANSIONS[random.below(EXPANSIONS.len() as u32) as usize],
        }
        if made != *design {
            return made;
        }
    }
}

/// A step or a quarter more or less.
fn wider(width: usize, random: &mut Random) -> usize {
    let by = (width / 4 / STEP * STEP).max(STEP);
    if random.below(2) == 0 { width + by } else { width.saturating_sub(by).max(STEP) }
}

#[cfg(test)]
mod tests {
    use qing_train::Purpose;

    use super::*;

    #[test]
    fn one_thing_changes_and_all_can() {
        let design: Design = "inverted:16,16x1e1,24x2s2,40x3s2".parse().unwrap();
        let mut random = Random::new(1, Purpose::Probe, 0, 0);
        let (mut stems, mut kernels, mut blocks, mut expansions) = (0, 0, 0, 0);
        for _ in 0..400 {
            let made = changed(&design, &mut random);
            assert!(made.to_string().parse::<Design>().unwrap() == made && made != design);
            assert!(made.stages.iter().all(|s| s.width % STEP == 0 && s.blocks >= 1));
            let differ = |of: fn(&qing_train::architectures::Stage) -> usize| {
                made.stages.iter().zip(&design.stages).filter(|(a, b)| of(a) != of(b)).count()
            };
            stems += usize::from(made.stem != design.stem);
            kernels += differ(|s| s.kernel);
            blocks += differ(|s| s.blocks);
            expansions += differ(|s| s.expand);
        }
        assert!([stems, kernels, blocks, expansions].iter().all(|n| *n > 20));
        assert_eq!(scaled(&design, 0.5).to_string(), "inverted:8,8x1e1,16x2s2,24x3s2");
    }
}
