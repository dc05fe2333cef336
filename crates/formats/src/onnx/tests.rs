//! Reader and writer against each other, and against bytes that are not what they should be.

use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use qing_graph::{Dim, Element, Graph, Tensor, Type, dump, interpret, ops};

use super::{
    WriteOptions,
    proto::{
        AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
        TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto, attribute_type,
    },
    read_bytes, tensor, to_bytes, write,
};

fn text(names: &[&str]) -> Vec<String> {
    names.iter().map(|s| s.to_string()).collect()
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { op_type: op.into(), input: text(inputs), output: text(outputs), ..NodeProto::default() }
}

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim =
        dims.iter().map(|d| super::proto::Dimension { value: Some(super::proto::DimensionValue::Size(*d)) }).collect();
    let tensor = TensorTypeProto { elem_type: 1, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { value: Some(TypeValue::Tensor(tensor)) }) }
}

fn floats(name: &str, values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: 1,
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 21 }];
    ModelProto { ir_version: 10, graph: Some(graph), opset_import, ..ModelProto::default() }
}

fn read(model: &ModelProto) -> Result<Graph, String> {
    read_bytes(&model.encode_to_vec().into(), None).map_err(|e| e.to_string())
}

/// `y = relu(x + w)`.
fn small() -> ModelProto {
    model(GraphProto {
        node: vec![node("Add", &["x", "w"], &["s"]), node("Relu", &["s"], &["y"])],
        name: "small".into(),
        initializer: vec![floats("w", &[1.0, -2.0])],
        input: vec![value("x", &[1, 2])],
        output: vec![value("y", &[1, 2])],
        ..GraphProto::default()
    })
}

#[test]
fn a_model_is_read_and_runs() {
    let graph = read(&small()).unwrap();
    let x = Tensor::new(&[1, 2], vec![1.0f32, 1.0]).unwrap();
    let y = interpret::interpret(&graph, &[x]).unwrap();
    assert_eq!(y[0].to_f64s(), [2.0, 0.0]);
}

#[test]
fn nodes_in_any_order_and_constants_listed_as_inputs() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.node.reverse();
    graph.input.insert(0, value("w", &[2]));
    let read = read(&proto).unwrap();
    assert_eq!(read.inputs.len(), 1);
    assert_eq!(read.nodes[0].op.name(), "Add");
}

#[test]
fn constants_share_the_bytes_of_the_file() {
    let mut proto = small();
    let raw: Vec<u8> = [1.0f32, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let w = &mut proto.graph.as_mut().unwrap().initializer[0];
    w.float_data.clear();
    w.raw_data = Some(raw.into());
    let bytes: Bytes = proto.encode_to_vec().into();
    let graph = read_bytes(&bytes, None).unwrap();
    let w = graph.constant(graph.find("w").unwrap()).unwrap();
    let inside = bytes.as_ptr_range();
    assert!(inside.contains(&w.bytes().as_ptr()));
}

#[test]
fn every_way_to_store_values_reads_the_same() {
    let int = |width, signed| Element::integer(width, signed).unwrap();
    let ints = |data_type, data: &[i32]| TensorProto {
        dims: vec![3],
        data_type,
        int32_data: data.to_vec(),
        ..TensorProto::default()
    };
    let wide = |data_type| TensorProto { dims: vec![3], data_type, ..TensorProto::default() };
    let cases = [
        (TensorProto { double_data: vec![1., 2., 3.], ..wide(11) }, Element::F64, [1., 2., 3.]),
        (ints(10, &[0x3c00, 0xc000, 0]), Element::F16, [1., -2., 0.]),
        (ints(16, &[0x3f80, 0xc000, 0]), Element::BF16, [1., -2., 0.]),
        (ints(3, &[1, -2, 127]), Element::I8, [1., -2., 127.]),
        (ints(2, &[1, 200, 255]), Element::U8, [1., 200., 255.]),
        (ints(5, &[1, -2, 300]), Element::I16, [1., -2., 300.]),
        (ints(9, &[1, 0, 1]), Element::Bool, [1., 0., 1.]),
        // Two and four values in one entry, the first in the low bits.
        (ints(22, &[0x72, 0x0f]), int(4, true), [2., 7., -1.]),
        (ints(21, &[0x72, 0x0f]), int(4, false), [2., 7., 15.]),
        (ints(26, &[0b10_01_11]), int(2, true), [-1., 1., -2.]),
        (ints(25, &[0b10_01_11]), int(2, false), [3., 1., 2.]),
        (TensorProto { int64_data: vec![1, -2, 3], ..wide(7) }, Element::I64, [1., -2., 3.]),
        (TensorProto { uint64_data: vec![1, 2, 3], ..wide(12) }, Element::U32, [1., 2., 3.]),
        (TensorProto { uint64_data: vec![1, 2, 3], ..wide(13) }, Element::U64, [1., 2., 3.]),
    ];
    for (proto, element, values) in cases {
        let external = tensor::External::new(None);
        let read = tensor::read_tensor(&proto, &external).unwrap();
        assert_eq!((read.element(), read.to_f64s().as_slice()), (element, values.as_slice()), "{proto:?}");
        let raw = tensor::write_tensor("t", &read).unwrap();
        assert_eq!(tensor::read_tensor(&raw, &external).unwrap(), read);
    }
}

#[test]
fn malformed_models_are_refused_with_a_place() {
    let change = |f: fn(&mut GraphProto)| {
        let mut proto = small();
        f(proto.graph.as_mut().unwrap());
        read(&proto).unwrap_err()
    };
    let cases: Vec<(String, &str)> = vec![
        (read(&ModelProto::default()).unwrap_err(), "no graph"),
        (change(|g| g.input.push(value("x", &[1]))), "value `x`: defined twice"),
        (change(|g| g.input.push(value("s", &[1]))), "value `s`: defined twice"),
        (change(|g| g.initializer.push(floats("w", &[]))), "value `w`: defined twice"),
        (change(|g| g.node[0].input[0] = "z".into()), "reads `z`, which nothing in the graph defines"),
        (change(|g| g.node[0].input[0] = "y".into()), "depends on itself"),
        (change(|g| g.output[0].name = "z".into()), "graph output `z`: nothing"),
        (change(|g| g.input[0].r#type = None), "graph input `x`: it has no type"),
        (change(|g| g.initializer[0].dims = vec![3]), "tensor `w`: a f32 tensor of shape [3] needs 3 values, got 2"),
        (change(|g| g.initializer[0].dims = vec![1 << 40, 1 << 40]), "more elements than this machine can address"),
        (change(|g| g.initializer[0].dims = vec![1 << 40]), "needs 1099511627776 values, got 2"),
        (change(|g| g.initializer[0].dims = vec![-2]), "dimensions [-2]"),
        (change(|g| g.initializer[0].data_type = 8), "elements of type string"),
        (change(|g| g.input[0] = value("x", &[1 << 40, 1 << 40])), "more elements than this machine can address"),
        (change(|g| g.input[0] = value("x", &[1, 3])), "node `s` (Add of"),
        (change(|g| g.initializer[0].raw_data = Some(vec![0; 7].into())), "needs 8 bytes, got 7"),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error}\n  does not say: {expected}");
    }
}

#[test]
fn all_unknown_ops_are_listed_at_once() {
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.node.push(node("Fancy", &["y"], &["a"]));
    graph.node.push(NodeProto { domain: "acme".into(), name: "n".into(), ..node("Relu", &["a"], &["b"]) });
    let error = read(&proto).unwrap_err();
    assert!(error.contains("2 of the model's nodes"), "{error}");
    assert!(error.contains("node `a` (Fancy, opset 21)") && error.contains("node `n` (acme.Relu)"), "{error}");
}

#[test]
fn newer_opsets_are_refused() {
    let mut proto = small();
    proto.opset_import[0].version = super::NEWEST_OPSET + 1;
    assert!(read(&proto).unwrap_err().contains("opset 27"));
}

#[test]
fn functions_are_inlined() {
    let mut proto = small();
    proto.functions.push(FunctionProto {
        name: "F".into(),
        domain: "local".into(),
        input: text(&["a", "b"]),
        output: text(&["r", "same"]),
        node: vec![node("Add", &["a", "b"], &["t"]), node("Relu", &["t"], &["r"])],
        ..FunctionProto::default()
    });
    proto.graph.as_mut().unwrap().node =
        vec![NodeProto { domain: "local".into(), name: "call".into(), ..node("F", &["x", "w"], &["y"]) }];
    let graph = read(&proto).unwrap();
    assert_eq!(graph.nodes.iter().map(|n| n.op.name()).collect::<Vec<_>>(), ["Add", "Relu"]);
    assert!(graph.find("call/t").is_some());
    // A function that calls itself.
    proto.functions[0].node = vec![NodeProto { domain: "local".into(), ..node("F", &["a", "b"], &["r"]) }];
    assert!(read(&proto).unwrap_err().contains("nested deeper"));
    // Functions that call the next one a hundred times each, the last of which does nothing.
    let call = |i: usize| NodeProto { domain: "local".into(), ..node(&format!("F{i}"), &[], &["r"]) };
    proto.functions = (0..8)
        .map(|i| FunctionProto {
            name: format!("F{i}"),
            domain: "local".into(),
            node: if i < 7 { vec![call(i + 1); 100] } else { vec![] },
            ..FunctionProto::default()
        })
        .collect();
    proto.graph.as_mut().unwrap().node = vec![call(0)];
    assert!(read(&proto).unwrap_err().contains("more than"));
}

#[test]
fn graphs_round_trip() {
    for spec in ops::OPS.iter().filter(|s| s.domain != "qing") {
        for case in (spec.cases)() {
            let quantized = case.inputs.iter().flatten().any(|(_, q)| q.is_some());
            let odd = case.inputs.iter().flatten().any(|(t, _)| tensor::data_type(t.element()).is_none());
            if quantized || odd || case.outputs.iter().any(|(_, q)| q.is_some()) {
                continue;
            }
            let what = format!("{} {}", spec.name, case.name);
            let graph = case.graph(&[]).unwrap_or_else(|e| panic!("{what}: {e}"));
            let bytes = to_bytes(&graph, &WriteOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
            let again = read_bytes(&bytes.into(), None).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(dump::dump(&again), dump::dump(&graph.clone().compacted()), "{what}");
        }
    }
}

#[test]
fn names_symbols_and_metadata_survive() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", Type::new(Element::F32, [Dim::Symbol("N".into()), Dim::Known(2), Dim::Unknown]));
    let op = ops::find("", "Relu").map(|s| (s.build)(&Default::default())).unwrap().unwrap();
    let y = graph.add_node(op, "y", &[Some(x)], 1).unwrap();
    graph.mark_output(y[0]);
    graph.metadata.insert("labels".into(), "cat\ndog".into());
    let again = read_bytes(&to_bytes(&graph, &WriteOptions::default()).unwrap().into(), None).unwrap();
    assert_eq!(dump::dump(&again), dump::dump(&graph));
    assert_eq!(again.metadata, graph.metadata);
}

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("qing-onnx-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn external_data_are_written_and_read_in_place() {
    let folder = Folder::new("external");
    let path = folder.0.join("m.onnx");
    let mut proto = small();
    let inner = proto.graph.as_mut().unwrap();
    inner.initializer[0] = floats("w", &vec![0.5; 1000]);
    inner.input[0] = value("x", &[1, 1000]);
    inner.output[0] = value("y", &[1, 1000]);
    let graph = read(&proto).unwrap();
    write(&graph, &path, &WriteOptions { external_data: true, ..WriteOptions::default() }).unwrap();
    assert_eq!(std::fs::metadata(folder.0.join("m.onnx.data")).unwrap().len(), 4000);
    let again = super::read(&path).unwrap();
    assert_eq!(dump::dump(&again), dump::dump(&graph));
    let w = |g: &Graph| g.constant(g.find("w").unwrap()).unwrap().clone();
    assert_eq!(w(&again), w(&graph));
}

#[test]
fn external_data_stay_in_their_folder_and_in_their_file() {
    let folder = Folder::new("traversal");
    let inside = folder.0.join("inside");
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(folder.0.join("secret"), [0; 8]).unwrap();
    std::fs::write(inside.join("data"), [0; 8]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.0.join("secret"), inside.join("link")).unwrap();
    let attempt = |entries: &[(&str, &str)]| {
        let mut proto = small();
        let w = &mut proto.graph.as_mut().unwrap().initializer[0];
        w.float_data.clear();
        w.data_location = super::proto::EXTERNAL;
        w.external_data = entries
            .iter()
            .map(|(key, value)| StringStringEntryProto { key: key.to_string(), value: value.to_string() })
            .collect();
        read_bytes(&proto.encode_to_vec().into(), Some(&inside)).map_err(|e| e.to_string())
    };
    assert!(attempt(&[("location", "data")]).is_ok());
    assert!(attempt(&[("location", "./data"), ("offset", "0"), ("length", "8")]).is_ok());
    let absolute = folder.0.join("secret").to_string_lossy().into_owned();
    for (entries, expected) in [
        (vec![("location", "../secret")], "must lie in the folder"),
        (vec![("location", absolute.as_str())], "must lie in the folder"),
        (vec![("location", "")], "must lie in the folder"),
        (vec![("location", ".")], "is not a file"),
        (vec![("location", "absent")], "absent"),
        (vec![], "without a location"),
        (vec![("location", "data"), ("offset", "1")], "8 bytes at offset 1"),
        (vec![("location", "data"), ("length", "4")], "needs 8 bytes, got 4"),
        (vec![("location", "data"), ("offset", "18446744073709551615")], "at offset"),
        (vec![("location", "data"), ("offset", "-1")], "`-1` is no offset"),
    ] {
        let error = attempt(&entries).unwrap_err();
        assert!(error.contains(expected), "{entries:?}: {error}");
    }
    #[cfg(unix)]
    assert!(attempt(&[("location", "link")]).unwrap_err().contains("must lie in the folder"));
}

/// A model with most kinds of fields in it, to be damaged.
fn rich() -> Vec<u8> {
    let mut proto = small();
    proto.metadata_props.push(StringStringEntryProto { key: "k".into(), value: "v".into() });
    let graph = proto.graph.as_mut().unwrap();
    let ints = |name: &str, values: &[i64]| AttributeProto {
        name: name.into(),
        ints: values.to_vec(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    };
    graph.initializer.push(TensorProto { dims: vec![1, 1, 1, 2], ..floats("k", &[1.0, 2.0]) });
    graph.initializer.push(TensorProto {
        name: "shape".into(),
        dims: vec![4],
        data_type: 7,
        int64_data: vec![1, 1, 1, -1],
        ..TensorProto::default()
    });
    graph.node.push(node("Reshape", &["y", "shape"], &["r"]));
    graph.node.push(NodeProto { attribute: vec![ints("pads", &[0, 1, 0, 1])], ..node("Conv", &["r", "k"], &["c"]) });
    let pool = ints("kernel_shape", &[1, 2]);
    graph.node.push(NodeProto { attribute: vec![pool], ..node("MaxPool", &["c"], &["p", ""]) });
    graph.node.push(node("Shape", &["p"], &["z"]));
    graph.output.push(value("p", &[1, 1, 1, 2]));
    graph.output.push(ValueInfoProto { name: "z".into(), r#type: None });
    proto.encode_to_vec()
}

#[test]
fn the_model_to_be_damaged_is_whole() {
    let graph = read_bytes(&rich().into(), None).unwrap();
    assert_eq!(graph.nodes.len(), 6);
    assert_eq!(graph.outputs.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is done to the bytes, the answer is a graph or an error.
    #[test]
    fn damaged_models_do_not_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
    ) {
        let mut bytes = rich();
        for (at, byte) in flips {
            let i = at.index(bytes.len());
            bytes[i] = byte;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = read_bytes(&bytes.into(), None);
    }
}
