//! Range asymmetric numeral systems over a static table.
//!
//! ```text
//! first symbol, number of symbols − 1, then a frequency each (LEB128; they sum to 2^14), then the last state
//! (32 bits, little-endian) and the bytes that the decoder takes in
//! ```

/// Frequencies are shares of this.
const BITS: u32 = 14;
const WHOLE: u32 = 1 << BITS;
/// Between two symbols the state is at least this.
const LOW: u32 = 1 << 23;

/// Codes values; `None` if there are none.
pub(in super::super) fn encode(values: &[u8]) -> Option<Vec<u8>> {
    let mut counts = [0u64; 256];
    values.iter().for_each(|v| counts[*v as usize] += 1);
    let first = counts.iter().position(|c| *c > 0)?;
    let last = counts.iter().rposition(|c| *c > 0)?;
    let frequencies = shares(&counts[first..=last], values.len() as u64);
    let mut starts = vec![0; frequencies.len()];
    for i in 1..starts.len() {
        starts[i] = starts[i - 1] + frequencies[i - 1];
    }
    let mut out = vec![first as u8, (last - first) as u8];
    for f in &frequencies {
        super::put(&mut out, *f as usize);
    }
    let (mut state, mut tail) = (LOW, vec![]);
    for v in values.iter().rev() {
        let i = *v as usize - first;
        let f = frequencies[i];
        while u64::from(state) >= u64::from((LOW >> BITS) << 8) * u64::from(f) {
            tail.push(state as u8);
            state >>= 8;
        }
        state = ((state / f) << BITS) + state % f + starts[i];
    }
    out.extend(state.to_le_bytes());
    out.extend(tail.iter().rev());
    Some(out)
}

/// Counts as shares of [`WHOLE`], none of what occurs zero.
fn shares(counts: &[u64], total: u64) -> Vec<u32> {
    let whole = u64::from(WHOLE);
    let mut shares: Vec<u32> = counts
        .iter()
        .map(|c| if *c == 0 { 0 } else { ((c * whole + total / 2) / total).clamp(1, whole) as u32 })
        .collect();
    // What rounding gave too much or too little is taken from where it costs least: the most frequent.
    loop {
        let sum: u32 = shares.iter().sum();
        let Some(most) = (0..shares.len()).max_by_key(|i| (shares[*i], usize::MAX - i)) else { return shares };
        match sum.cmp(&WHOLE) {
            std::cmp::Ordering::Equal => return shares,
            std::cmp::Ordering::Less => shares[most] += WHOLE - sum,
            // The most frequent has more than what 255 others were rounded up by.
            std::cmp::Ordering::Greater => shares[most] -= (sum - WHOLE).min(shares[most] - 1).max(1),
        }
    }
}

/// The values again.
///
/// # Errors
/// If table or stream are not those of so many values. Allocates `count` bytes, and a table of 2^14.
pub(in super::super) fn decode(bytes: &[u8], count: usize) -> Result<Vec<u8>, String> {
    let cut = || "the coded symbols end early".to_string();
    let (&first, &more) = (bytes.first().ok_or_else(cut)?, bytes.get(1).ok_or_else(cut)?);
    if usize::from(first) + usize::from(more) > 255 {
        return Err(format!("symbols {first} to {} of a byte", usize::from(first) + usize::from(more)));
    }
    let mut at = 2;
    let mut next = || {
        let byte = bytes.get(at).copied();
        at += 1;
        byte
    };
    let mut table = vec![(0u8, 0u32, 0u32); WHOLE as usize];
    let mut start = 0u32;
    for symbol in first..=first + more {
        let (mut f, mut shift) = (0u32, 0);
        loop {
            let byte = next().ok_or_else(cut)?;
            f |= u32::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
            if shift > 14 {
                return Err(format!("the frequency of symbol {symbol} is too long"));
            }
        }
        let end = start + f;
        if end > WHOLE {
            return Err(format!("the frequencies of symbols add up to more than {WHOLE}"));
        }
        table[start as usize..end as usize].fill((symbol, f, start));
        start = end;
    }
    if start != WHOLE {
        return Err(format!("the frequencies of symbols add up to {start}, not {WHOLE}"));
    }
    let mut state = 0u32;
    for shift in [0, 8, 16, 24] {
        state |= u32::from(next().ok_or_else(cut)?) << shift;
    }
    if !(LOW..LOW << 8).contains(&state) {
        return Err("the coded symbols begin with no state".into());
    }
    let mut out = vec![0; count];
    for value in &mut out {
        let (symbol, f, start) = table[(state & (WHOLE - 1)) as usize];
        *value = symbol;
        state = f * (state >> BITS) + (state & (WHOLE - 1)) - start;
        while state < LOW {
            state = state << 8 | u32::from(next().ok_or_else(cut)?);
        }
    }
    if state != LOW || at != bytes.len() {
        return Err("the coded symbols do not end where they should".into());
    }
    Ok(out)
}
