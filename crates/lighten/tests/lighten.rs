//! From a float graph to a typed one, on networks small enough to check by the reference evaluator.

use std::sync::Arc;

use qing_graph::{Element, Graph, Tensor, Type, ValueId, interpret::interpret, ops, verify::verify};
use qing_lighten::{
    Bits, LightenError, Lightened, Options, QuantizeOptions, RangeMethod, Reconstruction, Rounding, Search, lighten,
    lighten_within,
    search::{CostModel, Costs, Forms, Judge, Measure, MixedOptions, parse_budgets},
    shape::Shapes,
};

fn noise(shape: &[usize], seed: usize, size: f32) -> Tensor {
    let count = shape.iter().product();
    let value = |i: usize| {
        let h = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((h >> 40) as f32 / 16_777_216.0 - 0.5) * 2.0 * size
    };
    Tensor::new(shape, (0..count).map(value).collect()).unwrap()
}

fn conv(g: &mut Graph, name: &str, x: ValueId, shape: [usize; 4], group: i64, seed: usize) -> ValueId {
    let fan: usize = shape[1..].iter().product();
    let w = g.add_constant(&format!("{name}.w"), noise(&shape, seed, (3.0 / fan as f32).sqrt()));
    let b = g.add_constant(&format!("{name}.b"), noise(&[shape[0]], seed + 1, 0.2));
    let pad = if shape[2] % 2 == 1 { (shape[2] / 2) as i64 } else { 0 };
    let op = ops::Conv { group, pads: vec![pad; 4], ..ops::Conv::default() };
    g.add_node(Arc::new(op), name, &[Some(x), Some(w), Some(b)], 1).unwrap()[0]
}

fn relu(g: &mut Graph, name: &str, x: ValueId) -> ValueId {
    g.add_node(Arc::new(ops::Relu {}), name, &[Some(x)], 1).unwrap()[0]
}

/// A stem, a residual block with a depthwise convolution, pooling and a last layer whose result stays real.
fn network() -> Graph {
    network_of(0)
}

/// The network with other weights for every seed.
fn network_of(seed: usize) -> Graph {
    let mut g = Graph::new("small");
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 8, 8]));
    let stem = conv(&mut g, "stem", x, [8, 3, 3, 3], 1, 1 + seed);
    let stem = relu(&mut g, "stem.relu", stem);
    let a = conv(&mut g, "a", stem, [8, 1, 3, 3], 8, 3 + seed);
    let a = relu(&mut g, "a.relu", a);
    let b = conv(&mut g, "b", a, [8, 8, 1, 1], 1, 5 + seed);
    let sum = g.add_node(Arc::new(ops::Add {}), "sum", &[Some(b), Some(stem)], 1).unwrap()[0];
    let sum = relu(&mut g, "sum.relu", sum);
    let pool = ops::MaxPool { kernel_shape: vec![2, 2], strides: vec![2, 2], ..ops::MaxPool::default() };
    let p = g.add_node(Arc::new(pool), "pool", &[Some(sum)], 1).unwrap()[0];
    let y = conv(&mut g, "head", p, [4, 8, 4, 4], 1, 7 + seed);
    g.mark_output(y);
    g
}

fn batches(n: usize) -> Vec<Vec<Tensor>> {
    (0..n).map(|i| vec![noise(&[1, 3, 8, 8], 100 + i, 1.5)]).collect()
}

fn decibels(a: &Tensor, b: &Tensor) -> f64 {
    let (mut s, mut e) = (0.0, 0.0);
    for (a, b) in a.to_f64s().into_iter().zip(b.to_f64s()) {
        s += a * a;
        e += (a - b) * (a - b);
    }
    10.0 * (s / e).log10()
}

fn options(bits: &str) -> Options {
    let mut quantize = QuantizeOptions::with_bits(bits.parse().unwrap());
    quantize.edge_bits = None;
    Options { quantize, ..Options::default() }
}

#[test]
fn every_width_gives_a_legal_graph_within_its_noise_budget() {
    let (graph, data) = (network(), batches(6));
    for (bits, least) in [("w1a8", -1.0), ("w2a8", 3.0), ("w3a8", 10.0), ("w4a8", 16.0), ("w6a8", 25.0), ("w8a8", 29.0)]
    {
        let made = lighten(&graph, &data, &options(bits), &mut |_| {}).unwrap();
        verify(&made.graph).unwrap();
        let input = noise(&[1, 3, 8, 8], 999, 1.5);
        let (a, b) =
            (interpret(&graph, std::slice::from_ref(&input)).unwrap(), interpret(&made.graph, &[input]).unwrap());
        let db = decibels(&a[0], &b[0]);
        assert!(db > least, "{bits}: {db} dB");
    }
    for bits in ["w8a1", "w1a1", "w3a5", "w7a2", "w5a3"] {
        let made = lighten(&graph, &data, &options(bits), &mut |_| {}).unwrap();
        interpret(&made.graph, &data[0]).unwrap();
    }
}

/// Convolutions wide enough for bit planes, one after the other and around a residual.
fn wide() -> Graph {
    let mut g = Graph::new("wide");
    let mut x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 8, 8]));
    x = conv(&mut g, "stem", x, [32, 3, 3, 3], 1, 1);
    x = relu(&mut g, "stem.relu", x);
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        x = conv(&mut g, name, x, [32, 32, 3, 3], 1, 3 + 2 * i);
        x = relu(&mut g, &format!("{name}.relu"), x);
    }
    let inner = conv(&mut g, "d", x, [32, 32, 3, 3], 1, 11);
    let sum = g.add_node(Arc::new(ops::Add {}), "sum", &[Some(inner), Some(x)], 1).unwrap()[0];
    let sum = relu(&mut g, "sum.relu", sum);
    let y = conv(&mut g, "head", sum, [10, 32, 8, 8], 1, 13);
    g.mark_output(y);
    g
}

#[test]
fn the_engine_runs_few_bits_as_they_are_and_equals_the_reference() {
    let (graph, data) = (wide(), batches(4));
    let input = noise(&[1, 3, 8, 8], 999, 1.5);
    for (bits, kernel) in [
        ("w1a1", "w1a1 bits"),
        ("w1a2", "w1a2 bits"),
        ("w2a2", "w2a2 bits"),
        ("w4a8", "4-bit u8"),
        ("w2a8", "ternary u8"),
    ] {
        let mut options = options(bits);
        options.quantize.edge_bits = Some(8);
        let made = lighten(&graph, &data, &options, &mut |_| {}).unwrap();
        let want = interpret(&made.graph, std::slice::from_ref(&input)).unwrap();
        for isa in qing_engine::Isa::available() {
            let options = qing_engine::Options { isa: Some(isa), ..qing_engine::Options::default() };
            let plan = qing_engine::Plan::new(&made.graph, &options).unwrap();
            let dump = plan.dump();
            let got = qing_engine::Session::new(Arc::new(plan)).run(std::slice::from_ref(&input)).unwrap();
            assert_eq!(got, want, "{bits} {}:\n{dump}", isa.name());
            if isa == qing_engine::Isa::Scalar {
                assert!(dump.matches(kernel).count() >= 4, "{bits}:\n{dump}");
                assert_eq!(dump.contains("to planes"), kernel.contains("bits"), "{bits}:\n{dump}");
            }
        }
    }
}

#[test]
fn the_whole_network_is_integer_but_its_result() {
    let made = lighten(&network(), &batches(3), &options("w4a8"), &mut |_| {}).unwrap();
    let names: Vec<&str> = made.graph.nodes.iter().map(|n| n.op.name()).collect();
    assert_eq!(names, ["Quantize", "Conv", "Relu", "Conv", "Relu", "Conv", "Add", "Relu", "MaxPool", "Conv"]);
    assert_eq!(made.report.islands, []);
    let out = made.graph.ty(made.graph.outputs[0]);
    assert_eq!((out.element, out.quant.is_some()), (Element::F32, false));
    assert_eq!(made.graph.value(made.graph.outputs[0]).name, "head");
    // A layer and the ReLU after it have one type, whose zero point is the smallest integer.
    let (conv, relu) = (&made.graph.nodes[1], &made.graph.nodes[2]);
    let ty = made.graph.ty(conv.outputs[0]);
    assert_eq!(ty, made.graph.ty(relu.outputs[0]));
    assert_eq!(ty.quant.as_ref().unwrap().zero(0), 0);
    assert!(made.report.layers.iter().all(|l| l.weight_bits == 4 && l.activation_bits == 8 && l.sqnr_db.is_some()));
}

#[test]
fn reports_count_bits_and_operations() {
    let made = lighten(&network(), &batches(2), &options("w2a4"), &mut |_| {}).unwrap();
    let r = &made.report;
    let macs = (8 * 27 + 8 * 9 + 8 * 8) * 64 + 4 * 8 * 16;
    assert_eq!((r.before.macs, r.after.macs), (macs, macs));
    assert_eq!((r.before.bit_operations, r.after.bit_operations), (macs * 32 * 32, macs * 8));
    let weights = (8 * 27 + 8 * 9 + 64 + 4 * 8 * 16) as f64;
    assert!((r.after.weight_bytes - (weights * 3f64.log2() / 8.0 + 28.0 * 4.0)).abs() < 1e-6);
    assert!(!r.calibration.synthetic && r.calibration.samples == 2);
}

#[test]
fn overrides_edges_and_islands() {
    let graph = network();
    let mut o = options("w4a8");
    o.quantize.edge_bits = Some(8);
    o.quantize.overrides = vec!["b=w2a4".parse().unwrap()];
    o.quantize.keep_float = vec!["a*".into()];
    let made = lighten(&graph, &batches(2), &o, &mut |_| {}).unwrap();
    let bits = |n: &str| made.report.layers.iter().find(|l| l.name == n).map(|l| (l.weight_bits, l.activation_bits));
    assert_eq!(
        [bits("stem"), bits("a"), bits("b"), bits("head")],
        [Some((8, 8)), Some((32, 32)), Some((2, 4)), Some((8, 8))]
    );
    let islands: Vec<&str> = made.report.islands.iter().map(|i| i.node.as_str()).collect();
    assert_eq!(islands, ["a", "a.relu"]);
    interpret(&made.graph, &batches(1)[0]).unwrap();
}

#[test]
fn the_same_every_time_and_without_data_loudly() {
    let graph = network();
    let dump = |data: &[Vec<Tensor>]| {
        let made = lighten(&graph, data, &options("w4a8"), &mut |_| {}).unwrap();
        let constants: Vec<Tensor> = made.graph.values().filter_map(|(_, v)| v.constant.clone()).collect();
        (made.report, constants)
    };
    assert_eq!(dump(&batches(3)), dump(&batches(3)));
    assert!(dump(&[]).0.calibration.synthetic);
}

#[test]
fn every_range_method_works() {
    for range in [RangeMethod::MinMax, RangeMethod::Percentile(99.9), RangeMethod::LeastSquares] {
        let mut o = options("w8a8");
        o.quantize.range = range;
        let made = lighten(&network(), &batches(4), &o, &mut |_| {}).unwrap();
        assert!(made.report.output_sqnr_db.unwrap() > 25.0, "{range:?}: {:?}", made.report.output_sqnr_db);
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let mut o = options("w8a8");
    o.quantize.bits = Bits { weights: 9, activations: 8 };
    assert!(
        matches!(lighten(&network(), &batches(1), &o, &mut |_| {}), Err(LightenError::Option(e)) if e.contains('9'))
    );
    let wrong = vec![vec![noise(&[1, 3, 4, 4], 1, 1.0)]];
    let e = lighten(&network(), &wrong, &options("w8a8"), &mut |_| {}).unwrap_err().to_string();
    assert!(e.contains("`x`") && e.contains("[1, 3, 4, 4]"), "{e}");
}

/// Channels of very different size, through ReLU and through ReLU6.
fn uneven(clip: bool) -> Graph {
    let mut g = Graph::new("uneven");
    let x = g.add_input("x", Type::new(Element::F32, [1usize, 3, 8, 8]));
    let w = noise(&[8, 3, 1, 1], 1, 0.4).to_f32s();
    let w = w.iter().enumerate().map(|(i, v)| v * 0.3f32.powi((i / 3) as i32 % 5)).collect();
    let w = g.add_constant("w", Tensor::new(&[8, 3, 1, 1], w).unwrap());
    let c = g.add_node(Arc::new(ops::Conv::default()), "c", &[Some(x), Some(w)], 1).unwrap()[0];
    let r = if clip {
        let (lo, hi) = (g.add_constant("lo", Tensor::scalar(0f32)), g.add_constant("hi", Tensor::scalar(0.6f32)));
        g.add_node(Arc::new(ops::Clip {}), "r", &[Some(c), Some(lo), Some(hi)], 1).unwrap()[0]
    } else {
        relu(&mut g, "r", c)
    };
    let w = noise(&[8, 1, 3, 3], 2, 1.0).to_f32s();
    let w = w.iter().enumerate().map(|(i, v)| v * 3f32.powi((i / 9) as i32 % 5)).collect();
    let w = g.add_constant("dw", Tensor::new(&[8, 1, 3, 3], w).unwrap());
    let op = ops::Conv { group: 8, ..ops::Conv::default() };
    let d = g.add_node(Arc::new(op), "d", &[Some(r), Some(w)], 1).unwrap()[0];
    g.mark_output(d);
    g
}

#[test]
fn equalization_lowers_the_noise_of_uneven_channels() {
    for clip in [false, true] {
        let graph = uneven(clip);
        let noise_of = |equalize: bool| {
            let mut o = options("w8a6");
            o.quantize.equalize = equalize;
            let made = lighten(&graph, &batches(6), &o, &mut |_| {}).unwrap();
            let input = noise(&[1, 3, 8, 8], 999, 1.5);
            let (a, b) = (
                interpret(&graph, std::slice::from_ref(&input)).unwrap(),
                interpret(&made.graph, std::slice::from_ref(&input)).unwrap(),
            );
            decibels(&a[0], &b[0])
        };
        let (plain, even) = (noise_of(false), noise_of(true));
        assert!(even > plain + 2.0, "clip {clip}: {plain} dB, equalized {even} dB");
    }
}

/// Every channel reaches the clip now and then; on few bits that must not keep the small ones from growing.
#[test]
fn rare_values_do_not_keep_channels_uneven() {
    let graph = uneven(true);
    let spiky = |seed: usize| {
        let values = noise(&[1, 3, 8, 8], seed, 1.5).to_f32s().into_iter().enumerate();
        Tensor::new(
            &[1, 3, 8, 8],
            values.map(|(i, v)| if (i + seed).is_multiple_of(61) { 5.0 * v } else { v }).collect(),
        )
        .unwrap()
    };
    let data: Vec<Vec<Tensor>> = (0..8).map(|i| vec![spiky(100 + i)]).collect();
    let noise_of = |equalize: bool| {
        let mut o = options("w8a4");
        o.quantize.equalize = equalize;
        let made = lighten(&graph, &data, &o, &mut |_| {}).unwrap();
        let input = noise(&[1, 3, 8, 8], 999, 1.5);
        let run = |graph: &Graph| interpret(graph, std::slice::from_ref(&input)).unwrap().remove(0);
        decibels(&run(&graph), &run(&made.graph))
    };
    let (plain, even) = (noise_of(false), noise_of(true));
    // By their largest values channels are evened for 8.8 dB.
    assert!(even > plain + 10.0, "{plain} dB, equalized {even} dB");
}

#[test]
fn threads_do_not_change_the_result() {
    let graph = network();
    let made = |threads| {
        let made = lighten(&graph, &batches(3), &Options { threads, ..options("w3a8") }, &mut |_| {}).unwrap();
        let constants: Vec<Tensor> = made.graph.values().filter_map(|(_, v)| v.constant.clone()).collect();
        (made.report, constants)
    };
    assert_eq!(made(1), made(3));
}

/// Lightens [`network`] within budgets.
fn within(
    budget: &str,
    models: Vec<Box<dyn CostModel>>,
    judge: Option<Box<Judge<'_>>>,
) -> Result<Lightened, LightenError> {
    let options_of = MixedOptions::new(parse_budgets(budget).unwrap());
    let search = Search { options: options_of, models, judge, shapes: Shapes::Whole };
    lighten_within(&network(), &batches(6), &options("w8a8"), search, &mut |_| {})
}

fn size(made: &Lightened) -> usize {
    qing_formats::qing::to_bytes(&made.graph).len()
}

#[test]
fn a_budget_of_size_is_kept_and_used_well() {
    let uniform = lighten(&network(), &batches(6), &options("w4a8"), &mut |_| {}).unwrap();
    let made = within(&format!("size<={}", size(&uniform)), vec![], None).unwrap();
    assert!(size(&made) <= size(&uniform));
    let search = made.report.search.as_ref().unwrap();
    assert_eq!(search.gap, 0.0);
    assert_eq!(search.kept[0].measured, size(&made) as f64);
    assert_eq!(search.front.iter().filter(|p| p.chosen).count(), 1);
    // Of what was to choose from, four bits everywhere was one.
    let noise = |m: &Lightened| m.report.output_sqnr_db.unwrap();
    assert!(noise(&made) > noise(&uniform), "{} {}", noise(&made), noise(&uniform));
    let widths: Vec<u8> = search.selected.iter().map(|s| s.weight_bits).collect();
    assert_eq!(made.report.layers.iter().map(|l| l.weight_bits).collect::<Vec<_>>(), widths);
}

#[test]
fn budgets_that_cannot_be_kept_say_how_close_one_comes() {
    let error = within("size<=100", vec![], None).unwrap_err().to_string();
    assert!(error.contains("the least is"), "{error}");
    let error = within("drop<=0.5", vec![], None).unwrap_err().to_string();
    assert!(error.contains("labelled"), "{error}");
    let error = within("npu_cycles<=5", vec![], None).unwrap_err().to_string();
    assert!(error.contains("size, latency, bitops, drop"), "{error}");
}

/// What no widths can keep, a smaller network can, and one that is told not to change stays out.
#[test]
fn a_budget_below_what_widths_can_keep_takes_a_smaller_network() {
    // With enough channels to take some out.
    let settings = qing_train::architectures::Settings { input: vec![1, 8, 8], classes: 5, seed: 1 };
    let network = qing_train::architectures::build("resnet8", &settings).unwrap();
    let batches: Vec<Vec<Tensor>> = (0..6).map(|i| vec![noise(&[1, 1, 8, 8], i, 1.0)]).collect();
    let within = |budget: &str, shapes: Shapes| {
        let mut of = MixedOptions { probes: 1, ..MixedOptions::new(parse_budgets(budget).unwrap()) };
        of.candidates.retain(|bits| bits.weights == bits.activations && bits.weights != 4);
        let search = Search { options: of, models: vec![], judge: None, shapes };
        lighten_within(&network, &batches, &options("w8a8"), search, &mut |_| {})
    };
    // Just below the least that two bits everywhere have.
    let least = |error: LightenError| {
        let text = error.to_string();
        let LightenError::OutOfReach(_) = error else { panic!("{text}") };
        let (_, rest) = text.split_once("the least is ").unwrap();
        rest.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    };
    let tight = format!("bitops<={}M", 0.95 * least(within("bitops<=1", Shapes::Whole).unwrap_err()));
    assert!(matches!(within(&tight, Shapes::Whole), Err(LightenError::OutOfReach(_))));
    let made = within(&tight, Shapes::AsNeeded).unwrap();
    let tried = &made.report.search.as_ref().unwrap().shapes;
    assert!(tried[0].refused.is_some() && tried[1..].iter().any(|t| t.chosen), "{tried:?}");
    assert!(made.report.after.macs < made.report.before.macs, "{:?}", made.report);
    verify(&made.graph).unwrap();
    // With everything tried, what was taken is the nearest to the float network.
    let made = within("size<=30kB", Shapes::All).unwrap();
    let tried = &made.report.search.as_ref().unwrap().shapes;
    let best = tried.iter().filter_map(|t| t.output_sqnr_db).fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(tried.iter().filter(|t| t.chosen).map(|t| t.output_sqnr_db).collect::<Vec<_>>(), [Some(best)]);
    assert_eq!(made.report.output_sqnr_db, Some(best));
    // Far below, nothing does, and it says so.
    let error = within("bitops<=1", Shapes::AsNeeded).unwrap_err().to_string();
    assert!(error.contains("the least is") && error.contains("does not keep it either"), "{error}");
}

/// Counts weights of more than four bits, by layer.
struct Wide;

impl CostModel for Wide {
    fn measure(&self) -> Measure {
        Measure::Other("wide".into())
    }

    fn costs(&mut self, forms: &Forms<'_>) -> Result<Costs, LightenError> {
        let wide = |bits: Bits| f64::from(u8::from(bits.weights > 4));
        let row: Vec<f64> = forms.forms.iter().map(|(bits, _)| wide(*bits)).collect();
        Ok(Costs { layers: vec![row; forms.layers.len()], fixed: 0.0, float: 100.0 })
    }
}

#[test]
fn other_measures_can_be_limited_too() {
    for most in [0, 2] {
        let made = within(&format!("wide<={}", f64::from(most) + 0.5), vec![Box::new(Wide)], None).unwrap();
        let wide = made.report.layers.iter().filter(|l| l.weight_bits > 4).count();
        assert_eq!(wide, most as usize);
    }
}

#[test]
fn the_smallest_network_within_a_drop_is_found() {
    // Accuracy here: a point is lost for every weight of fewer than five bits, on average over layers.
    let judge = |graph: &Graph| {
        let layers = qing_lighten::layers(graph, None);
        Ok(layers.iter().map(|l| if l.weight_bits < 5 { 0.99 } else { 1.0 }).sum::<f64>() / layers.len() as f64)
    };
    let mut sizes = vec![];
    for points in [0.0, 0.5, 1.0] {
        let made = within(&format!("drop<={points}"), vec![], Some(Box::new(judge))).unwrap();
        assert!(100.0 * (1.0 - judge(&made.graph).unwrap()) <= points + 1e-9);
        sizes.push(size(&made));
    }
    // Tensors are aligned in the file, so that a few weights less may cost the same.
    assert!(sizes[0] > sizes[1] && sizes[1] >= sizes[2], "{sizes:?}");
}

/// Error power of the result on inputs that calibrated nothing, over that of the signal, in decibels.
fn clarity(graph: &Graph, made: &Graph) -> f64 {
    let all: f64 = (0..8)
        .map(|i| {
            let input = noise(&[1, 3, 8, 8], 900 + i, 1.5);
            let run = |g| interpret(g, std::slice::from_ref(&input)).unwrap();
            decibels(&run(graph)[0], &run(made)[0])
        })
        .sum();
    all / 8.0
}

fn reconstructing(bits: &str, threads: usize) -> Options {
    let how = Reconstruction { iterations: 200, batch: Some(8), ..Reconstruction::default() };
    let mut options = options(bits);
    options.quantize = Rounding::Reconstruct(how).apply(options.quantize);
    options.threads = threads;
    options
}

#[test]
fn reconstruction_is_clearer_than_feedback_at_few_bits() {
    // What is gained differs from network to network: the mean over some says more.
    const NETWORKS: usize = 6;
    let data = batches(48);
    for (bits, gain) in [("w3a4", 1.0), ("w2a4", 3.0)] {
        let (mut before, mut after) = (0.0, 0.0);
        for seed in 0..NETWORKS {
            let graph = network_of(20 * seed);
            let fed = lighten(&graph, &data, &options(bits), &mut |_| {}).unwrap();
            let learned = lighten(&graph, &data, &reconstructing(bits, 1), &mut |_| {}).unwrap();
            verify(&learned.graph).unwrap();
            before += clarity(&graph, &fed.graph) / NETWORKS as f64;
            after += clarity(&graph, &learned.graph) / NETWORKS as f64;
        }
        assert!(after > before + gain, "{bits}: {before} dB, then {after} dB");
    }
}

#[test]
fn reconstruction_does_not_depend_on_threads() {
    let (graph, data) = (network(), batches(8));
    let run = |threads| lighten(&graph, &data, &reconstructing("w3a4", threads), &mut |_| {}).unwrap().graph;
    let (one, two) = (run(1), run(2));
    for ((_, a), (_, b)) in one.values().zip(two.values()) {
        assert_eq!((&a.name, &a.ty, &a.constant), (&b.name, &b.ty, &b.constant));
    }
}

#[test]
fn what_is_added_keeps_eight_bits() {
    let made = lighten(&network(), &batches(3), &options("w4a4"), &mut |_| {}).unwrap().graph;
    for node in &made.nodes {
        let bits = |id: &ValueId| made.ty(*id).element.bits();
        let read: Vec<usize> =
            node.inputs.iter().flatten().filter(|id| made.constant(**id).is_none()).map(bits).collect();
        match node.op.name() {
            "Add" => assert!(read.iter().all(|b| *b == 8), "{}: {read:?}", node.name),
            "Conv" => assert_eq!(read, [4], "{}", node.name),
            _ => {}
        }
    }
}
