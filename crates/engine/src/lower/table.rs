//! Unary functions of quantized values: one lookup per value.

use qing_graph::Node;
use qing_kernels::{
    Isa, Pool,
    quantized::lookup::{in_place, lookup},
};

use super::{Lower, Place, StepSpec, fuse};
use crate::{
    EngineError,
    step::{Step, StepError, StepIo},
};

pub(super) struct Table {
    pub(super) isa: Isa,
    pub(super) table: Box<[u8; 256]>,
}

impl Step for Table {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        match inputs.get(0) {
            Some(x) => lookup(self.isa, &self.table, x, y, pool)?,
            None => pool.for_each_chunk_mut(y, 32 * 1024, |_, y| in_place(self.isa, &self.table, y)),
        }
        Ok(())
    }
}

/// Any unary function between values quantized per tensor, and the ones after it.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let Some(x) = node.input(0) else { return Ok(false) };
    let Some(first) = fuse::table_of(cx, node) else { return Ok(false) };
    let tail = fuse::quantized_tail(cx, node.outputs[0]);
    let table = tail.compose(cx, first, node.outputs[0]);
    let (x_ty, y_ty) = (cx.graph.ty(x), cx.graph.ty(tail.output));
    let table = fuse::stored_table(&table, x_ty, y_ty);
    let layout = cx.layout(x);
    let input = cx.read(x, layout)?;
    let output = cx.write(tail.output, layout);
    push(cx, node, table, input, output, &tail.nodes);
    Ok(true)
}

/// Pushes a lookup.
pub(super) fn push(cx: &mut Lower<'_>, node: &Node, table: Box<[u8; 256]>, x: Place, y: Place, absorbed: &[usize]) {
    let isa = cx.isa;
    let mut step = StepSpec::new(node, format!("table u8 {}", isa.name()), vec![x], vec![y], Table { isa, table });
    step.in_place = Some(0);
    cx.push_fused(step, absorbed);
}
