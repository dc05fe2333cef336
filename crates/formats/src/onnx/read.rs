//! `ModelProto` to [`Graph`].

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    rc::Rc,
};

use qing_graph::{
    AttrValue, Attrs, Element, Graph, Legacy, Node, OpError, OpSpec, Tensor, Type, ValueId, infer, ops, verify,
};

use super::{
    NEWEST_OPSET,
    attribute::read_attribute,
    functions::{Instance, domain, inline, opsets},
    order::execution_order,
    proto::{GraphProto, ModelProto},
    tensor::{External, read_tensor},
    types::read_type,
};
use crate::{FormatError, UnsupportedNode};

/// Other names of domains that qing has.
const DOMAINS: &[(&str, &str)] = &[
    ("onnx.brevitas", "qonnx"),
    ("finn.custom_op.general", "qonnx"),
    ("qonnx.custom_op.general", "qonnx"),
    ("ai.onnx", ""),
];

/// The graph a model describes.
///
/// # Errors
/// If the model breaks the rules of ONNX, or has something qing does not.
pub(super) fn read_model(model: ModelProto, folder: Option<&Path>) -> Result<Graph, FormatError> {
    let mut proto = model
        .graph
        .ok_or_else(|| FormatError::malformed("model", "no graph in it; expected an ONNX ModelProto with a graph"))?;
    let versions = Rc::new(opsets(&model.opset_import));
    match versions.get("") {
        Some(v) if *v > NEWEST_OPSET => {
            return Err(FormatError::unsupported("model", format!("opset {v}; the newest known is {NEWEST_OPSET}")));
        }
        _ => {}
    }
    let nodes = inline(std::mem::take(&mut proto.node), &model.functions, &versions)?;
    let external = External::new(folder);
    let specs = find_ops(&nodes)?;
    let mut reader = Reader { graph: Graph::new(&proto.name), ids: HashMap::new(), external };
    for entry in model.metadata_props {
        reader.graph.metadata.insert(entry.key, entry.value);
    }
    reader.inputs_and_constants(&proto)?;
    reader.define_outputs(&nodes, &proto)?;
    let order = execution_order(&nodes.iter().map(|n| &n.node).collect::<Vec<_>>())?;
    for i in order {
        reader.node(&nodes[i], specs[i], i)?;
    }
    for output in &proto.output {
        let id = reader.ids.get(output.name.as_str()).copied().ok_or_else(|| {
            FormatError::malformed(format!("graph output `{}`", output.name), "nothing in the graph defines it")
        })?;
        reader.graph.mark_output(id);
    }
    let graph = reader.graph.compacted();
    verify::verify(&graph)?;
    Ok(graph)
}

/// The op of every node; `None` for `Constant`.
fn find_ops(nodes: &[Instance]) -> Result<Vec<Option<&'static OpSpec>>, FormatError> {
    let mut missing = vec![];
    let mut specs = vec![];
    for Instance { node, opsets } in nodes {
        let name = domain(&node.domain);
        let known = DOMAINS.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, d)| d);
        let spec = ops::find(known, &node.op_type);
        if spec.is_none() && !is_constant(node) {
            let label = if name.is_empty() { node.op_type.clone() } else { format!("{name}.{}", node.op_type) };
            let reason = match node.op_type.as_str() {
                "If" | "Loop" | "Scan" | "SequenceMap" => "control flow",
                _ => "unknown op",
            };
            missing.push(UnsupportedNode {
                node: node_name(node).to_string(),
                op: label,
                opset: opsets.get(name).copied(),
                reason: reason.into(),
            });
        }
        specs.push(spec);
    }
    if missing.is_empty() { Ok(specs) } else { Err(FormatError::Ops(missing)) }
}

fn is_constant(node: &super::proto::NodeProto) -> bool {
    node.op_type == "Constant" && domain(&node.domain).is_empty()
}

/// Nodes need not have names; their first output has.
fn node_name(node: &super::proto::NodeProto) -> &str {
    if node.name.is_empty() {
        node.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str)
    } else {
        &node.name
    }
}

struct Reader<'a> {
    graph: Graph,
    /// What a name stands for.
    ids: HashMap<String, ValueId>,
    external: External<'a>,
}

impl Reader<'_> {
    fn name(&mut self, name: &str, id: ValueId) -> Result<(), FormatError> {
        match self.ids.insert(name.to_string(), id) {
            None => Ok(()),
            Some(_) => Err(FormatError::malformed(format!("value `{name}`"), "defined twice")),
        }
    }

    fn inputs_and_constants(&mut self, proto: &GraphProto) -> Result<(), FormatError> {
        if let Some(sparse) = proto.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |v| v.name.as_str());
            return Err(FormatError::unsupported(format!("tensor `{name}`"), "a sparse initializer"));
        }
        // Up to IR version 3 every initializer is also listed as an input; it is a constant all the same.
        let constants: HashSet<&str> = proto.initializer.iter().map(|t| t.name.as_str()).collect();
        for input in proto.input.iter().filter(|i| !constants.contains(i.name.as_str())) {
            let ty = read_type(input)?.ok_or_else(|| {
                FormatError::malformed(
                    format!("graph input `{}`", input.name),
                    "it has no type; expected a tensor type",
                )
            })?;
            let id = self.graph.add_input(&input.name, ty);
            self.name(&input.name, id)?;
        }
        for initializer in &proto.initializer {
            let tensor = read_tensor(initializer, &self.external)?;
            let id = self.graph.add_constant(&initializer.name, tensor);
            self.name(&initializer.name, id)?;
        }
        Ok(())
    }

    /// Gives every value that a node will define its name, before ops add constants of their own, and its declared type,
    /// which is used where inference leaves something open.
    fn define_outputs(&mut self, nodes: &[Instance], proto: &GraphProto) -> Result<(), FormatError> {
        let declared: HashMap<&str, Type> = proto
            .value_info
            .iter()
            .chain(&proto.output)
            .filter_map(|info| Some((info.name.as_str(), read_type(info).ok().flatten()?)))
            .collect();
        for output in nodes.iter().flat_map(|n| &n.node.output).filter(|o| !o.is_empty()) {
            let ty = declared.get(output.as_str()).cloned().unwrap_or_else(|| Type::maybe(Element::F32, None));
            let id = self.graph.add_undefined(output, ty);
            self.name(output, id)?;
        }
        Ok(())
    }

    fn node(&mut self, instance: &Instance, spec: Option<&OpSpec>, index: usize) -> Result<(), FormatError> {
        let node = &instance.node;
        let name = node_name(node);
        let at = || format!("node {index} `{name}` ({})", node.op_type);
        let mut attrs = Attrs::default();
        for attribute in &node.attribute {
            let value = read_attribute(attribute, &self.external).map_err(|e| in_node(e, &at()))?;
            if attrs.get(&attribute.name).is_some() {
                return Err(FormatError::malformed(at(), format!("attribute `{}` is given twice", attribute.name)));
            }
            attrs.set(&attribute.name, value);
        }
        let Some(spec) = spec else {
            let value = constant(&attrs).map_err(|e| FormatError::op(at(), e))?;
            let Some(id) = node.output.first().and_then(|o| self.ids.get(o.as_str())) else { return Ok(()) };
            let target = self.graph.value_mut(*id);
            target.ty = Type::new(value.element(), value.shape().iter().copied());
            target.constant = Some(value);
            return Ok(());
        };
        let mut inputs = vec![];
        for input in &node.input {
            inputs.push(match input.as_str() {
                "" => None,
                name => Some(self.ids.get(name).copied().ok_or_else(|| {
                    FormatError::malformed(at(), format!("it reads `{name}`, which nothing in the graph defines"))
                })?),
            });
        }
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let opset = instance.opsets.get(domain(&node.domain)).copied().unwrap_or(1);
        if let Some(upgrade) = spec.upgrade {
            upgrade(&mut Legacy { opset, attrs: &mut attrs, inputs: &mut inputs, graph: &mut self.graph })
                .map_err(|e| FormatError::op(at(), e))?;
        }
        let op = (spec.build)(&attrs).map_err(|e| FormatError::op(at(), e))?;
        let named = node.output.iter().rposition(|o| !o.is_empty()).map_or(0, |last| last + 1);
        let mut outputs = vec![];
        for (i, output) in node.output[..named].iter().enumerate() {
            outputs.push(match self.ids.get(output.as_str()) {
                Some(id) => *id,
                None => self.graph.add_undefined(&format!("{name}.out{i}"), Type::maybe(Element::F32, None)),
            });
        }
        self.graph.nodes.push(Node { name: name.into(), op, inputs, outputs });
        let last = self.graph.nodes.len() - 1;
        infer::infer_at(&mut self.graph, last)?;
        Ok(())
    }
}

/// The same error, with the node it was found in.
fn in_node(error: FormatError, node: &str) -> FormatError {
    match error {
        FormatError::Malformed { at, message } => FormatError::malformed(format!("{node}, {at}"), message),
        FormatError::Unsupported { at, message } => FormatError::unsupported(format!("{node}, {at}"), message),
        other => other,
    }
}

/// The value of a `Constant` node, which has it in one of several attributes.
fn constant(attrs: &Attrs) -> Result<Tensor, OpError> {
    match attrs.0.as_slice() {
        [(_, AttrValue::Tensor(value))] => Ok(value.clone()),
        [(_, AttrValue::Float(value))] => Ok(Tensor::scalar(*value)),
        [(_, AttrValue::Int(value))] => Ok(Tensor::scalar(*value)),
        [(_, AttrValue::Floats(values))] => Ok(Tensor::vector(values.clone())),
        [(_, AttrValue::Ints(values))] => Ok(Tensor::vector(values.clone())),
        [(name, AttrValue::String(_) | AttrValue::Strings(_))] => {
            Err(OpError::unsupported(format!("`{name}`: constants of type string")))
        }
        other => Err(OpError::invalid(format!("a constant has one attribute, this one {}", other.len()))),
    }
}
