//! What a step learns on: random samples, of large maps random windows, each value of which is from one of both networks.

use qing_graph::{OpError, Tensor};
use qing_train::{Purpose, Random};

use super::{
    cache::Cache,
    windows::{Windows, cut},
};
use crate::{LightenError, quantize::options::Reconstruction};

/// What a block reads and shall give, and how samples of it are drawn.
pub(super) struct Batches<'a> {
    /// Its inputs in the float network.
    pub float: &'a Cache,
    /// Its inputs in the network that is quantized so far.
    pub light: &'a Cache,
    /// Its results in the float network.
    pub target: &'a Cache,
    /// Windows of its maps, if they are cut.
    pub windows: Option<Windows>,
    /// How much is drawn, and from which of both.
    pub how: &'a Reconstruction,
    /// The position of the block.
    pub index: usize,
    /// Samples in a step.
    pub samples: usize,
}

impl Batches<'_> {
    fn shape(&self, of: &Cache, cut: impl Fn(&Windows) -> [usize; 2]) -> Vec<usize> {
        let mut shape = of.batch_shape(self.samples);
        if let Some(windows) = &self.windows {
            shape[2..].copy_from_slice(&cut(windows));
        }
        shape
    }

    /// The shape of a step's input.
    pub(super) fn input_shape(&self) -> Vec<usize> {
        self.shape(self.float, Windows::input)
    }

    /// The shape of its target.
    pub(super) fn target_shape(&self) -> Vec<usize> {
        self.shape(self.target, Windows::output)
    }

    /// The shape of the factors of its errors, if not all places count.
    pub(super) fn mask_shape(&self) -> Option<Vec<usize>> {
        let [rows, columns] = self.windows?.output();
        Some(vec![self.samples, 1, rows, columns])
    }

    /// Input, target and the factors of the errors (mean square 1), if not all places count.
    pub(super) fn draw(&self, step: usize) -> Result<Vec<Tensor>, LightenError> {
        let numbers = |purpose| Random::new(self.how.seed, purpose, self.index as u32, step as u32);
        let (mut pick, mut drop, mut place) =
            (numbers(Purpose::Shuffle), numbers(Purpose::Mix), numbers(Purpose::Augment));
        let share = (self.how.quantized * 256.0).round() as u32;
        let (input, target) = (self.input_shape(), self.target_shape());
        let (mut x, mut y) = (Vec::with_capacity(input.iter().product()), Vec::with_capacity(target.iter().product()));
        let (mut mask, mut light) = (vec![], vec![]);
        for _ in 0..input[0] {
            let i = pick.below(self.float.count as u32) as usize;
            let from = x.len();
            light.clear();
            match &self.windows {
                Some(windows) => {
                    let at = windows.place(&mut place);
                    let map = |cache: &Cache| [cache.shape[1], cache.shape[2]];
                    cut(self.float.sample(i), map(self.float), at.input, windows.input(), &mut x);
                    cut(self.light.sample(i), map(self.light), at.input, windows.input(), &mut light);
                    cut(self.target.sample(i), map(self.target), at.output, windows.output(), &mut y);
                    mask.extend(windows.mask(at));
                }
                None => {
                    x.extend(self.float.sample(i));
                    light.extend(self.light.sample(i));
                    y.extend(self.target.sample(i));
                }
            }
            for (x, light) in x[from..].chunks_mut(4).zip(light.chunks(4)) {
                let bits = drop.bits();
                for (k, (x, l)) in x.iter_mut().zip(light).enumerate() {
                    if (bits >> (8 * k)) & 255 < share {
                        *x = *l;
                    }
                }
            }
        }
        let tensor = |shape: &[usize], values| Tensor::new(shape, values).map_err(OpError::from);
        let mut made = vec![tensor(&input, x)?, tensor(&target, y)?];
        if let Some(shape) = self.mask_shape() {
            let seen: f32 = mask.iter().sum();
            let factor = (mask.len() as f32 / seen.max(1.0)).sqrt();
            mask.iter_mut().for_each(|m| *m *= factor);
            made.push(tensor(&shape, mask)?);
        }
        Ok(made)
    }
}
