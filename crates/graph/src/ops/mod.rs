//! The ops, one file each, and the list of them all.

pub mod support;

macro_rules! ops {
    ($($file:ident :: $name:ident),* $(,)?) => {
        $(mod $file; pub use $file::$name;)*

        /// Every op qing knows. Readers, dump, suite and docs walk this list.
        pub static OPS: &[&$crate::OpSpec] = &[$($name::SPEC),*];
    };
}

ops! {
    add::Add,
    conv::Conv,
    dequantize::Dequantize,
    identity::Identity,
    max_pool::MaxPool,
    quantize::Quantize,
    relu::Relu,
    reshape::Reshape,
    shape::Shape,
}

/// The op called `name` in `domain`.
pub fn find(domain: &str, name: &str) -> Option<&'static crate::OpSpec> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    OPS.iter().copied().find(|spec| spec.name == name && spec.domain == domain)
}
