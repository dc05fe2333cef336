//! What goes to standard output and standard error, and how numbers read.

use std::io::{self, Write as _};

/// Writes to standard output; a broken pipe becomes an error that `main` knows.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// [`print`] with a line end.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

/// JSON for machines.
pub(crate) fn json(value: &serde_json::Value) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Says something to the person, on standard error; nobody listening is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Three significant digits with a decimal prefix: `7.34 M`.
pub(crate) fn count(n: f64) -> String {
    let prefixes = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    match prefixes.iter().find(|(size, _)| n >= *size) {
        Some((size, prefix)) => format!("{}{prefix}", digits(n / size)),
        None => digits(n),
    }
}

/// [`count`] of bytes: `323.8 kB`.
pub(crate) fn bytes(n: f64) -> String {
    let text = count(n);
    if text.contains(' ') { format!("{text}B") } else { format!("{text} B") }
}

/// A name short enough for a table; TFLite's run to hundreds of letters.
pub(crate) fn name(text: &str) -> String {
    const LONGEST: usize = 44;
    let n = text.chars().count();
    if n <= LONGEST {
        return text.into();
    }
    let ends = (text.chars().take(LONGEST / 2 - 1), text.chars().skip(n - LONGEST / 2));
    ends.0.chain(['…']).chain(ends.1).collect()
}

/// Milliseconds with as many digits as matter.
pub(crate) fn ms(v: f64) -> String {
    format!("{} ms", digits(v))
}

/// A share in percent with two decimals.
pub(crate) fn percent(part: f64) -> String {
    format!("{:.2} %", 100.0 * part)
}

fn digits(v: f64) -> String {
    match v {
        _ if v == v.trunc() && v.abs() < 1e6 => format!("{v:.0}"),
        _ if v.abs() >= 100.0 => format!("{v:.1}"),
        _ if v.abs() >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(count(7_338_720.0), "7.34 M");
        assert_eq!(count(999.0), "999");
        assert_eq!(bytes(323_804.0), "323.8 kB");
        assert_eq!(bytes(12.0), "12 B");
        assert_eq!(name(&"x".repeat(50)).chars().count(), 44);
        assert_eq!(ms(0.1234), "0.123 ms");
        assert_eq!(percent(0.9337), "93.37 %");
    }
}
