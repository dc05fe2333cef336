//! Dots below eight bits: which kernel computes them, and values that stay bit planes from one to the next.

use qing_graph::{Element, Type, ValueId};
use qing_kernels::{
    ConvGeometry, KernelError, Pool,
    quantized::{
        BitConv, BitInput, BitOutput, Codes, Epilogue, IntegerSource, NarrowConv, Residual, SparseConv,
        bitplane::plane_bytes,
    },
};

use super::{Lower, Place, Source, StepSpec};
use crate::{
    step::{Inputs, StepError},
    storage::bias as stored_bias,
};

/// A dot over bit planes.
pub(crate) struct BitDot {
    conv: BitConv,
    /// What the values it reads can be.
    codes: Codes,
    /// What the values it writes can be, if it can write them as planes.
    out_codes: Option<Codes>,
    /// Whether it reads and writes planes rather than bytes.
    reads_planes: bool,
    writes_planes: bool,
}

impl BitDot {
    /// Computes the dot; `real` says that the results are real numbers.
    pub(super) fn run(
        &self,
        inputs: &Inputs<'_>,
        y: &mut [u8],
        scratch: &mut [u8],
        (real, residual): (bool, Option<Residual<'_>>),
        pool: &Pool,
    ) -> Result<(), StepError> {
        let x = if self.reads_planes { BitInput::Planes(inputs.values(0)) } else { BitInput::Bytes(inputs.values(0)) };
        let y = match (real, self.writes_planes) {
            (true, _) => BitOutput::F32(bytemuck::cast_slice_mut(y)),
            (_, true) => BitOutput::Planes(bytemuck::cast_slice_mut(y)),
            (_, false) => BitOutput::U8(y),
        };
        self.conv.run_adding(x, residual, y, scratch, pool)?;
        Ok(())
    }

    /// Pixels and channels it reads, and as what.
    fn input(&self) -> (usize, usize, Codes) {
        let g = self.conv.geometry();
        (g.batch * g.in_h * g.in_w, g.in_c, self.codes)
    }

    /// Pixels and channels it writes, and as what, if it can write planes.
    fn output(&self) -> Option<(usize, usize, Codes)> {
        let g = self.conv.geometry();
        self.out_codes.map(|codes| (g.out_pixels(), g.out_c, codes))
    }
}

/// A kernel for weights of few bits, or mostly zeros.
pub(super) enum FewBits {
    Planes(Box<BitDot>),
    Narrow(Box<NarrowConv>),
    Sparse(Box<SparseConv>),
}

impl FewBits {
    /// Its name without the geometry.
    pub(super) fn name(&self, weights: &Type) -> String {
        match self {
            FewBits::Planes(dot) => format!("w{}a{} bits", weights.element.bits(), dot.codes.planes),
            FewBits::Narrow(conv) => format!("{} u8", conv.width().name()),
            FewBits::Sparse(conv) => format!("sparse {:.0}% u8", 100.0 * conv.density()),
        }
    }

    /// Bytes of packed weights.
    pub(super) fn weight_bytes(&self) -> usize {
        match self {
            FewBits::Planes(dot) => dot.conv.weight_bytes(),
            FewBits::Narrow(conv) => conv.weight_bytes(),
            FewBits::Sparse(conv) => conv.weight_bytes(),
        }
    }

    /// Bytes of scratch.
    pub(super) fn scratch_bytes(&self, threads: usize) -> usize {
        match self {
            FewBits::Planes(dot) => dot.conv.scratch_bytes(threads),
            FewBits::Narrow(conv) => conv.scratch_bytes(threads),
            FewBits::Sparse(conv) => conv.scratch_bytes(threads),
        }
    }
}

/// The codes of a type's stored bytes, if they are few.
fn codes_of(ty: &Type) -> Option<Codes> {
    if ty.element == Element::Bipolar {
        return Some(Codes { lo: 127, step: 2, planes: 1 });
    }
    let planes = ty.element.bits();
    let lo = u8::try_from(ty.range()?.0 + stored_bias(ty.element)).ok()?;
    (planes <= 4).then_some(Codes { lo, step: 1, planes })
}

/// The kernel for weights of few bits, or few of them, that pays here, if there is one: bit planes where activations are few bits, too, then
/// the zeros left out, else weights that stay packed. `output` is the value that is written, if nothing is added to it.
pub(super) fn pack(
    cx: &Lower<'_>,
    geometry: ConvGeometry,
    weights: IntegerSource<'_>,
    bias: Option<&[i32]>,
    (x, x_zero): (ValueId, u8),
    epilogue: &Epilogue,
    output: Option<ValueId>,
) -> Result<Option<FewBits>, KernelError> {
    if let Some(codes) = codes_of(cx.graph.ty(x)) {
        let out_codes = output.and_then(|id| codes_of(cx.graph.ty(id))).filter(|codes| codes.step == 1);
        let input = (codes, x_zero);
        let conv = BitConv::pack(cx.isa, geometry, weights, bias, input, epilogue.clone(), out_codes)?;
        if let Some(conv) = conv.filter(BitConv::pays) {
            let out_codes = out_codes.filter(|_| conv.writes_planes());
            let dot = BitDot { conv, codes, out_codes, reads_planes: false, writes_planes: false };
            return Ok(Some(FewBits::Planes(Box::new(dot))));
        }
    }
    if SparseConv::may_pay(cx.isa, weights) {
        let conv = SparseConv::pack(cx.isa, geometry, weights, bias, x_zero, epilogue.clone())?;
        if let Some(conv) = conv.filter(SparseConv::pays) {
            return Ok(Some(FewBits::Sparse(Box::new(conv))));
        }
    }
    let conv = NarrowConv::pack(cx.isa, geometry, weights, bias, x_zero, epilogue.clone())?;
    Ok(conv.filter(NarrowConv::pays).map(|conv| FewBits::Narrow(Box::new(conv))))
}

/// Lets values stay planes that one dot over bit planes writes and only such dots read.
pub(super) fn join(steps: &mut [StepSpec], buffers: &mut [usize], ports: &[Place]) {
    for (buffer, bytes) in buffers.iter_mut().enumerate() {
        let touches = |place: &Place| place.source == Source::Buffer(buffer);
        if ports.iter().any(touches) {
            continue;
        }
        let writers: Vec<usize> = (0..steps.len()).filter(|i| steps[*i].outputs.iter().any(touches)).collect();
        let readers: Vec<usize> = (0..steps.len()).filter(|i| steps[*i].inputs.iter().any(touches)).collect();
        let [writer] = writers[..] else { continue };
        let whole = |place: &Place| place.offset == 0 && place.bytes == *bytes;
        let spec = &mut steps[writer];
        let written = (spec.outputs.len() == 1 && whole(&spec.outputs[0]))
            .then(|| spec.step.bits().and_then(|dot| dot.output()))
            .flatten();
        let Some(format @ (pixels, channels, codes)) = written else { continue };
        let planes = plane_bytes(pixels, channels, codes.planes);
        let all = readers.iter().all(|i| {
            let spec = &mut steps[*i];
            whole(&spec.inputs[0])
                && !spec.inputs[1..].iter().any(touches)
                && spec.step.bits().is_some_and(|dot| dot.input() == format)
        });
        // Few channels leave words half empty.
        if !all || readers.is_empty() || planes > *bytes {
            continue;
        }
        for i in readers {
            let spec = &mut steps[i];
            spec.inputs[0].bytes = planes;
            spec.kernel.push_str(", from planes");
            if let Some(dot) = spec.step.bits() {
                dot.reads_planes = true;
            }
        }
        let spec = &mut steps[writer];
        spec.outputs[0].bytes = planes;
        spec.kernel.push_str(", to planes");
        if let Some(dot) = spec.step.bits() {
            dot.writes_planes = true;
        }
        *bytes = planes;
    }
}
