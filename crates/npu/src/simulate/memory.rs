//! The memories, and who may use a port of them in a cycle.

use std::cell::Cell;

use crate::Config;

/// Contents of all memories but that of instructions.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Words of 64 lanes, one plane each.
    pub activations: Vec<u64>,
    /// Parts of 64 bits, `columns` to a weight word.
    pub weights: Vec<u64>,
    /// Bias (low half) and scale of every element of every vector.
    pub parameters: Vec<u64>,
    /// 256 entries each.
    pub tables: Vec<u8>,
    banks: usize,
    section_rows: usize,
    /// Words read since the counter was taken.
    reads: Cell<u64>,
    /// Per bank, the section that is written in this cycle plus one.
    busy: [u32; 16],
    /// Banks that have been asked for a read in this cycle.
    asked: u32,
}

impl Memory {
    pub(super) fn new(config: &Config) -> Memory {
        Memory {
            activations: vec![0; config.activation_words()],
            weights: vec![0; config.weight_words * config.columns],
            parameters: vec![0; config.parameter_vectors * config.columns],
            tables: vec![0; config.tables * 256],
            banks: config.banks,
            section_rows: (config.bank_words / config.sections).max(1),
            reads: Cell::new(0),
            busy: [0; 16],
            asked: 0,
        }
    }

    /// Words read since the last call.
    pub(super) fn take_reads(&self) -> u64 {
        self.reads.take()
    }

    /// The word at an address; zero beyond the end.
    pub(super) fn read(&self, address: u32) -> u64 {
        self.activations.get(address as usize).copied().unwrap_or(0)
    }

    /// Writes the lanes in `mask` and makes the macro busy.
    pub(super) fn write(&mut self, address: u32, word: u64, mask: u64) {
        if let Some(to) = self.activations.get_mut(address as usize) {
            *to = *to & !mask | word & mask;
            let (bank, section) = self.place(address);
            self.busy[bank] = section + 1;
        }
    }

    fn place(&self, address: u32) -> (usize, u32) {
        let address = address as usize;
        (address % self.banks, (address / self.banks / self.section_rows) as u32)
    }

    /// Whether a write keeps a read from being served in this cycle.
    pub(super) fn is_busy(&self, address: u32) -> bool {
        let (bank, section) = self.place(address);
        self.busy[bank] == section + 1
    }

    /// Whether post writes to the bank of this address in this cycle.
    pub(super) fn is_written(&self, address: u32) -> bool {
        self.busy[self.place(address).0] != 0
    }

    /// At the start of a cycle.
    pub(super) fn release(&mut self) {
        self.busy = [0; 16];
        self.asked = 0;
    }

    /// Serves what can be served of the requests whose bits are set in `pending`, calls `take` for each, and gives those left. Units ask in
    /// order of priority.
    pub(super) fn serve(&mut self, addresses: &[u32], pending: u32, mut take: impl FnMut(usize, u64)) -> u32 {
        // Banks that a unit of higher priority has asked are not for this one; for each other the address it serves.
        let mut asked = self.asked;
        let mut served = [None; 16];
        let mut left = pending;
        let mut rest = pending;
        while rest != 0 {
            let r = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let address = addresses[r];
            let bank = address as usize % self.banks;
            if asked & 1 << bank == 0 {
                asked |= 1 << bank;
                served[bank] = (!self.is_busy(address)).then_some(address);
                self.reads.set(self.reads.get() + u64::from(served[bank].is_some()));
            }
            if served[bank] == Some(address) {
                take(r, self.read(address));
                left &= !(1 << r);
            }
        }
        self.asked = asked;
        left
    }
}

/// The values of up to eight planes as bytes, lane by lane.
pub(super) fn transpose(planes: &[u64], signed: bool) -> [i16; 64] {
    let mut values = [0i16; 64];
    let top = planes.len() - 1;
    for chunk in 0..8 {
        // An 8 × 8 bit matrix: byte i is plane i of eight lanes.
        let mut m = 0u64;
        for i in 0..8 {
            let plane = if i <= top {
                planes[i]
            } else if signed {
                planes[top]
            } else {
                0
            };
            m |= (plane >> (8 * chunk) & 0xff) << (8 * i);
        }
        // Hacker's Delight, 7-3.
        let t = (m ^ (m >> 7)) & 0x00aa_00aa_00aa_00aa;
        m ^= t ^ (t << 7);
        let t = (m ^ (m >> 14)) & 0x0000_cccc_0000_cccc;
        m ^= t ^ (t << 14);
        let t = (m ^ (m >> 28)) & 0x0000_0000_f0f0_f0f0;
        m ^= t ^ (t << 28);
        for (k, byte) in m.to_le_bytes().into_iter().enumerate() {
            values[8 * chunk + k] = if signed { i16::from(byte as i8) } else { i16::from(byte) };
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_values() {
        for bits in 1..=8usize {
            let planes: Vec<u64> =
                (0..bits as u64).map(|i| 0x9e37_79b9_7f4a_7c15u64.rotate_left(7 * i as u32)).collect();
            for signed in [false, true] {
                let values = transpose(&planes, signed);
                for (lane, value) in values.into_iter().enumerate() {
                    let mut expected = 0i16;
                    for (i, p) in planes.iter().enumerate() {
                        let bit = (p >> lane & 1) as i16;
                        expected += if signed && i == bits - 1 { -(bit << i) } else { bit << i };
                    }
                    assert_eq!(value, expected, "{bits} {signed} {lane}");
                }
            }
        }
    }

    #[test]
    fn a_bank_serves_one_address_a_cycle_and_none_that_is_being_written() {
        let mut memory = Memory::new(&Config::preset("edge").unwrap());
        for a in 0..64 {
            memory.activations[a] = a as u64;
        }
        let addresses = [0, 8, 1, 0, 9];
        let mut seen = Vec::new();
        let left = memory.serve(&addresses, 0b11111, |r, w| seen.push((r, w)));
        assert_eq!((left, seen), (0b10010, vec![(0, 0), (2, 1), (3, 0)]));
        // Another unit, in the same cycle, finds these banks taken.
        assert_eq!(memory.serve(&[16, 2], 0b11, |_, w| assert_eq!(w, 2)), 0b01);
        memory.release();
        memory.write(9, 99, !0);
        let left = memory.serve(&addresses, left, |_, w| assert_eq!(w, 8));
        assert_eq!(left, 0b10000);
        memory.release();
        assert_eq!(memory.serve(&addresses, left, |_, w| assert_eq!(w, 99)), 0);
    }
}
