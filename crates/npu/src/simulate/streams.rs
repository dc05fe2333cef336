//! The streams in and out. Sections 6.4 and 6.9 of the specification.

use std::collections::VecDeque;

use super::{decode::Transfer, memory::Memory};
use crate::config::DRAIN_WORDS;

#[derive(Debug, Clone, Copy)]
struct Cursor {
    transfer: Transfer,
    run: u32,
    word: u32,
}

impl Cursor {
    fn address(&self) -> u32 {
        let t = &self.transfer;
        t.base.wrapping_add(self.run.wrapping_mul(t.step)).wrapping_add(self.word) & 0x00ff_ffff
    }

    /// To the next word; whether there is one.
    fn advance(&mut self) -> bool {
        self.word += 1;
        if self.word == self.transfer.run {
            self.word = 0;
            self.run += 1;
        }
        self.run < self.transfer.runs
    }
}

#[derive(Debug, Default)]
pub(super) struct FetchUnit {
    current: Option<Cursor>,
    pub words: u64,
}

/// The memory that the fetch unit writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Activations,
    Weights,
    Other,
}

impl FetchUnit {
    pub(super) fn start(&mut self, transfer: Transfer) {
        self.current = Some(Cursor { transfer, run: 0, word: 0 });
    }

    pub(super) fn is_free(&self) -> bool {
        self.current.is_none()
    }

    /// Where the next word goes.
    pub(super) fn space(&self) -> Option<Space> {
        self.current.map(|c| match c.transfer.space {
            0 => Space::Activations,
            1 => Space::Weights,
            _ => Space::Other,
        })
    }

    /// Where in it.
    pub(super) fn address(&self) -> u32 {
        self.current.map_or(0, |c| c.address())
    }

    /// Takes a word; gives whether the instruction is complete with it.
    pub(super) fn take(&mut self, word: u64, memory: &mut Memory) -> bool {
        let Some(cursor) = &mut self.current else { return false };
        self.words += 1;
        let at = cursor.address();
        match cursor.transfer.space {
            0 => memory.write(at, word, u64::MAX),
            1 => put(&mut memory.weights, at, word),
            2 => put(&mut memory.parameters, at, word),
            _ => {
                let at = at as usize * 8;
                if let Some(to) = memory.tables.get_mut(at..at + 8) {
                    to.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        if cursor.advance() {
            return false;
        }
        self.current = None;
        true
    }
}

fn put(memory: &mut [u64], at: u32, word: u64) {
    if let Some(to) = memory.get_mut(at as usize) {
        *to = word;
    }
}

#[derive(Debug, Default)]
pub(super) struct DrainUnit {
    /// What is to be read.
    reading: Option<Cursor>,
    /// The cycle from which it is.
    reads_at: u64,
    /// Words of the instruction that have not left.
    left: u64,
    buffer: VecDeque<(u64, u64)>,
    pub words: u64,
}

impl DrainUnit {
    pub(super) fn start(&mut self, transfer: Transfer, now: u64) {
        self.reads_at = now + 2;
        self.reading = Some(Cursor { transfer, run: 0, word: 0 });
        self.left = u64::from(transfer.run) * u64::from(transfer.runs);
    }

    pub(super) fn is_free(&self) -> bool {
        self.left == 0
    }

    /// Whether a word lies ready for the outside in this cycle.
    pub(super) fn is_valid(&self, now: u64) -> bool {
        self.buffer.front().is_some_and(|(at, _)| *at <= now)
    }

    /// One cycle: a word leaves if the outside is ready, one is read if its bank is free. Gives the word, and whether the instruction is
    /// complete with it.
    pub(super) fn cycle(&mut self, now: u64, ready: bool, memory: &mut Memory) -> (Option<u64>, bool) {
        let held = self.buffer.len();
        let word = if ready && self.is_valid(now) { self.buffer.pop_front().map(|(_, w)| w) } else { None };
        if held < DRAIN_WORDS
            && self.reads_at <= now
            && let Some(cursor) = &mut self.reading
        {
            let buffer = &mut self.buffer;
            let left = memory.serve(&[cursor.address()], 1, |_, word| buffer.push_back((now + 2, word)));
            if left == 0 && !cursor.advance() {
                self.reading = None;
            }
        }
        if word.is_some() {
            self.words += 1;
            self.left -= 1;
            return (word, self.left == 0);
        }
        (None, false)
    }
}
