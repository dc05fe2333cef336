//! Whole networks: the chip gives what the reference evaluator gives, bit for bit.

use std::path::PathBuf;

use qing_graph::{
    Graph, Tensor,
    interpret::{interpret, interpret_with},
};
use qing_npu::{Config, Session, compile};

fn model(name: &str) -> Option<Graph> {
    let models = std::env::var_os("QING_MODELS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"), PathBuf::from);
    let path = models.join(name);
    if !path.is_file() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(qing_formats::read(&path).unwrap())
}

/// Integers of the input's element that look like noise.
fn noise(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    graph
        .inputs
        .iter()
        .map(|id| {
            let ty = graph.ty(*id);
            let shape: Vec<usize> = ty.shape.as_ref().unwrap().iter().map(|d| d.known().unwrap_or(1)).collect();
            let n = shape.iter().product::<usize>();
            match ty.range().filter(|_| ty.element.bits() <= 8) {
                Some((lo, hi)) => {
                    let values: Vec<i32> = (0..n).map(|_| lo + (next() % (hi - lo + 1) as u64) as i32).collect();
                    Tensor::from_ints(ty.element, &shape, &values).unwrap()
                }
                None => Tensor::new(&shape, (0..n).map(|_| (next() % 2001) as f32 / 1000.0 - 1.0).collect()).unwrap(),
            }
        })
        .collect()
}

/// Holds every activation that is still in memory to the reference, so that a failure names the layer.
fn compare_tensors(session: &Session, graph: &Graph, inputs: &[Tensor]) {
    let network = &session.program().network;
    let buffers = &session.program().buffers;
    let mut values = std::collections::HashMap::new();
    interpret_with(graph, inputs, |id, t| {
        values.insert(graph.value(id).name.clone(), t.clone());
    })
    .unwrap();
    for (l, layer) in network.layers.iter().enumerate() {
        let b = &buffers[layer.output];
        let reused = network.layers[l + 1..].iter().any(|later| {
            let o = &buffers[later.output];
            later.output != layer.output && o.base < b.base + b.words && b.base < o.base + o.words
        });
        let t = &network.tensors[layer.output];
        let joined = layer.channels != t.channels;
        let Some(expected) = values.get(&t.name).filter(|_| !reused && !joined && t.bits <= 8) else { continue };
        let Some(got) = session.tensor(layer.output) else { continue };
        let want = expected.to_ints();
        let wrong: Vec<_> = (0..want.len()).filter(|i| want[*i] != got[*i]).collect();
        assert!(
            wrong.is_empty(),
            "layer {} ({}): {} of {} values differ, the first at {}: {} for {}",
            layer.name,
            layer.op,
            wrong.len(),
            want.len(),
            wrong[0],
            got[wrong[0]],
            want[wrong[0]]
        );
    }
}

fn agrees(graph: &Graph, preset: &str, frames: u64) -> u64 {
    let program = compile(graph, &Config::preset(preset).unwrap()).unwrap();
    let bound = program.graph.clone();
    let mut session = Session::new(program).unwrap();
    let mut cycles = 0;
    for seed in 0..frames {
        let inputs = noise(graph, seed + 1);
        let frame = session.run(&inputs).unwrap();
        let expected = interpret(&bound, &inputs).unwrap();
        compare_tensors(&session, &bound, &inputs);
        for (e, y) in expected.iter().zip(&frame.outputs) {
            assert_eq!((e.shape(), e.bytes()), (y.shape(), y.bytes()), "{preset}, frame {seed}");
        }
        cycles = frame.run.counters.cycles;
    }
    cycles
}

#[test]
fn resnet8() {
    let Some(graph) = model("mlperf_tiny/ic_resnet8_int8.tflite") else { return };
    println!("core: {} cycles", agrees(&graph, "core", 2));
}

#[test]
fn keyword_dscnn() {
    let Some(graph) = model("mlperf_tiny/kws_dscnn_int8.tflite") else { return };
    println!("core: {} cycles", agrees(&graph, "core", 2));
}

#[test]
fn visual_wake_words() {
    let Some(graph) = model("mlperf_tiny/vww_int8.tflite") else { return };
    println!("core: {} cycles", agrees(&graph, "core", 1));
}

#[test]
fn autoencoder() {
    let Some(graph) = model("mlperf_tiny/ad_autoencoder_int8.tflite") else { return };
    println!("core: {} cycles", agrees(&graph, "core", 2));
}

#[test]
fn what_does_not_fit_whole_is_computed_in_strips() {
    for (name, preset) in [("mlperf_tiny/ic_resnet8_int8.tflite", "nano"), ("mlperf_tiny/vww_int8.tflite", "edge")] {
        let Some(graph) = model(name) else { return };
        let program = compile(&graph, &Config::preset(preset).unwrap()).unwrap();
        assert!(program.layers.iter().any(|l| l.strips > 1), "{name}");
        println!("{name} on {preset}: {} cycles", agrees(&graph, preset, 1));
    }
}

#[test]
fn weights_of_mlperf_tiny_stay_on_edge() {
    for name in ["ic_resnet8", "kws_dscnn", "vww", "ad_autoencoder"] {
        let Some(graph) = model(&format!("mlperf_tiny/{name}_int8.tflite")) else { return };
        let program = compile(&graph, &Config::preset("edge").unwrap()).unwrap();
        assert!(program.layers.iter().all(|l| l.resident) && program.streamed.is_empty(), "{name}");
        println!("{name} on edge: {} cycles", agrees(&graph, "edge", 1));
    }
}
