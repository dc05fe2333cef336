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
    abs::Abs,
    acos::Acos,
    acosh::Acosh,
    add::Add,
    and::And,
    asin::Asin,
    asinh::Asinh,
    atan::Atan,
    atanh::Atanh,
    batch_normalization::BatchNormalization,
    cast::Cast,
    ceil::Ceil,
    celu::Celu,
    clip::Clip,
    conv::Conv,
    cos::Cos,
    cosh::Cosh,
    dequantize::Dequantize,
    div::Div,
    dropout::Dropout,
    elu::Elu,
    equal::Equal,
    erf::Erf,
    exp::Exp,
    floor::Floor,
    gelu::Gelu,
    gemm::Gemm,
    greater::Greater,
    greater_or_equal::GreaterOrEqual,
    hard_sigmoid::HardSigmoid,
    hard_swish::HardSwish,
    identity::Identity,
    layer_normalization::LayerNormalization,
    leaky_relu::LeakyRelu,
    less::Less,
    less_or_equal::LessOrEqual,
    log::Log,
    log_softmax::LogSoftmax,
    mat_mul::MatMul,
    max_pool::MaxPool,
    mish::Mish,
    mul::Mul,
    neg::Neg,
    or::Or,
    p_relu::PRelu,
    pow::Pow,
    quantize::Quantize,
    quick_gelu::QuickGelu,
    reciprocal::Reciprocal,
    reduce_l1::ReduceL1,
    reduce_l2::ReduceL2,
    reduce_log_sum::ReduceLogSum,
    reduce_log_sum_exp::ReduceLogSumExp,
    reduce_max::ReduceMax,
    reduce_mean::ReduceMean,
    reduce_min::ReduceMin,
    reduce_prod::ReduceProd,
    reduce_sum::ReduceSum,
    reduce_sum_square::ReduceSumSquare,
    relu::Relu,
    reshape::Reshape,
    round::Round,
    selu::Selu,
    shape::Shape,
    sigmoid::Sigmoid,
    sign::Sign,
    sin::Sin,
    sinh::Sinh,
    softmax::Softmax,
    softplus::Softplus,
    softsign::Softsign,
    sqrt::Sqrt,
    sub::Sub,
    swish::Swish,
    tan::Tan,
    tanh::Tanh,
    thresholded_relu::ThresholdedRelu,
    where_::Where,
    xor::Xor,
}

/// The op called `name` in `domain`.
pub fn find(domain: &str, name: &str) -> Option<&'static crate::OpSpec> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    OPS.iter().copied().find(|spec| spec.name == name && spec.domain == domain)
}
