//! Program images: what a test bench of the RTL loads and compares, as text files of hexadecimal words (section 9 of the specification).

use std::{fmt::Write, fs, io, path::Path};

use crate::{
    Config,
    isa::Instruction,
    simulate::{Chip, State},
};

/// Runs of one program, one after another on one chip, with what they give.
#[derive(Debug)]
pub struct Image {
    config: Config,
    instructions: Vec<Instruction>,
    runs: Vec<Recorded>,
    chip: Chip,
}

#[derive(Debug)]
struct Recorded {
    entries: [usize; 4],
    input: Vec<u64>,
    output: Vec<u64>,
    cycles: u64,
    state: State,
}

impl Image {
    /// An image of a program without runs.
    ///
    /// # Errors
    /// If the chip cannot hold the program.
    pub fn new(config: &Config, instructions: &[Instruction]) -> Result<Image, crate::NpuError> {
        let mut chip = Chip::new(config.clone());
        chip.program(instructions)?;
        Ok(Image { config: config.clone(), instructions: instructions.to_vec(), runs: vec![], chip })
    }

    /// Simulates a run, with streams that never wait, and records it. Gives the output words and the cycles.
    pub fn run(&mut self, entries: [usize; 4], input: Vec<u64>) -> (&[u64], u64) {
        let run = self.chip.run(entries, &input);
        let cycles = run.counters.cycles;
        self.runs.push(Recorded { entries, input, output: run.output, cycles, state: run.state });
        (&self.runs[self.runs.len() - 1].output, cycles)
    }

    /// The chip after the runs.
    pub fn chip_mut(&mut self) -> &mut Chip {
        &mut self.chip
    }

    /// Writes the files into a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("npu_pkg.sv"), self.config.package())?;
        let words: Vec<u64> = self.instructions.iter().flat_map(|i| i.0).collect();
        fs::write(folder.join("instructions.hex"), hex(&words))?;
        let mut list = String::new();
        for (r, run) in self.runs.iter().enumerate() {
            fs::write(folder.join(format!("run{r}.in.hex")), hex(&run.input))?;
            fs::write(folder.join(format!("run{r}.out.hex")), hex(&run.output))?;
            let state = match run.state {
                State::Done => 2,
                State::Illegal { .. } | State::Stuck => 3,
                State::Starved | State::Running => 1,
            };
            let [a, b, c, d] = run.entries;
            let (words_in, words_out, cycles) = (run.input.len(), run.output.len(), run.cycles);
            let _ = writeln!(list, "{a} {b} {c} {d} {words_in} {words_out} {cycles} {state}");
        }
        fs::write(folder.join("runs.txt"), list)?;
        fs::write(folder.join("memory.hex"), hex(&self.chip.memory.activations))
    }
}

fn hex(words: &[u64]) -> String {
    let mut text = String::with_capacity(words.len() * 17);
    for word in words {
        let _ = writeln!(text, "{word:016x}");
    }
    text
}
