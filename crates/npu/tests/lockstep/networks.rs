//! Whole compiled networks on the RTL: results, activation memory, counters and cycles as the simulator has them. That the simulator gives what
//! the reference evaluator gives is held by `networks.rs`.
//! Needs `../shared/models`, and the lightened networks that `suite/npu/run` makes; skips those that are not there.

use std::path::PathBuf;

use qing_npu::{Config, Program, compile, compile::Words};

use crate::rtl::{Conditions, Pair, Random, built};

/// A file of `../shared/models`, or of the folder of lightened networks that `suite/npu/run` makes.
fn network(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("QING_MODELS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"), PathBuf::from);
    let made = std::env::var_os("QING_NPU_NETWORKS").map(PathBuf::from);
    let found = made.into_iter().chain([shared]).map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: {name} is not there");
    }
    found
}

/// A network with its weights in the memories of both.
fn loaded(preset: &str, name: &str) -> Option<(Program, Pair)> {
    if !built(preset) {
        return None;
    }
    let graph = qing_formats::read(&network(name)?).unwrap();
    let program = compile(&graph, &Config::preset(preset).unwrap()).unwrap();
    let mut pair = Pair::new(preset);
    pair.program(&program.instructions);
    let what = || format!("{name} on {preset}: weights");
    pair.run(program.setup, &program.setup_words, &Conditions::default(), &what);
    Some((program, pair))
}

/// The words of a frame: noise in the lanes of channels as well as in those that hold none.
fn frame_words(program: &Program, random: &mut Random) -> Vec<u64> {
    let mut words = Vec::new();
    for part in &program.frame_words {
        match part {
            Words::Input { port, count, .. } => {
                let bits = program.network.tensors[program.network.inputs[*port].view.tensor].bits;
                words.extend((0..count * bits).map(|_| random.next()));
            }
            Words::Weights { first, count } => words.extend(&program.streamed[*first..first + count]),
        }
    }
    words
}

fn lockstep(preset: &str, name: &str, frames: usize) {
    let Some((program, mut pair)) = loaded(preset, name) else { return };
    let what = || format!("{name} on {preset}");
    let mut random = Random(9);
    let mut cycles = 0;
    for frame in 0..frames {
        let words = frame_words(&program, &mut random);
        // The last of several frames meets streams that wait.
        let waits = frame > 0 && frame + 1 == frames;
        let conditions =
            if waits { Conditions { input: 0x51, output: 0x63, reset: None } } else { Conditions::default() };
        let run = pair.run(program.frame, &words, &conditions, &what);
        if frame == 0 {
            cycles = run.counters.cycles;
        }
    }
    pair.compare_memory(pair.config().activation_words(), &what);
    let strips = program.layers.iter().filter(|l| l.strips > 1).count();
    let strips = if strips > 0 { format!(", {strips} layers in strips") } else { String::new() };
    println!("{name} on {preset}: {cycles} cycles a frame{strips}; {} cycles equal", pair.cycles);
}

#[test]
fn keyword_dscnn_on_nano() {
    lockstep("nano", "mlperf_tiny/kws_dscnn_int8.tflite", 2);
}

#[test]
fn fashion_of_few_bits_on_nano() {
    for bits in ["w4a4", "w2a2", "w1a4"] {
        lockstep("nano", &format!("fashion_{bits}.qing"), 1);
    }
}

#[test]
#[ignore = "long: suite/npu/run --full"]
fn larger_networks_on_nano() {
    lockstep("nano", "fashion_w8a8.qing", 1);
    lockstep("nano", "mlperf_tiny/ic_resnet8_int8.tflite", 1);
}

/// The four networks of the benchmark.
const MLPERF_TINY: [&str; 4] = [
    "mlperf_tiny/ic_resnet8_int8.tflite",
    "mlperf_tiny/vww_int8.tflite",
    "mlperf_tiny/kws_dscnn_int8.tflite",
    "mlperf_tiny/ad_autoencoder_int8.tflite",
];

#[test]
#[ignore = "long: needs larger models, suite/npu/run --full"]
fn networks_on_edge() {
    for name in MLPERF_TINY.into_iter().chain([
        "fashion_w8a8.qing",
        "fashion_w4a4.qing",
        "fashion_w2a2.qing",
        "fashion_w1a4.qing",
    ]) {
        lockstep("edge", name, 1);
    }
}

#[test]
#[ignore = "long: needs larger models, suite/npu/run --full"]
fn networks_on_core() {
    for name in MLPERF_TINY.into_iter().chain(["fashion_w8a8.qing", "fashion_w2a2.qing", "fashion_w1a4.qing"]) {
        lockstep("core", name, 1);
    }
}

/// Whole, or the first `QING_NPU_CYCLES` cycles of it.
#[test]
#[ignore = "long: needs larger models, suite/npu/run --full"]
fn mobilenetv2_on_core() {
    let name = "mobilenetv2_w8a8.qing";
    let Some(cycles) = std::env::var("QING_NPU_CYCLES").ok().and_then(|n| n.parse().ok()) else {
        return lockstep("core", name, 1);
    };
    let Some((program, mut pair)) = loaded("core", name) else { return };
    let words = frame_words(&program, &mut Random(9));
    let run = pair.run_part(program.frame, &words, cycles, &|| name.into());
    let begun =
        run.spans.iter().filter_map(|s| program.layer_of.get(s.pc)).filter(|l| **l < program.layers.len()).max();
    let (reached, all) = (begun.map_or(0, |l| l + 1), program.layers.len());
    println!("{name} on core: {cycles} cycles, up to layer {reached} of {all}, equal");
}
