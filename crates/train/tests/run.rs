//! A whole run, small: what it learns, and that neither threads nor interruptions change a bit of it.

use std::{fs, path::Path, slice, sync::Arc};

use qing_data::{Dataset, npz};
use qing_engine::Pool;
use qing_formats::{npy, onnx};
use qing_graph::{Dim, Element, Graph, Op, Tensor, Type, ValueId, ops};
use qing_train::{
    Purpose, Random, TrainError,
    checkpoint::Checkpoint,
    data::Loader,
    parameters::Role,
    recipe::Recipe,
    run::{Event, Options, Outcome, prepare, train},
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
    for (method, sparsity) in [("sgd", "{}"), ("adamw", "{}"), ("sgd", "{ '*.weight' = 0.6 }")] {
        let settings = [
            format!("optimizer.method={method}"),
            format!("optimizer.sparsity={sparsity}"),
            "optimizer.rate=0.02".into(),
            "schedule.epochs=2".into(),
        ];
        let recipe = Recipe::parse(RECIPE, &settings).expect("a recipe");
        let whole = train(&recipe, &options(folder.path(), 1), &mut |_| true).expect("trains");
        let zeros = |t: &Tensor| t.to_f32s().iter().filter(|v| **v == 0.0).count() as f64 / t.len() as f64;
        for (name, tensor) in weights(&whole).iter().filter(|(name, _)| name.ends_with(".weight")) {
            let want = if sparsity == "{}" { 0.0 } else { 0.6 };
            assert!((zeros(tensor) - want).abs() < 0.02, "{name} has {} of zeros", zeros(tensor));
        }
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

/// A recipe with a teacher whose words are kept in `said.npz`, and settings over it.
fn cached(settings: &[&str]) -> Recipe {
    let taught = format!("{RECIPE}\n[distill]\nteacher = 'zoo:fashion'\nweight = 0.9\ncache = 'said.npz'\n");
    let settings = ["augment.mixup=0", "augment.views=2"].iter().chain(settings).map(ToString::to_string);
    Recipe::parse(&taught, &settings.collect::<Vec<_>>()).expect("a recipe")
}

#[test]
fn what_a_teacher_said_is_kept_and_changes_no_weight() {
    let folder = folder();
    let file = folder.path().join("said.npz");
    let recipe = cached(&[]);
    let mut asked = recipe.clone();
    asked.distill.as_mut().expect("a teacher").cache = None;
    let asked = train(&asked, &options(folder.path(), 1), &mut |_| true).expect("trains");
    assert!(!file.exists());
    // Killed in the first epoch and in the second, by another number of threads.
    let mut resumable = options(folder.path(), 2);
    for stop in [(0, 5), (1, 3)] {
        let stopped = train(&recipe, &resumable, &mut |event| match event {
            Event::Step { epoch, step, .. } => (*epoch, *step) < stop,
            _ => true,
        });
        assert!(stopped.expect_err("stopped").to_string().contains("--resume"));
        assert!(file.exists());
        resumable.resume = true;
    }
    let filled = train(&recipe, &resumable, &mut |_| true).expect("goes on");
    assert_eq!(weights(&asked), weights(&filled));
    // The second run has nothing to ask, and nothing to write.
    let written = fs::metadata(&file).and_then(|m| m.modified()).expect("a file");
    let read = train(&recipe, &options(folder.path(), 1), &mut |_| true).expect("trains");
    assert_eq!(weights(&asked), weights(&read));
    assert_eq!(fs::metadata(&file).and_then(|m| m.modified()).expect("a file"), written);
    // It reads the file: with other numbers there it learns something else.
    let arrays = npy::read_npz(&file).expect("an archive");
    let halved: Vec<(String, Tensor)> = (arrays.into_iter())
        .map(|(name, array)| match name.starts_with("logits.") {
            true => {
                let half = array.to_f32s().iter().map(|v| v / 2.0).collect::<Vec<f32>>();
                (name, Tensor::new(array.shape(), half).expect("fits"))
            }
            false => (name, array),
        })
        .collect();
    npz::write(&file, &halved).expect("writes");
    let other = train(&recipe, &options(folder.path(), 1), &mut |_| true).expect("trains");
    assert_ne!(weights(&asked), weights(&other));
}

#[test]
fn what_another_teacher_said_is_refused() {
    let folder = folder();
    let run = |settings: &[&str]| train(&cached(settings), &options(folder.path(), 2), &mut |_| true);
    run(&["schedule.epochs=1"]).expect("trains");
    run(&["schedule.epochs=1", "data.batch=40", "augment.views=3"]).expect("the same samples in other batches");
    for (setting, word) in [
        ("distill.teacher=network.onnx", "teacher: "),
        ("seed=4", "seed: 4"),
        ("augment.crop=2", "crop: 2"),
        ("data.limit=400", "samples: 400"),
        ("data.train='zoo:fashion@!1::5'", "answers another input"),
        ("augment.mixup=0.2", "mixed anew"),
        ("augment.views=0", "views"),
    ] {
        let error = run(&["schedule.epochs=1", setting]).expect_err(setting).to_string();
        assert!(error.contains(word), "{setting}: {error}");
    }
    let mut endless = cached(&[]);
    endless.augment.views = None;
    let error = train(&endless, &options(folder.path(), 1), &mut |_| true).expect_err("no views").to_string();
    assert!(error.contains("augment.views"), "{error}");
}

#[test]
fn of_images_without_labels_a_teacher_speaks_alone() {
    let folder = folder();
    let settings =
        ["distill.cache=other.npz", "data.extra=['zoo:fashion:calibrate']", "data.limit=100", "data.batch=20"];
    let extra = Dataset::open("zoo:fashion:calibrate").expect("data").len();
    assert!(extra > 0);
    for (weight, labelled) in [("0.5", 100), ("1.0", 0)] {
        let recipe = cached(&[&settings[..], &[&format!("distill.weight={weight}")]].concat());
        let source = prepare(&recipe, folder.path(), &Arc::new(Pool::new(1))).expect("fits").source;
        assert_eq!((source.data.len(), source.labelled), (100 + extra, labelled));
        for batch in Loader::start(&source, 0, 0) {
            let batch = batch.expect("a batch");
            assert!(batch.samples.iter().zip(&batch.labels).all(|(i, label)| label.is_some() == (*i < labelled)));
            let targets = batch.targets.to_f32s();
            for (row, label) in targets.chunks_exact(10).zip(&batch.labels) {
                assert_eq!(row.iter().sum::<f32>() > 0.9, label.is_some());
            }
        }
        train(&recipe, &options(folder.path(), 2), &mut |_| true).expect("trains");
    }
    // Without a teacher all need labels.
    let recipe = cached(&["data.extra=['zoo:fashion:calibrate']"]);
    let recipe = Recipe { distill: None, ..recipe };
    let error = train(&recipe, &options(folder.path(), 1), &mut |_| true).expect_err("no labels").to_string();
    assert!(error.contains("no label"), "{error}");
}

#[test]
fn folded_normalizations_keep_their_statistics() {
    let folder = folder();
    let text = format!("{RECIPE}\n[quantize]\nbits = 'w4a4'\ncalibration = 50\n");
    for (fold, normalizations) in [(false, 2), (true, 0)] {
        let recipe = Recipe::parse(&text, &[format!("quantize.fold={fold}")]).expect("a recipe");
        let model = prepare(&recipe, folder.path(), &Arc::new(Pool::new(1))).expect("fits").model.expect("new");
        // A mean and a variance each.
        assert_eq!(model.statistics.len(), 2 * normalizations);
    }
}

#[test]
fn weights_of_another_run_are_gone_on_from_on_fewer_bits() {
    let folder = folder();
    let text = format!("{RECIPE}\n[quantize]\nbits = 'w4a4'\ncalibration = 50\n");
    let options = options(folder.path(), 1);
    let recipe = Recipe::parse(&text, &["schedule.epochs=1".into()]).expect("a recipe");
    train(&recipe, &options, &mut |_| true).expect("trains");
    let checkpoint = options.output.join("small.checkpoint.npz");
    let trained = Checkpoint::read_parameters(&checkpoint).expect("a checkpoint");
    // Eight bits, of the first layer, have had the scale that clips nothing in every step; these are averages.
    for (weights, scale) in trained["a.weight"].chunks(16).zip(&trained["a.weight.scale"]) {
        let most = weights.iter().fold(0f32, |m, w| m.max(w.abs())) / 127.0;
        assert!((0.999..1.1).contains(&(scale / most)), "{scale} where {most} clips nothing");
    }

    let start = |settings: &[String]| {
        let recipe = Recipe::parse(&text, &[&["quantize.bits=w2a2".to_owned()], settings].concat()).expect("a recipe");
        prepare(&recipe, folder.path(), &Arc::new(Pool::new(1))).map(|p| p.model.expect("new"))
    };
    let weights = format!("model.weights={}", checkpoint.display());
    let (first, further) = (start(&[]).expect("fits"), start(slice::from_ref(&weights)).expect("fits"));
    let mut moved = 0;
    for (a, b) in first.parameters.iter().zip(&further.parameters) {
        assert_eq!(a.name, b.name);
        if a.role != Role::Scale {
            assert_eq!(b.value, trained[&b.name], "{}", b.name);
            moved += usize::from(a.value != b.value);
        }
    }
    assert!(moved > 4, "{moved}");
    assert!(first.statistics.iter().zip(&further.statistics).all(|(a, b)| a.running != b.running));

    let error = |settings: &[String]| start(settings).expect_err("does not fit").to_string();
    assert!(error(&["model.weights=none.npz".into()]).contains("none.npz"));
    let other = "model.file=zoo:fashion".to_owned();
    assert!(error(&[other, weights.clone()]).contains("another network"));
    let recipe = Recipe::parse(RECIPE, &[weights]).expect("a recipe");
    let error = prepare(&recipe, folder.path(), &Arc::new(Pool::new(1))).expect_err("float").to_string();
    assert!(error.contains("model.weights"), "{error}");
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = folder();
    for (setting, word) in [
        ("data.train=nowhere:train", "data.train"),
        ("data.extra=['nowhere']", "data.extra"),
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
