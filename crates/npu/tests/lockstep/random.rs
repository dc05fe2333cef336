//! Random programs: every field of every instruction anywhere in what section 8 of the specification allows, memories full of noise.

use qing_npu::{
    Config,
    isa::{Instruction, Opcode},
};

use crate::rtl::Random;

/// What an array instruction must be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    /// Bits of activations and weights.
    pub(crate) bits: Option<(i64, i64)>,
}

/// Fills all memories with noise: a program and its input.
pub(crate) fn noise(config: &Config, random: &mut Random) -> (Vec<Instruction>, Vec<u64>) {
    let sizes = [
        config.activation_words(),
        config.weight_words * config.columns,
        config.parameter_vectors * config.columns,
        config.tables * 32,
    ];
    let mut program = Vec::new();
    let mut words = Vec::new();
    for (space, size) in sizes.into_iter().enumerate() {
        let fetch = Instruction::new(Opcode::Fetch);
        program.push(fetch.with(&[("space", space as i64), ("n0", size as i64)]).unwrap());
        for _ in 0..size {
            words.push(if space == 2 { parameter(random) } else { random.next() });
        }
    }
    (program, words)
}

/// A bias and a positive scale.
fn parameter(random: &mut Random) -> u64 {
    let bias = random.next() as i32 >> random.between(8, 31);
    let exponent = random.between(127 - 20, 127) as u32;
    u64::from(exponent << 23 | random.below(1 << 23) as u32) << 32 | u64::from(bias as u32)
}

/// Array instruction.
pub(crate) fn conv(config: &Config, random: &mut Random, wish: Wish) -> Instruction {
    let columns = config.columns as i64;
    let (abits, wbits) = wish.bits.unwrap_or_else(|| (random.between(1, 8), random.between(1, 8)));
    let wbip = i64::from(wbits == 1 && random.chance(2));
    let lgt = if random.chance(3) { random.between(1, 4) } else { 0 };
    let lgp = if random.chance(3) { random.between(1, 6) } else { 0 };
    let cg = if lgt > 0 || lgp > 0 { 1 } else { random.between(1, 3) };
    let cl = random.between(1, if cg > 1 { 64 } else { 64 >> lgt.max(lgp) });
    let (kh, kw) = if random.chance(4) {
        (random.between(1, 6), random.between(1, 6))
    } else {
        (random.between(1, 3), random.between(1, 3))
    };
    let (w, h) = (random.between(1, 12), random.between(1, 12));
    let pitch = w + if random.chance(3) { random.between(0, 5) } else { 0 };
    let (y0, x0) = (random.between(-3, 4), random.between(-3, 2));
    let (sy, sx, dy, dx) = (random.between(0, 3), random.between(0, 3), random.between(0, 3), random.between(0, 3));
    let ct = random.between(1, 3);
    let mut fields = vec![
        ("wbits", wbits),
        ("wsigned", if wbip == 1 { 0 } else { random.between(0, 1) }),
        ("wbip", wbip),
        ("lgt", lgt),
        ("lgp", lgp),
        ("cg", cg),
        ("cl", cl),
        ("kh", kh),
        ("kw", kw),
        ("w", w),
        ("h", h),
        ("y0", y0),
        ("x0", x0),
        ("sy", sy),
        ("sx", sx),
        ("dy", dy),
        ("dx", dx),
        ("pad", random.between(0, 255)),
        ("ow", random.between(1, 9)),
        ("n", random.between(1, 25)),
        ("lrow", y0 * pitch + x0),
        ("rstep", sy * pitch),
        ("kstep", dy * pitch),
        ("ct", ct),
        ("col", random.between(1, columns)),
        ("wbase", address(random, config.weight_words)),
    ];
    fields.extend(input(config, random, abits));
    fields.extend(post(config, random));
    fields.extend(place(config, random));
    Instruction::new(Opcode::Conv).with(&fields).unwrap()
}

/// Depthwise convolution or pooling.
pub(crate) fn aux(config: &Config, random: &mut Random) -> Instruction {
    let (kh, kw) = if random.chance(3) {
        (random.between(1, 7), random.between(1, 7))
    } else {
        (random.between(1, 3), random.between(1, 3))
    };
    let (w, h) = (random.between(1, 12), random.between(1, 12));
    let pitch = w + if random.chance(3) { random.between(0, 5) } else { 0 };
    let (y0, x0) = (random.between(-3, 2), random.between(-3, 2));
    let (sy, sx) = (random.between(0, 3), random.between(0, 3));
    let repeats = random.chance(4);
    let mut repeat = || if repeats { random.between(1, 4) } else { 1 };
    let (xrep, yrep) = (repeat(), repeat());
    let mut fields = vec![
        ("mode", random.between(0, 2)),
        ("pinc", random.between(0, 1)),
        ("xrep", xrep),
        ("yrep", yrep),
        ("kh", kh),
        ("kw", kw),
        ("w", w),
        ("h", h),
        ("y0", y0),
        ("x0", x0),
        ("sy", sy),
        ("sx", sx),
        ("pad", random.between(0, 255)),
        ("ow", random.between(1, 9)),
        ("n", random.between(1, 25)),
        ("lrow", y0 * pitch + x0),
        ("rstep", sy * pitch),
        ("kstep", pitch),
        ("cg", random.between(1, 3)),
        ("cl", random.between(1, 64)),
        ("wbase", address(random, config.weight_words)),
    ];
    if random.chance(4) {
        // A packed image: words for pixels, shifted against each other.
        let (w, x0) = (random.between(1, 4), -1);
        fields.extend([
            ("lgs", random.between(1, 6)),
            ("mode", random.between(0, 1)),
            ("kh", 3),
            ("kw", 3),
            ("sy", 1),
            ("sx", 1),
        ]);
        fields.extend([
            ("w", w),
            ("x0", x0),
            ("lrow", y0 * w + x0),
            ("rstep", w),
            ("kstep", w),
            ("xrep", 1),
            ("yrep", 1),
        ]);
    }
    let bits = random.between(1, 8);
    fields.extend(input(config, random, bits));
    fields.extend(post(config, random));
    fields.extend(place(config, random));
    Instruction::new(Opcode::Aux).with(&fields).unwrap()
}

/// Addition.
pub(crate) fn add(config: &Config, random: &mut Random) -> Instruction {
    let mut fields = vec![
        ("bbits", random.between(1, 8)),
        ("bsigned", random.between(0, 1)),
        ("pinc", random.between(0, 1)),
        ("bbase", address(random, config.activation_words())),
        ("bps", random.between(0, 40)),
        ("bgs", random.between(0, 300)),
        ("n", random.between(1, 40)),
        ("ma", random.between(0, 65535)),
        ("mb", random.between(0, 65535)),
        ("cg", random.between(1, 3)),
        ("cl", random.between(1, 64)),
    ];
    let bits = random.between(1, 8);
    fields.extend(input(config, random, bits));
    fields.extend(post(config, random));
    Instruction::new(Opcode::Add).with(&fields).unwrap()
}

/// A stream in; only to activations and weights, whose ports order what happens in the same cycle.
pub(crate) fn fetch(config: &Config, random: &mut Random) -> Instruction {
    let space = random.between(0, 1);
    let size = if space == 0 { config.activation_words() } else { config.weight_words * config.columns };
    transfer(Instruction::new(Opcode::Fetch), size, random).with(&[("space", space)]).unwrap()
}

/// A stream out.
pub(crate) fn drain(config: &Config, random: &mut Random) -> Instruction {
    transfer(Instruction::new(Opcode::Drain), config.activation_words(), random)
}

fn transfer(instruction: Instruction, size: usize, random: &mut Random) -> Instruction {
    instruction
        .with(&[
            ("base", address(random, size)),
            ("n0", random.between(1, 30)),
            ("n1", random.between(1, 4)),
            ("step", random.between(0, 60)),
        ])
        .unwrap()
}

/// Words that an instruction of the fetch queue takes.
pub(crate) fn words(fetch: &Instruction) -> usize {
    (fetch.get("n0") * fetch.get("n1")) as usize
}

/// Mostly inside, now and then at the end or beyond it.
fn address(random: &mut Random, size: usize) -> i64 {
    let size = size as i64;
    match random.below(16) {
        0 => (size - random.between(1, 40)).max(0),
        1 => random.between(size, (1 << 24) - 1),
        2 => (1 << 24) - random.between(1, 200),
        _ => random.between(0, size - 1),
    }
}

fn input(config: &Config, random: &mut Random, bits: i64) -> Vec<(&'static str, i64)> {
    vec![
        ("abits", bits),
        ("asigned", random.between(0, 1)),
        ("base", address(random, config.activation_words())),
        ("ps", random.between(0, 40)),
        ("gs", random.between(0, 300)),
    ]
}

fn post(config: &Config, random: &mut Random) -> Vec<(&'static str, i64)> {
    let (a, b) = (random.between(-256, 255), random.between(-256, 255));
    vec![
        ("zero", random.between(-256, 255)),
        ("lo", a.min(b)),
        ("hi", a.max(b)),
        ("obits", random.between(1, 8)),
        ("raw", i64::from(random.chance(6))),
        ("ten", i64::from(random.chance(4))),
        ("tsel", if random.chance(20) { random.between(0, 15) } else { random.between(0, config.tables as i64 - 1) }),
        (
            "par",
            if random.chance(20) {
                random.between(0, 65535)
            } else {
                random.between(0, config.parameter_vectors as i64 - 1)
            },
        ),
        ("obase", address(random, config.activation_words())),
        ("ops", random.between(0, 40)),
        ("ogs", random.between(0, 300)),
    ]
}

fn place(config: &Config, random: &mut Random) -> Vec<(&'static str, i64)> {
    let columns = config.columns as i64;
    let lgpo = if random.chance(3) { random.between(1, 6) } else { 0 };
    let lane0 =
        columns * random.between(0, if lgpo == 0 { 64 / columns - 1 } else { ((64 >> lgpo) / columns - 1).max(0) });
    vec![
        ("ogap", if random.chance(3) { random.between(0, 63) } else { 0 }),
        ("lgpo", lgpo),
        ("lane0", lane0),
        ("p0", random.between(0, (1 << lgpo) - 1)),
    ]
}

/// An instruction of the array or the auxiliary unit of which some fields have any value: it may be illegal, or do what the specification
/// leaves open. Sizes stay small.
pub(crate) fn wild(config: &Config, random: &mut Random) -> (usize, Instruction) {
    const SIZES: [&str; 10] = ["n", "ct", "cg", "kh", "kw", "ow", "wait.fetch", "wait.array", "wait.aux", "wait.drain"];
    let (queue, mut instruction) = match random.below(5) {
        0 | 1 => (1, conv(config, random, Wish::default())),
        2 | 3 => (2, aux(config, random)),
        _ => (2, add(config, random)),
    };
    let fields = instruction.opcode().unwrap().fields();
    for _ in 0..random.between(1, 6) {
        let field = &fields[random.below(fields.len() as u64) as usize];
        if !SIZES.contains(&field.name) {
            let (low, high) = field.range();
            instruction.set(field.name, random.between(low, high)).unwrap();
        }
    }
    (queue, instruction)
}

/// Instructions of all queues in one order, each waiting for some of those before it; gives the four queues and the words that come in.
pub(crate) fn program(config: &Config, random: &mut Random, length: usize) -> ([Vec<Instruction>; 4], usize) {
    let mut queues: [Vec<Instruction>; 4] = Default::default();
    let mut input = 0;
    for _ in 0..length {
        let (queue, mut instruction) = match random.below(12) {
            0..=4 => (1, conv(config, random, Wish::default())),
            5..=7 => (2, aux(config, random)),
            8 => (2, add(config, random)),
            9 | 10 => (0, fetch(config, random)),
            _ => (3, drain(config, random)),
        };
        let strict = random.chance(3);
        for (k, name) in ["wait.fetch", "wait.array", "wait.aux", "wait.drain"].into_iter().enumerate() {
            let before = queues[k].len() as i64;
            let wait = if strict { before } else { random.between(0, before) };
            instruction.set(name, wait).unwrap();
        }
        if queue == 0 {
            input += words(&instruction);
        }
        queues[queue].push(instruction);
    }
    (queues, input)
}
