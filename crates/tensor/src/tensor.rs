use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use half::{bf16, f16};

use crate::{Element, Scalar, TensorError, TernaryFactors, bits, element_count};

/// An element type, a shape and the bytes: row-major, little-endian, packed below eight bits. Cloning shares the bytes.
#[derive(Clone)]
pub struct Tensor {
    element: Element,
    shape: Vec<usize>,
    bytes: Bytes,
    /// What the values are the product of, if they were made of factors.
    factors: Option<Arc<TernaryFactors>>,
}

/// Lets `Bytes` own a typed vector, so that values made in Rust stay aligned and are never copied.
struct Typed<T>(Vec<T>);

impl<T: Scalar> AsRef<[u8]> for Typed<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl Tensor {
    /// A tensor that owns `values`.
    ///
    /// # Errors
    /// [`TensorError::Length`] if the values do not fill the shape, [`TensorError::TooLarge`].
    pub fn new<T: Scalar>(shape: &[usize], values: Vec<T>) -> Result<Tensor, TensorError> {
        let expected = element_count(shape)?;
        if values.len() != expected {
            let (element, shape, actual) = (T::ELEMENT, shape.to_vec(), values.len());
            return Err(TensorError::Length { element, shape, expected, actual, unit: "values" });
        }
        let bytes = if values.is_empty() { Bytes::new() } else { Bytes::from_owner(Typed(values)) };
        Ok(Tensor { element: T::ELEMENT, shape: shape.to_vec(), bytes, factors: None })
    }

    /// A one-dimensional tensor.
    pub fn vector<T: Scalar>(values: Vec<T>) -> Tensor {
        let shape = vec![values.len()];
        Tensor { element: T::ELEMENT, shape, bytes: Bytes::from_owner(Typed(values)), factors: None }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Scalar>(value: T) -> Tensor {
        Tensor { element: T::ELEMENT, shape: vec![], bytes: Bytes::from_owner(Typed(vec![value])), factors: None }
    }

    /// A tensor of truth values.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bools(shape: &[usize], values: &[bool]) -> Result<Tensor, TensorError> {
        let bytes: Vec<u8> = values.iter().map(|&b| b.into()).collect();
        Tensor::from_bytes(Element::Bool, shape, bytes.into())
    }

    /// A tensor of integers of 1–8 bits (or bipolar: negative is −1), packed from one `i32` a value; only the low bits are
    /// kept.
    ///
    /// # Errors
    /// As [`Tensor::new`]; [`TensorError::Element`] if the element is not quantizable.
    pub fn from_ints(element: Element, shape: &[usize], values: &[i32]) -> Result<Tensor, TensorError> {
        let expected = element_count(shape)?;
        if values.len() != expected {
            let (shape, actual) = (shape.to_vec(), values.len());
            return Err(TensorError::Length { element, shape, expected, actual, unit: "values" });
        }
        let bytes = match element {
            Element::I8 | Element::U8 => values.iter().map(|&v| v as u8).collect(),
            Element::Bits { width, .. } => bits::pack_bits(values.iter().map(|&v| v as u8), width.into()),
            Element::Bipolar => bits::pack_bits(values.iter().map(|&v| u8::from(v > 0)), 1),
            Element::I32 => return Tensor::new(shape, values.to_vec()),
            actual => return Err(TensorError::Element { expected: Element::I8, actual }),
        };
        Tensor::from_bytes(element, shape, bytes.into())
    }

    /// A tensor over bytes that may be shared or memory-mapped; nothing is copied.
    ///
    /// # Errors
    /// [`TensorError::Length`] if the bytes are not exactly as many as the shape needs, [`TensorError::TooLarge`].
    pub fn from_bytes(element: Element, shape: &[usize], bytes: Bytes) -> Result<Tensor, TensorError> {
        let count = element_count(shape)?;
        let expected = bits::packed_len(count, element.bits()).ok_or_else(|| TensorError::TooLarge(shape.to_vec()))?;
        if bytes.len() != expected {
            let (shape, actual) = (shape.to_vec(), bytes.len());
            return Err(TensorError::Length { element, shape, expected, actual, unit: "bytes" });
        }
        Ok(Tensor { element, shape: shape.to_vec(), bytes, factors: None })
    }

    /// Element type.
    pub fn element(&self) -> Element {
        self.element
    }

    /// Dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes as stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What the values are the product of, row by row, if they were made of factors.
    pub fn factors(&self) -> Option<&Arc<TernaryFactors>> {
        self.factors.as_ref()
    }

    /// The same tensor, which knows that it was made of these factors.
    pub(crate) fn remembering(self, factors: Arc<TernaryFactors>) -> Tensor {
        Tensor { factors: Some(factors), ..self }
    }

    /// The values, borrowed where the bytes happen to be aligned, else copied.
    ///
    /// # Errors
    /// [`TensorError::Element`] if the tensor holds another element.
    pub fn values<T: Scalar>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        if T::ELEMENT != self.element {
            return Err(TensorError::Element { expected: T::ELEMENT, actual: self.element });
        }
        Ok(match bytemuck::try_cast_slice(&self.bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(&self.bytes)),
        })
    }

    /// Truth values; every other element is compared with zero.
    pub fn to_bools(&self) -> Vec<bool> {
        match self.element {
            Element::Bool => self.bytes.iter().map(|&b| b != 0).collect(),
            _ => self.to_f64s().into_iter().map(|v| v != 0.0).collect(),
        }
    }

    /// Every element as `f64` (exact but for large 64-bit integers).
    pub fn to_f64s(&self) -> Vec<f64> {
        self.collect(|v| v, |v| v as f64)
    }

    /// Every element as `f32`, rounded to nearest.
    pub fn to_f32s(&self) -> Vec<f32> {
        if let Ok(values) = self.values::<f32>() {
            return values.into_owned();
        }
        self.collect(|v| v as f32, |v| v as f32)
    }

    /// Every element as `i64`; floats truncate towards zero and saturate.
    pub fn to_i64s(&self) -> Vec<i64> {
        if let Ok(values) = self.values::<i64>() {
            return values.into_owned();
        }
        self.collect(|v| v as i64, |v| v)
    }

    /// Every element as `i32`, wrapping; the way quantized values are read.
    pub fn to_ints(&self) -> Vec<i32> {
        self.collect(|v| v as i32, |v| v as i32)
    }

    /// Integers that eight bits hold with their sign: those of `I8`, of packed integers and of `Bipolar`, borrowed where they
    /// are stored like that. `None` for every other element.
    pub fn to_i8s(&self) -> Option<Cow<'_, [i8]>> {
        match self.element {
            Element::I8 => Some(Cow::Borrowed(bytemuck::cast_slice(&self.bytes))),
            Element::Bits { width, signed } => {
                Some(Cow::Owned(bits::unpack_bits(&self.bytes, self.len(), width.into(), signed)))
            }
            Element::Bipolar => {
                let mut signs = bits::unpack_bits(&self.bytes, self.len(), 1, false);
                signs.iter_mut().for_each(|v| *v = 2 * *v - 1);
                Some(Cow::Owned(signs))
            }
            _ => None,
        }
    }

    fn collect<T>(&self, float: impl Fn(f64) -> T, int: impl Fn(i64) -> T) -> Vec<T> {
        fn each<S: Scalar, T>(t: &Tensor, f: impl Fn(S) -> T) -> Vec<T> {
            bytemuck::pod_collect_to_vec::<u8, S>(&t.bytes).into_iter().map(f).collect()
        }
        match self.element {
            Element::F64 => each(self, float),
            Element::F32 => each(self, |v: f32| float(v.into())),
            Element::F16 => each(self, |v: f16| float(v.into())),
            Element::BF16 => each(self, |v: bf16| float(v.into())),
            Element::I64 => each(self, int),
            Element::I32 => each(self, |v: i32| int(v.into())),
            Element::I16 => each(self, |v: i16| int(v.into())),
            Element::I8 => each(self, |v: i8| int(v.into())),
            Element::U64 => each(self, |v: u64| int(v as i64)),
            Element::U32 => each(self, |v: u32| int(v.into())),
            Element::U16 => each(self, |v: u16| int(v.into())),
            Element::U8 | Element::Bool => each(self, |v: u8| int(v.into())),
            Element::Bits { width, signed } => bits::unpack_bits(&self.bytes, self.len(), width.into(), signed)
                .into_iter()
                .map(|v| int(v.into()))
                .collect(),
            Element::Bipolar => bits::unpack_bits(&self.bytes, self.len(), 1, false)
                .into_iter()
                .map(|v| int(if v == 0 { -1 } else { 1 }))
                .collect(),
        }
    }

    /// The same values as another element: floats round to nearest even, floats to integers truncate and saturate,
    /// integers wrap, anything to `Bool` is `!= 0`.
    pub fn cast(&self, to: Element) -> Tensor {
        fn make<T: Scalar>(t: &Tensor) -> Bytes {
            let values: Vec<T> = if t.element.is_float() {
                t.to_f64s().into_iter().map(T::from_f64).collect()
            } else if t.element == Element::U64 && T::ELEMENT.is_float() {
                bytemuck::pod_collect_to_vec::<u8, u64>(&t.bytes).into_iter().map(|v| T::from_f64(v as f64)).collect()
            } else {
                t.to_i64s().into_iter().map(T::from_i64).collect()
            };
            Bytes::from_owner(Typed(values))
        }
        if to == self.element {
            return self.clone();
        }
        let bytes = match to {
            Element::F64 => make::<f64>(self),
            Element::F32 => make::<f32>(self),
            Element::F16 => make::<f16>(self),
            Element::BF16 => make::<bf16>(self),
            Element::I64 => make::<i64>(self),
            Element::I32 => make::<i32>(self),
            Element::I16 => make::<i16>(self),
            Element::I8 => make::<i8>(self),
            Element::U64 => make::<u64>(self),
            Element::U32 => make::<u32>(self),
            Element::U16 => make::<u16>(self),
            Element::U8 => make::<u8>(self),
            Element::Bool => self.to_bools().into_iter().map(u8::from).collect::<Vec<_>>().into(),
            Element::Bits { width, .. } => {
                bits::pack_bits(self.to_ints().into_iter().map(|v| v as u8), width.into()).into()
            }
            Element::Bipolar => bits::pack_bits(self.to_f64s().into_iter().map(|v| u8::from(v > 0.0)), 1).into(),
        };
        Tensor { element: to, shape: self.shape.clone(), bytes, factors: None }
    }

    /// The same bytes under another shape of as many elements.
    ///
    /// # Errors
    /// [`TensorError::Length`] if the number of elements differs.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Tensor, TensorError> {
        let expected = element_count(shape)?;
        if expected != self.len() {
            let (element, shape, actual) = (self.element, shape.to_vec(), self.len());
            return Err(TensorError::Length { element, shape, expected, actual, unit: "values" });
        }
        Ok(Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// A tensor of `shape` whose elements are those of `self` at the linear indices given, in order; the way every
    /// data-movement operator is written once for all elements, packed ones included.
    ///
    /// # Errors
    /// [`TensorError::Length`] if there are not as many indices as the shape needs.
    ///
    /// # Panics
    /// If an index is out of range.
    pub fn take(&self, shape: &[usize], indices: impl IntoIterator<Item = usize>) -> Result<Tensor, TensorError> {
        if self.element.is_packed() {
            let all = self.to_ints();
            let picked: Vec<i32> = indices.into_iter().map(|i| all[i]).collect();
            return Tensor::from_ints(self.element, shape, &picked);
        }
        fn pick<T: bytemuck::Pod>(bytes: &[u8], indices: impl Iterator<Item = usize>) -> Vec<u8> {
            let size = size_of::<T>();
            let values: Vec<T> =
                indices.map(|i| bytemuck::pod_read_unaligned(&bytes[i * size..(i + 1) * size])).collect();
            bytemuck::cast_slice(&values).to_vec()
        }
        let indices = indices.into_iter();
        let bytes = match self.element.bits() {
            8 => pick::<u8>(&self.bytes, indices),
            16 => pick::<u16>(&self.bytes, indices),
            32 => pick::<u32>(&self.bytes, indices),
            _ => pick::<u64>(&self.bytes, indices),
        };
        Tensor::from_bytes(self.element, shape, bytes.into())
    }
}

impl PartialEq for Tensor {
    /// Equal element, shape and bytes: NaN equals itself, −0 differs from 0.
    fn eq(&self, other: &Tensor) -> bool {
        self.element == other.element && self.shape == other.shape && self.bytes == other.bytes
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.element, self.shape)?;
        if self.len() <= 16 {
            write!(f, " {:?}", self.to_f64s())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_bytes_are_read_as_well() {
        let bytes = Bytes::from(vec![9, 0, 0, 128, 63, 0, 0, 0, 64]).slice(1..);
        let t = Tensor::from_bytes(Element::F32, &[2], bytes).unwrap();
        assert_eq!(t.values::<f32>().unwrap().as_ref(), [1.0, 2.0]);
        assert_eq!(t.to_i64s(), [1, 2]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(Tensor::new(&[3], vec![1.0f32]).is_err());
        assert!(Tensor::from_bytes(Element::Bits { width: 3, signed: true }, &[3], vec![0].into()).is_err());
        assert!(Tensor::from_bytes(Element::Bits { width: 3, signed: true }, &[3], vec![0, 0].into()).is_ok());
    }

    #[test]
    fn narrow_integers_are_read_as_bytes() {
        for element in
            (1..=8).flat_map(|w| [false, true].map(|s| Element::integer(w, s).unwrap())).chain([Element::Bipolar])
        {
            let values: Vec<i32> = if element == Element::Bipolar { vec![-1, 1, 1] } else { vec![0, 1, 0] };
            let values: Vec<i32> = values.into_iter().cycle().take(19).collect();
            let signed = Tensor::from_ints(element, &[19], &values).unwrap();
            let bytes = signed.to_i8s().map(|b| b.iter().map(|v| i32::from(*v)).collect::<Vec<_>>());
            assert_eq!(bytes, (element != Element::U8).then(|| signed.to_ints()), "{element}");
        }
        assert_eq!(Tensor::vector(vec![1.0f32]).to_i8s(), None);
    }

    #[test]
    fn take_works_for_every_width() {
        for width in 1..=8 {
            let element = Element::integer(width, false).unwrap();
            let t = Tensor::from_ints(element, &[4], &[0, 1, 1, 0]).unwrap();
            assert_eq!(t.take(&[2], [3, 2]).unwrap().to_ints(), [0, 1]);
        }
        let t = Tensor::vector(vec![1i64, 2, 3]);
        assert_eq!(t.take(&[2], [2, 0]).unwrap().to_i64s(), [3, 1]);
    }

    #[test]
    fn casts() {
        let t = Tensor::vector(vec![-1.5f32, 300.0, 0.0]);
        assert_eq!(t.cast(Element::I32).to_ints(), [-1, 300, 0]);
        assert_eq!(t.cast(Element::Bool).to_bools(), [true, true, false]);
        let big = Tensor::vector(vec![u64::MAX]);
        assert_eq!(big.cast(Element::F64).to_f64s(), [u64::MAX as f64]);
        assert_eq!(Tensor::vector(vec![300i32]).cast(Element::U8).to_ints(), [44]);
    }
}
