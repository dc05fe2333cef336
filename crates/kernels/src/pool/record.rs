//! What each thread did when, for those who ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A time in which one thread ran chunks of one job, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The thread: 0 is the caller.
    pub worker: usize,
    /// Number of the job; those of one pool count up.
    pub job: u64,
    /// Chunks it ran.
    pub chunks: usize,
    /// When the first began.
    pub start: Instant,
    /// When the last ended.
    pub end: Instant,
}

/// Collects spans, in a list for each thread so that they do not wait for each other.
#[derive(Debug)]
pub(super) struct Recorder {
    on: AtomicBool,
    lists: Vec<Mutex<Vec<Span>>>,
}

impl Recorder {
    pub(super) fn new(threads: usize) -> Recorder {
        Recorder { on: AtomicBool::new(false), lists: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// Forgets what was recorded, and records from now on.
    pub(super) fn start(&self) {
        let _ = self.stop();
        self.on.store(true, Ordering::SeqCst);
    }

    /// Records no more, and gives what was recorded.
    pub(super) fn stop(&self) -> Vec<Span> {
        self.on.store(false, Ordering::SeqCst);
        let take = |list: &Mutex<Vec<Span>>| std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner));
        self.lists.iter().flat_map(take).collect()
    }

    /// Runs one chunk, and records it if asked to. Costs one load if not.
    #[inline]
    pub(super) fn chunk(&self, worker: usize, job: u64, work: impl FnOnce()) {
        if !self.on.load(Ordering::Relaxed) {
            return work();
        }
        let start = Instant::now();
        work();
        let end = Instant::now();
        let mut list = self.lists[worker].lock().unwrap_or_else(PoisonError::into_inner);
        match list.last_mut() {
            Some(last) if last.job == job => {
                last.chunks += 1;
                last.end = end;
            }
            _ => list.push(Span { worker, job, chunks: 1, start, end }),
        }
    }
}
