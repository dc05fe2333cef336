//! Products by weights that have a scale for each group along the depth.

use qing_graph::{Element, Granularity, Node, arithmetic};
use qing_kernels::{
    Isa, Pool,
    quantized::{Clip, GroupedMatMul, elementwise::quantize},
};

use super::{Lower, StepSpec, quantize::clip_of};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
    storage::bias as stored_bias,
};

struct Grouped {
    isa: Isa,
    product: GroupedMatMul,
    /// How the real results are quantized, if they are.
    to: Option<(f32, Clip)>,
}

impl Step for Grouped {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let (inputs, y, scratch) = io.split();
        let Some((scale, clip)) = self.to else {
            self.product.run(inputs.values(0), bytemuck::cast_slice_mut(y), pool)?;
            return Ok(());
        };
        let reals: &mut [f32] = bytemuck::cast_slice_mut(scratch);
        self.product.run(inputs.values(0), reals, pool)?;
        quantize(self.isa, scale, clip, reals, y, pool)?;
        Ok(())
    }
}

/// `MatMul` of a value by constant weights of at most four bits, `[depth, columns]`, in blocks along the depth.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node, depth: usize, columns: usize) -> Result<bool, EngineError> {
    let (Some(x), Some(w), y) = (node.input(0), node.input(1), node.outputs[0]) else { return Ok(false) };
    let (x_ty, w_ty, y_ty) = (cx.graph.ty(x), cx.graph.ty(w), cx.graph.ty(y));
    let (Some(tensor), Some(quant)) = (cx.graph.constant(w), &w_ty.quant) else { return Ok(false) };
    let Granularity::Block { axis: 0, size } = quant.granularity() else { return Ok(false) };
    let Ok(from) = arithmetic::per_tensor(x_ty) else { return Ok(false) };
    let Ok(x_zero) = u8::try_from(from.zero + stored_bias(x_ty.element)) else { return Ok(false) };
    let groups = depth.div_ceil(size);
    if quant.slices(&[depth, columns]) != Some(quant.scales().len()) || quant.scales().len() != groups * columns {
        return Ok(false);
    }
    let to = match clip_of(y_ty) {
        Some(to) => Some(to),
        None if y_ty.quant.is_none() && y_ty.element == Element::F32 => None,
        None => return Ok(false),
    };
    let codes = tensor.to_ints();
    let mut weights = Vec::with_capacity(codes.len());
    for column in 0..columns {
        for k in 0..depth {
            let zero = quant.zero(k / size * columns + column);
            let Ok(weight) = i8::try_from(codes[k * columns + column] - zero) else { return Ok(false) };
            weights.push(weight);
        }
    }
    let scale: Vec<f32> = quant.scales().iter().map(|w| from.scale * w).collect();
    let rows = cx.shape(x).iter().product::<usize>() / depth.max(1);
    let product = GroupedMatMul::pack(cx.isa, [rows, depth, columns], size, &weights, &scale, x_zero);
    let Some(product) = product.map_err(|e| cx.refuse(node, e))? else { return Ok(false) };
    let kernel = format!("product {} u8, groups of {size} {}", product.width().name(), cx.isa.name());
    let inputs = vec![cx.read(x, Layout::Plain)?];
    let outputs = vec![cx.write(y, Layout::Plain)];
    let weight_bytes = product.weight_bytes() as u64;
    let step = Grouped { isa: cx.isa, product, to };
    let mut step = StepSpec::new(node, kernel, inputs, outputs, step);
    step.scratch = if to.is_some() { 4 * rows * columns } else { 0 };
    step.weights = weight_bytes;
    cx.push(step);
    Ok(true)
}
