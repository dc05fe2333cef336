//! `AttributeProto` to [`AttrValue`].

use qing_graph::AttrValue;

use super::{
    proto::{AttributeProto, attribute_type as kind},
    tensor::{External, read_tensor},
};
use crate::FormatError;

/// The value of an attribute.
///
/// # Errors
/// If it is of a kind that qing does not have: graphs, sparse tensors, types, lists of tensors.
pub(super) fn read_attribute(proto: &AttributeProto, external: &External<'_>) -> Result<AttrValue, FormatError> {
    let at = || format!("attribute `{}`", proto.name);
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).map_err(|_| FormatError::malformed(at(), "a string that is not UTF-8"))
    };
    Ok(match kind_of(proto) {
        kind::FLOAT => AttrValue::Float(proto.f.unwrap_or(0.0)),
        kind::INT => AttrValue::Int(proto.i.unwrap_or(0)),
        kind::STRING => AttrValue::String(text(proto.s.as_deref().unwrap_or_default())?),
        kind::TENSOR => {
            let tensor = proto.t.as_deref().ok_or_else(|| FormatError::malformed(at(), "no tensor in it"))?;
            AttrValue::Tensor(read_tensor(tensor, external)?)
        }
        kind::FLOATS => AttrValue::Floats(proto.floats.clone()),
        kind::INTS => AttrValue::Ints(proto.ints.clone()),
        kind::STRINGS => AttrValue::Strings(proto.strings.iter().map(|s| text(s)).collect::<Result<_, _>>()?),
        kind::GRAPH => return Err(FormatError::unsupported(at(), "a subgraph")),
        other => return Err(FormatError::unsupported(at(), format!("an attribute of kind {other}"))),
    })
}

/// Models of the first IR version do not say the kind; the field that is set does.
fn kind_of(proto: &AttributeProto) -> i32 {
    match proto {
        AttributeProto { r#type, .. } if *r#type != kind::UNDEFINED => *r#type,
        AttributeProto { f: Some(_), .. } => kind::FLOAT,
        AttributeProto { i: Some(_), .. } => kind::INT,
        AttributeProto { s: Some(_), .. } => kind::STRING,
        AttributeProto { t: Some(_), .. } => kind::TENSOR,
        AttributeProto { g: Some(_), .. } => kind::GRAPH,
        AttributeProto { floats, .. } if !floats.is_empty() => kind::FLOATS,
        AttributeProto { strings, .. } if !strings.is_empty() => kind::STRINGS,
        _ => kind::INTS,
    }
}
