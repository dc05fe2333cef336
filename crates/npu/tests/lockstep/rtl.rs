//! The chip in RTL, driven through `rtl/bench/chip.cpp`, and the simulator beside it.

use std::{
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use qing_npu::{
    Config,
    isa::{Instruction, Opcode},
    simulate::{Chip, Run, State, Streams},
};

/// The folder with the models that `suite/npu/run` builds; says so if there is none.
pub(crate) fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("QING_NPU_RTL").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: QING_NPU_RTL names no folder with the models that suite/npu/run builds");
    }
    folder
}

/// Whether the model of a preset has been built there.
pub(crate) fn built(preset: &str) -> bool {
    let there = folder().is_some_and(|f| binary(&f, preset).is_file());
    if !there {
        println!("skipped: no model of `{preset}`");
    }
    there
}

fn binary(folder: &Path, preset: &str) -> PathBuf {
    folder.join(preset).join("Vnpu_top")
}

/// A generator of numbers that only has to be different every time.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether a stream goes on in a cycle: the same function as in the bench. Seed 0 never waits; the last three bits say how often it does.
pub(crate) fn flows(seed: u64, now: u64) -> bool {
    seed == 0 || mix(seed.wrapping_add(now.wrapping_mul(0x9e37_79b9_7f4a_7c15))) & 7 >= seed & 7
}

/// How the streams behave in a run, and whether it is cut short.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conditions {
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// The cycle in which the RTL is reset.
    pub(crate) reset: Option<u64>,
}

/// What the RTL did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Did {
    /// Register 1.
    pub(crate) status: u64,
    pub(crate) cycles: u64,
    pub(crate) counters: [u64; 8],
    /// Words of the in stream that were taken.
    pub(crate) taken: u64,
    pub(crate) output: Vec<u64>,
}

impl Did {
    /// What the simulator says it must be.
    pub(crate) fn expected(run: &Run) -> Did {
        let c = &run.counters;
        let status = match run.state {
            State::Done => 2,
            State::Illegal { queue, pc } => 3 | 1 << 4 | (queue as u64) << 8 | (pc as u64) << 16,
            State::Stuck => 3 | 2 << 4,
            // What the bench says of a chip that it has given up.
            State::Starved | State::Running => u64::MAX,
        };
        Did {
            status,
            cycles: c.cycles,
            counters: [c.pairs, c.held, c.load_steps, c.aux_steps, c.vectors, c.fetched, c.drained, c.instructions],
            taken: c.fetched,
            output: run.output.clone(),
        }
    }
}

/// The model of a chip in a process of its own.
pub(crate) struct Rtl {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: BufReader<ChildStdout>,
    config: Config,
    written: usize,
}

impl Rtl {
    pub(crate) fn new(preset: &str) -> Rtl {
        let path = binary(&folder().unwrap(), preset);
        let mut child = Command::new(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let to = BufWriter::new(child.stdin.take().unwrap());
        let from = BufReader::new(child.stdout.take().unwrap());
        Rtl { child, to, from, config: Config::preset(preset).unwrap(), written: 0 }
    }

    fn put(&mut self, words: &[u64]) {
        for w in words {
            self.to.write_all(&w.to_le_bytes()).unwrap();
        }
    }

    fn get(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.from.read_exact(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Fills the instruction memory; what was there before is overwritten with zeros, which are illegal.
    pub(crate) fn program(&mut self, instructions: &[Instruction]) {
        let mut words: Vec<u64> = instructions.iter().flat_map(|i| i.0).collect();
        let used = words.len();
        words.resize(used.max(self.written), 0);
        self.written = used;
        self.put(&[1, words.len() as u64]);
        self.put(&words);
    }

    pub(crate) fn run(&mut self, entries: [usize; 4], input: &[u64], conditions: &Conditions, limit: u64) -> Did {
        let packed = entries.iter().rev().fold(0u64, |a, e| a << 16 | *e as u64);
        let reset = conditions.reset.map_or(0, |r| r + 1);
        self.put(&[2, packed, conditions.input, conditions.output, limit, reset, input.len() as u64]);
        self.put(input);
        self.to.flush().unwrap();
        let status = self.get();
        let cycles = self.get();
        let counters = std::array::from_fn(|_| self.get());
        let taken = self.get();
        let count = self.get();
        let output = (0..count).map(|_| self.get()).collect();
        Did { status, cycles, counters, taken, output }
    }

    /// Nothing but a reset brings a chip out of an error: it takes nothing, gives nothing, and does not start.
    fn stays_in_error(&mut self, entries: [usize; 4], was: &Did, what: &dyn Fn() -> String) {
        let did = self.run(entries, &[1, 2, 3], &Conditions::default(), 100);
        let same = (did.status, did.cycles, did.counters) == (was.status, was.cycles, was.counters);
        assert!(same && did.taken == 0 && did.output.is_empty(), "in an error: {did:?}\n{}", what());
        self.reset();
    }

    /// By the reset line.
    pub(crate) fn reset(&mut self) {
        self.put(&[3]);
    }

    /// The words `0 … count − 1` of the activation memory, read as a host would: by a program that drains them.
    pub(crate) fn activations(&mut self, count: usize) -> Vec<u64> {
        let count = count.clamp(1, self.config.activation_words());
        let drain = Instruction::new(Opcode::Drain).with(&[("n0", count as i64)]).unwrap();
        self.program(&[drain, Instruction::new(Opcode::End)]);
        let did = self.run([1, 1, 1, 0], &[], &Conditions::default(), 1 << 40);
        assert_eq!((did.status, did.output.len()), (2, count));
        did.output
    }
}

impl Drop for Rtl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// RTL and simulator, in the same state before and after every run.
pub(crate) struct Pair {
    pub(crate) rtl: Rtl,
    pub(crate) chip: Chip,
    /// Cycles in which both did the same.
    pub(crate) cycles: u64,
    program: Vec<Instruction>,
}

impl Pair {
    pub(crate) fn new(preset: &str) -> Pair {
        let chip = Chip::new(Config::preset(preset).unwrap());
        Pair { rtl: Rtl::new(preset), chip, cycles: 0, program: Vec::new() }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.rtl.config
    }

    pub(crate) fn program(&mut self, instructions: &[Instruction]) {
        self.program = instructions.to_vec();
        self.rtl.program(instructions);
        self.chip.program(instructions).unwrap();
    }

    /// Runs both and compares everything that can be seen from outside; `what` describes the run.
    pub(crate) fn run(
        &mut self,
        entries: [usize; 4],
        input: &[u64],
        conditions: &Conditions,
        what: &dyn Fn() -> String,
    ) -> Run {
        let mut streams = Streams {
            input: Box::new(|now| flows(conditions.input, now)),
            output: Box::new(|now| flows(conditions.output, now)),
        };
        let run = self.chip.run_with(entries, input, &mut streams);
        drop(streams);
        let did = self.rtl.run(entries, input, conditions, run.counters.cycles + 100_000);
        let expected = Did::expected(&run);
        if did != expected {
            let place = did.output.iter().zip(&expected.output).position(|(a, b)| a != b);
            let (mut d, mut e) = (did, expected);
            let lengths = (d.output.len(), e.output.len());
            d.output.clear();
            e.output.clear();
            panic!("RTL       {d:?}\nsimulator {e:?}\noutputs {lengths:?}, first difference at {place:?}\n{}", what());
        }
        self.cycles += run.counters.cycles;
        if run.state != State::Done {
            self.rtl.stays_in_error(entries, &expected, what);
        }
        run
    }

    /// Runs both for so many cycles only, then resets the RTL: what went out and the whole activation memory are compared. A single cycle of
    /// difference shows where anything was written or taken in it.
    pub(crate) fn run_part(
        &mut self,
        entries: [usize; 4],
        input: &[u64],
        cycles: u64,
        what: &dyn Fn() -> String,
    ) -> Run {
        let run = self.chip.run_for(entries, input, &mut Streams::default(), cycles);
        assert_eq!(run.state, State::Running, "{}", what());
        // The reset comes in the last of the cycles, in which memories still work.
        let conditions = Conditions { reset: Some(cycles - 1), ..Conditions::default() };
        let did = self.rtl.run(entries, input, &conditions, cycles + 1);
        let sent = run.output.len() - did.output.len();
        assert!(sent <= 1 && run.output.starts_with(&did.output), "outputs differ\n{}", what());
        assert!(
            run.counters.fetched - did.taken <= 1,
            "{} words taken for {}\n{}",
            did.taken,
            run.counters.fetched,
            what()
        );
        self.cycles += cycles;
        self.compare_memory(self.rtl.config.activation_words(), what);
        run
    }

    /// Compares the first words of the activation memory.
    pub(crate) fn compare_memory(&mut self, count: usize, what: &dyn Fn() -> String) {
        let words = self.rtl.activations(count);
        let program = std::mem::take(&mut self.program);
        self.rtl.program(&program);
        self.program = program;
        let differs: Vec<String> = words
            .iter()
            .zip(&self.chip.memory.activations)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(i, (a, b))| format!("  {i}: RTL {a:016x}, simulator {b:016x}"))
            .collect();
        let first = differs.iter().take(8).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(differs.is_empty(), "{} activation words differ\n{first}\n{}", differs.len(), what());
    }
}

/// `end` of every queue at instructions of their own.
pub(crate) fn streams(queues: [Vec<Instruction>; 4]) -> (Vec<Instruction>, [usize; 4]) {
    let mut program = Vec::new();
    let entries = queues.map(|queue| {
        let entry = program.len();
        program.extend(queue);
        program.push(Instruction::new(Opcode::End));
        entry
    });
    (program, entries)
}
