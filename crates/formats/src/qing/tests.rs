use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use qing_graph::{Dim, Element, Graph, Quant, Tensor, Type, dump, ops};
use qing_tensor::TernaryFactors;

use super::{ALIGN, PREFIX, code, open_bytes, read_bytes, to_bytes, to_compressed_bytes, to_prepacked_bytes};

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

/// Weights of `bits`, a share of them zero, the others by size.
fn sparse(bits: u8, count: usize, zeros: f64) -> Tensor {
    let element = Element::integer(bits, true).unwrap();
    let most = (1i64 << (bits - 1)) - 1;
    let value = |i: usize| {
        let h = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
        let u = h as f64 / (1u64 << 53) as f64;
        let v = if u < zeros { 0 } else { (h % (2 * most as u64 + 1)) as i64 - most };
        v as i32
    };
    Tensor::from_ints(element, &[count], &(0..count).map(value).collect::<Vec<_>>()).unwrap()
}

fn entropy(tensor: &Tensor) -> f64 {
    let values = tensor.to_ints();
    let mut counts = std::collections::BTreeMap::new();
    values.iter().for_each(|v| *counts.entry(*v).or_insert(0u32) += 1);
    let n = values.len() as f64;
    counts.values().map(|c| -f64::from(*c) * (f64::from(*c) / n).log2()).sum::<f64>() / 8.0
}

#[test]
fn packed_weights_lie_behind_the_data() {
    let graph = sample();
    let packed = [("one".to_owned(), vec![1u8; 100]), ("two".to_owned(), vec![2u8; 7])];
    let bytes = Bytes::from(to_prepacked_bytes(&graph, &packed));
    assert_eq!(to_bytes(&read_bytes(&bytes).unwrap()), to_bytes(&graph));
    for (packing, content) in &packed {
        let opened = open_bytes(&bytes, packing).unwrap();
        let found = opened.packed.unwrap();
        assert_eq!(found, content[..]);
        assert_eq!((found.as_ptr() as usize - bytes.as_ptr() as usize) % ALIGN, 0);
        assert_eq!(to_bytes(&opened.graph), to_bytes(&graph));
    }
    assert!(open_bytes(&bytes, "three").unwrap().packed.is_none());
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 4;
        // Whoever needs what is damaged hears of it; nobody panics.
        let (one, none) = (open_bytes(&damaged.clone().into(), "one"), read_bytes(&damaged.into()));
        if at < PREFIX {
            assert!(one.is_err() && none.is_err(), "byte {at}");
        }
    }
    let end = bytes.len();
    let last = open_bytes(&bytes, "two").unwrap().packed.unwrap().len();
    for (at, packing) in [(end - 1, "two"), (end - last - 64, "one")] {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 4;
        let error = open_bytes(&damaged.into(), packing).unwrap_err().to_string();
        assert!(error.contains(packing) && error.contains("checksum"), "{error}");
    }
    for end in 0..bytes.len() {
        assert!(read_bytes(&bytes.slice(..end)).is_err(), "cut at {end}");
    }
}

#[test]
fn zeros_cost_what_they_should() {
    for (bits, zeros) in [(2, 0.3), (2, 0.9), (3, 0.5), (4, 0.75), (8, 0.97), (4, 0.0)] {
        let tensor = sparse(bits, 40_000, zeros);
        let (coding, bytes) = code::encode(&tensor);
        let ideal = entropy(&tensor);
        assert!((bytes.len() as f64) < 1.01 * ideal + 300.0, "{bits} bits, {zeros}: {} of {ideal}", bytes.len());
        assert_eq!(code::decode(coding, &bytes, tensor.element(), &[40_000]).unwrap(), tensor, "{bits} bits");
    }
}

#[test]
fn zeros_in_runs_cost_less() {
    let values: Vec<i32> = (0..32_000).map(|i| if (i / 64) % 4 == 0 { (i * 7919) % 15 - 7 } else { 0 }).collect();
    let tensor = Tensor::from_ints(Element::integer(4, true).unwrap(), &[32_000], &values).unwrap();
    let (coding, bytes) = code::encode(&tensor);
    assert!((bytes.len() as f64) < 0.8 * entropy(&tensor), "{} {coding:?}", bytes.len());
    assert_eq!(code::decode(coding, &bytes, tensor.element(), &[32_000]).unwrap(), tensor);
}

#[test]
fn wide_and_short_and_plain_tensors_come_back() {
    let floats: Vec<f32> = (0..4000).map(|i| if i % 5 == 0 { (i as f32).sin() } else { 0.0 }).collect();
    let all_zero = Tensor::new(&[100_000], vec![0f32; 100_000]).unwrap();
    for tensor in [
        Tensor::vector(floats),
        Tensor::vector((0..500).map(|i| i * i - 7000).collect::<Vec<i32>>()),
        Tensor::vector(vec![7i32]),
        Tensor::new(&[0], Vec::<f32>::new()).unwrap(),
        Tensor::from_ints(Element::Bipolar, &[77], &[1; 77]).unwrap(),
        all_zero,
    ] {
        let (coding, bytes) = code::encode(&tensor);
        assert!(bytes.len() <= tensor.bytes().len());
        assert_eq!(code::decode(coding, &bytes, tensor.element(), tensor.shape()).unwrap(), tensor);
    }
}

#[test]
fn compressed_files_are_the_same_graph_and_smaller() {
    let mut graph = sample();
    let w = graph.find("w").unwrap();
    graph.value_mut(w).constant = Some(sparse(3, 36, 0.6).reshaped(&[2, 2, 3, 3]).unwrap());
    let (plain, compressed) = (to_bytes(&graph), to_compressed_bytes(&graph));
    assert!(compressed.len() < plain.len(), "{} {}", compressed.len(), plain.len());
    assert_eq!((plain[8], compressed[8]), (1, 2));
    let again = read_bytes(&compressed.into()).unwrap();
    assert_eq!(to_bytes(&again), plain);
}

#[test]
fn what_was_made_of_factors_is_stored_as_factors() {
    let mut graph = sample();
    let w = graph.find("w").unwrap();
    let digits = |n: i32, count: i32| -> Vec<i8> { (0..count).map(|i| (i * n / 5 % 3 - 1) as i8).collect() };
    let factors = TernaryFactors::new(digits(3, 100), vec![60, 21], digits(2, 124), 62).unwrap();
    let tensor = Tensor::from_factors(Element::I8, &[50, 62], factors.into()).unwrap();
    let ty = Type::new(Element::I8, [50, 62usize]).quantized(Element::I8, Quant::per_tensor(0.5, 0).unwrap());
    let made = graph.add_typed_constant("made", ty, tensor.clone());
    graph.outputs.extend([made, w]);
    let compressed = to_compressed_bytes(&graph);
    let again = read_bytes(&compressed.clone().into()).unwrap();
    let made = again.constant(again.find("made").unwrap()).unwrap();
    assert_eq!((made, made.factors()), (&tensor, tensor.factors()));
    assert!(compressed.len() < to_bytes(&sample()).len() + 600, "{}", compressed.len());
    // A file that is read and written is the same file.
    assert_eq!(to_compressed_bytes(&again), compressed);
    assert_eq!(to_bytes(&again), to_bytes(&graph));
}

#[test]
fn a_file_may_not_claim_more_than_it_holds() {
    let mut g = Graph::new("t");
    let x = g.add_input("x", Type::new(Element::F32, [1usize]));
    // Silence, that takes few bytes.
    let zeros = g.add_constant("z", Tensor::new(&[200_000], vec![0f32; 200_000]).unwrap());
    let y = g.add_node(Arc::new(ops::Add {}), "y", &[Some(x), Some(zeros)], 1).unwrap()[0];
    g.mark_output(y);
    let bytes = to_compressed_bytes(&g);
    assert!(bytes.len() * 1024 >= 800_000 && read_bytes(&bytes.into()).is_ok());
    assert!(code::decode(code::Coding::Symbols, &[0, 0, 128, 128, 1, 0, 0, 128, 0], Element::I8, &[1 << 40]).is_err());
    // One symbol alone: any number of it takes no bits.
    let one = [5, 0, 128, 128, 1, 0, 0, 128, 0];
    assert_eq!(code::decode(code::Coding::Symbols, &one, Element::I8, &[9]).unwrap().to_ints(), [5; 9]);
    for bad in [&one[..8], &[250, 9, 1][..], &[0, 0, 1, 0, 0, 128, 0][..], &[0, 0, 128, 128, 1, 0, 0, 0, 0][..], &[]] {
        assert!(code::decode(code::Coding::Symbols, bad, Element::I8, &[9]).is_err(), "{bad:?}");
    }
    // A two-bit tensor holds no fives.
    let i2 = Element::integer(2, true).unwrap();
    assert!(code::decode(code::Coding::Symbols, &one, i2, &[9]).unwrap_err().contains("does not fit"));
}

proptest! {
    #[test]
    fn coded_values_come_back(values in prop::collection::vec(any::<u8>(), 1..600), period in 1usize..9, mask in 0u8..=255) {
        let values: Vec<u8> = values.into_iter().map(|v| v & mask).collect();
        let coded = code::symbols::encode(&values).unwrap();
        prop_assert_eq!(&code::symbols::decode(&coded, values.len()).unwrap(), &values);
        for orders in 1..=4 {
            let coded = code::adaptive::encode(&values, period, orders);
            prop_assert_eq!(&code::adaptive::decode(&coded, values.len(), period, orders).unwrap(), &values);
        }
    }

    #[test]
    fn changed_bytes_of_compressed_files_never_panic(at in 8usize..2000, value: u8, seal: bool) {
        let mut bytes = to_compressed_bytes(&sample());
        let at = at % bytes.len();
        bytes[at] = value;
        if seal {
            reseal(&mut bytes);
        }
        let _ = read_bytes(&bytes.into());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0usize..5000) {
        for coding in (1..).map_while(code::Coding::of) {
            let _ = code::decode(coding, &bytes, Element::I8, &[count]);
        }
    }

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
