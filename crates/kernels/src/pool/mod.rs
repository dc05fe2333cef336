//! A small fork-join pool for layers that take tens of microseconds.
//!
//! The calling thread works too and hands out chunks through one atomic word, so a worker that the system has
//! put aside never holds work back: whatever it has not yet claimed, the others take. Workers spin for a
//! moment between two jobs, because layers follow each other closely, and sleep after that.

mod record;
mod shared;

pub use record::Span;
pub use shared::SharedMut;

use record::Recorder;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for the next job before it sleeps.
const SPIN: Duration = Duration::from_micros(40);
/// How often a caller looks whether the last chunk has ended before it sleeps.
const SPINS: usize = 4096;
/// Low bits of the ticket that count the chunks nobody has claimed; the rest numbers the job.
const CHUNK_BITS: u32 = 24;
const CHUNK_MASK: u64 = (1 << CHUNK_BITS) - 1;

/// What one job runs: the worker's number in `0..threads` and the chunk's.
type Job<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Threads that run the chunks of one job at a time.
///
/// Dropping the pool stops and joins its workers.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Worker>,
    /// Taken by the job in progress; a nested or concurrent one runs on its own thread instead.
    busy: AtomicBool,
}

#[derive(Debug)]
struct Worker {
    handle: Option<JoinHandle<()>>,
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

/// State that workers and callers share. `ticket` orders everything: a worker may follow `job` only after it
/// has taken a chunk of the very ticket it read before, which proves that `job` was still that ticket's.
#[derive(Debug)]
struct Shared {
    ticket: Line<AtomicU64>,
    done: Line<AtomicUsize>,
    job: AtomicPtr<()>,
    chunks: AtomicUsize,
    stop: AtomicBool,
    /// Whether the caller sleeps until the last chunk has ended, and its thread.
    waiting: AtomicBool,
    waiter: Mutex<Option<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    recorder: Recorder,
}

/// Keeps a counter on a cache line of its own (two, because processors fetch lines in pairs).
#[derive(Debug)]
#[repr(align(128))]
struct Line<T>(T);

impl Pool {
    /// A pool that runs jobs on `threads` threads, the caller among them; 0 means 1.
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            ticket: Line(AtomicU64::new(0)),
            done: Line(AtomicUsize::new(0)),
            waiting: AtomicBool::new(false),
            waiter: Mutex::new(None),
            job: AtomicPtr::new(std::ptr::null_mut()),
            chunks: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            recorder: Recorder::new(threads.max(1)),
        });
        let mut workers = Vec::new();
        let (here, started) = std::sync::mpsc::channel();
        for number in 1..threads.max(1) {
            let asleep = Arc::new(AtomicBool::new(false));
            let (theirs, flag) = (Arc::clone(&shared), Arc::clone(&asleep));
            let here = here.clone();
            let spawned = std::thread::Builder::new().name(format!("qing-{number}")).spawn(move || {
                // Nobody listens if the pool could not be made.
                let _ = here.send(());
                theirs.work(number, &flag);
            });
            // A machine that refuses another thread still gets its answer, from fewer threads.
            let Ok(handle) = spawned else { break };
            workers.push(Worker { thread: handle.thread().clone(), handle: Some(handle), asleep });
        }
        // A thread allocates while it starts; waiting for it here keeps that out of the runs.
        for _ in &workers {
            let _ = started.recv();
        }
        Pool { shared, workers, busy: AtomicBool::new(false) }
    }

    /// How many threads work on a job, the caller included; at least 1.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Records from now on which thread works when, until [`Pool::stop_recording`]. A job of a single chunk is the caller's alone and
    /// not recorded. While recording, running allocates.
    pub fn start_recording(&self) {
        self.shared.recorder.start();
    }

    /// What was recorded: for each thread in the order of time.
    #[must_use]
    pub fn stop_recording(&self) -> Vec<Span> {
        self.shared.recorder.stop()
    }

    /// Runs `f` once for every number in `0..chunks`, in any order and on any thread, and returns when all
    /// have run. Allocates nothing.
    ///
    /// # Panics
    /// With the panic of `f`, after every chunk that had begun has ended.
    pub fn run(&self, chunks: usize, f: &(dyn Fn(usize) + Sync)) {
        self.run_indexed(chunks, &|_, chunk| f(chunk));
    }

    /// Like [`Pool::run`], and tells `f(worker, chunk)` which of `0..threads()` runs it: no two chunks that
    /// run at the same time see the same number, so it can select a scratch buffer.
    ///
    /// # Panics
    /// With the panic of `f`, after every chunk that had begun has ended.
    pub fn run_indexed(&self, chunks: usize, f: Job<'_>) {
        let alone = chunks <= 1 || self.workers.is_empty() || chunks as u64 > CHUNK_MASK;
        if alone || self.busy.swap(true, Ordering::Acquire) {
            for chunk in 0..chunks {
                f(0, chunk);
            }
            return;
        }
        let outcome = self.fork_join(chunks, &f);
        let payload = match outcome {
            Ok(()) => self.shared.take_panic(),
            Err(payload) => {
                let _ = self.shared.take_panic();
                Some(payload)
            }
        };
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    fn fork_join(&self, chunks: usize, f: &Job<'_>) -> Result<(), Box<dyn Any + Send>> {
        let shared = &*self.shared;
        shared.done.0.store(0, Ordering::Relaxed);
        shared.job.store(std::ptr::from_ref(f).cast_mut().cast(), Ordering::Relaxed);
        shared.chunks.store(chunks, Ordering::Relaxed);
        let number = (shared.ticket.0.load(Ordering::Relaxed) >> CHUNK_BITS).wrapping_add(1);
        // Sequentially consistent with the sleep flags: either the worker sees this ticket or we see its flag. An exchange, here and
        // where a flag goes up: a load after it must not come before it, and an emulator of Arm lets it pass a plain store.
        shared.ticket.0.swap((number << CHUNK_BITS) | chunks as u64, Ordering::SeqCst);
        for worker in self.workers.iter().take(chunks - 1) {
            if worker.asleep.load(Ordering::SeqCst) {
                worker.asleep.store(false, Ordering::SeqCst);
                worker.thread.unpark();
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            while let Some((_, chunk)) = shared.claim() {
                let ended = CountOnDrop(shared);
                shared.recorder.chunk(0, number, || f(0, chunk));
                drop(ended);
            }
        }));
        if outcome.is_err() {
            shared.abandon();
        }
        shared.wait(chunks);
        outcome
    }

    /// Cuts `data` into pieces of `chunk_len` values (the last may be shorter) and runs `f(i, piece)` on each.
    ///
    /// # Panics
    /// With the panic of `f`, or when `chunk_len` is 0.
    pub fn for_each_chunk_mut<T: Send>(&self, data: &mut [T], chunk_len: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        assert!(chunk_len > 0, "a chunk must hold at least one value");
        let len = data.len();
        let all = SharedMut::new(data);
        self.run(len.div_ceil(chunk_len), &|chunk| {
            let start = chunk * chunk_len;
            let end = (start + chunk_len).min(len);
            // SAFETY: chunks are distinct numbers, so their ranges do not overlap.
            f(chunk, unsafe { all.slice(start..end) });
        });
    }
}

#[cfg(test)]
impl Pool {
    /// The pool of `threads` threads that the tests on this thread share: thousands of cases start only a few threads.
    pub(crate) fn kept(threads: usize) -> std::rc::Rc<Pool> {
        use std::{cell::RefCell, collections::BTreeMap, rc::Rc};
        thread_local!(static POOLS: RefCell<BTreeMap<usize, Rc<Pool>>> = const { RefCell::new(BTreeMap::new()) });
        POOLS.with_borrow_mut(|pools| Rc::clone(pools.entry(threads).or_insert_with(|| Rc::new(Pool::new(threads)))))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            worker.thread.unpark();
            if let Some(handle) = worker.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

impl Shared {
    /// Takes one chunk of the current job, if there is one left: the job's address and the chunk's number.
    fn claim(&self) -> Option<(*mut (), usize)> {
        let mut ticket = self.ticket.0.load(Ordering::Acquire);
        loop {
            let left = (ticket & CHUNK_MASK) as usize;
            if left == 0 {
                return None;
            }
            let job = self.job.load(Ordering::Relaxed);
            let chunks = self.chunks.load(Ordering::Relaxed);
            match self.ticket.0.compare_exchange_weak(ticket, ticket - 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((job, chunks - left)),
                Err(now) => ticket = now,
            }
        }
    }

    /// Claims everything that is left without running it.
    fn abandon(&self) {
        while self.claim().is_some() {
            self.done.0.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until so many chunks have ended: a moment awake, then, as a worker must have lost its processor, asleep.
    fn wait(&self, chunks: usize) {
        for _ in 0..SPINS {
            if self.done.0.load(Ordering::Acquire) >= chunks {
                return;
            }
            std::hint::spin_loop();
        }
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        // Sequentially consistent with the count: either we see that the last chunk has ended, or who ended it sees us wait.
        self.waiting.swap(true, Ordering::SeqCst);
        while self.done.0.load(Ordering::SeqCst) < chunks {
            std::thread::park();
        }
        self.waiting.store(false, Ordering::SeqCst);
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn work(&self, number: usize, asleep: &AtomicBool) {
        let mut idle: Option<Instant> = None;
        let mut spins = 0u32;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some((job, chunk)) = self.claim() {
                idle = None;
                let ended = CountOnDrop(self);
                // SAFETY: the chunk is claimed and not yet counted as done, so the caller that published `job`
                // is still waiting in `fork_join` and its borrow is alive; `claim` proved the pointer is its.
                let f: Job<'_> = unsafe { *job.cast::<Job<'_>>() };
                // No other job is published before this chunk is done.
                let ticket = self.ticket.0.load(Ordering::Relaxed) >> CHUNK_BITS;
                let work = || self.recorder.chunk(number, ticket, || f(number, chunk));
                if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                    self.abandon();
                }
                drop(ended);
                continue;
            }
            std::hint::spin_loop();
            spins = spins.wrapping_add(1);
            if !spins.is_multiple_of(32) {
                continue;
            }
            match idle {
                None => idle = Some(Instant::now()),
                Some(since) if since.elapsed() < SPIN => {}
                Some(_) => {
                    self.sleep(asleep);
                    idle = None;
                }
            }
        }
    }

    fn sleep(&self, asleep: &AtomicBool) {
        asleep.swap(true, Ordering::SeqCst);
        let nothing_to_do = || self.ticket.0.load(Ordering::SeqCst) & CHUNK_MASK == 0;
        while nothing_to_do() && asleep.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        asleep.store(false, Ordering::SeqCst);
    }
}

/// Counts a chunk as done when it ends, by return or by panic.
struct CountOnDrop<'a>(&'a Shared);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        self.0.done.0.fetch_add(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst)
            && let Some(waiter) = &*self.0.waiter.lock().unwrap_or_else(PoisonError::into_inner)
        {
            waiter.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_sleeps_until_a_worker_that_takes_long_has_ended() {
        let pool = Pool::new(2);
        if pool.threads() < 2 {
            return;
        }
        for _ in 0..20 {
            // Neither thread ends its chunk before the other has one, and the worker not before the caller sleeps.
            let taken = AtomicUsize::new(0);
            pool.run_indexed(2, &|worker, _| {
                taken.fetch_add(1, Ordering::SeqCst);
                while taken.load(Ordering::SeqCst) < 2 || worker == 1 && !pool.shared.waiting.load(Ordering::SeqCst) {
                    std::hint::spin_loop();
                }
            });
            assert!(!pool.shared.waiting.load(Ordering::SeqCst));
        }
    }

    #[test]
    fn every_chunk_runs_once() {
        for threads in 0..5 {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), if cfg!(target_family = "wasm") { 1 } else { threads.max(1) });
            for chunks in [0, 1, 2, 3, 17, 1000] {
                let hits: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run_indexed(chunks, &|worker, chunk| {
                    assert!(worker < pool.threads());
                    hits[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "needs threads: what one does is the caller's to time")]
    fn recording_counts_every_chunk_once() {
        let pool = Pool::new(3);
        pool.run(5, &|_| {});
        pool.start_recording();
        for chunks in [4, 1, 30] {
            pool.run(chunks, &|_| {
                std::hint::black_box((0..1000).sum::<u64>());
            });
        }
        let spans = pool.stop_recording();
        assert!(spans.iter().all(|s| s.start <= s.end && s.worker < 3));
        let of = |job| spans.iter().filter(move |s| s.job == job).map(|s| s.chunks).sum::<usize>();
        let first = spans.iter().map(|s| s.job).min().unwrap();
        assert_eq!((of(first), of(first + 1)), (4, 30));
        pool.run(4, &|_| {});
        assert!(pool.stop_recording().is_empty());
    }

    #[test]
    fn many_small_jobs_with_sleeps_between_them() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(3, &|chunk| {
                sum.fetch_add(chunk + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 6 * (round + 1));
            if round % 1000 == 0 {
                // Long enough for the workers to fall asleep, so that waking them is tried too.
                std::thread::sleep(SPIN * 5);
            }
        }
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "starts threads of its own")]
    fn nested_and_concurrent_jobs_complete() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(4, &|_| {
                            pool.run(5, &|_| {
                                sum.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3 * 200 * 20);
    }

    #[test]
    #[cfg_attr(target_family = "wasm", ignore = "a panic ends the program")]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(2);
        for bad in 0..8 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, &|chunk| assert!(chunk != bad, "chunk {chunk}"));
            }));
            assert!(caught.is_err());
        }
        let mut data = vec![0u32; 1001];
        pool.for_each_chunk_mut(&mut data, 10, |chunk, part| part.fill(chunk as u32));
        for (index, value) in data.iter().enumerate() {
            assert_eq!(*value as usize, index / 10);
        }
    }
}
