//! ONNX models, and tensors that are messages of their own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qing_formats::onnx::{self, WriteOptions};

fuzz_target!(|data: &[u8]| {
    let bytes = bytes::Bytes::copy_from_slice(data);
    match onnx::read_bytes(&bytes, None) {
        // What was read can be written and read again.
        Ok(graph) => {
            // Files are read through this pass too; it may object, but never panic.
            let _ = qing_graph::passes::from_qdq(&graph);
            if let Ok(again) = onnx::to_bytes(&graph, &WriteOptions::default()) {
                onnx::read_bytes(&again.into(), None).expect("a written graph is read");
            }
        }
        Err(_) => {
            let _ = onnx::read_tensor(&bytes);
        }
    }
});
