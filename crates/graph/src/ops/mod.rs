//! The ops, one file each, and the list of them all.

pub mod support;

macro_rules! ops {
    ($($(#[$when:meta])? $file:ident :: $name:ident),* $(,)?) => {
        $(mod $file; pub use $file::$name;)*

        /// Every op of this build. Readers, dump, suite and docs walk this list.
        pub static OPS: &[&$crate::OpSpec] = &[$($(#[$when])? $name::SPEC),*];
    };
}

ops! {
    abs::Abs,
    #[cfg(feature = "all-ops")]
    acos::Acos,
    #[cfg(feature = "all-ops")]
    acosh::Acosh,
    add::Add,
    #[cfg(feature = "all-ops")]
    affine_grid::AffineGrid,
    and::And,
    arg_max::ArgMax,
    arg_min::ArgMin,
    #[cfg(feature = "all-ops")]
    asin::Asin,
    #[cfg(feature = "all-ops")]
    asinh::Asinh,
    #[cfg(feature = "all-ops")]
    atan::Atan,
    #[cfg(feature = "all-ops")]
    atanh::Atanh,
    attention::Attention,
    average_pool::AveragePool,
    #[cfg(feature = "gradient")]
    average_pool_grad::AveragePoolGrad,
    #[cfg(feature = "gradient")]
    batch_norm_grad::BatchNormGrad,
    #[cfg(feature = "gradient")]
    batch_norm_training::BatchNormTraining,
    batch_normalization::BatchNormalization,
    #[cfg(feature = "all-ops")]
    bias_gelu::BiasGelu,
    #[cfg(feature = "all-ops")]
    bipolar_quant::BipolarQuant,
    #[cfg(feature = "all-ops")]
    bit_cast::BitCast,
    #[cfg(feature = "all-ops")]
    bit_shift::BitShift,
    #[cfg(feature = "all-ops")]
    bitwise_and::BitwiseAnd,
    #[cfg(feature = "all-ops")]
    bitwise_not::BitwiseNot,
    #[cfg(feature = "all-ops")]
    bitwise_or::BitwiseOr,
    #[cfg(feature = "all-ops")]
    bitwise_xor::BitwiseXor,
    #[cfg(feature = "all-ops")]
    blackman_window::BlackmanWindow,
    cast::Cast,
    cast_like::CastLike,
    ceil::Ceil,
    #[cfg(feature = "all-ops")]
    celu::Celu,
    #[cfg(feature = "all-ops")]
    center_crop_pad::CenterCropPad,
    clip::Clip,
    #[cfg(feature = "all-ops")]
    col2_im::Col2Im,
    #[cfg(feature = "all-ops")]
    compress::Compress,
    concat::Concat,
    constant::Constant,
    constant_of_shape::ConstantOfShape,
    conv::Conv,
    #[cfg(feature = "all-ops")]
    conv_integer::ConvInteger,
    conv_transpose::ConvTranspose,
    #[cfg(feature = "gradient")]
    conv_weight_grad::ConvWeightGrad,
    cos::Cos,
    #[cfg(feature = "all-ops")]
    cosh::Cosh,
    #[cfg(feature = "all-ops")]
    cum_prod::CumProd,
    cum_sum::CumSum,
    depth_to_space::DepthToSpace,
    dequantize::Dequantize,
    dequantize_linear::DequantizeLinear,
    #[cfg(feature = "all-ops")]
    det::Det,
    #[cfg(feature = "all-ops")]
    dft::Dft,
    div::Div,
    dropout::Dropout,
    #[cfg(feature = "all-ops")]
    dynamic_quantize_linear::DynamicQuantizeLinear,
    #[cfg(feature = "all-ops")]
    einsum::Einsum,
    elu::Elu,
    equal::Equal,
    erf::Erf,
    exp::Exp,
    expand::Expand,
    #[cfg(feature = "all-ops")]
    eye_like::EyeLike,
    #[cfg(feature = "all-ops")]
    fast_gelu::FastGelu,
    flatten::Flatten,
    floor::Floor,
    #[cfg(feature = "all-ops")]
    fused_mat_mul::FusedMatMul,
    gather::Gather,
    gather_elements::GatherElements,
    gather_nd::GatherND,
    gelu::Gelu,
    gemm::Gemm,
    global_average_pool::GlobalAveragePool,
    #[cfg(feature = "all-ops")]
    global_lp_pool::GlobalLpPool,
    global_max_pool::GlobalMaxPool,
    greater::Greater,
    greater_or_equal::GreaterOrEqual,
    #[cfg(feature = "all-ops")]
    grid_sample::GridSample,
    group_normalization::GroupNormalization,
    gru::GRU,
    #[cfg(feature = "all-ops")]
    hamming_window::HammingWindow,
    #[cfg(feature = "all-ops")]
    hann_window::HannWindow,
    hard_sigmoid::HardSigmoid,
    hard_swish::HardSwish,
    #[cfg(feature = "all-ops")]
    hardmax::Hardmax,
    identity::Identity,
    instance_normalization::InstanceNormalization,
    #[cfg(feature = "all-ops")]
    is_inf::IsInf,
    #[cfg(feature = "all-ops")]
    is_nan::IsNaN,
    layer_normalization::LayerNormalization,
    leaky_relu::LeakyRelu,
    #[cfg(feature = "gradient")]
    learned_quantize::LearnedQuantize,
    #[cfg(feature = "gradient")]
    learned_quantize_grad::LearnedQuantizeGrad,
    less::Less,
    less_or_equal::LessOrEqual,
    log::Log,
    log_softmax::LogSoftmax,
    lookup::Lookup,
    #[cfg(feature = "all-ops")]
    lp_normalization::LpNormalization,
    #[cfg(feature = "all-ops")]
    lp_pool::LpPool,
    lrn::Lrn,
    lstm::LSTM,
    mat_mul::MatMul,
    #[cfg(feature = "all-ops")]
    mat_mul_integer::MatMulInteger,
    max::Max,
    max_pool::MaxPool,
    #[cfg(feature = "gradient")]
    max_pool_grad::MaxPoolGrad,
    #[cfg(feature = "all-ops")]
    max_unpool::MaxUnpool,
    mean::Mean,
    #[cfg(feature = "all-ops")]
    mean_variance_normalization::MeanVarianceNormalization,
    #[cfg(feature = "all-ops")]
    mel_weight_matrix::MelWeightMatrix,
    min::Min,
    mish::Mish,
    #[cfg(feature = "all-ops")]
    mod_::Mod,
    ms_gelu::MsGelu,
    mul::Mul,
    neg::Neg,
    #[cfg(feature = "gradient")]
    negative_log_likelihood_loss::NegativeLogLikelihoodLoss,
    non_max_suppression::NonMaxSuppression,
    non_zero::NonZero,
    not::Not,
    #[cfg(feature = "all-ops")]
    one_hot::OneHot,
    or::Or,
    p_relu::PRelu,
    pad::Pad,
    pow::Pow,
    #[cfg(feature = "all-ops")]
    q_linear_add::QLinearAdd,
    #[cfg(feature = "all-ops")]
    q_linear_average_pool::QLinearAveragePool,
    #[cfg(feature = "all-ops")]
    q_linear_concat::QLinearConcat,
    #[cfg(feature = "all-ops")]
    q_linear_conv::QLinearConv,
    #[cfg(feature = "all-ops")]
    q_linear_global_average_pool::QLinearGlobalAveragePool,
    #[cfg(feature = "all-ops")]
    q_linear_leaky_relu::QLinearLeakyRelu,
    #[cfg(feature = "all-ops")]
    q_linear_mat_mul::QLinearMatMul,
    #[cfg(feature = "all-ops")]
    q_linear_mul::QLinearMul,
    #[cfg(feature = "all-ops")]
    q_linear_sigmoid::QLinearSigmoid,
    #[cfg(feature = "all-ops")]
    q_linear_softmax::QLinearSoftmax,
    #[cfg(feature = "all-ops")]
    quant::Quant,
    quantize::Quantize,
    quantize_linear::QuantizeLinear,
    quick_gelu::QuickGelu,
    range::Range,
    reciprocal::Reciprocal,
    reduce_l1::ReduceL1,
    reduce_l2::ReduceL2,
    #[cfg(feature = "all-ops")]
    reduce_log_sum::ReduceLogSum,
    #[cfg(feature = "all-ops")]
    reduce_log_sum_exp::ReduceLogSumExp,
    reduce_max::ReduceMax,
    reduce_mean::ReduceMean,
    reduce_min::ReduceMin,
    reduce_prod::ReduceProd,
    reduce_sum::ReduceSum,
    reduce_sum_square::ReduceSumSquare,
    relu::Relu,
    #[cfg(feature = "gradient")]
    relu_grad::ReluGrad,
    reshape::Reshape,
    resize::Resize,
    #[cfg(feature = "all-ops")]
    reverse_sequence::ReverseSequence,
    rms_normalization::RmsNormalization,
    rnn::RNN,
    #[cfg(feature = "all-ops")]
    roi_align::RoiAlign,
    #[cfg(feature = "all-ops")]
    rotary_embedding::RotaryEmbedding,
    round::Round,
    #[cfg(feature = "all-ops")]
    scatter::Scatter,
    scatter_elements::ScatterElements,
    scatter_nd::ScatterND,
    selu::Selu,
    shape::Shape,
    #[cfg(feature = "all-ops")]
    shrink::Shrink,
    sigmoid::Sigmoid,
    sign::Sign,
    sin::Sin,
    #[cfg(feature = "all-ops")]
    sinh::Sinh,
    size::Size,
    #[cfg(feature = "all-ops")]
    skip_layer_normalization::SkipLayerNormalization,
    slice::Slice,
    softmax::Softmax,
    #[cfg(feature = "gradient")]
    softmax_cross_entropy_loss::SoftmaxCrossEntropyLoss,
    softplus::Softplus,
    softsign::Softsign,
    space_to_depth::SpaceToDepth,
    split::Split,
    sqrt::Sqrt,
    squeeze::Squeeze,
    #[cfg(feature = "all-ops")]
    stft::Stft,
    sub::Sub,
    sum::Sum,
    swish::Swish,
    #[cfg(feature = "all-ops")]
    tan::Tan,
    tanh::Tanh,
    #[cfg(feature = "all-ops")]
    tensor_scatter::TensorScatter,
    #[cfg(feature = "all-ops")]
    thresholded_relu::ThresholdedRelu,
    tile::Tile,
    top_k::TopK,
    transpose::Transpose,
    trilu::Trilu,
    trunc::Trunc,
    #[cfg(feature = "all-ops")]
    unique::Unique,
    unsqueeze::Unsqueeze,
    #[cfg(feature = "all-ops")]
    upsample::Upsample,
    where_::Where,
    #[cfg(feature = "all-ops")]
    xor::Xor,
}

/// Whether this build has every op that qing knows: those of training come with the feature `gradient`, those that small networks
/// hardly ever have and that no kernel computes with `all-ops`.
pub const COMPLETE: bool = cfg!(all(feature = "all-ops", feature = "gradient"));

/// The op called `name` in `domain`; domains that have changed their names are known by all of them.
pub fn find(domain: &str, name: &str) -> Option<&'static crate::OpSpec> {
    let domain = match (domain, name) {
        ("ai.onnx", _) => "",
        // ONNX Runtime had them before ONNX; they have become the same.
        ("com.microsoft", "QuantizeLinear" | "DequantizeLinear") => "",
        ("qonnx" | "finn.custom_op.general" | "onnx.brevitas", _) => "qonnx.custom_op.general",
        (other, _) => other,
    };
    OPS.iter().copied().find(|spec| spec.name == name && spec.domain == domain)
}
