//! Two networks side by side, and the report that is made of it.

use std::sync::Arc;

use qing_graph::{Dim, Element, Graph, Tensor, Type, ValueId, ops};
use qing_lighten::{
    Bits, LightenError, Options, QuantizeOptions,
    compare::{Comparison, Match, compare},
    lighten,
    report::{Document, Measured, html, study},
};

fn noise(shape: &[usize], seed: usize, size: f32) -> Tensor {
    let value = |i: usize| {
        let h = (i + seed * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((h >> 40) as f32 / 16_777_216.0 - 0.5) * 2.0 * size
    };
    Tensor::new(shape, (0..shape.iter().product()).map(value).collect()).expect("fits")
}

fn conv(g: &mut Graph, name: &str, x: ValueId, shape: [usize; 4], seed: usize) -> ValueId {
    let w = g.add_constant(&format!("{name}.w"), noise(&shape, seed, 0.4));
    let op = ops::Conv { pads: vec![(shape[2] / 2) as i64; 4], ..ops::Conv::default() };
    g.add_node(Arc::new(op), name, &[Some(x), Some(w)], 1).expect("a layer")[0]
}

/// Two convolutions with ReLU and a row of five scores; `name` begins all names.
fn network(name: &str) -> Graph {
    let mut g = Graph::new("small");
    let x = g.add_input("x", Type::new(Element::F32, [2usize, 3, 6, 6]));
    let mut y = x;
    for (i, shape) in [[8, 3, 3, 3], [5, 8, 1, 1]].into_iter().enumerate() {
        y = conv(&mut g, &format!("{name}{i}"), y, shape, i + 1);
        y = g.add_node(Arc::new(ops::Relu {}), &format!("{name}{i}.relu"), &[Some(y)], 1).expect("types")[0];
    }
    let pool = g.add_node(Arc::new(ops::GlobalAveragePool {}), "pool", &[Some(y)], 1).expect("types")[0];
    let flat = g.add_node(Arc::new(ops::Flatten::default()), "scores", &[Some(pool)], 1).expect("types")[0];
    g.mark_output(flat);
    g
}

fn batches(n: usize) -> Vec<Vec<Tensor>> {
    (0..n).map(|i| vec![noise(&[2, 3, 6, 6], 50 + i, 1.0)]).collect()
}

fn side_by_side(a: &Graph, b: &Graph) -> Result<Comparison, LightenError> {
    let both: Vec<_> = batches(3).into_iter().map(|b| (b.clone(), b)).collect();
    compare(a, b, &both, 1, &mut |_| {})
}

#[test]
fn a_network_equals_itself() {
    let found = side_by_side(&network("layer"), &network("layer")).expect("runs");
    assert_eq!((found.samples, found.agreement), (6, Some(1.0)));
    assert!(found.parting.is_empty() && found.only_a.is_empty() && found.only_b.is_empty(), "{found:?}");
    assert!(found.pairs.iter().all(|p| p.snr_db == Some(200.0) && p.max_error == 0.0), "{found:?}");
    assert_eq!(found.pairs.iter().filter(|p| p.layer).count(), 2);
}

/// Batches of any size, of which the last is smaller.
#[test]
fn what_is_left_of_a_last_batch_counts() {
    let mut g = network("layer");
    let ids: Vec<ValueId> = g.values().map(|(id, _)| id).collect();
    for id in ids {
        let shape = &mut g.value_mut(id).ty.shape;
        if let Some(batch) = shape.as_mut().and_then(|s| s.first_mut()).filter(|d| **d == Dim::Known(2)) {
            *batch = Dim::Symbol("n".into());
        }
    }
    let both: Vec<_> = [3, 3, 1].map(|n| vec![noise(&[n, 3, 6, 6], n, 1.0)]).map(|b| (b.clone(), b)).into();
    let found = compare(&g, &g, &both, 1, &mut |_| {}).expect("runs");
    assert_eq!((found.samples, found.agreement), (7, Some(1.0)));
}

#[test]
fn layers_without_a_name_in_common_are_matched_by_structure() {
    let found = side_by_side(&network("layer"), &network("other")).expect("runs");
    let layers: Vec<_> = found.pairs.iter().filter(|p| p.layer).collect();
    assert_eq!(layers.len(), 2, "{found:?}");
    assert!(layers.iter().all(|p| p.matched == Match::Structure && p.snr_db == Some(200.0)), "{found:?}");
}

#[test]
fn the_place_where_networks_part_is_found() {
    // The second layer alone is another one.
    let (a, mut b) = (network("layer"), network("layer"));
    let w = b.find("layer1.w").expect("weights");
    let bent =
        b.constant(w).expect("weights").to_f32s().iter().enumerate().map(|(i, v)| v + 0.05 * (i % 3) as f32).collect();
    b.value_mut(w).constant = Some(Tensor::new(&[5, 8, 1, 1], bent).expect("fits"));
    let found = side_by_side(&a, &b).expect("runs");
    let worst = &found.pairs[*found.parting.first().expect("a place")];
    assert_eq!((worst.a_node.as_str(), worst.layer), ("layer1", true), "{found:?}");
    assert!(worst.mean_error > 0.0 && worst.snr_db < Some(40.0), "{worst:?}");
    let first = found.pairs.iter().find(|p| p.a_node == "layer0").expect("the first layer");
    assert_eq!(first.snr_db, Some(200.0));
}

#[test]
fn other_networks_are_refused() {
    let mut two = network("layer");
    two.mark_output(two.find("pool").expect("a value"));
    let error = side_by_side(&network("layer"), &two).expect_err("two outputs").to_string();
    assert!(error.contains("1 and 2 outputs"), "{error}");
    let error = compare(&two, &two, &[], 1, &mut |_| {}).expect_err("no data").to_string();
    assert!(error.contains("at least one sample"), "{error}");
}

#[test]
fn a_report_has_every_layer_and_needs_nothing_else() {
    let float = network("<layer>");
    let bits = Bits { weights: 3, activations: 4 };
    let quantize = QuantizeOptions { edge_bits: None, ..QuantizeOptions::with_bits(bits) };
    let made =
        lighten(&float, &batches(4), &Options { quantize, ..Options::default() }, &mut |_| {}).expect("lightens");
    let seen = study(&float, &made.graph, &batches(2), 1, &mut |_| {}).expect("runs");
    assert_eq!(seen.layers.len(), 2);
    for layer in &seen.layers {
        let weights = layer.weights.as_ref().expect("weights");
        let (before, after) = (weights.before.iter().sum::<u64>(), weights.after.iter().sum::<u64>());
        assert!(before == after && before > 0, "{layer:?}");
        assert!(layer.activations.is_some() && layer.milliseconds > 0.0 && layer.snr_db > Some(3.0), "{layer:?}");
        assert!(layer.rank.is_some_and(|[r, n]| r > 0 && r <= n), "{layer:?}");
    }
    let whole = |f: fn(&qing_lighten::report::LayerStudy) -> f64| seen.layers.iter().map(f).sum::<f64>();
    assert!((whole(|l| l.size_share) - 1.0).abs() < 1e-9 && whole(|l| l.time_share) <= 1.0);
    assert!(whole(|l| l.error_share) > 0.5 && whole(|l| l.error_share) <= 1.0 + 1e-9, "{seen:?}");
    let measured = Measured { file_bytes: [4000, 400], ..Measured::default() };
    let document = Document::new(made.report, measured, Some(seen));
    assert!(document.advice.iter().any(|a| a.attempt.contains("--evaluate")), "{:?}", document.advice);
    let page = html(&document);
    assert!(page.contains("&lt;layer&gt;0") && !page.contains("<layer>0<"), "names are text");
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.matches("<svg").count() >= 6, "a front, bars and four histograms");
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let json = page.split("id=\"report\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("numbers");
    assert!(json.starts_with('{') && json.contains("\"error_share\""));
}
