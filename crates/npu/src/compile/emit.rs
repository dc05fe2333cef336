//! Layers to instructions: strips of rows, memory addresses, and what each waits for.

use std::ops::Range;

use super::{
    Words,
    image::{self, Reduction, WeightForm},
    layout::Buffer,
    network::{Kind, Layer, Network, TensorId, Window},
    schedule::{Access, Schedule, Space},
};
use crate::{
    Config, NpuError,
    isa::{Instruction, Opcode},
};

/// Strips that a layer is cut into, so that the next can begin before it ends.
const STRIPS: usize = 8;
/// Least cycles of a strip of the array, and of the auxiliary unit.
const LEAST_ARRAY: u64 = 300;
const LEAST_AUX: u64 = 90;

/// Where a layer's constants lie.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Constants {
    /// First weight word.
    pub weights: usize,
    /// First parameter vector.
    pub parameters: usize,
    /// Whether parameters advance with the channels.
    pub advance: bool,
    /// Table, if the layer has one.
    pub table: Option<usize>,
}

pub(super) struct Emitter<'a> {
    pub config: &'a Config,
    pub network: &'a Network,
    pub buffers: &'a [Buffer],
    pub schedule: &'a mut Schedule,
}

impl Emitter<'_> {
    fn limit(&self, layer: &Layer, what: impl Into<String>) -> NpuError {
        NpuError::Unmappable { node: layer.name.clone(), op: layer.op.clone(), what: what.into() }
    }

    /// Emits what makes a value available to layers: words from the in stream.
    pub(super) fn input(&mut self, tensor: TensorId, port: usize, words: &mut Vec<Words>) -> Result<(), NpuError> {
        let (t, b) = (&self.network.tensors[tensor], &self.buffers[tensor]);
        let pixels = t.pixels();
        let strips = if t.groups() > 1 { 1 } else { (2 * STRIPS).min(b.plane_words.div_ceil(16)) };
        let each = b.plane_words.div_ceil(strips);
        for first in (0..b.plane_words).step_by(each) {
            let count = each.min(b.plane_words - first);
            let instruction = Instruction::new(Opcode::Fetch).with(&[
                ("base", (b.base + first) as i64),
                ("n0", count as i64),
                ("n1", t.bits as i64),
                ("step", b.plane_stride(self.config) as i64),
            ])?;
            words.push(Words::Input { port, first, count });
            // In pixels of rows without gaps, rounded outwards.
            let rows = |place: usize, up: usize| (((place + up) / b.pitch) * t.width).min(pixels);
            let range = if t.groups() > 1 {
                0..pixels
            } else {
                rows(first << b.lg_pixels, 0)..rows((first + count) << b.lg_pixels, b.pitch - 1)
            };
            self.schedule.push(instruction, vec![Access::write(Space::Tensor(tensor), range)]);
        }
        Ok(())
    }

    /// Emits what takes a value out.
    pub(super) fn output(&mut self, tensor: TensorId) -> Result<(), NpuError> {
        let (t, b) = (&self.network.tensors[tensor], &self.buffers[tensor]);
        let instruction = Instruction::new(Opcode::Drain).with(&[
            ("base", b.base as i64),
            ("n0", b.plane_words as i64),
            ("n1", t.bits as i64),
            ("step", b.plane_stride(self.config) as i64),
        ])?;
        self.schedule.push(instruction, vec![Access::read(Space::Tensor(tensor), 0..t.pixels())]);
        Ok(())
    }

    /// Emits a layer.
    pub(super) fn layer(&mut self, layer: &Layer, at: Constants, weights: Option<&Access>) -> Result<(), NpuError> {
        let input = &self.network.tensors[layer.input];
        if input.bits > 8 {
            return Err(self.limit(layer, "it reads sums that only the host can scale"));
        }
        match &layer.kind {
            Kind::Dense { weights: values, window } => self.dense(layer, values, *window, at, weights),
            Kind::Depthwise { window, .. } => self.windowed(layer, *window, [1, 1], 0, at, weights),
            Kind::Sum { window, repeat } => {
                let (i, o) = (&self.buffers[layer.input], &self.buffers[layer.output]);
                let same = (i.lg_pixels, i.pitch, i.group_words) == (o.lg_pixels, o.pitch, o.group_words);
                let whole = layer.channels == self.network.tensors[layer.output].channels;
                if *window == Window::POINT && *repeat == [1, 1] && same && whole && !at.advance {
                    return self.words(layer, at);
                }
                self.windowed(layer, *window, *repeat, 1, at, None)
            }
            Kind::Max { window } => self.windowed(layer, *window, [1, 1], 2, at, None),
            Kind::Add { .. } => self.words(layer, at),
        }
    }

    /// The fields that say what becomes of sums.
    fn post(&self, layer: &Layer, at: Constants) -> Vec<(&'static str, i64)> {
        let (t, b) = (&self.network.tensors[layer.output], &self.buffers[layer.output]);
        let f = &layer.finish;
        let clamp = |v: i32| i64::from(v.clamp(-256, 255));
        let mut fields = vec![
            ("zero", clamp(f.zero)),
            ("lo", clamp(f.lo)),
            ("hi", clamp(f.hi)),
            ("obits", if f.raw { 1 } else { t.bits as i64 }),
            ("raw", i64::from(f.raw)),
            ("par", at.parameters as i64),
            ("ops", b.plane_rows as i64),
            ("ogs", b.group_words as i64),
        ];
        if let Some(table) = at.table {
            fields.extend([("ten", 1), ("tsel", table as i64)]);
        }
        fields
    }

    /// The fields that say where the output's row `row` lies.
    fn destination(&self, layer: &Layer, row: usize) -> Result<Vec<(&'static str, i64)>, NpuError> {
        let b = &self.buffers[layer.output];
        let lane = layer.first_channel % 64;
        let columns = self.config.columns;
        if !lane.is_multiple_of(columns) && lane + layer.channels > 64 {
            return Err(self.limit(
                layer,
                format!("channels from {} on do not begin at a multiple of {columns}", layer.first_channel),
            ));
        }
        let lg_pixels = b.lg_pixels - layer.merge.trailing_zeros() as usize;
        let (per_word, pitch) = (1 << lg_pixels, b.pitch / layer.merge);
        let pixel = row * pitch;
        let base = b.base + pixel / per_word + layer.first_channel / 64 * b.group_words;
        Ok(vec![
            ("obase", base as i64),
            ("lgpo", lg_pixels as i64),
            ("p0", (pixel % per_word) as i64),
            ("ogap", (pitch - self.network.tensors[layer.output].width / layer.merge) as i64),
            ("lane0", lane as i64),
        ])
    }

    fn operand(&self, tensor: TensorId) -> Vec<(&'static str, i64)> {
        let (t, b) = (&self.network.tensors[tensor], &self.buffers[tensor]);
        vec![
            ("abits", t.bits as i64),
            ("asigned", i64::from(t.signed)),
            ("base", b.base as i64),
            ("ps", b.plane_rows as i64),
            ("gs", b.group_words as i64),
        ]
    }

    /// The window's fields for output rows from `row` on.
    fn window(
        &self,
        layer: &Layer,
        window: Window,
        row: usize,
        rows: usize,
        repeat: [usize; 2],
    ) -> Vec<(&'static str, i64)> {
        let (i, o) = (&self.network.tensors[layer.input], &self.network.tensors[layer.output]);
        let pitch = self.buffers[layer.input].pitch;
        // A stride that is never taken may be longer than its field.
        let stride = [0, 1].map(|d| if [o.height, o.width][d] > 1 { window.stride[d] } else { 1 });
        let y0 = (row / repeat[0] * stride[0]) as i64 - window.pad[0] as i64;
        let x0 = -(window.pad[1] as i64);
        vec![
            ("w", i.width as i64),
            ("h", i.height as i64),
            ("kh", window.kernel[0] as i64),
            ("kw", window.kernel[1] as i64),
            ("sy", stride[0] as i64),
            ("sx", stride[1] as i64),
            ("pad", i64::from(i.zero as u8)),
            ("y0", y0),
            ("x0", x0),
            ("ow", o.width as i64),
            ("lrow", y0 * pitch as i64 + x0),
            ("rstep", (stride[0] * pitch) as i64),
            ("kstep", (window.dilation[0] * pitch) as i64),
            ("n", (rows * o.width) as i64),
        ]
    }

    /// Pixels of the input that output rows read.
    fn reads(&self, layer: &Layer, window: Window, rows: &Range<usize>, repeat: [usize; 2]) -> Range<usize> {
        let i = &self.network.tensors[layer.input];
        let first = (rows.start / repeat[0] * window.stride[0]).saturating_sub(window.pad[0]);
        let last = (rows.end - 1) / repeat[0] * window.stride[0] + (window.kernel[0] - 1) * window.dilation[0] + 1;
        let last = last.saturating_sub(window.pad[0]).min(i.height);
        first.min(last) * i.width..last * i.width
    }

    fn dense(
        &mut self,
        layer: &Layer,
        values: &[i16],
        window: Window,
        at: Constants,
        weights: Option<&Access>,
    ) -> Result<(), NpuError> {
        let input = &self.network.tensors[layer.input];
        let output = &self.network.tensors[layer.output];
        let taps = window.taps();
        let cut: Reduction = image::reduction(input.channels, taps);
        let form: WeightForm = image::form(values)
            .ok_or_else(|| self.limit(layer, "weights minus their zero point need nine bits; use symmetric weights"))?;
        let tiles = layer.channels.div_ceil(self.config.columns);
        let cycles = (cut.groups * input.bits * form.bits).max(self.config.rows) as u64;
        let rows = self.config.rows;
        let width = output.width / layer.merge;
        for strip in strips(output.height, width, rows, cycles * tiles as u64, LEAST_ARRAY) {
            let mut fields = self.operand(layer.input);
            fields.extend(self.window(layer, window, strip.start, strip.len(), [1, 1]));
            fields.extend(self.post(layer, at));
            fields.extend(self.destination(layer, strip.start)?);
            fields.extend([
                ("cg", cut.channel_groups as i64),
                ("cl", cut.last_channels as i64),
                ("wbits", form.bits as i64),
                ("wsigned", i64::from(form.signed)),
                ("wbip", i64::from(form.bipolar)),
                ("lgp", self.buffers[layer.input].lg_pixels as i64),
                ("lgt", cut.lg_taps as i64),
                ("dy", window.dilation[0] as i64),
                ("dx", window.dilation[1] as i64),
                ("wbase", at.weights as i64),
                ("ct", tiles as i64),
                ("ow", width as i64),
                ("n", (strip.len() * width) as i64),
                ("col", (layer.channels - (tiles - 1) * self.config.columns) as i64),
            ]);
            let instruction = self.encode(layer, Opcode::Conv, &fields)?;
            let mut accesses = vec![
                Access::read(Space::Tensor(layer.input), self.reads(layer, window, &strip, [1, 1])),
                Access::write(Space::Tensor(layer.output), strip.start * output.width..strip.end * output.width),
            ];
            accesses.extend(weights.cloned());
            self.schedule.push(instruction, accesses);
        }
        Ok(())
    }

    fn windowed(
        &mut self,
        layer: &Layer,
        window: Window,
        repeat: [usize; 2],
        mode: i64,
        at: Constants,
        weights: Option<&Access>,
    ) -> Result<(), NpuError> {
        let input = &self.network.tensors[layer.input];
        let output = &self.network.tensors[layer.output];
        let groups = input.groups();
        let (from, to) = (&self.buffers[layer.input], &self.buffers[layer.output]);
        let lg_shift = from.lg_pixels;
        if lg_shift != 0 && (!layer.shifts(input) || to.lg_pixels != lg_shift) {
            return Err(self.limit(layer, "its input is packed"));
        }
        // Words stand for pixels where the input is packed.
        let (width, from_pitch, to_pitch) = (output.width >> lg_shift, from.pitch >> lg_shift, to.pitch >> lg_shift);
        let blocks = window.kernel[0].div_ceil(3) * window.kernel[1].div_ceil(3);
        let cycles = (groups * blocks * input.bits) as u64;
        for strip in strips(output.height, width, 1, cycles, LEAST_AUX) {
            if !strip.start.is_multiple_of(repeat[0]) {
                return Err(self.limit(layer, "a strip begins within a repeated row"));
            }
            let mut fields = self.operand(layer.input);
            fields.extend(self.window(layer, window, strip.start, strip.len(), repeat));
            fields.extend(self.post(layer, at));
            fields.extend(self.destination(layer, strip.start)?);
            fields.extend([
                ("cg", groups as i64),
                ("cl", (input.channels - 64 * (groups - 1)) as i64),
                ("mode", mode),
                ("pinc", i64::from(at.advance)),
                ("xrep", repeat[1] as i64),
                ("yrep", repeat[0] as i64),
                ("wbase", at.weights as i64),
                ("lgs", lg_shift as i64),
            ]);
            if lg_shift > 0 {
                let y0 = strip.start as i64 - 1;
                fields.extend([
                    ("w", width as i64),
                    ("ow", width as i64),
                    ("n", (strip.len() * width) as i64),
                    ("lrow", y0 * from_pitch as i64 - 1),
                    ("rstep", from_pitch as i64),
                    ("kstep", from_pitch as i64),
                    ("cl", 64),
                    ("obase", (to.base + strip.start * to_pitch) as i64),
                    ("ogap", (to_pitch - width) as i64),
                    ("lgpo", 0),
                    ("p0", 0),
                ]);
            }
            let instruction = self.encode(layer, Opcode::Aux, &fields)?;
            let mut accesses = vec![
                Access::read(Space::Tensor(layer.input), self.reads(layer, window, &strip, repeat)),
                Access::write(Space::Tensor(layer.output), strip.start * output.width..strip.end * output.width),
            ];
            accesses.extend(weights.cloned());
            self.schedule.push(instruction, accesses);
        }
        Ok(())
    }

    /// An addition, or a copy through post, word by word: all operands lie alike.
    fn words(&mut self, layer: &Layer, at: Constants) -> Result<(), NpuError> {
        let output = &self.network.tensors[layer.output];
        let b = &self.buffers[layer.output];
        let per_word = 1usize << b.lg_pixels;
        let packed = b.lg_pixels > 0;
        let (words, groups) = if packed { (b.plane_words, 1) } else { (b.group_words, output.groups()) };
        let last = if packed { 64 } else { output.channels - 64 * (groups - 1) };
        let planes = output.bits.max(self.network.tensors[layer.input].bits);
        for strip in strips(words, 1, 1, (planes * groups) as u64, LEAST_AUX) {
            let rows = |place: usize, up: usize| ((place + up) / b.pitch * output.width).min(output.pixels());
            let range = rows(strip.start * per_word, 0)..rows(strip.end * per_word, b.pitch - 1);
            let mut fields = self.operand(layer.input);
            let base = self.buffers[layer.input].base + strip.start;
            fields.extend(self.post(layer, at));
            fields.extend([
                ("base", base as i64),
                ("obase", (b.base + strip.start) as i64),
                ("n", strip.len() as i64),
                ("cg", groups as i64),
                ("cl", last as i64),
                ("pinc", i64::from(at.advance)),
            ]);
            let mut accesses = vec![
                Access::read(Space::Tensor(layer.input), range.clone()),
                Access::write(Space::Tensor(layer.output), range.clone()),
            ];
            let op = if let Kind::Add { second, multipliers } = &layer.kind {
                let (t, s) = (&self.network.tensors[*second], &self.buffers[*second]);
                fields.extend([
                    ("bbits", t.bits as i64),
                    ("bsigned", i64::from(t.signed)),
                    ("bbase", (s.base + strip.start) as i64),
                    ("bps", s.plane_rows as i64),
                    ("bgs", s.group_words as i64),
                    ("ma", i64::from(multipliers[0])),
                    ("mb", i64::from(multipliers[1])),
                ]);
                accesses.push(Access::read(Space::Tensor(*second), range));
                Opcode::Add
            } else {
                // A row of words.
                fields.extend([
                    ("mode", 1),
                    ("w", words.min(4096) as i64),
                    ("h", 1),
                    ("sx", 1),
                    ("sy", 1),
                    ("ow", strip.len() as i64),
                ]);
                Opcode::Aux
            };
            let instruction = self.encode(layer, op, &fields)?;
            self.schedule.push(instruction, accesses);
        }
        Ok(())
    }

    fn encode(&self, layer: &Layer, op: Opcode, fields: &[(&str, i64)]) -> Result<Instruction, NpuError> {
        Instruction::new(op).with(fields).map_err(|e| self.limit(layer, e.to_string()))
    }
}

/// Cuts the rows of a layer into strips whose pixels fill tiles of `tile` as well as the whole does; `cycles` is what a tile costs.
fn strips(height: usize, width: usize, tile: usize, cycles: u64, shortest: u64) -> Vec<Range<usize>> {
    let whole = (height * width).div_ceil(tile);
    let cost = |rows: usize| {
        let full = height / rows;
        full * (rows * width).div_ceil(tile) + (height % rows * width).div_ceil(tile)
    };
    let least = (whole.div_ceil(STRIPS)).max((shortest.div_ceil(cycles.max(1))) as usize);
    let rows = (1..=height)
        .filter(|r| (r * width).div_ceil(tile) >= least.min(whole))
        .find(|r| cost(*r) <= whole + whole / 50)
        .unwrap_or(height);
    (0..height).step_by(rows).map(|r| r..(r + rows).min(height)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_all_rows_and_waste_few_tiles() {
        for (height, width, tile) in [(32, 32, 16), (25, 5, 16), (7, 7, 16), (1, 1, 16), (112, 112, 16), (48, 48, 8)] {
            let parts = strips(height, width, tile, 64, LEAST_ARRAY);
            assert_eq!(parts.iter().map(|s| s.len()).sum::<usize>(), height);
            let tiles: usize = parts.iter().map(|s| (s.len() * width).div_ceil(tile)).sum();
            let whole = (height * width).div_ceil(tile);
            assert!(tiles <= whole + whole / 50, "{height}×{width}: {tiles} for {whole}");
        }
    }
}
