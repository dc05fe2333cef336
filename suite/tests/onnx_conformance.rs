//! The node cases of ONNX: a model of one node (rarely more), inputs, and the outputs to expect.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use qing_formats::onnx;
use qing_suite::{CaseList, Executor, Outcome, difference, python, read_model, run_all};
use qing_tensor::Tensor;

/// The cases of the installed `onnx` package, or of `QING_ONNX_NODE_CASES`.
fn folder() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("QING_ONNX_NODE_CASES") {
        return Ok(path.into());
    }
    let script = "import onnx, os; print(os.path.join(os.path.dirname(onnx.__file__), 'backend/test/data/node'))";
    let output = python().args(["-c", script]).output().map_err(|e| format!("python: {e}"))?;
    if !output.status.success() {
        return Err("python has no package `onnx`; set QING_ONNX_NODE_CASES or QING_PYTHON".into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// Tensors `prefix_0.pb`, `prefix_1.pb`, …; an empty file is an optional that is absent.
fn tensors(folder: &Path, prefix: &str) -> Result<Vec<Tensor>, String> {
    let mut tensors = vec![];
    loop {
        let path = folder.join(format!("{prefix}_{}.pb", tensors.len()));
        let Ok(bytes) = fs::read(&path) else { return Ok(tensors) };
        tensors.push(onnx::read_tensor(&bytes.into()).map_err(|e| format!("{prefix}: {e}"))?);
    }
}

fn run_case(folder: &Path) -> Result<(), String> {
    let graph = read_model(&folder.join("model.onnx"), false)?;
    for set in 0.. {
        let data = folder.join(format!("test_data_set_{set}"));
        if !data.is_dir() {
            break;
        }
        let inputs = tensors(&data, "input")?;
        let expected = tensors(&data, "output")?;
        for executor in Executor::all() {
            let actual = executor.run(&graph, &inputs)?;
            if actual.len() != expected.len() {
                return Err(format!("{executor}: {} outputs, expected {}", actual.len(), expected.len()));
            }
            for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
                if let Some(why) = difference(a, e) {
                    return Err(format!("{executor}, output {i}, {why}"));
                }
            }
        }
    }
    Ok(())
}

/// How many cases fail for the same reason, names and numbers left out; a missing op is a reason of its own.
fn report(outcome: &Outcome) -> String {
    let mut reasons: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (name, why) in outcome {
        let Some(why) = why else { continue };
        let missing = why.lines().filter(|l| l.ends_with("unknown op") || l.ends_with("control flow"));
        let mut keys: Vec<String> = missing
            .filter_map(|l| Some(format!("no op {}", l.split_once(" (")?.1.split([',', ')']).next()?)))
            .collect();
        if keys.is_empty() {
            // Every second part of the text is quoted.
            let bare: String = why.split('`').step_by(2).collect();
            keys.push(bare.chars().filter(|c| !c.is_ascii_digit()).take(100).collect());
        }
        for key in keys {
            reasons.entry(key).or_default().insert(name);
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, names)| Reverse(names.len()));
    let line = |(reason, names): (String, BTreeSet<&str>)| {
        let some: Vec<&str> = names.iter().copied().take(3).collect();
        format!("{:5}  {reason}   ({})\n", names.len(), some.join(", "))
    };
    reasons.into_iter().map(line).collect()
}

/// Cases that pass at least, whatever the lists say.
const FLOOR: usize = 1300;

#[test]
fn onnx_node_cases() {
    let folder = match folder() {
        Ok(folder) => folder,
        Err(why) => return println!("skipped: {why}"),
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.join("model.onnx").is_file())
        .collect();
    cases.sort();
    let outcome: Outcome = run_all(&cases, |case| run_case(case))
        .into_iter()
        .zip(&cases)
        .map(|(result, case)| (case.file_name().unwrap_or_default().to_string_lossy().into_owned(), result.err()))
        .collect();
    let passed = outcome.values().filter(|why| why.is_none()).count();
    println!("ONNX node cases: {passed} of {} pass", outcome.len());
    assert!(passed >= FLOOR, "only {passed} of {} pass", outcome.len());
    if env::var_os("QING_REPORT").is_some_and(|v| v == "1") {
        println!("{}", report(&outcome));
    }
    CaseList::new(concat!(env!("CARGO_MANIFEST_DIR"), "/onnx")).check(&outcome).unwrap_or_else(|e| panic!("{e}"));
}
