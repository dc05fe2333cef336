use qing_tensor::Tensor;

/// Why `actual` is not `expected` by the rules of the ONNX backend test, if it is not: equal elements and shapes,
/// floats within a relative 10⁻³ (absolute 10⁻⁷), everything else equal.
pub fn difference(actual: &Tensor, expected: &Tensor) -> Option<String> {
    within(actual, expected, 1e-3, 1e-7)
}

/// Why `actual` is not `expected` to the bit, if it is not.
pub fn exactly(actual: &Tensor, expected: &Tensor) -> Option<String> {
    within(actual, expected, 0.0, 0.0)
}

/// Why floats differ by more than `absolute + relative·|expected|`, or anything else differs at all.
pub fn within(actual: &Tensor, expected: &Tensor, relative: f64, absolute: f64) -> Option<String> {
    if actual.element() != expected.element() || actual.shape() != expected.shape() {
        let show = |t: &Tensor| format!("{}{:?}", t.element(), t.shape());
        return Some(format!("type: got {}, expected {}", show(actual), show(expected)));
    }
    if !expected.element().is_float() {
        let (a, e) = (actual.to_i64s(), expected.to_i64s());
        let i = a.iter().zip(&e).position(|(a, e)| a != e)?;
        return Some(format!("value {i}: got {}, expected {}", a[i], e[i]));
    }
    let (a, e) = (actual.to_f64s(), expected.to_f64s());
    let close = |a: f64, e: f64| a == e || (a.is_nan() && e.is_nan()) || (a - e).abs() <= absolute + relative * e.abs();
    let i = a.iter().zip(&e).position(|(a, e)| !close(*a, *e))?;
    Some(format!("value {i}: got {}, expected {}", a[i], e[i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told() {
        let t = |v: &[f32]| Tensor::vector(v.to_vec());
        assert_eq!(difference(&t(&[1.0, f32::NAN]), &t(&[1.0005, f32::NAN])), None);
        assert!(difference(&t(&[1.0]), &t(&[1.1])).is_some());
        assert!(difference(&t(&[f32::INFINITY]), &t(&[1.1])).is_some());
        assert!(exactly(&t(&[1.0]), &t(&[1.0005])).is_some());
        assert!(difference(&Tensor::vector(vec![1i64]), &Tensor::vector(vec![2i64])).is_some());
        assert!(difference(&Tensor::vector(vec![1i64]), &t(&[1.0])).unwrap().starts_with("type"));
    }
}
