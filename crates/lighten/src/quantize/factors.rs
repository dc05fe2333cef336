//! Weights as the product of ternary matrices: `W ≈ diag(s) · X · diag(d) · Y` with digits of −1, 0 and 1 in X and Y (fixed-point
//! factorization, Wang and Cheng, "Fixed-point Factorized Networks", CVPR 2017), so that a compressed file holds the digits and the
//! engine, which makes the product when it reads them, sees integers like any other.
//!
//! Terms `d · x · yᵀ` are taken off one after the other, each the best for what is left (semidiscrete decomposition, Kolda and
//! O'Leary, ACM TOMS 1998), in units of what the columns matter. Then, as long as the layer's output gains, digits of X, digits of Y,
//! `d` and `s` are chosen anew in turns, each the best for the others by the second moments of the inputs.

use std::str::FromStr;

use qing_tensor::TernaryFactors;

use super::{
    matrix::{Group, Rows, seen},
    weights::QuantizedRows,
};
use crate::LightenError;

/// How many bits ternary factors may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// Bits for a weight, a digit being log₂ 3 of them: 1 to 6. Where factors of so many bits lose more of a layer's output than plain
    /// integers of as many bits do, the layer has plain integers.
    pub bits: f64,
}

impl FromStr for Factors {
    type Err = LightenError;

    /// `2` or `1.6`: bits for a weight.
    fn from_str(s: &str) -> Result<Factors, LightenError> {
        match s.parse() {
            Ok(bits) if (1.0..=6.0).contains(&bits) => Ok(Factors { bits }),
            _ => Err(LightenError::Option(format!(
                "ternary factors of `{s}` bits for a weight; write 1 to 6, for example 2"
            ))),
        }
    }
}

/// Rounds over one term before it stays, and over all terms in the order in which they were taken.
const ROUNDS: usize = 8;
const PASSES: usize = 2;
/// Times that everything is chosen anew, at most, and the least that a turn must gain.
const TURNS: usize = 16;
const GAIN: f64 = 2e-3;
/// Times that all digits of a row are looked at in a turn.
const SWEEPS: usize = 4;

impl Factors {
    /// The widest plain integers that take no more bits: symmetric ones, of `2^b − 1` values.
    pub(super) fn plain_bits(self) -> u8 {
        (2..=8u8).rev().find(|b| f64::from((1u32 << b) - 1).log2() <= self.bits).unwrap_or(1)
    }

    /// Terms that so many bits are enough for.
    fn terms(self, rows: usize, columns: usize) -> usize {
        let digits = self.bits / 3f64.log2() * (rows * columns) as f64;
        ((digits / (rows + columns) as f64) as usize).min(usize::from(u16::MAX))
    }

    /// Factors of all rows, and what they make: integers up to `top` in size with new scales, none below `least`. `scales`, one a row, are
    /// those to begin with. Nothing for rows of more than one group, or that are too few for a single term.
    pub(super) fn round(
        self,
        rows: &Rows,
        groups: &[Group],
        scales: &[f32],
        top: f64,
        least: &dyn Fn(usize) -> f64,
    ) -> Option<(QuantizedRows, TernaryFactors)> {
        let [group] = groups else { return None };
        let terms = self.terms(rows.count, rows.width());
        if terms == 0 || scales.len() != rows.count || rows.values.iter().any(|w| !w.is_finite()) {
            return None;
        }
        let mut sum = Sum::new(rows, group, scales);
        sum.take_terms(terms);
        if let Some(moments) = &group.moments {
            sum.improve(moments, least);
        }
        sum.finished(top, least)
    }
}

/// A sum of terms that comes near the rows of a matrix.
struct Sum<'a> {
    rows: &'a Rows,
    /// How much each column matters by itself.
    weigh: Vec<f64>,
    /// One a row.
    scale: Vec<f64>,
    /// Digits, a row for each row and a place for each term.
    x: Vec<f64>,
    /// One a term.
    d: Vec<f64>,
    /// Digits, a row for each term.
    y: Vec<f64>,
}

impl<'a> Sum<'a> {
    fn new(rows: &'a Rows, group: &Group, scales: &[f32]) -> Sum<'a> {
        let width = rows.width();
        let weigh = (0..width).map(|c| group.importance.get(c).copied().unwrap_or(1.0)).collect();
        let scale = scales.iter().map(|s| f64::from(*s)).collect();
        Sum { rows, weigh, scale, x: vec![], d: vec![], y: vec![] }
    }

    fn terms(&self) -> usize {
        self.d.len()
    }

    /// Row `r` in units of its scale.
    fn row(&self, r: usize) -> impl Iterator<Item = f64> + '_ {
        self.rows.row(r).iter().map(move |w| w / self.scale[r])
    }

    /// Takes the best terms one after the other, then each anew beside all others.
    fn take_terms(&mut self, terms: usize) {
        let (count, width) = (self.rows.count, self.rows.width());
        let mut left: Vec<f64> = (0..count).flat_map(|r| self.row(r).collect::<Vec<_>>()).collect();
        (self.x, self.d, self.y) = (vec![0.0; count * terms], vec![0.0; terms], vec![0.0; terms * width]);
        let power: Vec<f64> = self.scale.iter().map(|s| s * s).collect();
        for pass in 0..PASSES {
            for t in 0..terms {
                if pass > 0 {
                    self.add_term(t, &mut left, 1.0);
                }
                self.best_term(t, &left, &power);
                self.add_term(t, &mut left, -1.0);
            }
        }
    }

    /// Adds `sign` times term `t` to a matrix.
    fn add_term(&self, t: usize, to: &mut [f64], sign: f64) {
        let width = self.rows.width();
        for (r, row) in to.chunks_exact_mut(width).enumerate() {
            let factor = sign * self.d[t] * self.x[r * self.terms() + t];
            if factor != 0.0 {
                row.iter_mut().zip(&self.y[t * width..]).for_each(|(v, y)| *v += factor * y);
            }
        }
    }

    /// The term that is nearest to `left`: the digits of one side are the best for the other in turns.
    fn best_term(&mut self, t: usize, left: &[f64], power: &[f64]) {
        let (width, terms) = (self.rows.width(), self.terms());
        let mut y = self.y[t * width..(t + 1) * width].to_vec();
        if y.iter().all(|y| *y == 0.0) {
            // Begin with the row where most is left.
            let size = |r: usize| -> f64 {
                let row = &left[r * width..(r + 1) * width];
                power[r] * row.iter().zip(&self.weigh).map(|(v, w)| w * v * v).sum::<f64>()
            };
            let worst = (0..power.len()).max_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap_or(0);
            let row: Vec<f64> =
                left[worst * width..(worst + 1) * width].iter().zip(&self.weigh).map(|(v, w)| v * w).collect();
            y = digits(&row, &self.weigh).0;
        }
        let (mut x, mut best) = (vec![], 0.0);
        for _ in 0..ROUNDS {
            let seen: Vec<f64> = y.iter().zip(&self.weigh).map(|(y, w)| y * w).collect();
            let along: Vec<f64> = left.chunks_exact(width).zip(power).map(|(row, p)| p * dot(row, &seen)).collect();
            x = digits(&along, power).0;
            let mut down = vec![0.0; width];
            for ((row, x), p) in left.chunks_exact(width).zip(&x).zip(power) {
                if *x != 0.0 {
                    down.iter_mut().zip(row).for_each(|(s, v)| *s += x * p * v);
                }
            }
            down.iter_mut().zip(&self.weigh).for_each(|(s, w)| *s *= w);
            let (next, gain) = digits(&down, &self.weigh);
            let rows = x.iter().zip(power).map(|(x, p)| x * x * p).sum::<f64>();
            let over = rows * next.iter().zip(&self.weigh).map(|(y, w)| y * y * w).sum::<f64>();
            self.d[t] = if over > 0.0 { dot(&down, &next) / over } else { 0.0 };
            let gain = gain / rows;
            y = next;
            if gain <= best * (1.0 + 1e-4) {
                break;
            }
            best = gain;
        }
        x.iter().enumerate().for_each(|(r, x)| self.x[r * terms + t] = *x);
        self.y[t * width..(t + 1) * width].copy_from_slice(&y);
    }

    /// Chooses everything anew in turns for as long as the output gains.
    fn improve(&mut self, moments: &[f64], least: &dyn Fn(usize) -> f64) {
        let mut lost = self.lost(moments);
        for _ in 0..TURNS {
            let before = (self.x.clone(), self.d.clone(), self.y.clone(), self.scale.clone());
            self.choose_left(moments);
            self.choose_right(moments);
            self.choose_between(moments);
            self.choose_scales(moments, least);
            let now = self.lost(moments);
            if now >= lost {
                (self.x, self.d, self.y, self.scale) = before;
            }
            if now > lost * (1.0 - GAIN) {
                break;
            }
            lost = now;
        }
    }

    /// Row `r` as the terms make it, in units of its scale.
    fn made(&self, r: usize) -> Vec<f64> {
        let (width, terms) = (self.rows.width(), self.terms());
        let mut row = vec![0.0; width];
        for t in 0..terms {
            let factor = self.d[t] * self.x[r * terms + t];
            if factor != 0.0 {
                row.iter_mut().zip(&self.y[t * width..]).for_each(|(v, y)| *v += factor * y);
            }
        }
        row
    }

    /// The power of what is lost in the output.
    fn lost(&self, moments: &[f64]) -> f64 {
        let row = |r: usize| -> f64 {
            let apart: Vec<f64> = self.row(r).zip(self.made(r)).map(|(w, v)| w - v).collect();
            self.scale[r] * self.scale[r] * dot(&seen(moments, &apart), &apart)
        };
        (0..self.rows.count).map(row).sum()
    }

    /// What the terms make of the inputs: a row `Y·H` for each.
    fn seen(&self, moments: &[f64]) -> Vec<f64> {
        self.y.chunks_exact(self.rows.width()).flat_map(|y| seen(moments, y)).collect()
    }

    /// The digits of X, one after the other, each the best beside the others of its row.
    fn choose_left(&mut self, moments: &[f64]) {
        let (width, terms) = (self.rows.width(), self.terms());
        let images = self.seen(moments);
        let mut gram = vec![0.0; terms * terms];
        for a in 0..terms {
            for b in 0..=a {
                let v = self.d[a]
                    * self.d[b]
                    * dot(&images[a * width..(a + 1) * width], &self.y[b * width..(b + 1) * width]);
                (gram[a * terms + b], gram[b * terms + a]) = (v, v);
            }
        }
        for r in 0..self.rows.count {
            let row: Vec<f64> = self.row(r).collect();
            let x = &mut self.x[r * terms..(r + 1) * terms];
            let mut slope: Vec<f64> =
                images.chunks_exact(width).zip(&self.d).map(|(image, d)| -d * dot(image, &row)).collect();
            for (x, g) in x.iter().zip(gram.chunks_exact(terms)) {
                if *x != 0.0 {
                    slope.iter_mut().zip(g).for_each(|(s, g)| *s += x * g);
                }
            }
            descend(x, &mut slope, &|t| gram[t * terms + t], &|t, slope, step| {
                slope.iter_mut().zip(&gram[t * terms..]).for_each(|(s, g)| *s += step * g);
            });
        }
    }

    /// The digits of Y, term by term, each the best beside all others.
    fn choose_right(&mut self, moments: &[f64]) {
        let (width, terms, count) = (self.rows.width(), self.terms(), self.rows.count);
        // How terms go together over the rows, and what the rows want of each.
        let (mut gram, mut wanted) = (vec![0.0; terms * terms], vec![0.0; terms * width]);
        for r in 0..count {
            let power = self.scale[r] * self.scale[r];
            let row: Vec<f64> = self.row(r).collect();
            let digits: Vec<f64> = (0..terms).map(|t| self.d[t] * self.x[r * terms + t]).collect();
            for (t, x) in digits.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                gram[t * terms..][..terms].iter_mut().zip(&digits).for_each(|(g, other)| *g += power * x * other);
                wanted[t * width..][..width].iter_mut().zip(&row).for_each(|(s, w)| *s += power * x * w);
            }
        }
        for t in 0..terms {
            let own = gram[t * terms + t];
            if own <= 0.0 {
                continue;
            }
            let mut apart: Vec<f64> = wanted[t * width..(t + 1) * width].iter().map(|w| -w).collect();
            for (y, g) in self.y.chunks_exact(width).zip(&gram[t * terms..]) {
                if *g != 0.0 {
                    apart.iter_mut().zip(y).for_each(|(a, y)| *a += g * y);
                }
            }
            let mut slope = seen(moments, &apart);
            descend(
                &mut self.y[t * width..(t + 1) * width],
                &mut slope,
                &|c| own * moments[c * width + c],
                &|c, slope, step| {
                    slope.iter_mut().zip(&moments[c * width..]).for_each(|(s, h)| *s += step * own * h);
                },
            );
        }
    }

    /// What stands between the digits: one after the other, each the best beside the others.
    fn choose_between(&mut self, moments: &[f64]) {
        let (width, terms, count) = (self.rows.width(), self.terms(), self.rows.count);
        let images = self.seen(moments);
        let (mut gram, mut wanted) = (vec![0.0; terms * terms], vec![0.0; terms]);
        for r in 0..count {
            let power = self.scale[r] * self.scale[r];
            let row: Vec<f64> = self.row(r).collect();
            let x = &self.x[r * terms..(r + 1) * terms];
            for (t, digit) in x.iter().enumerate().filter(|(_, x)| **x != 0.0) {
                gram[t * terms..][..terms].iter_mut().zip(x).for_each(|(g, other)| *g += power * digit * other);
                wanted[t] += power * digit * dot(&images[t * width..(t + 1) * width], &row);
            }
        }
        for a in 0..terms {
            for b in 0..terms {
                gram[a * terms + b] *= dot(&images[a * width..(a + 1) * width], &self.y[b * width..(b + 1) * width]);
            }
        }
        for _ in 0..4 * SWEEPS {
            for t in 0..terms {
                let own = gram[t * terms + t];
                if own > 0.0 {
                    self.d[t] += (wanted[t] - dot(&gram[t * terms..(t + 1) * terms], &self.d)) / own;
                }
            }
        }
    }

    /// The scale of each row that is best for what the terms make.
    fn choose_scales(&mut self, moments: &[f64], least: &dyn Fn(usize) -> f64) {
        for r in 0..self.rows.count {
            let made = self.made(r);
            let image = seen(moments, &made);
            let best = dot(&image, self.rows.row(r)) / dot(&image, &made);
            if best.is_finite() && best > f64::from(f32::MIN_POSITIVE) {
                self.scale[r] = best.max(least(r));
            }
        }
    }

    /// The factors with whole numbers between them, and the integers that they make.
    fn finished(mut self, top: f64, least: &dyn Fn(usize) -> f64) -> Option<(QuantizedRows, TernaryFactors)> {
        let (width, count) = (self.rows.width(), self.rows.count);
        // The largest integers are as large as they may be: what is between the digits is rounded to few steps otherwise.
        let peak = (0..count).flat_map(|r| self.made(r)).fold(0.0f64, |m, v| m.max(v.abs()));
        if peak <= 0.0 {
            return None;
        }
        let grow = top / peak;
        self.d.iter_mut().for_each(|d| *d = (*d * grow).round_ties_even());
        self.scale.iter_mut().enumerate().for_each(|(r, s)| *s = (*s / grow).max(least(r)));
        let narrow = |digits: &[f64]| digits.iter().map(|d| *d as i8).collect();
        let scales = self.d.iter().map(|d| *d as i16).collect();
        let factors = TernaryFactors::new(narrow(&self.x), scales, narrow(&self.y), width)?;
        let scales = self.scale.iter().map(|s| *s as f32).collect();
        Some((QuantizedRows { ints: factors.product(top as i32), scales }, factors))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The digits that go furthest along `wanted` for what they cost, `(wanted · x)² / (x · cost · x)`, and that quotient: those with the most of
/// it for their cost.
fn digits(wanted: &[f64], cost: &[f64]) -> (Vec<f64>, f64) {
    let mut order: Vec<usize> = (0..wanted.len()).filter(|i| wanted[*i] != 0.0 && cost[*i] > 0.0).collect();
    let worth = |i: usize| wanted[i].abs() / cost[i];
    order.sort_by(|a, b| worth(*b).total_cmp(&worth(*a)).then(a.cmp(b)));
    let (mut along, mut paid, mut best) = (0.0, 0.0, (0, 0.0));
    for (n, i) in order.iter().enumerate() {
        along += wanted[*i].abs();
        paid += cost[*i];
        if along * along / paid > best.1 {
            best = (n + 1, along * along / paid);
        }
    }
    let mut digits = vec![0.0; wanted.len()];
    order[..best.0].iter().for_each(|i| digits[*i] = wanted[*i].signum());
    (digits, best.1)
}

/// Changes digits one by one to what lowers `½·xᵀGx + …` most, given its slope; `changed` brings the slope up to date.
fn descend(
    digits: &mut [f64],
    slope: &mut [f64],
    curvature: &dyn Fn(usize) -> f64,
    changed: &dyn Fn(usize, &mut [f64], f64),
) {
    for _ in 0..SWEEPS {
        let mut quiet = true;
        for i in 0..digits.len() {
            let curved = curvature(i);
            if curved <= 0.0 {
                continue;
            }
            let best = (digits[i] - slope[i] / curved).round_ties_even().clamp(-1.0, 1.0);
            let step = best - digits[i];
            if step != 0.0 {
                digits[i] = best;
                changed(i, slope, step);
                quiet = false;
            }
        }
        if quiet {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::{
        feedback::{round_group, tests},
        weights::{nearest, scales},
    };

    /// Rows of a layer, of which every second is nearly a sum of two others, and what it reads.
    fn example(count: usize, width: usize) -> (Rows, Group) {
        let (_, moments) = tests::example(width);
        let noise = |i: usize| {
            (0..4).map(|k| (i.wrapping_mul(7919).wrapping_add(k * 104_729) % 1009) as f64 / 1009.0 - 0.5).sum::<f64>()
        };
        let mut values: Vec<f64> = (0..count * width).map(noise).collect();
        for r in (5..count).step_by(2) {
            for c in 0..width {
                values[r * width + c] =
                    values[(r - 5) * width + c] - values[(r - 3) * width + c] + 0.2 * values[r * width + c];
            }
        }
        let importance = (0..width).map(|c| moments[c * width + c]).collect();
        (Rows { count, values }, Group { span: 0..count, importance, moments: Some(moments) })
    }

    fn free(_: usize) -> f64 {
        0.0
    }

    #[test]
    fn turns_pay_and_so_do_factors() {
        let (rows, group) = example(24, 90);
        let first = scales(&rows, 8, true, |_| vec![]);
        let factors = Factors { bits: 2.0 };
        let groups = [group];
        let (made, product) = factors.round(&rows, &groups, &first, 127.0, &free).unwrap();
        assert_eq!((product.rows(), product.columns(), product.scales().len()), (24, 90, factors.terms(24, 90)));
        assert_eq!(product.product(127), made.ints);
        let made = made.lost(&rows, &groups);
        // What the greedy terms alone lose.
        let alone = [Group { moments: None, span: 0..24, importance: groups[0].importance.clone() }];
        let greedy = factors.round(&rows, &alone, &first, 127.0, &free).unwrap().0.lost(&rows, &groups);
        assert!(made < 0.6 * greedy, "{made} {greedy}");
        // Plain weights of as many bits.
        let mut plain = nearest(&rows, factors.plain_bits(), scales(&rows, factors.plain_bits(), true, |_| vec![]));
        round_group(&rows, &groups[0], factors.plain_bits(), &mut plain);
        let plain = plain.lost(&rows, &groups);
        assert!(made < plain, "{made} {plain}");
    }

    #[test]
    fn scales_stay_above_what_biases_need() {
        let (rows, group) = example(8, 40);
        let first = scales(&rows, 8, true, |_| vec![]);
        let least = |r: usize| if r == 3 { 1.0 } else { 0.0 };
        let (made, _) = Factors { bits: 3.0 }.round(&rows, &[group], &first, 127.0, &least).unwrap();
        assert!(made.scales[3] >= 1.0 && made.scales[2] < 1.0, "{:?}", made.scales);
    }

    #[test]
    fn rows_that_nothing_is_won_for() {
        let (rows, group) = example(4, 6);
        let factors = Factors { bits: 1.0 };
        assert_eq!(factors.terms(1, 1), 0);
        let zeros = Rows { count: 4, values: vec![0.0; 24] };
        assert!(factors.round(&zeros, &[group], &[1.0; 4], 127.0, &free).is_none());
        let holes = Rows { count: 4, values: vec![f64::NAN; 24] };
        assert!(factors.round(&holes, &[example(4, 6).1], &[1.0; 4], 127.0, &free).is_none());
        assert!(factors.round(&rows, &[example(2, 6).1, example(2, 6).1], &[1.0; 4], 127.0, &free).is_none());
    }

    #[test]
    fn bits_are_read() {
        assert_eq!("2".parse::<Factors>().unwrap(), Factors { bits: 2.0 });
        for (bits, plain) in [("1", 1), ("1.5", 1), ("1.6", 2), ("2", 2), ("2.8", 2), ("3", 3), ("4", 4)] {
            assert_eq!(bits.parse::<Factors>().unwrap().plain_bits(), plain, "{bits}");
        }
        for bad in ["", "0.9", "7", "x", "nan", "inf"] {
            assert!(bad.parse::<Factors>().is_err(), "{bad}");
        }
    }
}
