//! How the matrix kernel of each instruction set wants its weights.

use crate::cpu::Isa;

/// The order of packed weights: `[panel][step][…]`, where a step is a few bytes of a row and the rest depends on the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Columns of a vector of sums; panels are padded to whole ones.
    pub lanes: usize,
    /// Vectors side by side in a panel; the last panel of a group may have fewer.
    pub vectors: usize,
    /// Bytes of a row that a step consumes.
    pub step: usize,
    /// Bytes of packed weights of a column and step.
    pub weight: usize,
    /// Whether the kernel takes 128 from every byte of the input, so that it is signed; the bias makes up for it.
    pub signed: bool,
    order: Order,
}

/// The order of weights within a panel and a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// `[column][tap]`: products side by side, for instructions that add them up.
    Columns,
    /// `[tap][column]`.
    Taps,
    /// 16-bit numbers `[even or odd][column][2]`: taps 0 and 2 of every column, then 1 and 3.
    EvenOdd,
}

impl Layout {
    /// The layout of a set's kernel, or `None` where there is none.
    pub(super) fn of(isa: Isa) -> Option<Layout> {
        let (lanes, step, weight, order) = match isa {
            Isa::Avx512 => (16, 4, 4, Order::Columns),
            Isa::AvxVnni => (8, 4, 4, Order::Columns),
            Isa::Avx2 => (8, 4, 8, Order::EvenOdd),
            Isa::NeonI8mm => (4, 8, 8, Order::Columns),
            Isa::NeonDot => (4, 4, 4, Order::Columns),
            Isa::Neon => (4, 4, 4, Order::Taps),
            Isa::Simd128 => (4, 4, 8, Order::EvenOdd),
            Isa::Scalar => return None,
        };
        let vectors = if isa == Isa::Avx512 { 4 } else { 2 };
        Some(Layout { lanes, vectors, step, weight, signed: isa == Isa::NeonDot, order })
    }

    /// Appends one step of a panel `width` columns wide; `weight(column, tap)` is 0 beyond the weights.
    pub(super) fn pack(&self, packed: &mut Vec<i8>, width: usize, weight: impl Fn(usize, usize) -> i8) {
        match self.order {
            Order::Columns => {
                for column in 0..width {
                    packed.extend((0..self.step).map(|tap| weight(column, tap)));
                }
            }
            Order::Taps => {
                for tap in 0..self.step {
                    packed.extend((0..width).map(|column| weight(column, tap)));
                }
            }
            Order::EvenOdd => {
                for pair in [[0, 2], [1, 3]] {
                    for column in 0..width {
                        for tap in pair {
                            let [low, high] = i16::from(weight(column, tap)).to_le_bytes();
                            packed.extend([low as i8, high as i8]);
                        }
                    }
                }
            }
        }
    }
}
