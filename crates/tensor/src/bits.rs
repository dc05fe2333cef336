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
    let mask = ((1u32 << width) - 1) as u8;
    let shift = 8 - width;
    (0..count)
        .map(|i| {
            let bit = i * width;
            let low = u32::from(bytes.get(bit / 8).copied().unwrap_or(0));
            let high = u32::from(bytes.get(bit / 8 + 1).copied().unwrap_or(0));
            let value = ((low | high << 8) >> (bit % 8)) as u8 & mask;
            if signed { ((value << shift) as i8) >> shift } else { value as i8 }
        })
        .collect()
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
    fn four_bits_match_onnx_low_nibble_first() {
        assert_eq!(pack_bits([1u8, 2, 15].into_iter(), 4), [0x21, 0x0f]);
    }
}
