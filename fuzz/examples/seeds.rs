//! Fills the corpora: `seeds DIR…` takes every small model below the folders given as a seed for its reader, and what was
//! read of it, written again, as a seed for the reader of device files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use qing_graph::{Element, Graph, Tensor};
use qing_tensor::TernaryFactors;

/// Larger seeds slow the fuzzer down more than they teach it.
const LARGEST: u64 = 100_000;
/// More seeds of one kind add little.
const MOST: usize = 400;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut counts = [0usize; 3];
    for root in std::env::args().skip(1) {
        let mut files = vec![];
        walk(Path::new(&root), &mut files);
        files.sort();
        for file in files {
            let kind = match file.extension().and_then(|e| e.to_str()) {
                Some("onnx") => 0,
                Some("tflite") => 1,
                Some("npy" | "npz") => {
                    let _ = fs::read(&file).map(|bytes| put(&corpus.join("npy"), &bytes));
                    continue;
                }
                _ => continue,
            };
            let Ok(bytes) = fs::read(&file) else { continue };
            if counts[kind] < MOST {
                counts[kind] += usize::from(put(&corpus.join(["onnx", "tflite"][kind]), &bytes));
            }
            if let Ok(graph) = qing_formats::read(&file)
                && counts[2] < MOST
            {
                counts[2] += usize::from(put(&corpus.join("qing"), &qing_formats::qing::to_bytes(&graph)));
                put(&corpus.join("qing"), &qing_formats::qing::to_compressed_bytes(&graph));
            }
        }
    }
    for array in [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2), }",
    ] {
        let mut bytes = b"\x93NUMPY\x01\0".to_vec();
        bytes.extend((array.len() as u16).to_le_bytes());
        bytes.extend(array.as_bytes());
        bytes.extend([1, 0, 0, 0]);
        put(&corpus.join("npy"), &bytes);
    }
    put(&corpus.join("qing"), &qing_formats::qing::to_compressed_bytes(&factored()));
    println!("seeds: {} onnx, {} tflite, {} qing", counts[0], counts[1], counts[2]);
}

/// A constant that is stored as ternary factors.
fn factored() -> Graph {
    let digits = |count: i32| (0..count).map(|i| (i * 3 / 5 % 3 - 1) as i8).collect();
    let factors = TernaryFactors::new(digits(100), vec![60, 21], digits(124), 62).expect("digits");
    let tensor = Tensor::from_factors(Element::I8, &[50, 62], factors.into()).expect("as many values");
    let mut graph = Graph::new("factored");
    let made = graph.add_constant("made", tensor);
    graph.mark_output(made);
    graph
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if entry.metadata().is_ok_and(|m| m.len() <= LARGEST) {
            files.push(path);
        }
    }
}

/// Stores a seed under its checksum; false if it could not be.
fn put(folder: &Path, bytes: &[u8]) -> bool {
    bytes.len() as u64 <= LARGEST
        && fs::create_dir_all(folder).is_ok()
        && fs::write(folder.join(format!("{:08x}", crc32fast::hash(bytes))), bytes).is_ok()
}
