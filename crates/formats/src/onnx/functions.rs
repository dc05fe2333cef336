//! Calls of model-local functions replaced by the nodes of the function.

use std::{collections::HashMap, rc::Rc};

use prost::Message;

use super::proto::{AttributeProto, FunctionProto, NodeProto, OperatorSetIdProto};
use crate::FormatError;

/// The version of each domain; the standard domain is the empty string.
pub(super) type Opsets = HashMap<String, i64>;

/// A node and the operator sets it was written for.
#[derive(Debug, Clone)]
pub(super) struct Instance {
    /// The node.
    pub(super) node: NodeProto,
    /// Those of the model, or of the function the node came from.
    pub(super) opsets: Rc<Opsets>,
}

/// Functions may call functions, but not themselves; deeper nesting is refused.
const DEEPEST: usize = 16;

/// Expanding functions may multiply their bytes in the file by so much, and 64 MiB are free; calls of functions that do
/// nothing count as well.
const MOST_COPIES: usize = 16;
const FREE_BYTES: usize = 64 << 20;

/// The standard domain has two names.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// The versions a list of imports asks for.
pub(super) fn opsets(imports: &[OperatorSetIdProto]) -> Opsets {
    imports.iter().map(|i| (domain(&i.domain).to_string(), i.version)).collect()
}

/// `nodes` with every call of a function replaced by its body.
///
/// # Errors
/// If functions nest too deeply or expand to too much.
pub(super) fn inline(
    nodes: Vec<NodeProto>,
    functions: &[FunctionProto],
    opsets: &Rc<Opsets>,
) -> Result<Vec<Instance>, FormatError> {
    if functions.is_empty() {
        return Ok(nodes.into_iter().map(|node| Instance { node, opsets: opsets.clone() }).collect());
    }
    let table: HashMap<(&str, &str, &str), &FunctionProto> =
        functions.iter().map(|f| ((domain(&f.domain), f.name.as_str(), f.overload.as_str()), f)).collect();
    let mut out = vec![];
    let size: usize = functions.iter().map(Message::encoded_len).sum();
    let mut budget = size.saturating_mul(MOST_COPIES).saturating_add(FREE_BYTES);
    for node in nodes {
        expand(node, &table, opsets, 0, &mut budget, &mut out)?;
    }
    Ok(out)
}

fn expand(
    node: NodeProto,
    table: &HashMap<(&str, &str, &str), &FunctionProto>,
    opsets: &Rc<Opsets>,
    depth: usize,
    budget: &mut usize,
    out: &mut Vec<Instance>,
) -> Result<(), FormatError> {
    let Some(function) = table.get(&(domain(&node.domain), node.op_type.as_str(), node.overload.as_str())) else {
        out.push(Instance { node, opsets: opsets.clone() });
        return Ok(());
    };
    charge(budget, function.encoded_len() + 64)?;
    if depth >= DEEPEST {
        let message = format!("calls nested deeper than {DEEPEST}");
        return Err(FormatError::malformed(format!("function `{}`", function.name), message));
    }
    let prefix = match (node.name.as_str(), node.output.iter().find(|o| !o.is_empty())) {
        ("", Some(output)) => output.clone(),
        ("", None) => return Ok(()),
        (name, _) => name.to_string(),
    };
    let mut names: HashMap<&str, String> = HashMap::new();
    for (i, formal) in function.input.iter().enumerate() {
        names.insert(formal, node.input.get(i).cloned().unwrap_or_default());
    }
    for (i, formal) in function.output.iter().enumerate() {
        match node.output.get(i).filter(|o| !o.is_empty()) {
            // An output that is one of the inputs needs a node of its own.
            Some(actual) if names.contains_key(formal.as_str()) => {
                let identity = NodeProto {
                    op_type: "Identity".into(),
                    name: format!("{prefix}/{formal}"),
                    input: vec![names[formal.as_str()].clone()],
                    output: vec![actual.clone()],
                    ..NodeProto::default()
                };
                out.push(Instance { node: identity, opsets: opsets.clone() });
            }
            Some(actual) => {
                names.insert(formal, actual.clone());
            }
            None => {}
        }
    }
    let inner =
        if function.opset_import.is_empty() { opsets.clone() } else { Rc::new(self::opsets(&function.opset_import)) };
    for body in &function.node {
        let rename = |list: &[String]| -> Vec<String> {
            list.iter()
                .map(|name| match names.get(name.as_str()) {
                    Some(actual) => actual.clone(),
                    None if name.is_empty() => String::new(),
                    None => format!("{prefix}/{name}"),
                })
                .collect()
        };
        let copy = NodeProto {
            input: rename(&body.input),
            output: rename(&body.output),
            name: format!("{prefix}/{}", body.name),
            attribute: body.attribute.iter().filter_map(|a| bind(a, &node, function)).collect(),
            ..body.clone()
        };
        charge(budget, copy.encoded_len() + 64)?;
        expand(copy, table, &inner, depth + 1, budget, out)?;
    }
    Ok(())
}

fn charge(budget: &mut usize, bytes: usize) -> Result<(), FormatError> {
    *budget = budget.checked_sub(bytes).ok_or_else(|| {
        FormatError::malformed("functions", format!("they expand to more than {MOST_COPIES} times their size"))
    })?;
    Ok(())
}

/// An attribute of a function's node: one that refers to the function's attributes takes the caller's value, or the
/// default, or is absent.
fn bind(attribute: &AttributeProto, call: &NodeProto, function: &FunctionProto) -> Option<AttributeProto> {
    if attribute.ref_attr_name.is_empty() {
        return Some(attribute.clone());
    }
    let named = |list: &[AttributeProto]| list.iter().find(|a| a.name == attribute.ref_attr_name).cloned();
    let mut value = named(&call.attribute).or_else(|| named(&function.attribute_proto))?;
    value.name.clone_from(&attribute.name);
    Some(value)
}
