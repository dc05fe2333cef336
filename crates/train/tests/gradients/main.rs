//! Walks the list of ops and holds every gradient rule against central differences, in f64 and on random values: on the shapes
//! of the op's own cases and, for the ops that networks are made of, on random ones. An op that says it is smooth and has no
//! rule that was checked here fails.

mod examples;
mod networks;
mod random;

use std::collections::BTreeMap;

use examples::{Example, examples};
use qing_graph::{
    Element, Gradient, Graph, OpSpec, Tensor, Type, ValueId,
    interpret::interpret,
    ops::{Add, Cast, Mul, OPS, ReduceSum},
};
use qing_train::{TrainError, differentiate};
use random::Random;

/// Values that are moved for the differences, of each input.
const PROBES: usize = 6;

/// Inputs of floats that a rule gives no gradient for though the result depends on them, and why.
const WITHOUT: &[(&str, usize, &str)] = &[];

/// Further outputs that nothing is trained through, and why.
const LAST_OUTPUTS: &[(&str, usize, &str)] = &[
    ("LayerNormalization", 1, "statistics are for other executors"),
    ("SkipLayerNormalization", 1, "statistics are for other executors"),
    ("BatchNormalization", 1, "running statistics are no part of a loss"),
];

/// Ops whose rule is an estimate by design, since what they compute has steps; they are tested where they are used.
const ESTIMATORS: &[&str] = &["LearnedQuantize"];

/// The step of the differences, and how far the rule may be from them.
fn tolerance(name: &str) -> (f64, f64) {
    match name {
        // They round to f32 somewhere.
        "Cast" | "CastLike" | "DequantizeLinear" | "GridSample" => (2e-4, 1e-2),
        _ => (1e-5, 1e-5),
    }
}

/// The example as a graph that ends in one number, and the ids of its inputs of floats; `None` if it gives integers.
fn graph_of(example: &Example, random: &mut Random) -> Result<Option<(Graph, ValueId, Vec<(usize, ValueId)>)>, String> {
    let mut graph = Graph::new(&example.name);
    let mut inputs = vec![];
    let mut trained = vec![];
    for (i, tensor) in example.inputs.iter().enumerate() {
        inputs.push(tensor.as_ref().map(|tensor| {
            let name = format!("in{i}");
            if tensor.element() == Element::F64 && !example.fixed.contains(&i) {
                let id = graph.add_input(&name, Type::new(Element::F64, tensor.shape().iter().copied()));
                trained.push((i, id));
                id
            } else {
                graph.add_constant(&name, tensor.clone())
            }
        }));
    }
    let name = example.op.name();
    let all = evaluate(example)?;
    let types = all.iter().map(|t| Type::new(t.element(), t.shape().iter().copied())).collect();
    let outputs = graph.add_typed_node(example.op.clone(), "op", &inputs, types).map_err(|e| e.to_string())?;
    let last = LAST_OUTPUTS.iter().find(|(n, ..)| *n == name).map_or(usize::MAX, |(_, at, _)| *at);
    let mut loss = None;
    let node = |graph: &mut Graph, op: std::sync::Arc<dyn qing_graph::Op>, inputs: &[ValueId]| {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        graph.add_node(op, "loss", &inputs, 1).map(|ids| ids[0]).map_err(|e| e.to_string())
    };
    for (id, tensor) in outputs.iter().zip(&all).take(last) {
        if !tensor.element().is_float() {
            continue;
        }
        let wide = node(&mut graph, std::sync::Arc::new(Cast { to: 11, ..Cast::default() }), &[*id])?;
        let weights = graph.add_constant("weights", random.tensor(tensor.shape(), -1.0, 1.0));
        let product = node(&mut graph, std::sync::Arc::new(Mul {}), &[wide, weights])?;
        let sum =
            node(&mut graph, std::sync::Arc::new(ReduceSum { keepdims: false, ..ReduceSum::default() }), &[product])?;
        loss = Some(match loss {
            None => sum,
            Some(other) => node(&mut graph, std::sync::Arc::new(Add {}), &[other, sum])?,
        });
    }
    let Some(loss) = loss else { return Ok(None) };
    graph.mark_output(loss);
    Ok(Some((graph, loss, trained)))
}

fn evaluate(example: &Example) -> Result<Vec<Tensor>, String> {
    let typed = |t: &Tensor| Type::new(t.element(), t.shape().iter().copied());
    let types: Vec<Option<Type>> = example.inputs.iter().map(|t| t.as_ref().map(typed)).collect();
    let types: Vec<Option<&Type>> = types.iter().map(Option::as_ref).collect();
    let inputs: Vec<Option<&Tensor>> = example.inputs.iter().map(Option::as_ref).collect();
    let outputs = vec![Type::maybe(Element::F64, None); example.outputs];
    let eval = qing_graph::Eval { inputs: &inputs, types: &types, outputs: &outputs };
    let mut all = example.op.evaluate(&eval).map_err(|e| e.to_string())?;
    all.truncate(example.outputs);
    Ok(all)
}

fn value(graph: &Graph, inputs: &[Tensor]) -> Result<f64, String> {
    Ok(interpret(graph, inputs).map_err(|e| e.to_string())?[0].to_f64s()[0])
}

/// Checks the gradients of all inputs of an example; gives how many values were compared.
fn check(example: &Example, random: &mut Random) -> Result<usize, String> {
    let name = example.op.name();
    let (step, allowed) = tolerance(name);
    let Some((graph, loss, trained)) = graph_of(example, random)? else { return Ok(0) };
    let values: Vec<Tensor> = trained.iter().filter_map(|(i, _)| example.inputs[*i].clone()).collect();
    let mut compared = 0;
    for (k, (i, id)) in trained.iter().enumerate() {
        if WITHOUT.iter().any(|(n, at, _)| *n == name && at == i) {
            continue;
        }
        let gradient = match differentiate(&graph, loss, &[*id]) {
            Ok(with) => interpret(&with.graph, &values)
                .map_err(|e| format!("input {i}: {e}"))?
                .pop()
                .map(|t| t.to_f64s())
                .unwrap_or_default(),
            // A rule that gives none says that nothing depends on it.
            Err(TrainError::Unused { .. }) => vec![0.0; values[k].len()],
            Err(e) => return Err(format!("input {i}: {e}")),
        };
        if gradient.len() != values[k].len() {
            return Err(format!("input {i}: {} gradients of {} values", gradient.len(), values[k].len()));
        }
        for _ in 0..PROBES.min(values[k].len()) {
            let at = random.below(values[k].len());
            let moved = |by: f64| {
                let mut all = values.clone();
                let mut numbers = all[k].to_f64s();
                numbers[at] += by;
                all[k] = Tensor::new(all[k].shape(), numbers).map_err(|e| e.to_string())?;
                value(&graph, &all)
            };
            let difference = (moved(step)? - moved(-step)?) / (2.0 * step);
            if (difference - gradient[at]).abs() > allowed * difference.abs().max(1.0) || gradient[at].is_nan() {
                let rule = gradient[at];
                return Err(format!("input {i}, value {at}: the rule gives {rule}, the difference {difference}"));
            }
            compared += 1;
        }
    }
    Ok(compared)
}

#[test]
fn every_rule_agrees_with_differences() {
    let mut wrong = vec![];
    let mut unchecked: BTreeMap<&str, &OpSpec> = BTreeMap::new();
    for spec in OPS.iter().filter(|s| s.gradient == Gradient::Smooth && !ESTIMATORS.contains(&s.name)) {
        let mut random = Random::new(spec.name);
        let mut compared = 0;
        for example in examples(spec, &mut random) {
            match check(&example, &mut random) {
                Ok(n) => compared += n,
                Err(why) => wrong.push(format!("{} {}: {why}", spec.name, example.name)),
            }
        }
        if compared == 0 {
            unchecked.insert(spec.name, spec);
        }
    }
    let names: Vec<&&str> = unchecked.keys().collect();
    assert!(wrong.is_empty() && names.is_empty(), "unchecked: {names:?}\n{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
