use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use qing_graph::{Dim, Element, Graph, Quant, Tensor, Type, dump, ops};

use super::{read_bytes, to_bytes};

/// A quantized layer with 3-bit weights, symbolic batch, a residual and metadata.
fn sample() -> Graph {
    let mut g = Graph::new("sample");
    let i3 = Element::integer(3, true).unwrap();
    let x = g.add_input("x", Type::new(Element::F32, [Dim::Symbol("N".into()), 2.into(), 4.into(), 4.into()]));
    let activation = |t: &Type| t.clone().quantized(Element::U8, Quant::per_tensor(0.1, 7).unwrap());
    let ty = activation(g.ty(x));
    let q = g.add_typed_node(Arc::new(ops::Quantize {}), "q", &[Some(x)], vec![ty.clone()]).unwrap()[0];
    let values: Vec<i32> = (0..36).map(|i| i % 7 - 3).collect();
    let weights = Type::new(i3, [2, 2, 3, 3usize]).quantized(i3, Quant::per_axis(0, vec![0.5, 0.25]).unwrap());
    let w = g.add_typed_constant("w", weights, Tensor::from_ints(i3, &[2, 2, 3, 3], &values).unwrap());
    let b = g.add_constant("b", Tensor::vector(vec![5i32, -6]));
    let conv = ops::Conv { pads: vec![1; 4], ..Default::default() };
    let y = g.add_typed_node(Arc::new(conv), "conv", &[Some(q), Some(w), Some(b)], vec![ty.clone()]).unwrap()[0];
    let z = g.add_typed_node(Arc::new(ops::Add {}), "add", &[Some(y), Some(q)], vec![ty]).unwrap()[0];
    g.mark_output(z);
    g.metadata.insert("qing.labels".into(), "a,b".into());
    g
}

#[test]
fn round_trips_with_weights_at_their_own_width() {
    let graph = sample();
    let bytes: Bytes = to_bytes(&graph).into();
    let again = read_bytes(&bytes).unwrap();
    assert_eq!(dump::dump(&again), dump::dump(&graph));
    assert_eq!(again.metadata, graph.metadata);
    let w = again.constant(again.find("w").unwrap()).unwrap();
    assert_eq!(w, graph.constant(graph.find("w").unwrap()).unwrap());
    assert_eq!(w.bytes().len(), (36 * 3usize).div_ceil(8));
    assert_eq!(to_bytes(&again), bytes);
}

#[test]
fn tensors_are_windows_of_the_file() {
    let bytes: Bytes = to_bytes(&sample()).into();
    let again = read_bytes(&bytes).unwrap();
    let w = again.constant(again.find("b").unwrap()).unwrap();
    let (file, own) = (bytes.as_ptr() as usize, w.bytes().as_ptr() as usize);
    assert!(own > file && own < file + bytes.len());
    assert_eq!((own - file) % 64, 0);
}

#[test]
fn damage_is_named() {
    let bytes = to_bytes(&sample());
    let error = |b: &[u8]| read_bytes(&Bytes::copy_from_slice(b)).unwrap_err().to_string();
    assert!(error(&bytes[..10]).contains("too few"));
    assert!(error(b"no").contains("too few"));
    let mut other = bytes.clone();
    other[1] = b'X';
    assert!(error(&other).contains("not a .qing file"));
    other = bytes.clone();
    other[8] = 9;
    assert!(error(&other).contains("version 9"));
    other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    assert!(error(&other).contains("data section") && error(&other).contains("damaged"));
    assert!(error(&bytes[..bytes.len() - 1]).contains("passes the end"));
}

/// With the checksums made right again, so that the parser behind them is reached.
fn reseal(bytes: &mut [u8]) {
    let at = |b: &[u8], i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap()) as usize;
    let (header, data, length) = (at(bytes, 16), at(bytes, 24), at(bytes, 32));
    if let Some(section) = header.checked_add(48).and_then(|end| bytes.get(48..end)) {
        let crc = crc32fast::hash(section).to_le_bytes();
        bytes[12..16].copy_from_slice(&crc);
    }
    if let Some(section) = data.checked_add(length).and_then(|end| bytes.get(data..end)) {
        let crc = crc32fast::hash(section).to_le_bytes();
        bytes[40..44].copy_from_slice(&crc);
    }
    let crc = crc32fast::hash(&bytes[..44]).to_le_bytes();
    bytes[44..48].copy_from_slice(&crc);
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(at in 8usize..2000, value: u8, seal: bool) {
        let mut bytes = to_bytes(&sample());
        let at = at % bytes.len();
        bytes[at] = value;
        if seal {
            reseal(&mut bytes);
        }
        let _ = read_bytes(&bytes.into());
    }
}
