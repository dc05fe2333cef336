use std::collections::BTreeMap;

use qing_tensor::{Tensor, element_count, strides};

use super::support::elementwise::each_index;
use crate::{Backward, Gradients, Case, Dim, Eval, Gradient, Infer, Op, OpError, Type, op};

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

    fn gradient(&self, cx: &Backward<'_>) -> Gradients {
        let mut shapes = vec![cx.shape(cx.output(0)?)?];
        for i in 0..cx.inputs() {
            shapes.push(cx.shape(cx.input(i)?)?);
        }
        let ranks: Vec<usize> = shapes[1..].iter().map(Vec::len).collect();
        let (mut terms, output) = self.labels(&ranks)?;
        terms.insert(0, output);
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        for (label, n) in terms.iter().flatten().zip(shapes.iter().flatten()) {
            let size = sizes.entry(*label).or_insert(1);
            *size = (*size).max(*n);
        }
        // A letter for every label, those of the ellipsis included.
        let letters: BTreeMap<Label, char> = sizes.keys().copied().zip(('a'..='z').chain('A'..='Z')).collect();
        if letters.len() < sizes.len() {
            return Err(OpError::unsupported(format!("the gradient of equation {:?} with {} labels", self.equation, sizes.len())));
        }
        let text = |labels: &[Label]| labels.iter().map(|l| letters[l]).collect::<String>();
        let dy = cx.dy()?;
        let gradient = |i: usize| {
            // The gradient takes the place of the input: what it shares with the others, in the order of the input.
            let others: Vec<usize> = (0..terms.len()).filter(|k| *k != i + 1).collect();
            let mut own = terms[i + 1].clone();
            let mut seen = vec![];
            own.retain(|l| !seen.contains(l) && {
                seen.push(*l);
                others.iter().any(|k| terms[*k].contains(l))
            });
            let left: Vec<String> = others.iter().map(|k| text(&terms[*k])).collect();
            let equation = format!("{}->{}", left.join(","), text(&own));
            let mut values = vec![dy];
            for k in &others[1..] {
                values.push(cx.input(k - 1)?);
            }
            let mut g = cx.emit(Einsum { equation }, &values)?;
            // Labels that only this input has were summed away: every value counts alike.
            let labels = &terms[i + 1];
            let first = |at: usize| labels.iter().position(|l| *l == labels[at]) == Some(at);
            let mut shape = vec![];
            let mut full = vec![];
            for (at, label) in labels.iter().enumerate() {
                let size = sizes[label];
                let here = first(at) && own.contains(label);
                shape.push(if here { cx.shape(g)?[own.iter().position(|l| l == label).unwrap_or(0)] } else { 1 });
                full.push(if first(at) { size } else { 1 });
            }
            g = cx.expand(cx.reshape(g, &shape)?, &full)?;
            // Of a label that is there twice, only the diagonal is read.
            for at in (0..labels.len()).filter(|at| !first(*at)) {
                let (to, n) = (labels.iter().position(|l| *l == labels[at]).unwrap_or(0), sizes[&labels[at]]);
                let mut eye = vec![1; labels.len()];
                (eye[to], eye[at]) = (n, n);
                let ones = (0..n * n).map(|i| f64::from(u8::from(i / n == i % n))).collect();
                let eye = cx.tensor(Tensor::new::<f64>(&eye, ones)?.cast(cx.element(g)));
                g = cx.mul(g, eye)?;
            }
            cx.sum_to(g, &shapes[i + 1])
        };
        (0..cx.inputs()).map(|i| cx.wanted(i, || gradient(i))).collect()
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
