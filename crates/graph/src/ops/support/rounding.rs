//! How QONNX rounds: the modes that `Quant` and `Trunc` name.

use crate::OpError;

/// The rounding function called `mode`; upper and lower case are alike.
///
/// # Errors
/// If there is none.
pub fn rounding(mode: &str) -> Result<fn(f64) -> f64, OpError> {
    Ok(match mode.to_ascii_uppercase().as_str() {
        "ROUND" | "HALF_EVEN" => f64::round_ties_even,
        "CEIL" => f64::ceil,
        "FLOOR" => f64::floor,
        "UP" => |x: f64| x.abs().ceil().copysign(x),
        "DOWN" | "ROUND_TO_ZERO" => f64::trunc,
        "HALF_UP" => f64::round,
        "HALF_DOWN" => |x: f64| (x.abs() - 0.5).ceil().copysign(x),
        _ => return Err(OpError::unsupported(format!("rounding mode {mode:?}"))),
    })
}

/// Smallest and largest integer of so many bits; `narrow` leaves the most negative one out (the largest, if unsigned).
///
/// # Errors
/// If the bits are not a whole number from 1 to 32.
pub fn integer_range(bits: f64, signed: bool, narrow: bool) -> Result<(f64, f64), OpError> {
    if !(1.0..=32.0).contains(&bits) || bits.fract() != 0.0 {
        return Err(OpError::unsupported(format!("integers of {bits} bits")));
    }
    let less = f64::from(u8::from(narrow));
    Ok(if signed {
        let half = (bits - 1.0).exp2();
        (-half + less, half - 1.0)
    } else {
        (0.0, bits.exp2() - 1.0 - less)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_on_halves_and_between() {
        let inputs = [-1.5, -1.2, -0.5, 0.5, 1.2, 2.5];
        for (mode, expected) in [
            ("ROUND", [-2., -1., 0., 0., 1., 2.]),
            ("CEIL", [-1., -1., 0., 1., 2., 3.]),
            ("FLOOR", [-2., -2., -1., 0., 1., 2.]),
            ("UP", [-2., -2., -1., 1., 2., 3.]),
            ("DOWN", [-1., -1., 0., 0., 1., 2.]),
            ("half_up", [-2., -1., -1., 1., 1., 3.]),
            ("HALF_DOWN", [-1., -1., 0., 0., 1., 2.]),
        ] {
            let f = rounding(mode).unwrap();
            assert_eq!(inputs.map(f), expected, "{mode}");
        }
        assert!(rounding("ODD").is_err());
    }

    #[test]
    fn ranges_of_bits() {
        assert_eq!(integer_range(4.0, true, false), Ok((-8.0, 7.0)));
        assert_eq!(integer_range(4.0, true, true), Ok((-7.0, 7.0)));
        assert_eq!(integer_range(4.0, false, false), Ok((0.0, 15.0)));
        assert_eq!(integer_range(4.0, false, true), Ok((0.0, 14.0)));
        assert!(integer_range(2.5, true, true).is_err() && integer_range(0.0, true, true).is_err());
    }
}
