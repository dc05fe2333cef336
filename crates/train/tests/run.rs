//! A whole run, small: what it learns, and that neither threads nor interruptions change a bit of it.

use std::{fs, path::Path, sync::Arc};

use qing_formats::onnx;
use qing_graph::{Dim, Element, Graph, Op, Tensor, Type, ValueId, ops};
use qing_train::{
    Purpose, Random, TrainError,
    recipe::Recipe,
    run::{Event, Options, Outcome, train},
};

/// A network that even reference semantics trains in a moment: two strided convolutions and a classifier.
fn network() -> Graph {
    let mut graph = Graph::new("small");
    let dims = [Dim::Symbol("N".into()), Dim::Known(1), Dim::Known(28), Dim::Known(28)];
    let mut x = graph.add_input("image", Type::new(Element::F32, dims));
    let mut random = Random::new(3, Purpose::Initialize, 0, 0);
    let mut drawn = |graph: &mut Graph, name: &str, shape: &[usize], deviation: f32| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| deviation * random.normal()).collect();
        graph.add_constant(name, Tensor::new(shape, values).expect("fits"))
    };
    let node = |graph: &mut Graph, op: Arc<dyn Op>, name: &str, inputs: &[ValueId]| {
        let inputs: Vec<Option<ValueId>> = inputs.iter().copied().map(Some).collect();
        graph.add_node(op, name, &inputs, 1).expect("a legal node")[0]
    };
    for (name, from, to, kernel) in [("a", 1, 6, 4), ("b", 6, 12, 3)] {
        let w = drawn(&mut graph, &format!("{name}.weight"), &[to, from, kernel, kernel], 0.3);
        let stride = if kernel == 4 { 4 } else { 2 };
        let op = ops::Conv { strides: vec![stride; 2], ..ops::Conv::default() };
        x = node(&mut graph, Arc::new(op), &format!("{name}.conv"), &[x, w]);
        let channel = |graph: &mut Graph, what: &str, v: f32| {
            graph.add_constant(&format!("{name}.{what}"), Tensor::vector(vec![v; to]))
        };
        let (gamma, beta) = (channel(&mut graph, "gamma", 1.0), channel(&mut graph, "beta", 0.0));
        let (mean, var) = (channel(&mut graph, "mean", 0.0), channel(&mut graph, "variance", 1.0));
        let norm: Arc<dyn Op> = Arc::new(ops::BatchNormalization::default());
        x = node(&mut graph, norm, &format!("{name}.norm"), &[x, gamma, beta, mean, var]);
        x = node(&mut graph, Arc::new(ops::Relu {}), &format!("{name}.relu"), &[x]);
    }
    x = node(&mut graph, Arc::new(ops::GlobalAveragePool {}), "pool", &[x]);
    x = node(&mut graph, Arc::new(ops::Flatten { axis: 1 }), "flatten", &[x]);
    let w = drawn(&mut graph, "classify.weight", &[10, 12], 0.3);
    let b = graph.add_constant("classify.bias", Tensor::vector(vec![0.0f32; 10]));
    x = node(&mut graph, Arc::new(ops::Gemm { transB: true, ..ops::Gemm::default() }), "logits", &[x, w, b]);
    graph.mark_output(x);
    graph
}

const RECIPE: &str = "
    name = 'small'
    seed = 3
    [model]
    file = 'network.onnx'
    [data]
    train = 'zoo:fashion@!0::5'
    validate = 'zoo:fashion@0::5'
    test = 'zoo:fashion@0::5'
    batch = 50
    scale = 255
    mean = [0.2860]
    std = [0.3530]
    [augment]
    crop = 1
    mixup = 0.2
    cutout = { size = 6, probability = 0.5 }
    [loss]
    label_smoothing = 0.05
    [optimizer]
    rate = 0.2
    weight_decay = 1e-4
    average = 0.9
    clip = 5.0
    [schedule]
    epochs = 3
    curve = 'one_cycle'
";

fn options(folder: &Path, threads: usize) -> Options {
    let output = folder.join(format!("run{}", fs::read_dir(folder).expect("a folder").count()));
    fs::create_dir(&output).expect("a folder to write to");
    Options { folder: folder.into(), output, threads, resume: false, checkpoint_steps: None, test: true }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    onnx::write(&network(), &folder.path().join("network.onnx"), &onnx::WriteOptions::default()).expect("writes");
    folder
}

fn weights(outcome: &Outcome) -> Vec<(String, Tensor)> {
    outcome.graph.values().filter_map(|(_, v)| Some((v.name.clone(), v.constant.clone()?))).collect()
}

#[test]
fn learns_and_repeats_itself_on_any_number_of_threads() {
    let folder = folder();
    let recipe = Recipe::parse(RECIPE, &[]).expect("a recipe");
    let mut runs = vec![];
    for threads in [1, 2, 3] {
        let options = options(folder.path(), threads);
        let mut epochs = 0;
        let outcome = train(&recipe, &options, &mut |event| {
            epochs += u32::from(matches!(event, Event::Epoch(_)));
            true
        });
        let outcome = outcome.expect("trains");
        assert_eq!((epochs, outcome.history.len()), (3, 3));
        for file in &outcome.files {
            assert!(file.is_file(), "{}", file.display());
        }
        runs.push(outcome);
    }
    let first = &runs[0];
    let test = first.test.as_ref().expect("test data");
    assert_eq!(test.samples, 200);
    // Chance is a tenth; what it learns is the same on every machine that adds in the same order.
    assert!(test.accuracy() > 0.35, "{}", test.accuracy());
    assert!(first.history[2].loss < 0.9 * first.history[0].loss);
    // What was held out and what tests are the same images here: the written file is what was measured before.
    assert_eq!(first.history[2].held_accuracy, test.accuracy());
    for other in &runs[1..] {
        assert_eq!(weights(first), weights(other), "another number of threads");
    }
    let other = Recipe::parse(RECIPE, &["seed=4".into()]).expect("a recipe");
    let other = train(&other, &options(folder.path(), 1), &mut |_| true).expect("trains");
    assert_ne!(weights(first), weights(&other));
}

#[test]
fn a_run_that_was_stopped_anywhere_comes_to_the_same_weights() {
    let folder = folder();
    for method in ["sgd", "adamw"] {
        let settings = [format!("optimizer.method={method}"), "optimizer.rate=0.02".into(), "schedule.epochs=2".into()];
        let recipe = Recipe::parse(RECIPE, &settings).expect("a recipe");
        let whole = train(&recipe, &options(folder.path(), 1), &mut |_| true).expect("trains");
        let mut resumable = options(folder.path(), 2);
        // Stopped in the first epoch, between epochs, and in the second.
        for stop in [5usize, 16, 22] {
            let mut seen = 0;
            let stopped = train(&recipe, &resumable, &mut |event| {
                match event {
                    Event::Start { from, .. } => seen = from.0 as usize * 16 + from.1,
                    Event::Step { .. } => seen += 1,
                    Event::Epoch(_) => {}
                }
                seen < stop
            });
            assert!(stopped.expect_err("stopped").to_string().contains("--resume"));
            resumable.resume = true;
        }
        let resumed = train(&recipe, &resumable, &mut |_| true).expect("goes on");
        assert_eq!(weights(&whole), weights(&resumed), "{method}");
        let rows = |o: &Outcome| o.history.iter().map(|r| [r.loss, r.accuracy, r.held_loss]).collect::<Vec<_>>();
        assert_eq!(rows(&whole), rows(&resumed));
        let changed = Recipe::parse(RECIPE, &["optimizer.rate=0.5".into()]).expect("a recipe");
        let error = train(&changed, &resumable, &mut |_| true).expect_err("another recipe").to_string();
        assert!(error.contains("has changed") && error.contains("method") || error.contains("rate"), "{error}");
    }
}

#[test]
fn a_teacher_is_learnt_from() {
    let folder = folder();
    let taught = format!("{RECIPE}\n[distill]\nteacher = 'zoo:fashion'\nweight = 0.9\ntemperature = 2.0\n");
    let recipe = Recipe::parse(&taught, &["schedule.epochs=1".into()]).expect("a recipe");
    let outcome = train(&recipe, &options(folder.path(), 2), &mut |_| true).expect("trains");
    assert!(outcome.history[0].loss.is_finite());
    let alone = Recipe::parse(RECIPE, &["schedule.epochs=1".into()]).expect("a recipe");
    let alone = train(&alone, &options(folder.path(), 2), &mut |_| true).expect("trains");
    assert_ne!(weights(&outcome), weights(&alone));
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = folder();
    for (setting, word) in [
        ("data.train=nowhere:train", "data.train"),
        ("data.train=zoo:fashion:calibrate", "no label"),
        ("data.batch=5000", "batches of 5000"),
        ("model.file=zoo:none", "zoo:none"),
        ("model.architecture=resnet8", "either"),
        ("optimizer.momentum=1.5", "momentum"),
        ("schedule.peak=7", "peak"),
        ("schedule.floor=0.1", "floor"),
        ("model.labels=['a', 'b']", "labels"),
        ("optimizer.rate=1e9", "learning rate"),
    ] {
        let recipe = Recipe::parse(RECIPE, &[setting.into()]).expect("the keys are right");
        let error: TrainError = train(&recipe, &options(folder.path(), 1), &mut |_| true).expect_err(setting);
        assert!(error.to_string().contains(word), "{setting}: {error}");
    }
}
