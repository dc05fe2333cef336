//! Tensors of attention heads, `[batch, heads, length, size]`, whether given so or as `[batch, length, heads·size]`.

use qing_tensor::{Tensor, element_count};

use crate::{Dim, OpError};

fn count(heads: Option<i64>) -> Result<usize, OpError> {
    heads
        .and_then(|h| usize::try_from(h).ok())
        .filter(|h| *h > 0)
        .ok_or_else(|| OpError::invalid(format!("{heads:?} heads; inputs of three axes need their number")))
}

/// The four dimensions of heads, from a shape of three or four axes.
///
/// # Errors
/// If the rank is another, or the heads do not divide the last axis.
pub fn head_dims(shape: &[Dim], heads: Option<i64>) -> Result<Vec<Dim>, OpError> {
    match shape {
        [_, _, _, _] => Ok(shape.to_vec()),
        [batch, length, width] => {
            let heads = count(heads)?;
            if width.known().is_some_and(|w| w % heads != 0) {
                return Err(OpError::invalid(format!("{width} values in {heads} heads")));
            }
            Ok(vec![batch.clone(), Dim::Known(heads), length.clone(), width.map(|w| w / heads)])
        }
        _ => Err(OpError::invalid(format!("a tensor of heads of rank {}; expected 3 or 4", shape.len()))),
    }
}

/// Values of attention heads, row-major in `[batch, heads, length, size]`.
#[derive(Debug)]
pub struct Heads {
    /// Instances.
    pub batch: usize,
    /// Heads of each.
    pub heads: usize,
    /// Positions of each.
    pub length: usize,
    /// Values of each.
    pub size: usize,
    /// The values.
    pub values: Vec<f64>,
}

impl Heads {
    /// Reads a tensor of three or four axes.
    ///
    /// # Errors
    /// As [`head_dims`].
    pub fn new(t: &Tensor, heads: Option<i64>) -> Result<Heads, OpError> {
        let dims: Vec<Dim> = t.shape().iter().map(|d| Dim::Known(*d)).collect();
        let dims: Vec<usize> = head_dims(&dims, heads)?.iter().filter_map(Dim::known).collect();
        let [batch, heads, length, size] = dims[..] else { return Err(OpError::invalid("dimensions")) };
        let flat = t.to_f64s();
        if t.rank() == 4 {
            return Ok(Heads { batch, heads, length, size, values: flat });
        }
        let mut result = Heads { batch, heads, length, size, values: vec![0.0; flat.len()] };
        let all: Vec<(usize, usize, usize)> = result.rows().collect();
        for (b, h, i) in all {
            let from = ((b * length + i) * heads + h) * size;
            result.at_mut(b, h, i).copy_from_slice(&flat[from..from + size]);
        }
        Ok(result)
    }

    /// These positions after those of a tensor of four axes, if it is there.
    ///
    /// # Errors
    /// If the shapes differ in more than the length.
    pub fn after(self, past: Option<&Tensor>) -> Result<Heads, OpError> {
        let Some(past) = past else { return Ok(self) };
        let before = Heads::new(past, None)?;
        if (before.batch, before.heads, before.size) != (self.batch, self.heads, self.size) {
            return Err(OpError::invalid(format!("a past of shape {:?}", past.shape())));
        }
        let mut values = Vec::with_capacity(before.values.len() + self.values.len());
        let (a, b) = (before.length * self.size, self.length * self.size);
        for plane in 0..self.batch * self.heads {
            values.extend(&before.values[plane * a..(plane + 1) * a]);
            values.extend(&self.values[plane * b..(plane + 1) * b]);
        }
        Ok(Heads { length: before.length + self.length, values, ..self })
    }

    /// Every `(instance, head, position)`, in the order of the values.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (batch, heads, length) = (self.batch, self.heads, self.length);
        (0..batch).flat_map(move |b| (0..heads).flat_map(move |h| (0..length).map(move |i| (b, h, i))))
    }

    fn start(&self, b: usize, h: usize, i: usize) -> usize {
        ((b * self.heads + h) * self.length + i) * self.size
    }

    /// The values of a position.
    pub fn at(&self, b: usize, h: usize, i: usize) -> &[f64] {
        let start = self.start(b, h, i);
        &self.values[start..start + self.size]
    }

    /// The values of a position, to change.
    pub fn at_mut(&mut self, b: usize, h: usize, i: usize) -> &mut [f64] {
        let (start, size) = (self.start(b, h, i), self.size);
        &mut self.values[start..start + size]
    }

    /// A tensor of four axes, or of three.
    ///
    /// # Errors
    /// If the values do not fill it.
    pub fn tensor(&self, three: bool) -> Result<Tensor, OpError> {
        if !three {
            return Ok(Tensor::new(&[self.batch, self.heads, self.length, self.size], self.values.clone())?);
        }
        let shape = [self.batch, self.length, self.heads * self.size];
        let mut flat = vec![0.0; element_count(&shape)?];
        for (b, h, i) in self.rows() {
            let to = ((b * self.length + i) * self.heads + h) * self.size;
            flat[to..to + self.size].copy_from_slice(self.at(b, h, i));
        }
        Ok(Tensor::new(&shape, flat)?)
    }
}
