use std::fmt;

use half::{bf16, f16};

/// The type of one element of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// IEEE-754 binary64.
    F64,
    /// IEEE-754 binary32.
    F32,
    /// IEEE-754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
    /// One byte, 0 or 1.
    Bool,
    /// Integer of 1–7 bits, packed as a little-endian bit stream: value `i` occupies bits `i·width ..` of the stream,
    /// least significant bit first. Two and four bits agree with the ONNX packing.
    Bits {
        /// Bits of one value, 1–7. Eight bits are [`Element::I8`] or [`Element::U8`].
        width: u8,
        /// Two's complement if true.
        signed: bool,
    },
    /// One bit that stands for −1 (0) or +1 (1).
    Bipolar,
}

impl Element {
    /// The integer element of `width` bits: `Bits` below eight, `I8`/`U8` at eight. `None` outside 1–8.
    pub fn integer(width: u8, signed: bool) -> Option<Element> {
        match (width, signed) {
            (1..=7, _) => Some(Element::Bits { width, signed }),
            (8, true) => Some(Element::I8),
            (8, false) => Some(Element::U8),
            _ => None,
        }
    }

    /// Bits of one element in memory.
    pub fn bits(self) -> usize {
        match self {
            Element::F64 | Element::I64 | Element::U64 => 64,
            Element::F32 | Element::I32 | Element::U32 => 32,
            Element::F16 | Element::BF16 | Element::I16 | Element::U16 => 16,
            Element::I8 | Element::U8 | Element::Bool => 8,
            Element::Bits { width, .. } => width as usize,
            Element::Bipolar => 1,
        }
    }

    /// True for elements that share bytes with their neighbours.
    pub fn is_packed(self) -> bool {
        matches!(self, Element::Bits { .. } | Element::Bipolar)
    }

    /// True for the floating-point elements.
    pub fn is_float(self) -> bool {
        matches!(self, Element::F64 | Element::F32 | Element::F16 | Element::BF16)
    }

    /// True for the elements that can hold quantized values: integers of 1–8 bits.
    pub fn is_quantizable(self) -> bool {
        matches!(self, Element::I8 | Element::U8 | Element::Bits { .. } | Element::Bipolar)
    }

    /// Smallest and largest value of an integer element that fits `i64`; `None` for floats, `Bool` and `U64`.
    pub fn range(self) -> Option<(i64, i64)> {
        Some(match self {
            Element::I64 => (i64::MIN, i64::MAX),
            Element::I32 => (i32::MIN.into(), i32::MAX.into()),
            Element::I16 => (i16::MIN.into(), i16::MAX.into()),
            Element::I8 => (i8::MIN.into(), i8::MAX.into()),
            Element::U32 => (0, u32::MAX.into()),
            Element::U16 => (0, u16::MAX.into()),
            Element::U8 => (0, u8::MAX.into()),
            Element::Bits { width, signed: true } => (-(1 << (width - 1)), (1 << (width - 1)) - 1),
            Element::Bits { width, signed: false } => (0, (1 << width) - 1),
            Element::Bipolar => (-1, 1),
            Element::F64 | Element::F32 | Element::F16 | Element::BF16 | Element::Bool | Element::U64 => return None,
        })
    }

    /// The name used in dumps, tables and device files: `f32`, `i4`, `u1`, `bipolar`, …
    pub fn name(self) -> String {
        self.to_string()
    }

    /// The element of that [`name`](Element::name).
    pub fn from_name(name: &str) -> Option<Element> {
        Some(match name {
            "f64" => Element::F64,
            "f32" => Element::F32,
            "f16" => Element::F16,
            "bf16" => Element::BF16,
            "bool" => Element::Bool,
            "bipolar" => Element::Bipolar,
            "i64" => Element::I64,
            "i32" => Element::I32,
            "i16" => Element::I16,
            "u64" => Element::U64,
            "u32" => Element::U32,
            "u16" => Element::U16,
            _ => {
                let signed = match name.as_bytes().first()? {
                    b'i' => true,
                    b'u' => false,
                    _ => return None,
                };
                let digits = &name[1..];
                if digits.len() != 1 {
                    return None;
                }
                return Element::integer(digits.parse().ok()?, signed);
            }
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Element::F64 => "f64",
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::BF16 => "bf16",
            Element::I64 => "i64",
            Element::I32 => "i32",
            Element::I16 => "i16",
            Element::I8 => "i8",
            Element::U64 => "u64",
            Element::U32 => "u32",
            Element::U16 => "u16",
            Element::U8 => "u8",
            Element::Bool => "bool",
            Element::Bipolar => "bipolar",
            Element::Bits { width, signed } => {
                return write!(f, "{}{width}", if *signed { 'i' } else { 'u' });
            }
        };
        f.pad(name)
    }
}

/// A Rust type that is the in-memory form of an [`Element`] of whole bytes.
pub trait Scalar: bytemuck::Pod + PartialOrd + fmt::Debug + Send + Sync {
    /// The element it stores.
    const ELEMENT: Element;
    /// The value as `f64` (exact but for large 64-bit integers).
    fn to_f64(self) -> f64;
    /// The nearest value: floats round to nearest even, integers truncate towards zero and saturate.
    fn from_f64(value: f64) -> Self;
    /// The value as `i64`: floats truncate towards zero and saturate, `u64` wraps.
    fn to_i64(self) -> i64;
    /// Conversion from `i64`; integers wrap, as C casts do.
    fn from_i64(value: i64) -> Self;
}

macro_rules! scalar {
    ($($t:ty => $e:ident),*) => {$(
        impl Scalar for $t {
            const ELEMENT: Element = Element::$e;
            fn to_f64(self) -> f64 { self as f64 }
            fn from_f64(value: f64) -> Self { value as $t }
            fn to_i64(self) -> i64 { self as i64 }
            fn from_i64(value: i64) -> Self { value as $t }
        }
    )*};
}
scalar!(f64 => F64, f32 => F32, i64 => I64, i32 => I32, i16 => I16, i8 => I8, u64 => U64, u32 => U32, u16 => U16, u8 => U8);

macro_rules! half_scalar {
    ($($t:ty => $e:ident),*) => {$(
        impl Scalar for $t {
            const ELEMENT: Element = Element::$e;
            fn to_f64(self) -> f64 { <$t>::to_f64(self) }
            fn from_f64(value: f64) -> Self { <$t>::from_f64(value) }
            fn to_i64(self) -> i64 { <$t>::to_f64(self) as i64 }
            fn from_i64(value: i64) -> Self { <$t>::from_f64(value as f64) }
        }
    )*};
}
half_scalar!(f16 => F16, bf16 => BF16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let mut all = vec![
            Element::F64,
            Element::F32,
            Element::F16,
            Element::BF16,
            Element::I64,
            Element::I32,
            Element::I16,
            Element::U64,
            Element::U32,
            Element::U16,
            Element::Bool,
            Element::Bipolar,
        ];
        for width in 1..=8 {
            all.extend([Element::integer(width, true).unwrap(), Element::integer(width, false).unwrap()]);
        }
        for element in all {
            assert_eq!(Element::from_name(&element.name()), Some(element));
        }
        assert_eq!(Element::from_name("i9"), None);
        assert_eq!(Element::from_name("é4"), None);
        assert_eq!(Element::from_name(""), None);
    }

    #[test]
    fn ranges_follow_the_arithmetic() {
        assert_eq!(Element::integer(4, true).unwrap().range(), Some((-8, 7)));
        assert_eq!(Element::integer(1, false).unwrap().range(), Some((0, 1)));
        assert_eq!(Element::integer(9, false), None);
    }
}
