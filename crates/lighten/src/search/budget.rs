//! What a lighter network may cost, as people write it: `size<=500kB`, `latency<=2ms`, `drop<=0.5`, `macs<=0.5x`.

use std::{fmt, str::FromStr};

use crate::LightenError;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Bytes of the `.qing` file.
    Size,
    /// Multiply–accumulates of one sample times the bits of both operands.
    BitOperations,
    /// Milliseconds of one sample on this machine.
    Latency,
    /// Points of accuracy lost, out of 100.
    Drop,
    /// What a [`CostModel`](super::CostModel) of this name counts: `npu_cycles`.
    Other(String),
}

impl Measure {
    /// The name in a budget.
    pub fn name(&self) -> &str {
        match self {
            Measure::Size => "size",
            Measure::BitOperations => "bitops",
            Measure::Latency => "latency",
            Measure::Drop => "drop",
            Measure::Other(name) => name,
        }
    }

    /// An amount with its unit.
    pub fn show(&self, amount: f64) -> String {
        let scaled = |units: &[&str], unit: &str| {
            let mut amount = amount;
            for prefix in units {
                if amount.abs() < 1000.0 {
                    return format!("{amount:.3} {prefix}{unit}");
                }
                amount /= 1000.0;
            }
            format!("{:.3} {}{unit}", amount * 1000.0, units.last().unwrap_or(&""))
        };
        match self {
            Measure::Size => scaled(&["", "k", "M", "G"], "B"),
            Measure::Latency if amount < 1.0 => format!("{:.1} µs", amount * 1000.0),
            Measure::Latency => format!("{amount:.3} ms"),
            Measure::Drop => format!("{amount:.2} points"),
            Measure::BitOperations | Measure::Other(_) => scaled(&["", "k", "M", "G", "T"], ""),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much there may be of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// So much, in the unit of the measure.
    Amount(f64),
    /// So many times what the float network costs.
    Share(f64),
}

/// One limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Of what.
    pub measure: Measure,
    /// How much.
    pub limit: Limit,
}

impl FromStr for Budget {
    type Err = LightenError;

    fn from_str(text: &str) -> Result<Budget, LightenError> {
        let bad = |why: &str| {
            LightenError::Option(format!(
                "budget `{text}`: {why}; write for example size<=500kB, latency<=2ms, drop<=0.5, bitops<=0.1x, and several \
                 with commas between them"
            ))
        };
        let (name, amount) =
            text.split_once("<=").or_else(|| text.split_once('≤')).ok_or_else(|| bad("`<=` is missing"))?;
        let measure = match name.trim() {
            "size" => Measure::Size,
            "bitops" | "bit_operations" => Measure::BitOperations,
            "latency" => Measure::Latency,
            "drop" => Measure::Drop,
            "" => return Err(bad("what is limited?")),
            name if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => Measure::Other(name.into()),
            _ => return Err(bad("no such measure")),
        };
        let amount = amount.trim();
        let at = amount.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(amount.len());
        let number: f64 = amount[..at].parse().map_err(|_| bad("there is no number"))?;
        let unit = amount[at..].trim();
        if !number.is_finite() || (number == 0.0 && measure != Measure::Drop) {
            return Err(bad("nothing costs nothing"));
        }
        if matches!(unit, "x" | "×") {
            let limit = Limit::Share(number);
            return if measure == Measure::Drop {
                Err(bad("a drop is given in points"))
            } else {
                Ok(Budget { measure, limit })
            };
        }
        let factor = factor(&measure, unit).ok_or_else(|| bad(&format!("`{unit}` is no unit of {measure}")))?;
        Ok(Budget { measure, limit: Limit::Amount(number * factor) })
    }
}

fn factor(measure: &Measure, unit: &str) -> Option<f64> {
    Some(match (measure, unit) {
        (_, "") => 1.0,
        (Measure::Size, "B") => 1.0,
        (Measure::Size, "kB" | "KB") => 1e3,
        (Measure::Size, "MB") => 1e6,
        (Measure::Size, "KiB" | "kiB") => 1024.0,
        (Measure::Size, "MiB") => 1024.0 * 1024.0,
        (Measure::Latency, "ms") => 1.0,
        (Measure::Latency, "s") => 1e3,
        (Measure::Latency, "us" | "µs" | "μs") => 1e-3,
        (Measure::Drop, "points" | "point" | "%") => 1.0,
        (Measure::BitOperations | Measure::Other(_), "k") => 1e3,
        (Measure::BitOperations | Measure::Other(_), "M") => 1e6,
        (Measure::BitOperations | Measure::Other(_), "G") => 1e9,
        (Measure::BitOperations | Measure::Other(_), "T") => 1e12,
        _ => return None,
    })
}

/// Limits of different measures, read from a list with commas (or `and`, `&&`) between them.
///
/// # Errors
/// If one cannot be read, or a measure is limited twice.
pub fn parse_budgets(text: &str) -> Result<Vec<Budget>, LightenError> {
    let mut budgets: Vec<Budget> = vec![];
    for part in text.replace("&&", ",").replace(" and ", ",").split(',') {
        let budget: Budget = part.trim().parse()?;
        if budgets.iter().any(|b| b.measure == budget.measure) {
            return Err(LightenError::Option(format!("budget `{text}` limits {} twice", budget.measure)));
        }
        budgets.push(budget);
    }
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read_as_people_write_them() {
        for (text, measure, limit) in [
            ("size<=500kB", Measure::Size, Limit::Amount(500e3)),
            ("size <= 1.5 MiB", Measure::Size, Limit::Amount(1.5 * 1024.0 * 1024.0)),
            ("latency<=2ms", Measure::Latency, Limit::Amount(2.0)),
            ("latency<=250us", Measure::Latency, Limit::Amount(0.25)),
            ("drop<=0.5", Measure::Drop, Limit::Amount(0.5)),
            ("drop<=0", Measure::Drop, Limit::Amount(0.0)),
            ("bitops<=0.1x", Measure::BitOperations, Limit::Share(0.1)),
            ("npu_cycles<=2.3M", Measure::Other("npu_cycles".into()), Limit::Amount(2.3e6)),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), Budget { measure, limit }, "{text}");
        }
        assert_eq!(parse_budgets("size<=1MB, latency<=2ms and drop<=1").unwrap().len(), 3);
        for bad in [
            "",
            "size",
            "size<500kB",
            "size<=",
            "size<=x",
            "size<=5ms",
            "latency<=0",
            "drop<=0.5x",
            "a b<=1",
            "size<=1,size<=2",
        ] {
            let error = parse_budgets(bad).unwrap_err().to_string();
            assert!(error.contains("budget"), "{error}");
        }
    }

    #[test]
    fn amounts_are_shown_with_units() {
        assert_eq!(Measure::Size.show(1_234_567.0), "1.235 MB");
        assert_eq!(Measure::Latency.show(0.0321), "32.1 µs");
        assert_eq!(Measure::BitOperations.show(5e15), "5000.000 T");
    }
}
