//! Programs that no compiler makes: the simulator reports them, ends, and does the same every time.

use proptest::prelude::*;
use qing_npu::{
    Config,
    isa::{Instruction, Opcode, Queue},
    simulate::{Chip, State, Streams},
};

const PRESETS: [&str; 3] = ["nano", "edge", "core"];

/// Any bits, bits of fields alone, or those with sizes that let the instruction end soon.
fn instruction() -> impl Strategy<Value = Instruction> {
    (0u64..16, any::<[u64; 8]>(), 0..8).prop_map(|(opcode, bits, kind)| {
        if kind == 0 {
            return Instruction(bits);
        }
        let op = Opcode::ALL[opcode as usize % Opcode::ALL.len()];
        let mut made = Instruction(std::array::from_fn(|i| bits[i] & op.used()[i]));
        made.0[0] = made.0[0] & !15 | op.number();
        // Counts are masked, so that every value of every other field meets instructions that end.
        if kind > 1 {
            for (field, most) in [("n", 31), ("n0", 31), ("n1", 3), ("cg", 3), ("ct", 3), ("kh", 7), ("kw", 7)] {
                if let Some(f) = op.field(field) {
                    let value = (f.get(&made.0) - i64::from(f.minus_one)) & most;
                    f.set(&mut made.0, value + i64::from(f.minus_one));
                }
            }
        }
        if kind > 3 {
            for field in ["wait.fetch", "wait.array", "wait.aux", "wait.drain"] {
                if let Some(f) = op.field(field) {
                    f.set(&mut made.0, 0);
                }
            }
        }
        // Most of them legal, but for the rule that is met least by chance.
        if kind > 2
            && let (Some(lo), Some(hi)) = (op.field("lo"), op.field("hi"))
        {
            let (a, b) = (lo.get(&made.0), hi.get(&made.0));
            lo.set(&mut made.0, a.min(b));
            hi.set(&mut made.0, a.max(b));
        }
        made
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_program_ends_or_is_reported(
        program in proptest::collection::vec(instruction(), 0..12),
        entries in proptest::array::uniform4(0usize..13),
        words in proptest::collection::vec(any::<u64>(), 0..200),
        seed in any::<u64>(),
    ) {
        for preset in PRESETS {
            let config = Config::preset(preset).unwrap();
            let run = || {
                let mut chip = Chip::new(config.clone());
                for (i, w) in chip.memory.activations.iter_mut().chain(&mut chip.memory.weights).enumerate() {
                    *w = seed.wrapping_mul(2 * i as u64 + 1);
                }
                // Scales of any bits as well.
                for (i, w) in chip.memory.parameters.iter_mut().enumerate() {
                    *w = seed.rotate_left(i as u32 % 64);
                }
                chip.program(&program).unwrap();
                let run = chip.run_for(entries, &words, &mut Streams::default(), 30_000);
                (run.state, run.counters, run.output)
            };
            let (state, counters, output) = run();
            prop_assert_eq!(output.len() as u64, counters.drained);
            prop_assert!(counters.fetched <= words.len() as u64);
            match state {
                State::Illegal { queue, pc } => {
                    // What is reported is what is wrong.
                    let legal = program.get(pc).is_some_and(|i| {
                        let owner = i.opcode().map(Opcode::queue);
                        owner.is_some_and(|o| o.is_none_or(|o| o == queue)) && i.violation(config.columns).is_none()
                    });
                    prop_assert!(!legal, "{} {}: {:?}", queue.name(), pc, program[pc]);
                }
                State::Running => prop_assert_eq!(counters.cycles, 30_000),
                State::Done | State::Stuck | State::Starved => {}
            }
            prop_assert_eq!(run(), (state, counters, output));
        }
    }
}

/// A legal instruction of a queue.
fn legal(queue: Queue) -> Instruction {
    Instruction::new([Opcode::Fetch, Opcode::Conv, Opcode::Aux, Opcode::Drain][queue as usize])
}

#[test]
fn values_that_mean_nothing_stop_the_chip() {
    for (queue, fields) in [
        (Queue::Array, [("lo", 1), ("hi", 0)]),
        (Queue::Array, [("lgt", 5), ("kh", 3)]),
        (Queue::Array, [("lgpo", 2), ("p0", 4)]),
        (Queue::Array, [("wbip", 1), ("wbits", 2)]),
        (Queue::Aux, [("lgs", 7), ("kw", 3)]),
        (Queue::Aux, [("lgs", 1), ("mode", 1)]),
        (Queue::Aux, [("mode", 3), ("kh", 3)]),
    ] {
        for preset in PRESETS {
            let mut chip = Chip::new(Config::preset(preset).unwrap());
            let bad = legal(queue).with(&fields).unwrap();
            chip.program(&[legal(queue), bad, Instruction::new(Opcode::End)]).unwrap();
            let mut entries = [2; 4];
            entries[queue as usize] = 0;
            assert_eq!(chip.run(entries, &[]).state, State::Illegal { queue, pc: 1 }, "{preset} {fields:?}");
        }
    }
}

#[test]
fn columns_that_a_chip_has_not_are_illegal_there_alone() {
    for (preset, illegal) in [("nano", true), ("edge", true), ("core", false)] {
        let mut chip = Chip::new(Config::preset(preset).unwrap());
        let conv = Instruction::new(Opcode::Conv).with(&[("col", 9)]).unwrap();
        chip.program(&[conv, Instruction::new(Opcode::End)]).unwrap();
        let state = chip.run([1, 0, 1, 1], &[]).state;
        assert_eq!(
            state,
            if illegal { State::Illegal { queue: Queue::Array, pc: 0 } } else { State::Done },
            "{preset}"
        );
    }
}

#[test]
fn places_far_outside_wrap_around() {
    // The longest steps from row to row, more often than 32 bits of pixels can hold.
    let mut chip = Chip::new(Config::preset("nano").unwrap());
    let far = [("rstep", 65535), ("n", 40_000), ("lrow", 2_097_151), ("h", 4096), ("y0", 4000)];
    let conv = Instruction::new(Opcode::Conv).with(&far).unwrap();
    let aux = Instruction::new(Opcode::Aux).with(&far).unwrap().with(&[("mode", 1), ("wait.array", 1)]).unwrap();
    chip.program(&[conv, Instruction::new(Opcode::End), aux, Instruction::new(Opcode::End)]).unwrap();
    assert_eq!(chip.run([1, 0, 2, 1], &[]).state, State::Done);
}

#[test]
fn a_stream_that_is_too_short_is_told_from_a_slow_one() {
    let mut chip = Chip::new(Config::preset("nano").unwrap());
    let fetch = legal(Queue::Fetch).with(&[("n0", 5)]).unwrap();
    chip.program(&[fetch, Instruction::new(Opcode::End)]).unwrap();
    let run = chip.run([0, 1, 1, 1], &[1, 2, 3]);
    assert_eq!((run.state, run.counters.fetched), (State::Starved, 3));
    // Words that come at intervals longer than the watchdog's.
    let mut slow = Streams { input: Box::new(|t| t % 100_000 == 99_999), ..Streams::default() };
    assert_eq!(chip.run_with([0, 1, 1, 1], &[1, 2, 3, 4, 5], &mut slow).state, State::Done);
    let mut never = Streams { input: Box::new(|_| false), ..Streams::default() };
    let run = chip.run_for([0, 1, 1, 1], &[1, 2, 3, 4, 5], &mut never, 200_000);
    assert_eq!((run.state, run.counters.cycles), (State::Running, 200_000));
}
