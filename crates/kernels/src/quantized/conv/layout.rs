//! How the matrix kernel of each instruction set wants its weights.

use crate::cpu::Isa;

/// The order of packed weights: `[panel][step][…]`, where a step is a few bytes of a row and the rest depends on the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Columns of a vector of sums; panels are padded to whole ones.
    pub lanes: usize,
    /// Vectors side by side in a panel; the last panel of a group may have fewer.
    pub vectors: usize,
    /// Taps of a row that a step consumes.
    pub step: usize,
    /// Bytes of packed weights of a column and step.
    pub weight: usize,
    /// Whether the kernel reads rows of 16-bit numbers: bytes are widened while they are gathered.
    pub wide: bool,
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
    /// 16-bit numbers `[column][tap]`.
    WideColumns,
    /// 16-bit numbers `[even or odd][column][2]`: taps 0 and 2 of every column, then 1 and 3.
    EvenOdd,
}

impl Layout {
    /// The layout of a set's kernel, or `None` where there is none.
    pub(super) fn of(isa: Isa) -> Option<Layout> {
        let (lanes, step, weight, order) = match isa {
            Isa::Avx512 => (16, 4, 4, Order::Columns),
            Isa::AvxVnni => (8, 4, 4, Order::Columns),
            Isa::Avx2 => (8, 2, 4, Order::WideColumns),
            Isa::NeonI8mm => (4, 8, 8, Order::Columns),
            Isa::NeonDot => (4, 4, 4, Order::Columns),
            Isa::Neon => (4, 4, 4, Order::Taps),
            Isa::Simd128 => (4, 4, 8, Order::EvenOdd),
            Isa::Scalar => return None,
        };
        let vectors = if isa == Isa::Avx512 { 4 } else { 2 };
        let (wide, signed) = (order == Order::WideColumns, isa == Isa::NeonDot);
        Some(Layout { lanes, vectors, step, weight, wide, signed, order })
    }

    /// Bytes of a number in a row, as the kernel reads it.
    pub(super) fn size(&self) -> usize {
        if self.wide { 2 } else { 1 }
    }

    /// Bytes of a packed panel `width` columns wide.
    pub(super) fn panel_len(&self, width: usize, depth: usize) -> usize {
        depth.div_ceil(self.step) * width * self.weight
    }

    /// Packs a panel `width` columns wide into zeros. `from` are the weights of its columns, `depth` each; there may be fewer
    /// than `width`.
    pub(super) fn pack(&self, into: &mut [i8], width: usize, from: &[i8], depth: usize) {
        let line = width * self.weight;
        for (column, weights) in from.chunks_exact(depth).enumerate() {
            let (whole, rest) = weights.split_at(depth / self.step * self.step);
            let mut lines = into.chunks_exact_mut(line);
            // The usual width of a step is known to the compiler.
            if self.order == Order::Columns && self.step == 4 {
                for (four, line) in whole.chunks_exact(4).zip(&mut lines) {
                    line[4 * column..4 * column + 4].copy_from_slice(four);
                }
            } else {
                for (taps, line) in whole.chunks_exact(self.step).zip(&mut lines) {
                    self.place(line, width, column, taps);
                }
            }
            if let Some(line) = lines.next().filter(|_| !rest.is_empty()) {
                self.place(line, width, column, rest);
            }
        }
    }

    /// Puts the taps of one step of a column where they belong in the step's `line`.
    #[inline]
    fn place(&self, line: &mut [i8], width: usize, column: usize, taps: &[i8]) {
        for (tap, weight) in taps.iter().enumerate() {
            match self.order {
                Order::Columns => line[column * self.step + tap] = *weight,
                Order::Taps => line[tap * width + column] = *weight,
                Order::WideColumns => put_wide(line, column * self.step + tap, *weight),
                Order::EvenOdd => put_wide(line, (tap % 2 * width + column) * 2 + tap / 2, *weight),
            }
        }
    }
}

/// Stores a weight as the 16-bit number `at`.
#[inline]
fn put_wide(line: &mut [i8], at: usize, weight: i8) {
    let [low, high] = i16::from(weight).to_le_bytes();
    (line[2 * at], line[2 * at + 1]) = (low as i8, high as i8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weight of every column and tap, where the documentation of the order says it lies.
    fn read(layout: &Layout, packed: &[i8], width: usize, column: usize, k: usize) -> i8 {
        let (step, tap) = (k / layout.step, k % layout.step);
        let line = &packed[step * width * layout.weight..][..width * layout.weight];
        let wide = |line: &[i8], at: usize| i16::from_le_bytes([line[2 * at] as u8, line[2 * at + 1] as u8]) as i8;
        match layout.order {
            Order::Columns => line[column * layout.step + tap],
            Order::WideColumns => wide(line, column * layout.step + tap),
            Order::Taps => line[tap * width + column],
            Order::EvenOdd => {
                let half = if tap % 2 == 0 { &line[..4 * width] } else { &line[4 * width..] };
                wide(half, column * 2 + tap / 2)
            }
        }
    }

    #[test]
    fn every_weight_is_where_its_order_says_and_the_rest_is_zero() {
        for isa in [Isa::Avx512, Isa::AvxVnni, Isa::Avx2, Isa::NeonI8mm, Isa::NeonDot, Isa::Neon, Isa::Simd128] {
            let layout = Layout::of(isa).expect("a matrix kernel");
            for (columns, depth) in [(1, 1), (layout.lanes, 7), (2 * layout.lanes - 1, 8), (3, 13)] {
                let width = columns.next_multiple_of(layout.lanes);
                let from: Vec<i8> = (0..columns * depth).map(|i| (i * 37 % 255) as u8 as i8).collect();
                let mut packed = vec![0; layout.panel_len(width, depth)];
                layout.pack(&mut packed, width, &from, depth);
                for column in 0..width {
                    for k in 0..depth.next_multiple_of(layout.step) {
                        let expected = if column < columns && k < depth { from[column * depth + k] } else { 0 };
                        assert_eq!(read(&layout, &packed, width, column, k), expected, "{isa:?} {column} {k}");
                    }
                }
            }
        }
    }
}
