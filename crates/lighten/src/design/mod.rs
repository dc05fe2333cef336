//! Lightweight design: the network of a family that does most within a budget, found without training any.
//!
//! Designs are changed a little at a time, and the oldest die (regularized evolution, Real et al., arXiv:1802.01548). What exceeds the
//! budget is never looked at; what keeps it is judged without training ([`score`]): by its parameters and by how well fresh weights tell
//! inputs apart ([`separation`], "neural architecture search without training", Mellor et al., arXiv:2006.04647). That is a hint, not an
//! accuracy: the best few are to be trained for a short time, beside what scaling the first design alone gives ([`scaled`]).

mod change;
mod proxy;

use std::collections::{HashSet, VecDeque};

use qing_graph::{Graph, Tensor};
use qing_train::{
    Purpose, Random,
    architectures::{self, Design, Settings},
};
use serde::Serialize;

use crate::{LightenError, Progress, totals};
use change::changed;
pub use change::scaled;
pub use proxy::separation;

/// How to search.
#[derive(Debug, Clone, PartialEq)]
pub struct DesignOptions {
    /// Designs that are judged.
    pub trials: usize,
    /// Designs that are alive at a time.
    pub population: usize,
    /// Of how many of them the best has a child.
    pub contest: usize,
    /// What is drawn from.
    pub seed: u64,
    /// Threads of the engine.
    pub threads: usize,
}

impl Default for DesignOptions {
    fn default() -> DesignOptions {
        DesignOptions { trials: 300, population: 40, contest: 8, seed: 1, threads: 1 }
    }
}

/// Images of one resolution that designs are judged on.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Channels, rows, columns.
    pub input: Vec<usize>,
    /// A batch as the network takes it, some dozens.
    pub batch: Tensor,
}

impl Sight {
    /// The network of a design for these images, with fresh weights.
    ///
    /// # Errors
    /// If the images are too small for it.
    pub fn network(&self, design: &Design, classes: usize, seed: u64) -> Result<Graph, LightenError> {
        let settings = Settings { input: self.input.clone(), classes, seed };
        Ok(architectures::build(&design.to_string(), &settings)?)
    }
}

/// A design that keeps the budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The design, as recipes name it.
    #[serde(serialize_with = "as_text")]
    pub design: Design,
    /// What it reads: channels, rows, columns.
    pub input: Vec<usize>,
    /// [`score`]; more is better, and means nothing but beside others of the same search.
    pub score: f64,
    /// What the limited measures count.
    pub costs: Vec<f64>,
}

fn as_text<S: serde::Serializer>(design: &Design, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(design)
}

/// How much further apart inputs must be for what e times the parameters are worth. Of 24 designs of at most 4 M multiply–accumulates
/// for Fashion-MNIST, trained for an epoch of 15,000 images, parameters rank 73 % of all pairs rightly, separation 58 %, separation
/// with the number of units in it (as published) 54 %.
const SEPARATION: f64 = 0.15;

/// How promising a network is, untrained: the logarithm of its parameters, and [`separation`].
///
/// # Errors
/// As [`separation`].
pub fn score(graph: &Graph, batch: &Tensor, threads: usize) -> Result<f64, LightenError> {
    let parameters = totals(graph, None).parameters.max(1) as f64;
    Ok(parameters.ln() + separation(graph, batch, threads)? / SEPARATION)
}

/// Fresh weights that a design is judged with.
const DRAWS: u64 = 2;
/// Parents in a row without a child that is new and keeps the budget, after which there is none.
const IN_VAIN: usize = 10;
/// Changes that are tried to find one within the budget.
const TRIES: usize = 40;

/// All designs that were judged, the best first. `costs` counts what is limited, in the order of `limits`; `sights` are the resolutions
/// to choose from.
///
/// # Errors
/// If no design near `from` keeps the budget (the message says what the smallest costs), or one cannot be run.
pub fn evolve(
    from: &Design,
    classes: usize,
    sights: &[Sight],
    limits: &[f64],
    costs: &mut dyn FnMut(&Graph) -> Result<Vec<f64>, LightenError>,
    options: &DesignOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<Found>, LightenError> {
    if sights.is_empty() {
        return Err(LightenError::Calibration("designs are judged on images, and there are none".into()));
    }
    let mut random = Random::new(options.seed, Purpose::Probe, 0, 0);
    let mut known: HashSet<(Design, usize)> = HashSet::new();
    let mut alive: VecDeque<Found> = VecDeque::new();
    let mut found: Vec<Found> = vec![];
    // Designs of the first generation; fewer where there are no more near the beginning.
    let mut first = options.population.max(2);
    let mut vain = 0;
    while found.len() < options.trials {
        progress(Progress { stage: "design", done: found.len(), total: options.trials });
        let parent = match found.len() < first {
            // The first generation: the beginning, changed a lot, made smaller until it fits.
            true => None,
            false => (0..options.contest.max(1))
                .filter_map(|_| alive.get(random.below(alive.len() as u32) as usize))
                .max_by(|a, b| a.score.total_cmp(&b.score))
                .cloned(),
        };
        let mut least = f64::INFINITY;
        let mut child = None;
        let mut factor = 1.0;
        for attempt in 0..TRIES {
            let (design, sight) = match &parent {
                Some(parent) => {
                    let sight = sights.iter().position(|s| s.input == parent.input).unwrap_or(0);
                    let other = random.below(sights.len() as u32) as usize;
                    let sight = if random.below(8) == 0 { other } else { sight };
                    // Further away where all that is near is known or costs too much.
                    let changes = 1 + attempt / 8;
                    ((0..changes).fold(parent.design.clone(), |d, _| changed(&d, &mut random)), sight)
                }
                None => {
                    let mut design = scaled(from, factor);
                    if !found.is_empty() {
                        (0..1 + random.below(6)).for_each(|_| design = changed(&design, &mut random));
                    }
                    // Narrower alone may not do: fewer blocks as well, in the end one to a stage.
                    let fewer = 0.8f64.powi(attempt.saturating_sub(TRIES / 4) as i32);
                    for stage in &mut design.stages {
                        stage.blocks = ((stage.blocks as f64 * fewer).round() as usize).max(1);
                    }
                    (design, random.below(sights.len() as u32) as usize)
                }
            };
            if known.contains(&(design.clone(), sight)) {
                // Where all is known around the beginning, further ones are looked at.
                factor *= if parent.is_none() { 0.95 } else { 1.0 };
                continue;
            }
            let counted = costs(&sights[sight].network(&design, classes, 1)?)?;
            let over = counted.iter().zip(limits).map(|(c, l)| c / l).fold(0.0, f64::max);
            least = least.min(over);
            if over <= 1.0 {
                child = Some((design, sight, counted));
                break;
            }
            factor *= 0.85;
        }
        let Some((design, sight, costs)) = child else {
            if found.is_empty() {
                return Err(LightenError::Option(format!(
                    "no design like `{from}` keeps the budget: the smallest that was tried costs {least:.2} times as much"
                )));
            }
            // Nothing new near the beginning: the rest is made from what there is. Nothing new near that either: that is all.
            vain += 1;
            match parent {
                None => first = found.len(),
                Some(_) if vain < IN_VAIN => {}
                Some(_) => break,
            }
            continue;
        };
        vain = 0;
        known.insert((design.clone(), sight));
        let mut score = 0.0;
        for seed in 0..DRAWS {
            let graph = sights[sight].network(&design, classes, options.seed + seed)?;
            score += self::score(&graph, &sights[sight].batch, options.threads)? / DRAWS as f64;
        }
        let made = Found { design, input: sights[sight].input.clone(), score, costs };
        found.push(made.clone());
        alive.push_back(made);
        if alive.len() > options.population {
            alive.pop_front();
        }
    }
    progress(Progress { stage: "design", done: options.trials, total: options.trials });
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(side: usize) -> Sight {
        let mut random = Random::new(3, Purpose::Probe, 1, 0);
        let values = (0..16 * 3 * side * side).map(|_| random.normal()).collect();
        Sight { input: vec![3, side, side], batch: Tensor::new(&[16, 3, side, side], values).unwrap() }
    }

    #[test]
    fn designs_keep_their_budget_and_get_better() {
        let from: Design = "residual:8,8x1,16x1s2,24x1s2".parse().unwrap();
        let sights = [sight(12), sight(16)];
        let mut costs = |g: &Graph| Ok(vec![totals(g, None).macs as f64]);
        let options = DesignOptions { trials: 40, population: 10, contest: 4, ..DesignOptions::default() };
        let mut seen = vec![];
        let found = evolve(&from, 5, &sights, &[600e3], &mut costs, &options, &mut |p| seen.push(p.done)).unwrap();
        assert_eq!(found.len(), 40);
        assert!(found.iter().all(|f| f.costs[0] <= 600e3 && f.costs[0] > 0.0));
        assert!(found.windows(2).all(|w| w[0].score >= w[1].score));
        let distinct: HashSet<(&Design, &Vec<usize>)> = found.iter().map(|f| (&f.design, &f.input)).collect();
        assert_eq!(distinct.len(), 40);
        assert!(found.iter().any(|f| f.input[1] == 12) && found.iter().any(|f| f.input[1] == 16));
        // The same again.
        let again = evolve(&from, 5, &sights, &[600e3], &mut costs, &options, &mut |_| {}).unwrap();
        assert_eq!(found, again);
        // Where no width is small enough, blocks go.
        let deep: Design = "residual:8,8x9,16x9s2".parse().unwrap();
        let mut parameters = |g: &Graph| Ok(vec![totals(g, None).parameters as f64]);
        let few = DesignOptions { trials: 3, ..options.clone() };
        assert!(!evolve(&deep, 5, &sights, &[3e3], &mut parameters, &few, &mut |_| {}).unwrap().is_empty());
        let error = evolve(&from, 5, &sights, &[10.0], &mut costs, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("times as much"), "{error}");
        assert!(evolve(&from, 5, &[], &[600e3], &mut costs, &options, &mut |_| {}).is_err());
    }
}
