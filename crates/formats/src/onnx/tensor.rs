//! `TensorProto` to [`Tensor`] and back.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use bytes::Bytes;
use qing_graph::{
    Element, Scalar, Tensor, TensorError,
    ops::support::data_type::{code_of, element_of},
};
use qing_tensor::{bf16, element_count, f16, map_file, packed_len};

use super::proto::{EXTERNAL, TensorProto};
use crate::FormatError;

/// ONNX's number of an element, if it has one.
pub(super) fn data_type(element: Element) -> Option<i32> {
    code_of(element).and_then(|code| i32::try_from(code).ok())
}

/// Where the bytes of external tensors are found: files beside the model, each mapped once.
#[derive(Debug)]
pub(super) struct External<'a> {
    folder: Option<&'a Path>,
    files: RefCell<HashMap<String, Bytes>>,
}

impl<'a> External<'a> {
    /// Files in `folder`; none if the model is not a file.
    pub(super) fn new(folder: Option<&'a Path>) -> External<'a> {
        External { folder, files: RefCell::default() }
    }

    fn file(&self, tensor: &str, location: &str) -> Result<Bytes, FormatError> {
        if let Some(bytes) = self.files.borrow().get(location) {
            return Ok(bytes.clone());
        }
        let Some(folder) = self.folder else {
            let message = format!("its values are in the file `{location}`, but the model was not read from a folder");
            return Err(FormatError::unsupported(format!("tensor `{tensor}`"), message));
        };
        let outside = || {
            let message = format!("external data `{location}` must lie in the folder of the model");
            FormatError::malformed(format!("tensor `{tensor}`"), message)
        };
        let relative = Path::new(location);
        let inside = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if location.is_empty() || !inside {
            return Err(outside());
        }
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let path: PathBuf = folder.join(relative);
        let in_file = |e: std::io::Error| FormatError::from(e).in_file(&path);
        // A symbolic link must not lead out of the folder either.
        if !path.canonicalize().map_err(in_file)?.starts_with(folder.canonicalize().map_err(in_file)?) {
            return Err(outside());
        }
        if !path.metadata().map_err(in_file)?.is_file() {
            return Err(FormatError::malformed(format!("tensor `{tensor}`"), format!("`{location}` is not a file")));
        }
        let bytes = map_file(&path).map_err(in_file)?;
        self.files.borrow_mut().insert(location.into(), bytes.clone());
        Ok(bytes)
    }

    /// The bytes that the `external_data` entries of a tensor point at.
    fn bytes(&self, proto: &TensorProto, needed: usize) -> Result<Bytes, FormatError> {
        let fail = |message: String| FormatError::malformed(format!("tensor `{}`", proto.name), message);
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| {
            entry(key)
                .map(|v| v.trim().parse::<usize>().map_err(|_| fail(format!("external data: `{v}` is no {key}"))))
                .transpose()
        };
        let location = entry("location").ok_or_else(|| fail("external data without a location".into()))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(needed);
        let file = self.file(&proto.name, location)?;
        let end = offset.checked_add(length).filter(|end| *end <= file.len()).ok_or_else(|| {
            let size = file.len();
            fail(format!("external data: {length} bytes at offset {offset} of `{location}`, which has {size}"))
        })?;
        Ok(file.slice(offset..end))
    }
}

/// The tensor that a message describes. Bytes are shared, not copied, if they are stored raw.
///
/// # Errors
/// If the element is not supported or the values do not fill the shape. Nothing is allocated before that is known.
pub(super) fn read_tensor(proto: &TensorProto, external: &External<'_>) -> Result<Tensor, FormatError> {
    let at = || format!("tensor `{}`", proto.name);
    let element = element_of(proto.data_type.into()).map_err(|e| FormatError::op(at(), e))?;
    let shape =
        proto.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<usize>, _>>().map_err(|_| {
            FormatError::malformed(at(), format!("dimensions {:?}; expected none negative", proto.dims))
        })?;
    let wrap = |source: TensorError| FormatError::tensor(&proto.name, source);
    let count = element_count(&shape).map_err(wrap)?;
    let needed = packed_len(count, element.bits()).ok_or_else(|| wrap(TensorError::TooLarge(shape.clone())))?;
    if proto.segment.is_some() {
        return Err(FormatError::unsupported(at(), "a tensor stored in segments"));
    }
    let raw = if proto.data_location == EXTERNAL {
        Some(external.bytes(proto, needed)?)
    } else {
        proto.raw_data.clone().filter(|b| !b.is_empty())
    };
    if let Some(bytes) = raw {
        if element == Element::Bool && bytes.iter().any(|b| *b > 1) {
            return Err(FormatError::malformed(at(), "a truth value other than 0 and 1"));
        }
        return Tensor::from_bytes(element, &shape, bytes).map_err(wrap);
    }
    typed(proto, element, &shape).map_err(wrap)
}

/// The values of the typed fields; which field holds which element is in `onnx.proto3`.
fn typed(proto: &TensorProto, element: Element, shape: &[usize]) -> Result<Tensor, TensorError> {
    let count = element_count(shape)?;
    let ints = &proto.int32_data;
    let narrow = |f: fn(i32) -> u8| Tensor::from_bytes(element, shape, ints.iter().map(|&v| f(v)).collect());
    /// The length is checked before anything is copied.
    fn convert<S: Copy, T: Scalar>(
        shape: &[usize],
        count: usize,
        from: &[S],
        f: fn(S) -> T,
    ) -> Result<Tensor, TensorError> {
        if from.len() != count {
            let (element, shape, actual) = (T::ELEMENT, shape.to_vec(), from.len());
            return Err(TensorError::Length { element, shape, expected: count, actual, unit: "values" });
        }
        Tensor::new(shape, from.iter().map(|&v| f(v)).collect())
    }
    match element {
        Element::F64 => convert(shape, count, &proto.double_data, |v| v),
        Element::F32 => convert(shape, count, &proto.float_data, |v| v),
        Element::F16 => convert(shape, count, ints, |v| f16::from_bits(v as u16)),
        Element::BF16 => convert(shape, count, ints, |v| bf16::from_bits(v as u16)),
        Element::I64 => convert(shape, count, &proto.int64_data, |v| v),
        Element::I32 => convert(shape, count, ints, |v| v),
        Element::I16 => convert(shape, count, ints, |v| v as i16),
        Element::U64 => convert(shape, count, &proto.uint64_data, |v| v),
        Element::U32 => convert(shape, count, &proto.uint64_data, |v| v as u32),
        Element::U16 => convert(shape, count, ints, |v| v as u16),
        Element::Bool => narrow(|v| u8::from(v != 0)),
        // One packed byte an entry.
        Element::I8 | Element::U8 | Element::Bits { .. } | Element::Bipolar => narrow(|v| v as u8),
    }
}

/// The message that describes a tensor; raw bytes, shared.
///
/// # Errors
/// If ONNX has no such element.
pub(super) fn write_tensor(name: &str, tensor: &Tensor) -> Result<TensorProto, FormatError> {
    let data_type = data_type(tensor.element()).ok_or_else(|| {
        FormatError::unsupported(format!("tensor `{name}`"), format!("ONNX has no element {}", tensor.element()))
    })?;
    Ok(TensorProto {
        dims: tensor.shape().iter().map(|d| *d as i64).collect(),
        data_type,
        name: name.into(),
        raw_data: Some(tensor.bytes().clone()),
        ..TensorProto::default()
    })
}
