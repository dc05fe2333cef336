//! Values of which every few neighbours are one of some code words: weights from a codebook.
//!
//! ```text
//! length of a word, number of words − 1, then the words and the indices:
//!   rows of the matrix whose columns the words run down (LEB128; 0: words run along the values as they lie)
//!   bytes of the coded words (LEB128), the words, coded by `adaptive`
//!   the indices, coded by `symbols`
//! ```

use std::collections::HashMap;

use super::{adaptive, put, symbols, take};

/// Lengths that are tried.
const LENGTHS: [usize; 10] = [16, 12, 9, 8, 6, 5, 4, 3, 2, 7];
/// Words at most: an index is a byte.
const MOST: usize = 256;
/// Values from which on it is tried.
const FEWEST: usize = 64;

/// Codes values; `None` if they are not made of few words. `columns` is how many a row has, of a matrix.
pub(in super::super) fn encode(values: &[u8], columns: Option<usize>) -> Option<Vec<u8>> {
    if values.len() < FEWEST {
        return None;
    }
    let along = shortest(values, 0);
    let down = columns.filter(|c| *c > 1 && values.len() > *c).and_then(|columns| {
        let rows = values.len() / columns;
        shortest(&transposed(values, rows, columns), rows)
    });
    [along, down].into_iter().flatten().min_by_key(Vec::len)
}

/// Row-major values with rows and columns exchanged.
fn transposed(values: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

fn shortest(values: &[u8], rows: usize) -> Option<Vec<u8>> {
    LENGTHS.iter().filter_map(|length| with_length(values, *length, rows)).min_by_key(Vec::len)
}

fn with_length(values: &[u8], length: usize, rows: usize) -> Option<Vec<u8>> {
    if !values.len().is_multiple_of(length) {
        return None;
    }
    let mut known: HashMap<&[u8], u8> = HashMap::new();
    let (mut words, mut indices) = (vec![], Vec::with_capacity(values.len() / length));
    for vector in values.chunks_exact(length) {
        let new = known.len();
        let index = match known.get(vector) {
            Some(index) => *index,
            None if new == MOST => return None,
            None => {
                words.extend_from_slice(vector);
                known.insert(vector, new as u8);
                new as u8
            }
        };
        indices.push(index);
    }
    let coded = adaptive::encode(&words, 1, 1);
    let mut out = vec![length as u8, (known.len() - 1) as u8];
    for number in [rows, coded.len()] {
        put(&mut out, number);
    }
    out.extend(coded);
    out.extend(symbols::encode(&indices)?);
    Some(out)
}

/// The values again.
///
/// # Errors
/// If words or indices are not those of so many values. Allocates no more than a few times `count` bytes.
pub(in super::super) fn decode(bytes: &[u8], count: usize) -> Result<Vec<u8>, String> {
    let cut = || "the code words end early".to_string();
    let (&length, &more) = (bytes.first().ok_or_else(cut)?, bytes.get(1).ok_or_else(cut)?);
    let (length, number) = (usize::from(length), usize::from(more) + 1);
    if length == 0 || !count.is_multiple_of(length) || number > count / length {
        return Err(format!("{number} code words of {length} for {count} values"));
    }
    let mut at = 2;
    let rows = take(bytes, &mut at).ok_or_else(cut)?;
    let coded = take(bytes, &mut at).ok_or_else(cut)?;
    let end = at.checked_add(coded).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
    if rows > 0 && !count.is_multiple_of(rows) {
        return Err(format!("{count} values do not make {rows} rows"));
    }
    let words = adaptive::decode(&bytes[at..end], number * length, 1, 1)?;
    let indices = symbols::decode(&bytes[end..], count / length)?;
    let mut values = Vec::with_capacity(count);
    for index in indices {
        let first = usize::from(index) * length;
        let word = words.get(first..first + length).ok_or_else(|| format!("code word {index} of {number}"))?;
        values.extend_from_slice(word);
    }
    Ok(match count.checked_div(rows) {
        Some(columns) => transposed(&values, columns, rows),
        None => values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values made of `words` words.
    fn made(words: usize, length: usize, vectors: usize) -> Vec<u8> {
        let word = |w: usize| (0..length).map(move |i| (w * 131 + i * 17 + w * w * i) as u8);
        (0..vectors).flat_map(|v| word(v * 7919 % words)).collect()
    }

    #[test]
    fn words_along_rows_and_down_columns() {
        for (words, length) in [(1, 4), (16, 2), (100, 4), (256, 9), (200, 16)] {
            let values = made(words, length, 1024);
            let coded = encode(&values, None).unwrap();
            assert_eq!(decode(&coded, values.len()).unwrap(), values, "{words} of {length}");
            assert!(coded.len() < 1024 + words * (length + 1) + 600, "{words} of {length}: {}", coded.len());
            // The same as a matrix whose columns the words run down.
            let (rows, columns) = (32 * length, 32);
            let down = transposed(&values, columns, rows);
            let coded = encode(&down, Some(columns)).unwrap();
            assert_eq!(decode(&coded, down.len()).unwrap(), down);
            assert!(coded.len() < 1024 + words * (length + 1) + 600, "{words} of {length}: {}", coded.len());
        }
    }

    #[test]
    fn what_is_not_made_of_words_is_left_to_others() {
        let noise: Vec<u8> = (0..16_384usize).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect();
        assert!(encode(&noise, Some(64)).is_none());
        assert!(encode(&noise[..32], None).is_none());
    }

    #[test]
    fn damaged_bytes_are_errors_or_other_values() {
        let values = made(100, 4, 512);
        let coded = encode(&values, None).unwrap();
        for i in 0..coded.len() {
            for bit in [1, 128] {
                let mut bad = coded.clone();
                bad[i] ^= bit;
                if let Ok(other) = decode(&bad, values.len()) {
                    assert_eq!(other.len(), values.len());
                }
            }
            assert!(decode(&coded[..i], values.len()).is_err());
        }
        assert!(decode(&coded, values.len() + 1).is_err());
    }
}
