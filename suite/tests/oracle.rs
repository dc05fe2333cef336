//! Quantized operators against what ONNX Runtime computes, to the bit where the arithmetic is the same.
//!
//! The cases are made by `oracle/qoperators.py` and found through `QING_ORACLE_CASES`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use qing_formats::npy;
use qing_graph::Graph;
use qing_suite::{CaseList, Executor, Outcome, exactly, read_model, run_all, within};
use qing_tensor::{Element, Tensor};

/// A line of `cases.tsv`.
struct Case {
    folder: PathBuf,
    name: String,
    /// Equal to the bit, rather than to one quantization step.
    exact: bool,
}

fn cases(folder: &Path) -> Result<Vec<Case>, String> {
    let path = folder.join("cases.tsv");
    let table = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut cases = vec![];
    for line in table.lines().skip(1) {
        let mut fields = line.split('\t');
        let (Some(name), Some(_), Some(rule)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(format!("{}: expected name, operator and rule, got {line:?}", path.display()));
        };
        cases.push(Case { folder: folder.join(name), name: name.into(), exact: rule == "exact" });
    }
    Ok(cases)
}

fn arrays(folder: &Path, prefix: &str) -> Result<Vec<Tensor>, String> {
    let mut arrays = vec![];
    loop {
        let path = folder.join(format!("{prefix}_{}.npy", arrays.len()));
        if !path.is_file() {
            return Ok(arrays);
        }
        arrays.push(npy::read(&path).map_err(|e| e.to_string())?);
    }
}

/// What one quantization step of a real-valued output is: the scale of the node that dequantizes it.
fn step(graph: &Graph, output: usize) -> f64 {
    let producer = graph.producers()[graph.outputs[output].0 as usize].map(|i| &graph.nodes[i]);
    let scale = producer
        .filter(|node| node.op.name() == "DequantizeLinear")
        .and_then(|node| graph.constant(node.input(1)?)?.to_f64s().first().copied());
    scale.unwrap_or(0.0)
}

fn run_case(case: &Case) -> Result<(), String> {
    let path = case.folder.join("model.onnx");
    let (written, typed) = (read_model(&path, false)?, read_model(&path, true)?);
    let inputs = arrays(&case.folder, "input")?;
    let expected = arrays(&case.folder, "output")?;
    let steps: Vec<f64> = (0..expected.len()).map(|i| step(&written, i)).collect();
    for executor in Executor::all() {
        let actual = executor.run(&typed, &inputs)?;
        if actual.is_empty() || actual.len() != expected.len() {
            return Err(format!("{executor}: {} outputs, expected {}", actual.len(), expected.len()));
        }
        for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
            let why = if case.exact {
                exactly(a, e)
            } else if e.element().is_float() {
                within(a, e, 0.0, steps[i] * 1.001)
            } else {
                within(&a.cast(Element::F32), &e.cast(Element::F32), 0.0, 1.0)
            };
            if let Some(why) = why {
                return Err(format!("{executor}, output {i}, {why}"));
            }
        }
    }
    Ok(())
}

#[test]
fn quantized_operators() {
    let Some(folder) = env::var_os("QING_ORACLE_CASES").map(PathBuf::from) else {
        return println!("skipped: QING_ORACLE_CASES is not set; make the cases with suite/oracle/qoperators.py");
    };
    let cases = cases(&folder).unwrap_or_else(|e| panic!("{e}"));
    let outcome: Outcome = run_all(&cases, run_case)
        .into_iter()
        .zip(&cases)
        .map(|(result, case)| (case.name.clone(), result.err()))
        .collect();
    let passed = outcome.values().filter(|why| why.is_none()).count();
    println!("cases of ONNX Runtime: {passed} of {} pass", outcome.len());
    CaseList::new(concat!(env!("CARGO_MANIFEST_DIR"), "/oracle")).check(&outcome).unwrap_or_else(|e| panic!("{e}"));
}
