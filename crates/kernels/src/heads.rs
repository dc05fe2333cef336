//! How queries, keys and values of several heads lie in memory, for the kernels of attention.

use std::ops::Range;

use crate::{KernelError, expect_len};

/// Where the rows of a head are: value `c` of row `i` of head `h` of item `b` is at `b·item + h·head + i·row + c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Distance between items of the batch.
    pub item: usize,
    /// Distance between heads.
    pub head: usize,
    /// Distance between rows.
    pub row: usize,
}

impl Rows {
    /// The rows of `[batch, heads, rows, size]`.
    #[must_use]
    pub fn split(heads: usize, rows: usize, size: usize) -> Rows {
        Rows { item: heads * rows * size, head: rows * size, row: size }
    }

    /// The rows of `[batch, rows, heads, size]`, as a projection leaves them.
    #[must_use]
    pub fn joined(heads: usize, rows: usize, size: usize) -> Rows {
        Rows { item: heads * rows * size, head: size, row: heads * size }
    }

    /// Where a head begins.
    pub(crate) fn start(&self, item: usize, head: usize) -> usize {
        item * self.item + head * self.head
    }
}

/// Where the mask is: that of query `i` and key `j` at `b·item + h·head + i·row + j·column`, a distance of 0 standing for one value
/// for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskRows {
    /// Distance between items of the batch.
    pub item: usize,
    /// Distance between heads.
    pub head: usize,
    /// Distance between queries.
    pub row: usize,
    /// Distance between keys: 0 or 1.
    pub column: usize,
}

/// The sizes and places of an attention: every head of every item takes the weighted mean of its values for each query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Items.
    pub batch: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, of which each serves as many heads of queries.
    pub key_heads: usize,
    /// Queries of a head.
    pub queries: usize,
    /// Keys of a head.
    pub keys: usize,
    /// Length of a query and of a key.
    pub size: usize,
    /// Length of a value.
    pub value_size: usize,
    /// Whether query `i` sees only keys `0..=i`.
    pub causal: bool,
    /// Places of queries.
    pub q: Rows,
    /// Places of keys.
    pub k: Rows,
    /// Places of values.
    pub v: Rows,
    /// Places of results.
    pub y: Rows,
    /// Places of what is added to the scores.
    pub mask: Option<MaskRows>,
}

/// Queries that are worked on together: whole tiles of the matrix kernels, whatever the number of threads.
pub(crate) const BLOCK: usize = 56;

impl Heads {
    /// Checks that everything lies inside slices of these lengths, and that results do not share places.
    pub(crate) fn check(&self, [q, k, v, y]: [usize; 4], mask: Option<usize>) -> Result<(), KernelError> {
        let Heads { batch, heads, key_heads, queries, keys, size, value_size, .. } = *self;
        let sizes = [batch, heads, key_heads, queries, keys, size, value_size];
        if sizes.contains(&0) || !heads.is_multiple_of(key_heads) {
            return Err(KernelError::Geometry(format!("attention of sizes {sizes:?}")));
        }
        let outside = || KernelError::Geometry(format!("attention reaches outside its operands: {self:?}"));
        let reach = |rows: &Rows, heads: usize, count: usize, size: usize| {
            let last = (batch - 1).checked_mul(rows.item)?.checked_add((heads - 1).checked_mul(rows.head)?)?;
            last.checked_add((count - 1).checked_mul(rows.row)?)?.checked_add(size)
        };
        for (rows, heads, count, size, len) in [
            (&self.q, heads, queries, size, q),
            (&self.k, key_heads, keys, size, k),
            (&self.v, key_heads, keys, value_size, v),
            (&self.y, heads, queries, value_size, y),
        ] {
            if reach(rows, heads, count, size).is_none_or(|end| end > len) {
                return Err(outside());
            }
        }
        let joined = self.y == Rows::joined(heads, queries, value_size);
        if !joined && self.y != Rows::split(heads, queries, value_size) {
            return Err(KernelError::Geometry("results of attention are joined or split by heads".into()));
        }
        expect_len("output", y, batch * heads * queries * value_size)?;
        if let Some(m) = self.mask {
            let last = (batch - 1) * m.item + (heads - 1) * m.head + (queries - 1) * m.row + (keys - 1) * m.column;
            if m.column > 1 || mask.is_none_or(|len| last >= len) {
                return Err(outside());
            }
        }
        Ok(())
    }

    /// How many tasks keep so many threads busy.
    pub(crate) fn tasks(&self, threads: usize) -> usize {
        self.batch * self.heads * self.groups(threads)
    }

    /// Groups of blocks of queries that a head is cut into.
    fn groups(&self, threads: usize) -> usize {
        if threads == 1 {
            return 1;
        }
        (2 * threads).div_ceil(self.batch * self.heads).min(self.queries.div_ceil(BLOCK))
    }

    /// Item, head and queries of a task; queries begin at a whole block.
    pub(crate) fn task(&self, task: usize, threads: usize) -> (usize, usize, Range<usize>) {
        let groups = self.groups(threads);
        let (head, group) = (task / groups, task % groups);
        let step = self.queries.div_ceil(BLOCK).div_ceil(groups) * BLOCK;
        let (first, last) = (group * step, (group + 1) * step);
        (head / self.heads, head % self.heads, first.min(self.queries)..last.min(self.queries))
    }

    /// The head of the keys that serves a head of the queries.
    pub(crate) fn key_head(&self, head: usize) -> usize {
        head / (self.heads / self.key_heads)
    }

    /// Place and distance between keys of the mask of a query.
    pub(crate) fn mask_at(&self, item: usize, head: usize, query: usize) -> Option<(usize, usize)> {
        self.mask.map(|m| (item * m.item + head * m.head + query * m.row, m.column))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_every_query_once() {
        for (batch, heads, queries) in [(1, 1, 1), (1, 1, 300), (2, 3, 57), (1, 12, 128)] {
            let rows = Rows::split(heads, queries, 4);
            let sizes = Heads {
                batch,
                heads,
                key_heads: heads,
                queries,
                keys: queries,
                size: 4,
                value_size: 4,
                causal: false,
                q: rows,
                k: rows,
                v: rows,
                y: rows,
                mask: None,
            };
            let len = batch * heads * queries * 4;
            sizes.check([len; 4], None).unwrap();
            assert!(sizes.check([len, len, len - 1, len], None).is_err());
            for threads in [1, 2, 3, 8] {
                let mut seen = vec![0; batch * heads * queries];
                for task in 0..sizes.tasks(threads) {
                    let (item, head, range) = sizes.task(task, threads);
                    assert!(range.is_empty() || range.start % BLOCK == 0);
                    range.for_each(|i| seen[(item * heads + head) * queries + i] += 1);
                }
                assert!(seen.iter().all(|n| *n == 1), "{threads} threads");
            }
        }
    }
}
