//! Blocks that are finished, on disk, so that a run that was killed goes on behind them.
//!
//! A NumPy archive of everything chosen so far, written whole or not at all. A key over options, data and first numbers says
//! whether it is of the same run; another's is not used and is written over.

use std::{collections::HashMap, path::Path};

use qing_data::npz;
use qing_formats::npy;
use qing_graph::{OpError, Quant, Tensor};

use super::{cache::Cache, learn::rescaled};
use crate::{
    LightenError,
    quantize::{assign::Chosen, options::Reconstruction},
};

/// Version of the layout.
const VERSION: i64 = 1;

/// Where finished blocks are noted.
pub(super) struct Checkpoint<'a> {
    path: &'a Path,
    key: i64,
}

impl<'a> Checkpoint<'a> {
    /// That of a run with these options, data and first numbers.
    pub(super) fn new(path: &'a Path, how: &Reconstruction, data: &Cache, chosen: &Chosen) -> Checkpoint<'a> {
        // FNV-1a.
        let mut key = 0xcbf2_9ce4_8422_2325u64;
        let mut mix = |bytes: &[u8]| {
            for b in bytes {
                key = (key ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        mix(format!("{how:?} {:?} {:?} {:?}", data.shape, chosen.types, chosen.narrow).as_bytes());
        data.values.iter().for_each(|v| mix(&v.to_le_bytes()));
        for (node, layer) in &chosen.layers {
            mix(&node.to_le_bytes());
            mix(layer.weights.bytes());
            mix(format!("{:?} {:?}", layer.ty, layer.bias).as_bytes());
        }
        Checkpoint { path, key: key as i64 }
    }

    /// Notes that so many blocks are finished.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write(&self, done: usize, chosen: &Chosen) -> Result<(), LightenError> {
        let mut arrays = vec![("state".to_string(), Tensor::vector(vec![VERSION, self.key, done as i64]))];
        let scale = |quant: &Quant| Tensor::vector(vec![quant.scale(0)]);
        arrays.extend(chosen.types.iter().map(|(id, (_, q))| (format!("stored.{}", id.0), scale(q))));
        arrays.extend(chosen.narrow.iter().map(|(node, (_, q))| (format!("read.{node}"), scale(q))));
        for (node, layer) in &chosen.layers {
            arrays.push((format!("weights.{node}"), Tensor::vector(layer.weights.to_ints())));
            let scales = layer.ty.quant.as_ref().map_or_else(Vec::new, |q| q.scales().to_vec());
            arrays.push((format!("scales.{node}"), Tensor::vector(scales)));
            if let Some(bias) = &layer.bias {
                arrays.push((format!("bias.{node}"), Tensor::vector(bias.clone())));
            }
        }
        npz::write(self.path, &arrays).map_err(|e| LightenError::Checkpoint(e.to_string()))
    }

    /// How many blocks are finished, with their numbers in `chosen`; 0 if there is no checkpoint of this run.
    ///
    /// # Errors
    /// If the file is of this run and broken.
    pub(super) fn read(&self, chosen: &mut Chosen) -> Result<usize, LightenError> {
        if !self.path.exists() {
            return Ok(0);
        }
        let arrays = npy::read_npz(self.path).map_err(|e| self.failed(&e.to_string()))?;
        let state = arrays.get("state").map(Tensor::to_i64s).unwrap_or_default();
        let [VERSION, key, done] = state[..] else { return Ok(0) };
        if key != self.key {
            return Ok(0);
        }
        let mut new = chosen.clone();
        for (id, (_, quant)) in &mut new.types {
            *quant = Quant::per_tensor(self.first(&arrays, &format!("stored.{}", id.0))?, quant.zero(0))?;
        }
        for (node, (_, quant)) in &mut new.narrow {
            *quant = Quant::per_tensor(self.first(&arrays, &format!("read.{node}"))?, quant.zero(0))?;
        }
        for (node, layer) in &mut new.layers {
            let ints = self.array(&arrays, &format!("weights.{node}"))?.to_ints();
            layer.weights = Tensor::from_ints(layer.ty.element, layer.weights.shape(), &ints).map_err(OpError::from)?;
            layer.ty = rescaled(&layer.ty, self.array(&arrays, &format!("scales.{node}"))?.to_f32s())?;
            layer.bias = arrays.get(&format!("bias.{node}")).map(Tensor::to_f64s);
        }
        *chosen = new;
        Ok(done.max(0) as usize)
    }

    fn array<'t>(&self, arrays: &'t HashMap<String, Tensor>, name: &str) -> Result<&'t Tensor, LightenError> {
        arrays.get(name).ok_or_else(|| self.failed(&format!("`{name}` is missing")))
    }

    fn first(&self, arrays: &HashMap<String, Tensor>, name: &str) -> Result<f32, LightenError> {
        let values = self.array(arrays, name)?.to_f32s();
        values.first().copied().ok_or_else(|| self.failed(&format!("`{name}` is empty")))
    }

    fn failed(&self, what: &str) -> LightenError {
        LightenError::Checkpoint(format!("{}: {what}; delete it to begin anew", self.path.display()))
    }
}
