use std::{collections::BTreeMap, path::Path, sync::Arc};

use qing_data::{Dataset, Feed, LABELS_KEY, zoo};
use qing_engine::{Options, Plan, Pool, Session};
use qing_graph::{Dim, Element, Graph, Tensor, Type};

use super::preprocess_of;
use crate::{
    TrainError, architectures,
    data::Source,
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
    pub teacher: Option<Session>,
    /// What the trained network's metadata gets.
    pub metadata: BTreeMap<String, String>,
}

/// Reads the files a recipe names and puts together what is trained.
///
/// # Errors
/// If they cannot be read or do not fit together.
pub fn prepare(recipe: &Recipe, folder: &Path, pool: &Arc<Pool>) -> Result<Prepared, TrainError> {
    let mut graph = network(recipe, folder)?;
    describe(recipe, &mut graph)?;
    let batch = recipe.data.batch;
    let model = match &recipe.quantize {
        Some(section) => {
            if section.shortcuts && quantize::shortcuts(&mut graph)? == 0 {
                return Err(TrainError::invalid(
                    "quantize.shortcuts: the network has no residual block of two convolutions to rewire",
                ));
            }
            let samples = calibration(recipe, folder, &graph, section.calibration)?;
            quantize::prepare(&graph, batch, &section.config()?, &samples)?
        }
        None => expose(&graph, &Exposure::all(batch))?,
    };
    assemble(recipe, folder, &graph, model, pool)
}

/// Batches of samples spread over the training data, as they are.
pub(crate) fn calibration(
    recipe: &Recipe,
    folder: &Path,
    network: &Graph,
    samples: usize,
) -> Result<Vec<Vec<Tensor>>, TrainError> {
    let data = Dataset::open(&beside(folder, &recipe.data.train))?;
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
    let open = |what: &str, spec: &str| {
        Dataset::open(&beside(folder, spec)).map_err(|e| TrainError::invalid(format!("data.{what} = \"{spec}\": {e}")))
    };
    let logits = *model.graph.outputs.first().ok_or_else(|| TrainError::invalid("the network has no output"))?;
    let shape = model.graph.ty(logits).known_shape().unwrap_or_default();
    let batch = recipe.data.batch;
    let &[rows, classes] = &shape[..] else {
        return Err(TrainError::invalid(format!(
            "the network's first output is {}; a classifier gives [samples, classes]",
            model.graph.ty(logits)
        )));
    };
    if rows != batch {
        return Err(TrainError::invalid(format!("the network gives {rows} rows for {batch} samples")));
    }
    if !recipe.model.labels.is_empty() && recipe.model.labels.len() != classes {
        let n = recipe.model.labels.len();
        return Err(TrainError::invalid(format!("model.labels has {n} names, the network {classes} classes")));
    }
    let feed = Feed::for_input(network, 0)?;
    let source = Source {
        data: open("train", &recipe.data.train)?,
        feed,
        classes,
        batch,
        augment: recipe.augment.augment(),
        smoothing: recipe.loss.label_smoothing,
        mixup: recipe.augment.mixup,
        seed: recipe.seed,
    };
    source.check()?;
    let rows = |n: usize| Type::new(Element::F32, [Dim::Known(batch), Dim::Known(n)]);
    let targets = model.graph.add_input("targets", rows(classes));
    let mut objective = Objective { loss: targets, inputs: vec![targets] };
    objective.loss = match recipe.loss.kind {
        LossName::CrossEntropy => loss::cross_entropy(&mut model.graph, logits, targets)?,
        LossName::Focal => loss::focal(&mut model.graph, logits, targets, recipe.loss.alpha, recipe.loss.gamma)?,
    };
    let mut teacher = None;
    if let Some(distill) = &recipe.distill {
        if !(0.0..=1.0).contains(&distill.weight) {
            return Err(TrainError::invalid(format!("distill.weight is 0 to 1, got {}", distill.weight)));
        }
        let wise = read_model(folder, &distill.teacher)?;
        let session = teacher_session(&wise, &source, pool)?;
        let taught = model.graph.add_input("teacher", rows(classes));
        objective.inputs.push(taught);
        let apart = loss::distillation(&mut model.graph, logits, taught, distill.temperature)?;
        let mut t = loss::Terms::new(&mut model.graph, "loss");
        let own = t.times(objective.loss, 1.0 - distill.weight)?;
        let apart = t.times(apart, distill.weight)?;
        objective.loss = t.add(own, apart)?;
        teacher = Some(session);
    }
    Ok(Prepared {
        objective,
        plan: Options::default(),
        validate: recipe.data.validate.as_deref().map(|s| open("validate", s)).transpose()?,
        test: recipe.data.test.as_deref().map(|s| open("test", s)).transpose()?,
        source: Arc::new(source),
        teacher,
        metadata: network.metadata.clone(),
        model: Some(model),
    })
}

/// The teacher on batches of the same kind.
fn teacher_session(teacher: &Graph, source: &Source, pool: &Arc<Pool>) -> Result<Session, TrainError> {
    let own = Feed::for_input(teacher, 0)?;
    let described = qing_data::Preprocess::is_in(&teacher.metadata);
    if described && own.preprocess != source.feed.preprocess {
        return Err(TrainError::invalid(
            "teacher and student prepare their images differently; give the recipe's [data] the teacher's numbers",
        ));
    }
    let mut shape = vec![source.batch];
    let dims = source.feed.ty.shape.clone().unwrap_or_default();
    shape.extend(dims.iter().skip(1).map(|d| d.known().unwrap_or(1)));
    let options = Options { input_shapes: Some(vec![shape]), ..Options::threads(pool.threads()) };
    let plan = Plan::new(teacher, &options)?;
    let mut session = Session::with_pool(Arc::new(plan), pool.clone());
    let probe = source.feed.batch(vec![source.data.item(0)?; source.batch])?;
    let logits = session.run(&[probe])?.swap_remove(0);
    if logits.shape() != [source.batch, source.classes] || logits.element() != Element::F32 {
        return Err(TrainError::invalid(format!(
            "the teacher gives {:?} of {}, the student [{}, {}] of f32",
            logits.shape(),
            logits.element(),
            source.batch,
            source.classes
        )));
    }
    Ok(session)
}
