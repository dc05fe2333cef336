//! The order in which the elements of a value lie in memory.

/// Physical layout of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row-major, as in the graph.
    Plain,
    /// `[batch, channels, spatial…]` stored as `[batch, spatial…, channels]`.
    ChannelsLast,
}

impl Layout {
    /// The name in dumps.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Layout::Plain => "plain",
            Layout::ChannelsLast => "channels last",
        }
    }

    /// The dimensions in the order they lie in memory.
    pub(crate) fn physical(self, shape: &[usize]) -> Vec<usize> {
        self.axes(shape.len()).into_iter().map(|axis| shape[axis]).collect()
    }

    /// The axes of the graph in the order they lie in memory.
    pub(crate) fn axes(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::Plain => (0..rank).collect(),
            Layout::ChannelsLast => std::iter::once(0).chain(2..rank).chain([1]).collect(),
        }
    }
}

/// Whether a value of this shape lies the same in both layouts: one channel, or one pixel.
pub(crate) fn layouts_agree(shape: &[usize]) -> bool {
    shape.len() < 3 || shape[1] == 1 || shape[2..].iter().all(|d| *d == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_go_last() {
        assert_eq!(Layout::ChannelsLast.physical(&[1, 3, 4, 5]), [1, 4, 5, 3]);
        assert_eq!(Layout::ChannelsLast.physical(&[2, 3, 4]), [2, 4, 3]);
        assert!(layouts_agree(&[2, 3, 1, 1]) && layouts_agree(&[2, 1, 5]) && !layouts_agree(&[1, 2, 2]));
    }
}
