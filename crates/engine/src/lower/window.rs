//! Sliding windows of the graph as the geometry that kernels take.

use qing_graph::{
    OpError,
    ops::support::window::{Axis, WindowAttrs},
};
use qing_kernels::ConvGeometry;

/// The geometry of a window of `kernel` taps over `x` `[batch, channels, spatial…]` with `out` output channels, and the
/// padding below and to the right. `None` if there are more than two spatial axes; one axis is a line of height 1.
pub(super) fn geometry(
    attrs: &WindowAttrs<'_>,
    x: &[usize],
    kernel: &[usize],
    out: usize,
    groups: usize,
) -> Result<Option<(ConvGeometry, [usize; 2])>, OpError> {
    if x.len() < 3 || x.len() > 4 {
        return Ok(None);
    }
    let axes = attrs.axes(&x[2..], kernel)?;
    Ok(of_axes(&axes, x[0], x[1], out, groups))
}

/// [`geometry`] of axes.
pub(super) fn of_axes(
    axes: &[Axis],
    batch: usize,
    in_c: usize,
    out_c: usize,
    groups: usize,
) -> Option<(ConvGeometry, [usize; 2])> {
    let right = axes.last().copied().filter(|_| axes.len() <= 2)?;
    let down = (axes.len() == 2).then(|| axes[0]);
    let geometry = ConvGeometry {
        batch,
        in_h: down.map_or(1, |a| a.input),
        in_w: right.input,
        in_c,
        out_h: down.map_or(1, |a| a.output),
        out_w: right.output,
        out_c,
        kernel: [down.map_or(1, |a| a.kernel), right.kernel],
        stride: [down.map_or(1, |a| a.stride), right.stride],
        dilation: [down.map_or(1, |a| a.dilation), right.dilation],
        pad_top: down.map_or(0, |a| a.pad),
        pad_left: right.pad,
        groups,
    };
    Some((geometry, [down.map_or(0, |a| a.pad_end), right.pad_end]))
}
