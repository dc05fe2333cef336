//! Values that will be read next, fetched a share at a time while others are computed with.

/// A range of values in shares of whole cache lines.
pub(super) struct Ahead {
    from: *const f32,
    len: usize,
    share: usize,
}

impl Ahead {
    /// The `len` values from `start` of `all`, or beyond its end: what comes next in memory is the next image.
    pub(super) fn new(all: &[f32], start: usize, len: usize, turns: usize) -> Ahead {
        let share = len.div_ceil(turns.max(1)).next_multiple_of(16);
        Ahead { from: all.as_ptr().wrapping_add(start), len, share }
    }

    /// The cache lines of a turn, to be prefetched: they need not be there.
    #[inline(always)]
    pub(super) fn lines(&self, turn: usize) -> impl Iterator<Item = *const f32> {
        let from = self.from;
        (turn * self.share..self.len.min((turn + 1) * self.share)).step_by(16).map(move |at| from.wrapping_add(at))
    }
}
