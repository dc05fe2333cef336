//! Runs that are disturbed, and inputs that are not what the network expects: clear errors, and nothing lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use qing_engine::{EngineError, Options, Plan, Session};
use qing_graph::{Dim, Element, Graph, Op, Quant, Tensor, Type, ValueId, interpret::interpret, ops};

const SHAPE: [usize; 4] = [1, 3, 12, 12];

fn node(graph: &mut Graph, op: impl Op, inputs: &[ValueId], ty: Option<Type>) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    let name = format!("n{}", graph.nodes.len());
    let made = match ty {
        Some(ty) => graph.add_typed_node(Arc::new(op), &name, &inputs, vec![ty]),
        None => graph.add_node(Arc::new(op), &name, &inputs, 1),
    };
    made.expect("a legal node")[0]
}

/// Two convolutions, an activation, pooling; on floats or on quantized values.
fn network(quantized: bool) -> Graph {
    let mut graph = Graph::new("small");
    let image = graph.add_input("image", Type::new(Element::F32, SHAPE));
    let ty = |shape: [usize; 4]| {
        let ty = Type::new(Element::F32, shape);
        quantized.then(|| ty.quantized(Element::U8, Quant::per_tensor(0.02, 100).expect("a scale")))
    };
    let mut x = image;
    if quantized {
        x = node(&mut graph, ops::Quantize {}, &[x], ty(SHAPE));
    }
    for (from, to) in [(3, 20), (20, 7)] {
        let shape = [to, from, 3, 3];
        let count: usize = shape.iter().product();
        let w = if quantized {
            let values: Vec<i32> = (0..count).map(|i| (i * 37 % 255) as i32 - 127).collect();
            let ty = Type::new(Element::F32, shape)
                .quantized(Element::I8, Quant::per_axis(0, vec![0.002; to]).expect("scales"));
            graph.add_typed_constant("w", ty, Tensor::from_ints(Element::I8, &shape, &values).expect("fits"))
        } else {
            let values: Vec<f32> = (0..count).map(|i| (i * 37 % 255) as f32 / 500.0 - 0.25).collect();
            graph.add_constant("w", Tensor::new(&shape, values).expect("fits"))
        };
        let conv = ops::Conv { pads: vec![1; 4], ..ops::Conv::default() };
        x = node(&mut graph, conv, &[x, w], ty([1, to, 12, 12]));
        x = node(&mut graph, ops::Relu {}, &[x], ty([1, to, 12, 12]));
    }
    x = node(&mut graph, ops::GlobalAveragePool {}, &[x], ty([1, 7, 1, 1]));
    if quantized {
        x = node(&mut graph, ops::Dequantize {}, &[x], None);
    }
    graph.mark_output(x);
    graph
}

fn image(seed: usize) -> Tensor {
    let values =
        (0..SHAPE.iter().product()).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 400.0 - 1.2).collect();
    Tensor::new(&SHAPE, values).expect("fits")
}

fn session(graph: &Graph, threads: usize) -> Session {
    Session::new(Arc::new(Plan::new(graph, &Options::threads(threads)).expect("a legal graph")))
}

#[test]
fn one_plan_runs_on_many_threads_at_once() {
    for quantized in [false, true] {
        let plan = Arc::new(Plan::new(&network(quantized), &Options::threads(2)).expect("a legal graph"));
        let expected: Vec<Vec<Tensor>> =
            (0..8).map(|i| Session::new(plan.clone()).run(&[image(i)]).expect("runs")).collect();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (plan, expected) = (plan.clone(), &expected);
                scope.spawn(move || {
                    let mut session = Session::new(plan);
                    for round in 0..20 {
                        let seed = (i + round) % 8;
                        assert_eq!(session.run(&[image(seed)]).expect("runs"), expected[seed]);
                    }
                });
            }
        });
    }
}

#[test]
fn a_cancelled_run_says_so_and_the_session_runs_again() {
    let mut session = session(&network(true), 2);
    let expected = session.run(&[image(1)]).expect("runs");
    let cancel = AtomicBool::new(true);
    let error = session.run_cancellable(&cancel).expect_err("cancelled");
    assert!(matches!(error, EngineError::Cancelled { done: 0, .. }), "{error}");
    assert!(error.to_string().contains("may be run again"), "{error}");
    cancel.store(false, Ordering::Relaxed);
    session.run_cancellable(&cancel).expect("runs");
    assert_eq!(session.output_tensor(0).expect("an output"), expected[0]);
}

#[test]
fn a_run_is_cancelled_half_way_by_another_thread() {
    // Long enough that the other thread comes in between; it cancels again and again until that was half-way.
    let mut graph = Graph::new("long");
    let mut x = graph.add_input("x", Type::new(Element::F32, [1usize, 8, 128, 128]));
    for _ in 0..200 {
        x = node(&mut graph, ops::Softmax { axis: 1, coerced: false }, &[x], None);
    }
    graph.mark_output(x);
    let mut session = session(&graph, 2);
    session.input_mut(0).expect("an input").fill(0);
    session.run_into().expect("runs");
    let expected = session.output_tensor(0).expect("an output");
    let (cancel, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                cancel.store(true, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let mut half_way = false;
        for _ in 0..10_000 {
            cancel.store(false, Ordering::Relaxed);
            if let Err(EngineError::Cancelled { done, steps }) = session.run_cancellable(&cancel) {
                half_way |= 0 < done && done < steps;
            }
            if half_way {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(half_way);
    });
    session.run_into().expect("runs");
    assert_eq!(session.output_tensor(0).expect("an output"), expected);
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    for quantized in [false, true] {
        let mut session = session(&network(quantized), 1);
        let expected = session.run(&[image(3)]).expect("runs");
        let floats = |shape: &[usize]| Tensor::new(shape, vec![0.0f32; shape.iter().product()]).expect("fits");
        let wrong = [
            (vec![floats(&[1, 3, 12, 11])], "image"),
            (vec![floats(&[2, 3, 12, 12])], "image"),
            (vec![floats(&[3, 12, 12])], "image"),
            (vec![floats(&[])], "image"),
            (vec![image(0).cast(Element::F64)], "image"),
            (vec![image(0).cast(Element::U8)], "image"),
            (vec![], "1 inputs"),
            (vec![image(0), image(0)], "1 inputs"),
        ];
        for (inputs, says) in wrong {
            let error = session.run(&inputs).expect_err("does not fit").to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(session.input_mut(1).is_err() && session.output(1).is_err());
        assert_eq!(session.run(&[image(3)]).expect("runs"), expected);
    }
    // A tensor cannot be made of too few bytes in the first place.
    assert!(Tensor::from_bytes(Element::F32, &SHAPE, vec![0; 7].into()).is_err());
}

#[test]
fn not_numbers_and_infinities_are_quantized_as_the_reference_does() {
    let graph = network(true);
    for threads in [1, 2] {
        let mut session = session(&graph, threads);
        for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-42, -0.0] {
            let mut values = image(5).to_f32s();
            values.iter_mut().step_by(5).for_each(|v| *v = odd);
            let input = Tensor::new(&SHAPE, values).expect("fits");
            let expected = interpret(&graph, std::slice::from_ref(&input)).expect("runs");
            assert_eq!(session.run(&[input]).expect("runs"), expected, "{odd}");
        }
    }
}

#[test]
fn not_numbers_pass_through_float_layers() {
    let mut session = session(&network(false), 2);
    let clean = session.run(&[image(2)]).expect("runs");
    for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let mut values = image(2).to_f32s();
        values[77] = odd;
        session.run(&[Tensor::new(&SHAPE, values).expect("fits")]).expect("runs");
    }
    // Nothing of them stays in the session.
    assert_eq!(session.run(&[image(2)]).expect("runs"), clean);
}

#[test]
fn dimensions_that_overflow_are_refused() {
    let huge = 1usize << 40;
    let shapes: [&[usize]; 4] = [&[huge, huge], &[usize::MAX, 2], &[huge, 1 << 23], &[1 << 36]];
    for shape in shapes {
        let mut graph = Graph::new("huge");
        let x = graph.add_input("x", Type::new(Element::F32, shape.iter().copied()));
        let y = node(&mut graph, ops::Relu {}, &[x], None);
        graph.mark_output(y);
        let error = Plan::new(&graph, &Options::default()).expect_err("too large").to_string();
        assert!(error.contains('x') && error.contains("limit"), "{shape:?}: {error}");
    }
    // Ops that multiply dimensions with each other.
    let multiplying: [fn(&mut Graph, ValueId) -> ValueId; 5] = [
        |g, x| {
            let to = g.add_constant("to", Tensor::vector(vec![1i64 << 21; 4]));
            node(g, ops::Expand {}, &[x, to], None)
        },
        |g, x| node(g, ops::Flatten { axis: 2 }, &[x], None),
        |g, x| {
            let to = g.add_constant("to", Tensor::vector(vec![-1i64]));
            node(g, ops::Reshape { allowzero: false }, &[x, to], None)
        },
        |g, x| {
            let times = g.add_constant("times", Tensor::vector(vec![1i64, 1, 1 << 40, 1 << 40]));
            node(g, ops::Tile {}, &[x, times], None)
        },
        |g, x| node(g, ops::DepthToSpace { blocksize: 1 << 40, mode: "DCR".into() }, &[x], None),
    ];
    for (i, layer) in multiplying.into_iter().enumerate() {
        let made = std::panic::catch_unwind(|| {
            let mut graph = Graph::new("huge");
            let x = graph.add_input("x", Type::new(Element::F32, [1usize << 20, 1 << 20, 1 << 20, 1 << 20]));
            let y = layer(&mut graph, x);
            graph.mark_output(y);
            Plan::new(&graph, &Options::default()).is_err()
        });
        // `node` insists on a legal node: refusing it there is as good, an overflow is not.
        match made {
            Ok(refused) => assert!(refused, "{i}"),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                assert!(text.contains("a legal node"), "{i}: {text}");
            }
        }
    }
    // A symbolic batch that is bound to more than there is.
    let mut graph = Graph::new("batch");
    let x = graph.add_input("x", Type::new(Element::F32, [Dim::Symbol("N".into()), 8.into()]));
    let y = node(&mut graph, ops::Relu {}, &[x], None);
    graph.mark_output(y);
    let options = Options { input_shapes: Some(vec![vec![usize::MAX / 8, 8]]), ..Options::default() };
    assert!(Plan::new(&graph, &options).is_err());
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    for quantized in [false, true] {
        let graph = network(quantized);
        let one = session(&graph, 1).run(&[image(9)]).expect("runs");
        for threads in [2, 3, 8] {
            assert_eq!(session(&graph, threads).run(&[image(9)]).expect("runs"), one, "{threads} threads, {quantized}");
        }
    }
}
