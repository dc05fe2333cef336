//! The parts of the TFLite schema (version 3) that are read: field numbers, element and operator codes.

use qing_graph::Element;

use super::flatbuffer::Table;
use crate::FormatError;

/// `TensorType` of the schema.
pub(super) fn element(code: i8) -> Option<Element> {
    Some(match code {
        0 => Element::F32,
        1 => Element::F16,
        2 => Element::I32,
        3 => Element::U8,
        4 => Element::I64,
        6 => Element::Bool,
        7 => Element::I16,
        9 => Element::I8,
        10 => Element::F64,
        12 => Element::U64,
        15 => Element::U32,
        16 => Element::U16,
        17 => Element::Bits { width: 4, signed: true },
        18 => Element::BF16,
        _ => return None,
    })
}

/// `BuiltinOperator` of the schema, for the operators that are read.
pub(super) mod operator {
    pub(in super::super) const ADD: i32 = 0;
    pub(in super::super) const AVERAGE_POOL_2D: i32 = 1;
    pub(in super::super) const CONCATENATION: i32 = 2;
    pub(in super::super) const CONV_2D: i32 = 3;
    pub(in super::super) const DEPTHWISE_CONV_2D: i32 = 4;
    pub(in super::super) const DEQUANTIZE: i32 = 6;
    pub(in super::super) const FULLY_CONNECTED: i32 = 9;
    pub(in super::super) const LOGISTIC: i32 = 14;
    pub(in super::super) const MAX_POOL_2D: i32 = 17;
    pub(in super::super) const MUL: i32 = 18;
    pub(in super::super) const RELU: i32 = 19;
    pub(in super::super) const RELU6: i32 = 21;
    pub(in super::super) const RESHAPE: i32 = 22;
    pub(in super::super) const SOFTMAX: i32 = 25;
    pub(in super::super) const TANH: i32 = 28;
    pub(in super::super) const PAD: i32 = 34;
    pub(in super::super) const MEAN: i32 = 40;
    pub(in super::super) const SUB: i32 = 41;
    pub(in super::super) const SQUEEZE: i32 = 43;
    pub(in super::super) const LEAKY_RELU: i32 = 98;
    pub(in super::super) const QUANTIZE: i32 = 114;
    pub(in super::super) const HARD_SWISH: i32 = 117;

    /// Names for messages; the schema's own spelling.
    const NAMES: &[(i32, &str)] = &[
        (5, "DEPTH_TO_SPACE"),
        (12, "L2_POOL_2D"),
        (16, "LSTM"),
        (23, "RESIZE_BILINEAR"),
        (27, "SVDF"),
        (36, "GATHER"),
        (39, "TRANSPOSE"),
        (42, "DIV"),
        (45, "STRIDED_SLICE"),
        (47, "EXP"),
        (49, "SPLIT"),
        (53, "CAST"),
        (54, "PRELU"),
        (65, "SLICE"),
        (67, "TRANSPOSE_CONV"),
        (77, "SHAPE"),
        (83, "PACK"),
        (97, "RESIZE_NEAREST_NEIGHBOR"),
        (126, "BATCH_MATMUL"),
    ];

    pub(in super::super) fn name(code: i32) -> String {
        NAMES.iter().find(|(c, _)| *c == code).map_or(format!("operator {code}"), |(_, n)| (*n).into())
    }
}

/// An operator of the model.
pub(super) struct Operator<'a> {
    /// `BuiltinOperator`.
    pub(super) code: i32,
    /// Name of a custom operator.
    pub(super) custom: String,
    /// Tensor numbers; −1 for an absent input.
    pub(super) inputs: Vec<i32>,
    /// Tensor numbers.
    pub(super) outputs: Vec<i32>,
    options: Option<Table<'a>>,
}

impl<'a> Operator<'a> {
    /// Reads an operator; `codes` are the model's operator codes.
    pub(super) fn read(table: Table<'a>, codes: &[(i32, String)]) -> Result<Operator<'a>, FormatError> {
        let index = table.u32(0, 0)? as usize;
        let (code, custom) = codes
            .get(index)
            .cloned()
            .ok_or_else(|| FormatError::malformed("operators", format!("operator code {index} of {}", codes.len())))?;
        Ok(Operator { code, custom, inputs: table.i32s(1)?, outputs: table.i32s(2)?, options: table.table(4)? })
    }

    pub(super) fn option_i8(&self, id: usize) -> Result<i8, FormatError> {
        self.options.map_or(Ok(0), |o| o.i8(id, 0))
    }

    pub(super) fn option_i32(&self, id: usize, default: i32) -> Result<i32, FormatError> {
        self.options.map_or(Ok(default), |o| o.i32(id, default))
    }

    pub(super) fn option_f32(&self, id: usize, default: f32) -> Result<f32, FormatError> {
        self.options.map_or(Ok(default), |o| o.f32(id, default))
    }

    pub(super) fn option_i32s(&self, id: usize) -> Result<Vec<i32>, FormatError> {
        self.options.map_or(Ok(vec![]), |o| o.i32s(id))
    }
}
