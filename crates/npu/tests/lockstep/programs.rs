//! Single layers at every pair of precisions, and random programs of all queues.

use qing_npu::{
    isa::{Instruction, Opcode, disassemble},
    simulate::State,
};

use crate::{
    random::{self, Wish},
    rtl::{Conditions, Pair, Random, built, streams},
};

fn programs(default: usize) -> usize {
    std::env::var("QING_NPU_PROGRAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// A pair whose memories are full of the same noise.
fn noisy(preset: &str, random: &mut Random) -> Pair {
    let mut pair = Pair::new(preset);
    let config = qing_npu::Config::preset(preset).unwrap();
    let (fetches, words) = random::noise(&config, random);
    let (program, entries) = streams([fetches, vec![], vec![], vec![]]);
    pair.program(&program);
    pair.run(entries, &words, &Conditions::default(), &|| "noise".into());
    pair
}

fn listing(program: &[Instruction]) -> String {
    disassemble(program).unwrap_or_else(|e| e.to_string())
}

fn every_pair_of_precisions(preset: &str) {
    if !built(preset) {
        return;
    }
    let mut random = Random(1);
    let mut pair = noisy(preset, &mut random);
    let config = qing_npu::Config::preset(preset).unwrap();
    let each = programs(192) / 64;
    let words = config.activation_words().min(1 << 14);
    for abits in 1..=8 {
        for wbits in 1..=8 {
            for n in 0..each.max(1) {
                let conv = random::conv(&config, &mut random, Wish { bits: Some((abits, wbits)) });
                let (program, entries) = streams([vec![], vec![conv], vec![], vec![]]);
                let what = || format!("{abits} × {wbits} bits, layer {n}\n{}", listing(&program));
                pair.program(&program);
                pair.run(entries, &[], &Conditions::default(), &what);
                if n == 0 {
                    pair.compare_memory(words, &what);
                }
            }
        }
    }
    println!("{preset}: single layers at all 64 pairs of precisions, {} cycles equal", pair.cycles);
}

#[test]
fn nano_at_every_pair_of_precisions() {
    every_pair_of_precisions("nano");
}

fn random_programs(preset: &str, seed: u64, count: usize, conditions: impl Fn(&mut Random) -> Conditions) -> u64 {
    let mut random = Random(seed);
    let mut pair = noisy(preset, &mut random);
    let config = qing_npu::Config::preset(preset).unwrap();
    let words = config.activation_words().min(1 << 14);
    for n in 0..count {
        let length = random.between(1, 16) as usize;
        let (queues, input) = random::program(&config, &mut random, length);
        let (program, entries) = streams(queues);
        let input: Vec<u64> = (0..input).map(|_| random.next()).collect();
        let conditions = conditions(&mut random);
        let what = || format!("program {n} of seed {seed}, {conditions:?}\n{}", listing(&program));
        pair.program(&program);
        pair.run(entries, &input, &conditions, &what);
        if n % 4 == 3 {
            pair.compare_memory(words, &what);
        }
    }
    pair.cycles
}

#[test]
fn nano_runs_random_programs() {
    if built("nano") {
        let cycles = random_programs("nano", 2, programs(100), |_| Conditions::default());
        println!("nano: random programs, {cycles} cycles equal");
    }
}

#[test]
fn nano_with_streams_that_wait() {
    if built("nano") {
        let slow = |random: &mut Random| Conditions { input: random.next(), output: random.next(), reset: None };
        let cycles = random_programs("nano", 3, programs(60), slow);
        println!("nano: random programs with back-pressure, {cycles} cycles equal");
    }
}

/// Instructions that the specification calls illegal or unspecified: reported by both, or done alike.
fn wild_instructions(preset: &str, count: usize) {
    if !built(preset) {
        return;
    }
    let mut random = Random(6);
    let mut pair = noisy(preset, &mut random);
    let config = qing_npu::Config::preset(preset).unwrap();
    let words = config.activation_words().min(1 << 14);
    let mut illegal = 0;
    for n in 0..count {
        let (queue, instruction) = random::wild(&config, &mut random);
        let mut queues: [Vec<Instruction>; 4] = Default::default();
        queues[queue].push(instruction);
        let (program, entries) = streams(queues);
        let what = || format!("wild instruction {n}\n{}", listing(&program));
        pair.program(&program);
        let run = pair.run(entries, &[], &Conditions::default(), &what);
        illegal += usize::from(run.state != State::Done);
        if n % 4 == 3 {
            pair.compare_memory(words, &what);
        }
    }
    println!("{preset}: {count} wild instructions, {illegal} of them illegal, {} cycles equal", pair.cycles);
}

#[test]
fn nano_with_wild_instructions() {
    wild_instructions("nano", programs(200));
}

#[test]
#[ignore = "long: needs larger models, suite/npu/run --full"]
fn larger_presets_run_random_programs() {
    for preset in ["edge", "core"] {
        if built(preset) {
            let slow = |random: &mut Random| {
                let waits = random.chance(2);
                let mut seed = || if waits { random.next() } else { 0 };
                Conditions { input: seed(), output: seed(), reset: None }
            };
            let cycles = random_programs(preset, 7, programs(100), slow);
            println!("{preset}: random programs, {cycles} cycles equal");
        }
        every_pair_of_precisions(preset);
        wild_instructions(preset, programs(100));
    }
}

#[test]
fn end_is_an_instruction() {
    if built("nano") {
        let mut pair = Pair::new("nano");
        pair.program(&[Instruction::new(Opcode::End)]);
        let run = pair.run([0; 4], &[], &Conditions::default(), &|| "four ends".into());
        assert!(run.counters.cycles > 0);
    }
}
