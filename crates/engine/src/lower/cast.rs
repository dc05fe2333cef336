//! `Cast` between elements of whole bytes.

use qing_graph::{Element, Node};
use qing_kernels::Pool;
use qing_tensor::{Scalar, bf16, f16};

use super::{Lower, StepSpec};
use crate::{
    EngineError,
    step::{Step, StepError, StepIo},
};

/// What a tensor's own conversion computes.
struct Cast {
    from: Element,
    to: Element,
}

/// Runs `$body` with `$t` as the type of an element.
macro_rules! with_type {
    ($element:expr, $t:ident => $body:expr) => {
        match $element {
            Element::F64 => {
                type $t = f64;
                $body
            }
            Element::F32 => {
                type $t = f32;
                $body
            }
            Element::F16 => {
                type $t = f16;
                $body
            }
            Element::BF16 => {
                type $t = bf16;
                $body
            }
            Element::I64 => {
                type $t = i64;
                $body
            }
            Element::I32 => {
                type $t = i32;
                $body
            }
            Element::I16 => {
                type $t = i16;
                $body
            }
            Element::I8 => {
                type $t = i8;
                $body
            }
            Element::U32 => {
                type $t = u32;
                $body
            }
            Element::U16 => {
                type $t = u16;
                $body
            }
            _ => {
                type $t = u8;
                $body
            }
        }
    };
}

/// Whether elements lie as the types above; 64-bit integers without sign are too rare to be worth their corner cases.
fn is_plain(element: Element) -> bool {
    !element.is_packed() && element != Element::U64
}

/// Values converted at a time. By way of the widest number there is a loop to it and one from it for every element, and not one for every
/// pair of them.
const PIECE: usize = 256;

impl Step for Cast {
    fn run(&self, io: &mut StepIo<'_>, _: &Pool) -> Result<(), StepError> {
        let (inputs, y, _) = io.split();
        let (mut reals, mut integers) = ([0f64; PIECE], [0i64; PIECE]);
        let through_reals = self.from.is_float() || self.to == Element::Bool;
        let count = with_type!(self.from, X => inputs.values::<X>(0).len());
        for start in (0..count).step_by(PIECE) {
            let range = start..count.min(start + PIECE);
            let len = range.len();
            with_type!(self.from, X => {
                let x = &inputs.values::<X>(0)[range.clone()];
                if through_reals {
                    reals.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_f64());
                } else {
                    integers.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_i64());
                }
            });
            if self.to == Element::Bool {
                y[range].iter_mut().zip(&reals).for_each(|(y, x)| *y = u8::from(*x != 0.0));
                continue;
            }
            with_type!(self.to, Y => {
                let y: &mut [Y] = &mut bytemuck::cast_slice_mut(y)[range];
                if through_reals {
                    y.iter_mut().zip(&reals[..len]).for_each(|(y, x)| *y = Y::from_f64(*x));
                } else {
                    y.iter_mut().zip(&integers[..len]).for_each(|(y, x)| *y = Y::from_i64(*x));
                }
            });
        }
        Ok(())
    }
}

/// `Cast`
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (Some(x), [y]) = (node.input(0), &node.outputs[..]) else { return Ok(false) };
    let (from, to) = (cx.graph.ty(x), cx.graph.ty(*y));
    if from.quant.is_some() || to.quant.is_some() || !is_plain(from.element) || !is_plain(to.element) {
        return Ok(false);
    }
    let layout = cx.layout(x);
    let step = Cast { from: from.element, to: to.element };
    let place = cx.read(x, layout)?;
    if step.from == step.to {
        cx.alias(*y, layout, place);
        return Ok(true);
    }
    let outputs = vec![cx.write(*y, layout)];
    cx.push(StepSpec::new(node, "cast", vec![place], outputs, step));
    Ok(true)
}
