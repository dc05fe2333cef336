//! Plans that take their weights packed from an earlier one compute the same, and never believe weights of another network; plans that may
//! use bfloat16 compute nearly the same.

use std::sync::Arc;

use qing_engine::{Options, Plan, Prepacked, Session};
use qing_graph::{Element, Graph, Op, Quant, Tensor, Type, ValueId, ops};

const IMAGE: [usize; 4] = [1, 3, 14, 14];

/// A network of a dense, a depthwise and two pointwise convolutions and a classifier, with weights that follow from `seed`: on floats, or
/// on bytes with weights of so many bits.
struct Network {
    graph: Graph,
    bits: Option<u8>,
    seed: usize,
    at: ValueId,
}

impl Network {
    fn ty(&self, shape: &[usize]) -> Type {
        let ty = Type::new(Element::F32, shape.to_vec());
        match self.bits {
            None => ty,
            Some(_) => ty.quantized(Element::U8, Quant::per_tensor(0.05, 120).expect("a scale")),
        }
    }

    fn node(&mut self, op: impl Op, inputs: &[ValueId], ty: Type) -> ValueId {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        let name = format!("n{}", self.graph.nodes.len());
        self.graph.add_typed_node(Arc::new(op), &name, &inputs, vec![ty]).expect("a legal node")[0]
    }

    fn weights(&mut self, shape: &[usize]) -> ValueId {
        self.seed += 1;
        let count: usize = shape.iter().product();
        let hash = |i: usize| ((i + 131 * self.seed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        match self.bits {
            None => {
                let values: Vec<f32> = (0..count).map(|i| hash(i) as f32 / (1 << 24) as f32 - 0.5).collect();
                self.graph.add_constant("w", Tensor::new(shape, values).expect("as many"))
            }
            Some(bits) => {
                let most = (1u64 << (bits - 1)) - 1;
                let values: Vec<i32> = (0..count).map(|i| (hash(i) % (2 * most + 1)) as i32 - most as i32).collect();
                let element = Element::integer(bits, true).expect("a width");
                let scales = Quant::per_axis(0, vec![0.3 / most as f32; shape[0]]).expect("scales");
                let ty = Type::new(Element::F32, shape.to_vec()).quantized(element, scales);
                self.graph.add_typed_constant("w", ty, Tensor::from_ints(element, shape, &values).expect("they fit"))
            }
        }
    }

    fn conv(&mut self, shape: [usize; 4], kernel: [usize; 4], group: i64) {
        let w = self.weights(&kernel);
        let pad = (kernel[2] / 2) as i64;
        let conv = ops::Conv { pads: vec![pad; 4], group, ..ops::Conv::default() };
        let ty = self.ty(&shape);
        self.at = self.node(conv, &[self.at, w], ty.clone());
        self.at = self.node(ops::Relu {}, &[self.at], ty);
    }

    fn make(bits: Option<u8>, seed: usize) -> Graph {
        let mut graph = Graph::new("small");
        let at = graph.add_input("image", Type::new(Element::F32, IMAGE));
        let mut n = Network { graph, bits, seed, at };
        if bits.is_some() {
            let ty = n.ty(&IMAGE);
            n.at = n.node(ops::Quantize {}, &[n.at], ty);
        }
        n.conv([1, 40, 14, 14], [40, 3, 3, 3], 1);
        n.conv([1, 40, 14, 14], [40, 1, 3, 3], 40);
        n.conv([1, 72, 14, 14], [72, 40, 1, 1], 1);
        n.conv([1, 24, 14, 14], [24, 72, 1, 1], 1);
        n.conv([1, 24, 14, 14], [24, 24, 3, 3], 1);
        let ty = n.ty(&[1, 24, 1, 1]);
        n.at = n.node(ops::GlobalAveragePool {}, &[n.at], ty);
        if bits.is_some() {
            n.at = n.node(ops::Dequantize {}, &[n.at], Type::new(Element::F32, [1, 24, 1, 1]));
        }
        n.graph.mark_output(n.at);
        n.graph
    }
}

fn run(graph: &Graph, options: &Options) -> Vec<u8> {
    let values: Vec<f32> = (0..IMAGE.iter().product()).map(|i| (i * 29 % 97) as f32 / 20.0 - 2.0).collect();
    let mut session = Session::new(Plan::new(graph, options).expect("a plan").into());
    session.run(&[Tensor::new(&IMAGE, values).expect("as many")]).expect("it runs")[0].bytes().to_vec()
}

fn packed(graph: &Graph, options: &Options) -> Option<Prepacked> {
    let section = Plan::prepack(graph, options).expect("a plan").1;
    // On a line of the cache, as in a file.
    let mut room = vec![0; section.len() + 64];
    let start = room.as_ptr().align_offset(64);
    room[start..start + section.len()].copy_from_slice(&section);
    Some(Prepacked::new(bytes::Bytes::from(room).slice(start..start + section.len())).expect("a section"))
}

const NETWORKS: [Option<u8>; 5] = [None, Some(8), Some(4), Some(3), Some(2)];

#[test]
fn packed_weights_change_no_result() {
    for bits in NETWORKS {
        let graph = Network::make(bits, 0);
        for isa in qing_engine::Isa::available() {
            let options = Options { isa: Some(isa), ..Options::default() };
            let want = run(&graph, &options);
            let prepacked = packed(&graph, &options);
            for threads in [1, 2, 3] {
                let options = Options { threads, prepacked: prepacked.clone(), ..options.clone() };
                assert_eq!(run(&graph, &options), want, "{bits:?} {isa:?} {threads}");
            }
        }
    }
}

#[test]
fn those_of_another_network_or_machine_are_not_believed() {
    for bits in NETWORKS {
        let (graph, other) = (Network::make(bits, 0), Network::make(bits, 1));
        let (plain, exact) = (Options::default(), Options { exact: true, ..Options::default() });
        let want = run(&graph, &plain);
        assert_ne!(want, run(&other, &plain), "the networks differ");
        for from in [packed(&other, &plain), packed(&Network::make(Some(5), 3), &plain), packed(&graph, &exact)] {
            let options = Options { prepacked: from, ..Options::default() };
            assert_eq!(run(&graph, &options), want, "{bits:?}");
        }
        for isa in qing_engine::Isa::available() {
            let options = Options { isa: Some(isa), ..Options::default() };
            let from = Options { prepacked: packed(&graph, &plain), ..options.clone() };
            assert_eq!(run(&graph, &from), run(&graph, &options), "{bits:?} {isa:?}");
        }
    }
}

#[test]
fn bfloat16_is_used_when_asked_for_and_close() {
    let graph = Network::make(None, 0);
    let floats = |bytes: Vec<u8>| bytemuck::pod_collect_to_vec::<u8, f32>(&bytes);
    let options = Options { bf16: true, ..Options::default() };
    let (want, got) = (floats(run(&graph, &Options::default())), floats(run(&graph, &options)));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    let off = norm(&mut want.iter().zip(&got).map(|(a, b)| a - b)) / norm(&mut want.iter().copied());
    let plan = Plan::new(&graph, &options).expect("a plan");
    let used = plan.layers().iter().filter(|layer| layer.kernel.contains("bf16")).count();
    println!("{used} layers in bfloat16, {off:.1e} off");
    assert!(off < 1e-2, "{off}");
    assert_eq!(used > 0, qing_kernels::cpu::has_bf16());
    assert_eq!(off > 0.0, used > 0);
    for threads in [2, 3] {
        assert_eq!(floats(run(&graph, &Options { threads, ..options.clone() })), got);
    }
    // Sums of integers must stay exact.
    let exact = Options { exact: true, ..Options::default() };
    assert_eq!(run(&graph, &Options { bf16: true, ..exact.clone() }), run(&graph, &exact));
}
