//! Bytes, bit by bit, with probabilities learned from the bytes before: an arithmetic coder over a mixture of contexts (as in
//! PAQ, Mahoney 2005, without its neural mixing). Integers alone, so every machine decodes the same.

/// Entries of the table of each context.
const SLOTS: usize = 1 << 16;

/// What is known of the next bit in one context: its probability of being 1, and how often it was seen.
#[derive(Clone, Copy)]
struct Seen {
    one: u16,
    times: u8,
}

/// A count beyond this changes nothing: what is learned fades.
const MEMORY: u8 = 60;

/// The contexts of a stream, and what was seen in each.
struct Model {
    tables: Vec<Vec<Seen>>,
    /// The bytes before, latest lowest.
    before: u32,
    period: usize,
    at: usize,
    places: [usize; ORDERS],
    hashes: [u32; ORDERS],
}

/// Contexts at most: the place alone, one, two and three bytes before.
pub(in super::super) const ORDERS: usize = 4;

impl Model {
    fn new(period: usize, orders: usize) -> Model {
        let tables = vec![vec![Seen { one: 1 << 15, times: 0 }; SLOTS]; orders.clamp(1, ORDERS)];
        let mut model =
            Model { tables, before: 0, period: period.max(1), at: 0, places: [0; ORDERS], hashes: [0; ORDERS] };
        model.start();
        model
    }

    /// Contexts of the byte that comes.
    fn start(&mut self) {
        let place = (self.at % self.period) as u32;
        for order in 0..ORDERS {
            let mask = if order == 0 { 0 } else { u32::MAX >> (32 - 8 * order as u32) };
            let key =
                (self.before & mask).wrapping_mul(0x9e37_79b1) ^ (place * 4 + order as u32).wrapping_mul(0x85eb_ca6b);
            self.hashes[order] = key ^ key >> 15;
        }
    }

    /// Probability that the next bit is 1, of 2^16; `node` is 1 followed by the bits of this byte so far.
    fn probability(&mut self, node: u32) -> u32 {
        let (mut sum, mut weight) = (0u64, 0u64);
        for order in 0..self.tables.len() {
            let hash = self.hashes[order].wrapping_add(node.wrapping_mul(0xc2b2_ae35));
            let place = ((hash ^ hash >> 13).wrapping_mul(0x9e37_79b1) >> 16) as usize % SLOTS;
            self.places[order] = place;
            let seen = self.tables[order][place];
            if seen.times == 0 {
                continue;
            }
            // Longer contexts say more, and the more so the surer they are.
            let one = u64::from(seen.one);
            let sure = one.abs_diff(1 << 15) >> 7;
            let w = ((1 + u64::from(seen.times).min(16)) * (1 + sure * sure)) << (2 * order);
            sum += w * one;
            weight += w;
        }
        let p = sum.checked_div(weight).map_or(1 << 15, |p| p as u32);
        p.clamp(24, (1 << 16) - 24)
    }

    fn learn(&mut self, bit: u32) {
        for (table, place) in self.tables.iter_mut().zip(self.places) {
            let seen = &mut table[place];
            let target = if bit == 1 { 65535i32 } else { 0 };
            let step = (target - i32::from(seen.one)) * 2 / (2 * i32::from(seen.times) + 3);
            seen.one = (i32::from(seen.one) + step).clamp(0, 65535) as u16;
            seen.times = (seen.times + 1).min(MEMORY);
        }
    }

    fn end(&mut self, byte: u8) {
        self.before = self.before << 8 | u32::from(byte);
        self.at += 1;
        self.start();
    }
}

/// Codes bytes in so many contexts (1 to [`ORDERS`]); `period` is how many bytes make one element.
pub(in super::super) fn encode(bytes: &[u8], period: usize, orders: usize) -> Vec<u8> {
    let mut model = Model::new(period, orders);
    let (mut low, mut high) = (0u32, u32::MAX);
    let mut out = vec![];
    for byte in bytes {
        let mut node = 1;
        for i in (0..8).rev() {
            let bit = u32::from(byte >> i & 1);
            let middle = split(low, high, model.probability(node));
            if bit == 1 {
                high = middle;
            } else {
                low = middle + 1;
            }
            model.learn(bit);
            node = node << 1 | bit;
            while (low ^ high) >> 24 == 0 {
                out.push((high >> 24) as u8);
                (low, high) = (low << 8, high << 8 | 255);
            }
        }
        model.end(*byte);
    }
    // As many bytes as tell the interval from its neighbours; the decoder reads zeros after them.
    out.push((high >> 24) as u8);
    while out.last() == Some(&0) {
        out.pop();
    }
    out
}

fn split(low: u32, high: u32, p: u32) -> u32 {
    low + ((u64::from(high - low) * u64::from(p)) >> 16) as u32
}

/// The bytes again: `count` of them.
///
/// # Errors
/// If there are more coded bytes than those need. What was damaged otherwise gives other bytes.
pub(in super::super) fn decode(bytes: &[u8], count: usize, period: usize, orders: usize) -> Result<Vec<u8>, String> {
    let mut model = Model::new(period, orders);
    let (mut low, mut high) = (0u32, u32::MAX);
    let mut at = 0;
    let mut next = || {
        at += 1;
        u32::from(bytes.get(at - 1).copied().unwrap_or(0))
    };
    let mut code = 0u32;
    for _ in 0..4 {
        code = code << 8 | next();
    }
    let mut out = vec![0; count];
    for byte in &mut out {
        let mut node = 1u32;
        for _ in 0..8 {
            let middle = split(low, high, model.probability(node));
            let bit = u32::from(code <= middle);
            if bit == 1 {
                high = middle;
            } else {
                low = middle + 1;
            }
            model.learn(bit);
            node = node << 1 | bit;
            while (low ^ high) >> 24 == 0 {
                (low, high) = (low << 8, high << 8 | 255);
                code = code << 8 | next();
            }
        }
        *byte = node as u8;
        model.end(*byte);
    }
    if at < bytes.len() {
        return Err("the coded bytes do not end where they should".into());
    }
    Ok(out)
}
