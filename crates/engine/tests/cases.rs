//! Every case of every op, through the engine, on every instruction set and with constants where a model has them.

use std::sync::Arc;

use qing_engine::{Isa, Options, Plan, Session};
use qing_graph::{Case, Tensor, ops::OPS};

fn close(actual: &Tensor, expected: &Tensor, tolerance: f64) -> bool {
    actual.element() == expected.element()
        && actual.shape() == expected.shape()
        && actual.to_f64s().iter().zip(expected.to_f64s()).all(|(a, e)| {
            a == &e || (a.is_nan() && e.is_nan()) || {
                expected.element().is_float() && (a - e).abs() <= tolerance * e.abs().max(1.0)
            }
        })
}

/// All inputs given at run time; all but the first constant, as weights are; all constant.
fn constants(case: &Case) -> Vec<Vec<usize>> {
    vec![vec![], (1..case.inputs.len()).collect(), (0..case.inputs.len()).collect()]
}

#[test]
fn every_case_of_every_op_gives_the_expected_result() {
    for spec in OPS {
        for case in (spec.cases)() {
            for constants in constants(&case) {
                let graph = case.graph(&constants).expect("checked by the graph's own tests");
                let inputs: Vec<Tensor> = case
                    .inputs
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| !constants.contains(i))
                    .filter_map(|(_, input)| input.as_ref().map(|(t, _)| t.clone()))
                    .collect();
                for isa in Isa::available() {
                    let what = format!("{} {} with constants {constants:?} on {}", spec.name, case.name, isa.name());
                    let options = Options { isa: Some(isa), threads: 2, ..Options::default() };
                    let plan = Plan::new(&graph, &options).unwrap_or_else(|e| panic!("{what}: {e}"));
                    let mut session = Session::new(Arc::new(plan));
                    for _ in 0..2 {
                        let actual = session.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
                        assert_eq!(actual.len(), case.outputs.len(), "{what}");
                        for (a, (e, _)) in actual.iter().zip(&case.outputs) {
                            // Kernels sum in f32, in another order than the reference.
                            let tolerance = case.tolerance.max(1e-5);
                            assert!(
                                close(a, e, tolerance),
                                "{what}: got {a:?}, expected {e:?}\n{}",
                                session.plan().dump()
                            );
                        }
                    }
                }
            }
        }
    }
}
