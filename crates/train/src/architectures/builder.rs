use std::sync::Arc;

use qing_graph::{Dim, Element, Graph, Op, Tensor, Type, ValueId, ops};

use super::Settings;
use crate::{
    TrainError,
    random::{Purpose, Random},
};

/// Adds layers with drawn weights to a graph. Constants are named `LAYER.weight`, `.bias`, `.gamma`, `.beta`, `.mean` and
/// `.variance`.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
    seed: u64,
    drawn: u32,
}

/// A convolution's geometry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) kernel: [usize; 2],
    pub(super) stride: usize,
    /// Padding at the begins of rows and columns, then at the ends.
    pub(super) pads: [usize; 4],
}

impl Window {
    /// A square window, centred.
    pub(super) fn square(kernel: usize, stride: usize) -> Window {
        Window { kernel: [kernel; 2], stride, pads: [kernel / 2; 4] }
    }

    /// A window whose output is the input divided by the stride, rounded up, padded as TensorFlow's `SAME`.
    pub(super) fn same(kernel: [usize; 2], stride: usize, input: [usize; 2]) -> Window {
        let mut pads = [0; 4];
        for axis in 0..2 {
            let last = (input[axis].div_ceil(stride) - 1) * stride;
            let total = (last + kernel[axis]).saturating_sub(input[axis]);
            pads[axis] = total / 2;
            pads[axis + 2] = total - total / 2;
        }
        Window { kernel, stride, pads }
    }
}

impl Builder {
    pub(super) fn new(name: &str, settings: &Settings) -> Builder {
        let mut graph = Graph::new(name);
        let dims = std::iter::once(Dim::Symbol("N".into())).chain(settings.input.iter().map(|n| Dim::Known(*n)));
        graph.add_input("image", Type::new(Element::F32, dims));
        Builder { graph, seed: settings.seed, drawn: 0 }
    }

    /// The graph input.
    pub(super) fn image(&self) -> ValueId {
        self.graph.inputs[0]
    }

    pub(super) fn finish(self) -> Graph {
        self.graph
    }

    fn shape(&self, x: ValueId) -> Vec<usize> {
        let dims = self.graph.ty(x).shape.clone().unwrap_or_default();
        dims.iter().map(|d| d.known().unwrap_or(1)).collect()
    }

    /// Rows and columns.
    pub(super) fn space(&self, x: ValueId) -> [usize; 2] {
        let shape = self.shape(x);
        [shape[2], shape[3]]
    }

    pub(super) fn channels(&self, x: ValueId) -> usize {
        self.shape(x)[1]
    }

    fn node(&mut self, op: Arc<dyn Op>, name: &str, inputs: &[ValueId]) -> Result<ValueId, TrainError> {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        Ok(self.graph.add_node(op, name, &inputs, 1)?[0])
    }

    fn drawn(&mut self, name: &str, shape: &[usize], fan_in: usize) -> Result<ValueId, TrainError> {
        let deviation = (2.0 / fan_in as f32).sqrt();
        let mut random = Random::new(self.seed, Purpose::Initialize, self.drawn, 0);
        self.drawn += 1;
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| deviation * random.normal()).collect();
        Ok(self.graph.add_constant(name, Tensor::new(shape, values)?))
    }

    fn filled(&mut self, name: &str, n: usize, value: f32) -> ValueId {
        self.graph.add_constant(name, Tensor::vector(vec![value; n]))
    }

    /// Convolution without bias, then batch normalization.
    pub(super) fn conv_norm(
        &mut self,
        x: ValueId,
        name: &str,
        out: usize,
        window: Window,
        groups: usize,
    ) -> Result<ValueId, TrainError> {
        let per_group = self.channels(x) / groups;
        let [kh, kw] = window.kernel;
        let w = self.drawn(&format!("{name}.weight"), &[out, per_group, kh, kw], per_group * kh * kw)?;
        let op = ops::Conv {
            group: groups as i64,
            kernel_shape: vec![kh as i64, kw as i64],
            pads: window.pads.iter().map(|p| *p as i64).collect(),
            strides: vec![window.stride as i64; 2],
            ..ops::Conv::default()
        };
        let y = self.node(Arc::new(op), &format!("{name}.conv"), &[x, w])?;
        let gamma = self.filled(&format!("{name}.gamma"), out, 1.0);
        let beta = self.filled(&format!("{name}.beta"), out, 0.0);
        let mean = self.filled(&format!("{name}.mean"), out, 0.0);
        let variance = self.filled(&format!("{name}.variance"), out, 1.0);
        let norm = Arc::new(ops::BatchNormalization::default());
        self.node(norm, &format!("{name}.norm"), &[y, gamma, beta, mean, variance])
    }

    /// `max(x, 0)`.
    pub(super) fn relu(&mut self, x: ValueId, name: &str) -> Result<ValueId, TrainError> {
        self.node(Arc::new(ops::Relu {}), &format!("{name}.relu"), &[x])
    }

    /// `clip(x, 0, 6)`.
    pub(super) fn relu6(&mut self, x: ValueId, name: &str) -> Result<ValueId, TrainError> {
        let lo = self.graph.add_constant(&format!("{name}.low"), Tensor::scalar(0.0f32));
        let hi = self.graph.add_constant(&format!("{name}.high"), Tensor::scalar(6.0f32));
        self.node(Arc::new(ops::Clip {}), &format!("{name}.relu6"), &[x, lo, hi])
    }

    pub(super) fn add(&mut self, a: ValueId, b: ValueId, name: &str) -> Result<ValueId, TrainError> {
        self.node(Arc::new(ops::Add {}), name, &[a, b])
    }

    /// Global average pooling and a linear classifier; the output `logits`.
    pub(super) fn classify(&mut self, x: ValueId, classes: usize) -> Result<(), TrainError> {
        let x = self.node(Arc::new(ops::GlobalAveragePool {}), "pool", &[x])?;
        let x = self.node(Arc::new(ops::Flatten { axis: 1 }), "flatten", &[x])?;
        let width = self.channels(x);
        let w = self.drawn("classify.weight", &[classes, width], 2 * width)?;
        let b = self.filled("classify.bias", classes, 0.0);
        let op = ops::Gemm { transB: true, ..ops::Gemm::default() };
        let y = self.node(Arc::new(op), "classify", &[x, w, b])?;
        self.graph.rename(y, "logits");
        self.graph.mark_output(y);
        Ok(())
    }
}
