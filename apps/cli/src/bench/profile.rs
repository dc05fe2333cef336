//! Where the time of a run goes, beside what this machine could do.

use std::time::{Duration, Instant};

use anyhow::Result;
use qing::{Bound, LayerTime, Roof, Roofline, Session};
use serde_json::{Value, json};

use crate::{
    output::{self, bytes, count},
    process,
    table::Table,
    timing::median,
};

/// Runs that are timed layer by layer.
const RUNS: std::ops::RangeInclusive<usize> = 10..=400;
/// Kernels that only move values.
const MOVING: [&str; 11] = [
    "transpose",
    "join",
    "slice",
    "split",
    "expand",
    "gather",
    "pad",
    "depth to space",
    "to plain",
    "to channels last",
    "copy",
];

/// One layer: medians over the runs.
pub(super) struct Line {
    pub(super) time: LayerTime,
    /// Processor time of all threads in nanoseconds.
    pub(super) cpu: f64,
    pub(super) roof: Roof,
}

impl Line {
    /// The share of the roof that is reached; nothing without a roof.
    pub(super) fn of_roof(&self) -> f64 {
        self.roof.nanos / (self.time.nanos.max(1) as f64)
    }

    /// What kind of work it is, for the summary.
    fn kind(&self) -> &str {
        let kernel = self.time.kernel.as_str();
        if kernel == "reference" {
            "by reference"
        } else if MOVING.iter().any(|name| kernel.starts_with(name)) {
            "moving values"
        } else if self.time.macs > 0 {
            "products"
        } else {
            "other functions"
        }
    }

    pub(super) fn bound(&self) -> &'static str {
        match self.roof.bound {
            Bound::Compute => "compute",
            Bound::Memory => "memory",
        }
    }
}

/// All layers of a network, and the peaks of the machine.
pub(super) struct Profile {
    pub(super) lines: Vec<Line>,
    roofline: Roofline,
    runs: usize,
}

/// Times each layer for so many seconds, but at least [`RUNS`].
pub(super) fn measure(session: &mut Session, seconds: f64) -> Result<Profile> {
    let mut layers = session.plan().layers();
    let n = layers.len();
    let roofline = Roofline::measure(session.plan().isa(), session.pool());
    let mut walls: Vec<Vec<f64>> = vec![vec![]; n];
    let mut cpus: Vec<Vec<f64>> = vec![vec![]; n];
    let end = Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 3600.0));
    let (mut instants, mut clocks) = (Vec::with_capacity(n + 1), Vec::with_capacity(n + 1));
    let mut runs = 0;
    while runs < *RUNS.start() || (runs < *RUNS.end() && Instant::now() < end) {
        instants.clear();
        session.run_watched(&mut |_| instants.push(Instant::now()))?;
        for (list, pair) in walls.iter_mut().zip(instants.windows(2)) {
            list.push((pair[1] - pair[0]).as_nanos() as f64);
        }
        // In a run of its own, because asking for processor time takes time.
        clocks.clear();
        session.run_watched(&mut |_| clocks.push(process::cpu_time()))?;
        for (list, pair) in cpus.iter_mut().zip(clocks.windows(2)) {
            list.push(pair[1].saturating_sub(pair[0]).as_nanos() as f64);
        }
        runs += 1;
    }
    let footprint = session.plan().peak_memory() as u64 + layers.iter().map(|l| l.weights).sum::<u64>();
    let lines = layers
        .drain(..)
        .zip(walls.into_iter().zip(cpus))
        .map(|(mut time, (wall, cpu))| {
            time.nanos = median(wall).round() as u64;
            let roof = roofline.roof(&time, footprint);
            Line { time, cpu: median(cpu), roof }
        })
        .collect();
    Ok(Profile { lines, roofline, runs })
}

/// Time and roof of some layers together, in nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
struct Total {
    layers: usize,
    nanos: f64,
    roof: f64,
}

impl Profile {
    fn total(&self) -> Total {
        self.lines.iter().fold(Total::default(), |t, l| t.plus(l))
    }

    /// Totals of what `key` tells apart, the largest first.
    fn grouped<'a>(&'a self, key: impl Fn(&'a Line) -> &'a str) -> Vec<(&'a str, Total)> {
        let mut groups: Vec<(&str, Total)> = vec![];
        for line in &self.lines {
            let name = key(line);
            let at = groups.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
                groups.push((name, Total::default()));
                groups.len() - 1
            });
            groups[at].1 = groups[at].1.plus(line);
        }
        groups.sort_by(|a, b| b.1.nanos.total_cmp(&a.1.nanos));
        groups
    }

    /// Tables and a summary for a person.
    pub(super) fn render(&self) -> String {
        let total = self.total();
        let share = |nanos: f64| format!("{:.1} %", 100.0 * nanos / total.nanos.max(1.0));
        let micros = |nanos: f64| format!("{:.1}", nanos / 1e3);
        let head = ["layer", "op", "kernel", ">µs", ">share", ">CPU/wall", ">MACs", ">moved", "bound", ">of roof"];
        let mut table = Table::new(&head);
        for line in &self.lines {
            let l = &line.time;
            table.row([
                output::name(&l.node),
                output::name(&l.op),
                l.kernel.clone(),
                micros(l.nanos as f64),
                share(l.nanos as f64),
                format!("{:.2}", line.cpu / (l.nanos.max(1) as f64)),
                if l.macs == 0 { String::new() } else { count(l.macs as f64) },
                bytes(l.bytes as f64),
                line.bound().into(),
                format!("{:.0} %", 100.0 * line.of_roof()),
            ]);
        }
        let all = [String::from("all"), String::new(), String::new(), micros(total.nanos), share(total.nanos)];
        table.row(all.into_iter().chain(["".into(), "".into(), "".into(), "".into(), total.of_roof()]));
        let mut by_kernel = Table::new(&["kernel", ">layers", ">µs", ">share", ">of roof"]);
        for (name, t) in self.grouped(|l| &l.time.kernel) {
            by_kernel.row([name.to_string(), t.layers.to_string(), micros(t.nanos), share(t.nanos), t.of_roof()]);
        }
        let kinds: Vec<String> =
            self.grouped(Line::kind).iter().map(|(name, t)| format!("{} {name}", share(t.nanos))).collect();
        let mut slowest: Vec<&Line> = self.lines.iter().collect();
        slowest.sort_by_key(|l| std::cmp::Reverse(l.time.nanos));
        let slowest: Vec<String> = slowest
            .iter()
            .take(5)
            .map(|l| format!("{} {}", output::name(&l.time.node), share(l.time.nanos as f64)))
            .collect();
        let r = &self.roofline;
        let levels: Vec<String> = r.memory.iter().map(|m| format!("{} {}/s", m.name, bytes(m.per_second))).collect();
        format!(
            "\n{}\n{}\npeaks    {}MAC/s float, {}MAC/s int8; {}\ntime     {}\nslowest  {}\nroof     {} of it, medians of {} runs\n",
            table.render(),
            by_kernel.render(),
            count(r.float),
            count(r.integer),
            levels.join(", "),
            kinds.join(", "),
            slowest.join(", "),
            total.of_roof(),
            self.runs,
        )
    }

    /// The same for machines, without the layers.
    pub(super) fn summary_json(&self) -> Value {
        let total = self.total();
        let group = |(name, t): &(&str, Total)| {
            json!({"name": name, "layers": t.layers, "ms": t.nanos / 1e6, "share": t.nanos / total.nanos.max(1.0),
                "of_roof": t.roof / t.nanos.max(1.0)})
        };
        let groups = |g: Vec<(&str, Total)>| g.iter().map(group).collect::<Vec<_>>();
        json!({
            "runs": self.runs, "ms": total.nanos / 1e6, "of_roof": total.roof / total.nanos.max(1.0),
            "peaks": {
                "threads": self.roofline.threads,
                "float_macs_per_second": self.roofline.float, "int8_macs_per_second": self.roofline.integer,
                "memory": self.roofline.memory.iter()
                    .map(|m| json!({"level": m.name, "bytes_per_second": m.per_second})).collect::<Vec<_>>(),
            },
            "kinds": groups(self.grouped(Line::kind)), "kernels": groups(self.grouped(|l| &l.time.kernel)),
        })
    }

    /// Every layer, for machines.
    pub(super) fn layers_json(&self) -> Value {
        self.lines.iter().map(Line::json).collect()
    }
}

impl Line {
    pub(super) fn json(&self) -> Value {
        let l = &self.time;
        json!({
            "node": l.node, "op": l.op, "kernel": l.kernel, "ms": l.nanos as f64 / 1e6, "cpu_ms": self.cpu / 1e6,
            "macs": l.macs, "bytes": l.bytes, "weight_bytes": l.weights,
            "bound": self.bound(), "roof_ms": self.roof.nanos / 1e6, "of_roof": self.of_roof(),
        })
    }
}

impl Total {
    fn plus(self, line: &Line) -> Total {
        Total { layers: self.layers + 1, nanos: self.nanos + line.time.nanos as f64, roof: self.roof + line.roof.nanos }
    }

    fn of_roof(&self) -> String {
        format!("{:.0} %", 100.0 * self.roof / self.nanos.max(1.0))
    }
}
