//! Which products a sparse layer computes, in the order in which kernels do.

use super::super::panelled::{Block, LANES};
use crate::aligned::Aligned;

/// Products of a channel in a window.
pub(super) const WINDOW: usize = 64;
/// Products of a channel in a slot.
pub(super) const TAPS: usize = 4;
/// Bytes of the weights of a slot.
pub(super) const LINE: usize = LANES * TAPS;
/// Slots of a window in which all products are computed.
const DENSE: usize = WINDOW / TAPS;

/// Time of a pick slot where that of a block slot is 1, by the instructions it takes: an estimate until `bench_lowbit` has been run.
const PICK_TIME: f64 = 1.6;
/// Time that a window takes besides, if it has pick slots.
const WINDOW_TIME: f64 = 0.5;

/// Slots of one window of one panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Where its first block slot is in [`Slots::blocks`], and its first line in [`Slots::lines`].
    pub(super) block: u32,
    pub(super) line: u32,
    /// How many slots of either kind: the lines of block slots come first, then two for each pick slot, places and weights.
    pub(super) blocks: u8,
    pub(super) picks: u8,
}

/// Weights in slots.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    /// `[panel][window]`
    windows: Vec<Window>,
    /// For every block slot, its first product in the window, divided by four.
    blocks: Vec<u8>,
    /// Of block slots the weights, `[column][tap]`; of pick slots the places in the window and then the weights.
    lines: Aligned<i8>,
    /// Windows of a row.
    per_row: usize,
    /// Bytes of a row: the depth, rounded up to whole slots.
    pub(super) row: usize,
    panels: usize,
}

impl Slots {
    /// Slots for `weights`, `[columns, depth]`.
    pub(super) fn new(weights: &[i8], columns: usize, depth: usize) -> Slots {
        let (panels, per_row) = (columns.div_ceil(LANES), depth.div_ceil(WINDOW));
        let (mut windows, mut blocks, mut lines) = (vec![], vec![], vec![]);
        for (panel, start) in (0..panels).flat_map(|p| (0..per_row).map(move |w| (p, WINDOW * w))) {
            let width = WINDOW.min(depth - start);
            let channel = |lane: usize| {
                let column = panel * LANES + lane;
                if column < columns { &weights[column * depth + start..][..width] } else { &[] }
            };
            let chosen = choose(&channel);
            let (block, line) = (blocks.len() as u32, (lines.len() / LINE) as u32);
            for group in &chosen.blocks {
                blocks.push(*group as u8);
                for lane in 0..LANES {
                    let at = |tap: usize| channel(lane).get(group * TAPS + tap).copied().unwrap_or(0);
                    lines.extend((0..TAPS).map(at));
                }
            }
            let kept: Vec<Vec<usize>> = (0..LANES)
                .map(|lane| {
                    let apart = |i: &usize| !chosen.blocks.contains(&(i / TAPS)) && channel(lane)[*i] != 0;
                    (0..channel(lane).len()).filter(apart).collect()
                })
                .collect();
            for slot in 0..chosen.picks {
                let each = (0..LANES).flat_map(|lane| (0..TAPS).map(move |tap| (lane, slot * TAPS + tap)));
                lines.extend(each.clone().map(|(lane, i)| kept[lane].get(i).map_or(0, |at| *at as i8)));
                lines.extend(each.map(|(lane, i)| kept[lane].get(i).map_or(0, |at| channel(lane)[*at])));
            }
            windows.push(Window { block, line, blocks: chosen.blocks.len() as u8, picks: chosen.picks as u8 });
        }
        Slots { windows, blocks, lines: Aligned::from(&lines[..]), per_row, row: depth.next_multiple_of(TAPS), panels }
    }

    /// The windows of a panel, from the start of a row on.
    pub(super) fn windows(&self, panel: usize) -> &[Window] {
        &self.windows[panel * self.per_row..][..self.per_row]
    }

    /// The places of a window's block slots.
    pub(super) fn blocks(&self, window: &Window) -> &[u8] {
        &self.blocks[window.block as usize..][..usize::from(window.blocks)]
    }

    /// The lines of a window.
    pub(super) fn lines(&self, window: &Window) -> &[i8] {
        let lines = usize::from(window.blocks) + 2 * usize::from(window.picks);
        &self.lines[LINE * window.line as usize..][..LINE * lines]
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.lines.len() + self.blocks.len() + size_of_val(&self.windows[..])
    }

    /// Products that are computed for one row.
    pub(super) fn multiplied(&self) -> usize {
        self.windows.iter().map(|w| LINE * (usize::from(w.blocks) + usize::from(w.picks))).sum()
    }

    /// The time of a row as a part of that of a dense layer.
    pub(super) fn time(&self) -> f64 {
        let time: f64 = self.windows.iter().map(|w| time(usize::from(w.blocks), usize::from(w.picks))).sum();
        time / (DENSE * self.windows.len()) as f64
    }

    /// Checks that kernels that trust the block stay inside its slices.
    pub(super) fn check(&self, b: &Block<'_>) {
        assert!(b.rows > 0 && b.panels > 0 && b.panel * LANES < b.columns && b.panel + b.panels <= self.panels);
        assert!(b.columns <= self.panels * LANES && (b.rows - 1) * b.stride + self.row <= b.a.len());
        assert!(b.bias.len() == self.panels * LANES && b.scale.len() == self.panels * LANES);
    }
}

fn time(blocks: usize, picks: usize) -> f64 {
    blocks as f64 + if picks > 0 { PICK_TIME * picks as f64 + WINDOW_TIME } else { 0.0 }
}

struct Chosen {
    /// Fours of products that are block slots.
    blocks: Vec<usize>,
    picks: usize,
}

/// The fastest mixture: the fullest fours as block slots, as many as pay, and pick slots for the rest.
fn choose<'a>(channel: &dyn Fn(usize) -> &'a [i8]) -> Chosen {
    // Weights that are not zero, of each channel in each four.
    let mut counts = [[0usize; LANES]; DENSE];
    for lane in 0..LANES {
        for (i, _) in channel(lane).iter().enumerate().filter(|(_, w)| **w != 0) {
            counts[i / TAPS][lane] += 1;
        }
    }
    let mut order: Vec<usize> = (0..DENSE).filter(|group| counts[*group].iter().any(|n| *n > 0)).collect();
    order.sort_by_key(|group| std::cmp::Reverse(counts[*group].iter().sum::<usize>()));
    let picks = |blocks: usize| {
        let rest = |lane: usize| order[blocks..].iter().map(|group| counts[*group][lane]).sum::<usize>();
        (0..LANES).map(rest).max().unwrap_or(0).div_ceil(TAPS)
    };
    let least = (0..=order.len()).min_by(|a, b| time(*a, picks(*a)).total_cmp(&time(*b, picks(*b)))).unwrap_or(0);
    let picks = picks(least);
    order.truncate(least);
    order.sort_unstable();
    Chosen { blocks: order, picks }
}
