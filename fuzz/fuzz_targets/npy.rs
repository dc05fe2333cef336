//! NumPy arrays and archives of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qing_formats::npy;

fuzz_target!(|data: &[u8]| {
    let bytes = bytes::Bytes::copy_from_slice(data);
    match npy::read_bytes(&bytes) {
        Ok(tensor) => {
            let again = npy::to_bytes(&tensor);
            assert_eq!(npy::read_bytes(&again.into()).expect("a written array is read"), tensor);
        }
        Err(_) => {
            let _ = npy::read_npz_bytes(&bytes);
        }
    }
});
