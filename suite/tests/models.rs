//! Whole models: read, written, read again, and opened by ONNX Runtime.
//!
//! The models are those of `../shared/models` beside the repository, or of the folders in `QING_MODELS`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use qing_formats::onnx::{self, WriteOptions};
use qing_graph::{Graph, dump};
use qing_suite::{python, read_model, run_all};

/// For every pair of arguments: opens the first as written by somebody else and the second as written by qing, and compares
/// their results.
const COMPARE: &str = "
import sys
import numpy as np, onnx, onnxruntime as ort
numbers = {'tensor(float)': np.float32, 'tensor(int64)': np.int64, 'tensor(uint8)': np.uint8, 'tensor(int8)': np.int8}
for original, written in zip(sys.argv[1::2], sys.argv[2::2]):
    print(original, file=sys.stderr)
    onnx.checker.check_model(written)
    a, b = (ort.InferenceSession(m, providers=['CPUExecutionProvider']) for m in (original, written))
    random = np.random.default_rng(1)
    feed = {}
    for i in a.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in i.shape]
        feed[i.name] = random.uniform(0, 1, shape).astype(numbers[i.type])
    names = [o.name for o in a.get_outputs()]
    assert names == [o.name for o in b.get_outputs()], 'other outputs'
    for x, y in zip(a.run(names, feed), b.run(names, feed)):
        np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-4)
";

fn folders() -> Vec<PathBuf> {
    match env::var_os("QING_MODELS") {
        Some(list) => env::split_paths(&list).collect(),
        None => vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models")],
    }
}

fn models() -> Vec<PathBuf> {
    let mut models: Vec<PathBuf> = folders()
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .collect();
    models.sort();
    models
}

fn constants(graph: &Graph) -> Vec<(&str, &qing_tensor::Tensor)> {
    let mut constants: Vec<_> =
        graph.values().filter_map(|(_, v)| Some((v.name.as_str(), v.constant.as_ref()?))).collect();
    constants.sort_by_key(|(name, _)| *name);
    constants
}

#[test]
fn models_survive_a_round_trip() {
    let models = models();
    if models.is_empty() {
        return println!("skipped: no models in {:?}", folders());
    }
    let results = run_all(&models, |path| {
        let graph = read_model(path, false)?;
        let bytes = onnx::to_bytes(&graph, &WriteOptions::default()).map_err(|e| e.to_string())?;
        let again = onnx::read_bytes(&bytes.into(), None).map_err(|e| e.to_string())?;
        if dump::dump(&again) != dump::dump(&graph) {
            return Err("another graph came back".into());
        }
        if constants(&again) != constants(&graph) {
            return Err("other constants came back".into());
        }
        Ok(graph.nodes.len())
    });
    for (path, result) in models.iter().zip(results) {
        match result {
            Ok(nodes) => println!("{}: {nodes} nodes", path.display()),
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }
}

#[test]
fn onnx_runtime_opens_what_is_written() {
    if !python().args(["-c", "import onnx, onnxruntime"]).output().is_ok_and(|o| o.status.success()) {
        return println!("skipped: python has no packages `onnx` and `onnxruntime`; set QING_PYTHON");
    }
    let models = models();
    if models.is_empty() {
        return println!("skipped: no models in {:?}", folders());
    }
    let folder = env::temp_dir().join(format!("qing-suite-models-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    let mut command = python();
    command.args(["-c", COMPARE]);
    for (i, path) in models.iter().enumerate() {
        let written = folder.join(format!("{i}.onnx"));
        // Quantization goes through the types; every second model has its weights in a file beside it.
        let graph = read_model(path, true).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let options = WriteOptions { external_data: i % 2 == 1, ..WriteOptions::default() };
        onnx::write(&graph, &written, &options).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        command.arg(path).arg(&written);
    }
    let output = command.output();
    let _ = fs::remove_dir_all(&folder);
    let output = output.expect("it started a moment ago");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
