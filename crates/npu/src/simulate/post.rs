//! The post unit: sums to planes. Sections 4 and 6.7 of the specification.

use std::collections::VecDeque;

use qing_graph::arithmetic::requantize;

use super::{array::Array, auxiliary::AuxUnit, decode::Conv, decode::Finish, memory::Memory};
use crate::{
    config::{Config, POST_COMPLETES, POST_STAGES},
    isa::Queue,
};

/// A vector of results on its way to the memory.
#[derive(Debug)]
struct Written {
    at: u64,
    /// Address of the first plane.
    address: u32,
    stride: u32,
    planes: usize,
    words: [u64; 8],
    mask: u64,
    /// The instruction that is complete with this.
    completes: Option<Queue>,
}

#[derive(Debug)]
pub(super) struct Post {
    columns: usize,
    pipeline: VecDeque<Written>,
    /// Next row of the pending tile, and quarter of its raw sums.
    tile: Position,
    /// Next segment of the first result buffer; a tile may come in between.
    result: Position,
    /// Vectors accepted.
    pub accepted: u64,
    /// Words written, each part of a plane.
    pub written: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Position {
    next: usize,
    phase: usize,
}

/// Where a vector goes.
struct Target {
    pixel: usize,
    /// First channel of the vector.
    channel: usize,
    valid: usize,
    parameters: usize,
}

impl Post {
    pub(super) fn new(config: &Config) -> Post {
        let (pipeline, columns) = (VecDeque::new(), config.columns);
        Post { columns, pipeline, tile: Position::default(), result: Position::default(), accepted: 0, written: 0 }
    }

    /// Whether something is written in this cycle.
    pub(super) fn writes(&self, now: u64) -> bool {
        self.pipeline.front().is_some_and(|w| w.at == now)
    }

    /// The queue of an instruction that completes in this cycle.
    pub(super) fn completes(&self, now: u64) -> Option<Queue> {
        self.pipeline.iter().find(|w| w.at == now + POST_COMPLETES as u64)?.completes
    }

    /// Writes what is due in this cycle.
    pub(super) fn write(&mut self, now: u64, memory: &mut Memory) {
        if !self.writes(now) {
            return;
        }
        let Some(w) = self.pipeline.pop_front() else { return };
        let mut address = w.address;
        for word in &w.words[..w.planes] {
            memory.write(address & 0x00ff_ffff, *word, w.mask);
            address = address.wrapping_add(w.stride);
        }
        self.written += w.planes as u64;
    }

    /// Accepts a vector from the auxiliary unit, or else from the array. Gives whether it was the last of a tile.
    pub(super) fn accept(
        &mut self,
        now: u64,
        array: &Array,
        convs: &[Conv; 2],
        aux: &mut AuxUnit,
        memory: &Memory,
    ) -> bool {
        if aux.result(now).is_none()
            && let Some(tile) = array.pending
        {
            let conv = &convs[tile.conv];
            let sums = &array.main[self.tile.next];
            let mut dots = [0; 16];
            for (dot, m) in dots.iter_mut().zip(&sums[..16]) {
                *dot = if conv.bipolar { m.wrapping_mul(2).wrapping_sub(sums[16]) } else { *m };
            }
            let last_tile = tile.tile + 1 == conv.tiles;
            let target = Target {
                pixel: tile.pixel + self.tile.next,
                channel: conv.finish.lane0 + tile.tile * self.columns,
                valid: if last_tile { conv.last_columns } else { self.columns },
                parameters: conv.finish.parameters + tile.tile,
            };
            let ends = last_tile && tile.pixel + tile.rows == conv.pixels;
            let completes = (ends && self.tile.next + 1 == tile.rows).then_some(Queue::Array);
            let done = self.push(now, &conv.finish, &target, &dots, memory, completes, self.tile.phase);
            self.tile.phase = if done { 0 } else { self.tile.phase + 1 };
            if done {
                self.tile.next += 1;
            }
            if self.tile.next == tile.rows {
                self.tile.next = 0;
                return true;
            }
            return false;
        }
        let Some(result) = aux.result(now) else { return false };
        let finish = &result.finish;
        let first = self.result.next * self.columns;
        let mut dots = [0; 16];
        for (k, dot) in dots.iter_mut().enumerate().take(self.columns) {
            *dot = result.sums.get(first + k).copied().unwrap_or(0);
        }
        let segments = result.channels.div_ceil(self.columns);
        let vectors = 64 / self.columns;
        let target = Target {
            pixel: result.pixel,
            channel: 64 * result.group + finish.lane0 + first,
            valid: (result.channels - first).min(self.columns),
            parameters: finish.parameters + if result.advance { result.group * vectors + self.result.next } else { 0 },
        };
        let last = self.result.next + 1 == segments;
        let completes = (result.ends && last).then_some(Queue::Aux);
        let finish = *finish;
        let done = self.push(now, &finish, &target, &dots, memory, completes, self.result.phase);
        self.result.phase = if done { 0 } else { self.result.phase + 1 };
        if done {
            self.result.next += 1;
        }
        if self.result.next == segments {
            self.result.next = 0;
            aux.accepted();
        }
        false
    }

    /// Puts a vector into the pipeline; gives whether all of it was accepted, which takes four turns if it is raw.
    fn push(
        &mut self,
        now: u64,
        finish: &Finish,
        target: &Target,
        dots: &[i32; 16],
        memory: &Memory,
        completes: Option<Queue>,
        phase: usize,
    ) -> bool {
        self.accepted += 1;
        let mut values = [0i32; 16];
        for (k, value) in values.iter_mut().enumerate().take(target.valid) {
            let parameter = memory.parameters.get(target.parameters * self.columns + k).copied().unwrap_or(0);
            let acc = dots[k].wrapping_add(parameter as u32 as i32);
            *value = if finish.raw {
                acc >> (8 * phase)
            } else {
                let scale = f32::from_bits((parameter >> 32) as u32);
                let y = requantize(acc, scale, finish.zero, finish.lo, finish.hi);
                match finish.table {
                    Some(t) => memory.tables.get(t * 256 + (y & 255) as usize).map_or(0, |b| i32::from(*b)),
                    None => y,
                }
            };
        }
        let rows = if finish.gap > 0 { target.pixel / finish.row } else { 0 };
        let position = finish.p0 + target.pixel + rows * finish.gap;
        let in_word = position & ((1 << finish.lg_pixels) - 1);
        let lane = (in_word * (64 >> finish.lg_pixels)) + target.channel % 64;
        let valid = target.valid.min(64usize.saturating_sub(lane));
        let mut words = [0u64; 8];
        let mut mask = 0;
        for k in 0..valid {
            mask |= 1 << (lane + k);
            for (i, word) in words.iter_mut().enumerate() {
                *word |= ((values[k] >> i & 1) as u64) << (lane + k);
            }
        }
        let mut address = finish
            .base
            .wrapping_add((position >> finish.lg_pixels) as u32)
            .wrapping_add(((target.channel / 64) as u32).wrapping_mul(finish.group));
        let last = if finish.raw {
            address = address.wrapping_add(finish.plane.wrapping_mul(8 * phase as u32));
            phase == 3
        } else {
            true
        };
        self.pipeline.push_back(Written {
            at: now + POST_STAGES as u64,
            address,
            stride: finish.plane,
            planes: if finish.raw { 8 } else { finish.bits },
            words,
            mask,
            completes: if last { completes } else { None },
        });
        last
    }
}
