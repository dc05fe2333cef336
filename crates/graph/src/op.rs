//! What an op is: attributes, shape rule, reference semantics, quantization rule, cost, and cases.
//!
//! An op is one file in `ops/`: a struct made by the [`op!`](crate::op!) macro (its fields are the attributes), an
//! `impl Op`, and its cases. One line in [`ops::OPS`](crate::ops::OPS) makes it known to readers, dump, suite and docs.

use std::{any::Any, fmt, sync::Arc};

use qing_tensor::{Element, Tensor};

use crate::{AttrValue, Attrs, Backward, Dim, Gradients, Graph, OpError, Quant, Type, ValueId};

/// The static description of an op.
pub struct OpSpec {
    /// Name in ONNX, or qing's own.
    pub name: &'static str,
    /// ONNX domain: `""` for the standard one, `"com.microsoft"`, `"qonnx.custom_op.general"`, or `"qing"` for qing's own ops.
    pub domain: &'static str,
    /// What it computes, in words.
    pub docs: &'static str,
    /// Attributes with their documentation.
    pub attrs: &'static [AttrSpec],
    /// How many inputs it takes.
    pub inputs: Arity,
    /// How many outputs it gives.
    pub outputs: Arity,
    /// Whether it can be differentiated.
    pub gradient: Gradient,
    /// The rule that does it ([`Op::gradient`]); `None` in builds without the feature `gradient`.
    pub backward: Option<fn(&dyn Op, &Backward<'_>) -> Gradients>,
    /// Makes the op from attributes; unknown or ill-typed ones are errors.
    pub build: fn(&Attrs) -> Result<Arc<dyn Op>, OpError>,
    /// Rewrites a node of an older opset into the newest form; see [`Legacy`].
    pub upgrade: Option<fn(&mut Legacy<'_>) -> Result<(), OpError>>,
    /// Examples with their results; every executor must pass them.
    pub cases: fn() -> Vec<Case>,
}

impl fmt::Debug for OpSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpSpec({})", self.name)
    }
}

/// Name and documentation of an attribute.
#[derive(Debug)]
pub struct AttrSpec {
    /// Name, in ONNX and in Rust.
    pub name: &'static str,
    /// What it means.
    pub docs: &'static str,
}

/// Fewest and most inputs or outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arity {
    /// At least so many.
    pub min: usize,
    /// At most so many.
    pub max: usize,
}

/// The gradient statement every op makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// Differentiable almost everywhere in its floating-point inputs.
    Smooth,
    /// No useful gradient, and why.
    None(&'static str),
}

/// How an op computes on quantized values; [`arithmetic`](crate::arithmetic) defines the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantRule {
    /// No rule: it runs in f32 between an explicit dequantize and quantize.
    Float,
    /// Dot with the weights at `weight`, bias at `bias`, then requantize (or a real-valued output).
    Dot {
        /// Input that holds the weights.
        weight: usize,
        /// Input that holds the bias, i32 in units of `x_scale·w_scale[c]`.
        bias: usize,
        /// Axis of the output channels in the weights.
        axis: usize,
    },
    /// Sum of two quantized values.
    Add,
    /// Mean of a window, then requantize.
    Mean,
    /// One lookup per value: any unary function ([`Op::table`]).
    Table,
    /// Each input is rescaled to the quantization of the output, then moved.
    Rescale,
    /// Values are only moved or compared: same quantization in and out.
    Movement,
}

/// What the [`op!`](crate::op!) macro writes for every op.
pub trait OpInfo: Any + fmt::Debug + Send + Sync {
    /// The static description.
    fn spec(&self) -> &'static OpSpec;
    /// The attributes that differ from their defaults.
    fn attrs(&self) -> Attrs;
    /// The value of an attribute, also if it is the default: formats have attributes that must be written.
    fn attr(&self, name: &str) -> Option<AttrValue>;
    /// For downcasting.
    fn as_any(&self) -> &dyn Any;
}

/// An op with its attributes; immutable.
pub trait Op: OpInfo {
    /// Types of the outputs. Shapes may be partly unknown; elements and ranks of the inputs too. Quantization is not
    /// inferred: the graph keeps what it was given (see [`infer`](crate::infer)).
    ///
    /// # Errors
    /// If no input values could make these input types legal.
    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError>;

    /// The reference semantics, on floats and, where [`quantization`](Op::quantization) says so, on quantized values.
    ///
    /// # Errors
    /// If the inputs are illegal, or legal but not supported.
    fn eval(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError>;

    /// How it computes on quantized values.
    fn quantization(&self) -> QuantRule {
        QuantRule::Float
    }

    /// Whether it reads integers as they are, with their scales, if any, in further inputs: then it does not matter how the
    /// types of its inputs are quantized.
    fn takes_integers(&self) -> bool {
        false
    }

    /// The real function, for elementwise unary ops.
    fn map(&self, x: f64) -> Option<f64> {
        let _ = x;
        None
    }

    /// For unary ops: the output integer for each input integer `lo ..= hi` of `x`. The default evaluates
    /// [`map`](Op::map) in f64.
    ///
    /// # Errors
    /// If the types are not quantized per tensor.
    fn table(&self, x: &Type, y: &Type) -> Result<Option<Vec<i32>>, OpError> {
        if self.map(0.0).is_none() {
            return Ok(None);
        }
        crate::arithmetic::table(x, y, |v| self.map(v).unwrap_or(f64::NAN)).map(Some)
    }

    /// The value of the first output, if it follows from the types of the inputs alone: shapes.
    fn value_of_types(&self, cx: &Infer<'_>) -> Option<Tensor> {
        let _ = cx;
        None
    }

    /// The gradient rule: adds nodes that compute the gradients of the inputs from those of the outputs, and gives one for
    /// each input; `None` where none is wanted ([`Backward::wants`]) or none exists.
    ///
    /// # Errors
    /// If the op has no useful gradient, or not in this form.
    fn gradient(&self, cx: &Backward<'_>) -> Gradients
    // Found through `OpSpec::backward`: a table of methods would keep every rule in builds that never train.
    where
        Self: Sized,
    {
        let _ = cx;
        Err(OpError::unsupported(match self.spec().gradient {
            Gradient::None(why) => format!("a gradient: {why}"),
            Gradient::Smooth => "a gradient; no rule is written for it".into(),
        }))
    }

    /// Multiply–accumulates for these (known) shapes.
    fn macs(&self, cx: &Infer<'_>) -> u64 {
        let _ = cx;
        0
    }
}

impl dyn Op {
    /// Name in ONNX, or qing's own.
    pub fn name(&self) -> &'static str {
        self.spec().name
    }

    /// The op as a concrete type.
    pub fn downcast<T: Op>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }

    /// [`Op::eval`] as executors call it: an op without a rule for quantized values is not given any, since it would take
    /// their integers for numbers.
    ///
    /// # Errors
    /// As [`Op::eval`]; [`OpError::Unsupported`] for quantized inputs or outputs of an op whose rule is
    /// [`QuantRule::Float`].
    pub fn evaluate(&self, cx: &Eval<'_>) -> Result<Vec<Tensor>, OpError> {
        if self.quantization() == QuantRule::Float
            && !self.takes_integers()
            && let Some(ty) = cx.types.iter().flatten().copied().chain(cx.outputs).find(|ty| ty.quant.is_some())
        {
            return Err(OpError::unsupported(format!(
                "{} on {ty}; dequantize before and quantize after it",
                self.name()
            )));
        }
        self.eval(cx)
    }

    /// The gradient rule: [`Op::gradient`].
    ///
    /// # Errors
    /// As there; in a build without the feature `gradient`, always.
    pub fn differentiate(&self, cx: &Backward<'_>) -> Gradients {
        match self.spec().backward {
            Some(rule) => rule(self, cx),
            None => Err(OpError::unsupported("a gradient; this build has none (feature `gradient` of qing-graph)")),
        }
    }

    /// True if the op is a `T`.
    pub fn is<T: Op>(&self) -> bool {
        self.as_any().is::<T>()
    }
}

/// What a shape rule sees.
#[derive(Debug)]
pub struct Infer<'a> {
    /// Types of the inputs; `None` where an optional input is absent.
    pub types: &'a [Option<&'a Type>],
    /// Values of the inputs that are constant.
    pub constants: &'a [Option<&'a Tensor>],
    /// Number of outputs the node has.
    pub outputs: usize,
}

impl<'a> Infer<'a> {
    /// Type of input `i`.
    ///
    /// # Errors
    /// If it is absent.
    pub fn ty(&self, i: usize) -> Result<&'a Type, OpError> {
        self.optional(i).ok_or(OpError::MissingInput(i))
    }

    /// Type of input `i`, if present.
    pub fn optional(&self, i: usize) -> Option<&'a Type> {
        self.types.get(i).copied().flatten()
    }

    /// Dimensions of input `i`; `Ok(None)` while its rank is unknown.
    ///
    /// # Errors
    /// If it is absent.
    pub fn shape(&self, i: usize) -> Result<Option<&'a [Dim]>, OpError> {
        Ok(self.ty(i)?.shape.as_deref())
    }

    /// Element of input `i`.
    ///
    /// # Errors
    /// If it is absent.
    pub fn element(&self, i: usize) -> Result<Element, OpError> {
        Ok(self.ty(i)?.element)
    }

    /// Value of input `i`, if it is constant.
    pub fn constant(&self, i: usize) -> Option<&'a Tensor> {
        self.constants.get(i).copied().flatten()
    }
}

/// What reference semantics see.
#[derive(Debug)]
pub struct Eval<'a> {
    /// The inputs; `None` where an optional input is absent.
    pub inputs: &'a [Option<&'a Tensor>],
    /// Their types: quantization is here.
    pub types: &'a [Option<&'a Type>],
    /// Types of the outputs; their quantization says what to round to. Shapes may be unknown.
    pub outputs: &'a [Type],
}

impl<'a> Eval<'a> {
    /// Input `i`.
    ///
    /// # Errors
    /// If it is absent.
    pub fn input(&self, i: usize) -> Result<&'a Tensor, OpError> {
        self.optional(i).ok_or(OpError::MissingInput(i))
    }

    /// Input `i`, if present.
    pub fn optional(&self, i: usize) -> Option<&'a Tensor> {
        self.inputs.get(i).copied().flatten()
    }

    /// Type of input `i`.
    ///
    /// # Errors
    /// If it is absent.
    pub fn ty(&self, i: usize) -> Result<&'a Type, OpError> {
        self.types.get(i).copied().flatten().ok_or(OpError::MissingInput(i))
    }

    /// Quantization of input `i`, if it is there and quantized.
    pub fn quant(&self, i: usize) -> Option<&'a Quant> {
        self.types.get(i).copied().flatten()?.quant.as_deref()
    }

    /// Type of output `i`.
    pub fn output(&self, i: usize) -> &'a Type {
        &self.outputs[i]
    }
}

/// A node of an older ONNX opset, on its way to the newest form: attributes that became inputs, defaults that changed.
pub struct Legacy<'a> {
    /// Opset the model was written for, in the op's domain.
    pub opset: i64,
    /// Attributes; an upgrade removes those the newest form does not have.
    pub attrs: &'a mut Attrs,
    /// Inputs; an upgrade may add constants.
    pub inputs: &'a mut Vec<Option<ValueId>>,
    /// The graph so far, for types of the inputs and for [`Legacy::constant`].
    pub graph: &'a mut Graph,
}

impl Legacy<'_> {
    /// Adds a constant to the graph and makes it input `i`.
    pub fn constant(&mut self, i: usize, name: &str, value: Tensor) {
        let id = self.graph.add_constant(name, value);
        if self.inputs.len() <= i {
            self.inputs.resize(i + 1, None);
        }
        self.inputs[i] = Some(id);
    }

    /// Moves the integer-list attribute `name` to input `i`, as an i64 vector.
    ///
    /// # Errors
    /// If it is there and not a list of integers.
    pub fn ints_to_input(&mut self, name: &str, i: usize) -> Result<(), OpError> {
        let values: Option<Vec<i64>> = self.attrs.read(name, None)?;
        self.attrs.remove(name);
        if let Some(values) = values {
            self.constant(i, name, Tensor::vector(values));
        }
        Ok(())
    }
}

/// An example of an op with its result; every executor must reproduce it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Unique within the op.
    pub name: String,
    /// The op with its attributes.
    pub op: Arc<dyn Op>,
    /// Inputs with their quantization; `None` for an absent optional input.
    pub inputs: Vec<Option<(Tensor, Option<Quant>)>>,
    /// Expected outputs with their quantization.
    pub outputs: Vec<(Tensor, Option<Quant>)>,
    /// Largest allowed `|actual − expected| / max(1, |expected|)` for float outputs; integer outputs must be equal.
    pub tolerance: f64,
}

impl Case {
    /// A case without inputs and outputs yet.
    pub fn new(name: &str, op: impl Op) -> Case {
        Case { name: name.into(), op: Arc::new(op), inputs: vec![], outputs: vec![], tolerance: 1e-6 }
    }

    /// Adds an input.
    pub fn input(mut self, tensor: Tensor) -> Case {
        self.inputs.push(Some((tensor, None)));
        self
    }

    /// Adds a quantized input.
    pub fn quantized_input(mut self, tensor: Tensor, quant: Quant) -> Case {
        self.inputs.push(Some((tensor, Some(quant))));
        self
    }

    /// Leaves an optional input out.
    pub fn no_input(mut self) -> Case {
        self.inputs.push(None);
        self
    }

    /// Adds an expected output.
    pub fn output(mut self, tensor: Tensor) -> Case {
        self.outputs.push((tensor, None));
        self
    }

    /// Adds an expected quantized output.
    pub fn quantized_output(mut self, tensor: Tensor, quant: Quant) -> Case {
        self.outputs.push((tensor, Some(quant)));
        self
    }

    /// Shorthand: f32 input of `shape`.
    pub fn f32(self, shape: &[usize], values: &[f32]) -> Case {
        let tensor = Tensor::new(shape, values.to_vec()).expect("a case's values fill its shape");
        self.input(tensor)
    }

    /// Shorthand: i64 input of rank 1.
    pub fn i64s(self, values: &[i64]) -> Case {
        self.input(Tensor::vector(values.to_vec()))
    }

    /// Shorthand: expected f32 output of `shape`.
    pub fn gives(self, shape: &[usize], values: &[f32]) -> Case {
        let tensor = Tensor::new(shape, values.to_vec()).expect("a case's values fill its shape");
        self.output(tensor)
    }

    /// Sets the tolerance.
    pub fn within(mut self, tolerance: f64) -> Case {
        self.tolerance = tolerance;
        self
    }

    /// A graph of this one node. `constants` names the inputs that become constants; the others become graph inputs.
    ///
    /// # Errors
    /// If the op refuses the types.
    pub fn graph(&self, constants: &[usize]) -> Result<Graph, crate::GraphError> {
        let mut graph = Graph::new(&self.name);
        let mut inputs = vec![];
        for (i, input) in self.inputs.iter().enumerate() {
            inputs.push(input.as_ref().map(|(tensor, quant)| {
                let mut ty = Type::new(tensor.element(), tensor.shape().iter().copied());
                ty.quant = quant.clone().map(Arc::new);
                let name = format!("in{i}");
                if constants.contains(&i) {
                    graph.add_typed_constant(&name, ty, tensor.clone())
                } else {
                    graph.add_input(&name, ty)
                }
            }));
        }
        let types = self
            .outputs
            .iter()
            .map(|(t, q)| Type {
                element: t.element(),
                shape: Some(t.shape().iter().map(|&d| d.into()).collect()),
                quant: q.clone().map(Arc::new),
            })
            .collect();
        let outputs = graph.add_typed_node(self.op.clone(), "case", &inputs, types)?;
        for value in outputs {
            graph.mark_output(value);
        }
        Ok(graph)
    }
}

/// What describes an op to people and tests, its documentation and cases, is left out without the feature `describe`: a device needs
/// neither.
#[cfg(feature = "describe")]
#[doc(hidden)]
#[macro_export]
macro_rules! when_described {
    ($what:expr) => {
        $what
    };
    ($what:expr => $else:expr) => {
        $what
    };
}

#[cfg(not(feature = "describe"))]
#[doc(hidden)]
#[macro_export]
macro_rules! when_described {
    ($what:expr) => {
        ""
    };
    ($what:expr => $else:expr) => {{
        let _: fn() -> Vec<$crate::Case> = $what;
        $else
    }};
}

/// Rewriting nodes of older opsets is left out without the feature `upgrade`: device files have none.
#[cfg(feature = "upgrade")]
#[doc(hidden)]
#[macro_export]
macro_rules! when_upgradable {
    ($what:expr) => {
        Some($what)
    };
}

#[cfg(not(feature = "upgrade"))]
#[doc(hidden)]
#[macro_export]
macro_rules! when_upgradable {
    ($what:expr) => {{
        let _: fn(&mut $crate::Legacy<'_>) -> Result<(), $crate::OpError> = $what;
        None
    }};
}

/// Gradient rules are left out without the feature `gradient`.
#[cfg(feature = "gradient")]
#[doc(hidden)]
#[macro_export]
macro_rules! when_differentiable {
    ($what:expr) => {
        Some($what)
    };
}

#[cfg(not(feature = "gradient"))]
#[doc(hidden)]
#[macro_export]
macro_rules! when_differentiable {
    ($what:expr) => {
        None
    };
}

/// Declares an op: a struct whose fields are the attributes, its [`OpInfo`], and `SPEC`.
///
/// ```ignore
/// op! {
///     /// What it computes.
///     LeakyRelu = "LeakyRelu" {
///         /// Slope for negative values.
///         alpha: f32 = 0.01,
///     }
///     inputs: 1..=1, outputs: 1..=1,
///     gradient: Gradient::Smooth,
///     cases: cases
/// }
/// ```
#[macro_export]
macro_rules! op {
    (
        $(#[doc = $doc:literal])*
        $name:ident = $onnx:literal $(in $domain:literal)? {
            $($(#[doc = $fdoc:literal])* $field:ident : $ty:ty = $default:expr),* $(,)?
        }
        inputs: $imin:literal ..= $imax:expr, outputs: $omin:literal ..= $omax:expr,
        gradient: $gradient:expr,
        cases: $cases:path
        $(, upgrade: $upgrade:path)? $(,)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $fdoc])* pub $field: $ty,)*
        }

        // With no attributes clippy would rather see the derive, which cannot know the defaults.
        #[allow(clippy::derivable_impls)]
        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }

        impl $name {
            /// The static description of this op.
            pub const SPEC: &'static $crate::OpSpec = &$crate::OpSpec {
                name: $onnx,
                domain: { #[allow(unused_mut, unused_assignments)] let mut d = ""; $(d = $domain;)? d },
                docs: $crate::when_described!(concat!($($doc, "\n",)* "")),
                attrs: &[$($crate::AttrSpec {
                    name: stringify!($field),
                    docs: $crate::when_described!(concat!($($fdoc, "\n",)* "")),
                }),*],
                inputs: $crate::Arity { min: $imin, max: $imax },
                outputs: $crate::Arity { min: $omin, max: $omax },
                gradient: $gradient,
                backward: $crate::when_differentiable!(|op, cx| match op.downcast::<$name>() {
                    Some(op) => $crate::Op::gradient(op, cx),
                    None => Err($crate::OpError::invalid(concat!("not an op ", $onnx))),
                }),
                build: |attrs| {
                    #[allow(unused_variables)]
                    let default = $name::default();
                    attrs.expect_only(&[$(stringify!($field)),*])?;
                    Ok(std::sync::Arc::new($name {
                        $($field: attrs.read(stringify!($field), default.$field)?,)*
                    }))
                },
                upgrade: {
                    #[allow(unused_mut, unused_assignments)]
                    let mut u: Option<fn(&mut $crate::Legacy<'_>) -> Result<(), $crate::OpError>> = None;
                    $(u = $crate::when_upgradable!($upgrade);)?
                    u
                },
                cases: $crate::when_described!($cases => Vec::new),
            };
        }

        impl $crate::OpInfo for $name {
            fn spec(&self) -> &'static $crate::OpSpec {
                Self::SPEC
            }
            fn attrs(&self) -> $crate::Attrs {
                #[allow(unused_variables)]
                let default = $name::default();
                #[allow(unused_mut)]
                let mut attrs = $crate::Attrs::default();
                $(attrs.write(stringify!($field), &self.$field, &default.$field);)*
                attrs
            }
            fn attr(&self, name: &str) -> Option<$crate::AttrValue> {
                $(if name == stringify!($field) {
                    return $crate::Attribute::to_value(&self.$field);
                })*
                let _ = name;
                None
            }
            fn as_any(&self) -> &dyn std::any::Any {
                self
            }
        }
    };
}
