//! The packing of integers of 1–8 bits: a little-endian bit stream.

/// Bytes that `count` values of `width` bits take, rounded up to whole bytes; `None` on overflow.
pub fn packed_len(count: usize, width: usize) -> Option<usize> {
    count.checked_mul(width).map(|bits| bits.div_ceil(8))
}

/// Packs the low `width` bits (1–8) of each value, value `i` at bits `i·width ..`, least significant bit first.
pub fn pack_bits(values: impl ExactSizeIterator<Item = u8>, width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity((values.len() * width).div_ceil(8));
    let mask = ((1u32 << width) - 1) as u8;
    let (mut pending, mut filled) = (0u32, 0);
    for value in values {
        pending |= u32::from(value & mask) << filled;
        filled += width;
        if filled >= 8 {
            out.push(pending as u8);
            pending >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(pending as u8);
    }
    out
}

/// Unpacks `count` values of `width` bits (1–8), sign-extended if `signed`. Bytes that are missing read as zero.
pub fn unpack_bits(bytes: &[u8], count: usize, width: usize, signed: bool) -> Vec<i8> {
    match width {
        1 => unpack::<1>(bytes, count, signed),
        2 => unpack::<2>(bytes, count, signed),
        3 => unpack::<3>(bytes, count, signed),
        4 => unpack::<4>(bytes, count, signed),
        5 => unpack::<5>(bytes, count, signed),
        6 => unpack::<6>(bytes, count, signed),
        7 => unpack::<7>(bytes, count, signed),
        _ => unpack::<8>(bytes, count, signed),
    }
}

/// Eight values at a time: they take `WIDTH` whole bytes.
fn unpack<const WIDTH: usize>(bytes: &[u8], count: usize, signed: bool) -> Vec<i8> {
    // A value moves to the top of its byte and back down; on the way down its sign fills in, or zeros do.
    let value = |word: u64, i: usize| {
        let top = ((word >> (i * WIDTH)) as u8) << (8 - WIDTH);
        if signed { (top as i8) >> (8 - WIDTH) } else { (top >> (8 - WIDTH)) as i8 }
    };
    let mut out = vec![0; count];
    let mut eights = out.chunks_exact_mut(8);
    let mut at = 0;
    for eight in &mut eights {
        let Some(piece) = bytes.get(at..at + WIDTH) else { break };
        let mut word = [0; 8];
        word[..WIDTH].copy_from_slice(piece);
        let word = u64::from_le_bytes(word);
        for (i, to) in eight.iter_mut().enumerate() {
            *to = value(word, i);
        }
        at += WIDTH;
    }
    let done = at / WIDTH * 8;
    let mut word = [0; 8];
    let rest = bytes.get(at..).unwrap_or_default();
    let rest = &rest[..rest.len().min(8)];
    word[..rest.len()].copy_from_slice(rest);
    for (i, to) in out[done..].iter_mut().take(8).enumerate() {
        *to = value(u64::from_le_bytes(word), i);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_round_trips_at_every_width() {
        for width in 1..=8usize {
            for signed in [false, true] {
                let values: Vec<i8> = (0..37)
                    .map(|i: i32| {
                        let span = 1 << width;
                        let v = (i * 7) % span;
                        if signed && v >= span / 2 { v - span } else { v }
                    })
                    .map(|v| v as i8)
                    .collect();
                let packed = pack_bits(values.iter().map(|&v| v as u8), width);
                assert_eq!(Some(packed.len()), packed_len(37, width));
                assert_eq!(unpack_bits(&packed, 37, width, signed), values, "{width} {signed}");
            }
        }
    }

    #[test]
    fn missing_bytes_read_as_zero() {
        for width in 1..=8 {
            assert_eq!(unpack_bits(&[], 37, width, true), [0; 37]);
            let short = unpack_bits(&[0xff; 3], 37, width, false);
            let ones = 24 / width;
            let rest = 24 % width;
            for (i, value) in short.into_iter().enumerate() {
                let bits = if i < ones {
                    width
                } else if i == ones {
                    rest
                } else {
                    0
                };
                assert_eq!(u32::from(value as u8), (1 << bits) - 1, "{width} {i}");
            }
        }
    }

    #[test]
    fn four_bits_match_onnx_low_nibble_first() {
        assert_eq!(pack_bits([1u8, 2, 15].into_iter(), 4), [0x21, 0x0f]);
    }
}
