//! How values lie in the engine's memory, and how tensors get in and out.
//!
//! Unquantized values lie as in a [`Tensor`]. A quantized value is one byte whatever its width: its integer, plus 128 if
//! its element is signed, so that kernels see only `u8`. (Values that only dots over bit planes touch are not stored this way:
//! see `lower/bits.rs`.)

use qing_graph::{Element, Tensor, TensorError, Type};

/// How the elements of a value are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As in a tensor.
    Raw(Element),
    /// Quantized integers of this element, one byte each, with [`bias`] added.
    Coded(Element),
}

/// What is added to the integers of an element when they are stored as bytes.
pub(crate) fn bias(element: Element) -> i32 {
    match element.range() {
        Some((lo, _)) if lo < 0 => 128,
        _ => 0,
    }
}

impl Form {
    /// The form of values of a type.
    pub(crate) fn of(ty: &Type) -> Form {
        if ty.quant.is_some() && ty.element.is_quantizable() { Form::Coded(ty.element) } else { Form::Raw(ty.element) }
    }

    /// Bytes that `count` values take.
    pub(crate) fn bytes(self, count: usize) -> usize {
        match self {
            Form::Raw(element) => (count * element.bits()).div_ceil(8),
            Form::Coded(_) => count,
        }
    }

    /// Bytes of one value; `None` if values share bytes.
    pub(crate) fn width(self) -> Option<usize> {
        match self {
            Form::Raw(element) if element.is_packed() => None,
            Form::Raw(element) => Some(element.bits() / 8),
            Form::Coded(_) => Some(1),
        }
    }

    /// Whether a tensor's bytes are stored as they are.
    pub(crate) fn is_plain(self) -> bool {
        matches!(self, Form::Raw(_) | Form::Coded(Element::U8))
    }
}

/// Copies the bytes of a tensor into storage.
pub(crate) fn encode(form: Form, from: &[u8], to: &mut [u8]) {
    match form {
        Form::Coded(Element::I8) => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from ^ 0x80;
            }
        }
        Form::Coded(Element::Bits { width, signed }) => {
            let width = usize::from(width);
            for (i, to) in to.iter_mut().enumerate() {
                let code = read_bits(from, i * width, width);
                // Two's complement plus 128: the sign bit, inverted, is the first of the bits above the width.
                let sign = if signed { 1u8 << (width - 1) } else { 0 };
                *to = if signed { (code ^ sign).wrapping_add(128 - sign) } else { code };
            }
        }
        Form::Coded(Element::Bipolar) => {
            for (i, to) in to.iter_mut().enumerate() {
                *to = if read_bits(from, i, 1) == 0 { 127 } else { 129 };
            }
        }
        Form::Raw(_) | Form::Coded(_) => to.copy_from_slice(from),
    }
}

/// Copies storage into the bytes of a tensor.
pub(crate) fn decode(form: Form, from: &[u8], to: &mut [u8]) {
    match form {
        Form::Coded(Element::I8) => encode(form, from, to),
        Form::Coded(Element::Bits { width, .. }) => {
            to.fill(0);
            let width = usize::from(width);
            for (i, from) in from.iter().enumerate() {
                // Adding 128 does not touch the lower seven bits.
                write_bits(to, i * width, width, *from);
            }
        }
        Form::Coded(Element::Bipolar) => {
            to.fill(0);
            for (i, from) in from.iter().enumerate() {
                write_bits(to, i, 1, u8::from(*from > 128));
            }
        }
        Form::Raw(_) | Form::Coded(_) => to.copy_from_slice(from),
    }
}

fn read_bits(bytes: &[u8], at: usize, width: usize) -> u8 {
    let low = u16::from(bytes[at / 8]);
    let high = bytes.get(at / 8 + 1).map_or(0, |b| u16::from(*b));
    ((low | high << 8) >> (at % 8)) as u8 & ((1u16 << width) - 1) as u8
}

fn write_bits(bytes: &mut [u8], at: usize, width: usize, value: u8) {
    let value = u16::from(value) & ((1 << width) - 1);
    let shifted = value << (at % 8);
    bytes[at / 8] |= shifted as u8;
    if shifted > 0xff {
        bytes[at / 8 + 1] |= (shifted >> 8) as u8;
    }
}

/// The tensor of `shape` that lies in storage.
pub(crate) fn to_tensor(form: Form, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
    let (Form::Raw(element) | Form::Coded(element)) = form;
    let count: usize = shape.iter().product();
    let mut out = vec![0; (count * element.bits()).div_ceil(8)];
    decode(form, bytes, &mut out);
    Tensor::from_bytes(element, shape, out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_goes_in_and_out() {
        for signed in [false, true] {
            for width in 1..=8 {
                let element = Element::integer(width, signed).unwrap();
                let (lo, hi) = element.range().unwrap();
                let values: Vec<i32> = (lo..=hi).chain([hi, lo]).map(|v| v as i32).collect();
                let tensor = Tensor::from_ints(element, &[values.len()], &values).unwrap();
                let form = Form::Coded(element);
                let mut stored = vec![0; form.bytes(values.len())];
                encode(form, tensor.bytes(), &mut stored);
                let want: Vec<u8> = values.iter().map(|v| (v + bias(element)) as u8).collect();
                assert_eq!(stored, want, "{element}");
                assert_eq!(to_tensor(form, tensor.shape(), &stored).unwrap(), tensor);
            }
        }
        let tensor = Tensor::from_ints(Element::Bipolar, &[3], &[-1, 1, 1]).unwrap();
        let mut stored = [0; 3];
        encode(Form::Coded(Element::Bipolar), tensor.bytes(), &mut stored);
        assert_eq!(stored, [127, 129, 129]);
        assert_eq!(to_tensor(Form::Coded(Element::Bipolar), &[3], &stored).unwrap(), tensor);
    }
}
