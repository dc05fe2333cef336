//! After the first run nothing is allocated.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use qing_engine::{Options, Plan, Session};
use qing_graph::{Element, Graph, Op, Quant, Tensor, Type, ValueId, ops};

/// The system's allocator, counting.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An inverted residual block of MobileNetV2 between a first layer and a classifier.
fn network(quantized: bool) -> Graph {
    let mut graph = Graph::new("mobile");
    let ty = |shape: &[usize]| {
        let ty = Type::new(Element::F32, shape.iter().copied());
        if !quantized {
            return ty;
        }
        ty.quantized(Element::U8, Quant::per_tensor(0.05, 100).expect("a positive scale"))
    };
    let mut x = graph.add_input("image", Type::new(Element::F32, [1usize, 3, 32, 32]));
    let node = |graph: &mut Graph, op: Arc<dyn Op>, inputs: &[ValueId], ty: Type| {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let name = format!("node{}", graph.nodes.len());
        graph.add_typed_node(op, &name, &inputs, vec![ty]).expect("a legal node")[0]
    };
    if quantized {
        x = node(&mut graph, Arc::new(ops::Quantize {}), &[x], ty(&[1, 3, 32, 32]));
    }
    let conv = |graph: &mut Graph, x: ValueId, out: usize, kernel: usize, stride: usize, depthwise: bool| {
        let shape = graph.ty(x).known_shape().expect("known");
        let groups = if depthwise { shape[1] } else { 1 };
        let w_shape = [out, shape[1] / groups, kernel, kernel];
        let count: usize = w_shape.iter().product();
        let w = if quantized {
            let values: Vec<i32> = (0..count).map(|i| (i * 37 % 15) as i32 - 7).collect();
            let element = Element::integer(4, true).expect("a width");
            let quant = Quant::per_axis(0, vec![0.01; out]).expect("positive scales");
            let ty = Type::new(Element::F32, w_shape).quantized(element, quant);
            graph.add_typed_constant("w", ty, Tensor::from_ints(element, &w_shape, &values).expect("fits"))
        } else {
            let values: Vec<f32> = (0..count).map(|i| (i * 37 % 15) as f32 * 0.01 - 0.07).collect();
            graph.add_constant("w", Tensor::new(&w_shape, values).expect("fits"))
        };
        let pad = (kernel / 2) as i64;
        let op = ops::Conv {
            group: groups as i64,
            pads: vec![pad; 4],
            strides: vec![stride as i64; 2],
            ..ops::Conv::default()
        };
        let size = shape[2] / stride;
        let shape = [1, out, size, size];
        let y = node(graph, Arc::new(op), &[x, w], ty(&shape));
        if kernel == 1 && out < 20 { y } else { node(graph, Arc::new(ops::Relu {}), &[y], ty(&shape)) }
    };
    x = conv(&mut graph, x, 16, 3, 2, false);
    let before = x;
    x = conv(&mut graph, x, 96, 1, 1, false);
    x = conv(&mut graph, x, 96, 3, 1, true);
    x = conv(&mut graph, x, 16, 1, 1, false);
    x = {
        let sum = ty(&[1, 16, 16, 16]);
        let inputs = [Some(x), Some(before)];
        graph.add_typed_node(Arc::new(ops::Add {}), "sum", &inputs, vec![sum]).expect("a legal node")[0]
    };
    let mut node = |op: Arc<dyn Op>, x: ValueId, ty: Type| {
        let name = format!("tail{}", graph.nodes.len());
        graph.add_typed_node(op, &name, &[Some(x)], vec![ty]).expect("a legal node")[0]
    };
    x = node(Arc::new(ops::Sigmoid {}), x, ty(&[1, 16, 16, 16]));
    x = node(Arc::new(ops::GlobalAveragePool {}), x, ty(&[1, 16, 1, 1]));
    x = node(Arc::new(ops::Flatten { axis: 1 }), x, ty(&[1, 16]));
    if quantized {
        x = node(Arc::new(ops::Dequantize {}), x, Type::new(Element::F32, [1usize, 16]));
    }
    x = node(Arc::new(ops::Softmax { axis: 1, coerced: false }), x, Type::new(Element::F32, [1usize, 16]));
    graph.mark_output(x);
    graph
}

/// A layer with its gradients: weights and what flows back are inputs.
fn training() -> Graph {
    let mut graph = Graph::new("training");
    let mut input = |name: &str, shape: &[usize]| graph.add_input(name, Type::new(Element::F32, shape.iter().copied()));
    let (x, dy) = (input("x", &[3, 16, 8, 8]), input("dy", &[3, 16, 8, 8]));
    let (w, scale, bias) = (input("w", &[16, 16, 3, 3]), input("scale", &[16]), input("bias", &[16]));
    let (a, b) = (input("a", &[6, 5]), input("b", &[6, 4]));
    let mut node = |op: Arc<dyn Op>, inputs: &[ValueId], outputs: usize| {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let name = format!("node{}", graph.nodes.len());
        graph.add_node(op, &name, &inputs, outputs).expect("a legal node")
    };
    let (pads, epsilon) = (vec![1i64; 4], 1e-5);
    let z = node(Arc::new(ops::Conv { pads: pads.clone(), ..ops::Conv::default() }), &[x, w], 1)[0];
    let normal = node(Arc::new(ops::BatchNormTraining { epsilon }), &[z, scale, bias], 3);
    let y = node(Arc::new(ops::Relu {}), &normal[..1], 1)[0];
    let kept = node(Arc::new(ops::ReluGrad {}), &[y, dy], 1)[0];
    let inputs = [z, scale, normal[1], normal[2], kept];
    let back = node(Arc::new(ops::BatchNormGrad { epsilon }), &inputs, 3);
    let op = ops::ConvWeightGrad { kernel_shape: vec![3; 2], pads: pads.clone(), ..ops::ConvWeightGrad::default() };
    let dw = node(Arc::new(op), &[x, back[0]], 1)[0];
    let dx = node(Arc::new(ops::ConvTranspose { pads, ..ops::ConvTranspose::default() }), &[back[0], w], 1)[0];
    let product = node(Arc::new(ops::Gemm { transA: true, ..ops::Gemm::default() }), &[a, b], 1)[0];
    [y, dw, dx, product, back[1], back[2]].iter().for_each(|id| graph.mark_output(*id));
    graph
}

// One test, so that no other thread of the harness allocates meanwhile.
#[test]
fn runs_allocate_nothing() {
    for graph in [network(false), network(true), training()] {
        for threads in [1, 2] {
            let plan = Plan::new(&graph, &Options::threads(threads)).expect("a legal graph");
            assert_eq!(plan.reference_nodes(), [], "{}", plan.dump());
            let mut session = Session::new(Arc::new(plan));
            session.input_mut(0).expect("one input").fill(1);
            session.run_into().expect("runs");
            let first = session.output_tensor(0).expect("one output");
            // The harness's own thread may allocate meanwhile, but hardly three times in a row.
            let mut allocations = || {
                let before = COUNT.load(Ordering::Relaxed);
                for _ in 0..10 {
                    session.run_into().expect("runs");
                }
                COUNT.load(Ordering::Relaxed) - before
            };
            let fewest = (0..3).map(|_| allocations()).min();
            assert_eq!(fewest, Some(0), "{}, {threads} threads", graph.name);
            assert_eq!(session.output_tensor(0).expect("one output"), first);
        }
    }
}
