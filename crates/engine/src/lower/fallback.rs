//! Nodes without a kernel: the op's own reference semantics, between copies.

use std::sync::Arc;

use qing_graph::{Eval, Node, Op, OpError, Tensor, Type, ValueId};
use qing_kernels::Pool;

use super::{Lower, Place, REFERENCE, Source, StepSpec};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Slot, Step, StepError, StepIo},
    storage::{self, Form},
};

struct Reference {
    op: Arc<dyn Op>,
    /// For every input of the node: its position among the inputs of the step, its type and shape.
    inputs: Vec<Option<(usize, Type, Vec<usize>)>>,
    outputs: Vec<Type>,
}

impl Step for Reference {
    fn run(&self, io: &mut StepIo<'_>, _: &Pool) -> Result<(), StepError> {
        let tensors: Vec<Option<Tensor>> = self
            .inputs
            .iter()
            .map(|input| {
                let Some((i, ty, shape)) = input else { return Ok(None) };
                if let Slot::Dynamic(index) = io.inputs[*i] {
                    return Ok(io.dynamic[index].clone());
                }
                storage::to_tensor(Form::of(ty), shape, io.input(*i)).map(Some)
            })
            .collect::<Result<_, _>>()?;
        let views: Vec<Option<&Tensor>> = tensors.iter().map(Option::as_ref).collect();
        let types: Vec<Option<&Type>> = self.inputs.iter().map(|i| i.as_ref().map(|(_, ty, _)| ty)).collect();
        let results = self.op.evaluate(&Eval { inputs: &views, types: &types, outputs: &self.outputs })?;
        if results.len() < self.outputs.len() {
            let (want, got) = (self.outputs.len(), results.len());
            return Err(OpError::unsupported(format!("{want} outputs; it gave {got}")).into());
        }
        for (i, (tensor, ty)) in results.into_iter().zip(&self.outputs).enumerate() {
            if let Slot::Dynamic(index) = io.outputs[i] {
                io.dynamic[index] = Some(tensor);
                continue;
            }
            if ty.known_shape().is_none_or(|s| s != tensor.shape()) || tensor.element() != ty.element {
                return Err(OpError::invalid(format!("it gave {tensor:?} where {ty} was planned")).into());
            }
            storage::encode(Form::of(ty), tensor.bytes(), io.output(i));
        }
        Ok(())
    }
}

/// Lowers any node to its reference semantics.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<(), EngineError> {
    let mut places: Vec<Place> = vec![];
    let mut inputs = vec![];
    for input in &node.inputs {
        let Some(id) = *input else {
            inputs.push(None);
            continue;
        };
        let place = cx.read(id, Layout::Plain)?;
        let ty = cx.graph.ty(id).clone();
        let shape = ty.known_shape().unwrap_or_default();
        inputs.push(Some((places.len(), ty, shape)));
        places.push(place);
    }
    let outputs: Vec<Place> = node.outputs.iter().map(|id: &ValueId| cx.write(*id, Layout::Plain)).collect();
    let types: Vec<Type> = node.outputs.iter().map(|id| cx.graph.ty(*id).clone()).collect();
    // An op that knows its shapes only when it has run leaves tensors beside the arena.
    debug_assert!(
        outputs
            .iter()
            .zip(&types)
            .all(|(p, t)| { matches!(p.source, Source::Dynamic(_)) == t.known_shape().is_none() })
    );
    let step = Reference { op: node.op.clone(), inputs, outputs: types };
    cx.push(StepSpec::new(node, REFERENCE, places, outputs, step));
    Ok(())
}
