//! Fine-tuning within a budget of memory, measured by the allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use qing_data::{Dataset, Feed, Preprocess, zoo};
use qing_engine::{Options as PlanOptions, Pool};
use qing_formats::onnx;
use qing_graph::{Element, Graph, Tensor, Type};
use qing_train::{
    TrainError,
    data::{Augment, Loader, Source},
    finetune::{Request, choose},
    loss, measure,
    optimize::{Method, Settings as Optimizer},
    parameters::{Model, Role},
    recipe::Recipe,
    run::{Event, Options, train},
    trainer::{Objective, Settings, Trainer},
};

/// The system's allocator, counting what is alive and the most that ever was.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on to the system's allocator unchanged.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn network() -> Graph {
    onnx::read_bytes(&zoo::find("fashion").expect("embedded").bytes(), None).expect("a network")
}

fn source(graph: &Graph, data: &str, batch: usize) -> Source {
    Source {
        data: Dataset::open(data).expect("a data set"),
        feed: Feed::for_input(graph, 0).expect("an image"),
        classes: 10,
        batch,
        augment: Augment::default(),
        views: None,
        smoothing: 0.0,
        mixup: 0.0,
        seed: 1,
        labelled: usize::MAX,
    }
}

fn first(graph: &Graph, data: &str, batch: usize) -> Vec<Tensor> {
    let batch = Loader::start(&Arc::new(source(graph, data, batch)), 0, 0).next().expect("a batch").expect("reads");
    vec![batch.input, batch.targets]
}

fn attach(model: &mut Model) -> Result<Objective, TrainError> {
    let logits = model.graph.outputs[0];
    let shape = model.graph.ty(logits).known_shape().expect("known");
    let targets = model.graph.add_input("targets", Type::new(Element::F32, shape));
    Ok(Objective { loss: loss::cross_entropy(&mut model.graph, logits, targets)?, inputs: vec![targets] })
}

const FASHION: &str = "zoo:fashion@!0::5";

/// What is chosen fits, and the allocator agrees. Gives the number of values that are updated.
fn within(graph: &Graph, data: &str, budget: usize, only: &str, pool: &Arc<Pool>) -> usize {
    let method = Method::Sgd { momentum: 0.9, nesterov: false };
    let settings = Settings {
        optimizer: Optimizer { method, decay: 0.0, ..Optimizer::default() },
        average: None,
        plan: PlanOptions::default(),
    };
    let request = Request {
        network: graph,
        batch: 16,
        budget,
        settings: &settings,
        allowed: &|name, _| name.starts_with(only),
        attach: &attach,
        probe: &|batch| Ok(first(graph, data, batch)),
    };
    let choice = choose(&request, pool).expect("something fits");
    assert!(choice.memory <= budget && choice.candidates.iter().all(|c| c.memory <= budget), "{choice:?}");
    let chosen: Vec<_> = choice.candidates.iter().filter(|c| c.chosen).collect();
    assert!(!chosen.is_empty());
    assert!(chosen.iter().all(|c| c.contribution > 0.0 && c.part.name.starts_with(only)));
    let (memory, batch) = (choice.memory, choice.batch);
    let mut model = choice.model;
    let trained = model.trained();
    let objective = attach(&mut model).expect("a loss");
    let inputs = first(graph, data, batch);
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let mut trainer = Trainer::new(model, &objective, &settings, pool).expect("plans");
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let losses: Vec<f32> = (0..8).map(|_| trainer.step(&inputs, 0.01).expect("a step")).collect();
    assert!(losses[7] < losses[0], "{losses:?}");
    let during = PEAK.load(Ordering::Relaxed) - before;
    assert_eq!(trainer.memory(), memory);
    let all = LIVE.load(Ordering::Relaxed);
    let (plan, model) = trainer.into_parts();
    let taken = all - LIVE.load(Ordering::Relaxed) + during;
    println!("{}, {budget} bytes, batches of {batch}: {trained} values, planned {memory}, taken {taken}", graph.name);
    // Nothing is held beyond what was promised but lists of lengths and places.
    assert!(taken <= budget && taken <= memory + 16_384, "{taken} bytes, planned {memory} of {budget}");
    assert!(taken + 1024 >= memory, "{taken} bytes, planned {memory}: is something not counted?");
    drop((plan, model));
    trained
}

fn budgets(graph: &Graph, pool: &Arc<Pool>) {
    // Gradients of batches of different sizes cannot be compared; how much is updated can.
    let trained = [250_000, 600_000, 4_000_000].map(|budget| within(graph, FASHION, budget, "", pool));
    assert!(trained[1] > trained[0] && trained[2] >= trained[1], "{trained:?}");
    let tiny = Request {
        network: graph,
        batch: 16,
        budget: 10_000,
        settings: &Settings { optimizer: Optimizer::default(), average: None, plan: PlanOptions::default() },
        allowed: &|_, role| role == Role::Bias,
        attach: &attach,
        probe: &|batch| Ok(first(graph, FASHION, batch)),
    };
    let error = choose(&tiny, pool).expect_err("too little").to_string();
    assert!(error.contains("10000 bytes"), "{error}");
}

/// The last block of a network of real size within a megabyte, where the network and its data are.
fn last_block(pool: &Arc<Pool>) {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let (model, data) = (shared.join("models/resnet20_cifar10.onnx"), shared.join("data/cifar10"));
    if !model.exists() || !data.exists() {
        println!("skipped: {} or {} is not there", model.display(), data.display());
        return;
    }
    let mut graph = qing_formats::read(&model).expect("a network");
    // Another camera than the one it knows.
    let input = graph.ty(graph.inputs[0]);
    let seen = Preprocess::from_metadata(&graph.metadata, input).expect("metadata").expect("an image");
    graph.metadata.extend(seen.with_preset("unit").expect("a preset").to_metadata());
    within(&graph, &format!("{}:train@0::100", data.display()), 1_000_000, "layer3.2", pool);
}

const RECIPE: &str = "
    name = 'tuned'
    [model]
    file = 'zoo:fashion'
    [data]
    train = 'zoo:fashion@!0::5'
    test = 'zoo:fashion@0::5'
    batch = 8
    # Another camera: brighter, with less contrast.
    mean = [0.0]
    std = [0.6]
    [update]
    memory = '600kB'
    [optimizer]
    rate = 0.01
    [schedule]
    epochs = 2
";

/// A network whose camera changed is won back within 600 kB.
fn a_run(folder: &Path, pool: &Arc<Pool>) {
    let recipe = Recipe::parse(RECIPE, &[]).expect("a recipe");
    let output = folder.join("out");
    fs::create_dir(&output).expect("a folder");
    let options =
        Options { folder: folder.into(), output, threads: 1, resume: false, checkpoint_steps: None, test: true };
    let mut parts = 0;
    let outcome = train(&recipe, &options, &mut |event| {
        if let Event::Start { candidates, memory, .. } = event {
            assert!(*memory <= 600_000, "{memory}");
            parts = candidates.iter().filter(|c| c.chosen).count();
        }
        true
    });
    let outcome = outcome.expect("trains");
    assert!(parts > 1);
    let mut before = network();
    before.metadata.extend(outcome.graph.metadata.clone());
    let feed = Feed::for_input(&before, 0).expect("an image");
    let test = Dataset::open("zoo:fashion@0::5").expect("embedded");
    let before = measure(&before, &test, &feed, 50, pool).expect("runs").accuracy();
    let after = outcome.test.expect("tested").accuracy();
    assert!(after > before + 0.05 && after > 0.8, "from {before} to {after}");
}

// One test, so that no other thread of the harness allocates meanwhile.
#[test]
fn fits_its_budget_and_learns() {
    let pool = Arc::new(Pool::new(1));
    budgets(&network(), &pool);
    last_block(&pool);
    let folder = tempfile::tempdir().expect("a folder");
    a_run(folder.path(), &pool);
}
