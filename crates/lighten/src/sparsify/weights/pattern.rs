//! Which weights may stay.

use std::str::FromStr;

use super::Matrix;
use crate::LightenError;

/// Outputs and inputs of a block: what a kernel multiplies in one instruction.
pub(super) const BLOCK: [usize; 2] = [16, 4];

/// A pattern of weights that are not zero, within a layer's `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Any, but for this share of them.
    Any {
        /// Share that goes, 0 to 1.
        share: f64,
    },
    /// Of every `of` neighbouring inputs of an output, at most `keep`.
    NofM {
        /// How many stay.
        keep: usize,
        /// Of how many.
        of: usize,
    },
    /// Whole blocks of 16 outputs by 4 inputs, but for this share of them.
    Blocks {
        /// Share that goes, 0 to 1.
        share: f64,
    },
}

impl Pattern {
    pub(super) fn check(self) -> Result<(), LightenError> {
        let bad = match self {
            Pattern::Any { share } | Pattern::Blocks { share } => !(share > 0.0 && share < 1.0),
            Pattern::NofM { keep, of } => keep == 0 || keep >= of || of > 4096,
        };
        if bad {
            Err(LightenError::Option(format!("a pattern of {self:?} leaves nothing, or everything")))
        } else {
            Ok(())
        }
    }

    /// The share of weights that go.
    #[must_use]
    pub fn share(self) -> f64 {
        match self {
            Pattern::Any { share } | Pattern::Blocks { share } => share,
            Pattern::NofM { keep, of } => 1.0 - keep as f64 / of as f64,
        }
    }
}

impl FromStr for Pattern {
    type Err = LightenError;

    /// `4:16`, `75%`, `blocks:75%`.
    fn from_str(text: &str) -> Result<Pattern, LightenError> {
        let bad = || {
            LightenError::Option(format!(
                "pattern `{text}`: write 4:16 (of 16 neighbours 4 stay), 75% (any, so many go) or blocks:75% (blocks of 16 outputs by 4 inputs)"
            ))
        };
        let share = |text: &str| {
            let percent = text.strip_suffix('%').and_then(|p| p.trim().parse::<f64>().ok());
            percent.filter(|p| *p > 0.0 && *p < 100.0).map(|p| p / 100.0).ok_or_else(bad)
        };
        let pattern = match text.trim().split_once(':') {
            Some(("blocks", rest)) => Pattern::Blocks { share: share(rest)? },
            Some((keep, of)) => {
                Pattern::NofM { keep: keep.parse().map_err(|_| bad())?, of: of.parse().map_err(|_| bad())? }
            }
            None => Pattern::Any { share: share(text)? },
        };
        pattern.check().map_err(|_| bad())?;
        Ok(pattern)
    }
}

/// Which weights of a matrix stay if these are their scores, row by row: the higher, the rather.
pub(super) fn mask(pattern: Pattern, scores: &[f64], [rows, columns]: [usize; 2]) -> Vec<bool> {
    let mut stays = vec![false; scores.len()];
    match pattern {
        Pattern::Any { share } => {
            for i in highest(scores, ((1.0 - share) * scores.len() as f64).round() as usize) {
                stays[i] = true;
            }
        }
        Pattern::NofM { keep, of } => {
            for row in 0..rows {
                for start in (0..columns).step_by(of) {
                    let first = row * columns + start;
                    let run = &scores[first..row * columns + (start + of).min(columns)];
                    // Of fewer at the end of a row, as large a part.
                    let count = (keep * run.len()).div_ceil(of);
                    highest(run, count).into_iter().for_each(|i| stays[first + i] = true);
                }
            }
        }
        Pattern::Blocks { share } => {
            let (across, down) = (columns.div_ceil(BLOCK[1]), rows.div_ceil(BLOCK[0]));
            let mut sums = vec![0.0; across * down];
            for (i, score) in scores.iter().enumerate() {
                sums[i / columns / BLOCK[0] * across + i % columns / BLOCK[1]] += score;
            }
            let kept = highest(&sums, ((1.0 - share) * sums.len() as f64).round() as usize);
            let mut blocks = vec![false; sums.len()];
            kept.into_iter().for_each(|i| blocks[i] = true);
            for (i, stays) in stays.iter_mut().enumerate() {
                *stays = blocks[i / columns / BLOCK[0] * across + i % columns / BLOCK[1]];
            }
        }
    }
    stays
}

/// The places of the `count` highest scores; of equals the first.
fn highest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(count);
    order
}

/// Takes the smallest weights out.
pub(super) fn by_magnitude(m: &mut Matrix, pattern: Pattern) {
    let scores: Vec<f64> = m.values.iter().map(|v| v * v).collect();
    let stays = mask(pattern, &scores, [m.rows, m.columns]);
    m.values.iter_mut().zip(stays).filter(|(_, stays)| !stays).for_each(|(v, _)| *v = 0.0);
}
