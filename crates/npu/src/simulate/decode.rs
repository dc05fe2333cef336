//! Instructions as the units read them.

use crate::{
    Config,
    config::LANES,
    isa::{Instruction, Opcode},
};

/// A tensor in the activation memory that is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Operand {
    pub base: u32,
    /// From one plane to the next, in words.
    pub plane: u32,
    pub group: u32,
    pub bits: usize,
    pub signed: bool,
}

/// Which input pixels the taps of an output pixel read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    pub w: i32,
    pub h: i32,
    pub kh: i32,
    pub kw: i32,
    pub sy: i32,
    pub sx: i32,
    pub pad: u32,
    pub y0: i32,
    pub x0: i32,
    pub ow: i32,
    pub lrow: i32,
    pub rstep: i32,
    pub kstep: i32,
}

/// What becomes of sums.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Finish {
    pub zero: i32,
    pub lo: i32,
    pub hi: i32,
    pub bits: usize,
    pub raw: bool,
    pub table: Option<usize>,
    pub parameters: usize,
    pub base: u32,
    pub plane: u32,
    pub group: u32,
    pub lg_pixels: u32,
    pub lane0: usize,
    pub p0: usize,
    /// Pixels per row of the output, and those left out after it.
    pub row: usize,
    pub gap: usize,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conv {
    pub input: Operand,
    pub window: Window,
    pub pixels: usize,
    pub channel_groups: usize,
    pub last_channels: usize,
    pub weight_bits: usize,
    pub weight_signed: bool,
    pub bipolar: bool,
    pub lg_pixels: u32,
    pub lg_taps: u32,
    pub dy: i32,
    pub dx: i32,
    pub weights: usize,
    pub tiles: usize,
    pub last_columns: usize,
    pub finish: Finish,
}

impl Conv {
    /// Reduction groups of an output.
    pub(super) fn groups(&self) -> usize {
        let taps = (self.window.kh * self.window.kw) as usize;
        if self.lg_taps == 0 { taps * self.channel_groups } else { taps.div_ceil(1 << self.lg_taps) }
    }

    /// log2 of the planes of a slot of the operand buffer.
    pub(super) fn lg_slot(&self) -> u32 {
        self.input.bits.max(self.weight_bits).next_power_of_two().trailing_zeros()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    #[default]
    Weighted,
    Sum,
    Max,
    Add,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Auxiliary {
    pub mode: Mode,
    pub input: Operand,
    /// The second operand of an addition.
    pub second: Operand,
    pub multipliers: [i32; 2],
    pub window: Window,
    pub pixels: usize,
    pub channel_groups: usize,
    pub last_channels: usize,
    pub advance: bool,
    pub xrep: usize,
    pub yrep: usize,
    /// log2 of pixels per word where words are shifted against each other.
    pub lg_shift: u32,
    pub weights: usize,
    pub finish: Finish,
}

impl Auxiliary {
    /// Channels of a group: 64, or fewer in the last one.
    pub(super) fn channels(&self, group: usize) -> usize {
        if group + 1 == self.channel_groups { self.last_channels } else { LANES }
    }

    /// Blocks of 3 × 3 taps, in rows and columns.
    pub(super) fn blocks(&self) -> (i32, i32) {
        if self.mode == Mode::Add { (1, 1) } else { ((self.window.kh + 2) / 3, (self.window.kw + 2) / 3) }
    }

    /// Planes that are read of every tap.
    pub(super) fn planes(&self) -> usize {
        if self.mode == Mode::Add { self.input.bits.max(self.second.bits) } else { self.input.bits }
    }
}

/// Words between a stream and a memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Transfer {
    pub space: u32,
    pub base: u32,
    pub run: u32,
    pub runs: u32,
    pub step: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Decoded {
    End,
    Fetch(Transfer),
    Conv(Conv),
    Aux(Auxiliary),
    Drain(Transfer),
}

/// `None` if the instruction is illegal.
pub(super) fn decode(instruction: &Instruction, config: &Config) -> Option<Decoded> {
    let op = instruction.opcode()?;
    if instruction.violation(config.columns).is_some() {
        return None;
    }
    let fields = op.fields();
    let get = |name: &str| fields.iter().find(|f| f.name == name).map_or(0, |f| f.get(&instruction.0));
    let int = |name: &str| get(name) as i32;
    let size = |name: &str| get(name) as usize;
    let word = |name: &str| get(name) as u32;
    let stride = |name: &str| word(name).wrapping_mul(config.banks as u32).wrapping_add(1);
    let input = Operand {
        base: word("base"),
        plane: stride("ps"),
        group: word("gs"),
        bits: size("abits"),
        signed: get("asigned") != 0,
    };
    let window = Window {
        w: int("w"),
        h: int("h"),
        kh: int("kh"),
        kw: int("kw"),
        sy: int("sy"),
        sx: int("sx"),
        pad: word("pad"),
        y0: int("y0"),
        x0: int("x0"),
        ow: int("ow"),
        lrow: int("lrow"),
        rstep: int("rstep"),
        kstep: int("kstep"),
    };
    let finish = Finish {
        zero: int("zero"),
        lo: int("lo"),
        hi: int("hi"),
        bits: size("obits"),
        raw: get("raw") != 0,
        table: (get("ten") != 0).then(|| size("tsel")),
        parameters: size("par"),
        base: word("obase"),
        plane: stride("ops"),
        group: word("ogs"),
        lg_pixels: word("lgpo"),
        lane0: size("lane0"),
        p0: size("p0"),
        row: size("ow"),
        gap: size("ogap"),
    };
    let transfer =
        Transfer { space: word("space"), base: word("base"), run: word("n0"), runs: word("n1"), step: word("step") };
    Some(match op {
        Opcode::End => Decoded::End,
        Opcode::Fetch => Decoded::Fetch(transfer),
        Opcode::Drain => Decoded::Drain(transfer),
        Opcode::Conv => Decoded::Conv(Conv {
            input,
            window,
            pixels: size("n"),
            channel_groups: size("cg"),
            last_channels: size("cl"),
            weight_bits: size("wbits"),
            weight_signed: get("wsigned") != 0,
            bipolar: get("wbip") != 0,
            lg_pixels: word("lgp"),
            lg_taps: word("lgt"),
            dy: int("dy"),
            dx: int("dx"),
            weights: size("wbase"),
            tiles: size("ct"),
            last_columns: size("col"),
            finish,
        }),
        Opcode::Aux | Opcode::Add => Decoded::Aux(Auxiliary {
            mode: match (op, get("mode")) {
                (Opcode::Add, _) => Mode::Add,
                (_, 0) => Mode::Weighted,
                (_, 1) => Mode::Sum,
                _ => Mode::Max,
            },
            input,
            second: Operand {
                base: word("bbase"),
                plane: stride("bps"),
                group: word("bgs"),
                bits: size("bbits"),
                signed: get("bsigned") != 0,
            },
            multipliers: [int("ma"), int("mb")],
            window,
            pixels: size("n"),
            channel_groups: size("cg"),
            last_channels: size("cl"),
            advance: get("pinc") != 0,
            xrep: size("xrep"),
            yrep: size("yrep"),
            lg_shift: word("lgs"),
            weights: size("wbase"),
            finish,
        }),
    })
}
