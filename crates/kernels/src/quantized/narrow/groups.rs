//! Product with weights that have a scale for each group along the depth.

use super::packed::{BUNDLE, LANES, Packed, Width};
use super::{leaves_room, reads_signed};
use crate::cpu::Isa;
use crate::error::{KernelError, expect_len};
use crate::pool::{Pool, SharedMut};
use crate::quantized::panelled::{Block, Wide};

/// `[rows, depth]` bytes by constant weights, whose depth is cut into groups:
/// `y = Σ f32(sum of a group) ⊗ scale[group, column]`, added in the order of the groups.
#[derive(Debug, Clone)]
pub struct GroupedMatMul {
    isa: Isa,
    rows: usize,
    depth: usize,
    columns: usize,
    packed: Packed,
    /// `−x_zero·Σ w`, of inputs as the kernel reads them, as [`Packed::place`] says.
    bias: Vec<i32>,
    /// As [`Packed::place`] says.
    scale: Vec<f32>,
}

impl GroupedMatMul {
    /// Packs `weights`, `[columns, depth]`, in groups of `group` along the depth, or gives `None` if they need more than four
    /// bits, if groups do not begin at multiples of four, or if the depth is not a multiple of `group`.
    ///
    /// `scale` is `[depth / group, columns]`, `x_scale ⊗ w_scale`.
    ///
    /// # Errors
    /// When a length is inconsistent or a scale is not finite.
    pub fn pack(
        isa: Isa,
        [rows, depth, columns]: [usize; 3],
        group: usize,
        weights: &[i8],
        scale: &[f32],
        x_zero: u8,
    ) -> Result<Option<GroupedMatMul>, KernelError> {
        if rows == 0 || depth == 0 || columns == 0 || group == 0 {
            return Err(KernelError::Geometry(format!("a product [{rows}, {depth}] × [{depth}, {columns}] / {group}")));
        }
        expect_len("weights", weights.len(), depth * columns)?;
        expect_len("scales", scale.len(), depth.div_ceil(group) * columns)?;
        if let Some(bad) = scale.iter().find(|s| !s.is_finite()) {
            return Err(KernelError::Unsupported(format!("a scale of a group is {bad}")));
        }
        let Some(width) = Width::of(weights) else { return Ok(None) };
        if !group.is_multiple_of(4) || !depth.is_multiple_of(group) || !leaves_room(weights, group) {
            return Ok(None);
        }
        let isa = isa.or_supported();
        let zero = i32::from(x_zero) - if reads_signed(isa) { 128 } else { 0 };
        let packed = Packed::new(isa, width, &weights, [columns, depth, group]);
        let padded = packed.padded();
        let (mut bias, mut scales) = (vec![0; packed.groups * padded], vec![0.0; packed.groups * padded]);
        for g in 0..packed.groups {
            for column in 0..columns {
                let weights = &weights[column * depth + g * group..][..group];
                let sum: i32 = weights.iter().map(|w| i32::from(*w)).sum();
                bias[packed.place(g, column)] = -zero * sum;
                scales[packed.place(g, column)] = scale[g * columns + column];
            }
        }
        Ok(Some(GroupedMatMul { isa, rows, depth, columns, packed, bias, scale: scales }))
    }

    /// How its weights share bytes.
    #[must_use]
    pub fn width(&self) -> Width {
        self.packed.width
    }

    /// Bytes of the packed weights and their scales.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.packed.bytes() + 4 * self.scale.len()
    }

    /// Multiplies `x`, `[rows, depth]`, into `y`, `[rows, columns]`. Allocates nothing.
    ///
    /// # Errors
    /// When a length is wrong.
    pub fn run(&self, x: &[u8], y: &mut [f32], pool: &Pool) -> Result<(), KernelError> {
        let GroupedMatMul { rows, depth, columns, .. } = *self;
        expect_len("input", x.len(), rows * depth)?;
        expect_len("output", y.len(), rows * columns)?;
        let panels = self.packed.padded() / LANES;
        let share = if pool.threads() == 1 { 1 } else { 2 * pool.threads() };
        let each = panels.div_ceil(share).next_multiple_of(BUNDLE);
        let y = Wide::F32(SharedMut::new(y));
        pool.run(panels.div_ceil(each), &|piece| {
            let panel = piece * each;
            let block = Block {
                a: x,
                stride: depth,
                rows,
                panel,
                panels: each.min(panels - panel),
                columns,
                bias: &self.bias,
                scale: &self.scale,
            };
            y.compute(&self.packed, self.isa, &block, 0);
        });
        Ok(())
    }
}
