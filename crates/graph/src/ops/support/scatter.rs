//! Writing updates into a copy of a tensor, and how several updates of one place combine.

use qing_tensor::Tensor;

use super::{
    movement::{concatenated, position},
    sizes::limited,
};
use crate::{Backward, Gradients, OpError, ValueId, ops::Equal};

/// `data` with update `j` at linear index `targets[j]`: replacing what is there (`none`), or combined with it (`add`, `mul`,
/// `max`, `min`).
///
/// # Errors
/// If the numbers of updates and targets differ, or the reduction is unknown.
///
/// # Panics
/// If a target is out of range.
pub fn scatter(data: &Tensor, updates: &Tensor, targets: &[usize], reduction: &str) -> Result<Tensor, OpError> {
    if updates.len() != targets.len() || updates.element() != data.element() {
        return Err(OpError::invalid(format!("updates {updates:?} for {} places in {data:?}", targets.len())));
    }
    if reduction == "none" || reduction.is_empty() {
        // Updates are more values behind those of the data.
        let all = concatenated(&[data.reshaped(&[data.len()])?, updates.reshaped(&[updates.len()])?], 0)?;
        let mut from: Vec<usize> = (0..data.len()).collect();
        for (j, target) in targets.iter().enumerate() {
            from[*target] = data.len() + j;
        }
        return Ok(all.take(data.shape(), from)?);
    }
    if data.element().is_float() {
        let f: fn(f64, f64) -> f64 = match reduction {
            "add" => |a, b| a + b,
            "mul" => |a, b| a * b,
            "max" => f64::max,
            "min" => f64::min,
            other => return Err(OpError::invalid(format!("reduction {other:?}"))),
        };
        let values = combined(data.to_f64s(), &updates.to_f64s(), targets, f);
        return Ok(Tensor::new(data.shape(), values)?.cast(data.element()));
    }
    let f: fn(i64, i64) -> i64 = match reduction {
        "add" => i64::wrapping_add,
        "mul" => i64::wrapping_mul,
        "max" => i64::max,
        "min" => i64::min,
        other => return Err(OpError::invalid(format!("reduction {other:?}"))),
    };
    let values = combined(data.to_i64s(), &updates.to_i64s(), targets, f);
    Ok(Tensor::new(data.shape(), values)?.cast(data.element()))
}

fn combined<T: Copy>(mut values: Vec<T>, updates: &[T], targets: &[usize], f: fn(T, T) -> T) -> Vec<T> {
    for (target, update) in targets.iter().zip(updates) {
        values[*target] = f(values[*target], *update);
    }
    values
}

/// For each index of `shape` (that of `indices`), the linear index into `data` where its coordinate along `axis` is replaced by
/// the index there.
///
/// # Errors
/// If ranks differ, or an index is out of range.
pub fn element_targets(data: &[usize], indices: &Tensor, axis: usize) -> Result<Vec<usize>, OpError> {
    let shape = indices.shape();
    let fits = shape.len() == data.len() && (0..shape.len()).all(|i| i == axis || shape[i] <= data[i]);
    if !fits {
        return Err(OpError::invalid(format!("indices of shape {shape:?} into data of shape {data:?}")));
    }
    let (values, own) = (indices.to_i64s(), qing_tensor::strides(data));
    let mut targets = Vec::with_capacity(values.len());
    let mut bad = None;
    super::elementwise::each_index(shape, |at| match position(values[targets.len()], data[axis]) {
        Ok(along) => {
            let other = at.iter().zip(&own).enumerate().filter(|(i, _)| *i != axis);
            targets.push(other.map(|(_, (at, s))| at * s).sum::<usize>() + along * own[axis]);
        }
        Err(e) => {
            bad = Some(e);
            targets.push(0);
        }
    });
    bad.map_or(Ok(targets), Err)
}

/// Slices named by tuples: for each tuple in the last axis of `indices`, the linear indices of the slice of `data` it names.
/// The first `batch` axes of both run together.
///
/// # Errors
/// If the tuples are longer than the rank, or an index is out of range.
pub fn slice_targets(data: &[usize], indices: &Tensor, batch: usize) -> Result<Vec<usize>, OpError> {
    let shape = indices.shape();
    let misfit = || OpError::invalid(format!("indices of shape {shape:?} into data of shape {data:?}"));
    let (&depth, outer) = shape.split_last().ok_or_else(misfit)?;
    if batch > outer.len() || batch + depth > data.len() || outer[..batch] != data[..batch] {
        return Err(misfit());
    }
    let own = qing_tensor::strides(data);
    let size: usize = data[batch + depth..].iter().product();
    let per_batch: usize = outer[batch..].iter().product();
    let per_batch_data: usize = data[batch..].iter().product();
    let values = indices.to_i64s();
    let tuples: usize = outer.iter().product();
    let mut targets = Vec::with_capacity(limited(&[tuples, size])?);
    for t in 0..tuples {
        let mut start = t / per_batch * per_batch_data;
        for d in 0..depth {
            start += position(values[t * depth + d], data[batch + d])? * own[batch + d];
        }
        targets.extend(start..start + size);
    }
    Ok(targets)
}

/// The gradient of a scatter of updates (input 2) into data (input 0). `scatter(data, updates)` replaces at the indices of the
/// op, `gather(data)` reads there. Products must not have zeros in them.
///
/// # Errors
/// If shapes are not known or the reduction is unknown.
pub fn gradient_of_scattered(
    cx: &Backward<'_>,
    reduction: &str,
    scatter: impl Fn(ValueId, ValueId) -> Result<ValueId, OpError>,
    gather: impl Fn(ValueId) -> Result<ValueId, OpError>,
) -> Gradients {
    let (data, updates, y, dy) = (cx.input(0)?, cx.input(2)?, cx.output(0)?, cx.dy()?);
    let equal = |a, b| cx.emit(Equal {}, &[a, b]);
    let of_data = || match reduction {
        "none" | "" => scatter(dy, cx.zeros_like(updates)?),
        "add" => Ok(dy),
        "mul" => cx.div(cx.mul(dy, y)?, data),
        _ => cx.masked(equal(data, y)?, dy),
    };
    let of_updates = || match reduction {
        "none" | "" | "add" => gather(dy),
        "mul" => cx.div(gather(cx.mul(dy, y)?)?, updates),
        _ => {
            // What was there before goes first where it is as extreme.
            let (result, share) = (gather(y)?, gather(dy)?);
            let won = cx.masked(equal(updates, result)?, share)?;
            cx.choose(equal(gather(data)?, result)?, cx.scalar(dy, 0.0), won)
        }
    };
    Ok(vec![cx.wanted(0, of_data)?, None, cx.wanted(2, of_updates)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_of_one_place_combine() {
        let data = Tensor::vector(vec![1i32, 2, 3]);
        let updates = Tensor::vector(vec![5i32, -6]);
        for (how, expected) in
            [("none", [1, -6, 3]), ("add", [1, 1, 3]), ("mul", [1, -60, 3]), ("max", [1, 5, 3]), ("min", [1, -6, 3])]
        {
            assert_eq!(scatter(&data, &updates, &[1, 1], how).unwrap().to_ints(), expected, "{how}");
        }
        assert!(scatter(&data, &updates, &[1], "add").is_err() && scatter(&data, &updates, &[1, 1], "xor").is_err());
    }

    #[test]
    fn tuples_name_slices() {
        let indices = Tensor::new(&[2, 1], vec![1i64, -1]).unwrap();
        assert_eq!(slice_targets(&[3, 2], &indices, 0).unwrap(), [2, 3, 4, 5]);
        let batched = Tensor::new(&[2, 1], vec![1i64, 0]).unwrap();
        assert_eq!(slice_targets(&[2, 2], &batched, 1).unwrap(), [1, 2]);
        assert!(slice_targets(&[3, 2], &Tensor::new(&[1, 3], vec![0i64; 3]).unwrap(), 0).is_err());
    }
}
