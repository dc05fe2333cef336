//! Whole models: read, written, read again, and opened by ONNX Runtime; the same bytes for any number of threads.
//!
//! The models are those of `../shared/models` beside the repository, or of the folders in `QING_MODELS`.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use qing_engine::{Options, Plan, Session};
use qing_formats::onnx::{self, WriteOptions};
use qing_graph::{Dim, Element, Graph, Tensor, Type, dump};
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

/// Models of any format in the folders and those below them.
fn all_models() -> Vec<PathBuf> {
    let (mut folders, mut models) = (folders(), vec![]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "onnx" || e == "tflite") {
                models.push(path);
            }
        }
    }
    models.sort();
    models
}

/// Values between 0 and 1, or the integers of the type, for an input; what is not known of its shape is 1.
fn noise(ty: &Type) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().flatten().map(|d| if let Dim::Known(n) = d { *n } else { 1 }).collect();
    let hash = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32;
    let count = shape.iter().product();
    let values = (0..count).map(|i| f64::from(hash(i)) / f64::from(1 << 24));
    let tensor = if ty.element.is_float() {
        Tensor::new(&shape, values.collect::<Vec<f64>>())
    } else {
        let (lo, hi) = ty.range().unwrap_or((0, 1));
        Tensor::new(&shape, values.map(|v| f64::from(lo) + (v * f64::from(hi - lo)).round()).collect::<Vec<f64>>())
    };
    tensor.expect("as many values as the shape has").cast(if ty.element.is_packed() { Element::I8 } else { ty.element })
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let models = all_models();
    if models.is_empty() {
        return println!("skipped: no models in {:?}", folders());
    }
    let results = run_all(&models, |path| {
        let graph = read_model(path, true)?;
        let inputs: Vec<Tensor> = graph.inputs.iter().map(|id| noise(graph.ty(*id))).collect();
        let mut first: Option<Vec<Tensor>> = None;
        let packed = Plan::prepack(&graph, &Options::default()).map_err(|e| e.to_string())?.1;
        let packed = qing_engine::Prepacked::new(packed.into());
        // The last two with weights that were packed before.
        for (threads, prepacked) in [(1, None), (2, None), (3, None), (8, None), (1, packed.clone()), (3, packed)] {
            let options = Options { prepacked, ..Options::threads(threads) };
            let plan = Plan::new(&graph, &options).map_err(|e| e.to_string())?;
            let mut session = Session::new(plan.into());
            // Twice, for what the first run leaves behind.
            for run in 0..2 {
                let outputs = session.run(&inputs).map_err(|e| e.to_string())?;
                let same = |a: &[Tensor]| a.iter().zip(&outputs).all(|(a, b)| a.bytes() == b.bytes());
                if !same(first.get_or_insert_with(|| outputs.clone())) {
                    return Err(format!("run {run} on {threads} threads gives other bytes than one thread"));
                }
            }
        }
        Ok(first.map_or(0, |outputs| outputs.iter().map(Tensor::len).sum()))
    });
    for (path, result) in models.iter().zip(results) {
        match result {
            Ok(values) => println!("{}: {values} values", path.display()),
            Err(why) => panic!("{}: {why}", path.display()),
        }
    }
}
