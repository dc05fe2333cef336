//! `ValueInfoProto` to [`Type`].

use qing_graph::{Dim, Type, ops::support::data_type::element_of};
use qing_tensor::element_count;

use super::proto::{Dimension, DimensionValue, TypeValue, ValueInfoProto};
use crate::FormatError;

/// The declared type of a value; `None` if nothing is declared.
///
/// # Errors
/// If it is not a tensor of an element that qing has.
pub(super) fn read_type(info: &ValueInfoProto) -> Result<Option<Type>, FormatError> {
    let at = || format!("value `{}`", info.name);
    let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        None => return Ok(None),
        Some(TypeValue::Tensor(tensor)) => tensor,
        Some(TypeValue::Sequence(_)) => return Err(FormatError::unsupported(at(), "a sequence")),
        Some(TypeValue::Optional(_)) => return Err(FormatError::unsupported(at(), "an optional value")),
        Some(TypeValue::Map(_)) => return Err(FormatError::unsupported(at(), "a map")),
        Some(TypeValue::Sparse(_)) => return Err(FormatError::unsupported(at(), "a sparse tensor")),
        Some(TypeValue::Other(_)) => return Err(FormatError::unsupported(at(), "an opaque type")),
    };
    let element = element_of(tensor.elem_type.into()).map_err(|e| FormatError::op(at(), e))?;
    let shape: Option<Vec<Dim>> = tensor.shape.as_ref().map(|s| s.dim.iter().map(dimension).collect());
    let known: Vec<usize> = shape.iter().flatten().filter_map(Dim::known).collect();
    element_count(&known).map_err(|e| FormatError::malformed(at(), e.to_string()))?;
    Ok(Some(Type::maybe(element, shape)))
}

/// Exporters write −1 or an empty name for dimensions they do not know.
fn dimension(dim: &Dimension) -> Dim {
    match &dim.value {
        Some(DimensionValue::Size(n)) => usize::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(DimensionValue::Name(name)) if !name.is_empty() => Dim::Symbol(name.as_str().into()),
        _ => Dim::Unknown,
    }
}
