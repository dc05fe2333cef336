use qing_graph::{Element, Graph, Tensor, Type};

use crate::{DataError, Item, Layout, Preprocess};

/// Makes batches for one input of a network out of samples: images are preprocessed, integers normalized or passed
/// through, real numbers quantized where the input is quantized.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Name of the input, for messages.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// How images become numbers; `None` if the input is no image.
    pub preprocess: Option<Preprocess>,
}

impl Feed {
    /// What input `i` of a network takes, as its type and the network's metadata say.
    ///
    /// # Errors
    /// If there is no such input, or the metadata cannot be understood.
    pub fn for_input(graph: &Graph, i: usize) -> Result<Feed, DataError> {
        let Some(id) = graph.inputs.get(i) else {
            return Err(DataError::invalid(format!("the model has {} inputs, no input {i}", graph.inputs.len())));
        };
        let value = graph.value(*id);
        let preprocess = Preprocess::from_metadata(&graph.metadata, &value.ty)?;
        Ok(Feed { name: value.name.clone(), ty: value.ty.clone(), preprocess })
    }

    /// A batch of samples along the first axis of the input.
    ///
    /// # Errors
    /// If a sample does not fit the input; the message gives both shapes.
    pub fn batch(&self, items: Vec<Item>) -> Result<Tensor, DataError> {
        let samples: Vec<Tensor> = items.into_iter().map(|i| self.sample(i)).collect::<Result<_, _>>()?;
        let first = samples.first().ok_or_else(|| DataError::invalid("a batch without samples"))?;
        let (element, mut shape) = (first.element(), vec![samples.len()]);
        if let Some(odd) = samples.iter().find(|s| s.shape() != first.shape()) {
            return Err(DataError::invalid(format!(
                "samples of different shapes cannot share a batch: {:?} and {:?}; resize them with --size H,W or use \
                 --batch 1",
                first.shape(),
                odd.shape()
            )));
        }
        shape.extend(self.sample_shape(first)?);
        let mut bytes = Vec::with_capacity(samples.len() * first.bytes().len());
        for sample in &samples {
            bytes.extend_from_slice(sample.bytes());
        }
        Ok(Tensor::from_bytes(element, &shape, bytes.into())?)
    }

    /// An array that already is a whole input: only its element is adapted.
    ///
    /// # Errors
    /// If the shape does not fit.
    pub fn whole(&self, array: &Tensor) -> Result<Tensor, DataError> {
        let fits = self.ty.shape.as_ref().is_none_or(|dims| {
            dims.len() == array.rank() && dims.iter().zip(array.shape()).all(|(d, n)| d.known().is_none_or(|k| k == *n))
        });
        if !fits {
            return Err(self.mismatch(&format!("{}{:?}", array.element(), array.shape())));
        }
        Ok(self.adapt(array))
    }

    fn mismatch(&self, actual: &str) -> DataError {
        DataError::invalid(format!("input `{}` of the model is {}, got {actual}", self.name, self.ty))
    }

    /// One sample in the input's element, without batch axis.
    fn sample(&self, item: Item) -> Result<Tensor, DataError> {
        let image = match item {
            Item::Array(array) => return Ok(self.adapt(&array)),
            Item::Image(image) => image,
        };
        let Some(preprocess) = &self.preprocess else {
            let (w, h) = (image.width, image.height);
            return Err(self.mismatch(&format!("an image of {w}×{h}; give arrays (.npy, .npz) instead")));
        };
        let (height, width, values) = preprocess.apply(image)?;
        let c = preprocess.channels.count();
        let shape = if preprocess.layout == Layout::Nchw { [c, height, width] } else { [height, width, c] };
        Ok(self.quantize(&Tensor::new(&shape, values)?))
    }

    /// The dimensions of a sample as the input has them: those of the sample, or the input's where only axes of one
    /// are added or dropped.
    fn sample_shape(&self, sample: &Tensor) -> Result<Vec<usize>, DataError> {
        let Some(dims) = self.ty.shape.as_ref() else { return Ok(sample.shape().to_vec()) };
        let dims = dims.get(1..).unwrap_or_default();
        let fits = dims.len() == sample.rank()
            && dims.iter().zip(sample.shape()).all(|(d, n)| d.known().is_none_or(|k| k == *n));
        if fits {
            return Ok(sample.shape().to_vec());
        }
        let known: Option<Vec<usize>> = dims.iter().map(|d| d.known()).collect();
        let without_ones = |s: &[usize]| s.iter().copied().filter(|n| *n != 1).collect::<Vec<_>>();
        match known {
            Some(known) if without_ones(&known) == without_ones(sample.shape()) => Ok(known),
            // A flat network takes an image as a vector.
            Some(known) if known.len() == 1 && known[0] == sample.len() => Ok(known),
            _ => Err(self.mismatch(&format!(
                "samples of {}{:?}; --size and --crop change the shape of images",
                sample.element(),
                sample.shape()
            ))),
        }
    }

    /// The input's element for an array as a file held it.
    fn adapt(&self, array: &Tensor) -> Tensor {
        if array.element() == self.ty.element || (!self.ty.element.is_float() && self.ty.quant.is_none()) {
            return array.cast(self.ty.element);
        }
        let Some(preprocess) = self.preprocess.as_ref().filter(|_| !array.element().is_float()) else {
            return self.quantize(array);
        };
        // Integers stand for pixels or raw features, so they are normalized alike.
        let c = preprocess.channels.count();
        let plane: usize = if preprocess.layout == Layout::Nchw && array.rank() > 2 {
            array.shape()[array.rank() - 2..].iter().product()
        } else {
            1
        };
        let values: Vec<f32> = array
            .to_f32s()
            .into_iter()
            .enumerate()
            .map(|(i, x)| preprocess.normalize(x, i / plane.max(1) % c))
            .collect();
        match Tensor::new(array.shape(), values) {
            Ok(real) => self.quantize(&real),
            Err(_) => array.cast(self.ty.element),
        }
    }

    /// Real numbers as the input's element: `clamp(rint(x / scale) + zero)` where it is quantized.
    fn quantize(&self, real: &Tensor) -> Tensor {
        let quant = self.ty.quant.as_ref().and_then(|q| q.as_per_tensor());
        let (Some((scale, zero)), Some((lo, hi))) = (quant, self.ty.range()) else {
            return real.cast(self.ty.element);
        };
        let quantize = |x: f32| ((x / scale).round_ties_even() as i64 + i64::from(zero)).clamp(lo.into(), hi.into());
        let values: Vec<i64> = real.to_f32s().into_iter().map(quantize).collect();
        Tensor::new(real.shape(), values).map_or_else(|_| real.cast(self.ty.element), |t| t.cast(self.ty.element))
    }

    /// True if the input is quantized integers.
    pub fn is_quantized(&self) -> bool {
        self.ty.quant.is_some() && self.ty.element != Element::F32
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::{Dim, Quant};

    use super::*;
    use crate::Pixels;

    fn feed(ty: Type) -> Feed {
        let preprocess = Preprocess::guess(&ty).map(|p| p.with_preset("raw").unwrap());
        Feed { name: "x".into(), ty, preprocess }
    }

    fn batch_of(shape: &[usize]) -> Vec<Dim> {
        std::iter::once(Dim::Symbol("N".into())).chain(shape.iter().map(|n| Dim::Known(*n))).collect()
    }

    #[test]
    fn images_and_arrays_fill_batches() {
        let f = feed(Type::new(Element::F32, batch_of(&[1, 2, 2])));
        let image = Item::Image(Pixels::new(2, 2, 1, vec![1, 2, 3, 4]).unwrap());
        let flat = Item::Array(Tensor::new(&[2, 2], vec![5.0f32, 6.0, 7.0, 8.0]).unwrap());
        let got = f.batch(vec![image, flat]);
        assert!(got.unwrap_err().to_string().contains("different shapes"));
        let flat = Item::Array(Tensor::new(&[2, 2], vec![5.0f32, 6.0, 7.0, 8.0]).unwrap());
        assert_eq!(f.batch(vec![flat]).unwrap().shape(), [1, 1, 2, 2]);
        let wrong = Item::Array(Tensor::vector(vec![1.0f32]));
        let error = f.batch(vec![wrong]).unwrap_err().to_string();
        assert!(error.contains("f32[N,1,2,2]") && error.contains("f32[1]"), "{error}");
    }

    #[test]
    fn quantized_inputs() {
        let ty = Type::new(Element::F32, batch_of(&[2])).quantized(Element::I8, Quant::per_tensor(0.5, 3).unwrap());
        let f = feed(ty);
        let got = f.batch(vec![Item::Array(Tensor::vector(vec![1.0f32, 1e9]))]).unwrap();
        assert_eq!(got, Tensor::new(&[1, 2], vec![5i8, 127]).unwrap());
        let same = f.batch(vec![Item::Array(Tensor::vector(vec![1i8, -9]))]).unwrap();
        assert_eq!(same.to_ints(), [1, -9]);
    }
}
