//! Stand-in data for users who have none: smoothed noise of the statistics that inputs usually have. Good enough to show
//! that a network runs; ranges chosen from it are a guess, and reports say so loudly.

use qing_graph::{Element, Graph, Tensor};

use crate::LightenError;

/// Batches of one smoothed noise image each, for every input of the network. The same every time.
///
/// Inputs of rank 4 are taken for images of unit variance and mean zero; others for unit noise. Symbolic and unknown
/// dimensions become 1.
///
/// # Errors
/// If an input has no known rank or is not of a float element.
pub fn synthetic(graph: &Graph, batches: usize) -> Result<Vec<Vec<Tensor>>, LightenError> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..batches).map(|_| graph.inputs.iter().map(|id| input(graph, *id, &mut random)).collect()).collect()
}

fn input(graph: &Graph, id: qing_graph::ValueId, random: &mut Random) -> Result<Tensor, LightenError> {
    let value = graph.value(id);
    let unusable = |why: &str| {
        LightenError::Calibration(format!("input `{}` of type {} {why}; give calibration data", value.name, value.ty))
    };
    let dims = value.ty.shape.as_ref().ok_or_else(|| unusable("has no known rank"))?;
    if value.ty.element != Element::F32 {
        return Err(unusable("cannot be made up"));
    }
    let shape: Vec<usize> = dims.iter().map(|d| d.known().unwrap_or(1)).collect();
    let count = qing_tensor::element_count(&shape).map_err(|e| unusable(&e.to_string()))?;
    let mut values: Vec<f32> = (0..count).map(|_| random.bell()).collect();
    if let [.., h, w] = shape[..]
        && shape.len() == 4
    {
        for plane in values.chunks_mut((h * w).max(1)) {
            // Photographs have most of their power at low frequencies: add coarse noise to fine noise.
            let coarse = smooth(plane, h, w, (h.min(w) / 8).max(1));
            for (v, c) in plane.iter_mut().zip(coarse) {
                *v = 0.3 * *v + c;
            }
        }
    }
    Tensor::new(&shape, values).map_err(|e| unusable(&e.to_string()))
}

/// Box-filters rows, then columns, and restores unit variance.
fn smooth(plane: &[f32], h: usize, w: usize, radius: usize) -> Vec<f32> {
    let mean =
        |from: usize, to: usize, at: &dyn Fn(usize) -> f32| (from..to).map(at).sum::<f32>() / (to - from).max(1) as f32;
    let mut rows = vec![0.0; plane.len()];
    let mut out = vec![0.0; plane.len()];
    for y in 0..h {
        for x in 0..w {
            let (from, to) = (x.saturating_sub(radius), (x + radius + 1).min(w));
            rows[y * w + x] = mean(from, to, &|i| plane[y * w + i]);
        }
    }
    for y in 0..h {
        for x in 0..w {
            let (from, to) = (y.saturating_sub(radius), (y + radius + 1).min(h));
            out[y * w + x] = mean(from, to, &|i| rows[i * w + x]);
        }
    }
    let n = out.len().max(1) as f32;
    let deviation = (out.iter().map(|v| v * v).sum::<f32>() / n).sqrt().max(1e-6);
    out.iter_mut().for_each(|v| *v /= deviation);
    out
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    }

    /// About a standard normal number, never beyond ±4.25.
    fn bell(&mut self) -> f32 {
        ((0..6).map(|_| self.uniform()).sum::<f32>() - 3.0) * std::f32::consts::SQRT_2
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::{Dim, Type};

    use super::*;

    #[test]
    fn noise_is_repeatable_and_of_about_unit_size() {
        let mut graph = Graph::new("t");
        graph.add_input("x", Type::new(Element::F32, [Dim::Symbol("N".into()), 3.into(), 16.into(), 16.into()]));
        let a = synthetic(&graph, 2).unwrap();
        assert_eq!(a, synthetic(&graph, 2).unwrap());
        assert_ne!(a[0], a[1]);
        let v = a[0][0].to_f32s();
        let power = v.iter().map(|v| v * v).sum::<f32>() / v.len() as f32;
        assert!((0.5..2.5).contains(&power), "{power}");
    }

    #[test]
    fn token_inputs_need_data() {
        let mut graph = Graph::new("t");
        graph.add_input("ids", Type::new(Element::I64, [1usize, 8]));
        assert!(synthetic(&graph, 1).unwrap_err().to_string().contains("ids"));
    }
}
