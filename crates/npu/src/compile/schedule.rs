//! The instructions of a program in order, and what each must wait for.

use std::ops::Range;

use super::{layout::Buffer, network::TensorId};
use crate::{
    NpuError,
    isa::{Instruction, Opcode, Queue},
};

/// Something in memory that instructions read and write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// Pixels of an activation.
    Tensor(TensorId),
    /// Words of the weight memory.
    Weights,
}

/// A range of pixels or words that an instruction reads or writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    pub space: Space,
    pub range: Range<usize>,
    pub writes: bool,
}

impl Access {
    pub(super) fn read(space: Space, range: Range<usize>) -> Access {
        Access { space, range, writes: false }
    }

    pub(super) fn write(space: Space, range: Range<usize>) -> Access {
        Access { space, range, writes: true }
    }
}

#[derive(Debug)]
struct Entry {
    queue: Queue,
    /// Its number in its queue.
    number: usize,
    instruction: Instruction,
    accesses: Vec<Access>,
    layer: usize,
}

/// Instructions in an order in which they could run one at a time.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: Vec<Entry>,
    counts: [usize; 4],
    /// The layer that instructions are pushed for.
    pub layer: usize,
}

/// The instructions of one queue with the layer each belongs to.
pub(super) type Stream = Vec<(Instruction, usize)>;

impl Schedule {
    /// Appends an instruction with all it reads and writes.
    pub(super) fn push(&mut self, instruction: Instruction, accesses: Vec<Access>) {
        let Some(queue) = instruction.opcode().and_then(Opcode::queue) else { return };
        let number = self.counts[queue as usize];
        self.counts[queue as usize] += 1;
        self.entries.push(Entry { queue, number, instruction, accesses, layer: self.layer });
    }

    /// Sets the waits and splits into queues.
    ///
    /// # Errors
    /// If a queue has more instructions than can be counted.
    pub(super) fn finish(mut self, buffers: &[Buffer]) -> Result<[Stream; 4], NpuError> {
        if self.counts.iter().any(|c| *c > 32_000) {
            return Err(NpuError::Limit(format!("{:?} instructions in the queues; 32,000 at most", self.counts)));
        }
        let shares = |a: &Buffer, b: &Buffer| a.base < b.base + b.words && b.base < a.base + a.words;
        for i in 0..self.entries.len() {
            let (before, rest) = self.entries.split_at_mut(i);
            let entry = &mut rest[0];
            let mut waits = [0usize; 4];
            // The latest of a queue implies those before it.
            for other in before.iter().rev() {
                if waits[other.queue as usize] > other.number {
                    continue;
                }
                let conflict = entry.accesses.iter().any(|a| {
                    other.accesses.iter().any(|b| {
                        let ordered = other.queue == entry.queue;
                        // Within a queue order suffices, but for results of the array that the next instruction loads.
                        if ordered && !(entry.queue == Queue::Array && b.writes && !a.writes) {
                            return false;
                        }
                        if !a.writes && !b.writes {
                            return false;
                        }
                        match (a.space, b.space) {
                            (Space::Tensor(x), Space::Tensor(y)) if x != y => shares(&buffers[x], &buffers[y]),
                            (x, y) => x == y && a.range.start < b.range.end && b.range.start < a.range.end,
                        }
                    })
                });
                if conflict {
                    waits[other.queue as usize] = other.number + 1;
                }
            }
            for q in Queue::ALL {
                entry.instruction.set(&format!("wait.{}", q.name()), waits[q as usize] as i64)?;
            }
        }
        let mut queues: [Stream; 4] = Default::default();
        for entry in self.entries {
            queues[entry.queue as usize].push((entry.instruction, entry.layer));
        }
        Ok(queues)
    }
}
