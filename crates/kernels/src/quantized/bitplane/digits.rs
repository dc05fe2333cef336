//! Weights as digits of −1, 0 and +1, packed in panels of sixteen output channels.

use super::plane_words;
use crate::aligned::Aligned;
use crate::geometry::ConvGeometry;

/// Output channels of a panel.
pub(super) const LANES: usize = 16;

/// The largest weight that three digits hold.
pub(super) const MOST: u8 = 7;

/// Packed weights: one run of bytes that could as well lie in a file.
#[derive(Debug, Clone)]
pub(super) struct Digits {
    /// Words `[panel][digit][kernel row, kernel column, word of the channels][negative, not zero][lane]`; the words that
    /// say which digits are not zero are left out where all are ±1.
    words: Aligned<i8>,
    /// Digits of a weight: `w = Σ 2^i · digit[i]`.
    pub(super) count: usize,
    /// Whether a digit may be zero.
    pub(super) ternary: bool,
    /// Whether columns are packed in triples.
    pub(super) triples: bool,
    /// Steps of 32 products in one digit of one panel.
    pub(super) steps: usize,
    panels: usize,
    /// For each output channel, `Σ 2^i ·` how many digits `i` are negative.
    pub(super) negatives: Vec<i32>,
}

impl Digits {
    /// Packs `weights`, `[out_c, taps, in_c]`, if they are within ±7. With `triples`, windows three wide with digits of ±1
    /// are packed `[kernel row, word][3]`: the words of two columns, and the exclusive or of all three.
    pub(super) fn pack(g: &ConvGeometry, weights: &[i8], triples: bool) -> Option<Digits> {
        let most = weights.iter().map(|w| w.unsigned_abs()).max().unwrap_or(0);
        let odd = |most: i8| weights.iter().all(|w| w % 2 != 0 && w.unsigned_abs() <= most.unsigned_abs());
        // Digits of ±1 alone need half the memory: weights ±1, or ±1 and ±3.
        let (count, ternary) = match most {
            _ if odd(1) => (1, false),
            0 | 1 => (1, true),
            _ if odd(3) => (2, false),
            2 | 3 => (2, true),
            4..=7 => (3, true),
            _ => return None,
        };
        let digit = |w: i8, i: usize| -> i8 {
            if ternary {
                w.signum() * (w.unsigned_abs() >> i & 1) as i8
            } else if count == 1 {
                w
            } else {
                // w = low + 2·high
                let high = if w > 0 { 1 } else { -1 };
                if i == 1 { high } else { w - 2 * high }
            }
        };
        let (taps, channels) = (g.taps(), g.in_c);
        let words = plane_words(channels);
        let panels = g.out_c.div_ceil(LANES);
        let kinds = if ternary { 2 } else { 1 };
        let mut packed: Vec<[u32; LANES]> = Vec::with_capacity(panels * count * taps * words * kinds);
        let mut negatives = vec![0; g.out_c];
        for panel in 0..panels {
            for i in 0..count {
                for (tap, word) in (0..taps).flat_map(|tap| (0..words).map(move |word| (tap, word))) {
                    let mut bits = [[0u32; LANES]; 2];
                    for lane in 0..LANES.min(g.out_c - panel * LANES) {
                        let column = panel * LANES + lane;
                        for bit in 0..32.min(channels - 32 * word) {
                            let digit = digit(weights[(column * taps + tap) * channels + 32 * word + bit], i);
                            bits[0][lane] |= u32::from(digit < 0) << bit;
                            bits[1][lane] |= u32::from(digit != 0) << bit;
                        }
                        negatives[column] += (bits[0][lane].count_ones() << i) as i32;
                    }
                    packed.extend_from_slice(&bits[..kinds]);
                }
            }
        }
        let triples = triples && !ternary && g.kernel[1] == 3;
        if triples {
            for row in packed.chunks_exact_mut(3 * words) {
                let apart = row.to_vec();
                for (word, three) in row.chunks_exact_mut(3).enumerate() {
                    let [a, b, c] = [0, 1, 2].map(|column| apart[column * words + word]);
                    three.copy_from_slice(&[a, b, std::array::from_fn(|i| a[i] ^ b[i] ^ c[i])]);
                }
            }
        }
        let bytes: Vec<i8> = packed.iter().flatten().flat_map(|word| word.to_le_bytes().map(|b| b as i8)).collect();
        let words = Aligned::from(&bytes[..]);
        Some(Digits { words, count, ternary, triples, steps: taps * plane_words(channels), panels, negatives })
    }

    /// Forgets the words, where something else takes their place; and how many digits are negative if these are not the same.
    pub(super) fn leave_words(&mut self, same: bool) {
        self.words = Aligned::zeros(0);
        if !same {
            self.negatives.fill(0);
        }
    }

    /// Output channels with those that fill up the last panel.
    pub(super) fn padded(&self) -> usize {
        self.panels * LANES
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.words.len()
    }

    /// Words of one step: a word of each lane, of one or two kinds.
    pub(super) fn step_len(&self) -> usize {
        LANES * (1 + usize::from(self.ternary))
    }

    /// Words of one digit of a panel.
    pub(super) fn digit_len(&self) -> usize {
        self.steps * self.step_len()
    }

    /// Words of a panel.
    pub(super) fn panel_len(&self) -> usize {
        self.count * self.digit_len()
    }

    /// The words of the panels from `panel` on.
    pub(super) fn panel_words(&self, panel: usize) -> *const u32 {
        assert!(panel < self.panels);
        // `Aligned` starts on a cache line, so its bytes may be read as words.
        self.words[4 * panel * self.panel_len()..].as_ptr().cast()
    }
}
