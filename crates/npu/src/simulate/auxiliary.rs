//! The auxiliary unit: depthwise convolutions, pooling, copies, additions. Section 6.8 of the specification.

use std::collections::VecDeque;

use super::{
    decode::{Auxiliary, Finish, Mode},
    memory::{Memory, transpose},
};
use crate::config::{Config, STEPS, TAPS};

/// The sums of 64 lanes for one pixel.
#[derive(Debug)]
pub(super) struct Output {
    /// The cycle from which post sees it: its first segment then, and each further one no later than post can take it.
    at: u64,
    pub sums: Box<[i32; 64]>,
    pub pixel: usize,
    pub group: usize,
    /// Lanes that are channels.
    pub channels: usize,
    pub advance: bool,
    /// Last of its instruction.
    pub ends: bool,
    pub finish: Finish,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    group: usize,
    pixel: usize,
    block: i32,
    /// Counted from the top plane.
    plane: usize,
}

#[derive(Debug)]
struct Step {
    addresses: [u32; TAPS],
    pending: u32,
    plane: usize,
    /// Taps that lie in the input, those that do not, and what the latter are.
    inside: u32,
    outside: u32,
    pad: u64,
    place: Place,
    last_of_block: bool,
    last_of_word: bool,
}

#[derive(Debug)]
pub(super) struct AuxUnit {
    columns: usize,
    tap_words: usize,
    stages: u64,
    lanes: usize,
    /// Turns that the lanes have still to begin of the step that finished last.
    turns_left: usize,
    pub current: Option<Auxiliary>,
    place: Place,
    /// Input position of the pixel at `place`: column, row, and counts of repetition.
    at: Position,
    /// What is in the step registers; whether the first is requested.
    steps: VecDeque<Step>,
    requested: bool,
    /// Taps of the block that count, and those that are outside of the input.
    inside: u32,
    outside: u32,
    /// Planes of the taps of the block.
    taps: [[u64; 8]; TAPS],
    /// Group and block whose weights are in the registers, and words read of those that are coming.
    loaded: Option<(usize, i32)>,
    words_read: usize,
    weights: Box<[[i8; 64]; TAPS]>,
    sums: Box<[i32; 64]>,
    outputs: VecDeque<Output>,
    /// Words whose last step was put into a register and that post has not accepted.
    in_flight: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Position {
    ox: i32,
    xrep: usize,
    yrep: usize,
    x: i32,
    y: i32,
    row: i32,
}

impl AuxUnit {
    pub(super) fn new(config: &Config) -> AuxUnit {
        AuxUnit {
            columns: config.columns,
            tap_words: config.tap_words(),
            stages: config.aux_stages() as u64,
            lanes: config.aux_lanes,
            turns_left: 0,
            current: None,
            place: Place::default(),
            at: Position::default(),
            steps: VecDeque::with_capacity(STEPS),
            requested: false,
            inside: 0,
            outside: 0,
            taps: [[0; 8]; TAPS],
            loaded: None,
            words_read: 0,
            weights: Box::new([[0; 64]; TAPS]),
            sums: Box::new([0; 64]),
            outputs: VecDeque::new(),
            in_flight: 0,
        }
    }

    pub(super) fn start(&mut self, aux: Auxiliary) {
        self.place = Place::default();
        self.at = first(&aux);
        self.loaded = None;
        self.words_read = 0;
        self.current = Some(aux);
    }

    pub(super) fn has_step(&self) -> bool {
        self.requested
    }

    /// Whether a weight word is to be read in this cycle, if the port is free.
    pub(super) fn wants_weights(&self) -> bool {
        let waits = |aux: Auxiliary| self.place.group < aux.channel_groups && !self.has_weights(&aux);
        self.steps.is_empty() && self.turns_left == 0 && self.current.is_some_and(waits)
    }

    /// Whether the weights of the next step, if it needs any, are in the registers.
    fn has_weights(&self, aux: &Auxiliary) -> bool {
        aux.mode != Mode::Weighted || self.loaded == Some((self.place.group, self.place.block))
    }

    /// What post may take in this cycle.
    pub(super) fn result(&self, now: u64) -> Option<&Output> {
        self.outputs.front().filter(|o| o.at <= now)
    }

    /// Post has taken all of the first result.
    pub(super) fn accepted(&mut self) {
        self.outputs.pop_front();
        self.in_flight -= 1;
    }

    /// One cycle. `in_flight` is that seen in this cycle, before post's acceptance.
    pub(super) fn cycle(&mut self, now: u64, owns_weights: bool, in_flight: usize, memory: &mut Memory) {
        let wants_weights = self.wants_weights();
        let room = self.steps.len() < STEPS;
        // What the next step reads lands no sooner than in the lanes' last turn.
        let mut lanes_ready = !self.requested && self.turns_left <= 1;
        self.turns_left = self.turns_left.saturating_sub(1);
        let Some(aux) = self.current else { return };
        if self.requested
            && let Some(step) = self.steps.front_mut()
        {
            let (taps, plane) = (&mut self.taps, step.plane);
            step.pending = memory.serve(&step.addresses, step.pending, |t, word| taps[t][plane] = word);
            if step.pending == 0
                && let Some(step) = self.steps.pop_front()
            {
                self.requested = false;
                self.take(&step);
                if step.last_of_block {
                    self.sum(&aux, &step);
                }
                if step.last_of_word {
                    self.output(now, &aux, &step);
                }
                self.turns_left = aux.channels(step.place.group).div_ceil(self.lanes) - 1;
                lanes_ready = self.turns_left == 0;
            }
        }
        let weighted = self.has_weights(&aux);
        if wants_weights && owns_weights {
            self.read_weights(&aux, memory);
        }
        if room && self.place.group < aux.channel_groups && weighted {
            self.fill(&aux, in_flight);
        }
        self.requested |= lanes_ready && !self.steps.is_empty();
    }

    fn read_weights(&mut self, aux: &Auxiliary, memory: &Memory) {
        let (rows, columns) = aux.blocks();
        let index = self.place.group * (rows * columns) as usize + self.place.block as usize;
        let word = aux.weights + index * self.tap_words + self.words_read;
        for c in 0..self.columns {
            let part = self.words_read * self.columns + c;
            if part < TAPS * 8 {
                let bytes = memory.weights.get(word * self.columns + c).copied().unwrap_or(0).to_le_bytes();
                for (k, b) in bytes.into_iter().enumerate() {
                    self.weights[part / 8][part % 8 * 8 + k] = b as i8;
                }
            }
        }
        self.words_read += 1;
        if self.words_read == self.tap_words {
            self.words_read = 0;
            self.loaded = Some((self.place.group, self.place.block));
        }
    }

    fn fill(&mut self, aux: &Auxiliary, in_flight: usize) {
        let (block_rows, block_columns) = aux.blocks();
        let place = self.place;
        let planes = aux.planes();
        let last_of_block = place.plane + 1 == planes;
        let last_of_word = last_of_block && place.block + 1 == block_rows * block_columns;
        if last_of_word && in_flight >= 2 {
            return;
        }
        let plane = planes - 1 - place.plane;
        let (addresses, pending, inside, outside) = ([0; TAPS], 0, 0, 0);
        let pad = if aux.window.pad >> plane & 1 != 0 { u64::MAX } else { 0 };
        let mut step = Step { addresses, pending, plane, inside, outside, pad, place, last_of_block, last_of_word };
        let address = |o: &super::decode::Operand, pixel: i32| {
            o.base
                .wrapping_add((plane as u32).wrapping_mul(o.plane))
                .wrapping_add((place.group as u32).wrapping_mul(o.group))
                .wrapping_add(pixel as u32)
                & 0x00ff_ffff
        };
        if aux.mode == Mode::Add {
            for (t, operand) in [aux.input, aux.second].iter().enumerate() {
                if plane < operand.bits {
                    step.addresses[t] = address(operand, place.pixel as i32);
                    step.pending |= 1 << t;
                }
            }
        } else {
            let w = &aux.window;
            let (top, left) = (3 * (place.block / block_columns), 3 * (place.block % block_columns));
            for t in 0..TAPS {
                let (ky, kx) = (top + t as i32 / 3, left + t as i32 % 3);
                if ky >= w.kh || kx >= w.kw {
                    continue;
                }
                let (y, x) = (self.at.y + ky, self.at.x + kx);
                if y >= 0 && y < w.h && x >= 0 && x < w.w {
                    let pixel = self.at.row.wrapping_add(self.at.x + ky * w.kstep + kx);
                    step.addresses[t] = address(&aux.input, pixel);
                    step.pending |= 1 << t;
                    step.inside |= 1 << t;
                } else {
                    step.outside |= 1 << t;
                }
            }
        }
        self.steps.push_back(step);
        if last_of_word {
            self.in_flight += 1;
        }
        let next = &mut self.place;
        next.plane += 1;
        if last_of_block {
            next.plane = 0;
            next.block += 1;
        }
        if last_of_word {
            next.block = 0;
            next.pixel += 1;
            self.at.advance(aux);
            if next.pixel == aux.pixels {
                next.pixel = 0;
                next.group += 1;
                self.at = first(aux);
            }
        }
    }

    /// Makes taps of the words of a packed input: neighbours in the same word, or the next.
    fn shift(&mut self, lg_shift: u32) {
        let lanes = 64 >> lg_shift;
        for row in self.taps.chunks_exact_mut(3) {
            for plane in 0..8 {
                let (a, b, c) = (row[0][plane], row[1][plane], row[2][plane]);
                row[0][plane] = b << lanes | a >> (64 - lanes);
                row[2][plane] = b >> lanes | c << (64 - lanes);
            }
        }
    }

    /// A step has finished: what it says of its taps.
    fn take(&mut self, step: &Step) {
        if step.place.plane == 0 {
            (self.inside, self.outside) = (0, 0);
        }
        self.inside |= step.inside;
        self.outside |= step.outside;
        for t in (0..TAPS).filter(|t| step.outside & 1 << t != 0) {
            self.taps[t][step.plane] = step.pad;
        }
    }

    /// Adds a block to the sums of its word.
    fn sum(&mut self, aux: &Auxiliary, step: &Step) {
        if aux.lg_shift > 0 {
            self.shift(aux.lg_shift);
        }
        let mut block = [0i32; 64];
        if aux.mode == Mode::Add {
            for (t, operand) in [aux.input, aux.second].iter().enumerate() {
                let values = transpose(&self.taps[t][..operand.bits], operand.signed);
                for (sum, v) in block.iter_mut().zip(values) {
                    *sum = sum.wrapping_add(i32::from(v) * aux.multipliers[t]);
                }
            }
        } else {
            let max = aux.mode == Mode::Max;
            if max {
                let least = if aux.input.signed { -(1 << (aux.input.bits - 1)) } else { 0 };
                block = [least; 64];
            }
            let counted = if max { self.inside } else { self.inside | self.outside };
            for t in (0..TAPS).filter(|t| counted & 1 << t != 0) {
                let values = transpose(&self.taps[t][..aux.input.bits], aux.input.signed);
                for ((sum, v), w) in block.iter_mut().zip(values).zip(&self.weights[t]) {
                    match aux.mode {
                        Mode::Weighted => *sum += i32::from(v) * i32::from(*w),
                        Mode::Max => *sum = (*sum).max(v.into()),
                        _ => *sum += i32::from(v),
                    }
                }
            }
        }
        for (main, local) in self.sums.iter_mut().zip(block) {
            *main = match (step.place.block == 0, aux.mode) {
                (true, _) => local,
                (false, Mode::Max) => (*main).max(local),
                (false, _) => main.wrapping_add(local),
            };
        }
    }

    fn output(&mut self, now: u64, aux: &Auxiliary, step: &Step) {
        let last_group = step.place.group + 1 == aux.channel_groups;
        self.outputs.push_back(Output {
            at: now + self.stages + 1,
            sums: self.sums.clone(),
            pixel: step.place.pixel,
            group: step.place.group,
            channels: aux.channels(step.place.group),
            advance: aux.advance,
            ends: last_group && step.place.pixel + 1 == aux.pixels,
            finish: aux.finish,
        });
    }

    /// Words in flight, as seen at the start of a cycle.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }
}

fn first(aux: &Auxiliary) -> Position {
    let w = &aux.window;
    Position { ox: 0, xrep: 0, yrep: 0, x: w.x0, y: w.y0, row: w.lrow - w.x0 }
}

impl Position {
    /// To the next output pixel.
    fn advance(&mut self, aux: &Auxiliary) {
        let w = &aux.window;
        self.ox += 1;
        self.xrep += 1;
        if self.xrep == aux.xrep {
            self.xrep = 0;
            self.x += w.sx;
        }
        if self.ox == w.ow {
            (self.ox, self.xrep, self.x) = (0, 0, w.x0);
            self.yrep += 1;
            if self.yrep == aux.yrep {
                self.yrep = 0;
                self.y += w.sy;
                self.row = self.row.wrapping_add(w.rstep);
            }
        }
    }
}
