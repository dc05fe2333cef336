use qing_graph::{Graph, ValueId};

use super::Terms;
use crate::TrainError;

/// How far two boxes are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxLoss {
    /// `1 − intersection / union`; no gradient where boxes do not touch (Yu et al. 2016).
    Iou,
    /// IoU, less the share of the smallest common box that neither covers (Rezatofighi et al. 2019).
    Giou,
    /// IoU, less the squared distance of the centres over the squared diagonal of the common box, less a term for different
    /// aspect ratios (Zheng et al. 2020).
    Ciou,
}

/// Keeps divisors from zero.
const EPSILON: f32 = 1e-7;

/// The mean over boxes of 1 − overlap. Boxes are rows `[left, top, right, bottom]` of `[boxes, 4]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn box_overlap(graph: &mut Graph, x: ValueId, target: ValueId, kind: BoxLoss) -> Result<ValueId, TrainError> {
    let mut t = Terms::new(graph, "boxes");
    let mut corners = |x| Ok::<_, TrainError>((t.columns(x, 0, 2)?, t.columns(x, 2, 2)?));
    let ((a0, a1), (b0, b1)) = (corners(x)?, corners(target)?);
    let size = |t: &mut Terms<'_>, low, high| {
        let size = t.sub(high, low)?;
        Ok::<_, TrainError>((size, t.columns(size, 0, 1)?, t.columns(size, 1, 1)?))
    };
    let zero = t.number(0.0);
    let (_, aw, ah) = size(&mut t, a0, a1)?;
    let (_, bw, bh) = size(&mut t, b0, b1)?;
    let low = t.max(a0, b0)?;
    let high = t.min(a1, b1)?;
    let both = t.sub(high, low)?;
    let both = t.max(both, zero)?;
    let (w, h) = (t.columns(both, 0, 1)?, t.columns(both, 1, 1)?);
    let intersection = t.mul(w, h)?;
    let (area_a, area_b) = (t.mul(aw, ah)?, t.mul(bw, bh)?);
    let union = t.add(area_a, area_b)?;
    let union = t.sub(union, intersection)?;
    let union = t.plus(union, EPSILON)?;
    let mut overlap = t.div(intersection, union)?;
    if kind != BoxLoss::Iou {
        let (low, high) = (t.min(a0, b0)?, t.max(a1, b1)?);
        let (hull, w, h) = size(&mut t, low, high)?;
        if kind == BoxLoss::Giou {
            let area = t.mul(w, h)?;
            let area = t.plus(area, EPSILON)?;
            let empty = t.sub(area, union)?;
            let share = t.div(empty, area)?;
            overlap = t.sub(overlap, share)?;
        } else {
            let squares = |t: &mut Terms<'_>, v| {
                let square = t.mul(v, v)?;
                let (x, y) = (t.columns(square, 0, 1)?, t.columns(square, 1, 1)?);
                t.add(x, y)
            };
            let diagonal = squares(&mut t, hull)?;
            let diagonal = t.plus(diagonal, EPSILON)?;
            let (a, b) = (t.add(a0, a1)?, t.add(b0, b1)?);
            let apart = t.sub(a, b)?;
            let apart = t.times(apart, 0.5)?;
            let apart = squares(&mut t, apart)?;
            let distance = t.div(apart, diagonal)?;
            let angle = |t: &mut Terms<'_>, w, h| {
                let h = t.plus(h, EPSILON)?;
                let ratio = t.div(w, h)?;
                t.atan(ratio)
            };
            let (a, b) = (angle(&mut t, aw, ah)?, angle(&mut t, bw, bh)?);
            let turn = t.sub(a, b)?;
            let v = t.mul(turn, turn)?;
            let v = t.times(v, 4.0 / (std::f32::consts::PI * std::f32::consts::PI))?;
            // alpha · v with alpha = v / (1 − IoU + v).
            let rest = t.sub(v, overlap)?;
            let rest = t.plus(rest, 1.0 + EPSILON)?;
            let alpha = t.div(v, rest)?;
            let aspect = t.mul(alpha, v)?;
            overlap = t.sub(overlap, distance)?;
            overlap = t.sub(overlap, aspect)?;
        }
    }
    let mean = t.mean(overlap)?;
    let mean = t.neg(mean)?;
    t.plus(mean, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::testing::{close, value};

    fn loss(a: [f32; 4], b: [f32; 4], kind: BoxLoss) -> f64 {
        value(&[(&[1, 4], &a), (&[1, 4], &b)], |g, i| box_overlap(g, i[0], i[1], kind))
    }

    #[test]
    fn overlaps_by_hand() {
        let (a, b) = ([0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 5.0]);
        // Intersection 1, union 4 + 8 − 1, hull 3 × 5.
        close(loss(a, b, BoxLoss::Iou), 1.0 - 1.0 / 11.0);
        close(loss(a, b, BoxLoss::Giou), 1.0 - 1.0 / 11.0 + 4.0 / 15.0);
        let v = 4.0 / std::f64::consts::PI.powi(2) * (1f64.atan() - 0.5f64.atan()).powi(2);
        let aspect = v * v / (1.0 - 1.0 / 11.0 + v);
        close(loss(a, b, BoxLoss::Ciou), 1.0 - 1.0 / 11.0 + (1.0 + 4.0) / 34.0 + aspect);
        for kind in [BoxLoss::Iou, BoxLoss::Giou, BoxLoss::Ciou] {
            close(loss(a, a, kind), 0.0);
        }
        // Apart: IoU is flat, GIoU still says how far.
        let c = [4.0, 0.0, 6.0, 2.0];
        close(loss(a, c, BoxLoss::Iou), 1.0);
        close(loss(a, c, BoxLoss::Giou), 1.0 + 4.0 / 12.0);
    }
}
