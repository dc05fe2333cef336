//! ResNet-20 on real images: training in its last form gives the logits of the integer engine, image for image. Skipped where
//! `../shared` (or `QING_SHARED`) is not.

use std::path::{Path, PathBuf};

use qing_data::{Dataset, Feed};
use qing_engine::{Options, Plan, Session};
use qing_graph::{Graph, Tensor};
use qing_train::quantize::{Config, prepare, renormalize, shortcuts};

fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("QING_SHARED").map_or_else(beside, PathBuf::from);
    (folder.join("models").exists() && folder.join("data/cifar10").exists()).then_some(folder)
}

fn run(graph: &Graph, inputs: &[Tensor]) -> Vec<f32> {
    let shapes = Some(inputs.iter().map(|t| t.shape().to_vec()).collect());
    let options = Options { input_shapes: shapes, exact: true, ..Options::threads(2) };
    Session::new(Plan::new(graph, &options).unwrap().into()).run(inputs).unwrap().swap_remove(0).to_f32s()
}

#[test]
fn logits_of_training_are_those_of_the_integer_engine() {
    let Some(shared) = shared() else { return };
    let graph = qing_formats::read(&shared.join("models/resnet20_cifar10.onnx")).unwrap();
    let data = |spec: &str| {
        let data = Dataset::open(&format!("{}:{spec}", shared.join("data/cifar10").display())).unwrap();
        let items = (0..data.len()).map(|i| data.item(i).unwrap()).collect();
        Feed::for_input(&graph, 0).unwrap().batch(items).unwrap()
    };
    let (batch, calibration) = (20, vec![vec![data("train@0::1000")]]);
    let images = data("test@0::500");
    assert_eq!(images.shape(), [batch, 3, 32, 32]);
    for bits in ["w8a8", "w4a4", "w3a3", "w2a2", "w2a8", "w1a1"] {
        let mut graph = graph.clone();
        if bits == "w1a1" {
            assert_eq!(shortcuts(&mut graph, true).unwrap(), 9);
            renormalize(&mut graph, &calibration).unwrap();
        }
        let model = prepare(&graph, batch, &Config::with_bits(bits.parse().unwrap()), &calibration).unwrap();
        let settled = model.export.settled(batch, &model.values()).unwrap().unwrap();
        let values = settled.values();
        let parameters = settled.parameters.iter().map(|p| Tensor::new(&p.shape, p.value.clone()).unwrap());
        let inputs: Vec<Tensor> = [images.clone()].into_iter().chain(parameters).collect();
        let engine = run(&settled.exported(&values).unwrap(), std::slice::from_ref(&images));
        assert_eq!(run(&settled.graph, &inputs), engine, "{bits}");
        assert!(engine.iter().any(|v| *v != engine[0]), "{bits}: the network says the same of everything");
    }
}
