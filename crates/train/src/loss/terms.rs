use std::sync::Arc;

use qing_graph::{Graph, Op, Tensor, ValueId, ops};

use crate::TrainError;

/// Writes formulas into a graph: every call adds a node and gives its value.
#[derive(Debug)]
pub struct Terms<'a> {
    graph: &'a mut Graph,
    name: String,
}

/// Names with their two-sided ops.
macro_rules! binary {
    ($($(#[doc = $doc:literal])* $name:ident: $op:ident),*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Errors
        /// If the shapes do not fit.
        pub fn $name(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, TrainError> {
            self.node(ops::$op {}, &[a, b])
        }
    )*};
}

/// Names with their one-sided ops.
macro_rules! unary {
    ($($(#[doc = $doc:literal])* $name:ident: $op:ident),*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Errors
        /// If the op refuses the type.
        pub fn $name(&mut self, x: ValueId) -> Result<ValueId, TrainError> {
            self.node(ops::$op {}, &[x])
        }
    )*};
}

impl<'a> Terms<'a> {
    /// Nodes named after `name`.
    pub fn new(graph: &'a mut Graph, name: &str) -> Terms<'a> {
        Terms { graph, name: name.into() }
    }

    /// Adds a node of one output.
    ///
    /// # Errors
    /// If the op refuses its inputs.
    pub fn node(&mut self, op: impl Op, inputs: &[ValueId]) -> Result<ValueId, TrainError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let name = format!("{}.{}", self.name, self.graph.nodes.len());
        Ok(self.graph.add_node(Arc::new(op), &name, &inputs, 1)?[0])
    }

    /// A constant of rank 0.
    pub fn number(&mut self, value: f32) -> ValueId {
        let name = format!("{}.{value}", self.name);
        self.graph.add_constant(&name, Tensor::scalar(value))
    }

    /// A constant list of integers: axes, shapes.
    pub fn integers(&mut self, values: &[i64]) -> ValueId {
        let name = format!("{}.integers", self.name);
        self.graph.add_constant(&name, Tensor::vector(values.to_vec()))
    }

    binary! {
        /// `a + b`
        add: Add,
        /// `a − b`
        sub: Sub,
        /// `a · b`
        mul: Mul,
        /// `a / b`
        div: Div,
        /// The greater.
        max: Max,
        /// The lesser.
        min: Min
    }

    unary! {
        /// `−x`
        neg: Neg,
        /// `eˣ`
        exp: Exp,
        /// `ln x`
        log: Log,
        /// `√x`
        sqrt: Sqrt,
        /// `|x|`
        abs: Abs,
        /// `1 / (1 + e⁻ˣ)`
        sigmoid: Sigmoid,
        /// `ln(1 + eˣ)`
        softplus: Softplus,
        /// Arc tangent.
        atan: Atan
    }

    /// `x · factor`
    ///
    /// # Errors
    /// If `x` is no float.
    pub fn times(&mut self, x: ValueId, factor: f32) -> Result<ValueId, TrainError> {
        let factor = self.number(factor);
        self.mul(x, factor)
    }

    /// `x + addend`
    ///
    /// # Errors
    /// If `x` is no float.
    pub fn plus(&mut self, x: ValueId, addend: f32) -> Result<ValueId, TrainError> {
        let addend = self.number(addend);
        self.add(x, addend)
    }

    /// The sum over an axis, which goes.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn sum(&mut self, x: ValueId, axis: i64) -> Result<ValueId, TrainError> {
        let axes = self.integers(&[axis]);
        self.node(ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() }, &[x, axes])
    }

    /// The mean of all values, of rank 0.
    ///
    /// # Errors
    /// If `x` is no float.
    pub fn mean(&mut self, x: ValueId) -> Result<ValueId, TrainError> {
        self.node(ops::ReduceMean { keepdims: false, ..ops::ReduceMean::default() }, &[x])
    }

    /// The sum of all values, of rank 0.
    ///
    /// # Errors
    /// If `x` is no float.
    pub fn total(&mut self, x: ValueId) -> Result<ValueId, TrainError> {
        self.node(ops::ReduceSum { keepdims: false, ..ops::ReduceSum::default() }, &[x])
    }

    /// The logarithm of the softmax over `axis`.
    ///
    /// # Errors
    /// If there is no such axis.
    pub fn log_softmax(&mut self, x: ValueId, axis: i64) -> Result<ValueId, TrainError> {
        self.node(ops::LogSoftmax { axis, ..ops::LogSoftmax::default() }, &[x])
    }

    /// Columns `at` to before `at + n` of a matrix.
    ///
    /// # Errors
    /// If there are none.
    pub fn columns(&mut self, x: ValueId, at: i64, n: i64) -> Result<ValueId, TrainError> {
        let (start, end, axis) = (self.integers(&[at]), self.integers(&[at + n]), self.integers(&[1]));
        self.node(ops::Slice {}, &[x, start, end, axis])
    }
}
