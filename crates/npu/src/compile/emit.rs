//! Layers to instructions: strips of rows, memory addresses, and what each waits for.

use std::ops::Range;

use super::{
    Words,
    image::{self, Reduction, WeightForm},
    layout::{Buffer, Layout},
    network::{Kind, Layer, Network, TensorId, Window},
    schedule::{Access, Schedule, Space},
    segment::{self, Segment, Slide},
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
    pub layout: &'a Layout,
    pub schedule: &'a mut Schedule,
    /// The row of every tensor that lies where its place begins, or would: 0 but for those that slide.
    origins: Vec<i64>,
}

/// Rows of a layer's output, and whether they may be cut further.
struct Part {
    rows: Range<usize>,
    whole: bool,
}

impl Part {
    /// Cuts the rows into strips (see [`strips`]) whose beginnings are multiples of `unit`.
    fn cut(&self, unit: usize, width: usize, tile: usize, cycles: u64, shortest: u64) -> Vec<Range<usize>> {
        if !self.whole {
            return vec![self.rows.clone()];
        }
        let end = self.rows.end;
        let parts = strips(end.div_ceil(unit), width * unit, tile, cycles, shortest);
        parts.into_iter().map(|s| s.start * unit..(s.end * unit).min(end)).collect()
    }
}

impl<'a> Emitter<'a> {
    pub(super) fn new(
        config: &'a Config,
        network: &'a Network,
        layout: &'a Layout,
        schedule: &'a mut Schedule,
    ) -> Emitter<'a> {
        Emitter { config, network, layout, schedule, origins: vec![0; network.tensors.len()] }
    }

    fn buffer(&self, tensor: TensorId) -> &'a Buffer {
        &self.layout.buffers[tensor]
    }
}

impl Emitter<'_> {
    /// Turns of the auxiliary unit's lanes for a plane of all groups, of which the last has so many channels.
    fn turns(&self, groups: usize, last: usize) -> usize {
        (groups - 1) * self.config.aux_turns(64) + self.config.aux_turns(last)
    }

    fn space(&self, tensor: TensorId) -> Space {
        Space::Tensor(self.layout.roots[tensor])
    }

    /// Where a row of a tensor lies, in rows of its place; negative before it.
    fn place(&self, tensor: TensorId, row: usize) -> i64 {
        row as i64 - self.origins[tensor]
    }

    /// The pixels of a tensor's place that rows of it lie in, rows without gaps.
    fn held(&self, tensor: TensorId, rows: &Range<usize>) -> Range<usize> {
        let at = |row| self.place(tensor, row).max(0) as usize * self.network.tensors[tensor].width;
        at(rows.start)..at(rows.end)
    }

    fn limit(&self, layer: &Layer, what: impl Into<String>) -> NpuError {
        NpuError::Unmappable { node: layer.name.clone(), op: layer.op.clone(), what: what.into() }
    }

    /// Emits what makes a value available to layers: words from the in stream.
    pub(super) fn input(&mut self, tensor: TensorId, port: usize, words: &mut Vec<Words>) -> Result<(), NpuError> {
        let (t, b) = (&self.network.tensors[tensor], self.buffer(tensor));
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
            let access = Access::write(self.space(tensor), range);
            self.schedule.push(instruction, vec![access]);
        }
        Ok(())
    }

    /// Emits what takes a value out.
    pub(super) fn output(&mut self, tensor: TensorId) -> Result<(), NpuError> {
        let (t, b) = (&self.network.tensors[tensor], self.buffer(tensor));
        let instruction = Instruction::new(Opcode::Drain).with(&[
            ("base", b.base as i64),
            ("n0", b.plane_words as i64),
            ("n1", t.bits as i64),
            ("step", b.plane_stride(self.config) as i64),
        ])?;
        let access = Access::read(self.space(tensor), 0..t.pixels());
        self.schedule.push(instruction, vec![access]);
        Ok(())
    }

    /// Emits a layer.
    pub(super) fn layer(&mut self, layer: &Layer, at: Constants, weights: Option<&Access>) -> Result<(), NpuError> {
        let rows = 0..self.network.tensors[layer.output].height;
        self.part(layer, &Part { rows, whole: true }, at, weights)
    }

    /// Emits layers that are computed in strips; `constants` are those of all layers, `unchanged` the parameters of a copy.
    pub(super) fn segment(
        &mut self,
        segment: &Segment,
        constants: &[Constants],
        unchanged: Constants,
    ) -> Result<(), NpuError> {
        for strip in &segment.strips {
            for (l, rows) in segment.layers.clone().zip(&strip.rows) {
                let layer = &self.network.layers[l];
                self.schedule.layer = l;
                if let Some(slide) = strip.slides.iter().find(|s| s.tensor == layer.output)
                    && self.origins[slide.tensor] != slide.origin
                {
                    self.schedule.layer = usize::MAX;
                    self.slide(slide, unchanged)?;
                    self.schedule.layer = l;
                }
                if !rows.is_empty() {
                    self.part(layer, &Part { rows: rows.clone(), whole: false }, constants[l], None)?;
                }
            }
        }
        Ok(())
    }

    /// Emits the copy of rows that are still needed to where a strip begins.
    fn slide(&mut self, slide: &Slide, at: Constants) -> Result<(), NpuError> {
        self.origins[slide.tensor] = slide.origin;
        let Some((from, to, rows)) = slide.copy else { return Ok(()) };
        let (t, b) = (&self.network.tensors[slide.tensor], self.buffer(slide.tensor));
        let word = |row: usize| (b.base + ((row * b.pitch) >> b.lg_pixels)) as i64;
        let words = ((rows - 1) * b.pitch + t.width).div_ceil(1 << b.lg_pixels) as i64;
        let (packed, groups) = (b.lg_pixels > 0, t.groups());
        let top = 1i64 << (t.bits - usize::from(t.signed));
        let mut fields = self.operand(slide.tensor);
        fields.extend([
            ("base", word(from)),
            ("mode", 1),
            ("sx", 1),
            ("w", words),
            ("ow", words),
            ("n", words),
            ("cg", if packed { 1 } else { groups as i64 }),
            ("cl", if packed { 64 } else { (t.channels - 64 * (groups - 1)) as i64 }),
            ("lo", if t.signed { -top } else { 0 }),
            ("hi", top - 1),
            ("obits", t.bits as i64),
            ("par", at.parameters as i64),
            ("obase", word(to)),
            ("ops", b.plane_rows as i64),
            ("ogs", b.group_words as i64),
        ]);
        let instruction = Instruction::new(Opcode::Aux).with(&fields)?;
        let space = self.space(slide.tensor);
        let pixels = |row: usize| row * t.width..(row + rows) * t.width;
        self.schedule.push(instruction, vec![Access::read(space, pixels(from)), Access::write(space, pixels(to))]);
        Ok(())
    }

    /// Emits rows of a layer.
    fn part(&mut self, layer: &Layer, part: &Part, at: Constants, weights: Option<&Access>) -> Result<(), NpuError> {
        let input = &self.network.tensors[layer.input];
        if input.bits > 8 {
            return Err(self.limit(layer, "it reads sums that only the host can scale"));
        }
        match &layer.kind {
            Kind::Dense { weights: values, window } => self.dense(layer, part, values, *window, at, weights),
            Kind::Depthwise { window, .. } => self.windowed(layer, part, *window, 0, at, weights),
            Kind::Sum { window, repeat } => {
                let (i, o) = (self.buffer(layer.input), self.buffer(layer.output));
                let same = (i.lg_pixels, i.pitch) == (o.lg_pixels, o.pitch);
                let whole = layer.channels == self.network.tensors[layer.output].channels;
                if *window == Window::POINT && *repeat == [1, 1] && same && whole && !at.advance {
                    return self.words(layer, part, at);
                }
                self.windowed(layer, part, *window, 1, at, None)
            }
            Kind::Max { window } => self.windowed(layer, part, *window, 2, at, None),
            Kind::Add { .. } => self.words(layer, part, at),
        }
    }

    /// The fields that say what becomes of sums.
    fn post(&self, layer: &Layer, at: Constants) -> Vec<(&'static str, i64)> {
        let (t, b) = (&self.network.tensors[layer.output], self.buffer(layer.output));
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
        let b = self.buffer(layer.output);
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
        let pixel = self.place(layer.output, row) as usize * pitch;
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
        let (t, b) = (&self.network.tensors[tensor], self.buffer(tensor));
        vec![
            ("abits", t.bits as i64),
            ("asigned", i64::from(t.signed)),
            ("base", b.base as i64),
            ("ps", b.plane_rows as i64),
            ("gs", b.group_words as i64),
        ]
    }

    /// The window's fields for output rows from `row` on.
    fn window(&self, layer: &Layer, window: Window, row: usize, rows: usize) -> Vec<(&'static str, i64)> {
        let repeat = segment::repeat(layer);
        let (i, o) = (&self.network.tensors[layer.input], &self.network.tensors[layer.output]);
        let pitch = self.buffer(layer.input).pitch as i64;
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
            ("lrow", (y0 - self.origins[layer.input]) * pitch + x0),
            ("rstep", stride[0] as i64 * pitch),
            ("kstep", window.dilation[0] as i64 * pitch),
            ("n", (rows * o.width) as i64),
        ]
    }

    /// What rows of a layer read of its first input and write of its output.
    fn accesses(&self, layer: &Layer, rows: &Range<usize>) -> Vec<Access> {
        let read = segment::rows_read(layer, rows.clone(), self.network.tensors[layer.input].height);
        vec![
            Access::read(self.space(layer.input), self.held(layer.input, &read)),
            Access::write(self.space(layer.output), self.held(layer.output, rows)),
        ]
    }

    fn dense(
        &mut self,
        layer: &Layer,
        part: &Part,
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
        for strip in part.cut(1, width, rows, cycles * tiles as u64, LEAST_ARRAY) {
            let mut fields = self.operand(layer.input);
            fields.extend(self.window(layer, window, strip.start, strip.len()));
            fields.extend(self.post(layer, at));
            fields.extend(self.destination(layer, strip.start)?);
            fields.extend([
                ("cg", cut.channel_groups as i64),
                ("cl", cut.last_channels as i64),
                ("wbits", form.bits as i64),
                ("wsigned", i64::from(form.signed)),
                ("wbip", i64::from(form.bipolar)),
                ("lgp", self.buffer(layer.input).lg_pixels as i64),
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
            let mut accesses = self.accesses(layer, &strip);
            accesses.extend(weights.cloned());
            self.schedule.push(instruction, accesses);
        }
        Ok(())
    }

    fn windowed(
        &mut self,
        layer: &Layer,
        part: &Part,
        window: Window,
        mode: i64,
        at: Constants,
        weights: Option<&Access>,
    ) -> Result<(), NpuError> {
        let input = &self.network.tensors[layer.input];
        let output = &self.network.tensors[layer.output];
        let groups = input.groups();
        let (from, to) = (self.buffer(layer.input), self.buffer(layer.output));
        let lg_shift = from.lg_pixels;
        if lg_shift != 0 && (!layer.shifts(input) || to.lg_pixels != lg_shift) {
            return Err(self.limit(layer, "its input is packed"));
        }
        // Words stand for pixels where the input is packed.
        let (width, from_pitch, to_pitch) = (output.width >> lg_shift, from.pitch >> lg_shift, to.pitch >> lg_shift);
        let repeat = segment::repeat(layer);
        let blocks = window.kernel[0].div_ceil(3) * window.kernel[1].div_ceil(3);
        let last = if lg_shift > 0 { 64 } else { input.channels - 64 * (groups - 1) };
        let cycles = (self.turns(groups, last) * blocks * input.bits) as u64;
        for strip in part.cut(repeat[0], width, 1, cycles, LEAST_AUX) {
            let mut fields = self.operand(layer.input);
            fields.extend(self.window(layer, window, strip.start, strip.len()));
            fields.extend(self.post(layer, at));
            fields.extend(self.destination(layer, strip.start)?);
            fields.extend([
                ("cg", groups as i64),
                ("cl", last as i64),
                ("mode", mode),
                ("pinc", i64::from(at.advance)),
                ("xrep", repeat[1] as i64),
                ("yrep", repeat[0] as i64),
                ("wbase", at.weights as i64),
                ("lgs", lg_shift as i64),
            ]);
            if lg_shift > 0 {
                let y0 = self.place(layer.input, strip.start) - 1;
                let row = self.place(layer.output, strip.start);
                fields.extend([
                    ("w", width as i64),
                    ("ow", width as i64),
                    ("n", (strip.len() * width) as i64),
                    ("lrow", y0 * from_pitch as i64 - 1),
                    ("rstep", from_pitch as i64),
                    ("kstep", from_pitch as i64),
                    ("obase", to.base as i64 + row * to_pitch as i64),
                    ("ogap", (to_pitch - width) as i64),
                    ("lgpo", 0),
                    ("p0", 0),
                ]);
            }
            let instruction = self.encode(layer, Opcode::Aux, &fields)?;
            let mut accesses = self.accesses(layer, &strip);
            accesses.extend(weights.cloned());
            self.schedule.push(instruction, accesses);
        }
        Ok(())
    }

    /// An addition, or a copy through post, word by word: all operands lie alike, but that each may begin with another row.
    fn words(&mut self, layer: &Layer, part: &Part, at: Constants) -> Result<(), NpuError> {
        let output = &self.network.tensors[layer.output];
        let b = self.buffer(layer.output);
        let (lg_pixels, pitch) = (b.lg_pixels, b.pitch);
        let groups = if lg_pixels > 0 { 1 } else { output.groups() };
        let last = if lg_pixels > 0 { 64 } else { output.channels - 64 * (groups - 1) };
        let planes = output.bits.max(self.network.tensors[layer.input].bits);
        // Whole rows of a strip; words alone where all of it is there.
        let cuts: Vec<(Range<usize>, Range<usize>)> = if part.whole {
            let words = ((output.height - 1) * pitch + output.width).div_ceil(1 << lg_pixels);
            let rows = |word: usize, up: usize| (((word << lg_pixels) + up) / pitch).min(output.height);
            let cut = strips(words, 1, 1, (planes * self.turns(groups, last)) as u64, LEAST_AUX).into_iter();
            cut.map(|s| (s.clone(), rows(s.start, 0)..rows(s.end, pitch - 1))).collect()
        } else {
            let last = (part.rows.end - 1) * pitch + output.width;
            vec![((part.rows.start * pitch) >> lg_pixels..last.div_ceil(1 << lg_pixels), part.rows.clone())]
        };
        for (words, rows) in cuts {
            let place = |tensor: TensorId| {
                let moved = (self.origins[tensor] * pitch as i64) >> lg_pixels;
                self.buffer(tensor).base as i64 + words.start as i64 - moved
            };
            let mut fields = self.operand(layer.input);
            fields.extend(self.post(layer, at));
            fields.extend([
                ("base", place(layer.input)),
                ("obase", place(layer.output)),
                ("n", words.len() as i64),
                ("cg", groups as i64),
                ("cl", last as i64),
                ("pinc", i64::from(at.advance)),
            ]);
            let mut accesses = self.accesses(layer, &rows);
            let op = if let Kind::Add { second, multipliers } = &layer.kind {
                let (t, s) = (&self.network.tensors[*second], self.buffer(*second));
                fields.extend([
                    ("bbits", t.bits as i64),
                    ("bsigned", i64::from(t.signed)),
                    ("bbase", place(*second)),
                    ("bps", s.plane_rows as i64),
                    ("bgs", s.group_words as i64),
                    ("ma", i64::from(multipliers[0])),
                    ("mb", i64::from(multipliers[1])),
                ]);
                accesses.push(Access::read(self.space(*second), self.held(*second, &rows)));
                Opcode::Add
            } else {
                // A row of words.
                fields.extend([
                    ("mode", 1),
                    ("w", words.len() as i64),
                    ("h", 1),
                    ("sx", 1),
                    ("sy", 1),
                    ("ow", words.len() as i64),
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
