//! The load unit: walks the tiles of a `conv`, reads operands into the slots of the buffers. Section 6.5 of the specification.

use std::collections::VecDeque;

use super::{decode::Conv, memory::Memory};
use crate::config::{Config, LOAD_LATENCY, STEPS};

/// One slot of the operand buffers: the planes of a reduction group for all rows and columns.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub in_use: bool,
    /// The cycle from which it is full.
    pub full_at: u64,
    pub meta: Meta,
    /// `[row][plane]`.
    pub rows: [[u64; 8]; 16],
    /// `[column][plane]`.
    pub columns: [[u64; 8]; 16],
}

/// What the array and the post unit need to know of a group.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Meta {
    /// Which of the two current `conv` instructions.
    pub conv: usize,
    pub first: bool,
    pub last: bool,
    /// First pixel of the tile.
    pub pixel: usize,
    /// Rows that are pixels.
    pub rows: usize,
    /// Tile of columns.
    pub tile: usize,
}

/// Where a row's tap (0, 0) lies.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    y: i32,
    x: i32,
    at: i32,
}

/// Position in the loops of an instruction.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    pixel: usize,
    tile: usize,
    group: usize,
    tap: usize,
    plane: usize,
}

#[derive(Debug)]
struct Step {
    addresses: [u32; 16],
    pending: u32,
    /// The slot, where in it, and by how many lanes the words of the rows are off.
    slot: usize,
    to: Landing,
    rotate: [u32; 16],
    last_of_group: bool,
}

/// Where the words of a step go.
#[derive(Debug, Clone, Copy)]
struct Landing {
    /// Group of 64 channels.
    channel_group: usize,
    /// Tap slot of the group of lanes.
    slot: usize,
    plane: usize,
}

#[derive(Debug)]
pub(super) struct Load {
    rows: usize,
    pub slots: Vec<Slot>,
    lg_slot: u32,
    next_slot: usize,
    /// The instruction that is being loaded, and which of the two.
    pub current: Option<usize>,
    place: Place,
    /// The rows of the tile of pixels that is being loaded, and how many.
    tile_rows: [Row; 16],
    tile_count: usize,
    /// The cycle from which the rows of the next tile are ready.
    ready_at: u64,
    /// The first row of the next tile, as a walker would leave it.
    walker: (Row, i32, Row),
    /// What is in the step registers: the first is requested.
    steps: VecDeque<Step>,
    /// The groups that are being read, of which only the last has weight planes left.
    groups: VecDeque<Group>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    slot: usize,
    steps_left: bool,
    planes_left: usize,
    weights: usize,
    last_of_instruction: bool,
}

impl Load {
    pub(super) fn new(config: &Config) -> Load {
        let slot = Slot { in_use: false, full_at: 0, meta: Meta::default(), rows: [[0; 8]; 16], columns: [[0; 8]; 16] };
        Load {
            rows: config.rows,
            slots: vec![slot; 16],
            lg_slot: 3,
            next_slot: 0,
            current: None,
            place: Place::default(),
            tile_rows: [Row::default(); 16],
            tile_count: 0,
            ready_at: 0,
            walker: Default::default(),
            steps: VecDeque::with_capacity(STEPS),
            groups: VecDeque::with_capacity(STEPS),
        }
    }

    /// Slots that there are at the current size.
    pub(super) fn slot_count(&self) -> usize {
        16 >> self.lg_slot
    }

    /// Begins an instruction in cycle `now`.
    pub(super) fn start(&mut self, conv: &Conv, which: usize, now: u64) {
        self.current = Some(which);
        self.place = Place::default();
        let first = Row { y: conv.window.y0, x: conv.window.x0, at: conv.window.lrow };
        self.walker = (first, 0, first);
        self.ready_at = now + 1 + self.rows.min(conv.pixels) as u64;
    }

    pub(super) fn has_step(&self) -> bool {
        !self.steps.is_empty()
    }

    pub(super) fn reads_weights(&self) -> bool {
        self.groups.back().is_some_and(|g| g.planes_left > 0)
    }

    /// One cycle. `restart` is set when slots are used from 0 again.
    pub(super) fn cycle(
        &mut self,
        now: u64,
        convs: &[Conv; 2],
        memory: &mut Memory,
        config: &Config,
        restart: &mut bool,
    ) {
        let Some(which) = self.current else { return };
        let conv = &convs[which];
        // The step that is requested.
        let room = self.steps.len() < STEPS;
        if let Some(step) = self.steps.front_mut() {
            let slot = &mut self.slots[step.slot];
            step.pending = memory.serve(&step.addresses, step.pending, |r, word| {
                land(slot, conv, &step.to, r, word.rotate_right(step.rotate[r]));
            });
            if step.pending == 0 {
                if step.last_of_group
                    && let Some(g) = self.groups.front_mut()
                {
                    g.steps_left = false;
                }
                self.steps.pop_front();
            }
        }
        // One plane of weights.
        if let Some(g) = self.groups.back_mut()
            && g.planes_left > 0
        {
            let plane = conv.weight_bits - g.planes_left;
            let word = (g.weights + plane) * config.columns;
            for c in 0..config.columns {
                self.slots[g.slot].columns[c][plane] = memory.weights.get(word + c).copied().unwrap_or(0);
            }
            g.planes_left -= 1;
        }
        if let Some(&g) = self.groups.front()
            && !g.steps_left
            && g.planes_left == 0
        {
            self.slots[g.slot].full_at = now + LOAD_LATENCY as u64;
            self.groups.pop_front();
            if g.last_of_instruction {
                self.current = None;
                return;
            }
        }
        if room {
            self.fill(now, conv, which, restart);
        }
    }

    /// Puts the next step into a register, if nothing forbids it.
    fn fill(&mut self, now: u64, conv: &Conv, which: usize, restart: &mut bool) {
        let place = self.place;
        if place.pixel >= conv.pixels {
            return;
        }
        let taps = (conv.window.kh * conv.window.kw) as usize;
        let (slots_of_group, first_tap) = if conv.lg_taps == 0 {
            (1, place.group / conv.channel_groups)
        } else {
            let first = place.group << conv.lg_taps;
            ((taps - first).min(1 << conv.lg_taps), first)
        };
        let groups = conv.groups();
        if place.tap == 0 && place.plane == 0 {
            if self.reads_weights() {
                return;
            }
            let first_of_pixels = place.tile == 0 && place.group == 0;
            if first_of_pixels && now < self.ready_at {
                return;
            }
            if first_of_pixels && place.pixel == 0 && conv.lg_slot() != self.lg_slot {
                if self.slots.iter().any(|s| s.in_use) {
                    return;
                }
                self.lg_slot = conv.lg_slot();
                self.next_slot = 0;
                *restart = true;
            }
            let slot = &mut self.slots[self.next_slot];
            if slot.in_use {
                return;
            }
            if first_of_pixels {
                self.take_rows(conv, now);
            }
            let slot = &mut self.slots[self.next_slot];
            slot.in_use = true;
            slot.full_at = u64::MAX;
            slot.meta = Meta {
                conv: which,
                first: place.group == 0,
                last: place.group + 1 == groups,
                pixel: place.pixel,
                rows: self.tile_count,
                tile: place.tile,
            };
            let last_tile = place.tile + 1 == conv.tiles && place.pixel + self.rows >= conv.pixels;
            self.groups.push_back(Group {
                slot: self.next_slot,
                steps_left: true,
                planes_left: conv.weight_bits,
                weights: conv.weights + (place.tile * groups + place.group) * conv.weight_bits,
                last_of_instruction: last_tile && place.group + 1 == groups,
            });
            self.next_slot = (self.next_slot + 1) % self.slot_count();
        }
        // The step itself.
        let tap = (first_tap + place.tap) as i32;
        let (ky, kx) = (tap / conv.window.kw, tap % conv.window.kw);
        let offset = ky * conv.window.kstep + kx * conv.dx;
        let channel_group = if conv.lg_taps == 0 { place.group % conv.channel_groups } else { 0 };
        let plane_base = conv
            .input
            .base
            .wrapping_add((place.plane as u32).wrapping_mul(conv.input.plane))
            .wrapping_add((channel_group as u32).wrapping_mul(conv.input.group));
        let to = Landing { channel_group, slot: place.tap, plane: place.plane };
        let number = self.groups.back().map_or(0, |g| g.slot);
        let mut step = Step { addresses: [0; 16], pending: 0, slot: number, to, rotate: [0; 16], last_of_group: false };
        let slot = &mut self.slots[number];
        for r in 0..self.tile_count {
            let row = self.tile_rows[r];
            let (y, x) = (row.y + ky * conv.dy, row.x + kx * conv.dx);
            if y >= 0 && y < conv.window.h && x >= 0 && x < conv.window.w {
                // Places count modulo 2^24, as addresses do.
                let at = row.at.wrapping_add(offset) as u32 & 0x00ff_ffff;
                step.addresses[r] = plane_base.wrapping_add(at >> conv.lg_pixels) & 0x00ff_ffff;
                step.rotate[r] = (at & ((1 << conv.lg_pixels) - 1)) * (64 >> conv.lg_pixels);
                step.pending |= 1 << r;
            } else {
                let ones = if conv.window.pad >> place.plane & 1 != 0 { u64::MAX } else { 0 };
                land(slot, conv, &to, r, ones);
            }
        }
        // Onwards: planes, taps of the group, groups, tiles of columns, tiles of pixels.
        let next = &mut self.place;
        next.plane += 1;
        if next.plane == conv.input.bits {
            next.plane = 0;
            next.tap += 1;
            if next.tap == slots_of_group {
                step.last_of_group = true;
                next.tap = 0;
                next.group += 1;
                if next.group == groups {
                    next.group = 0;
                    next.tile += 1;
                    if next.tile == conv.tiles {
                        next.tile = 0;
                        next.pixel += self.rows;
                    }
                }
            }
        }
        self.steps.push_back(step);
    }

    /// The walker's rows become those of the tile that is loaded; it walks on.
    fn take_rows(&mut self, conv: &Conv, now: u64) {
        let left = conv.pixels - self.place.pixel;
        self.tile_count = left.min(self.rows);
        let (mut row, mut ox, mut start) = self.walker;
        for r in 0..self.tile_count {
            self.tile_rows[r] = row;
            ox += 1;
            if ox == conv.window.ow {
                ox = 0;
                start.y += conv.window.sy;
                start.at = start.at.wrapping_add(conv.window.rstep);
                row = start;
            } else {
                row.x += conv.window.sx;
                row.at = row.at.wrapping_add(conv.window.sx);
            }
        }
        self.walker = (row, ox, start);
        self.ready_at = now + 1 + (left - self.tile_count).min(self.rows) as u64;
    }
}

/// Puts channels into the lanes of their tap.
fn land(slot: &mut Slot, conv: &Conv, to: &Landing, row: usize, channels: u64) {
    let count = if to.channel_group + 1 == conv.channel_groups { conv.last_channels } else { 64 };
    let mask = u64::MAX >> (64 - count);
    let shift = to.slot as u32 * (64 >> conv.lg_taps);
    let word = &mut slot.rows[row][to.plane];
    let kept = if to.slot == 0 { 0 } else { *word & !(mask << shift) };
    *word = kept | (channels & mask) << shift;
}
