//! What every queue of the chip did when, in the format that Perfetto and `chrome://tracing` open.

use std::path::Path;

use anyhow::Result;
use qing::{
    formats::atomic,
    npu::{
        Program,
        isa::Queue,
        simulate::{Run, Span},
    },
};
use serde_json::{Value, json};

/// Writes the trace of a run; a cycle is shown as a microsecond.
pub(super) fn write(path: &Path, model: &str, program: &Program, run: &Run) -> Result<()> {
    let named = |what: &str, row: usize, name: &str| json!({"name": what, "ph": "M", "pid": 1, "tid": row, "args": {"name": name}});
    let mut events = vec![named("process_name", 0, &format!("qing npu {model}"))];
    events.extend(Queue::ALL.map(|q| named("thread_name", q as usize, q.name())));
    events.extend(run.spans.iter().map(|span| event(span, program)));
    let trace = json!({"traceEvents": events, "displayTimeUnit": "ns"});
    Ok(atomic::write(path, &serde_json::to_vec(&trace)?)?)
}

fn event(span: &Span, program: &Program) -> Value {
    let layer = program.layers.get(program.layer_of[span.pc]);
    let name = layer.map_or_else(|| span.queue.name().to_string(), |l| l.name.clone());
    json!({
        "name": name, "cat": layer.map_or("", |l| &l.op), "ph": "X", "pid": 1, "tid": span.queue as usize,
        "ts": span.start, "dur": span.end + 1 - span.start, "args": {"instruction": span.pc}
    })
}
