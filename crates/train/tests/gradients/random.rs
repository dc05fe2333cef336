//! Numbers that are the same in every run.

use qing_graph::Tensor;

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(name: &str) -> Random {
        Random(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number from 0 to before `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A whole number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub(crate) fn chance(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn tensor(&mut self, shape: &[usize], low: f64, high: f64) -> Tensor {
        let values = (0..shape.iter().product()).map(|_| self.uniform(low, high)).collect();
        Tensor::new::<f64>(shape, values).expect("as many values as the shape has")
    }

    pub(crate) fn shape(&mut self, rank: usize, largest: usize) -> Vec<usize> {
        (0..rank).map(|_| self.range(1, largest)).collect()
    }
}
