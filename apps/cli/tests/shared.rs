//! Accuracy of networks that came quantized, on the data beside the repository (`../shared`, or `QING_SHARED`).

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn shared() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    env::var_os("QING_SHARED").map_or_else(beside, PathBuf::from)
}

/// Top-1 accuracy in percent, or `None` where the data is absent.
fn accuracy(model: &str, data: &str, flags: &[&str]) -> Option<f64> {
    let (model, data) = (shared().join("models").join(model), shared().join("data").join(data));
    if !model.is_file() || !data.is_dir() {
        println!("skipped: {} or {} is absent", model.display(), data.display());
        return None;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_qing"))
        .args(["evaluate", "--json", "--data"])
        .args([&data, &model])
        .args(flags)
        .output()
        .expect("qing starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["top1"].as_f64().map(|share| 100.0 * share)
}

#[test]
fn keyword_network_as_imported() {
    let Some(percent) = accuracy("mlperf_tiny/kws_dscnn_int8.tflite", "kws01", &[]) else { return };
    assert!((percent - 90.2).abs() <= 0.3, "{percent} %");
}

#[test]
fn image_network_as_imported() {
    let Some(percent) = accuracy("mlperf_tiny/ic_resnet8_int8.tflite", "cifar10", &["--preset", "raw"]) else { return };
    assert!((percent - 86.97).abs() <= 0.2, "{percent} %");
}

#[test]
fn float_residual_network() {
    let flags = ["--preset", "cifar10", "--limit", "1000"];
    let Some(percent) = accuracy("resnet20_cifar10.onnx", "cifar10", &flags) else { return };
    assert!(percent > 90.0, "{percent} %");
}
