//! Progress bars: on a terminal only, and only for what takes longer than a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that takes less time than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar that appears after a second.
pub(crate) struct Progress {
    bar: ProgressBar,
    start: Instant,
    shown: bool,
}

impl Progress {
    /// `total` steps of something.
    pub(crate) fn new(what: &str, total: usize) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{msg:24} {bar:40} {pos}/{len}  {eta}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_message(what.to_string());
        Progress { bar, start: Instant::now(), shown: false }
    }

    /// So many steps are done.
    pub(crate) fn set(&mut self, done: usize) {
        if !self.shown && self.start.elapsed() > PATIENCE {
            self.shown = true;
            // Hides itself where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(done as u64);
    }

    /// Another stage of the same work.
    pub(crate) fn stage(&mut self, what: &str, done: usize, total: usize) {
        self.bar.set_message(what.to_string());
        self.bar.set_length(total as u64);
        self.set(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
