use std::{fmt, sync::Arc};

use qing_tensor::Element;

use crate::OpError;

/// One dimension of a value's shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known when the graph is built.
    Known(usize),
    /// Named by the model, bound when a plan is made: `batch`, `sequence`.
    Symbol(Arc<str>),
    /// Known only when the values before it are.
    Unknown,
}

impl Dim {
    /// The size, if known.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }

    /// `f(size)` if known, else unknown.
    pub fn map(&self, f: impl FnOnce(usize) -> usize) -> Dim {
        self.known().map_or(Dim::Unknown, |n| Dim::Known(f(n)))
    }

    /// The dimension two dimensions broadcast to.
    ///
    /// # Errors
    /// If both are known, differ and neither is 1.
    pub fn broadcast(&self, other: &Dim) -> Result<Dim, OpError> {
        match (self, other) {
            (a, b) if a == b => Ok(a.clone()),
            (Dim::Known(1), d) | (d, Dim::Known(1)) => Ok(d.clone()),
            (Dim::Known(a), Dim::Known(b)) => {
                Err(OpError::invalid(format!("dimensions {a} and {b} cannot be broadcast together")))
            }
            (Dim::Known(n), _) | (_, Dim::Known(n)) => Ok(Dim::Known(*n)),
            _ => Ok(Dim::Unknown),
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Known(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Symbol(s) => f.write_str(s),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// Which values share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// All of them.
    Tensor,
    /// Those of one slice along an axis: the output channels of a weight.
    Axis(usize),
    /// Those of one block of `size` along an axis: groups along the reduction axis of a matmul weight. Scales are stored
    /// row-major in the shape of the tensor with that axis divided by `size`.
    Block {
        /// The axis that is cut into blocks.
        axis: usize,
        /// Values per block.
        size: usize,
    },
}

/// How integers stand for reals: `real = scale · (q − zero)`. Bits and sign are the element's.
#[derive(Debug, Clone, PartialEq)]
pub struct Quant {
    granularity: Granularity,
    scale: Arc<[f32]>,
    zero: Arc<[i32]>,
}

impl Quant {
    /// One scale and zero point for the whole tensor.
    ///
    /// # Errors
    /// If the scale is not a positive finite number.
    pub fn per_tensor(scale: f32, zero: i32) -> Result<Quant, OpError> {
        Quant::new(Granularity::Tensor, vec![scale], vec![zero])
    }

    /// One scale for each slice of `axis`, zero points all 0: what qing makes for weights.
    ///
    /// # Errors
    /// If a scale is not a positive finite number.
    pub fn per_axis(axis: usize, scale: Vec<f32>) -> Result<Quant, OpError> {
        Quant::new(Granularity::Axis(axis), scale, vec![0])
    }

    /// Any granularity. `zero` has one entry, or as many as `scale`.
    ///
    /// # Errors
    /// If a scale is not a positive finite number, or the lengths do not fit.
    pub fn new(granularity: Granularity, scale: Vec<f32>, zero: Vec<i32>) -> Result<Quant, OpError> {
        if let Some(bad) = scale.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return Err(OpError::invalid(format!("a quantization scale must be positive and finite, got {bad}")));
        }
        if scale.is_empty() || (granularity == Granularity::Tensor && scale.len() != 1) {
            return Err(OpError::invalid(format!("{} scales do not fit {granularity:?}", scale.len())));
        }
        if zero.len() != 1 && zero.len() != scale.len() {
            return Err(OpError::invalid(format!("{} zero points for {} scales", zero.len(), scale.len())));
        }
        if let Granularity::Block { size: 0, .. } = granularity {
            return Err(OpError::invalid("quantization blocks of size 0"));
        }
        let zero = if zero.iter().all(|z| *z == zero[0]) { vec![zero[0]] } else { zero };
        Ok(Quant { granularity, scale: scale.into(), zero: zero.into() })
    }

    /// Which values share a scale.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// The scales, one or one per slice or block.
    pub fn scales(&self) -> &[f32] {
        &self.scale
    }

    /// The zero points: one if they are all equal, else as many as scales.
    pub fn zeros(&self) -> &[i32] {
        &self.zero
    }

    /// The scale of slice `i` (any `i` if there is one scale).
    pub fn scale(&self, i: usize) -> f32 {
        if self.scale.len() == 1 { self.scale[0] } else { self.scale[i] }
    }

    /// The zero point of slice `i` (any `i` if there is one).
    pub fn zero(&self, i: usize) -> i32 {
        if self.zero.len() == 1 { self.zero[0] } else { self.zero[i] }
    }

    /// The quantization of a matrix with its rows and columns exchanged.
    ///
    /// # Errors
    /// If it is by blocks or along a third axis.
    pub fn transposed(&self) -> Result<Quant, OpError> {
        let granularity = match self.granularity {
            Granularity::Tensor => Granularity::Tensor,
            Granularity::Axis(axis @ (0 | 1)) => Granularity::Axis(1 - axis),
            other => return Err(OpError::unsupported(format!("a transposed quantization along {other:?}"))),
        };
        Ok(Quant { granularity, scale: self.scale.clone(), zero: self.zero.clone() })
    }

    /// Scale and zero point, if one of each holds for all values.
    pub fn as_per_tensor(&self) -> Option<(f32, i32)> {
        (self.scale.len() == 1 && self.zero.len() == 1).then(|| (self.scale[0], self.zero[0]))
    }

    /// The index of the scale that the element at `index` of a tensor of `shape` uses.
    pub fn slice_of(&self, shape: &[usize], index: usize) -> usize {
        match self.granularity {
            Granularity::Tensor => 0,
            Granularity::Axis(axis) => {
                let inner: usize = shape[axis + 1..].iter().product();
                index / inner % shape[axis]
            }
            Granularity::Block { axis, size } => {
                let inner: usize = shape[axis + 1..].iter().product();
                let blocks = shape[axis].div_ceil(size);
                let outer = index / (inner * shape[axis]);
                (outer * blocks + index / inner % shape[axis] / size) * inner + index % inner
            }
        }
    }

    /// How many scales a tensor of `shape` needs.
    pub fn slices(&self, shape: &[usize]) -> Option<usize> {
        match self.granularity {
            Granularity::Tensor => Some(1),
            Granularity::Axis(axis) => shape.get(axis).copied(),
            Granularity::Block { axis, size } => {
                let blocks = shape.get(axis)?.div_ceil(size);
                Some(blocks * shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| d).product::<usize>())
            }
        }
    }
}

/// What is known of a value: element, shape (`None` if not even the rank is known), and how it is quantized.
#[derive(Debug, Clone, PartialEq)]
pub struct Type {
    /// Element; for quantized values it says bits and sign.
    pub element: Element,
    /// Dimensions; `None` while the rank is unknown.
    pub shape: Option<Vec<Dim>>,
    /// Present when the integers stand for reals.
    pub quant: Option<Arc<Quant>>,
}

impl Type {
    /// An unquantized type of known or partly known shape.
    pub fn new(element: Element, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Type {
        Type { element, shape: Some(shape.into_iter().map(Into::into).collect()), quant: None }
    }

    /// An unquantized type; `None` for unknown rank.
    pub fn maybe(element: Element, shape: Option<Vec<Dim>>) -> Type {
        Type { element, shape, quant: None }
    }

    /// The same type, quantized.
    pub fn quantized(mut self, element: Element, quant: Quant) -> Type {
        self.element = element;
        self.quant = Some(Arc::new(quant));
        self
    }

    /// The same element and quantization with another shape.
    pub fn with_shape(&self, shape: Option<Vec<Dim>>) -> Type {
        Type { element: self.element, shape, quant: self.quant.clone() }
    }

    /// The shape if every dimension is known.
    pub fn known_shape(&self) -> Option<Vec<usize>> {
        self.shape.as_ref()?.iter().map(Dim::known).collect()
    }

    /// Number of dimensions, if known.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// Smallest and largest integer the element holds, for quantized types.
    pub fn range(&self) -> Option<(i32, i32)> {
        self.element.range().map(|(lo, hi)| (lo.max(i32::MIN.into()) as i32, hi.min(i32::MAX.into()) as i32))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.element)?;
        match &self.shape {
            None => write!(f, "[…]")?,
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                write!(f, "[{}]", dims.join(","))?;
            }
        }
        if let Some(q) = &self.quant {
            match (q.as_per_tensor(), q.granularity()) {
                (Some((scale, 0)), _) => write!(f, "×{scale}")?,
                (Some((scale, zero)), _) => write!(f, "×{scale}−{zero}")?,
                (None, Granularity::Axis(axis)) => write!(f, "×axis{axis}")?,
                (None, Granularity::Block { axis, size }) => write!(f, "×axis{axis}/{size}")?,
                (None, Granularity::Tensor) => unreachable!("a per-tensor quantization has one scale"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_every_granularity() {
        let shape = [4, 6];
        let axis = Quant::per_axis(1, vec![1.0; 6]).unwrap();
        assert_eq!((axis.slice_of(&shape, 8), axis.slices(&shape)), (2, Some(6)));
        let block = Quant::new(Granularity::Block { axis: 0, size: 2 }, vec![1.0; 12], vec![0]).unwrap();
        assert_eq!((block.slice_of(&shape, 13), block.slices(&shape)), (7, Some(12)));
    }

    #[test]
    fn bad_scales_are_refused() {
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(Quant::per_tensor(bad, 0).is_err());
        }
        assert!(Quant::new(Granularity::Axis(0), vec![1.0; 3], vec![0; 2]).is_err());
    }

    #[test]
    fn types_print_what_matters() {
        let t = Type::new(Element::F32, [Dim::Symbol("N".into()), Dim::Known(3), Dim::Unknown]);
        assert_eq!(t.to_string(), "f32[N,3,?]");
        let q = Type::new(Element::F32, [2usize]).quantized(Element::U8, Quant::per_tensor(0.5, 3).unwrap());
        assert_eq!(q.to_string(), "u8[2]×0.5−3");
    }
}
