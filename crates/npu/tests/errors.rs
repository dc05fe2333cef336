//! A chip that cannot go on says so.

use qing_npu::{
    Config,
    isa::{Instruction, Opcode, Queue, assemble},
    simulate::{Chip, State},
};

fn chip(text: &str) -> Chip {
    let mut chip = Chip::new(Config::preset("nano").unwrap());
    chip.program(&assemble(text).unwrap()).unwrap();
    chip
}

#[test]
fn an_illegal_instruction_stops_the_chip_with_its_place() {
    let mut chip = Chip::new(Config::preset("nano").unwrap());
    let mut stray = Instruction::new(Opcode::End);
    stray.0[2] = 1;
    chip.program(&[Instruction::new(Opcode::End), stray]).unwrap();
    let run = chip.run([0, 0, 1, 0], &[]);
    assert_eq!(run.state, State::Illegal { queue: Queue::Aux, pc: 1 });
    // An instruction of another queue is illegal as well, and so is what lies beyond the program.
    let run = chip.run([0, 0, 0, 2], &[]);
    assert_eq!(run.state, State::Illegal { queue: Queue::Drain, pc: 2 });
    chip.program(&assemble("end\nfetch n0=1\nend").unwrap()).unwrap();
    assert_eq!(chip.run([0, 1, 0, 0], &[]).state, State::Illegal { queue: Queue::Array, pc: 1 });
}

#[test]
fn waits_that_nothing_meets_are_reported() {
    let mut chip = chip("end\nfetch wait.array=1 n0=1\nend");
    let run = chip.run([1, 0, 0, 0], &[5]);
    assert_eq!(run.state, State::Stuck);
}

#[test]
fn an_empty_program_ends_when_its_four_ends_are_fetched() {
    let mut chip = chip("end");
    let run = chip.run([0; 4], &[]);
    assert_eq!(run.state, State::Done);
    // Four fetches of nine cycles; the last end is consumed in cycle 36, seen in 37.
    assert_eq!(run.counters.cycles, 38);
}

#[test]
fn words_pass_through_memory_in_both_directions() {
    let mut chip = chip("fetch base=3 n0=4 n1=2 step=16\nend\ndrain wait.fetch=1 base=3 n0=4 n1=2 step=16\nend");
    let words: Vec<u64> = (1..=8).map(|i| i * 0x0101_0101).collect();
    let run = chip.run([0, 1, 1, 2], &words);
    assert_eq!((run.state, run.output), (State::Done, words));
}
