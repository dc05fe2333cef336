//! The multiple-choice knapsack, exactly: one choice for every layer, the least error in all, costs within limits.
//!
//! Branch and bound over a Lagrangian relaxation (Fisher, "The Lagrangian relaxation method for solving integer programming
//! problems", 1981; for this problem Sinha and Zoltners, "The multiple-choice knapsack problem", 1979): prices on the limited
//! costs turn the problem into one choice per layer for itself, which bounds every subtree from below in constant time. What
//! the bound already excludes at the root is never looked at again, which leaves a handful of layers open. Under one limit what is
//! left goes to dynamic programming over undominated sums (Nemhauser and Ullmann, 1969), thinned by the same bound: many networks cost
//! nearly the same and disturb nearly the same, and only that tells them apart without trying them all.

/// Errors and costs of every choice of every layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Problem {
    /// `errors[layer][choice]`, at least 0.
    pub errors: Vec<Vec<f64>>,
    /// `costs[kind][layer][choice]`, at least 0.
    pub costs: Vec<Vec<Vec<f64>>>,
    /// `limits[kind]`: the most that costs may sum to.
    pub limits: Vec<f64>,
}

/// The best selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// The choice of every layer.
    pub choices: Vec<usize>,
    /// Sum of errors.
    pub error: f64,
    /// How far the error may be from the least: 0 if the search ran to its end, as it does but for adversarial problems.
    pub gap: f64,
}

/// Subtrees looked at before the search gives up proving; fewer where dynamic programming follows.
const NODES: [u64; 2] = [200_000, 20_000_000];
/// Sums kept at once before dynamic programming gives up.
const SUMS: usize = 4_000_000;
/// Sums differ in their last bits by the order of additions.
const SLACK: f64 = 1e-9;

/// The least sum of each kind of cost, whatever the error.
pub fn least(problem: &Problem) -> Vec<f64> {
    let min = |choices: &Vec<f64>| choices.iter().copied().fold(f64::INFINITY, f64::min);
    problem.costs.iter().map(|layers| layers.iter().map(min).sum()).collect()
}

/// Solves a problem; `None` if no selection is within the limits.
pub fn solve(problem: &Problem) -> Option<Solution> {
    let layers = problem.errors.len();
    let fits = |sum: f64, k: usize| sum <= problem.limits[k] + SLACK * problem.limits[k].abs().max(1.0);
    if least(problem).into_iter().enumerate().any(|(k, sum)| !fits(sum, k)) {
        return None;
    }
    let prices = prices(problem);
    let reduced = |i: usize, c: usize| {
        problem.errors[i][c] + prices.iter().enumerate().map(|(k, p)| p * problem.costs[k][i][c]).sum::<f64>()
    };
    let paid: f64 = prices.iter().zip(&problem.limits).map(|(p, l)| p * l).sum();
    // Per layer, the choices from the best by its reduced error.
    let mut open: Vec<Vec<(f64, usize)>> = (0..layers)
        .map(|i| {
            let mut all: Vec<(f64, usize)> = (0..problem.errors[i].len()).map(|c| (reduced(i, c), c)).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all
        })
        .collect();
    let bound: f64 = open.iter().map(|o| o[0].0).sum::<f64>() - paid;
    let mut best = greedy(problem);
    // A choice that costs more than the gap at the root is part of no better selection.
    if let Some(known) = &best {
        for choices in &mut open {
            let (least, gap) = (choices[0].0, known.error - bound);
            choices.retain(|(r, _)| r - least <= gap.max(0.0) + SLACK * known.error.abs());
        }
    }
    // Layers where much is at stake first.
    let mut order: Vec<usize> = (0..layers).collect();
    let stake = |i: usize| open[i].get(1).map_or(f64::INFINITY, |second| second.0 - open[i][0].0);
    order.sort_by(|a, b| stake(*b).total_cmp(&stake(*a)).then(a.cmp(b)));
    let mut search = Search {
        problem,
        open: &open,
        order: &order,
        paid,
        rest: suffix(layers, |d| open[order[d]][0].0),
        cheapest: (0..problem.limits.len())
            .map(|k| {
                suffix(layers, |d| {
                    let costs = &problem.costs[k][order[d]];
                    open[order[d]].iter().map(|(_, c)| costs[*c]).fold(f64::INFINITY, f64::min)
                })
            })
            .collect(),
        choices: vec![0; layers],
        best: best.take(),
        left: NODES[usize::from(problem.limits.len() > 1)],
    };
    search.descend(0, 0.0, 0.0, &mut vec![0.0; problem.limits.len()]);
    let mut proven = search.left > 0;
    let mut best = search.best?;
    if !proven
        && problem.limits.len() == 1
        && let Some(found) = undominated(problem, &open, &order, prices[0], best.error)
    {
        proven = true;
        if found.error < best.error {
            best = found;
        }
    }
    best.gap = if proven { 0.0 } else { (best.error - bound).max(0.0) };
    Some(best)
}

/// A sum over the first layers: its cost, its error, where it comes from and the last choice.
#[derive(Clone, Copy)]
struct Sum {
    cost: f64,
    error: f64,
    from: u32,
    choice: u32,
}

/// The best selection under one limit, by all undominated sums that may still be better than `known`; what was known if there is
/// none (with no choices, and an infinite error); `None` if there are too many.
fn undominated(
    problem: &Problem,
    open: &[Vec<(f64, usize)>],
    order: &[usize],
    price: f64,
    known: f64,
) -> Option<Solution> {
    let layers = order.len();
    let limit = problem.limits[0] + SLACK * problem.limits[0].abs().max(1.0);
    let rest = suffix(layers, |d| open[order[d]][0].0);
    let cheapest = suffix(layers, |d| {
        open[order[d]].iter().map(|(_, c)| problem.costs[0][order[d]][*c]).fold(f64::INFINITY, f64::min)
    });
    let mut steps: Vec<Vec<Sum>> = vec![vec![Sum { cost: 0.0, error: 0.0, from: 0, choice: 0 }]];
    for (depth, &layer) in order.iter().enumerate() {
        let last = &steps[depth];
        let mut sums: Vec<Sum> = Vec::with_capacity(last.len() * open[layer].len());
        for (from, sum) in last.iter().enumerate() {
            for &(_, choice) in &open[layer] {
                let cost = sum.cost + problem.costs[0][layer][choice];
                let error = sum.error + problem.errors[layer][choice];
                let bound = error + price * (cost - problem.limits[0]) + rest[depth + 1];
                if cost + cheapest[depth + 1] <= limit && bound < known {
                    sums.push(Sum { cost, error, from: from as u32, choice: choice as u32 });
                }
            }
        }
        sums.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.error.total_cmp(&b.error)));
        let mut least = f64::INFINITY;
        sums.retain(|s| {
            s.error < least && {
                least = s.error;
                true
            }
        });
        if sums.len() > SUMS || steps.iter().map(Vec::len).sum::<usize>() > 8 * SUMS {
            return None;
        }
        steps.push(sums);
    }
    let Some(at) = (0..steps[layers].len()).min_by(|a, b| steps[layers][*a].error.total_cmp(&steps[layers][*b].error))
    else {
        return Some(Solution { choices: vec![], error: f64::INFINITY, gap: 0.0 });
    };
    let mut choices = vec![0; layers];
    let (mut sum, error) = (steps[layers][at], steps[layers][at].error);
    for depth in (0..layers).rev() {
        choices[order[depth]] = sum.choice as usize;
        sum = steps[depth][sum.from as usize];
    }
    Some(Solution { choices, error, gap: 0.0 })
}

/// `sums[d]`: the sum of `f` from `d` on.
fn suffix(n: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; n + 1];
    for d in (0..n).rev() {
        sums[d] = sums[d + 1] + f(d);
    }
    sums
}

/// Prices that make the bound high: subgradient ascent, one price a limit.
fn prices(problem: &Problem) -> Vec<f64> {
    let kinds = problem.limits.len();
    let spread = |rows: &[Vec<f64>]| -> f64 {
        let range = |r: &Vec<f64>| {
            r.iter().copied().fold(f64::NEG_INFINITY, f64::max) - r.iter().copied().fold(f64::INFINITY, f64::min)
        };
        rows.iter().map(range).sum()
    };
    let errors = spread(&problem.errors);
    let scales: Vec<f64> = problem.costs.iter().map(|c| errors / spread(c).max(f64::MIN_POSITIVE)).collect();
    let evaluate = |prices: &[f64]| {
        let mut bound = 0.0;
        let mut over: Vec<f64> = problem.limits.iter().map(|l| -l).collect();
        for (i, errors) in problem.errors.iter().enumerate() {
            let value = |c: usize| errors[c] + (0..kinds).map(|k| prices[k] * problem.costs[k][i][c]).sum::<f64>();
            let best = (0..errors.len()).min_by(|a, b| value(*a).total_cmp(&value(*b))).unwrap_or(0);
            bound += value(best);
            (0..kinds).for_each(|k| over[k] += problem.costs[k][i][best]);
        }
        bound -= prices.iter().zip(&problem.limits).map(|(p, l)| p * l).sum::<f64>();
        (bound, over)
    };
    let mut best = (evaluate(&vec![0.0; kinds]).0, vec![0.0; kinds]);
    // One price after the other, by bisection on the sign of what is over: the bound is concave in each.
    let mut prices = vec![0.0; kinds];
    for _ in 0..if kinds > 1 { 12 } else { 1 } {
        for k in 0..kinds {
            let (mut low, mut high) = (0.0, scales[k].max(f64::MIN_POSITIVE));
            let over = |price: f64, prices: &[f64]| {
                let mut trial = prices.to_vec();
                trial[k] = price;
                evaluate(&trial).1[k]
            };
            if over(0.0, &prices) <= 0.0 {
                prices[k] = 0.0;
                continue;
            }
            while over(high, &prices) > 0.0 && high < 1e30 {
                (low, high) = (high, high * 4.0);
            }
            for _ in 0..60 {
                let middle = 0.5 * (low + high);
                if over(middle, &prices) > 0.0 { low = middle } else { high = middle }
            }
            prices[k] = high;
        }
        let (bound, _) = evaluate(&prices);
        if bound > best.0 {
            best = (bound, prices.clone());
        }
    }
    best.1
}

/// A good selection to begin with: from the cheapest choices, whatever lowers the error most for what it takes of the limits.
fn greedy(problem: &Problem) -> Option<Solution> {
    let kinds = problem.limits.len();
    let share = |i: usize, c: usize| -> f64 {
        (0..kinds).map(|k| problem.costs[k][i][c] / problem.limits[k].max(f64::MIN_POSITIVE)).sum()
    };
    let cheapest = |i: usize| {
        (0..problem.errors[i].len()).min_by(|a, b| {
            share(i, *a).total_cmp(&share(i, *b)).then(problem.errors[i][*a].total_cmp(&problem.errors[i][*b]))
        })
    };
    let mut choices: Vec<usize> = (0..problem.errors.len()).map(cheapest).collect::<Option<_>>()?;
    let sum =
        |k: usize, choices: &[usize]| -> f64 { choices.iter().enumerate().map(|(i, c)| problem.costs[k][i][*c]).sum() };
    let mut sums: Vec<f64> = (0..kinds).map(|k| sum(k, &choices)).collect();
    if (0..kinds).any(|k| sums[k] > problem.limits[k]) {
        return None;
    }
    loop {
        let mut found: Option<(f64, usize, usize)> = None;
        for (i, errors) in problem.errors.iter().enumerate() {
            let now = choices[i];
            for c in 0..errors.len() {
                let gain = errors[now] - errors[c];
                let after = |k: usize| sums[k] + problem.costs[k][i][c] - problem.costs[k][i][now];
                if gain <= 0.0 || (0..kinds).any(|k| after(k) > problem.limits[k]) {
                    continue;
                }
                let rate = gain / (share(i, c) - share(i, now)).max(1e-12);
                if found.is_none_or(|f| rate > f.0) {
                    found = Some((rate, i, c));
                }
            }
        }
        let Some((_, i, c)) = found else { break };
        for (k, sum) in sums.iter_mut().enumerate() {
            *sum += problem.costs[k][i][c] - problem.costs[k][i][choices[i]];
        }
        choices[i] = c;
    }
    let error = choices.iter().enumerate().map(|(i, c)| problem.errors[i][*c]).sum();
    Some(Solution { choices, error, gap: 0.0 })
}

struct Search<'a> {
    problem: &'a Problem,
    /// Per layer, reduced errors and choices, the best first.
    open: &'a [Vec<(f64, usize)>],
    order: &'a [usize],
    paid: f64,
    /// By depth, the least reduced error of what is left.
    rest: Vec<f64>,
    /// By kind and depth, the least cost of what is left.
    cheapest: Vec<Vec<f64>>,
    choices: Vec<usize>,
    best: Option<Solution>,
    left: u64,
}

impl Search<'_> {
    fn descend(&mut self, depth: usize, reduced: f64, error: f64, sums: &mut Vec<f64>) {
        let Some(&layer) = self.order.get(depth) else {
            if self.best.as_ref().is_none_or(|b| error < b.error) {
                self.best = Some(Solution { choices: self.choices.clone(), error, gap: 0.0 });
            }
            return;
        };
        let open = self.open;
        for &(value, choice) in &open[layer] {
            if self.left == 0 {
                return;
            }
            self.left -= 1;
            let bound = reduced + value + self.rest[depth + 1] - self.paid;
            // Those after it are worse.
            if self.best.as_ref().is_some_and(|b| bound >= b.error * (1.0 - SLACK)) {
                return;
            }
            let costs = &self.problem.costs;
            let limits = &self.problem.limits;
            let over = (0..sums.len()).any(|k| {
                let sum = sums[k] + costs[k][layer][choice] + self.cheapest[k][depth + 1];
                sum > limits[k] + SLACK * limits[k].abs().max(1.0)
            });
            if over {
                continue;
            }
            (0..sums.len()).for_each(|k| sums[k] += costs[k][layer][choice]);
            self.choices[layer] = choice;
            self.descend(depth + 1, reduced + value, error + self.problem.errors[layer][choice], sums);
            (0..sums.len()).for_each(|k| sums[k] -= costs[k][layer][choice]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as f64 / (1u64 << 31) as f64
        }
    }

    fn example(layers: usize, choices: usize, kinds: usize, seed: u64, tight: f64) -> Problem {
        let mut noise = Noise(seed);
        let mut problem = Problem::default();
        for _ in 0..layers {
            let size = 1.0 + 100.0 * noise.next();
            problem.errors.push((0..choices).map(|c| size.recip() * noise.next() * 4f64.powi(-(c as i32))).collect());
        }
        for _ in 0..kinds {
            let of = |noise: &mut Noise| (0..choices).map(|c| (1.0 + c as f64) * (0.2 + noise.next())).collect();
            problem.costs.push((0..layers).map(|_| of(&mut noise)).collect());
        }
        let most: Vec<f64> = problem.costs.iter().map(|l| l.iter().map(|c| c.iter().sum::<f64>()).sum()).collect();
        problem.limits = most.iter().zip(least(&problem)).map(|(m, l)| l + tight * (m - l)).collect();
        problem
    }

    fn brute_force(problem: &Problem) -> Option<f64> {
        let mut best: Option<f64> = None;
        let mut choices = vec![0; problem.errors.len()];
        loop {
            let cost = |k: usize| {
                choices.iter().enumerate().map(|(i, c): (usize, &usize)| problem.costs[k][i][*c]).sum::<f64>()
            };
            if (0..problem.limits.len()).all(|k| cost(k) <= problem.limits[k]) {
                let error: f64 = choices.iter().enumerate().map(|(i, c)| problem.errors[i][*c]).sum();
                best = Some(best.map_or(error, |b| b.min(error)));
            }
            let mut i = 0;
            while i < choices.len() && choices[i] + 1 == problem.errors[i].len() {
                choices[i] = 0;
                i += 1;
            }
            if i == choices.len() {
                return best;
            }
            choices[i] += 1;
        }
    }

    #[test]
    fn as_good_as_trying_everything() {
        for seed in 0..60 {
            for kinds in 0..3 {
                let problem = example(7, 4, kinds, seed, 0.02 + 0.01 * (seed % 13) as f64);
                let (found, want) = (solve(&problem), brute_force(&problem));
                assert_eq!(found.is_some(), want.is_some(), "{problem:?}");
                let (Some(found), Some(want)) = (found, want) else { continue };
                assert!((found.error - want).abs() <= 1e-7 * want, "{} {want} {problem:?}", found.error);
                assert_eq!(found.gap, 0.0);
                if kinds == 1 {
                    let open: Vec<Vec<(f64, usize)>> = (problem.errors.iter())
                        .map(|e| {
                            let mut all: Vec<(f64, usize)> = e.iter().copied().zip(0..).collect();
                            all.sort_by(|a, b| a.0.total_cmp(&b.0));
                            all
                        })
                        .collect();
                    let sums = undominated(&problem, &open, &[3, 1, 0, 2, 6, 5, 4], 0.0, f64::INFINITY).unwrap();
                    assert!((sums.error - want).abs() <= 1e-7 * want, "{} {want}", sums.error);
                }
            }
        }
    }

    #[test]
    fn networks_of_real_size_are_solved_to_the_end() {
        for (kinds, tight) in [(1, 0.05), (1, 0.2), (2, 0.08), (2, 0.15)] {
            let problem = example(60, 6, kinds, 7, tight);
            let found = solve(&problem).unwrap();
            assert_eq!(found.gap, 0.0, "{kinds} {tight}");
            for k in 0..kinds {
                let cost: f64 = found.choices.iter().enumerate().map(|(i, c)| problem.costs[k][i][*c]).sum();
                assert!(cost <= problem.limits[k] * (1.0 + 1e-8));
            }
        }
    }

    #[test]
    fn many_that_are_nearly_alike_are_told_apart() {
        // Layers of one family: the same errors and costs up to a little, as convolutions of one network have them.
        let mut noise = Noise(11);
        let mut problem = Problem::default();
        let mut costs = vec![];
        for _ in 0..53 {
            let size = 1000.0 * (1.0 + 0.05 * noise.next());
            problem.errors.push((2..=8).rev().map(|b| 0.3 * (1.0 + 0.05 * noise.next()) * 4f64.powi(-b)).collect());
            costs.push((2..=8).rev().map(|b| size * f64::from(b)).collect::<Vec<f64>>());
        }
        problem.costs = vec![costs];
        problem.limits = vec![53.0 * 1000.0 * 4.1];
        let found = solve(&problem).unwrap();
        assert_eq!(found.gap, 0.0);
        // The exact selection is no worse than any exchange of two layers' choices.
        let cost = |c: &[usize]| c.iter().enumerate().map(|(i, c)| problem.costs[0][i][*c]).sum::<f64>();
        let error = |c: &[usize]| c.iter().enumerate().map(|(i, c)| problem.errors[i][*c]).sum::<f64>();
        assert!(cost(&found.choices) <= problem.limits[0]);
        assert!((error(&found.choices) - found.error).abs() < 1e-12);
        for i in 0..53 {
            for j in 0..53 {
                let mut other = found.choices.clone();
                other.swap(i, j);
                assert!(cost(&other) > problem.limits[0] || error(&other) >= found.error - 1e-12);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let mut problem = example(5, 3, 1, 3, 0.5);
        problem.limits[0] = least(&problem)[0] * 0.99;
        assert_eq!(solve(&problem), None);
        problem.limits[0] = least(&problem)[0];
        assert!(solve(&problem).is_some());
    }
}
