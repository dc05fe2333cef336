//! Factorization of a trained network, on images it was not chosen by.

use std::sync::Arc;

use qing_data::{Dataset, Feed, zoo};
use qing_engine::Pool;
use qing_graph::{Graph, Tensor, verify::verify};
use qing_lighten::{
    factorize::{Amount, FactorizeOptions, FactorizedLayer, Form, factorize},
    totals,
};
use qing_train::measure;

fn network() -> Graph {
    qing_formats::onnx::read_bytes(&zoo::find("fashion").unwrap().bytes(), None).unwrap()
}

fn calibration(graph: &Graph) -> Vec<Vec<Tensor>> {
    let (data, feed) = (Dataset::open("zoo:fashion:calibrate").unwrap(), Feed::for_input(graph, 0).unwrap());
    (0..16).map(|b| vec![feed.batch((8 * b..8 * b + 8).map(|i| data.item(i).unwrap()).collect()).unwrap()]).collect()
}

fn accuracy(graph: &Graph) -> f64 {
    let data = Dataset::open("zoo:fashion").unwrap();
    measure(graph, &data, &Feed::for_input(graph, 0).unwrap(), 50, &Arc::new(Pool::new(1))).unwrap().accuracy()
}

#[test]
fn knowing_what_layers_see_keeps_more_of_a_real_network() {
    let graph = network();
    let batches = calibration(&graph);
    let whole = totals(&graph, None).macs as f64;
    let made = |amount, whitened| {
        let options = FactorizeOptions { amount, forms: Form::ALL.to_vec(), whitened, threads: 1 };
        let made = factorize(&graph, &batches, &options, &mut |_| {}).unwrap();
        verify(&made.graph).unwrap();
        made
    };
    let (aware, blind) = (made(Amount::Macs(0.35), true), made(Amount::Macs(0.35), false));
    for made in [&aware, &blind] {
        let share = totals(&made.graph, None).macs as f64 / whole;
        assert!(share <= 0.35, "{share}");
        let told: f64 = made.layers.iter().map(|l| l.macs.0 - l.macs.1).sum();
        assert!((whole - told - totals(&made.graph, None).macs as f64).abs() < 0.01 * whole);
    }
    let (before, with, without) = (accuracy(&graph), accuracy(&aware.graph), accuracy(&blind.graph));
    println!("{before} before, {with} with and {without} without knowing the inputs, at 0.35 of the operations");
    assert!(with > without + 0.01, "{with} {without}");
    assert!(with > before - 0.3, "{before} {with}");
    // One filter for each channel or a few keep more than ranks alone.
    let ranks = FactorizeOptions {
        amount: Amount::Macs(0.35),
        forms: vec![Form::Svd, Form::Tucker, Form::Cp],
        whitened: true,
        threads: 1,
    };
    let ranks = factorize(&graph, &batches, &ranks, &mut |_| {}).unwrap();
    let lost = |layers: &[FactorizedLayer]| layers.iter().map(|l| l.lost).sum::<f64>();
    println!("{} with ranks alone", accuracy(&ranks.graph));
    assert!(aware.layers.iter().any(|l| l.form.starts_with("separable")));
    assert!(lost(&aware.layers) < 0.9 * lost(&ranks.layers));
    let few = made(Amount::Parameters(0.5), true);
    let weights = |g: &Graph| totals(g, None).parameters as f64;
    assert!(weights(&few.graph) < 0.53 * weights(&graph));
}

#[test]
fn budgets_out_of_reach_are_told() {
    let graph = network();
    let with = |amount, batches: &[Vec<Tensor>]| {
        let options = FactorizeOptions { amount, forms: Form::ALL.to_vec(), whitened: true, threads: 1 };
        factorize(&graph, batches, &options, &mut |_| {}).unwrap_err().to_string()
    };
    assert!(with(Amount::Macs(0.01), &calibration(&graph)).contains("the least is"));
    assert!(with(Amount::Macs(1.5), &calibration(&graph)).contains("between 0 and 1"));
    assert!(with(Amount::Macs(0.5), &[]).contains("typical inputs"));
}
