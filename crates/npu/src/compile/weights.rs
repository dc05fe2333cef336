//! Where weights, parameters and tables lie: on the chip for good where they fit, else brought in with every frame.

use super::{
    Buffer, Words,
    emit::Constants,
    image,
    layout::Layout,
    network::{Kind, Layer, Network},
    schedule::{Access, Schedule, Space, Stream},
    weight_bits,
};
use crate::{
    Config, NpuError,
    isa::{Instruction, Opcode},
};

/// What a layer needs of the memories of constants.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub constants: Constants,
    /// Words of weights.
    pub words: usize,
    /// Bits of the weights.
    pub bits: Option<usize>,
    /// Parts of the streamed weights that are brought in before the layer: first part, number of parts.
    pub streams: Vec<(usize, usize)>,
}

/// The memories of constants while a program is made.
pub(super) struct Memory<'a> {
    config: &'a Config,
    weights: Vec<u64>,
    parameters: Vec<u64>,
    tables: Vec<Vec<u8>>,
    pub streamed: Vec<u64>,
    /// Parameters that change nothing, for copies.
    pub unchanged: Constants,
}

impl<'a> Memory<'a> {
    pub(super) fn new(config: &'a Config) -> Memory<'a> {
        let unchanged = Constants::default();
        Memory { config, weights: vec![], parameters: vec![], tables: vec![], streamed: vec![], unchanged }
    }

    /// Decides for every layer.
    pub(super) fn plan(&mut self, network: &Network, layout: &Layout) -> Result<Vec<Plan>, NpuError> {
        let buffers = &layout.buffers;
        let columns = self.config.columns;
        let images: Vec<Vec<u64>> = network
            .layers
            .iter()
            .map(|layer| {
                let channels = network.tensors[layer.input].channels;
                match &layer.kind {
                    Kind::Dense { weights, window } => {
                        // Weights that have no form are refused when the layer is emitted.
                        image::form(weights).map_or(vec![], |form| {
                            image::dense(weights, layer.channels, window.taps(), channels, form, self.config)
                        })
                    }
                    Kind::Depthwise { weights, window } => {
                        image::depthwise(weights, channels, window.kernel, copies(layer, buffers), self.config)
                    }
                    _ => vec![],
                }
            })
            .collect();
        // Layers that take turns strip by strip need all their weights at once.
        let bound = |l: usize| layout.segments.iter().any(|s| s.layers.contains(&l));
        let resident = self.choose(network, &images, bound)?;
        let mut plans = Vec::new();
        // Streamed layers take turns in what is left.
        let stays: usize = images.iter().zip(&resident).filter(|(_, r)| **r).map(|(i, _)| i.len() / columns).sum();
        let (ring, mut next) = (self.config.weight_words - stays, 0);
        for ((layer, image), stays_here) in network.layers.iter().zip(&images).zip(&resident) {
            let mut plan = Plan { words: image.len() / columns, bits: weight_bits(&layer.kind), ..Plan::default() };
            if *stays_here {
                plan.constants.weights = self.weights.len() / columns;
                self.weights.extend(image);
            } else {
                if next + plan.words > ring {
                    next = 0;
                }
                plan.constants.weights = stays + next;
                next += plan.words;
                plan.streams.push((self.streamed.len(), image.len()));
                self.streamed.extend(image);
            }
            let (vectors, advance) = image::parameters(layer, copies(layer, buffers), self.config);
            plan.constants.advance = advance;
            plan.constants.parameters = self.parameters.len() / columns;
            self.parameters.extend(vectors);
            if let Some(table) = &layer.finish.table {
                let known = self.tables.iter().position(|t| t == table);
                plan.constants.table = Some(known.unwrap_or(self.tables.len()));
                if known.is_none() {
                    self.tables.push(table.clone());
                }
            }
            plans.push(plan);
        }
        if layout.segments.iter().flat_map(|s| &s.strips).flat_map(|s| &s.slides).any(|s| s.copy.is_some()) {
            self.unchanged.parameters = self.parameters.len() / columns;
            self.parameters.extend(vec![u64::from(1f32.to_bits()) << 32; columns]);
        }
        let vectors = self.parameters.len() / columns;
        if vectors > self.config.parameter_vectors {
            return Err(NpuError::Limit(format!(
                "{vectors} vectors of {columns} biases and scales; the chip `{}` holds {}",
                self.config.name, self.config.parameter_vectors
            )));
        }
        if self.tables.len() > self.config.tables {
            return Err(NpuError::Limit(format!(
                "{} different tables; the chip `{}` holds {}",
                self.tables.len(),
                self.config.name,
                self.config.tables
            )));
        }
        Ok(plans)
    }

    /// Which layers' weights stay: all if they fit, else the largest that are not `bound` to are streamed until the rest and room for two of
    /// them fit, or for one if two never do.
    fn choose(
        &self,
        network: &Network,
        images: &[Vec<u64>],
        bound: impl Fn(usize) -> bool,
    ) -> Result<Vec<bool>, NpuError> {
        let capacity = self.config.weight_words;
        let words: Vec<usize> = images.iter().map(|i| i.len() / self.config.columns).collect();
        let all: usize = words.iter().sum();
        if all <= capacity {
            return Ok(vec![true; words.len()]);
        }
        let mut order: Vec<usize> = (0..words.len()).filter(|l| !bound(*l)).collect();
        order.sort_by_key(|i| std::cmp::Reverse(words[*i]));
        for places in [2, 1] {
            let room: usize = order.iter().take(places).map(|i| words[*i]).sum();
            let (mut resident, mut total) = (vec![true; words.len()], all);
            for i in &order {
                resident[*i] = false;
                total -= words[*i];
                if total + room <= capacity {
                    return Ok(resident);
                }
            }
        }
        let layer = words.iter().enumerate().max_by_key(|(_, w)| **w).map_or(0, |(i, _)| i);
        Err(NpuError::Unmappable {
            node: network.layers[layer].name.clone(),
            op: network.layers[layer].op.clone(),
            what: format!(
                "its weights take {} words of {} bits; the chip `{}` holds {capacity}, which the layers do not fit even one by one",
                words[layer],
                self.config.columns * 64,
                self.config.name
            ),
        })
    }

    /// The instructions of the set-up run and the words it takes.
    pub(super) fn setup(&self) -> Result<(Stream, Vec<u64>), NpuError> {
        let mut stream = Vec::new();
        let mut words = Vec::new();
        let tables: Vec<u64> = self
            .tables
            .concat()
            .chunks_exact(8)
            .map(|c| c.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b)))
            .collect();
        for (space, data) in [(1, &self.weights), (2, &self.parameters), (3, &tables)] {
            if data.is_empty() {
                continue;
            }
            let instruction = Instruction::new(Opcode::Fetch).with(&[("space", space), ("n0", data.len() as i64)])?;
            stream.push((instruction, usize::MAX));
            words.extend(data);
        }
        Ok((stream, words))
    }
}

/// Pixels in a word of a layer that shifts words.
fn copies(layer: &Layer, buffers: &[Buffer]) -> usize {
    match layer.kind {
        Kind::Depthwise { .. } => 1 << buffers[layer.input].lg_pixels,
        _ => 1,
    }
}

impl Plan {
    /// Emits what brings streamed weights in; gives what reading the layer's weights is.
    pub(super) fn emit(
        &self,
        schedule: &mut Schedule,
        config: &Config,
        words: &mut Vec<Words>,
    ) -> Result<Option<Access>, NpuError> {
        if self.words == 0 || self.streams.is_empty() {
            return Ok(None);
        }
        let at = self.constants.weights;
        let range = at..at + self.words;
        for (first, count) in &self.streams {
            let instruction = Instruction::new(Opcode::Fetch).with(&[
                ("space", 1),
                ("base", (at * config.columns) as i64),
                ("n0", *count as i64),
            ])?;
            schedule.push(instruction, vec![Access::write(Space::Weights, range.clone())]);
            words.push(Words::Weights { first: *first, count: *count });
        }
        Ok(Some(Access::read(Space::Weights, range)))
    }
}
