//! Entropy coding of what a compressed device file holds: what is likely takes few bits, and the zeros of a sparse tensor what
//! they should, `H(share of zeros)` bits each.
//!
//! [`symbols`] codes integers of up to eight bits with a table of frequencies for each tensor (range asymmetric numeral systems,
//! Duda, arXiv:1311.2540); [`adaptive`] codes bytes with probabilities that are learned on the way: short tensors, for which a
//! table would cost more than it saves, tensors of wider elements, and the header; [`vectors`] finds that a tensor is made of few
//! code words and codes which; [`factors`] codes the digits of what was made as a product of ternary matrices. The shortest is taken, none if none is
//! shorter than the plain bytes.
//!
//! A decoder allocates what the caller says that there is; [`fits`] bounds it by the coded bytes before.

pub(super) mod adaptive;
pub(super) mod factors;
pub(super) mod symbols;
pub(super) mod vectors;

use qing_graph::{Element, Tensor};
use qing_tensor::{element_count, pack_bits, unpack_bits};

use super::DENSEST;

/// Values among which a table of frequencies is cheap: nothing slower is tried then.
const MANY: usize = 1 << 16;

/// How the bytes of a tensor are stored. The numbers are those in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// As they are.
    Plain = 0,
    /// By a table of frequencies.
    Symbols = 1,
    /// By what was there so far.
    Adaptive = 2,
    /// By what came right before: zeros in runs.
    Context = 3,
    /// By code words of several values.
    Vectors = 4,
    /// By the ternary factors that they are the product of.
    Factors = 5,
}

impl Coding {
    pub(super) fn of(number: u32) -> Option<Coding> {
        use Coding::{Adaptive, Context, Factors, Plain, Symbols, Vectors};
        [Plain, Symbols, Adaptive, Context, Vectors, Factors].into_iter().find(|c| *c as u32 == number)
    }
}

/// Appends a number, seven bits to a byte, the lowest first (LEB128).
fn put(out: &mut Vec<u8>, mut number: usize) {
    while number >= 128 {
        out.push(number as u8 | 128);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number that [`put`] wrote at `at`, which moves behind it; nothing if the bytes end early.
fn take(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let (mut number, mut shift) = (0usize, 0);
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        number |= usize::from(byte & 127).checked_shl(shift)?;
        shift += 7;
        if byte < 128 {
            return Some(number);
        }
        if shift > 28 {
            return None;
        }
    }
}

/// Whether so many coded bytes may stand for so many plain ones.
pub(super) fn fits(coded: usize, plain: usize) -> bool {
    coded.checked_mul(DENSEST).is_none_or(|most| plain <= most)
}

/// The shortest form of a tensor's bytes.
pub(super) fn encode(tensor: &Tensor) -> (Coding, Vec<u8>) {
    let element = tensor.element();
    let plain = tensor.bytes();
    let mut best = (Coding::Plain, plain.to_vec());
    let mut consider = |coding, bytes: Vec<u8>| {
        if bytes.len() < best.1.len() && fits(bytes.len(), tensor.len().max(plain.len())) {
            best = (coding, bytes);
        }
    };
    if element.bits() <= 8 {
        let values: Vec<u8> =
            unpack_bits(plain, tensor.len(), element.bits(), false).iter().map(|v| *v as u8).collect();
        if let Some(bytes) = symbols::encode(&values) {
            consider(Coding::Symbols, bytes);
        }
        let columns = tensor.shape().last().copied().filter(|_| tensor.rank() == 2);
        if let Some(bytes) = vectors::encode(&values, columns) {
            consider(Coding::Vectors, bytes);
        }
        if let Some(bytes) = tensor.factors().and_then(|f| factors::encode(f)) {
            consider(Coding::Factors, bytes);
        }
        // A table costs little beside many values; contexts help where zeros come together.
        let zeros = values.iter().filter(|v| **v == 0).count();
        if values.len() <= MANY {
            consider(Coding::Adaptive, adaptive::encode(&values, 1, 1));
        }
        if values.len() <= MANY || 2 * zeros > values.len() {
            consider(Coding::Context, adaptive::encode(&values, 1, adaptive::ORDERS));
        }
    } else {
        consider(Coding::Adaptive, adaptive::encode(plain, element.bits() / 8, 1));
        consider(Coding::Context, adaptive::encode(plain, element.bits() / 8, adaptive::ORDERS));
    }
    best
}

/// The tensor again.
///
/// # Errors
/// If the coded bytes are not those of such a tensor.
pub(super) fn decode(coding: Coding, bytes: &[u8], element: Element, shape: &[usize]) -> Result<Tensor, String> {
    let count = element_count(shape).map_err(|e| e.to_string())?;
    if coding == Coding::Factors {
        let factors = factors::decode(bytes, count)?;
        return Tensor::from_factors(element, shape, factors.into()).map_err(|e| e.to_string());
    }
    let plain = plain(coding, bytes, element, count)?;
    Tensor::from_bytes(element, shape, plain.into()).map_err(|e| e.to_string())
}

/// The plain bytes again.
fn plain(coding: Coding, bytes: &[u8], element: Element, count: usize) -> Result<Vec<u8>, String> {
    let width = element.bits();
    let values = if width <= 8 { Some(count) } else { count.checked_mul(width / 8) };
    let Some(values) = values.filter(|n| fits(bytes.len(), *n)) else {
        return Err(format!("{} coded bytes are too few for {count} values", bytes.len()));
    };
    let plain = match coding {
        Coding::Plain | Coding::Factors => return Ok(bytes.to_vec()),
        Coding::Symbols if width > 8 => return Err(format!("values of {element} cannot be coded as symbols")),
        Coding::Symbols => symbols::decode(bytes, values)?,
        Coding::Vectors if width > 8 => return Err(format!("values of {element} cannot be coded as words")),
        Coding::Vectors => vectors::decode(bytes, values)?,
        Coding::Adaptive => adaptive::decode(bytes, values, width.div_ceil(8), 1)?,
        Coding::Context => adaptive::decode(bytes, values, width.div_ceil(8), adaptive::ORDERS)?,
    };
    if width >= 8 {
        return Ok(plain);
    }
    if plain.iter().any(|v| u32::from(*v) >> width != 0) {
        return Err(format!("a coded value does not fit {element}"));
    }
    Ok(pack_bits(plain.into_iter(), width))
}
