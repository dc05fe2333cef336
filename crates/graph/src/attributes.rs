//! Attributes: what a node says besides its inputs. One generic form serves every reader, writer and dump, so no op needs
//! serialization code of its own.

use qing_tensor::Tensor;

use crate::OpError;

/// The value of an attribute; the kinds are those of ONNX that qing uses.
#[derive(Debug, Clone, PartialEq)]
pub enum AttrValue {
    /// One integer.
    Int(i64),
    /// One float.
    Float(f32),
    /// One string.
    String(String),
    /// A tensor.
    Tensor(Tensor),
    /// Integers.
    Ints(Vec<i64>),
    /// Floats.
    Floats(Vec<f32>),
    /// Strings.
    Strings(Vec<String>),
}

/// A Rust type that an attribute can have.
pub trait Attribute: Sized + Clone + PartialEq {
    /// What error messages call it.
    const KIND: &'static str;
    /// The typed value, if the kind fits.
    fn from_value(value: &AttrValue) -> Option<Self>;
    /// The generic value; `None` if there is nothing to write.
    fn to_value(&self) -> Option<AttrValue>;
}

macro_rules! attribute {
    ($($t:ty, $variant:ident, $kind:literal);* $(;)?) => {$(
        impl Attribute for $t {
            const KIND: &'static str = $kind;
            fn from_value(value: &AttrValue) -> Option<Self> {
                match value {
                    AttrValue::$variant(v) => Some(v.clone()),
                    _ => None,
                }
            }
            fn to_value(&self) -> Option<AttrValue> {
                Some(AttrValue::$variant(self.clone()))
            }
        }
    )*};
}
attribute! {
    i64, Int, "an integer";
    f32, Float, "a float";
    String, String, "a string";
    Tensor, Tensor, "a tensor";
    Vec<i64>, Ints, "a list of integers";
    Vec<f32>, Floats, "a list of floats";
    Vec<String>, Strings, "a list of strings";
}

impl Attribute for bool {
    const KIND: &'static str = "0 or 1";
    fn from_value(value: &AttrValue) -> Option<Self> {
        match value {
            AttrValue::Int(v) => Some(*v != 0),
            _ => None,
        }
    }
    fn to_value(&self) -> Option<AttrValue> {
        Some(AttrValue::Int((*self).into()))
    }
}

impl<T: Attribute> Attribute for Option<T> {
    const KIND: &'static str = T::KIND;
    fn from_value(value: &AttrValue) -> Option<Self> {
        T::from_value(value).map(Some)
    }
    fn to_value(&self) -> Option<AttrValue> {
        self.as_ref().and_then(T::to_value)
    }
}

/// Named attributes, in the order they were given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attrs(pub Vec<(String, AttrValue)>);

impl Attrs {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&AttrValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Adds or replaces a value.
    pub fn set(&mut self, name: &str, value: AttrValue) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, name: &str) -> Option<AttrValue> {
        let i = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(i).1)
    }

    /// Nothing but `known`.
    ///
    /// # Errors
    /// If there is an attribute of another name.
    pub fn expect_only(&self, known: &[&str]) -> Result<(), OpError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(OpError::unsupported(format!("attribute `{name}` (known: {})", known.join(", ")))),
            None => Ok(()),
        }
    }

    /// The typed value of `name`, or `default` if absent.
    ///
    /// # Errors
    /// If the attribute is of another kind.
    pub fn read<T: Attribute>(&self, name: &str, default: T) -> Result<T, OpError> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => T::from_value(v)
                .ok_or_else(|| OpError::invalid(format!("attribute `{name}` must be {}, got {v:?}", T::KIND))),
        }
    }

    /// Writes a field, leaving out what equals its default.
    pub fn write<T: Attribute>(&mut self, name: &str, value: &T, default: &T) {
        if value != default
            && let Some(v) = value.to_value()
        {
            self.set(name, v);
        }
    }
}
