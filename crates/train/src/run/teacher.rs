//! The network to learn from.

use std::{path::Path, sync::Arc};

use qing_data::{Feed, Preprocess};
use qing_engine::{Options, Plan, Pool, Session};
use qing_graph::{Element, Graph, Tensor};

use super::{
    prepare::read_model,
    soft_labels::{self, SoftLabels},
};
use crate::{
    TrainError,
    data::{Batch, Source},
    recipe::{DistillSection, Recipe},
};

/// Gives logits for the batches of a run: the network itself, or what it said before.
#[derive(Debug)]
pub struct Teacher {
    session: Session,
    known: Option<SoftLabels>,
    classes: usize,
}

impl Teacher {
    /// The teacher a recipe names, if it does, with what it said before.
    ///
    /// # Errors
    /// If a file cannot be read, or teacher, student and data do not fit together.
    pub(super) fn open(
        recipe: &Recipe,
        folder: &Path,
        source: &Source,
        pool: &Arc<Pool>,
    ) -> Result<Option<Teacher>, TrainError> {
        let Some(distill) = &recipe.distill else { return Ok(None) };
        let graph = read_model(folder, &distill.teacher)?;
        let known = distill.cache.as_ref().map(|path| known(&graph, &folder.join(path), source)).transpose()?;
        Ok(Some(Teacher { session: session(&graph, source, pool)?, known, classes: source.classes }))
    }

    /// A teacher that is asked each time: for batches that are no run's.
    ///
    /// # Errors
    /// As for [`Teacher::open`].
    pub(super) fn uncached(
        distill: &DistillSection,
        folder: &Path,
        source: &Source,
        pool: &Arc<Pool>,
    ) -> Result<Teacher, TrainError> {
        let graph = read_model(folder, &distill.teacher)?;
        Ok(Teacher { session: session(&graph, source, pool)?, known: None, classes: source.classes })
    }

    /// What the teacher says about a batch: logits `[samples, classes]`.
    ///
    /// # Errors
    /// If the network does not run, or what it said before was about other inputs.
    pub(crate) fn logits(&mut self, batch: &Batch) -> Result<Tensor, TrainError> {
        let Some(known) = &mut self.known else { return ask(&mut self.session, batch) };
        loop {
            if let Some(logits) = all(known, batch, self.classes)? {
                return Ok(logits);
            }
            // Another run may have written it down since.
            if !known.refresh()? {
                break;
            }
        }
        let said = ask(&mut self.session, batch)?;
        for ((sample, input), row) in shown(batch).zip(said.to_f32s().chunks_exact(self.classes)) {
            known.put(batch.view, sample, input, row);
        }
        Ok(said)
    }

    /// Writes down what it said.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn save(&mut self) -> Result<(), TrainError> {
        self.known.as_mut().map_or(Ok(()), SoftLabels::save)
    }
}

fn ask(session: &mut Session, batch: &Batch) -> Result<Tensor, TrainError> {
    Ok(session.run(std::slice::from_ref(&batch.input))?.swap_remove(0))
}

/// The samples of a batch and what the network is shown of each.
fn shown(batch: &Batch) -> impl Iterator<Item = (usize, &[u8])> {
    let row = batch.input.bytes().len() / batch.samples.len();
    batch.samples.iter().copied().zip(batch.input.bytes().chunks_exact(row))
}

/// The logits of a batch, if those of every sample are known.
fn all(known: &SoftLabels, batch: &Batch, classes: usize) -> Result<Option<Tensor>, TrainError> {
    let mut logits = Vec::with_capacity(batch.samples.len() * classes);
    for (sample, input) in shown(batch) {
        let Some(row) = known.get(batch.view, sample, input)? else { return Ok(None) };
        logits.extend_from_slice(row);
    }
    Ok(Some(Tensor::new(&[batch.samples.len(), classes], logits)?))
}

/// What the teacher said about views of these samples before.
fn known(teacher: &Graph, path: &Path, source: &Source) -> Result<SoftLabels, TrainError> {
    if source.views.is_none() {
        return Err(TrainError::invalid(
            "distill.cache needs augment.views, the number of views of each sample: without it every epoch has new ones",
        ));
    }
    if source.mixup > 0.0 {
        return Err(TrainError::invalid(
            "distill.cache and augment.mixup exclude each other: samples are mixed anew in every epoch",
        ));
    }
    let (samples, classes) = (source.data.len(), source.classes);
    let changes = format!("{:?}, {:?}", source.augment, source.feed.preprocess);
    let key = soft_labels::key(teacher, samples, classes, source.seed, &changes);
    SoftLabels::open(path, key, samples, classes)
}

/// The teacher on batches of the student's kind.
fn session(teacher: &Graph, source: &Source, pool: &Arc<Pool>) -> Result<Session, TrainError> {
    let own = Feed::for_input(teacher, 0)?;
    let described = Preprocess::is_in(&teacher.metadata);
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
