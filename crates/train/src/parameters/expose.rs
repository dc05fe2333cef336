use std::{collections::HashMap, sync::Arc};

use qing_graph::{Dim, Element, Graph, Op, Type, ValueId, infer, ops, passes};

use super::{Model, Parameter, Role, Statistic, float::Float, slots::slots, strided::pool_slices};
use crate::TrainError;

/// By which statistics batch normalization normalizes while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Norm {
    /// Those of the batch, whose running averages the network keeps.
    #[default]
    Batch,
    /// Those the network has, which stay: for fine-tuning with small batches.
    Running,
}

/// What of a network is trained, and on how many samples at once.
pub struct Exposure<'a> {
    /// Samples in a batch.
    pub batch: usize,
    /// Batch normalization.
    pub norm: Norm,
    /// Which constants are trained, by name and role.
    pub select: &'a dyn Fn(&str, Role) -> bool,
}

impl Exposure<'_> {
    /// Everything, in batches of this size.
    pub fn all(batch: usize) -> Exposure<'static> {
        Exposure { batch, norm: Norm::Batch, select: &|_, _| true }
    }
}

/// A float network in the form it is trained in.
///
/// # Errors
/// If it is quantized, insists on another batch, or has nothing to train.
pub fn expose(graph: &Graph, exposure: &Exposure<'_>) -> Result<Model, TrainError> {
    let base = cleaned(graph)?;
    let mut graph = concrete(&base, exposure.batch)?;
    passes::fold_constants(&mut graph)?;
    passes::simplify(&mut graph)?;
    let mut parameters: Vec<Parameter> = vec![];
    let mut known: HashMap<ValueId, ()> = HashMap::new();
    for i in 0..graph.nodes.len() {
        for (slot, role) in slots(&graph, &graph.nodes[i]) {
            let Some(id) = graph.nodes[i].input(slot) else { continue };
            let value = graph.value(id);
            let Some(constant) = value.constant.as_ref().filter(|t| t.element() == Element::F32 && !t.is_empty())
            else {
                continue;
            };
            if !(exposure.select)(&value.name, role) || base.find(&value.name).is_none() || known.contains_key(&id) {
                continue;
            }
            let (name, shape, value) = (value.name.clone(), constant.shape().to_vec(), constant.to_f32s());
            parameters.push(Parameter { name, input: id, shape, value, role });
            known.insert(id, ());
        }
    }
    if parameters.is_empty() {
        return Err(TrainError::invalid(format!(
            "`{}`: nothing to train; parameters are float constants that convolutions, matrix products and normalizations \
             read{}",
            graph.name,
            if graph.nodes.is_empty() { "" } else { ", and none is selected" }
        )));
    }
    let statistics = match exposure.norm {
        Norm::Batch => by_batch(&mut graph)?,
        Norm::Running => vec![],
    };
    for parameter in &parameters {
        graph.value_mut(parameter.input).constant = None;
        graph.inputs.push(parameter.input);
    }
    graph.remove_dead_nodes();
    Ok(Model { graph, parameters, statistics, export: Box::new(Float { base }) })
}

/// The network with what is constant folded and what does nothing removed; the form that is written in the end.
fn cleaned(graph: &Graph) -> Result<Graph, TrainError> {
    if let Some((_, v)) = graph.values().find(|(_, v)| v.ty.quant.is_some()) {
        return Err(TrainError::invalid(format!(
            "`{}` is quantized already (`{}` is {}); train the float network it was made from",
            graph.name, v.name, v.ty
        )));
    }
    let mut base = graph.clone();
    loop {
        if passes::fold_constants(&mut base)? + passes::simplify(&mut base)? == 0 {
            break;
        }
    }
    // Exporters repeat weights, and tie what was never meant to be one parameter: keep names as they are.
    Ok(base.compacted())
}

/// The network on batches of `batch` samples.
///
/// # Errors
/// If its shapes do not follow.
pub(crate) fn concrete(graph: &Graph, batch: usize) -> Result<Graph, TrainError> {
    let mut graph = graph.clone();
    let leading: Vec<Dim> =
        graph.inputs.iter().filter_map(|id| graph.ty(*id).shape.as_ref()?.first().cloned()).collect();
    let mut shapes = vec![];
    for id in graph.inputs.clone() {
        let value = graph.value(id);
        let open =
            || TrainError::invalid(format!("input `{}` is {}: only its first axis may be open", value.name, value.ty));
        let dims = value.ty.shape.clone().ok_or_else(open)?;
        let shape: Vec<usize> = dims
            .iter()
            .enumerate()
            .map(|(axis, d)| match d {
                _ if axis == 0 => Ok(batch),
                Dim::Known(n) => Ok(*n),
                d if leading.contains(d) => Ok(batch),
                _ => Err(open()),
            })
            .collect::<Result<_, _>>()?;
        // Networks exported with a batch of one.
        if let Some(first) = graph.value_mut(id).ty.shape.as_mut().and_then(|s| s.first_mut()) {
            *first = Dim::Known(batch);
        }
        shapes.push(shape);
    }
    let fixed = leading.iter().any(|d| d.known().is_some_and(|n| n != batch));
    if fixed {
        for node in graph.nodes.clone() {
            for id in node.outputs.iter().filter(|id| graph.constant(**id).is_none()).copied().collect::<Vec<_>>() {
                graph.value_mut(id).ty.shape = None;
            }
        }
    }
    let mut graph = infer::specialize(&graph, &shapes).map_err(|e| match fixed {
        true => TrainError::invalid(format!(
            "the network was exported for a fixed batch and cannot run on {batch} samples at once ({e}); export it with an \
             open batch axis"
        )),
        false => e.into(),
    })?;
    pool_slices(&mut graph);
    Ok(graph)
}

/// Batch normalization in training form; gives what is to be averaged.
pub(crate) fn by_batch(graph: &mut Graph) -> Result<Vec<Statistic>, TrainError> {
    let mut statistics = vec![];
    for i in 0..graph.nodes.len() {
        let node = graph.nodes[i].clone();
        let Some(norm) = node.op.downcast::<ops::BatchNormalization>() else { continue };
        if norm.training_mode {
            return Err(TrainError::invalid(format!(
                "node `{}` already is in training mode; export the network for inference",
                node.name
            )));
        }
        let mut running = vec![];
        for slot in [3, 4] {
            let Some(id) = node.input(slot) else { continue };
            if let Some(constant) = graph.constant(id) {
                running.push((graph.value(id).name.clone(), constant.to_f32s()));
            }
        }
        let [mean, var] = <[_; 2]>::try_from(running).map_err(|_| {
            TrainError::invalid(format!("node `{}`: its mean and variance are no constants", node.name))
        })?;
        let channels = mean.1.len();
        let op: Arc<dyn Op> = Arc::new(ops::BatchNormTraining { epsilon: norm.epsilon });
        let mut outputs = node.outputs.clone();
        for (what, (name, running)) in [("mean", mean), ("variance", var)] {
            let ty = Type::new(Element::F32, [channels]);
            let batch = graph.add_undefined(&format!("{}.batch_{what}", node.name), ty);
            outputs.push(batch);
            statistics.push(Statistic { name, batch, running, momentum: norm.momentum });
        }
        let node = &mut graph.nodes[i];
        node.op = op;
        node.inputs.truncate(3);
        node.outputs = outputs;
    }
    Ok(statistics)
}

#[cfg(test)]
mod tests {
    use qing_graph::{Tensor, interpret::interpret, verify::verify};

    use super::*;
    use crate::architectures::{self, Settings};

    fn small() -> Graph {
        architectures::build("fashion", &Settings { input: vec![1, 28, 28], classes: 10, seed: 1 }).unwrap()
    }

    #[test]
    fn there_and_back() {
        let graph = small();
        let model = expose(&graph, &Exposure::all(4)).unwrap();
        verify(&model.graph).unwrap();
        assert_eq!(model.trained(), 79_482);
        assert_eq!(model.graph.inputs.len(), 1 + model.parameters.len());
        let back = model.exported(&model.values()).unwrap();
        for (_, value) in graph.values().filter(|(_, v)| v.constant.is_some()) {
            let id = back.find(&value.name).expect("the same constants");
            assert_eq!(back.constant(id), value.constant.as_ref(), "{}", value.name);
        }
        let mut values = model.values();
        values.parameters[0].fill(0.5);
        let back = model.exported(&values).unwrap();
        let id = back.find(&model.parameters[0].name).unwrap();
        assert!(back.constant(id).unwrap().to_f32s().iter().all(|v| *v == 0.5));
    }

    #[test]
    fn what_is_not_selected_stays_constant() {
        let graph = small();
        let biases = Exposure { batch: 1, norm: Norm::Running, select: &|_, role| role == Role::Bias };
        let model = expose(&graph, &biases).unwrap();
        let names: Vec<&str> = model.parameters.iter().map(|p| p.name.as_str()).collect();
        assert_eq!((names, model.statistics.len()), (vec!["classify.bias"], 0));
        let none = Exposure { select: &|_, _| false, ..biases };
        assert!(expose(&graph, &none).unwrap_err().to_string().contains("nothing to train"));
    }

    #[test]
    fn strided_slices_become_pooling() {
        let mut graph = Graph::new("strided");
        let x = graph.add_input("x", Type::new(Element::F32, [1usize, 2, 5, 4]));
        let mut slice = |name: &str, start: [i64; 2], axes: [i64; 2], step: [i64; 2]| {
            let mut inputs = vec![Some(x)];
            for list in [start, [9, 9], axes, step] {
                inputs.push(Some(graph.add_constant("list", Tensor::vector(list.to_vec()))));
            }
            let y = graph.add_node(Arc::new(ops::Slice {}), name, &inputs, 1).unwrap()[0];
            graph.mark_output(y);
        };
        slice("every", [0, 0], [2, 3], [2, 2]);
        slice("rows", [0, 0], [2, 3], [3, 1]);
        slice("shifted", [1, 0], [2, 3], [2, 2]);
        slice("channels", [0, 0], [1, 3], [2, 2]);
        slice("whole", [0, 0], [2, 3], [1, 1]);
        let values = (0..40u8).map(f32::from).collect();
        let input = [Tensor::new::<f32>(&[1, 2, 5, 4], values).unwrap()];
        let want = interpret(&graph, &input).unwrap();
        let pooled = concrete(&graph, 1).unwrap();
        let pools: Vec<bool> = pooled.nodes.iter().map(|n| n.op.is::<ops::MaxPool>()).collect();
        assert_eq!(pools, [true, true, false, false, false]);
        let found = interpret(&pooled, &input).unwrap();
        for (a, b) in found.iter().zip(&want) {
            assert_eq!((a.shape(), a.to_f32s()), (b.shape(), b.to_f32s()));
        }
    }

    #[test]
    fn statistics_are_those_of_the_network() {
        let model = expose(&small(), &Exposure::all(2)).unwrap();
        assert_eq!(model.statistics.len(), 14);
        assert_eq!(model.statistics[0].name, "stem.mean");
    }
}
