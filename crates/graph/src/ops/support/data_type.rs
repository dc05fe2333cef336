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
/// If qing has no such element: strings, complex numbers and floats below 16 bits.
pub fn element_of(code: i64) -> Result<Element, OpError> {
    CODES.iter().find(|(c, _)| *c == code).map(|(_, e)| *e).ok_or_else(|| {
        OpError::unsupported(format!(
            "ONNX data type {code}; expected one of real numbers of 16 to 64 bits, integers of 2 to 64 bits, or bool"
        ))
    })
}

/// The number of an element in ONNX, if it has one.
pub fn code_of(element: Element) -> Option<i64> {
    CODES.iter().find(|(_, e)| *e == element).map(|(c, _)| *c)
}
