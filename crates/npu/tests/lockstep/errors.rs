//! What a chip says of bad programs, and resets in the middle of good ones.

use qing_npu::{
    Config,
    isa::{Instruction, Opcode},
    simulate::State,
};

use crate::{
    random,
    rtl::{Conditions, Pair, Random, built, streams},
};

/// Fills the memories of both with the same noise.
fn fill(pair: &mut Pair, random: &mut Random) {
    let (fetches, words) = random::noise(&pair.config().clone(), random);
    let (program, entries) = streams([fetches, vec![], vec![], vec![]]);
    pair.program(&program);
    pair.run(entries, &words, &Conditions::default(), &|| "noise".into());
}

/// Makes an instruction illegal.
fn spoil(instruction: &mut Instruction, queue: usize, random: &mut Random) {
    let opcodes = [[2u64].as_slice(), &[3], &[4, 6], &[5]];
    // Values that mean nothing; `fetch` and `drain` have none.
    let values: [&[(&str, i64)]; 9] = [
        &[("lo", 1), ("hi", 0)],
        &[("lgpo", 7)],
        &[("lgpo", 3), ("p0", 8)],
        &[("lgp", 7)],
        &[("lgt", 5)],
        &[("wbip", 1), ("wbits", 1), ("wsigned", 1)],
        &[("mode", 3)],
        &[("lgs", 7)],
        &[("lgs", 2), ("mode", 0), ("kh", 3), ("kw", 2)],
    ];
    match random.below(5) {
        3 | 4 if queue == 1 || queue == 2 => loop {
            let fields = values[random.below(9) as usize];
            if let Ok(spoilt) = instruction.with(fields) {
                *instruction = spoilt;
                return;
            }
        },
        0 => {
            let bad = [0, 7, 8, 9, 10, 11, 12, 13, 14, 15];
            instruction.0[0] = instruction.0[0] & !15 | bad[random.below(10) as usize];
        }
        1 => {
            // Legal, but in another queue.
            let others: Vec<u64> = (0..4).filter(|q| *q != queue).flat_map(|q| opcodes[q].to_vec()).collect();
            *instruction = Instruction([0; 8]);
            instruction.0[0] = others[random.below(others.len() as u64) as usize];
        }
        _ => {
            // A bit that has no meaning.
            let used = instruction.opcode().unwrap().used();
            let free: Vec<(usize, u32)> =
                (0..8).flat_map(|w| (0..64).map(move |b| (w, b))).filter(|(w, b)| used[*w] >> b & 1 == 0).collect();
            let (w, b) = free[random.below(free.len() as u64) as usize];
            instruction.0[w] |= 1 << b;
        }
    }
    assert!(instruction.opcode().is_none_or(|op| op.queue().is_some_and(|q| q as usize != queue)));
}

#[test]
fn illegal_instructions_are_reported() {
    if !built("nano") {
        return;
    }
    let mut random = Random(4);
    let mut pair = Pair::new("nano");
    let config = Config::preset("nano").unwrap();
    fill(&mut pair, &mut random);
    let mut reported = 0;
    for n in 0..40 {
        let (mut queues, input) = random::program(&config, &mut random, 6);
        let queue = random.below(4) as usize;
        let length = queues[queue].len() as u64;
        if length == 0 {
            queues[queue].push(Instruction::new([Opcode::Fetch, Opcode::Conv, Opcode::Aux, Opcode::Drain][queue]));
        }
        let at = random.below(length.max(1)) as usize;
        spoil(&mut queues[queue][at], queue, &mut random);
        let (program, entries) = streams(queues);
        let input: Vec<u64> = (0..input).map(|_| random.next()).collect();
        pair.program(&program);
        let run = pair.run(entries, &input, &Conditions::default(), &|| format!("program {n}: {program:016x?}"));
        // Not if the queue cannot come so far: then it is stuck, which is reported as well.
        assert_ne!(run.state, State::Done);
        reported += usize::from(matches!(run.state, State::Illegal { .. }));
    }
    assert!(reported > 20, "{reported}");
    println!("nano: {reported} illegal instructions reported, {} cycles equal", pair.cycles);
}

#[test]
fn what_lies_beyond_the_program_is_illegal() {
    if built("nano") {
        let mut pair = Pair::new("nano");
        pair.program(&[Instruction::new(Opcode::End)]);
        for entry in [1, 255, 256, 65535] {
            let run = pair.run([0, 0, entry, 0], &[], &Conditions::default(), &|| format!("entry {entry}"));
            assert!(matches!(run.state, State::Illegal { pc, .. } if pc == entry));
        }
    }
}

#[test]
fn waits_that_never_end_are_reported() {
    if built("nano") {
        let mut pair = Pair::new("nano");
        let drain = Instruction::new(Opcode::Drain).with(&[("n0", 5), ("wait.array", 1)]).unwrap();
        let (program, entries) = streams([vec![], vec![], vec![], vec![drain]]);
        pair.program(&program);
        let run = pair.run(entries, &[], &Conditions::default(), &|| "a wait for nothing".into());
        assert_eq!(run.state, State::Stuck);
    }
}

#[test]
fn a_reset_in_the_middle_leaves_nothing_but_memories() {
    if !built("nano") {
        return;
    }
    let mut random = Random(5);
    let mut pair = Pair::new("nano");
    let config = Config::preset("nano").unwrap();
    for n in 0..20 {
        let (queues, input) = random::program(&config, &mut random, 8);
        let (program, entries) = streams(queues);
        let input: Vec<u64> = (0..input).map(|_| random.next()).collect();
        let what = || format!("program {n}: {program:016x?}");
        pair.program(&program);
        // The RTL alone is cut; both get new memories before the whole run.
        let reset = random.below(1500);
        let cut = pair.rtl.run(entries, &input, &Conditions { reset: Some(reset), ..Conditions::default() }, 1 << 32);
        let was_reset = (cut.status, cut.cycles) == (0, 0);
        assert!(was_reset || cut.status == 2 && cut.cycles <= reset, "{cut:?}");
        fill(&mut pair, &mut random);
        pair.compare_memory(config.activation_words(), &what);
        pair.program(&program);
        pair.run(entries, &input, &Conditions::default(), &what);
    }
    println!("nano: 20 resets in the middle, {} cycles equal afterwards", pair.cycles);
}
