//! Gradients as rewriting: an op's rule ([`Op::gradient`]) appends nodes that compute what the loss
//! changes by for its inputs, from what it changes by for its outputs. [`reverse`] walks a graph backwards and lets every
//! rule do that once.
//!
//! A gradient has the element and the shape of its value. Rules need to know shapes, so a graph is bound to its batch
//! before it is differentiated ([`infer::specialize`]).

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    sync::Arc,
};

use qing_tensor::{Element, Tensor, element_count};

use crate::{
    Graph, GraphError, Node, Op, OpError, Type, ValueId, infer,
    ops::{
        Add, Cast, Div, Exp, Expand, Greater, GreaterOrEqual, Less, MatMul, Mul, Neg, ReduceMean, ReduceSum, Reshape,
        Slice, Sqrt, Sub, Transpose, Where,
    },
};

/// Results of all-constant nodes up to this size are computed at once.
const LARGEST_FOLDED: usize = 4096;

/// What a gradient rule sees, and how it adds nodes. All methods that add nodes take `&self`, so that a rule can be written
/// as one expression.
#[derive(Debug)]
pub struct Backward<'a> {
    graph: RefCell<&'a mut Graph>,
    node: &'a Node,
    gradients: &'a [Option<ValueId>],
    wanted: &'a [bool],
    read: Vec<Cell<bool>>,
    folds: Cell<bool>,
}

/// What the rule of an op gives: for every input the gradient, or `None` where none is wanted or none exists.
pub type Gradients = Result<Vec<Option<ValueId>>, OpError>;

impl Backward<'_> {
    /// Input `i` of the op.
    ///
    /// # Errors
    /// If it is absent.
    pub fn input(&self, i: usize) -> Result<ValueId, OpError> {
        self.node.input(i).ok_or(OpError::MissingInput(i))
    }

    /// Input `i`, if present.
    pub fn optional(&self, i: usize) -> Option<ValueId> {
        self.node.input(i)
    }

    /// How many inputs the node names, absent ones included.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// How many outputs the node has.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Output `i` of the op: what the forward pass computed.
    ///
    /// # Errors
    /// If the node has no such output.
    pub fn output(&self, i: usize) -> Result<ValueId, OpError> {
        self.node.outputs.get(i).copied().ok_or_else(|| OpError::invalid(format!("output {i} is not computed")))
    }

    /// Gradient of output `i`, if the loss depends on it.
    pub fn gradient(&self, i: usize) -> Option<ValueId> {
        if let Some(read) = self.read.get(i) {
            read.set(true);
        }
        self.gradients.get(i).copied().flatten()
    }

    /// Gradient of the first output.
    ///
    /// # Errors
    /// If the loss does not depend on it.
    pub fn dy(&self) -> Result<ValueId, OpError> {
        self.gradient(0).ok_or_else(|| OpError::unsupported("a gradient through its further outputs"))
    }

    /// Gradient of every output, if the loss depends on it.
    pub fn gradients(&self) -> Vec<Option<ValueId>> {
        (0..self.outputs()).map(|i| self.gradient(i)).collect()
    }

    /// Whether the gradient of input `i` is wanted: it is there, is of floats, and leads to something that is trained.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted.get(i).copied().unwrap_or(false)
    }

    /// The gradient of input `i` if it is wanted, made by `f`.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn wanted(&self, i: usize, f: impl FnOnce() -> Result<ValueId, OpError>) -> Result<Option<ValueId>, OpError> {
        if self.wants(i) { f().map(Some) } else { Ok(None) }
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> Type {
        self.graph.borrow().ty(value).clone()
    }

    /// Element of a value.
    pub fn element(&self, value: ValueId) -> Element {
        self.graph.borrow().ty(value).element
    }

    /// Shape of a value.
    ///
    /// # Errors
    /// If it is not known.
    pub fn shape(&self, value: ValueId) -> Result<Vec<usize>, OpError> {
        let graph = self.graph.borrow();
        graph.ty(value).known_shape().ok_or_else(|| {
            let (name, ty) = (&graph.value(value).name, graph.ty(value));
            OpError::unsupported(format!("`{name}` of type {ty} in a gradient; bind the inputs to their shapes before"))
        })
    }

    /// Number of dimensions of a value.
    ///
    /// # Errors
    /// If its shape is not known.
    pub fn rank(&self, value: ValueId) -> Result<usize, OpError> {
        Ok(self.shape(value)?.len())
    }

    /// A value that is known before the run.
    pub fn constant(&self, value: ValueId) -> Option<Tensor> {
        self.graph.borrow().constant(value).cloned()
    }

    /// The value of input `i`, which must be constant.
    ///
    /// # Errors
    /// If it is absent or is computed.
    pub fn constant_input(&self, i: usize) -> Result<Tensor, OpError> {
        let value = self.input(i)?;
        self.constant(value).ok_or_else(|| OpError::unsupported(format!("a gradient while input {i} is computed")))
    }

    /// The value of input `i`; `None` if it is absent.
    ///
    /// # Errors
    /// If it is computed.
    pub fn optional_constant(&self, i: usize) -> Result<Option<Tensor>, OpError> {
        self.optional(i).map(|_| self.constant_input(i)).transpose()
    }

    /// Adds a constant.
    pub fn tensor(&self, value: Tensor) -> ValueId {
        let name = format!("{}.grad.constant", self.node.name);
        self.graph.borrow_mut().add_constant(&name, value)
    }

    /// Adds a scalar of the element of `like`.
    pub fn scalar(&self, like: ValueId, value: f64) -> ValueId {
        self.tensor(Tensor::scalar(value).cast(self.element(like)))
    }

    /// Adds a vector of i64: a shape, axes.
    pub fn ints(&self, values: &[usize]) -> ValueId {
        self.tensor(Tensor::vector(values.iter().map(|v| *v as i64).collect::<Vec<i64>>()))
    }

    /// Adds a node with any number of outputs.
    ///
    /// # Errors
    /// If the op refuses its inputs.
    pub fn emit_all(&self, op: impl Op, inputs: &[Option<ValueId>], outputs: usize) -> Result<Vec<ValueId>, OpError> {
        self.emit_dyn(Arc::new(op), inputs, outputs)
    }

    /// Adds a node with one output.
    ///
    /// # Errors
    /// If the op refuses its inputs.
    pub fn emit(&self, op: impl Op, inputs: &[ValueId]) -> Result<ValueId, OpError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.emit_dyn(Arc::new(op), &inputs, 1)?[0])
    }

    fn emit_dyn(&self, op: Arc<dyn Op>, inputs: &[Option<ValueId>], outputs: usize) -> Result<Vec<ValueId>, OpError> {
        let mut graph = self.graph.borrow_mut();
        let name = format!("{}.grad", self.node.name);
        let inner = |e: GraphError| match e {
            GraphError::Node { op, source, .. } => OpError::invalid(format!("its gradient, {op}: {source}")),
            other => OpError::invalid(format!("its gradient: {other}")),
        };
        let ids = graph.add_node(op, &name, inputs, outputs).map_err(inner)?;
        // What follows from constants alone is computed now: sizes, and the gradient of the loss by itself.
        let small = ids.iter().all(|id| {
            let count = graph.ty(*id).known_shape().and_then(|s| element_count(&s).ok());
            count.is_some_and(|n| n <= LARGEST_FOLDED)
        });
        let constant = inputs.iter().flatten().all(|id| graph.constant(*id).is_some_and(|t| t.len() <= LARGEST_FOLDED));
        if small
            && constant
            && self.folds.get()
            && let Some(node) = graph.nodes.last().cloned()
        {
            for (id, value) in ids.iter().zip(infer::eval_node(&graph, &node).map_err(inner)?) {
                graph.value_mut(*id).constant = Some(value);
            }
            graph.nodes.pop();
        }
        Ok(ids)
    }

    /// `a + b`, broadcast.
    ///
    /// # Errors
    /// If the shapes do not broadcast.
    pub fn add(&self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.emit(Add {}, &[a, b])
    }

    /// `a − b`, broadcast.
    ///
    /// # Errors
    /// If the shapes do not broadcast.
    pub fn sub(&self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.emit(Sub {}, &[a, b])
    }

    /// `a · b`, broadcast.
    ///
    /// # Errors
    /// If the shapes do not broadcast.
    pub fn mul(&self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.emit(Mul {}, &[a, b])
    }

    /// `a / b`, broadcast.
    ///
    /// # Errors
    /// If the shapes do not broadcast.
    pub fn div(&self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.emit(Div {}, &[a, b])
    }

    /// `−a`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn neg(&self, a: ValueId) -> Result<ValueId, OpError> {
        self.emit(Neg {}, &[a])
    }

    /// `e^a`.
    ///
    /// # Errors
    /// If `a` is not of floats.
    pub fn exp(&self, a: ValueId) -> Result<ValueId, OpError> {
        self.emit(Exp {}, &[a])
    }

    /// `√a`.
    ///
    /// # Errors
    /// If `a` is not of floats.
    pub fn sqrt(&self, a: ValueId) -> Result<ValueId, OpError> {
        self.emit(Sqrt {}, &[a])
    }

    /// `a²`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn square(&self, a: ValueId) -> Result<ValueId, OpError> {
        self.mul(a, a)
    }

    /// `factor · a`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn scale(&self, a: ValueId, factor: f64) -> Result<ValueId, OpError> {
        if factor == 1.0 { Ok(a) } else { self.mul(a, self.scalar(a, factor)) }
    }

    /// `a + term`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn offset(&self, a: ValueId, term: f64) -> Result<ValueId, OpError> {
        self.add(a, self.scalar(a, term))
    }

    /// `value − a`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn sub_from(&self, value: f64, a: ValueId) -> Result<ValueId, OpError> {
        self.sub(self.scalar(a, value), a)
    }

    /// Where `a > bound`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn above(&self, a: ValueId, bound: f64) -> Result<ValueId, OpError> {
        self.emit(Greater {}, &[a, self.scalar(a, bound)])
    }

    /// Where `a ≥ bound`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn at_least(&self, a: ValueId, bound: f64) -> Result<ValueId, OpError> {
        self.emit(GreaterOrEqual {}, &[a, self.scalar(a, bound)])
    }

    /// Where `a < bound`.
    ///
    /// # Errors
    /// If `a` is not of numbers.
    pub fn below(&self, a: ValueId, bound: f64) -> Result<ValueId, OpError> {
        self.emit(Less {}, &[a, self.scalar(a, bound)])
    }

    /// `yes` where `condition`, `no` elsewhere, broadcast.
    ///
    /// # Errors
    /// If the shapes do not broadcast.
    pub fn choose(&self, condition: ValueId, yes: ValueId, no: ValueId) -> Result<ValueId, OpError> {
        self.emit(Where {}, &[condition, yes, no])
    }

    /// `a` where `condition`, zero elsewhere.
    ///
    /// # Errors
    /// If the shapes do not broadcast.
    pub fn masked(&self, condition: ValueId, a: ValueId) -> Result<ValueId, OpError> {
        self.choose(condition, a, self.scalar(a, 0.0))
    }

    /// `a` as the element of `like`.
    ///
    /// # Errors
    /// If there is no such cast.
    pub fn cast_like(&self, a: ValueId, like: ValueId) -> Result<ValueId, OpError> {
        let element = self.element(like);
        if self.element(a) == element {
            return Ok(a);
        }
        let to = crate::ops::support::data_type::code_of(element)
            .ok_or_else(|| OpError::unsupported(format!("a gradient of {element}")))?;
        self.emit(Cast { to, ..Cast::default() }, &[a])
    }

    /// The matrix product of the last two axes.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn matmul(&self, a: ValueId, b: ValueId) -> Result<ValueId, OpError> {
        self.emit(MatMul {}, &[a, b])
    }

    /// `a` under another shape of as many values.
    ///
    /// # Errors
    /// If the counts differ.
    pub fn reshape(&self, a: ValueId, shape: &[usize]) -> Result<ValueId, OpError> {
        if self.shape(a)? == shape {
            return Ok(a);
        }
        self.emit(Reshape { allowzero: true }, &[a, self.ints(shape)])
    }

    /// `a` in the shape of `like`.
    ///
    /// # Errors
    /// If the counts differ.
    pub fn reshape_like(&self, a: ValueId, like: ValueId) -> Result<ValueId, OpError> {
        self.reshape(a, &self.shape(like)?)
    }

    /// `a` with its axes in another order: for each axis of the result, that of `a`.
    ///
    /// # Errors
    /// If `order` is no permutation of the axes.
    pub fn transpose(&self, a: ValueId, order: &[usize]) -> Result<ValueId, OpError> {
        if order.iter().enumerate().all(|(i, o)| i == *o) {
            return Ok(a);
        }
        self.emit(Transpose { perm: order.iter().map(|o| *o as i64).collect() }, &[a])
    }

    /// `a` with its last two axes exchanged.
    ///
    /// # Errors
    /// If it has fewer.
    pub fn transpose_last(&self, a: ValueId) -> Result<ValueId, OpError> {
        let rank = self.rank(a)?;
        if rank < 2 {
            return Err(OpError::invalid(format!("a matrix of rank {rank}")));
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        self.transpose(a, &order)
    }

    /// `a` broadcast to a shape.
    ///
    /// # Errors
    /// If it does not broadcast.
    pub fn expand(&self, a: ValueId, shape: &[usize]) -> Result<ValueId, OpError> {
        if self.shape(a)? == shape {
            return Ok(a);
        }
        self.emit(Expand {}, &[a, self.ints(shape)])
    }

    /// The values `start .. end` of `a` along an axis.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn slice(&self, a: ValueId, axis: usize, start: usize, end: usize) -> Result<ValueId, OpError> {
        if start == 0 && end == self.shape(a)?.get(axis).copied().unwrap_or(0) {
            return Ok(a);
        }
        self.emit(Slice {}, &[a, self.ints(&[start]), self.ints(&[end]), self.ints(&[axis])])
    }

    /// Zeros of the shape and element of `like`.
    ///
    /// # Errors
    /// If its shape is not known.
    pub fn zeros_like(&self, like: ValueId) -> Result<ValueId, OpError> {
        self.expand(self.scalar(like, 0.0), &self.shape(like)?)
    }

    /// The sum over all axes but that of channels (axis 1): a vector.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn sum_to_channels(&self, a: ValueId) -> Result<ValueId, OpError> {
        let axes: Vec<usize> = (0..self.rank(a)?).filter(|i| *i != 1).collect();
        self.reduce_sum(a, &axes, false)
    }

    /// The sum over axes, which stay with size 1.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn sum(&self, a: ValueId, axes: &[usize]) -> Result<ValueId, OpError> {
        self.reduce_sum(a, axes, true)
    }

    /// The mean over axes, which stay with size 1.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn mean(&self, a: ValueId, axes: &[usize]) -> Result<ValueId, OpError> {
        if axes.is_empty() {
            return Ok(a);
        }
        self.emit(ReduceMean::default(), &[a, self.ints(axes)])
    }

    fn reduce_sum(&self, a: ValueId, axes: &[usize], keepdims: bool) -> Result<ValueId, OpError> {
        if axes.is_empty() {
            return Ok(a);
        }
        self.emit(ReduceSum { keepdims, ..ReduceSum::default() }, &[a, self.ints(axes)])
    }

    /// The transpose of broadcasting: `a` summed over the axes along which a value of `shape` was repeated to become like `a`.
    ///
    /// # Errors
    /// If `shape` does not broadcast to that of `a`.
    pub fn sum_to(&self, a: ValueId, shape: &[usize]) -> Result<ValueId, OpError> {
        let have = self.shape(a)?;
        if have == shape {
            return Ok(a);
        }
        let misfit = || OpError::invalid(format!("a gradient of {have:?} for a value of {shape:?}"));
        let extra = have.len().checked_sub(shape.len()).ok_or_else(misfit)?;
        let mut axes: Vec<usize> = (0..extra).collect();
        axes.extend((extra..have.len()).filter(|i| shape[i - extra] != have[*i]));
        if axes.iter().any(|i| *i >= extra && shape[i - extra] != 1) {
            return Err(misfit());
        }
        // One axis of channels is left: no dimensions of size 1 to take out afterwards.
        let plain = axes.iter().all(|i| *i < extra);
        let sum = self.reduce_sum(a, &axes, !plain)?;
        self.reshape(sum, shape)
    }

    /// [`sum_to`](Backward::sum_to) the shape of another value.
    ///
    /// # Errors
    /// If that does not broadcast to the shape of `a`.
    pub fn sum_like(&self, a: ValueId, like: ValueId) -> Result<ValueId, OpError> {
        self.sum_to(a, &self.shape(like)?)
    }

    /// A vector of channels under a shape that broadcasts along `axis` of a value of `rank` dimensions.
    ///
    /// # Errors
    /// If `a` is not a vector.
    pub fn along(&self, a: ValueId, axis: usize, rank: usize) -> Result<ValueId, OpError> {
        let shape = self.shape(a)?;
        let &[n] = shape.as_slice() else {
            return Err(OpError::invalid(format!("{shape:?}; expected a vector")));
        };
        let mut to = vec![1; rank];
        to[axis] = n;
        self.reshape(a, &to)
    }

    /// Gradients of an op that is computed again by `forward`, of simpler ops: what their rules give. `forward` adds nodes
    /// that compute the outputs of this node, in order, from its inputs; `None` for those that it does not compute.
    ///
    /// # Errors
    /// Those of `forward` and of the rules.
    pub fn by_parts(&self, forward: impl FnOnce() -> Gradients) -> Gradients {
        let start = self.graph.borrow().nodes.len();
        // A constant that a gradient is wanted of must not disappear in what is computed from it.
        self.folds.set(false);
        let outputs = forward()?;
        self.folds.set(true);
        let mut seeds = vec![];
        for (i, output) in outputs.into_iter().enumerate() {
            if let Some(output) = output
                && let Some(gradient) = self.gradient(i)
            {
                seeds.push((output, self.cast_like(gradient, output)?));
            }
        }
        // An input that is read twice has one gradient, not one for each place.
        let mut wrt: Vec<ValueId> = vec![];
        let mut places = vec![];
        for i in (0..self.inputs()).filter(|i| self.wants(*i)) {
            let value = self.input(i)?;
            if !wrt.contains(&value) {
                wrt.push(value);
                places.push(i);
            }
        }
        let end = self.graph.borrow().nodes.len();
        let found = reverse(&mut self.graph.borrow_mut(), start..end, &seeds, &wrt)
            .map_err(|e| OpError::unsupported(format!("its gradient: {e}")))?;
        let mut all = vec![None; self.inputs()];
        for (place, gradient) in places.into_iter().zip(found) {
            all[place] = gradient;
        }
        Ok(all)
    }
}

/// Appends to `graph` what computes the gradients of the values `wrt`, by walking the nodes `range` backwards from `seeds`,
/// pairs of a value and its gradient. Gives the gradients of `wrt`; `None` for what nothing depends on.
///
/// # Errors
/// If an op on the way has no gradient, or its rule fails; the error names the node.
pub fn reverse(
    graph: &mut Graph,
    range: Range<usize>,
    seeds: &[(ValueId, ValueId)],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>, GraphError> {
    let differentiable = |graph: &Graph, id: ValueId| graph.ty(id).element.is_float() && graph.constant(id).is_none();
    // What leads to a wanted value; everything else gets no gradient.
    let mut leads = vec![false; graph.values().len()];
    wrt.iter().for_each(|id| leads[id.0 as usize] = true);
    for node in &graph.nodes[range.clone()] {
        if node.inputs.iter().flatten().any(|id| leads[id.0 as usize]) {
            for id in &node.outputs {
                let quantized = graph.ty(*id).quant.is_some();
                leads[id.0 as usize] |= quantized || differentiable(graph, *id);
            }
        }
    }
    let mut gradients: Vec<Option<ValueId>> = vec![None; leads.len()];
    for (value, gradient) in seeds {
        accumulate(graph, &mut gradients, *value, *gradient)?;
    }
    for at in range.rev() {
        let outputs: Vec<Option<ValueId>> = graph.nodes[at].outputs.iter().map(|id| gradients[id.0 as usize]).collect();
        let wanted: Vec<bool> =
            graph.nodes[at].inputs.iter().map(|id| id.is_some_and(|id| leads[id.0 as usize])).collect();
        if outputs.iter().all(Option::is_none) || !wanted.contains(&true) {
            continue;
        }
        let node = graph.nodes[at].clone();
        let found = {
            let read = vec![Cell::new(false); outputs.len()];
            let cx = Backward {
                graph: RefCell::new(graph),
                node: &node,
                gradients: &outputs,
                wanted: &wanted,
                read,
                folds: Cell::new(true),
            };
            let found = node.op.differentiate(&cx);
            let unread = (0..outputs.len()).find(|i| outputs[*i].is_some() && !cx.read[*i].get());
            match unread {
                Some(i) if found.is_ok() => Err(OpError::unsupported(format!("a gradient through output {i}"))),
                _ => found,
            }
        };
        let found = found.map_err(|e| graph.node_error(&node, e))?;
        for (i, gradient) in found.into_iter().enumerate() {
            if let (Some(gradient), Some(input), Some(true)) = (gradient, node.input(i), wanted.get(i)) {
                accumulate(graph, &mut gradients, input, gradient).map_err(|e| {
                    graph.node_error(&node, OpError::invalid(format!("its gradient of input {i}: {e}")))
                })?;
            }
        }
    }
    Ok(wrt.iter().map(|id| gradients[id.0 as usize]).collect())
}

/// Adds one more part to the gradient of a value.
fn accumulate(
    graph: &mut Graph,
    gradients: &mut [Option<ValueId>],
    value: ValueId,
    part: ValueId,
) -> Result<(), GraphError> {
    let (want, have) = (graph.ty(value), graph.ty(part));
    let shapes = (want.known_shape(), have.known_shape());
    if want.element != have.element || matches!(&shapes, (Some(w), Some(h)) if w != h) {
        let name = &graph.value(value).name;
        return Err(GraphError::Malformed(format!("a gradient of type {have} for `{name}` of type {want}")));
    }
    let slot = &mut gradients[value.0 as usize];
    *slot = Some(match *slot {
        None => part,
        Some(sum) => {
            let name = format!("{}.grad.sum", graph.value(value).name);
            graph.add_node(Arc::new(Add {}), &name, &[Some(sum), Some(part)], 1)?[0]
        }
    });
    Ok(())
}
