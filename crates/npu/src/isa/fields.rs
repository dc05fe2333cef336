//! Where every field of every instruction lies: the one table that encoder, assembler, documentation and RTL are made of.

/// Bits of an instruction are eight words of 64.
pub const WORDS: usize = 8;

/// A field of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name in assembly and, in capitals, in the RTL.
    pub name: &'static str,
    /// The word it lies in, 0 to 7.
    pub word: usize,
    /// Its lowest bit in that word.
    pub low: usize,
    /// Its bits.
    pub bits: usize,
    /// Two's complement.
    pub signed: bool,
    /// Stored minus one, so that 0 means 1.
    pub minus_one: bool,
    /// What it means, with its unit.
    pub docs: &'static str,
}

const fn field(name: &'static str, word: usize, low: usize, bits: usize, docs: &'static str) -> Field {
    Field { name, word, low, bits, signed: false, minus_one: false, docs }
}

const fn signed(name: &'static str, word: usize, low: usize, bits: usize, docs: &'static str) -> Field {
    Field { name, word, low, bits, signed: true, minus_one: false, docs }
}

const fn count(name: &'static str, word: usize, low: usize, bits: usize, docs: &'static str) -> Field {
    Field { name, word, low, bits, signed: false, minus_one: true, docs }
}

impl Field {
    /// Least and greatest value it can hold, as a programmer sees it.
    pub fn range(&self) -> (i64, i64) {
        let one = i64::from(self.minus_one);
        if self.signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (one, (1i64 << self.bits) - 1 + one)
        }
    }

    /// The field's value in an instruction.
    pub fn get(&self, words: &[u64; WORDS]) -> i64 {
        let raw = words[self.word] >> self.low & (u64::MAX >> (64 - self.bits));
        if self.signed {
            ((raw << (64 - self.bits)) as i64) >> (64 - self.bits)
        } else {
            raw as i64 + i64::from(self.minus_one)
        }
    }

    /// Puts a value that is in [`range`](Field::range) into an instruction.
    pub fn set(&self, words: &mut [u64; WORDS], value: i64) {
        let mask = u64::MAX >> (64 - self.bits);
        let raw = (value - i64::from(self.minus_one)) as u64 & mask;
        words[self.word] = words[self.word] & !(mask << self.low) | raw << self.low;
    }
}

const WAITS: [Field; 4] = [
    field("wait.fetch", 1, 0, 16, "instructions that the fetch queue must have completed"),
    field("wait.array", 1, 16, 16, "the same of the array queue"),
    field("wait.aux", 1, 32, 16, "the same of the aux queue"),
    field("wait.drain", 1, 48, 16, "the same of the drain queue"),
];

/// How results become planes: the same places in CONV, AUX and ADD.
const POST: [Field; 11] = [
    signed("zero", 0, 19, 9, "zero point, added after rounding"),
    signed("lo", 0, 28, 9, "least result"),
    signed("hi", 0, 37, 9, "greatest result"),
    count("obits", 0, 49, 3, "output: planes written, 1 to 8"),
    field("raw", 0, 52, 1, "1: the 32 planes of the sum itself are written"),
    field("ten", 0, 53, 1, "1: the result is looked up in a table"),
    field("tsel", 0, 54, 4, "which table"),
    field("par", 6, 48, 16, "first vector of biases and scales"),
    field("obase", 7, 0, 24, "output: address of plane 0 of the word of the first pixel"),
    field("ops", 7, 24, 16, "output: plane stride, in rows of all banks"),
    field("ogs", 7, 40, 24, "output: words from one group of 64 channels to the next"),
];

/// Where the channels and pixels of a result lie in their words: CONV and AUX.
const PLACE: [Field; 4] = [
    field("ogap", 0, 58, 6, "output: pixels left out after every row of ow pixels"),
    field("lgpo", 0, 46, 3, "output: log2 of pixels per word, 0 to 6"),
    field("lane0", 3, 56, 6, "output: lane of the first channel, a multiple of the columns"),
    field("p0", 5, 54, 6, "output: position of the first pixel in its word, below 2^lgpo"),
];

/// The first operand: CONV, AUX and ADD.
const OPERAND: [Field; 5] = [
    count("abits", 0, 4, 3, "input: bits, 1 to 8"),
    field("asigned", 0, 10, 1, "input: the top plane is negative"),
    field("base", 2, 0, 24, "input: address of plane 0 of pixel (0, 0)"),
    field("ps", 2, 24, 16, "input: plane stride, in rows of all banks"),
    field("gs", 2, 40, 24, "input: words from one group of 64 channels to the next"),
];

/// The window of input pixels: CONV and AUX.
const WINDOW: [Field; 13] = [
    count("w", 3, 0, 12, "input: pixels per row"),
    count("h", 3, 12, 12, "input: rows"),
    count("kh", 3, 24, 6, "kernel rows"),
    count("kw", 3, 30, 6, "kernel columns"),
    field("sy", 3, 36, 3, "vertical stride"),
    field("sx", 3, 39, 3, "horizontal stride"),
    field("pad", 3, 48, 8, "what a tap outside of the input reads, two's complement"),
    signed("y0", 4, 0, 13, "input row of tap (0, 0) of the first output pixel"),
    signed("x0", 4, 13, 13, "input column of tap (0, 0) of the first output pixel of each row"),
    count("ow", 4, 26, 12, "output pixels per row"),
    signed("lrow", 5, 0, 22, "y0 · pitch + x0, where pitch ≥ w is the distance of rows in memory, in pixels"),
    field("rstep", 5, 22, 16, "sy · pitch"),
    field("kstep", 5, 38, 16, "dy · pitch (aux: pitch)"),
];

const PIXELS: [Field; 1] = [count("n", 4, 38, 18, "output pixels of this instruction")];

const CHANNELS: [Field; 2] = [
    count("cg", 6, 34, 8, "groups of 64 input channels"),
    count("cl", 6, 42, 6, "channels in the last of them, 1 to 64"),
];

const STREAM: [Field; 4] = [
    field("base", 2, 0, 24, "first address"),
    count("n0", 2, 24, 24, "words of one run"),
    count("n1", 3, 0, 8, "runs"),
    field("step", 3, 8, 24, "addresses from the start of one run to the start of the next"),
];

const FETCH: [Field; 1] = [field("space", 0, 4, 2, "0 activations, 1 weights, 2 parameters, 3 tables")];

const CONV: [Field; 10] = [
    count("wbits", 0, 7, 3, "weights: bits, 1 to 8"),
    field("wsigned", 0, 11, 1, "weights: the top plane is negative"),
    field("wbip", 0, 12, 1, "weights are −1 and +1, coded 0 and 1; needs wbits = 1, wsigned = 0"),
    field("lgp", 0, 13, 3, "input: log2 of pixels per word, 0 to 6"),
    field("lgt", 0, 16, 3, "log2 of taps per group of lanes, 0 to 4"),
    field("dy", 3, 42, 3, "vertical dilation"),
    field("dx", 3, 45, 3, "horizontal dilation"),
    count("col", 4, 56, 4, "columns of the last tile that are output channels"),
    field("wbase", 6, 0, 24, "weights: first word"),
    count("ct", 6, 24, 10, "tiles of output channels"),
];

const AUX: [Field; 6] = [
    field("mode", 0, 7, 2, "0 weighted sum, 1 sum, 2 maximum"),
    field("pinc", 0, 11, 1, "1: the vector of parameters advances with the channels; 0: one for all"),
    count("xrep", 0, 12, 2, "output pixels in a row that read the same input column"),
    count("yrep", 0, 14, 2, "output rows that read the same input row"),
    field(
        "lgs",
        0,
        16,
        3,
        "log2 of pixels per word of a packed input, whose words stand for pixels; 0 if it is not packed",
    ),
    field("wbase", 6, 0, 24, "weights: first word"),
];

const ADD: [Field; 8] = [
    count("bbits", 0, 7, 3, "second input: bits, 1 to 8"),
    field("bsigned", 0, 11, 1, "second input: the top plane is negative"),
    field("pinc", 0, 12, 1, "1: the vector of parameters advances with the channels; 0: one for all"),
    field("bbase", 3, 0, 24, "second input: address of plane 0 of the first word"),
    field("bps", 3, 24, 16, "second input: plane stride, in rows of all banks"),
    field("bgs", 3, 40, 24, "second input: words from one group of 64 channels to the next"),
    field("ma", 5, 0, 16, "multiplier of the first input"),
    field("mb", 5, 16, 16, "multiplier of the second input"),
];

/// A queue of the chip: each runs its own instructions, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// The stream into the chip.
    Fetch,
    /// The array of popcount elements.
    Array,
    /// The auxiliary unit.
    Aux,
    /// The stream out of the chip.
    Drain,
}

impl Queue {
    /// All four, by number.
    pub const ALL: [Queue; 4] = [Queue::Fetch, Queue::Array, Queue::Aux, Queue::Drain];

    /// Its name in assembly and traces.
    pub fn name(self) -> &'static str {
        ["fetch", "array", "aux", "drain"][self as usize]
    }
}

/// An instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// The end of a queue's program.
    End,
    /// Stream into a memory.
    Fetch,
    /// Convolution or matrix product on the array.
    Conv,
    /// Depthwise convolution, pooling, copying on the auxiliary unit.
    Aux,
    /// Activations into the output stream.
    Drain,
    /// Sum of two activations on the auxiliary unit.
    Add,
}

impl Opcode {
    /// Every opcode; its number is its place here plus one (0 is illegal).
    pub const ALL: [Opcode; 6] = [Opcode::End, Opcode::Fetch, Opcode::Conv, Opcode::Aux, Opcode::Drain, Opcode::Add];

    /// Its name in assembly.
    pub fn name(self) -> &'static str {
        ["end", "fetch", "conv", "aux", "drain", "add"][self as usize]
    }

    /// Bits 0 to 3 of word 0.
    pub fn number(self) -> u64 {
        self as u64 + 1
    }

    /// The queue it belongs to; every queue has `end`.
    pub fn queue(self) -> Option<Queue> {
        match self {
            Opcode::End => None,
            Opcode::Fetch => Some(Queue::Fetch),
            Opcode::Conv => Some(Queue::Array),
            Opcode::Aux | Opcode::Add => Some(Queue::Aux),
            Opcode::Drain => Some(Queue::Drain),
        }
    }

    /// Its fields. Bits that none of them covers are zero, or the instruction is illegal.
    pub fn fields(self) -> Vec<Field> {
        let parts: &[&[Field]] = match self {
            Opcode::End => &[],
            Opcode::Fetch => &[&WAITS, &FETCH, &STREAM],
            Opcode::Conv => &[&WAITS, &OPERAND, &WINDOW, &PIXELS, &CHANNELS, &CONV, &PLACE, &POST],
            Opcode::Aux => &[&WAITS, &OPERAND, &WINDOW, &PIXELS, &CHANNELS, &AUX, &PLACE, &POST],
            Opcode::Drain => &[&WAITS, &STREAM],
            Opcode::Add => &[&WAITS, &OPERAND, &PIXELS, &CHANNELS, &ADD, &POST],
        };
        parts.iter().flat_map(|p| p.iter().copied()).collect()
    }

    /// The field of that name.
    pub fn field(self, name: &str) -> Option<Field> {
        self.fields().into_iter().find(|f| f.name == name)
    }

    /// For each word, the bits that may be set.
    pub fn used(self) -> [u64; WORDS] {
        let mut used = [0; WORDS];
        used[0] = 15;
        for f in self.fields() {
            used[f.word] |= (u64::MAX >> (64 - f.bits)) << f.low;
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_1_is_what_an_instruction_waits_for() {
        // The sequencer of the RTL looks at it before it knows which instruction it is of.
        for op in Opcode::ALL {
            assert_eq!(op.used()[1], if op == Opcode::End { 0 } else { u64::MAX }, "{op:?}");
        }
    }

    #[test]
    fn no_two_fields_of_an_instruction_overlap() {
        for op in Opcode::ALL {
            let mut used = [0u64; WORDS];
            used[0] = 15;
            for f in op.fields() {
                assert!(f.low + f.bits <= 64 && f.bits > 0, "{op:?} {}", f.name);
                let mask = (u64::MAX >> (64 - f.bits)) << f.low;
                assert_eq!(used[f.word] & mask, 0, "{op:?}: {} overlaps", f.name);
                used[f.word] |= mask;
            }
            assert_eq!(used, op.used());
        }
    }

    #[test]
    fn fields_of_one_name_lie_in_one_place_but_for_what_each_instruction_has_alone() {
        let mut seen = std::collections::BTreeMap::new();
        for op in [Opcode::Conv, Opcode::Aux] {
            for f in op.fields() {
                assert_eq!(*seen.entry(f.name).or_insert(f), f, "{op:?} {}", f.name);
            }
        }
    }

    #[test]
    fn values_come_back_from_every_field() {
        for op in Opcode::ALL {
            for f in op.fields() {
                let (low, high) = f.range();
                for v in [low, high, (low + high) / 2] {
                    let mut words = [u64::MAX; WORDS];
                    f.set(&mut words, v);
                    assert_eq!(f.get(&words), v, "{op:?} {}", f.name);
                }
            }
        }
    }
}
