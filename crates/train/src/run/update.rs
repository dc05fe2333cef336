//! Runs that update only what fits a budget of memory.

use std::{path::Path, sync::Arc};

use qing_engine::{Options, Pool};
use qing_graph::{Graph, Tensor};

use super::{
    prepare::{Prepared, assemble, attach, rows_and_classes, source},
    teacher::Teacher,
};
use crate::{
    TrainError,
    data::{Loader, Source},
    finetune::{Request, choose, parse_bytes},
    optimize::matches,
    parameters::{Exposure, Norm, Role, expose},
    recipe::{Recipe, UpdateSection},
    trainer::Settings,
};

/// Chooses what is updated, and puts data and loss around it.
pub(super) fn prepare(
    recipe: &Recipe,
    update: &UpdateSection,
    folder: &Path,
    network: &Graph,
    pool: &Arc<Pool>,
) -> Result<Prepared, TrainError> {
    let wanted = |name: &str| update.only.is_empty() || update.only.iter().any(|p| matches(p, name));
    let allowed = |name: &str, role: Role| wanted(name) && (!update.biases || role == Role::Bias);
    let Some(budget) = &update.memory else {
        let exposure = Exposure { batch: recipe.data.batch, norm: Norm::Running, select: &allowed };
        return assemble(recipe, folder, network, expose(network, &exposure)?, pool);
    };
    let budget = parse_bytes(budget)?;
    let settings = Settings {
        optimizer: recipe.optimizer.settings()?,
        average: recipe.optimizer.average,
        plan: Options::default(),
    };
    let one = expose(network, &Exposure::all(1))?;
    let (_, classes) = rows_and_classes(&one)?;
    let whole = source(recipe, folder, network, recipe.data.batch, classes)?;
    let probe = |batch: usize| -> Result<Vec<Tensor>, TrainError> {
        let source = Source { batch, ..whole.clone() };
        let teacher = recipe.distill.as_ref().map(|d| Teacher::uncached(d, folder, &source, pool)).transpose()?;
        let first = Loader::start(&Arc::new(source), 0, 0).next();
        let batch = first.ok_or_else(|| TrainError::invalid("there is no batch to probe with"))??;
        let taught = teacher.map(|mut teacher| teacher.logits(&batch)).transpose()?;
        Ok([batch.input, batch.targets].into_iter().chain(taught).collect())
    };
    let request = Request {
        network,
        batch: recipe.data.batch,
        budget,
        settings: &settings,
        allowed: &allowed,
        attach: &|model| attach(recipe, model),
        probe: &probe,
    };
    let choice = choose(&request, pool)?;
    let mut prepared = assemble(recipe, folder, network, choice.model, pool)?;
    prepared.plan.memory_limit = budget;
    prepared.candidates = choice.candidates;
    Ok(prepared)
}
