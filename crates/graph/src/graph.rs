use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use qing_tensor::Tensor;

use crate::{GraphError, Op, OpError, Type, infer};

/// Names a value of a [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Position of a node in the execution order of a [`Graph`]; changes when the graph is rewritten.
pub type NodeId = usize;

/// A graph input, a constant, or what a node computes.
#[derive(Debug, Clone)]
pub struct Value {
    /// Unique within the graph.
    pub name: String,
    /// What is known of it.
    pub ty: Type,
    /// Its value, if it is constant.
    pub constant: Option<Tensor>,
}

/// An op applied to values.
#[derive(Debug, Clone)]
pub struct Node {
    /// For messages and reports; layers are addressed by it.
    pub name: String,
    /// What it computes.
    pub op: Arc<dyn Op>,
    /// Its inputs; `None` where an optional input is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// The values it defines.
    pub outputs: Vec<ValueId>,
}

impl Node {
    /// Input `i`, if present.
    pub fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }
}

/// A network: nodes in execution order over typed values. Cheap to clone; tensors are shared.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Name of the model.
    pub name: String,
    /// Nodes; every node follows those whose outputs it reads.
    pub nodes: Vec<Node>,
    /// What a run must be given, in order.
    pub inputs: Vec<ValueId>,
    /// What a run gives, in order.
    pub outputs: Vec<ValueId>,
    /// Key–value pairs that travel with the model: preprocessing, labels, provenance.
    pub metadata: BTreeMap<String, String>,
    values: Vec<Value>,
    names: HashSet<String>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// The value `id` names.
    ///
    /// # Panics
    /// If `id` is of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The value `id` names, to change its type or constant.
    ///
    /// # Panics
    /// If `id` is of another graph.
    pub fn value_mut(&mut self, id: ValueId) -> &mut Value {
        &mut self.values[id.0 as usize]
    }

    /// All values, dead ones included.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// Type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.value(id).ty
    }

    /// Value of a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.value(id).constant.as_ref()
    }

    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.names.contains(name).then(|| self.values().find(|(_, v)| v.name == name).map(|(id, _)| id)).flatten()
    }

    fn add_value(&mut self, name: &str, ty: Type, constant: Option<Tensor>) -> ValueId {
        let mut unique = if name.is_empty() { "value".to_string() } else { name.to_string() };
        let mut n = self.values.len();
        while !self.names.insert(unique.clone()) {
            unique = format!("{name}.{n}");
            n += 1;
        }
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2^32 values"));
        self.values.push(Value { name: unique, ty, constant });
        id
    }

    /// Adds a value that nothing defines yet.
    pub fn add_undefined(&mut self, name: &str, ty: Type) -> ValueId {
        self.add_value(name, ty, None)
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.add_value(name, ty, None);
        self.inputs.push(id);
        id
    }

    /// Adds an unquantized constant.
    pub fn add_constant(&mut self, name: &str, value: Tensor) -> ValueId {
        let ty = Type::new(value.element(), value.shape().iter().copied());
        self.add_value(name, ty, Some(value))
    }

    /// Adds a constant of a given type: quantized weights.
    pub fn add_typed_constant(&mut self, name: &str, ty: Type, value: Tensor) -> ValueId {
        self.add_value(name, ty, Some(value))
    }

    /// Marks a value as an output of the graph.
    pub fn mark_output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    /// Appends a node with `outputs` outputs named after it; their types are inferred.
    ///
    /// # Errors
    /// If the op refuses its inputs.
    pub fn add_node(
        &mut self,
        op: Arc<dyn Op>,
        name: &str,
        inputs: &[Option<ValueId>],
        outputs: usize,
    ) -> Result<Vec<ValueId>, GraphError> {
        let node = Node { name: name.into(), op, inputs: inputs.to_vec(), outputs: vec![] };
        let types = infer::infer_node(self, &node, outputs)?;
        Ok(self.push_node(node, types))
    }

    /// Appends a node whose output types are given: the way quantized outputs are made.
    ///
    /// # Errors
    /// If the op refuses its inputs or would give other shapes.
    pub fn add_typed_node(
        &mut self,
        op: Arc<dyn Op>,
        name: &str,
        inputs: &[Option<ValueId>],
        types: Vec<Type>,
    ) -> Result<Vec<ValueId>, GraphError> {
        let node = Node { name: name.into(), op, inputs: inputs.to_vec(), outputs: vec![] };
        infer::infer_node(self, &node, types.len())?;
        Ok(self.push_node(node, types))
    }

    fn push_node(&mut self, mut node: Node, types: Vec<Type>) -> Vec<ValueId> {
        let many = types.len() > 1;
        let outputs: Vec<ValueId> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                let name = if many { format!("{}.out{i}", node.name) } else { node.name.clone() };
                self.add_value(&name, ty, None)
            })
            .collect();
        node.outputs.clone_from(&outputs);
        self.nodes.push(node);
        outputs
    }

    /// An error of `node`, with what a reader needs to find it.
    pub fn node_error(&self, node: &Node, source: OpError) -> GraphError {
        let inputs: Vec<String> = node
            .inputs
            .iter()
            .map(|i| match i {
                Some(id) => format!("`{}` {}", self.value(*id).name, self.ty(*id)),
                None => "–".into(),
            })
            .collect();
        GraphError::Node { node: node.name.clone(), op: node.op.name().into(), inputs: inputs.join(", "), source }
    }

    /// Renames a value, if the name is free.
    pub fn rename(&mut self, id: ValueId, name: &str) {
        if self.names.insert(name.to_string()) {
            let old = std::mem::replace(&mut self.values[id.0 as usize].name, name.to_string());
            self.names.remove(&old);
        }
    }

    /// For every value, the node that defines it.
    pub fn producers(&self) -> Vec<Option<NodeId>> {
        let mut producers = vec![None; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for out in &node.outputs {
                producers[out.0 as usize] = Some(i);
            }
        }
        producers
    }

    /// For every value, the nodes that read it (a node that reads it twice is listed twice).
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut consumers = vec![vec![]; self.values.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for input in node.inputs.iter().flatten() {
                consumers[input.0 as usize].push(i);
            }
        }
        consumers
    }

    /// Removes nodes whose outputs nobody needs. Values stay, so ids stay valid.
    pub fn remove_dead_nodes(&mut self) {
        let mut live: HashSet<ValueId> = self.outputs.iter().copied().collect();
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if node.outputs.iter().any(|o| live.contains(o)) {
                keep[i] = true;
                live.extend(node.inputs.iter().flatten());
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next().unwrap_or(false));
    }

    /// Removes dead nodes and dead values, renumbering the rest. Inputs stay even if unused.
    #[must_use]
    pub fn compacted(mut self) -> Graph {
        self.remove_dead_nodes();
        let mut live = vec![false; self.values.len()];
        for id in self.inputs.iter().chain(&self.outputs) {
            live[id.0 as usize] = true;
        }
        for node in &self.nodes {
            for id in node.inputs.iter().flatten().chain(&node.outputs) {
                live[id.0 as usize] = true;
            }
        }
        let mut map = vec![ValueId(u32::MAX); self.values.len()];
        let mut values = Vec::with_capacity(self.values.len());
        for (i, value) in std::mem::take(&mut self.values).into_iter().enumerate() {
            if live[i] {
                map[i] = ValueId(values.len() as u32);
                values.push(value);
            } else {
                self.names.remove(&value.name);
            }
        }
        self.values = values;
        let renumber = |id: &mut ValueId| *id = map[id.0 as usize];
        self.inputs.iter_mut().for_each(renumber);
        self.outputs.iter_mut().for_each(renumber);
        for node in &mut self.nodes {
            node.inputs.iter_mut().flatten().for_each(renumber);
            node.outputs.iter_mut().for_each(renumber);
        }
        self
    }
}
