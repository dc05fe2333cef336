//! Values that are the product of ternary factors ([`TernaryFactors`]): the digits are coded, the values made from them.
//!
//! ```text
//! rows, scales (LEB128)
//! bytes of the coded scales (LEB128), the scales, coded by `adaptive`
//! bytes of the coded left digits (LEB128), the left digits + 1, coded by `symbols`
//! the right digits + 1, coded by `symbols`
//! ```

use qing_tensor::TernaryFactors;

use super::{adaptive, put, symbols, take};

/// Digits, and values, that a coded byte may stand for: what multiplies them takes time for each.
const DENSEST: usize = 64;

/// Codes the factors; `None` if so many are zero that the coded bytes would look like too few.
pub(in super::super) fn encode(factors: &TernaryFactors) -> Option<Vec<u8>> {
    let digits = |digits: &[i8]| symbols::encode(&digits.iter().map(|d| (d + 1) as u8).collect::<Vec<_>>());
    let scales: Vec<u8> = factors.scales().iter().flat_map(|s| s.to_le_bytes()).collect();
    let mut out = vec![];
    put(&mut out, factors.rows());
    put(&mut out, factors.scales().len());
    for part in [adaptive::encode(&scales, size_of::<i16>(), 1), digits(factors.left())?] {
        put(&mut out, part.len());
        out.extend(part);
    }
    out.extend(digits(factors.right())?);
    let largest = (factors.left().len() + factors.right().len()).max(factors.rows() * factors.columns());
    (largest <= out.len().saturating_mul(DENSEST)).then_some(out)
}

/// The factors of `count` values again.
///
/// # Errors
/// If they are not those of so many values. Allocates no more than a hundred times the bytes.
pub(in super::super) fn decode(bytes: &[u8], count: usize) -> Result<TernaryFactors, String> {
    let cut = || "the factors end early".to_string();
    let mut at = 0;
    let rows = take(bytes, &mut at).ok_or_else(cut)?;
    let inner = take(bytes, &mut at).ok_or_else(cut)?;
    let columns = count.checked_div(rows).filter(|columns| columns * rows == count);
    let Some(columns) = columns else { return Err(format!("{rows} rows do not make {count} values")) };
    let digits = rows.checked_add(columns).and_then(|n| n.checked_mul(inner));
    let most = bytes.len().saturating_mul(DENSEST);
    if digits.is_none_or(|n| n > most) || count > most {
        return Err(format!("{} bytes are too few for factors of {inner} of {rows}x{columns} values", bytes.len()));
    }
    let mut part = || -> Option<&[u8]> {
        let length = take(bytes, &mut at)?;
        let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
        Some(&bytes[std::mem::replace(&mut at, end)..end])
    };
    let (scales, left) = (part().ok_or_else(cut)?, part().ok_or_else(cut)?);
    let scales = adaptive::decode(scales, size_of::<i16>() * inner, size_of::<i16>(), 1)?;
    let scales = scales.as_chunks().0.iter().map(|s| i16::from_le_bytes(*s)).collect();
    let digits = |coded: &[u8], count: usize| -> Result<Vec<i8>, String> {
        Ok(symbols::decode(coded, count)?.into_iter().map(|d| (d as i8).wrapping_sub(1)).collect())
    };
    let (left, right) = (digits(left, rows * inner)?, digits(&bytes[at..], inner * columns)?);
    TernaryFactors::new(left, scales, right, columns).ok_or_else(|| "digits other than −1, 0 and 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(rows: usize, inner: usize, columns: usize) -> TernaryFactors {
        let digit = |i: usize| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as i8 % 2;
        let scales = (0..inner).map(|i| 60 - i as i16).collect();
        let left = (0..rows * inner).map(digit).collect();
        TernaryFactors::new(left, scales, (0..inner * columns).map(|i| digit(i + 99)).collect(), columns).unwrap()
    }

    #[test]
    fn factors_come_back() {
        for (rows, inner, columns) in [(1, 1, 1), (16, 16, 144), (40, 25, 7), (300, 3, 1)] {
            let factors = example(rows, inner, columns);
            let coded = encode(&factors).unwrap();
            assert_eq!(decode(&coded, rows * columns).unwrap(), factors, "{rows} {inner} {columns}");
            let digits = (rows + columns) * inner;
            assert!(coded.len() <= digits / 4 + 2 * inner + 60, "{rows} {inner} {columns}: {}", coded.len());
        }
    }

    #[test]
    fn damaged_bytes_are_errors_or_other_factors() {
        let coded = encode(&example(12, 8, 30)).unwrap();
        for i in 0..coded.len() {
            for bit in [1, 128] {
                let mut bad = coded.clone();
                bad[i] ^= bit;
                if let Ok(other) = decode(&bad, 360) {
                    assert_eq!(other.rows() * other.columns(), 360);
                }
            }
            assert!(decode(&coded[..i], 360).is_err());
        }
        assert!(decode(&coded, 361).is_err() && decode(&coded, 0).is_err());
    }

    #[test]
    fn sizes_that_a_file_merely_claims_are_refused() {
        let mut claims = vec![];
        for number in [1 << 20, 1 << 20, 0, 0] {
            put(&mut claims, number);
        }
        assert!(decode(&claims, 1 << 20).unwrap_err().contains("too few"));
    }
}
