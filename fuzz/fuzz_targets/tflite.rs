//! TFLite models.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = qing_formats::tflite::read_bytes(&bytes::Bytes::copy_from_slice(data));
});
