//! What the operating system knows of this process.

use std::{fs, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// Resident memory now, in bytes; 0 where `/proc` is missing.
pub(crate) fn resident_bytes() -> u64 {
    status("VmRSS:")
}

/// The most resident memory so far, in bytes; 0 where `/proc` is missing.
pub(crate) fn peak_bytes() -> u64 {
    status("VmHWM:")
}

fn status(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Processor time of all threads so far.
pub(crate) fn cpu_time() -> Duration {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// As many threads as this process may run at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
