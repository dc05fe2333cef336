use std::collections::BTreeMap;

use qing_tensor::{Tensor, element_count, strides};

use super::support::elementwise::each_index;
use crate::{Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

op! {
    /// A sum of products by Einstein's convention: `ij,jk->ik` is a matrix product, `ii->` a trace.
    Einsum = "Einsum" {
        /// Labels of the axes of each input, and after `->` those of the result; `...` stands for broadcast axes.
        equation: String = String::new(),
    }
    inputs: 1..=usize::MAX, outputs: 1..=1,
    gradient: Gradient::Smooth,
    cases: cases
}

/// Most products a sum may have in the reference.
const MOST_PRODUCTS: u64 = 1 << 34;

/// A label: a letter, or an axis of the ellipsis counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

impl Einsum {
    /// Labels of the axes of every input and of the result.
    fn labels(&self, ranks: &[usize]) -> Result<(Vec<Vec<Label>>, Vec<Label>), OpError> {
        let fail = |why: &str| OpError::invalid(format!("equation {:?}: {why}", self.equation));
        let text: String = self.equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(fail(&format!("{} terms for {} inputs", terms.len(), ranks.len())));
        }
        let mut widest = 0;
        let mut inputs = vec![];
        for (term, &rank) in terms.iter().zip(ranks) {
            let letters = term.replace("...", "").chars().count();
            let hidden = rank.checked_sub(letters).ok_or_else(|| fail(&format!("{term:?} for rank {rank}")))?;
            let labels = parse(term, hidden).ok_or_else(|| fail(&format!("{term:?} cannot be read")))?;
            if labels.len() != rank {
                return Err(fail(&format!("{term:?} for rank {rank}")));
            }
            if term.contains("...") {
                widest = widest.max(hidden);
            }
            inputs.push(labels);
        }
        let output = match right {
            Some(right) => parse(right, widest).ok_or_else(|| fail(&format!("{right:?} cannot be read")))?,
            None => {
                // The ellipsis, then the letters that occur once, in alphabetical order.
                let mut counts: BTreeMap<Label, usize> = BTreeMap::new();
                inputs.iter().flatten().for_each(|l| *counts.entry(*l).or_default() += 1);
                let mut labels: Vec<Label> = (0..widest).rev().map(Label::Ellipsis).collect();
                labels.extend(counts.iter().filter(|(l, n)| matches!(l, Label::Letter(_)) && **n == 1).map(|(l, _)| *l));
                labels
            }
        };
        if let Some(Label::Letter(odd)) = output.iter().find(|l| !inputs.iter().any(|i| i.contains(l))) {
            return Err(fail(&format!("{odd:?} is of no input")));
        }
        Ok((inputs, output))
    }
}

fn parse(term: &str, hidden: usize) -> Option<Vec<Label>> {
    let mut labels = vec![];
    let letters = |text: &str| {
        text.chars().all(char::is_alphabetic).then(|| text.chars().map(Label::Letter).collect::<Vec<_>>())
    };
    match term.split_once("...") {
        None => labels.extend(letters(term)?),
        Some((before, after)) => {
            labels.extend(letters(before)?);
            labels.extend((0..hidden).rev().map(Label::Ellipsis));
            labels.extend(letters(after)?);
        }
    }
    Some(labels)
}

impl Op for Einsum {
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(0)?;
        let mut shapes = vec![];
        for i in 0..cx.types.len() {
            let Some(shape) = cx.shape(i)? else { return Ok(vec![Type::maybe(element, None)]) };
            shapes.push(shape);
        }
        let ranks: Vec<usize> = shapes.iter().map(|s| s.len()).collect();
        let (inputs, output) = self.labels(&ranks)?;
        let mut sizes: BTreeMap<Label, Dim> = BTreeMap::new();
        for (label, dim) in inputs.iter().flatten().zip(shapes.iter().flat_map(|s| s.iter())) {
            let merged = sizes.get(label).map_or(Ok(dim.clone()), |have| have.broadcast(dim))?;
            sizes.insert(*label, merged);
        }
        let shape = output.iter().map(|l| sizes.get(l).cloned().unwrap_or(Dim::Known(1))).collect();
        Ok(vec![Type::maybe(element, Some(shape))])
    }

    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        let tensors = (0..cx.inputs.len()).map(|i| cx.input(i)).collect::<Result<Vec<&Tensor>, OpError>>()?;
        let first = cx.input(0)?;
        let ranks: Vec<usize> = tensors.iter().map(|t| t.rank()).collect();
        let (inputs, output) = self.labels(&ranks)?;
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        for (label, &n) in inputs.iter().flatten().zip(tensors.iter().flat_map(|t| t.shape())) {
            let size = sizes.entry(*label).or_insert(n);
            if *size == 1 {
                *size = n;
            } else if n != 1 && n != *size {
                return Err(OpError::invalid(format!("equation {:?}: {label:?} is {size} and {n}", self.equation)));
            }
        }
        // All labels, those of the result first; each input walks them with its own strides.
        let mut all: Vec<Label> = output.clone();
        all.extend(sizes.keys().filter(|l| !output.contains(l)));
        let steps: Vec<Vec<usize>> = inputs
            .iter()
            .zip(&tensors)
            .map(|(labels, t)| {
                let own = strides(t.shape());
                let step = |label: &Label| {
                    let axes = labels.iter().enumerate().filter(|(i, l)| *l == label && t.shape()[*i] != 1);
                    axes.map(|(i, _)| own[i]).sum()
                };
                all.iter().map(step).collect()
            })
            .collect();
        let size = |l: &Label| sizes.get(l).copied().unwrap_or(1);
        let shape: Vec<usize> = output.iter().map(size).collect();
        let summed: Vec<usize> = all[output.len()..].iter().map(size).collect();
        // Constants are folded while a model is read: an equation must not keep the reader busy for hours.
        let work = all.iter().map(size).try_fold(1u64, |n, d| n.checked_mul(d as u64)).filter(|n| *n <= MOST_PRODUCTS);
        if work.is_none() {
            return Err(OpError::unsupported(format!("equation {:?} with more than {MOST_PRODUCTS} products", self.equation)));
        }
        let values: Vec<Vec<f64>> = tensors.iter().map(|t| t.to_f64s()).collect();
        let mut result = Vec::with_capacity(element_count(&shape)?);
        let at = |index: &[usize], steps: &[usize]| index.iter().zip(steps).map(|(i, s)| i * s).sum::<usize>();
        each_index(&shape, |kept| {
            let bases: Vec<usize> = steps.iter().map(|s| at(kept, &s[..output.len()])).collect();
            let mut sum = 0.0;
            each_index(&summed, |over| {
                let factor = |i: usize| values[i][bases[i] + at(over, &steps[i][output.len()..])];
                sum += (0..values.len()).map(factor).product::<f64>();
            });
            result.push(sum);
        });
        Ok(vec![Tensor::new(&shape, result)?.cast(first.element())])
    }
}

fn cases() -> Vec<Case> {
    let op = |equation: &str| Einsum { equation: equation.into() };
    vec![
        Case::new("product", op("ij,jk->ik"))
            .f32(&[1, 2], &[1., 2.])
            .f32(&[2, 2], &[5., 6., 7., 8.])
            .gives(&[1, 2], &[19., 22.]),
        Case::new("trace", op("ii")).f32(&[2, 2], &[1., 2., 3., 4.]).gives(&[], &[5.]),
        Case::new("batched", op("...i,...i->..."))
            .f32(&[2, 2], &[1., 2., 3., 4.])
            .f32(&[2], &[10., 1.])
            .gives(&[2], &[12., 34.]),
    ]
}
