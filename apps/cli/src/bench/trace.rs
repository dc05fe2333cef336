//! A few runs as a trace: <https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU>, which Perfetto and
//! `chrome://tracing` open.

use std::{path::Path, time::Instant};

use anyhow::Result;
use qing::{Session, formats::atomic};
use serde_json::{Value, json};

use super::profile::Profile;

/// Runs in a trace: enough to tell what repeats.
const RUNS: usize = 3;

/// Runs the network and writes what happened when: a row of layers, and a row for each thread with the work it took.
pub(super) fn write(path: &Path, model: &str, session: &mut Session, profile: &Profile) -> Result<()> {
    let n = profile.lines.len();
    let mut instants = Vec::with_capacity(RUNS * (n + 1));
    session.pool().start_recording();
    let outcome = (0..RUNS).try_for_each(|_| session.run_watched(&mut |_| instants.push(Instant::now())));
    let spans = session.pool().stop_recording();
    outcome?;
    let Some(origin) = instants.first().copied() else { return Ok(()) };
    let micros = |at: Instant| at.saturating_duration_since(origin).as_nanos() as f64 / 1e3;
    let complete = |name: &str, kind: &str, row: usize, start: Instant, end: Instant, args: Value| {
        let dur = micros(end) - micros(start);
        json!({"name": name, "cat": kind, "ph": "X", "pid": 1, "tid": row, "ts": micros(start), "dur": dur, "args": args})
    };
    let named = |what: &str, row: usize, name: &str| json!({"name": what, "ph": "M", "pid": 1, "tid": row, "args": {"name": name}});
    let mut events = vec![named("process_name", 0, &format!("qing {model}")), named("thread_name", 0, "layers")];
    let threads = session.pool().threads();
    events.extend((0..threads).filter(|_| threads > 1).map(|i| named("thread_name", i + 1, &format!("thread {i}"))));
    // Where each job belongs: the layer during which it began.
    let mut starts: Vec<(Instant, usize)> = vec![];
    for run in instants.chunks_exact(n + 1) {
        for (i, line) in profile.lines.iter().enumerate() {
            starts.push((run[i], i));
            events.push(complete(&line.time.node, &line.time.op, 0, run[i], run[i + 1], line.json()));
        }
    }
    for span in spans {
        let at = starts.partition_point(|(start, _)| *start <= span.start);
        let layer = at.checked_sub(1).map(|at| &profile.lines[starts[at].1].time);
        let (node, op) = layer.map_or(("", ""), |l| (&l.node, &l.op));
        events.push(complete(node, op, span.worker + 1, span.start, span.end, json!({"chunks": span.chunks})));
    }
    let trace = json!({"traceEvents": events, "displayTimeUnit": "ns"});
    Ok(atomic::write(path, &serde_json::to_vec(&trace)?)?)
}
