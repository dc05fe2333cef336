//! What a plan promises: what it prints, what it refuses and how, where values lie.

use std::sync::Arc;

use qing_engine::{EngineError, Isa, Options, Plan, Session};
use qing_graph::{Dim, Element, Graph, GraphError, Op, Quant, Tensor, Type, ValueId, interpret::interpret, ops};

fn node(graph: &mut Graph, op: impl Op, name: &str, inputs: &[ValueId]) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    graph.add_node(Arc::new(op), name, &inputs, 1).expect("a legal node")[0]
}

fn conv(graph: &mut Graph, name: &str, x: ValueId, out: usize, kernel: usize) -> ValueId {
    let channels = graph.ty(x).shape.as_ref().and_then(|s| s[1].known()).expect("known channels");
    let shape = [out, channels, kernel, kernel];
    let values = (0..shape.iter().product()).map(|i: usize| (i % 7) as f32 * 0.1 - 0.3).collect::<Vec<f32>>();
    let w = graph.add_constant(&format!("{name}.w"), Tensor::new(&shape, values).expect("fits"));
    let op = ops::Conv { pads: vec![(kernel / 2) as i64; 4], ..ops::Conv::default() };
    node(graph, op, name, &[x, w])
}

/// `relu(conv(x) + conv(relu(conv(x))))`
fn residual() -> Graph {
    let mut graph = Graph::new("residual");
    let batch = Dim::Symbol("N".into());
    let x = graph.add_input("x", Type::new(Element::F32, [batch, 4usize.into(), 6usize.into(), 6usize.into()]));
    let a = conv(&mut graph, "a", x, 8, 3);
    let a = node(&mut graph, ops::Relu {}, "a.relu", &[a]);
    let b = conv(&mut graph, "b", a, 8, 3);
    let c = conv(&mut graph, "c", x, 8, 1);
    let sum = node(&mut graph, ops::Add {}, "sum", &[b, c]);
    let y = node(&mut graph, ops::Relu {}, "y", &[sum]);
    graph.mark_output(y);
    graph
}

#[test]
fn a_dump_shows_what_is_fused_and_where_values_lie() {
    let options = Options { isa: Some(Isa::Scalar), ..Options::default() };
    let dump = Plan::new(&residual(), &options).expect("a legal graph").dump();
    let expected = "\
plan residual for scalar on 1 thread: 5 steps, 4096 bytes of activations, 0 bytes of constants
  input  x f32[1, 4, 6, 6] @2304+576
   0  layout x [to channels last] @2304+576 -> @2880+576
   1  Conv+Relu a [conv f32 3x3 scalar] @2880+576 -> @0+1152
   2  Conv b [conv f32 3x3 scalar] @0+1152 -> @1152+1152
   3  Conv+Add+Relu c [conv f32 1x1 scalar] @2880+576 @1152+1152 -> @0+1152
   4  layout y [to plain] @0+1152 -> @1152+1152
  output y f32[1, 8, 6, 6] @1152+1152
";
    // Which bytes exactly is the memory planner's business, and tested there.
    let outline = |text: &str| -> Vec<String> {
        text.lines().skip(1).map(|l| l.split(" @").next().unwrap_or_default().to_string()).collect()
    };
    assert_eq!(outline(&dump), outline(expected), "{dump}");
}

#[test]
fn memory_is_reused() {
    let mut graph = Graph::new("deep");
    let mut x = graph.add_input("x", Type::new(Element::F32, [1usize, 8, 32, 32]));
    for i in 0..10 {
        x = conv(&mut graph, &format!("conv{i}"), x, 8, 3);
        x = node(&mut graph, ops::Sigmoid {}, &format!("sigmoid{i}"), &[x]);
    }
    graph.mark_output(x);
    let plan = Plan::new(&graph, &Options::default()).expect("a legal graph");
    // The input, and two values at a time: a sigmoid takes the place of its input.
    let one = 4 * 8 * 32 * 32;
    assert_eq!(plan.peak_memory(), 3 * one, "{}", plan.dump());
}

#[test]
fn the_batch_is_one_unless_given() {
    let graph = residual();
    let one = Plan::new(&graph, &Options::default()).expect("a legal graph");
    assert_eq!(one.graph().ty(one.graph().inputs[0]).known_shape(), Some(vec![1, 4, 6, 6]));
    let options = Options { input_shapes: Some(vec![vec![3, 4, 6, 6]]), ..Options::default() };
    let mut three = Session::new(Arc::new(Plan::new(&graph, &options).expect("a legal graph")));
    let x = Tensor::new(&[3, 4, 6, 6], (0..432).map(|i| (i % 11) as f32 * 0.1).collect::<Vec<f32>>()).expect("fits");
    let got = three.run(std::slice::from_ref(&x)).expect("runs").remove(0);
    let want = interpret(&graph, &[x]).expect("runs").remove(0);
    for (g, w) in got.to_f64s().iter().zip(want.to_f64s()) {
        assert!((g - w).abs() < 1e-5, "{g} for {w}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let graph = residual();
    let options = Options { input_shapes: Some(vec![vec![1, 5, 6, 6]]), ..Options::default() };
    let error = Plan::new(&graph, &options).expect_err("five channels").to_string();
    assert!(error.contains("`x`") && error.contains('5'), "{error}");

    let mut session = Session::new(Arc::new(Plan::new(&graph, &Options::default()).expect("a legal graph")));
    let wrong = Tensor::new(&[1, 4, 6, 5], vec![0.0f32; 120]).expect("fits");
    assert!(matches!(session.run(&[wrong]), Err(EngineError::Graph(GraphError::Input { name, .. })) if name == "x"));
    assert!(matches!(session.run(&[]), Err(EngineError::Graph(GraphError::Malformed(_)))));
    assert!(matches!(session.input_mut(1), Err(EngineError::NoSuchPort { what: "input", index: 1, count: 1 })));
    assert!(matches!(session.output(1), Err(EngineError::NoSuchPort { what: "output", index: 1, count: 1 })));

    let mut open = Graph::new("open");
    let dims = [Dim::Known(1), Dim::Symbol("width".into())];
    let x = open.add_input("x", Type::new(Element::F32, dims));
    let y = node(&mut open, ops::Relu {}, "y", &[x]);
    open.mark_output(y);
    let error = Plan::new(&open, &Options::default()).expect_err("no width").to_string();
    assert!(error.contains("`x`") && error.contains("width"), "{error}");
}

#[test]
fn a_layer_that_could_overflow_is_refused_by_name() {
    let mut graph = Graph::new("overflow");
    let quant = || Quant::per_tensor(1.0, 0).expect("a positive scale");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize, 1, 1, 1]).quantized(Element::U8, quant()));
    let w_ty = Type::new(Element::F32, [1usize, 1, 1, 1]).quantized(Element::I8, quant());
    let w = graph.add_typed_constant("w", w_ty, Tensor::from_ints(Element::I8, &[1, 1, 1, 1], &[127]).expect("fits"));
    let b = graph.add_constant("b", Tensor::vector(vec![i32::MAX]));
    let y = Type::new(Element::F32, [1usize, 1, 1, 1]).quantized(Element::U8, quant());
    let inputs = [Some(x), Some(w), Some(b)];
    let y = graph.add_typed_node(Arc::new(ops::Conv::default()), "dot", &inputs, vec![y]).expect("a legal node")[0];
    graph.mark_output(y);
    let error = Plan::new(&graph, &Options::default()).expect_err("an overflow").to_string();
    assert!(error.contains("`dot`") && error.contains("32-bit"), "{error}");
}

#[test]
#[cfg(target_pointer_width = "64")]
fn a_model_that_needs_too_much_memory_is_refused() {
    let mut graph = Graph::new("large");
    let x = graph.add_input("x", Type::new(Element::F32, [1usize]));
    let shape = graph.add_constant("shape", Tensor::vector(vec![1i64 << 20, 1 << 10]));
    let y = node(&mut graph, ops::Expand {}, "y", &[x, shape]);
    let z = node(&mut graph, ops::Relu {}, "z", &[y]);
    graph.mark_output(z);
    let refused = |memory_limit: usize| {
        let options = Options { memory_limit, ..Options::default() };
        Plan::new(&graph, &options).map(|_| ()).map_err(|e| e.to_string())
    };
    let error = refused((1 << 32) - 1).expect_err("four gigabytes");
    assert!(error.contains("`y`") && error.contains("4294967296"), "{error}");
    assert_eq!(refused(1 << 34), Ok(()));
}

#[test]
fn the_reference_can_be_asked_for() {
    let graph = residual();
    let plan = Plan::new(&graph, &Options { reference: true, ..Options::default() }).expect("a legal graph");
    assert_eq!(plan.reference_nodes().len(), plan.graph().nodes.len());
    let plan = Plan::new(&graph, &Options::default()).expect("a legal graph");
    assert_eq!(plan.reference_nodes(), []);
}

#[test]
fn a_profile_accounts_for_every_step() {
    let plan = Arc::new(Plan::new(&residual(), &Options::threads(2)).expect("a legal graph"));
    let mut session = Session::new(plan);
    let times = session.profile().expect("runs");
    let macs: u64 = times.iter().map(|t| t.macs).sum();
    assert_eq!(macs, 36 * 8 * (4 * 9 + 8 * 9 + 4));
    let fused = times.iter().find(|t| t.node == "c").expect("a step of that name");
    assert_eq!(fused.op, "Conv+Add+Relu");
    assert!(times.iter().all(|t| t.bytes >= t.held && t.held > t.weights));
    let mut order = vec![];
    session.run_watched(&mut |i| order.push(i)).expect("runs");
    assert!(order.into_iter().eq(0..=times.len()));
}

#[test]
fn shapes_known_only_at_run_time_are_carried_as_tensors() {
    let mut graph = Graph::new("dynamic");
    let x = graph.add_input("x", Type::new(Element::F32, [4usize]));
    let shape = graph.add_input("shape", Type::new(Element::I64, [1usize]));
    let y = node(&mut graph, ops::Expand {}, "y", &[x, shape]);
    let z = node(&mut graph, ops::Relu {}, "z", &[y]);
    graph.mark_output(z);
    let mut session = Session::new(Arc::new(Plan::new(&graph, &Options::default()).expect("a legal graph")));
    assert!(session.output_tensor(0).is_err(), "nothing was run yet");
    let x = Tensor::vector(vec![-1.0f32, 2.0, 3.0, -4.0]);
    let got = session.run(&[x.clone(), Tensor::vector(vec![1i64])]).expect("runs");
    assert_eq!(got, interpret(&graph, &[x, Tensor::vector(vec![1i64])]).expect("runs"));
}

#[test]
fn values_may_be_inputs_and_outputs_at_once() {
    let mut graph = Graph::new("through");
    let x = graph.add_input("x", Type::new(Element::F32, [2usize, 3]));
    let y = node(&mut graph, ops::Relu {}, "y", &[x]);
    let flat = node(&mut graph, ops::Flatten { axis: 0 }, "flat", &[y]);
    let constant = graph.add_constant("constant", Tensor::vector(vec![7i64]));
    for value in [x, y, flat, constant, y] {
        graph.mark_output(value);
    }
    let input = Tensor::new(&[2, 3], vec![-1.0f32, 0.0, 1.0, 2.0, -3.0, 4.0]).expect("fits");
    let want = interpret(&graph, std::slice::from_ref(&input)).expect("runs");
    let mut session = Session::new(Arc::new(Plan::new(&graph, &Options::default()).expect("a legal graph")));
    for _ in 0..2 {
        assert_eq!(session.run(std::slice::from_ref(&input)).expect("runs"), want);
    }
}

#[test]
fn a_prelu_between_quantized_values_is_part_of_the_layer_before_it() {
    let mut graph = Graph::new("prelu");
    let quantized = |channels: usize, scale: f32, zero: i32| {
        let ty = Type::new(Element::F32, [1, channels, 5, 5]);
        ty.quantized(Element::U8, Quant::per_tensor(scale, zero).expect("a positive scale"))
    };
    let typed = |graph: &mut Graph, op: Arc<dyn Op>, name: &str, inputs: &[ValueId], ty: Type| {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        graph.add_typed_node(op, name, &inputs, vec![ty]).expect("a legal node")[0]
    };
    let x = graph.add_input("x", quantized(3, 0.02, 120));
    let shape = [20, 3, 3, 3];
    let weights: Vec<i32> = (0..540).map(|i| (i * 37) % 255 - 127).collect();
    let w_ty = Type::new(Element::F32, shape).quantized(Element::I8, Quant::per_tensor(0.01, 0).expect("positive"));
    let w = Tensor::from_ints(Element::I8, &shape, &weights).expect("fits");
    let w = graph.add_typed_constant("w", w_ty, w);
    let slopes = (0..20).map(|i| i as f32 * 0.0713 - 0.3117).collect::<Vec<f32>>();
    let slope = graph.add_constant("slope", Tensor::new(&[20, 1, 1], slopes).expect("fits"));
    let op = ops::Conv { pads: vec![1; 4], ..ops::Conv::default() };
    let real = Type::new(Element::F32, [1usize, 20, 5, 5]);
    let y = typed(&mut graph, Arc::new(op), "conv", &[x, w], quantized(20, 0.051_37, 131));
    let y = typed(&mut graph, Arc::new(ops::Dequantize {}), "real", &[y], real.clone());
    let y = typed(&mut graph, Arc::new(ops::PRelu {}), "prelu", &[y, slope], real);
    let y = typed(&mut graph, Arc::new(ops::Quantize {}), "whole", &[y], quantized(20, 0.033_19, 90));
    graph.mark_output(y);
    let input = Tensor::from_ints(Element::U8, &[1, 3, 5, 5], &(0..75).map(|i| i * 53 % 256).collect::<Vec<_>>());
    let input = [input.expect("fits")];
    let want = interpret(&graph, &input).expect("a legal graph");
    for isa in Isa::available() {
        let plan = Plan::new(&graph, &Options { isa: Some(isa), ..Options::default() }).expect("a legal graph");
        assert!(plan.dump().contains("Conv+Dequantize+PRelu+Quantize"), "{}", plan.dump());
        assert_eq!(Session::new(Arc::new(plan)).run(&input).expect("a legal input"), want, "{}", isa.name());
    }
}
