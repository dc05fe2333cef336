//! `qing bench --against`: the same network in another engine, in turns of fresh processes, so that whatever else the machine
//! does hurts both alike.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use anyhow::{Context, Result, bail, ensure};
use qing::{
    Graph, Tensor,
    data::npz,
    formats::{self, npy},
};
use serde_json::{Value, json};

use super::Args;
use crate::{
    model,
    output::{self, bytes, ms},
    process,
    progress::Progress,
    runner::{Runner, random_inputs},
    table::Table,
    timing::median,
};

/// An engine to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Engine {
    /// ONNX Runtime, of a Python that has it
    Onnxruntime,
}

/// The other side.
const SCRIPT: &str = include_str!("onnxruntime.py");
/// How far outputs may be apart: root mean square of the difference over that of the other engine's output.
const FLOAT: f64 = 1e-4;
/// The same for quantized networks, where single steps apart are amplified by the layers after.
const INTEGER: f64 = 0.05;
/// An engine that deviates from itself without its optimizations is held to so many times that.
const ITSELF: f64 = 1.5;

pub(super) fn run(args: &Args, Engine::Onnxruntime: Engine, seconds: f64) -> Result<()> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let at = |name: &str| folder.path().join(name);
    fs::write(at("peer.py"), SCRIPT).context("a temporary file")?;
    let peer = Peer::find(args.python.as_deref(), &at("peer.py"))?;

    let model = model::load(&args.model)?;
    let inputs = random_inputs(&model.graph, args.batch)?;
    let path = if args.model.to_lowercase().ends_with(".onnx") && !args.model.starts_with("zoo:") {
        PathBuf::from(&args.model)
    } else {
        formats::onnx::write(&model.graph, &at("model.onnx"), &Default::default())
            .with_context(|| format!("exporting {} for onnxruntime", args.model))?;
        at("model.onnx")
    };
    npz::write(&at("inputs.npz"), &numbered(&inputs))?;
    let deviation = check(&peer, &model.graph, &inputs, &path, [&at("inputs.npz"), &at("outputs.npz")])?;

    let ours = env::current_exe().context("the path of this program")?;
    let (threads, batch, seconds) = (args.threads.to_string(), args.batch.to_string(), seconds.to_string());
    let mut progress = Progress::new("measuring", 2 * args.rounds);
    let mut pairs: Vec<[Value; 2]> = vec![];
    let mut dice = Dice::new();
    for round in 0..args.rounds {
        let mut pair = [Value::Null, Value::Null];
        let first = dice.throw();
        for (turn, side) in [first, 1 - first].into_iter().enumerate() {
            pair[side] = if side == 0 {
                peer.ask(&[
                    "measure".as_ref(),
                    path.as_ref(),
                    at("inputs.npz").as_ref(),
                    threads.as_ref(),
                    seconds.as_ref(),
                ])?
            } else {
                let mut command = Command::new(&ours);
                command.args([
                    "bench",
                    "--json",
                    "--threads",
                    &threads,
                    "--batch",
                    &batch,
                    "--seconds",
                    &seconds,
                    "--",
                ]);
                ask(command.arg(&args.model)).context("qing")?
            };
            progress.set(2 * round + turn + 1);
        }
        pairs.push(pair);
    }
    drop(progress);
    show(args, &peer, &pairs, &deviation)
}

/// Throws a coin, so that neither side always comes after the other.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |t| t.as_nanos() as u64);
        Dice(nanos ^ (u64::from(std::process::id()) << 32) | 1)
    }

    fn throw(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as usize % 2
    }
}

/// A Python that has the engine.
struct Peer {
    python: PathBuf,
    script: PathBuf,
    version: String,
}

impl Peer {
    /// The Python asked for, or the first that has ONNX Runtime.
    fn find(python: Option<&Path>, script: &Path) -> Result<Peer> {
        let named = python.map(Path::to_path_buf).or_else(|| env::var_os("QING_PYTHON").map(PathBuf::from));
        let candidates = named.map_or_else(|| vec!["python3".into(), "python".into()], |python| vec![python]);
        let mut tried = vec![];
        for python in candidates {
            let mut peer = Peer { python, script: script.into(), version: String::new() };
            match peer.ask(&["versions".as_ref()]) {
                Ok(answer) => {
                    peer.version = answer["engine"].as_str().unwrap_or("of unknown version").into();
                    return Ok(peer);
                }
                Err(error) => tried.push(format!("  {}: {error:#}", peer.python.display())),
            }
        }
        bail!(
            "no Python with onnxruntime and numpy was found:\n{}\nInstall them (python3 -m pip install onnxruntime numpy), or name a \
             Python that has them with --python FILE or QING_PYTHON",
            tried.join("\n")
        )
    }

    /// Runs the script and reads what it prints.
    fn ask(&self, arguments: &[&std::ffi::OsStr]) -> Result<Value> {
        ask(Command::new(&self.python).arg(&self.script).args(arguments))
    }
}

/// Runs a program that prints JSON last; its last words are the error if it fails.
fn ask(command: &mut Command) -> Result<Value> {
    let done = command.stdin(Stdio::null()).output().context("it does not start")?;
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if !done.status.success() {
        let last = error.lines().rev().find(|l| !l.trim().is_empty());
        bail!("{}", last.map_or_else(|| done.status.to_string(), |l| l.trim().to_string()));
    }
    let start = out.find('{').context("it prints no JSON")?;
    serde_json::from_str(&out[start..]).context("it prints no JSON")
}

fn numbered(tensors: &[Tensor]) -> Vec<(String, Tensor)> {
    tensors.iter().enumerate().map(|(i, t)| (i.to_string(), t.clone())).collect()
}

/// How far an output is from the other engine's, and how far it may be.
struct Deviation {
    output: String,
    apart: f64,
    allowed: f64,
}

/// Refuses to compare the times of different results.
fn check(
    peer: &Peer,
    graph: &Graph,
    inputs: &[Tensor],
    model: &Path,
    [fed, got]: [&Path; 2],
) -> Result<Vec<Deviation>> {
    peer.ask(&["check".as_ref(), model.as_ref(), fed.as_ref(), got.as_ref()])
        .with_context(|| format!("onnxruntime {} does not run the network", peer.version))?;
    let theirs = npy::read_npz(got)?;
    let mut runner = Runner::new(graph, process::cores());
    let ours = runner.run(inputs)?;
    let planned = runner.session(inputs)?.plan().graph();
    let quantized = planned.values().any(|(_, v)| v.ty.quant.is_some());
    let mut all = vec![];
    for (i, (id, ours)) in graph.outputs.iter().zip(&ours).enumerate() {
        let name = &graph.value(*id).name;
        let (Some(want), Some(plain)) = (theirs.get(&i.to_string()), theirs.get(&format!("plain{i}"))) else {
            bail!("onnxruntime gives no output `{name}` that could be compared");
        };
        ensure!(want.len() == ours.len(), "output `{name}`: {want:?} from onnxruntime, {ours:?} from qing");
        let itself = ITSELF * apart(&plain.to_f64s(), &want.to_f64s());
        let allowed = if quantized { INTEGER.max(itself) } else { FLOAT };
        let apart = apart(&ours.to_f64s(), &want.to_f64s());
        ensure!(
            apart <= allowed,
            "output `{name}` is {apart:.1e} from onnxruntime's, more than {allowed:.1e} (relative, root mean square): times of different \
             results would say nothing"
        );
        all.push(Deviation { output: name.clone(), apart, allowed });
    }
    Ok(all)
}

/// Root mean square of the difference over that of `want`.
fn apart(got: &[f64], want: &[f64]) -> f64 {
    let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    // Equal infinities and positions without a number are no difference.
    let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
    let difference = sum(&mut got.iter().zip(want).map(|(a, b)| if same(*a, *b) { 0.0 } else { a - b }));
    if difference == 0.0 { 0.0 } else { (difference / sum(&mut want.iter().copied().filter(|v| v.is_finite()))).sqrt() }
}

/// What is compared: name, where it is in the reports, and how it reads.
const MEASURES: [(&str, fn(&Value) -> f64, fn(f64) -> String); 5] = [
    ("latency", |v| number(v, "/latency_ms/median"), ms),
    ("best latency", |v| number(v, "/latency_ms/min"), ms),
    ("CPU time", |v| number(v, "/cpu_ms/median"), ms),
    ("loading", |v| number(v, "/load_ms"), ms),
    ("memory", |v| number(v, "/peak_memory_bytes") - number(v, "/base_memory_bytes"), bytes),
];

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn show(args: &Args, peer: &Peer, pairs: &[[Value; 2]], deviation: &[Deviation]) -> Result<()> {
    let isa = pairs[0][1]["isa"].as_str().unwrap_or("?");
    let row = |read: fn(&Value) -> f64| {
        let side = |i: usize| median(pairs.iter().map(|p| read(&p[i])).collect());
        let ratio = median(pairs.iter().map(|p| read(&p[0]) / read(&p[1])).collect());
        (side(0), side(1), ratio)
    };
    if args.json {
        let key = |name: &str| name.to_lowercase().replace(' ', "_");
        let measures: serde_json::Map<String, Value> = MEASURES
            .iter()
            .map(|(name, read, _)| {
                let (theirs, ours, ratio) = row(*read);
                (key(name), json!({"onnxruntime": theirs, "qing": ours, "ratio": ratio}))
            })
            .collect();
        let apart = |d: &Deviation| json!({"output": d.output, "deviation": d.apart, "allowed": d.allowed});
        return output::json(&json!({
            "model": args.model, "threads": args.threads, "batch": args.batch, "isa": isa, "rounds": pairs.len(),
            "onnxruntime": peer.version, "medians": measures,
            "outputs": deviation.iter().map(apart).collect::<Vec<_>>(),
            "pairs": pairs.iter().map(|[theirs, ours]| json!({"onnxruntime": theirs, "qing": ours})).collect::<Vec<_>>(),
        }));
    }
    let plural = if args.threads == 1 { "" } else { "s" };
    output::line(&format!(
        "{}  {} thread{plural}, batch {}, {isa}, {} turns each",
        args.model,
        args.threads,
        args.batch,
        pairs.len()
    ))?;
    output::line("")?;
    let mut table = Table::new(&["", ">onnxruntime", ">qing", ">ratio"]);
    for (name, read, text) in MEASURES {
        let (theirs, ours, ratio) = row(read);
        table.row([name.to_string(), text(theirs), text(ours), format!("{ratio:.2}")]);
    }
    output::print(&table.render())?;
    output::line(&format!(
        "\nMedians; the ratio, onnxruntime {} over qing, is the median of those turn by turn: above 1, qing is faster or smaller.",
        peer.version
    ))?;
    let worst = deviation.iter().max_by(|a, b| (a.apart / a.allowed).total_cmp(&(b.apart / b.allowed)));
    if let Some(d) = worst {
        output::line(&format!(
            "Outputs agree: {:.1e} apart at most, {:.1e} allowed (`{}`).",
            d.apart, d.allowed, d.output
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn deviations_are_relative() {
        assert_eq!(apart(&[1.0, f64::NAN, f64::INFINITY], &[1.0, f64::NAN, f64::INFINITY]), 0.0);
        assert!((apart(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-12);
        assert!(apart(&[f64::NAN], &[1.0]).is_nan());
        assert_eq!(apart(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(apart(&[0.0], &[0.0]), 0.0);
    }
}
