use std::{collections::BTreeMap, path::Path, sync::Arc};

use qing_data::{Dataset, Feed, LABELS_KEY, zoo};
use qing_engine::{Options, Pool};
use qing_graph::{Dim, Element, Graph, Tensor, Type, Value, ValueId, passes};

use super::{preprocess_of, teacher::Teacher, update};
use crate::{
    TrainError, architectures,
    checkpoint::Checkpoint,
    data::Source,
    finetune::Candidate,
    loss,
    parameters::{Exposure, Model, expose},
    quantize,
    recipe::{LossName, Recipe, beside},
    trainer::Objective,
};

/// Everything a run needs, ready.
#[derive(Debug)]
pub struct Prepared {
    /// The network in training form, its loss in its graph; taken when the run starts.
    pub model: Option<Model>,
    /// Its loss.
    pub objective: Objective,
    /// How the training graph is planned.
    pub plan: Options,
    /// To train on.
    pub source: Arc<Source>,
    /// Held out.
    pub validate: Option<Dataset>,
    /// Read once.
    pub test: Option<Dataset>,
    /// Gives logits to learn from.
    pub teacher: Option<Teacher>,
    /// What the trained network's metadata gets.
    pub metadata: BTreeMap<String, String>,
    /// What could be updated within a budget of memory, and what is.
    pub candidates: Vec<Candidate>,
}

/// Reads the files a recipe names and puts together what is trained.
///
/// # Errors
/// If they cannot be read or do not fit together.
pub fn prepare(recipe: &Recipe, folder: &Path, pool: &Arc<Pool>) -> Result<Prepared, TrainError> {
    let mut graph = network(recipe, folder)?;
    describe(recipe, &mut graph)?;
    let weights = recipe.model.weights.as_deref();
    if weights.is_some() && recipe.quantize.is_none() {
        return Err(TrainError::invalid(
            "model.weights is for [quantize]; a float network goes on from its model.file",
        ));
    }
    if let Some(update) = &recipe.update {
        if recipe.quantize.is_some() {
            return Err(TrainError::invalid("[update] is for float networks: [quantize] trains all of a network"));
        }
        return update::prepare(recipe, update, folder, &graph, pool);
    }
    let batch = recipe.data.batch;
    let model = match &recipe.quantize {
        Some(section) => {
            let config = section.config()?;
            if section.shortcuts && quantize::shortcuts(&mut graph, config.bits.activations == 1)? == 0 {
                return Err(TrainError::invalid(
                    "quantize.shortcuts: the network has no residual block of two convolutions to rewire",
                ));
            }
            if let Some(weights) = weights {
                go_on_from(&mut graph, &beside(folder, weights))?;
            }
            if section.fold {
                passes::fold_constants(&mut graph)?;
                passes::fold_affine(&mut graph)?;
            }
            let samples = calibration(recipe, folder, &graph, section.calibration)?;
            if section.shortcuts || weights.is_some() {
                quantize::renormalize(&mut graph, &samples)?;
            }
            quantize::prepare(&graph, batch, &config, &samples)?
        }
        None => expose(&graph, &Exposure::all(batch))?,
    };
    assemble(recipe, folder, &graph, model, pool)
}

/// Gives the constants of a network the values that a checkpoint has under their names.
fn go_on_from(graph: &mut Graph, path: &str) -> Result<(), TrainError> {
    let values = Checkpoint::read_parameters(Path::new(path))?;
    let fits = |name: &str, c: &Tensor| {
        c.element() == Element::F32 && values.get(name).is_some_and(|new| new.len() == c.len())
    };
    let known = |(_, v): &(ValueId, &Value)| v.constant.as_ref().is_some_and(|c| fits(&v.name, c));
    let found: Vec<ValueId> = graph.values().filter(known).map(|(id, _)| id).collect();
    // Scales of quantizers have no place in the network; they are few.
    let placed: usize = found.iter().filter_map(|id| graph.constant(*id)).map(Tensor::len).sum();
    let all: usize = values.values().map(Vec::len).sum();
    if 2 * placed < all {
        return Err(TrainError::invalid(format!(
            "model.weights: {path} is of another network: of its {all} values {placed} have the name and the size of weights of this one"
        )));
    }
    for id in found {
        let value = graph.value_mut(id);
        let shape = value.constant.as_ref().map_or(&[][..], Tensor::shape).to_vec();
        value.constant = Some(Tensor::new(&shape, values[&value.name].clone())?);
    }
    Ok(())
}

/// The network a recipe starts from, and batches of samples spread over its training data, as it takes them.
///
/// # Errors
/// If a file cannot be read, or they do not fit together.
pub fn start(recipe: &Recipe, folder: &Path, samples: usize) -> Result<(Graph, Vec<Vec<Tensor>>), TrainError> {
    let mut graph = network(recipe, folder)?;
    describe(recipe, &mut graph)?;
    let samples = calibration(recipe, folder, &graph, samples)?;
    Ok((graph, samples))
}

/// Batches of samples spread over the training data, as they are.
pub(crate) fn calibration(
    recipe: &Recipe,
    folder: &Path,
    network: &Graph,
    samples: usize,
) -> Result<Vec<Vec<Tensor>>, TrainError> {
    let (data, _) = training_data(recipe, folder)?;
    let feed = Feed::for_input(network, 0)?;
    let count = samples.clamp(1, data.len());
    let mut batches = vec![];
    // A network may insist on its batch.
    let batch = feed.ty.shape.as_ref().and_then(|s| s.first()?.known()).unwrap_or(count.min(64));
    for first in (0..count / batch.max(1) * batch).step_by(batch) {
        let items = (first..first + batch).map(|i| data.item(i * data.len() / count)).collect::<Result<Vec<_>, _>>()?;
        batches.push(vec![feed.batch(items)?]);
    }
    Ok(batches)
}

/// The network a recipe starts from, with the metadata it says.
pub(crate) fn network(recipe: &Recipe, folder: &Path) -> Result<Graph, TrainError> {
    let section = &recipe.model;
    match (&section.architecture, &section.file) {
        (Some(name), None) => architectures::build(name, &section.settings(name, recipe.seed)?),
        (None, Some(file)) => {
            if section.input.is_some() || section.classes.is_some() {
                return Err(TrainError::invalid(
                    "model.input and model.classes are for architectures; a file has its own",
                ));
            }
            read_model(folder, file)
        }
        _ => {
            let names: Vec<&str> = architectures::ARCHITECTURES.iter().map(|a| a.name).collect();
            Err(TrainError::invalid(format!(
                "[model] needs either `file` or `architecture`, one of {}",
                names.join(", ")
            )))
        }
    }
}

/// A model file, or `zoo:NAME`.
pub(crate) fn read_model(folder: &Path, spec: &str) -> Result<Graph, TrainError> {
    match spec.strip_prefix("zoo:") {
        Some(name) => Ok(qing_formats::onnx::read_bytes(&zoo::find(name)?.bytes(), None)?),
        None => Ok(qing_formats::read(Path::new(&beside(folder, spec)))?),
    }
}

/// Puts into the metadata how images become inputs, and what the classes are called.
pub(crate) fn describe(recipe: &Recipe, graph: &mut Graph) -> Result<(), TrainError> {
    let data = &recipe.data;
    if let Some(mut p) = preprocess_of(graph)? {
        if let Some(preset) = &data.preset {
            p = p.with_preset(preset)?;
        }
        let list = |v: &[f32]| v.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
        for (field, value) in [
            ("scale", data.scale.map(|s| s.to_string())),
            ("mean", data.mean.as_deref().map(list)),
            ("std", data.std.as_deref().map(list)),
        ] {
            if let Some(value) = value {
                p.set(field, &value)?;
            }
        }
        graph.metadata.extend(p.to_metadata());
    }
    if !recipe.model.labels.is_empty() {
        graph.metadata.insert(LABELS_KEY.into(), recipe.model.labels.join(","));
    }
    Ok(())
}

/// Data, loss and teacher around a network in training form. `network` is what the model was made of.
pub(crate) fn assemble(
    recipe: &Recipe,
    folder: &Path,
    network: &Graph,
    mut model: Model,
    pool: &Arc<Pool>,
) -> Result<Prepared, TrainError> {
    let (batch, classes) = rows_and_classes(&model)?;
    let source = source(recipe, folder, network, batch, classes)?;
    let objective = attach(recipe, &mut model)?;
    let teacher = Teacher::open(recipe, folder, &source, pool)?;
    Ok(Prepared {
        objective,
        // Sums of integers must come out as integers.
        plan: Options { exact: recipe.quantize.is_some(), bf16: recipe.bf16, ..Options::default() },
        validate: recipe.data.validate.as_deref().map(|s| open(folder, "validate", s)).transpose()?,
        test: recipe.data.test.as_deref().map(|s| open(folder, "test", s)).transpose()?,
        source: Arc::new(source),
        teacher,
        metadata: network.metadata.clone(),
        candidates: vec![],
        model: Some(model),
    })
}

fn open(folder: &Path, what: &str, spec: &str) -> Result<Dataset, TrainError> {
    Dataset::open(&beside(folder, spec)).map_err(|e| TrainError::invalid(format!("data.{what} = \"{spec}\": {e}")))
}

/// All samples to train on, and how many of them, from the first, have labels.
fn training_data(recipe: &Recipe, folder: &Path) -> Result<(Dataset, usize), TrainError> {
    let data = open(folder, "train", &recipe.data.train)?;
    let data = match recipe.data.limit {
        Some(n) => data.take(n),
        None => data,
    };
    let labelled = match &recipe.distill {
        Some(_) if recipe.unlabelled() => 0,
        Some(_) => data.len(),
        None => usize::MAX,
    };
    if recipe.data.extra.is_empty() {
        return Ok((data, labelled));
    }
    let extra = recipe.data.extra.iter().map(|spec| open(folder, "extra", spec));
    Ok((Dataset::chain([Ok(data)].into_iter().chain(extra).collect::<Result<_, TrainError>>()?), labelled))
}

/// Samples of a batch and classes, by the first output.
pub(super) fn rows_and_classes(model: &Model) -> Result<(usize, usize), TrainError> {
    let logits = *model.graph.outputs.first().ok_or_else(|| TrainError::invalid("the network has no output"))?;
    match model.graph.ty(logits).known_shape().as_deref() {
        Some(&[rows, classes]) if rows > 0 && classes > 0 => Ok((rows, classes)),
        _ => Err(TrainError::invalid(format!(
            "the network's first output is {}; a classifier gives [samples, classes]",
            model.graph.ty(logits)
        ))),
    }
}

/// What is trained on, in batches.
pub(super) fn source(
    recipe: &Recipe,
    folder: &Path,
    network: &Graph,
    batch: usize,
    classes: usize,
) -> Result<Source, TrainError> {
    if !recipe.model.labels.is_empty() && recipe.model.labels.len() != classes {
        let n = recipe.model.labels.len();
        return Err(TrainError::invalid(format!("model.labels has {n} names, the network {classes} classes")));
    }
    let (data, labelled) = training_data(recipe, folder)?;
    let source = Source {
        data,
        feed: Feed::for_input(network, 0)?,
        classes,
        batch,
        augment: recipe.augment.augment(),
        views: recipe.augment.views,
        smoothing: recipe.loss.label_smoothing,
        mixup: recipe.augment.mixup,
        seed: recipe.seed,
        labelled,
    };
    source.check()?;
    Ok(source)
}

/// Adds the recipe's loss to a network in training form.
pub(super) fn attach(recipe: &Recipe, model: &mut Model) -> Result<Objective, TrainError> {
    let (batch, classes) = rows_and_classes(model)?;
    let logits = model.graph.outputs[0];
    let rows = || Type::new(Element::F32, [Dim::Known(batch), Dim::Known(classes)]);
    let targets = model.graph.add_input("targets", rows());
    let mut objective = Objective { loss: targets, inputs: vec![targets] };
    objective.loss = match recipe.loss.kind {
        LossName::CrossEntropy => loss::cross_entropy(&mut model.graph, logits, targets)?,
        LossName::Focal => loss::focal(&mut model.graph, logits, targets, recipe.loss.alpha, recipe.loss.gamma)?,
    };
    if let Some(distill) = &recipe.distill {
        if !(0.0..=1.0).contains(&distill.weight) {
            return Err(TrainError::invalid(format!("distill.weight is 0 to 1, got {}", distill.weight)));
        }
        let taught = model.graph.add_input("teacher", rows());
        objective.inputs.push(taught);
        let apart = loss::distillation(&mut model.graph, logits, taught, distill.temperature)?;
        let mut t = loss::Terms::new(&mut model.graph, "loss");
        let own = t.times(objective.loss, 1.0 - distill.weight)?;
        let apart = t.times(apart, distill.weight)?;
        objective.loss = t.add(own, apart)?;
    }
    Ok(objective)
}
