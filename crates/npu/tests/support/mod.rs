//! Random layers, and the chip held to the reference evaluator.

use std::sync::Arc;

use qing_graph::{Element, Graph, Op, Quant, Tensor, Type, ValueId, interpret::interpret};
use qing_npu::{Config, Program, Session, compile};

/// A small generator, so that a seed names a case.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn ints(&mut self, n: usize, lo: i32, hi: i32) -> Vec<i32> {
        (0..n).map(|_| lo + self.below((hi - lo + 1) as usize) as i32).collect()
    }

    pub(crate) fn scale(&mut self) -> f32 {
        0.001 + self.below(1000) as f32 / 3000.0
    }
}

/// A type of so many bits, with a scale and a zero point.
pub(crate) fn activation(noise: &mut Noise, bits: u8, shape: &[usize]) -> Type {
    let element = Element::integer(bits, noise.below(2) == 0).unwrap();
    let (lo, hi) = element.range().unwrap();
    let zero = lo as i32 + noise.below((hi - lo + 1) as usize) as i32;
    let scale = noise.scale();
    Type::new(Element::F32, shape.iter().copied()).quantized(element, Quant::per_tensor(scale, zero).unwrap())
}

/// Weights of a width with a scale for each slice of axis 0.
pub(crate) fn weights(noise: &mut Noise, graph: &mut Graph, kind: &str, bits: u8, shape: &[usize]) -> ValueId {
    let n = shape.iter().product();
    let (element, values) = match kind {
        "bipolar" => (Element::Bipolar, noise.ints(n, 0, 1).into_iter().map(|v| 2 * v - 1).collect()),
        "ternary" => (Element::integer(2, true).unwrap(), noise.ints(n, -1, 1)),
        _ => {
            let element = Element::integer(bits, true).unwrap();
            let (lo, hi) = element.range().unwrap();
            (element, noise.ints(n, lo as i32, hi as i32))
        }
    };
    let scales = (0..shape[0]).map(|_| noise.scale()).collect();
    let ty = Type::new(Element::F32, shape.iter().copied()).quantized(element, Quant::per_axis(0, scales).unwrap());
    graph.add_typed_constant("weights", ty, Tensor::from_ints(element, shape, &values).unwrap())
}

/// Compiles, runs and compares; gives the cycles.
pub(crate) fn agrees(graph: &Graph, preset: &str, noise: &mut Noise, what: &str) -> u64 {
    let program = compile(graph, &Config::preset(preset).unwrap()).unwrap_or_else(|e| panic!("{what}: {e}"));
    computes(graph, program, noise, what)
}

/// Runs a program of a graph and compares; gives the cycles.
pub(crate) fn computes(graph: &Graph, program: Program, noise: &mut Noise, what: &str) -> u64 {
    let mut session = Session::new(program).unwrap();
    let inputs: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|id| {
            let ty = graph.ty(*id);
            let (lo, hi) = ty.range().unwrap();
            let shape = ty.known_shape().unwrap();
            let values = noise.ints(shape.iter().product(), lo, hi);
            Tensor::from_ints(ty.element, &shape, &values).unwrap()
        })
        .collect();
    let frame = session.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
    let expected = interpret(graph, &inputs).unwrap();
    for (e, y) in expected.iter().zip(&frame.outputs) {
        assert_eq!(e.shape(), y.shape(), "{what}");
        let (got, want) = (y.to_f64s(), e.to_f64s());
        let wrong = (0..want.len()).filter(|i| got[*i] != want[*i]).collect::<Vec<_>>();
        assert!(
            e.bytes() == y.bytes(),
            "{what}: {} of {} differ, first at {:?}",
            wrong.len(),
            want.len(),
            wrong.first()
        );
    }
    frame.run.counters.cycles
}

/// Adds a node of which all inputs are there.
pub(crate) fn typed(graph: &mut Graph, op: impl Op + 'static, inputs: &[ValueId], ty: Type) -> ValueId {
    let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
    graph.add_typed_node(Arc::new(op), "layer", &inputs, vec![ty]).unwrap()[0]
}
