use crate::Element;

/// What can be wrong with a tensor or a request to one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The bytes or values do not fill the shape.
    #[error("a {element} tensor of shape {shape:?} needs {expected} {unit}, got {actual}")]
    Length {
        /// Element of the tensor.
        element: Element,
        /// Shape that was asked for.
        shape: Vec<usize>,
        /// How many the shape needs.
        expected: usize,
        /// How many there are.
        actual: usize,
        /// "values" or "bytes".
        unit: &'static str,
    },
    /// The product of the dimensions does not fit the address space.
    #[error("shape {0:?} has more elements than this machine can address")]
    TooLarge(Vec<usize>),
    /// Values were asked for as another type than they have.
    #[error("expected {expected} values, the tensor holds {actual}")]
    Element {
        /// What the caller asked for.
        expected: Element,
        /// What the tensor holds.
        actual: Element,
    },
    /// Two shapes cannot be broadcast against each other.
    #[error("shapes {0:?} and {1:?} cannot be broadcast together")]
    Broadcast(Vec<usize>, Vec<usize>),
}
