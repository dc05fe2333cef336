//! Walks the list of ops: every one is documented, has cases, and its reference semantics reproduce them.

use std::collections::HashSet;

use qing_graph::{Case, Gradient, infer, interpret, ops::OPS, verify};
use qing_tensor::Tensor;

fn close(actual: &Tensor, expected: &Tensor, tolerance: f64) -> bool {
    actual.element() == expected.element()
        && actual.shape() == expected.shape()
        && actual.to_f64s().iter().zip(expected.to_f64s()).all(|(a, e)| {
            a == &e || (a.is_nan() && e.is_nan()) || {
                expected.element().is_float() && (a - e).abs() <= tolerance * e.abs().max(1.0)
            }
        })
}

fn inputs(case: &Case) -> Vec<Tensor> {
    case.inputs.iter().flatten().map(|(t, _)| t.clone()).collect()
}

#[test]
fn every_op_is_documented_and_named_once() {
    let mut seen = HashSet::new();
    for spec in OPS {
        assert!(spec.docs.trim().len() > 20, "{} has no docs", spec.name);
        assert!(seen.insert((spec.domain, spec.name)), "{} is listed twice", spec.name);
        if let Gradient::None(why) = spec.gradient {
            assert!(why.len() > 10, "{} does not say why it has no gradient", spec.name);
        }
        for attr in spec.attrs {
            assert!(!attr.docs.trim().is_empty(), "{}.{} has no docs", spec.name, attr.name);
        }
    }
}

#[test]
fn every_op_has_cases_and_passes_them() {
    for spec in OPS {
        let cases = (spec.cases)();
        assert!(!cases.is_empty(), "{} has no case", spec.name);
        for case in cases {
            let what = format!("{} {}", spec.name, case.name);
            let graph = case.graph(&[]).unwrap_or_else(|e| panic!("{what}: {e}"));
            let actual = interpret::interpret(&graph, &inputs(&case)).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(actual.len(), case.outputs.len(), "{what}");
            for (a, (e, _)) in actual.iter().zip(&case.outputs) {
                assert!(close(a, e, case.tolerance), "{what}: got {a:?}, expected {e:?}");
            }
        }
    }
}

#[test]
fn every_shape_rule_agrees_with_the_values() {
    for spec in OPS {
        for case in (spec.cases)() {
            let what = format!("{} {}", spec.name, case.name);
            // With everything constant, shapes that follow from values are known too.
            let all: Vec<usize> = (0..case.inputs.len()).collect();
            for constants in [&[][..], &all[..]] {
                let mut graph = case.graph(constants).unwrap_or_else(|e| panic!("{what}: {e}"));
                infer::infer(&mut graph).unwrap_or_else(|e| panic!("{what}: {e}"));
                verify::verify(&graph).unwrap_or_else(|e| panic!("{what}: {e}"));
                let node = &graph.nodes[0];
                let inferred = infer::infer_node(&graph, node, node.outputs.len()).expect("inferred above");
                for (ty, (tensor, quant)) in inferred.iter().zip(&case.outputs) {
                    if let Some(shape) = ty.known_shape() {
                        assert_eq!(shape, tensor.shape(), "{what}");
                    } else if let Some(rank) = ty.rank() {
                        assert_eq!(rank, tensor.rank(), "{what}");
                    }
                    if quant.is_none() && case.inputs.iter().flatten().all(|(_, q)| q.is_none()) {
                        assert_eq!(ty.element, tensor.element(), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn attributes_round_trip() {
    for spec in OPS {
        for case in (spec.cases)() {
            let attrs = case.op.attrs();
            let again = (spec.build)(&attrs).unwrap_or_else(|e| panic!("{}: {e}", spec.name));
            assert_eq!(again.attrs(), attrs, "{} {}", spec.name, case.name);
        }
    }
}

#[test]
fn ops_refuse_missing_inputs_without_a_panic() {
    use qing_graph::{Element, Eval, Type};
    for spec in OPS {
        for case in (spec.cases)() {
            let y: Vec<Type> = case.outputs.iter().map(|(t, _)| Type::maybe(t.element(), None)).collect();
            let none = vec![None; case.inputs.len()];
            let _ = case.op.eval(&Eval { inputs: &none, types: &vec![None; case.inputs.len()], outputs: &y });
            // An empty tensor of rank 0 in every place is an error or an empty result, never a panic.
            let odd = Tensor::new::<f32>(&[], vec![1.0]).expect("one value");
            let ty = Type::new(Element::F32, Vec::<usize>::new());
            let tensors = vec![Some(&odd); case.inputs.len()];
            let _ = case.op.eval(&Eval { inputs: &tensors, types: &vec![Some(&ty); case.inputs.len()], outputs: &y });
        }
    }
}
