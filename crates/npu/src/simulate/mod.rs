//! The simulator: the chip of `docs/isa.md`, equal to it in every result and every cycle.
//!
//! A cycle is one turn of `Chip::cycle`: every unit looks at what the others had at its start. Only control goes plane by plane; the sums of an
//! array tile or a word of the auxiliary unit are computed at once when their last planes are issued, with the operands that were read when the
//! chip reads them.

mod array;
mod auxiliary;
mod decode;
mod load;
mod memory;
mod post;
mod streams;

pub use array::Operands;
pub use memory::Memory;

use self::{
    array::Array,
    auxiliary::AuxUnit,
    decode::{Conv, Decoded, decode},
    load::Load,
    post::Post,
    streams::{DrainUnit, FetchUnit, Space},
};
use crate::{
    Config, NpuError,
    config::WATCHDOG,
    isa::{Instruction, Queue},
};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All queues have ended.
    Done,
    /// A queue met an instruction that is illegal.
    Illegal {
        /// Whose program it is in.
        queue: Queue,
        /// Its index.
        pc: usize,
    },
    /// Nothing moved for [`WATCHDOG`] cycles.
    Stuck,
    /// As `Stuck`, but that the chip would take a word: it waits for more than the in stream holds. (In hardware it waits on.)
    Starved,
    /// It was still at work when its cycles were over; see [`Chip::run_for`].
    Running,
}

/// What the chip counted in a run, and what the energy of it follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Cycles in RUN.
    pub cycles: u64,
    /// Pairs of planes that the array issued.
    pub pairs: u64,
    /// Cycles in which the array waited for post.
    pub held: u64,
    /// Cycles with a load step.
    pub load_steps: u64,
    /// Cycles with a step of the auxiliary unit.
    pub aux_steps: u64,
    /// Vectors that post accepted.
    pub vectors: u64,
    /// Words that came in.
    pub fetched: u64,
    /// Words that went out.
    pub drained: u64,
    /// Instructions fetched.
    pub instructions: u64,
    /// Elements of the array in use, summed over the pairs issued.
    pub element_cycles: u64,
    /// Parts of words written by post.
    pub written: u64,
    /// Words that load, aux and drain read of the activation memory.
    pub reads: u64,
    /// Weight words read.
    pub weight_reads: u64,
}

/// When an instruction was at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its queue.
    pub queue: Queue,
    /// Its index in the instruction memory.
    pub pc: usize,
    /// The cycle in which it started.
    pub start: u64,
    /// The cycle in which it completed.
    pub end: u64,
}

/// A run's result.
#[derive(Debug, Clone)]
pub struct Run {
    /// How it ended.
    pub state: State,
    /// The words of the out stream.
    pub output: Vec<u64>,
    /// What was counted.
    pub counters: Counters,
    /// Every instruction's time, in order of completion.
    pub spans: Vec<Span>,
    /// What the element of [`Chip::probe`] was given, in order.
    pub operands: Vec<Operands>,
}

/// How the outside treats the streams: whether a word is there, or taken, in a cycle.
pub struct Streams<'a> {
    /// Whether the next input word is valid in a cycle.
    pub input: Box<dyn FnMut(u64) -> bool + 'a>,
    /// Whether an output word would be taken in a cycle.
    pub output: Box<dyn FnMut(u64) -> bool + 'a>,
}

impl Default for Streams<'_> {
    fn default() -> Self {
        Streams { input: Box::new(|_| true), output: Box::new(|_| true) }
    }
}

/// A chip with its memories.
#[derive(Debug)]
pub struct Chip {
    config: Config,
    instructions: Vec<Instruction>,
    /// The memories, which survive runs.
    pub memory: Memory,
    /// The element of the array, by row and column, whose operands runs record; none at first.
    pub probe: Option<(usize, usize)>,
}

/// From the grant of an instruction fetch to the instruction being there.
const FETCH_CYCLES: u64 = 9;

#[derive(Debug, Clone, Copy, Default)]
struct QueueState {
    pc: usize,
    /// What is in `next`, with its index.
    next: Option<(usize, Next)>,
    ended: bool,
    done: u16,
}

#[derive(Debug, Clone, Copy)]
struct Next {
    decoded: Option<Decoded>,
    waits: [u16; 4],
}

impl Chip {
    /// A chip with empty memories.
    pub fn new(config: Config) -> Chip {
        let memory = Memory::new(&config);
        Chip { config, instructions: Vec::new(), memory, probe: None }
    }

    /// Fills the instruction memory.
    ///
    /// # Errors
    /// If it is too small.
    pub fn program(&mut self, instructions: &[Instruction]) -> Result<(), NpuError> {
        if instructions.len() > self.config.instructions {
            return Err(NpuError::Limit(format!(
                "{} instructions; the chip `{}` holds {}",
                instructions.len(),
                self.config.name,
                self.config.instructions
            )));
        }
        self.instructions = instructions.to_vec();
        Ok(())
    }

    /// Runs from the four entries until all queues end or the chip stops, with streams that never wait.
    pub fn run(&mut self, entries: [usize; 4], input: &[u64]) -> Run {
        self.run_with(entries, input, &mut Streams::default())
    }

    /// [`run`](Chip::run) with streams that may wait; ends only if they go on at last.
    pub fn run_with(&mut self, entries: [usize; 4], input: &[u64], streams: &mut Streams<'_>) -> Run {
        self.run_for(entries, input, streams, u64::MAX)
    }

    /// [`run_with`](Chip::run_with) for so many cycles at most: programs may be bad enough to take years.
    pub fn run_for(&mut self, entries: [usize; 4], input: &[u64], streams: &mut Streams<'_>, cycles: u64) -> Run {
        let mut core = Core::new(&self.config, self.probe, entries);
        let state = loop {
            if core.now == cycles {
                break State::Running;
            }
            if let Some(state) = core.cycle(&self.config, &self.instructions, &mut self.memory, input, streams) {
                break state;
            }
        };
        core.finish(state, &self.memory)
    }
}

/// Everything that a reset clears.
struct Core {
    now: u64,
    queues: [QueueState; 4],
    /// The queue that the sequencer fetches for, and the cycle from which the instruction is there.
    sequencer: Option<(usize, u64)>,
    load: Load,
    array: Array,
    aux: AuxUnit,
    post: Post,
    fetch: FetchUnit,
    drain: DrainUnit,
    convs: [Conv; 2],
    /// Array instructions started; the next one's place in `convs`.
    started: usize,
    in_flight: usize,
    /// Cycles without progress before the last; whether there was some in that.
    idle: u64,
    moved: bool,
    starved: u64,
    consumed: usize,
    output: Vec<u64>,
    counters: Counters,
    open: [Vec<(usize, u64)>; 4],
    spans: Vec<Span>,
}

impl Core {
    fn new(config: &Config, probe: Option<(usize, usize)>, entries: [usize; 4]) -> Core {
        Core {
            now: 0,
            queues: entries.map(|pc| QueueState { pc, ..QueueState::default() }),
            sequencer: None,
            load: Load::new(config),
            array: Array::new(config, probe),
            aux: AuxUnit::new(config),
            post: Post::new(config),
            fetch: FetchUnit::default(),
            drain: DrainUnit::default(),
            convs: Default::default(),
            started: 0,
            in_flight: 0,
            idle: 0,
            moved: true,
            starved: 0,
            consumed: 0,
            output: Vec::new(),
            counters: Counters::default(),
            open: Default::default(),
            spans: Vec::new(),
        }
    }

    fn cycle(
        &mut self,
        config: &Config,
        program: &[Instruction],
        memory: &mut Memory,
        input: &[u64],
        streams: &mut Streams<'_>,
    ) -> Option<State> {
        let now = self.now;
        // What is seen at the start of the cycle.
        let illegal = self.queues.iter().position(|q| q.next.is_some_and(|n| n.1.decoded.is_none()));
        let ended = self.queues.iter().all(|q| q.ended);
        let starts = self.starting();
        if self.sequencer.is_none() {
            let asks = |q: &QueueState| q.next.is_none() && !q.ended;
            self.sequencer = self.queues.iter().position(asks).map(|q| (q, now + FETCH_CYCLES));
        }
        let aux_in_flight = self.aux.in_flight();
        let load_step = self.load.has_step();
        let aux_step = self.aux.has_step();
        let load_weights = self.load.reads_weights();
        let aux_weights = !load_weights && self.aux.wants_weights();
        let mut completed = [false; 4];
        let mut progress = self.sequencer.is_some() || load_step || aux_step;

        memory.release();
        self.post.write(now, memory);
        if let Some(queue) = self.post.completes(now) {
            completed[queue as usize] = true;
        }
        // The in stream.
        let port_is_free = match self.fetch.space() {
            None => false,
            Some(Space::Activations) => !memory.is_written(self.fetch.address()),
            Some(Space::Weights) => !load_weights && !aux_weights,
            Some(Space::Other) => true,
        };
        let mut waits_for_word = false;
        if self.fetch.space().is_some() {
            let valid = self.consumed < input.len() && (streams.input)(now);
            if valid && port_is_free {
                completed[Queue::Fetch as usize] = self.fetch.take(input[self.consumed], memory);
                self.consumed += 1;
                progress = true;
            }
            waits_for_word = !valid;
        }
        let in_vain = waits_for_word && self.consumed == input.len();
        // Reads.
        let mut restart = false;
        self.load.cycle(now, &self.convs, memory, config, &mut restart);
        let tile_accepted = {
            let before = self.post.accepted;
            let last = self.post.accept(now, &self.array, &self.convs, &mut self.aux, memory);
            progress |= self.post.accepted != before;
            last
        };
        self.aux.cycle(now, aux_weights, aux_in_flight, memory);
        let out_valid = self.drain.is_valid(now);
        let out_ready = out_valid && (streams.output)(now);
        progress |= out_valid;
        let (word, drained) = self.drain.cycle(now, out_ready, memory);
        self.output.extend(word);
        completed[Queue::Drain as usize] |= drained;
        // The array.
        if restart {
            self.array.restart();
        }
        let count = self.load.slot_count();
        let (issued, freed) = self.array.cycle(now, &self.convs, &self.load.slots, count, tile_accepted);
        progress |= issued;
        if let Some(slot) = freed {
            self.load.slots[slot].in_use = false;
        }
        self.counters.load_steps += u64::from(load_step);
        self.counters.aux_steps += u64::from(aux_step);
        self.counters.weight_reads += u64::from(load_weights || aux_weights);
        self.commit(starts, completed);
        self.take_instruction(program, config);
        self.now += 1;
        self.starved = if in_vain && !progress { self.starved + 1 } else { 0 };
        self.idle = if self.moved { 0 } else { self.idle + 1 };
        self.moved = progress || waits_for_word;
        if let Some(q) = illegal {
            return Some(State::Illegal { queue: Queue::ALL[q], pc: self.queues[q].next.map_or(0, |n| n.0) });
        }
        if ended {
            return Some(State::Done);
        }
        if self.starved == WATCHDOG {
            return Some(State::Starved);
        }
        (self.idle == WATCHDOG).then_some(State::Stuck)
    }

    /// Which queues start their next instruction (or consume their end) in this cycle.
    fn starting(&self) -> [bool; 4] {
        let done = self.queues.map(|q| q.done);
        std::array::from_fn(|q| {
            let Some((_, next)) = &self.queues[q].next else { return false };
            let Some(decoded) = &next.decoded else { return false };
            let waits = matches!(decoded, Decoded::End)
                || next.waits.iter().zip(done).all(|(w, d)| d.wrapping_sub(*w) < 1 << 15);
            let free = match Queue::ALL[q] {
                Queue::Fetch => self.fetch.is_free(),
                Queue::Array if matches!(decoded, Decoded::End) => self.in_flight == 0,
                Queue::Array => self.load.current.is_none() && self.in_flight < 2,
                Queue::Aux => self.aux.current.is_none(),
                Queue::Drain => self.drain.is_free(),
            };
            waits && free
        })
    }

    /// What the cycle's end makes of starts and completions.
    fn commit(&mut self, starts: [bool; 4], completed: [bool; 4]) {
        let now = self.now;
        for q in 0..4 {
            if completed[q] {
                self.queues[q].done = self.queues[q].done.wrapping_add(1);
                let (pc, start) = self.open[q].remove(0);
                self.spans.push(Span { queue: Queue::ALL[q], pc, start, end: now });
                match Queue::ALL[q] {
                    Queue::Array => self.in_flight -= 1,
                    Queue::Aux => self.aux.current = None,
                    Queue::Fetch | Queue::Drain => {}
                }
            }
        }
        for q in (0..4).filter(|q| starts[*q]) {
            let Some((pc, next)) = self.queues[q].next.take() else { continue };
            match next.decoded {
                Some(Decoded::End) => {
                    self.queues[q].ended = true;
                    continue;
                }
                Some(Decoded::Fetch(t)) => self.fetch.start(t),
                Some(Decoded::Drain(t)) => self.drain.start(t, now),
                Some(Decoded::Aux(a)) => self.aux.start(a),
                Some(Decoded::Conv(c)) => {
                    let which = self.started % 2;
                    self.convs[which] = c;
                    self.load.start(&c, which, now);
                    self.started += 1;
                    self.in_flight += 1;
                }
                None => {}
            }
            self.open[q].push((pc, now));
        }
    }

    /// What the sequencer has read by the end of the cycle becomes the next instruction of its queue.
    fn take_instruction(&mut self, program: &[Instruction], config: &Config) {
        let Some((q, at)) = self.sequencer else { return };
        if at != self.now + 1 {
            return;
        }
        self.sequencer = None;
        self.counters.instructions += 1;
        let queue = &mut self.queues[q];
        let instruction = program.get(queue.pc).copied().unwrap_or(Instruction([0; 8]));
        let legal = instruction.opcode().is_some_and(|op| op.queue().is_none_or(|owner| owner == Queue::ALL[q]));
        let next = Next {
            decoded: legal.then(|| decode(&instruction, config)).flatten(),
            waits: std::array::from_fn(|k| (instruction.0[1] >> (16 * k)) as u16),
        };
        queue.next = Some((queue.pc, next));
        queue.pc = queue.pc.saturating_add(1);
    }

    /// The record of the run.
    fn finish(self, state: State, memory: &Memory) -> Run {
        let counters = Counters {
            cycles: self.now,
            pairs: self.array.issued,
            held: self.array.held,
            vectors: self.post.accepted,
            fetched: self.fetch.words,
            drained: self.drain.words,
            element_cycles: self.array.element_cycles,
            written: self.post.written,
            reads: memory.take_reads(),
            ..self.counters
        };
        Run { state, output: self.output, counters, spans: self.spans, operands: self.array.operands }
    }
}
