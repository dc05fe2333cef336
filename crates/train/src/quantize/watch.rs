//! What a network computes on batches of any size.

use qing_engine::{Options, Plan, Session};
use qing_graph::{Graph, Tensor};

use crate::TrainError;

/// Runs a network on all `batches` and shows `see` the number and the values of each of its outputs.
///
/// # Errors
/// If a batch does not fit the network.
pub(super) fn watch(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    mut see: impl FnMut(usize, &[f32]),
) -> Result<(), TrainError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut session: Option<(Vec<Vec<usize>>, Session)> = None;
    for batch in batches {
        let shapes: Vec<Vec<usize>> = batch.iter().map(|t| t.shape().to_vec()).collect();
        if session.as_ref().is_none_or(|(s, _)| *s != shapes) {
            let options = Options { threads, input_shapes: Some(shapes.clone()), ..Options::default() };
            session = Some((shapes, Session::new(Plan::new(graph, &options)?.into())));
        }
        let Some((_, session)) = &mut session else { continue };
        for (i, found) in session.run(batch)?.iter().enumerate() {
            see(i, &found.to_f32s());
        }
    }
    Ok(())
}
