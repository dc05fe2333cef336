//! Random numbers that depend on nothing but what they are for.
//!
//! Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) is a function of a key and a counter,
//! not a state that threads would have to share: the numbers that augment sample 17 in epoch 3 are the same whoever asks
//! for them and when. So seeds reproduce a run bit for bit at any number of threads, and a resumed run needs no more than
//! the epoch and the step.

/// What numbers are for; different purposes never share any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// First values of parameters.
    Initialize = 1,
    /// Order of samples.
    Shuffle = 2,
    /// Changes to one sample.
    Augment = 3,
    /// Changes to one batch.
    Mix = 4,
    /// Everything in tests and probes.
    Probe = 5,
}

/// A sequence of random numbers, named by a seed, a purpose and two numbers.
#[derive(Debug, Clone)]
pub struct Random {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

/// Ten rounds of Philox 4×32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xd251_1f53;
        let b = u64::from(counter[2]) * 0xcd9e_8d57;
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

impl Random {
    /// The sequence of (`seed`, `purpose`, `a`, `b`): for a sample, say, its epoch and its index.
    pub fn new(seed: u64, purpose: Purpose, a: u32, b: u32) -> Random {
        let key = [seed as u32, (seed >> 32) as u32];
        Random { key, counter: [0, purpose as u32, a, b], block: [0; 4], used: 4 }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// An integer below `n`, every one as likely (Lemire 2019); 0 if `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        if n == 0 {
            return 0;
        }
        let reject = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.bits()) * u64::from(n);
            if product as u32 >= reject {
                return (product >> 32) as u32;
            }
        }
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 24) as f32
    }

    /// A number in [`lo`, `hi`).
    pub fn between(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.unit()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// A standard normal number (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - f64::from(self.unit())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.unit())).cos()) as f32
    }

    /// A number of the gamma distribution of this shape and scale 1 (Marsaglia and Tsang 2000).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let u = 1.0 - f64::from(self.unit());
            return self.gamma(shape + 1.0) * u.powf(1.0 / shape);
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = f64::from(self.normal());
            let v = (1.0 + c * x).powi(3);
            let u = 1.0 - f64::from(self.unit());
            if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// A number of the beta distribution with both parameters `alpha`; the weights of mixup.
    pub fn beta(&mut self, alpha: f32) -> f32 {
        let (a, b) = (self.gamma(alpha.into()), self.gamma(alpha.into()));
        if a + b > 0.0 { (a / (a + b)) as f32 } else { 0.5 }
    }

    /// Puts the values into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let n = u32::try_from(i + 1).unwrap_or(u32::MAX);
            values.swap(i, self.below(n) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_answers() {
        // Random123's `kat_vectors`.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), answer);
    }

    #[test]
    fn distributions_have_their_moments() {
        let mut random = Random::new(1, Purpose::Probe, 0, 0);
        let n = 40_000;
        let moments = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / n as f64;
            (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64)
        };
        let near = |(m, v): (f64, f64), (mean, var): (f64, f64)| {
            assert!((m - mean).abs() < 0.02 && (v - var).abs() < 0.03, "{m} {v}, expected {mean} {var}");
        };
        near(moments((0..n).map(|_| random.unit().into()).collect()), (0.5, 1.0 / 12.0));
        near(moments((0..n).map(|_| random.normal().into()).collect()), (0.0, 1.0));
        for alpha in [0.2f32, 1.0, 3.0] {
            let var = 1.0 / (4.0 * (2.0 * f64::from(alpha) + 1.0));
            near(moments((0..n).map(|_| random.beta(alpha).into()).collect()), (0.5, var));
        }
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[random.below(7) as usize] += 1);
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_its_own() {
        let order = |seed, epoch| {
            let mut order: Vec<u32> = (0..100).collect();
            Random::new(seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
            order
        };
        let mut sorted = order(1, 1);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order(1, 1), order(1, 1));
        assert_ne!(order(1, 1), order(1, 2));
        assert_ne!(order(1, 1), order(2, 1));
    }
}
