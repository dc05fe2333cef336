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

/// Models are untrusted, and small constants are computed while a model is read: an op may refuse any operand, and must
/// not panic on one.
#[test]
fn ops_refuse_operands_of_other_shapes_without_a_panic() {
    use qing_graph::{Element, Eval, Infer, Type};
    let odd = [
        Tensor::new::<f32>(&[0], vec![]).expect("no values"),
        Tensor::new::<f32>(&[2, 0, 3], vec![]).expect("no values"),
        Tensor::new::<f32>(&[1, 1, 1], vec![-3.0]).expect("one value"),
        Tensor::new::<f32>(&[2, 3], vec![f32::NAN, -1.0, 2.5, 1e30, f32::INFINITY, 0.0]).expect("six values"),
        Tensor::scalar(i64::MIN),
        Tensor::vector(vec![i64::MAX]),
        Tensor::vector(vec![-1i64, 1 << 40, 7]),
        Tensor::new::<i64>(&[1, 2, 2, 1], vec![5, -9, 0, 1]).expect("four values"),
        Tensor::vector(vec![200u8, 0, 255]),
        Tensor::from_ints(Element::Bits { width: 3, signed: true }, &[5], &[1, -4, 3, 0, 2]).expect("fits"),
        Tensor::from_bools(&[2], &[true, false]).expect("two values"),
    ];
    let mut panics = vec![];
    for spec in OPS {
        for case in (spec.cases)() {
            for place in 0..case.inputs.len() {
                for other in &odd {
                    let tensors: Vec<Option<&Tensor>> = case
                        .inputs
                        .iter()
                        .enumerate()
                        .map(|(i, input)| if i == place { Some(other) } else { input.as_ref().map(|(t, _)| t) })
                        .collect();
                    let types: Vec<Option<Type>> = tensors
                        .iter()
                        .zip(&case.inputs)
                        .map(|(t, input)| {
                            let quant = input.as_ref().and_then(|(_, q)| q.clone());
                            t.map(|t| Type {
                                element: t.element(),
                                shape: Some(t.shape().iter().map(|d| (*d).into()).collect()),
                                quant: quant.filter(|q| q.slices(t.shape()) == Some(q.scales().len())).map(Into::into),
                            })
                        })
                        .collect();
                    let types: Vec<Option<&Type>> = types.iter().map(Option::as_ref).collect();
                    let outputs: Vec<Type> = case
                        .outputs
                        .iter()
                        .map(|(t, q)| Type { element: t.element(), shape: None, quant: q.clone().map(Into::into) })
                        .collect();
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        let infer = Infer { types: &types, constants: &tensors, outputs: outputs.len() };
                        let _ = case.op.infer(&infer);
                        let _ = case.op.value_of_types(&infer);
                        let _ = case.op.macs(&infer);
                        let _ = case.op.eval(&Eval { inputs: &tensors, types: &types, outputs: &outputs });
                    }));
                    if result.is_err() {
                        panics.push(format!("{} {} with {other:?} as input {place}", spec.name, case.name));
                    }
                }
            }
        }
    }
    assert!(panics.is_empty(), "{} panics:\n{}", panics.len(), panics.join("\n"));
}
