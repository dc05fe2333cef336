//! The frame of an elementwise unary op: given its real function, shape rule, semantics and table follow.

use crate::{Legacy, OpError, ValueId};

/// Before opset 6 nodes could say which inputs they overwrite.
///
/// # Errors
/// Never; the signature is that of an upgrade.
pub fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("consumed_inputs");
    Ok(())
}

/// What the gradient rule of a unary op reads.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The input.
    pub x: ValueId,
    /// The output.
    pub y: ValueId,
    /// The gradient of the output.
    pub dy: ValueId,
}

/// Declares a unary op by its function of `(&self, f64)` and its gradient rule, a function of `(&self, cx, At)` that is left
/// out where the op is constant between its steps; see [`op!`](crate::op!) for the rest.
macro_rules! unary {
    (
        $(#[doc = $doc:literal])*
        $name:ident = $onnx:literal $(in $domain:literal)? { $($fields:tt)* }
        map: $map:expr,
        gradient: $gradient:expr,
        $(backward: $backward:expr,)?
        cases: $cases:path $(,)?
    ) => {
        $crate::op! {
            $(#[doc = $doc])*
            $name = $onnx $(in $domain)? { $($fields)* }
            inputs: 1..=1, outputs: 1..=1,
            gradient: $gradient,
            cases: $cases,
            upgrade: $crate::ops::support::unary::upgrade
        }

        impl $crate::Op for $name {
            fn infer(&self, cx: &$crate::Infer<'_>) -> Result<Vec<$crate::Type>, $crate::OpError> {
                $crate::ops::support::elementwise::infer_unary(cx)
            }

            fn eval(&self, cx: &$crate::Eval<'_>) -> Result<Vec<$crate::Tensor>, $crate::OpError> {
                $crate::ops::support::elementwise::eval_unary(self, cx)
            }

            fn quantization(&self) -> $crate::QuantRule {
                $crate::QuantRule::Table
            }

            fn map(&self, x: f64) -> Option<f64> {
                let f: fn(&$name, f64) -> f64 = $map;
                Some(f(self, x))
            }

            fn gradient(&self, cx: &$crate::Backward<'_>) -> $crate::Gradients {
                $crate::ops::support::unary::rule!($name, self, cx $(, $backward)?)
            }
        }
    };
}
pub(crate) use unary;

/// The body of a unary op's gradient rule. Without one the op is constant between its steps: nothing flows back.
macro_rules! rule {
    ($name:ident, $op:expr, $cx:expr, $backward:expr) => {{
        use $crate::ops::support::unary::At;
        let rule: fn(&$name, &$crate::Backward<'_>, At) -> Result<$crate::ValueId, $crate::OpError> = $backward;
        let at = At { x: $cx.input(0)?, y: $cx.output(0)?, dy: $cx.dy()? };
        Ok(vec![Some(rule($op, $cx, at)?)])
    }};
    ($name:ident, $op:expr, $cx:expr) => {{
        $cx.dy()?;
        Ok(vec![None])
    }};
}
pub(crate) use rule;
