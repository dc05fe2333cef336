//! What every budget would buy: the front of least disturbance over cost.

use serde::Serialize;

use super::knapsack::{Problem, least, solve};

/// A network that could be made: no other costs as little and disturbs as little.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// What it is.
    pub label: String,
    /// Bytes of the device file.
    pub size: f64,
    /// What the limited measures count, by their names.
    pub costs: Vec<(String, f64)>,
    /// Disturbance of the output, as the sensitivities predict it.
    pub error: f64,
    /// Points of accuracy lost, where that was measured.
    pub drop: Option<f64>,
    /// Whether it is the one that was made.
    pub chosen: bool,
    /// The choice for every layer.
    #[serde(skip)]
    pub choices: Vec<usize>,
}

/// The front over cost `kind`: selections at `steps` limits from the least to the greatest cost, other limits put aside.
pub fn front(problem: &Problem, kind: usize, steps: usize) -> Vec<Vec<usize>> {
    let costs = &problem.costs[kind];
    let low = least(problem)[kind];
    let high: f64 = costs.iter().map(|c| c.iter().copied().fold(0.0, f64::max)).sum();
    let mut found: Vec<Vec<usize>> = vec![];
    for step in 0..steps.max(2) {
        // Finer where networks are small: a bit more matters more there.
        let at = step as f64 / (steps.max(2) - 1) as f64;
        let limit = low + (high - low) * at * (0.4 + 0.6 * at);
        let one = Problem { errors: problem.errors.clone(), costs: vec![costs.clone()], limits: vec![limit] };
        if let Some(solution) = solve(&one)
            && found.last() != Some(&solution.choices)
        {
            found.push(solution.choices);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_falls() {
        let problem = Problem {
            errors: vec![vec![8.0, 4.0, 1.0], vec![2.0, 1.0, 0.5], vec![9.0, 1.0, 0.1]],
            costs: vec![vec![vec![1.0, 2.0, 4.0], vec![10.0, 20.0, 40.0], vec![3.0, 6.0, 12.0]]],
            limits: vec![0.0],
        };
        let front = front(&problem, 0, 9);
        let sum = |table: &[Vec<f64>], choices: &[usize]| -> f64 {
            choices.iter().enumerate().map(|(i, c)| table[i][*c]).sum()
        };
        assert!(front.len() > 3);
        for pair in front.windows(2) {
            assert!(sum(&problem.costs[0], &pair[0]) < sum(&problem.costs[0], &pair[1]));
            assert!(sum(&problem.errors, &pair[0]) > sum(&problem.errors, &pair[1]));
        }
        assert_eq!((front[0].clone(), front.last().unwrap().clone()), (vec![0; 3], vec![2; 3]));
    }
}
