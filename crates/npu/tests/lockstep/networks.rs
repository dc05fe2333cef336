//! Whole compiled networks on the RTL: results, activation memory, counters and cycles as the simulator has them. That the simulator gives what
//! the reference evaluator gives is held by `networks.rs`.
//! Needs `../shared/models`; skips without.

use std::path::PathBuf;

use qing_npu::{Config, compile, compile::Words};

use crate::rtl::{Conditions, Pair, Random, built};

fn lockstep(preset: &str, network: &str, frames: usize) {
    if !built(preset) {
        return;
    }
    let models = std::env::var_os("QING_MODELS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"), PathBuf::from);
    let path = models.join(network);
    if !path.is_file() {
        println!("skipped: {} is not there", path.display());
        return;
    }
    let graph = qing_formats::read(&path).unwrap();
    let program = compile(&graph, &Config::preset(preset).unwrap()).unwrap();
    let mut pair = Pair::new(preset);
    pair.program(&program.instructions);
    let what = || format!("{network} on {preset}");
    pair.run(program.setup, &program.setup_words, &Conditions::default(), &what);
    let mut random = Random(9);
    let mut cycles = 0;
    for frame in 0..frames {
        // Noise in the lanes of channels as well as in those that hold none.
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
    println!("{network} on {preset}: {cycles} cycles a frame; {} cycles equal", pair.cycles);
}

#[test]
fn keyword_dscnn_on_nano() {
    lockstep("nano", "mlperf_tiny/kws_dscnn_int8.tflite", 2);
}

#[test]
#[ignore = "long: needs larger models, suite/npu/run --full"]
fn mlperf_tiny_on_larger_presets() {
    for (preset, network) in [
        ("edge", "mlperf_tiny/ic_resnet8_int8.tflite"),
        ("edge", "mlperf_tiny/ad_autoencoder_int8.tflite"),
        ("edge", "mlperf_tiny/kws_dscnn_int8.tflite"),
        ("core", "mlperf_tiny/ic_resnet8_int8.tflite"),
        ("core", "mlperf_tiny/vww_int8.tflite"),
        ("core", "mlperf_tiny/kws_dscnn_int8.tflite"),
        ("core", "mlperf_tiny/ad_autoencoder_int8.tflite"),
    ] {
        lockstep(preset, network, 1);
    }
}
