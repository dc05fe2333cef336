//! The frame of an elementwise unary op: given its real function, shape rule, semantics and table follow.

use crate::{Legacy, OpError};

/// Before opset 6 nodes could say which inputs they overwrite.
///
/// # Errors
/// Never; the signature is that of an upgrade.
pub fn upgrade(node: &mut Legacy<'_>) -> Result<(), OpError> {
    node.attrs.remove("consumed_inputs");
    Ok(())
}

/// Declares a unary op by its function of `(&self, f64)`; see [`op!`](crate::op!) for the rest.
macro_rules! unary {
    (
        $(#[doc = $doc:literal])*
        $name:ident = $onnx:literal $(in $domain:literal)? { $($fields:tt)* }
        map: $map:expr,
        gradient: $gradient:expr,
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
        }
    };
}
pub(crate) use unary;
