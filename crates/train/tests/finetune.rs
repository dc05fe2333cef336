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

use qing_data::{Dataset, Feed, zoo};
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

fn source(graph: &Graph, batch: usize) -> Source {
    Source {
        data: Dataset::open("zoo:fashion@!0::5").expect("embedded"),
        feed: Feed::for_input(graph, 0).expect("an image"),
        classes: 10,
        batch,
        augment: Augment::default(),
        smoothing: 0.0,
        mixup: 0.0,
        seed: 1,
    }
}

fn first(graph: &Graph, batch: usize) -> Vec<Tensor> {
    let batch = Loader::start(&Arc::new(source(graph, batch)), 0, 0).next().expect("a batch").expect("reads");
    vec![batch.input, batch.targets]
}

fn attach(model: &mut Model) -> Result<Objective, TrainError> {
    let logits = model.graph.outputs[0];
    let shape = model.graph.ty(logits).known_shape().expect("known");
    let targets = model.graph.add_input("targets", Type::new(Element::F32, shape));
    Ok(Objective { loss: loss::cross_entropy(&mut model.graph, logits, targets)?, inputs: vec![targets] })
}

/// What is chosen fits, and the allocator agrees.
fn budgets(graph: &Graph, pool: &Arc<Pool>) {
    let method = Method::Sgd { momentum: 0.9, nesterov: false };
    let settings = Settings {
        optimizer: Optimizer { method, decay: 0.0, ..Optimizer::default() },
        average: None,
        plan: PlanOptions::default(),
    };
    let mut trained = vec![];
    for budget in [250_000, 600_000, 4_000_000] {
        let request = Request {
            network: graph,
            batch: 16,
            budget,
            settings: &settings,
            allowed: &|_, _| true,
            attach: &attach,
            probe: &|batch| Ok(first(graph, batch)),
        };
        let choice = choose(&request, pool).expect("something fits");
        assert!(choice.memory <= budget && choice.candidates.iter().all(|c| c.memory <= budget), "{choice:?}");
        let chosen: Vec<_> = choice.candidates.iter().filter(|c| c.chosen).collect();
        assert!(!chosen.is_empty());
        assert!(chosen.iter().all(|c| c.contribution > 0.0));
        // Gradients of batches of different sizes cannot be compared; how much is updated can.
        trained.push(choice.model.trained());
        let (memory, batch) = (choice.memory, choice.batch);
        let mut model = choice.model;
        let objective = attach(&mut model).expect("a loss");
        let inputs = first(graph, batch);
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
        // Nothing is held beyond what was promised but lists of lengths and places.
        assert!(taken <= budget && taken <= memory + 16_384, "{taken} bytes, planned {memory} of {budget}");
        assert!(taken + 1024 >= memory, "{taken} bytes, planned {memory}: is something not counted?");
        drop((plan, model));
    }
    assert!(trained[1] > trained[0] && trained[2] >= trained[1], "{trained:?}");
    let tiny = Request {
        network: graph,
        batch: 16,
        budget: 10_000,
        settings: &settings,
        allowed: &|_, role| role == Role::Bias,
        attach: &attach,
        probe: &|batch| Ok(first(graph, batch)),
    };
    let error = choose(&tiny, pool).expect_err("too little").to_string();
    assert!(error.contains("10000 bytes"), "{error}");
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
    let folder = tempfile::tempdir().expect("a folder");
    a_run(folder.path(), &pool);
}
