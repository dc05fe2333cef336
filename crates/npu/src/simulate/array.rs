//! The array: sequences the planes of full slots, accumulates. Section 6.6 of the specification.
//!
//! What the elements compute plane by plane is computed here at once, when the last pair of planes of a group is issued.

use super::{
    decode::Conv,
    load::{Meta, Slot},
    memory::transpose,
};
use crate::config::{Config, MAC_STAGES};

/// What an element of the array was given for a reduction group: bit planes of 64 lanes, and how they are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operands {
    /// Planes of the activations.
    pub activations: [u64; 8],
    /// Planes of the weights.
    pub weights: [u64; 8],
    /// Planes of activations and weights that there are.
    pub bits: (usize, usize),
    /// Whether the top planes are negative.
    pub signed: (bool, bool),
    /// The group begins a sum.
    pub first: bool,
    /// The group ends it.
    pub last: bool,
}

/// The sums of one group for all rows and columns; the last column of a row is the row sum.
pub(super) type Sums = Box<[[i32; 17]; 16]>;

#[derive(Debug, Clone, Copy, Default)]
struct Stage {
    /// The last pair of a group, its sums in `pool`.
    group: Option<(Meta, usize)>,
}

#[derive(Debug)]
pub(super) struct Array {
    rows: usize,
    columns: usize,
    slot: usize,
    pair: usize,
    stages: [Stage; MAC_STAGES],
    pool: Vec<Sums>,
    next_in_pool: usize,
    /// Main accumulators.
    pub main: Sums,
    /// The tile that post has not accepted completely.
    pub pending: Option<Meta>,
    /// Pairs issued.
    pub issued: u64,
    /// Cycles not enabled.
    pub held: u64,
    /// Pairs issued times elements in use.
    pub element_cycles: u64,
    /// The element, by row and column, whose operands are recorded.
    probe: Option<(usize, usize)>,
    /// What it was given.
    pub operands: Vec<Operands>,
}

impl Array {
    pub(super) fn new(config: &Config, probe: Option<(usize, usize)>) -> Array {
        Array {
            rows: config.rows,
            columns: config.columns,
            slot: 0,
            pair: 0,
            stages: Default::default(),
            pool: vec![Box::new([[0; 17]; 16]); MAC_STAGES + 1],
            next_in_pool: 0,
            main: Box::new([[0; 17]; 16]),
            pending: None,
            issued: 0,
            held: 0,
            element_cycles: 0,
            probe,
            operands: Vec::new(),
        }
    }

    /// The slots are used from 0 again.
    pub(super) fn restart(&mut self) {
        self.slot = 0;
    }

    /// One cycle; `accepted` says that post accepts the last vector of the pending tile in it. Gives whether a pair was issued, and
    /// the slot that it freed.
    pub(super) fn cycle(
        &mut self,
        now: u64,
        convs: &[Conv; 2],
        slots: &[Slot],
        slot_count: usize,
        accepted: bool,
    ) -> (bool, Option<usize>) {
        if accepted {
            self.pending = None;
        }
        let end = self.stages[MAC_STAGES - 1].group;
        if end.is_some_and(|(meta, _)| meta.first) && self.pending.is_some() {
            self.held += 1;
            return (false, None);
        }
        if let Some((meta, sums)) = end {
            for (main, local) in self.main.iter_mut().zip(self.pool[sums].iter()).take(meta.rows) {
                for (m, l) in main.iter_mut().zip(local) {
                    *m = if meta.first { *l } else { m.wrapping_add(*l) };
                }
            }
            if meta.last {
                self.pending = Some(meta);
            }
        }
        self.stages.copy_within(0..MAC_STAGES - 1, 1);
        self.stages[0] = Stage::default();
        let slot = &slots[self.slot];
        if !slot.in_use || now < slot.full_at {
            return (false, None);
        }
        let conv = &convs[slot.meta.conv];
        self.issued += 1;
        self.pair += 1;
        let columns = if slot.meta.tile + 1 == conv.tiles { conv.last_columns } else { self.columns };
        self.element_cycles += (slot.meta.rows * columns) as u64;
        if self.pair < conv.input.bits * conv.weight_bits {
            return (true, None);
        }
        self.pair = 0;
        let sums = self.next_in_pool;
        self.next_in_pool = (sums + 1) % self.pool.len();
        if let Some((row, column)) = self.probe
            && row < slot.meta.rows
            && column < columns
        {
            self.operands.push(Operands {
                activations: slot.rows[row],
                weights: slot.columns[column],
                bits: (conv.input.bits, conv.weight_bits),
                signed: (conv.input.signed, conv.weight_signed),
                first: slot.meta.first,
                last: slot.meta.last,
            });
        }
        multiply(conv, slot, self.rows.min(slot.meta.rows), self.columns, &mut self.pool[sums]);
        self.stages[0].group = Some((slot.meta, sums));
        let freed = self.slot;
        self.slot = (freed + 1) % slot_count;
        (true, Some(freed))
    }
}

/// The dots of 64 lanes of every row and column.
fn multiply(conv: &Conv, slot: &Slot, rows: usize, columns: usize, sums: &mut Sums) {
    let mut weights = [[0i16; 64]; 16];
    for (w, planes) in weights.iter_mut().zip(&slot.columns).take(columns) {
        *w = transpose(&planes[..conv.weight_bits], conv.weight_signed);
    }
    for r in 0..rows {
        let x = transpose(&slot.rows[r][..conv.input.bits], conv.input.signed);
        for c in 0..columns {
            sums[r][c] = dot(&x, &weights[c]);
        }
        sums[r][16] = x.iter().map(|v| i32::from(*v)).sum();
    }
}

fn dot(a: &[i16; 64], b: &[i16; 64]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}
