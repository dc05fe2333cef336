use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use qing_graph::{Element, Tensor, dump, interpret};

use super::read_bytes;

/// The MLPerf Tiny networks, where they are at hand.
fn model(name: &str) -> Option<Bytes> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/mlperf_tiny").join(name);
    let bytes = std::fs::read(&path).ok();
    if bytes.is_none() {
        eprintln!("skipped: {} is not there", path.display());
    }
    bytes.map(Bytes::from)
}

const ALL: [&str; 8] = [
    "ad_autoencoder_fp32.tflite",
    "ad_autoencoder_int8.tflite",
    "ic_resnet8_fp32.tflite",
    "ic_resnet8_int8.tflite",
    "kws_dscnn_fp32.tflite",
    "kws_dscnn_int8.tflite",
    "vww_fp32.tflite",
    "vww_int8.tflite",
];

#[test]
fn the_tiny_networks_are_read_and_run() {
    for name in ALL {
        let Some(bytes) = model(name) else { continue };
        let graph = read_bytes(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let inputs: Vec<Tensor> = graph
            .inputs
            .iter()
            .map(|id| {
                let ty = graph.ty(*id);
                let shape: Vec<usize> =
                    ty.shape.as_ref().expect("a rank").iter().map(|d| d.known().unwrap_or(1)).collect();
                Tensor::new(&shape, vec![0.0f32; shape.iter().product()]).expect("fits").cast(ty.element)
            })
            .collect();
        if name.starts_with("vww") {
            continue; // The naive loops take too long here; the engine's tests run it.
        }
        let outputs = interpret::interpret(&graph, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(outputs.len(), 1, "{name}");
        assert!(outputs[0].to_f64s().iter().all(|v| v.is_finite()), "{name}");
        let quantized = name.contains("int8");
        assert_eq!(outputs[0].element(), if quantized { Element::I8 } else { Element::F32 }, "{name}");
        if quantized {
            // Everything between input and output stays integer, except a softmax.
            let floats = dump::dump(&graph).lines().filter(|l| l.contains(": f32")).count();
            assert!(floats <= 3, "{name}:\n{}", dump::dump(&graph));
        }
    }
}

#[test]
fn what_is_not_a_model_is_refused() {
    for bytes in [&b""[..], b"TFL3", b"\x10\0\0\0TFL3", b"\xff\xff\xff\xffTFL3aaaaaaaaaaaaaaaaaaaaaaaa"] {
        assert!(read_bytes(&Bytes::copy_from_slice(bytes)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn changed_bytes_never_panic(at: u32, value: u8, cut: bool) {
        let Some(bytes) = model("kws_dscnn_int8.tflite") else { return Ok(()) };
        let mut bytes = bytes.to_vec();
        let at = at as usize % bytes.len();
        bytes[at] = value;
        if cut {
            bytes.truncate(at);
        }
        let _ = read_bytes(&bytes.into());
    }
}
