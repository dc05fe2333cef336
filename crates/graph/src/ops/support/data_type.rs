//! The numbers by which ONNX attributes (`to`, `dtype`) name element types: `TensorProto.DataType`.

use qing_tensor::Element;

use crate::OpError;

const CODES: &[(i64, Element)] = &[
    (1, Element::F32),
    (2, Element::U8),
    (3, Element::I8),
    (4, Element::U16),
    (5, Element::I16),
    (6, Element::I32),
    (7, Element::I64),
    (9, Element::Bool),
    (10, Element::F16),
    (11, Element::F64),
    (12, Element::U32),
    (13, Element::U64),
    (16, Element::BF16),
    (21, Element::Bits { width: 4, signed: false }),
    (22, Element::Bits { width: 4, signed: true }),
    (25, Element::Bits { width: 2, signed: false }),
    (26, Element::Bits { width: 2, signed: true }),
];

/// The element that ONNX numbers `code`.
///
/// # Errors
/// If qing has no such element: strings, complex numbers and floats below 16 bits; the text says which it is.
pub fn element_of(code: i64) -> Result<Element, OpError> {
    if let Some((_, element)) = CODES.iter().find(|(c, _)| *c == code) {
        return Ok(*element);
    }
    Err(OpError::unsupported(match code {
        0 => "an undefined element type".into(),
        8 => "elements of type string".into(),
        14 | 15 => "complex elements".to_string(),
        17..=20 | 24 => "elements of 8-bit floats".into(),
        23 => "elements of 4-bit floats".into(),
        n => format!("element type {n}"),
    }))
}

/// The number of an element in ONNX, if it has one.
pub fn code_of(element: Element) -> Option<i64> {
    CODES.iter().find(|(_, e)| *e == element).map(|(c, _)| *c)
}
