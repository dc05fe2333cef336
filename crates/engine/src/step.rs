//! What a plan is made of: steps that read and write places in memory.

use qing_graph::{OpError, Tensor, TensorError};
use qing_kernels::{KernelError, Pool};

use crate::{
    lower::BitDot,
    memory::{Aligned, Region},
};

/// Where a step finds an operand when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// In the arena.
    Arena(Region),
    /// In constant number `.0` of the plan.
    Constant(usize, Region),
    /// A tensor whose shape is known only when it is computed.
    Dynamic(usize),
}

/// Why a step failed.
#[derive(Debug)]
pub(crate) enum StepError {
    /// A kernel refused.
    Kernel(KernelError),
    /// An op refused.
    Op(OpError),
}

impl From<KernelError> for StepError {
    fn from(error: KernelError) -> StepError {
        StepError::Kernel(error)
    }
}

impl From<OpError> for StepError {
    fn from(error: OpError) -> StepError {
        StepError::Op(error)
    }
}

impl From<TensorError> for StepError {
    fn from(error: TensorError) -> StepError {
        StepError::Op(error.into())
    }
}

/// One unit of work with everything packed; immutable.
pub(crate) trait Step: Send + Sync {
    /// Does the work.
    ///
    /// # Errors
    /// What a kernel or op objects to; after planning nothing should.
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError>;

    /// The dot over bit planes that it is, while a plan is made.
    fn bits(&mut self) -> Option<&mut BitDot> {
        None
    }
}

/// The memory of a running step.
pub(crate) struct StepIo<'a> {
    pub(crate) arena: &'a mut [u8],
    pub(crate) constants: &'a [Aligned],
    pub(crate) dynamic: &'a mut [Option<Tensor>],
    pub(crate) inputs: &'a [Slot],
    pub(crate) outputs: &'a [Slot],
    pub(crate) scratch: Region,
}

/// The most outputs that a step writes at once.
const MOST_OUTPUTS: usize = 4;

/// The inputs of a step, beside the output it is writing.
pub(crate) struct Inputs<'a> {
    slots: &'a [Slot],
    constants: &'a [Aligned],
    /// What is left of the arena, with the offset where it begins.
    gaps: [(usize, &'a [u8]); MOST_OUTPUTS + 2],
}

impl<'a> Inputs<'a> {
    /// The bytes of input `i`; `None` if the output took its place.
    pub(crate) fn get(&self, i: usize) -> Option<&'a [u8]> {
        match self.slots[i] {
            Slot::Constant(index, region) => Some(&self.constants[index].as_ref()[region.offset..region.end()]),
            Slot::Arena(region) => self.gaps.iter().find_map(|(start, bytes)| {
                let from = region.offset.checked_sub(*start)?;
                bytes.get(from..from + region.len)
            }),
            Slot::Dynamic(_) => None,
        }
    }

    /// The values of input `i`; empty if the output took its place.
    pub(crate) fn values<T: bytemuck::Pod>(&self, i: usize) -> &'a [T] {
        self.get(i).map_or(&[], bytemuck::cast_slice)
    }
}

impl<'a> StepIo<'a> {
    /// The inputs, the bytes of output 0, and scratch.
    pub(crate) fn split(&mut self) -> (Inputs<'_>, &mut [u8], &mut [u8]) {
        self.split_output(0)
    }

    /// The inputs, the bytes of output `index`, and scratch.
    pub(crate) fn split_output(&mut self, index: usize) -> (Inputs<'_>, &mut [u8], &mut [u8]) {
        let (inputs, [output], scratch) = self.carve([index]);
        (inputs, output, scratch)
    }

    /// The inputs, the bytes of the first outputs, and scratch.
    #[cfg_attr(not(feature = "train"), allow(dead_code))]
    pub(crate) fn split_outputs<const N: usize>(&mut self) -> (Inputs<'_>, [&mut [u8]; N], &mut [u8]) {
        self.carve(std::array::from_fn(|i| i))
    }

    /// The inputs, the bytes of some outputs, and scratch.
    fn carve<const N: usize>(&mut self, outputs: [usize; N]) -> (Inputs<'_>, [&mut [u8]; N], &mut [u8]) {
        const { assert!(N <= MOST_OUTPUTS) };
        let nothing = Region { offset: 0, len: 0 };
        // Scratch is the last.
        let mut order = [(nothing, 0); MOST_OUTPUTS + 1];
        for (i, place) in order[..=N].iter_mut().enumerate() {
            let region = match outputs.get(i).map(|output| self.outputs[*output]) {
                Some(Slot::Arena(region)) => region,
                Some(Slot::Constant(..) | Slot::Dynamic(_)) => nothing,
                None => self.scratch,
            };
            *place = (region, i);
        }
        let order = &mut order[..=N];
        order.sort_unstable_by_key(|(region, _)| region.offset);
        let (mut rest, mut at) = (&mut *self.arena, 0);
        // What is empty lies in the arena all the same, where it is aligned.
        let mut parts: [&mut [u8]; MOST_OUTPUTS + 1] = std::array::from_fn(|_| {
            let (empty, after) = std::mem::take(&mut rest).split_at_mut(0);
            rest = after;
            empty
        });
        let mut gaps = [(usize::MAX, &[][..]); MOST_OUTPUTS + 2];
        // Empty regions may lie inside others; they need no room of their own.
        for (gap, (region, i)) in gaps.iter_mut().zip(order.iter().filter(|(region, _)| region.len > 0)) {
            let (before, after) = rest.split_at_mut(region.offset - at);
            let (part, after) = after.split_at_mut(region.len);
            *gap = (at, before);
            parts[*i] = part;
            (rest, at) = (after, region.end());
        }
        gaps[MOST_OUTPUTS + 1] = (at, rest);
        let inputs = Inputs { slots: self.inputs, constants: self.constants, gaps };
        let mut parts = parts.into_iter();
        let outputs = std::array::from_fn(|_| parts.next().unwrap_or_default());
        (inputs, outputs, parts.next().unwrap_or_default())
    }

    /// The bytes of input `i`, while no output is being written.
    pub(crate) fn input(&self, i: usize) -> &[u8] {
        match self.inputs[i] {
            Slot::Arena(region) => &self.arena[region.offset..region.end()],
            Slot::Constant(index, region) => &self.constants[index].as_ref()[region.offset..region.end()],
            Slot::Dynamic(_) => &[],
        }
    }

    /// The bytes of output `i`.
    pub(crate) fn output(&mut self, i: usize) -> &mut [u8] {
        match self.outputs[i] {
            Slot::Arena(region) => &mut self.arena[region.offset..region.end()],
            Slot::Constant(..) | Slot::Dynamic(_) => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_found_around_output_and_scratch() {
        let at = |offset, len| Region { offset, len };
        for (out, scratch) in [(at(4, 4), at(10, 2)), (at(10, 2), at(4, 4)), (at(4, 4), at(0, 0)), (at(4, 0), at(8, 0))]
        {
            let mut arena: Vec<u8> = (0..16).collect();
            let slots = [Slot::Arena(at(0, 4)), Slot::Arena(at(8, 2)), Slot::Arena(at(12, 4)), Slot::Arena(out)];
            let mut io = StepIo {
                arena: &mut arena,
                constants: &[],
                dynamic: &mut [],
                inputs: &slots,
                outputs: &slots[3..],
                scratch,
            };
            let (inputs, o, s) = io.split();
            assert_eq!((o.len(), s.len()), (out.len, scratch.len));
            assert!(o.is_empty() || o[0] as usize == out.offset);
            assert!(s.is_empty() || s[0] as usize == scratch.offset);
            for (i, offset) in [(0, 0u8), (1, 8), (2, 12)] {
                assert_eq!(inputs.get(i).unwrap()[0], offset);
            }
            assert_eq!(inputs.get(3).is_none(), out.len > 0);
        }
        let mut arena: Vec<u8> = (0..16).collect();
        let slots = [at(12, 2), at(0, 3), at(6, 2), at(8, 4), at(3, 1)].map(Slot::Arena);
        let mut io = StepIo {
            arena: &mut arena,
            constants: &[],
            dynamic: &mut [],
            inputs: &slots[3..],
            outputs: &slots[..3],
            scratch: at(4, 2),
        };
        let (inputs, outputs, scratch) = io.split_outputs::<3>();
        assert_eq!(
            (&outputs[0][..], &outputs[1][..], &outputs[2][..], &scratch[..]),
            (&[12, 13][..], &[0, 1, 2][..], &[6, 7][..], &[4, 5][..])
        );
        assert_eq!((inputs.get(0), inputs.get(1)), (Some(&[8, 9, 10, 11][..]), Some(&[3][..])));
    }
}
