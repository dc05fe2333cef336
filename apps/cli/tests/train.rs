//! `qing train` as a user meets it, and as a power cut meets it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

const RECIPE: &str = "
    name = 'tiny'
    [model]
    architecture = 'resnet8'
    input = [1, 8, 8]
    [data]
    train = 'zoo:fashion@:60'
    validate = 'zoo:fashion@60:80'
    test = 'zoo:fashion@60:80'
    batch = 10
    preset = 'unit'
    [augment]
    crop = 1
    flip = 0.5
    [optimizer]
    rate = 0.05
    weight_decay = 1e-4
    average = 0.9
    [schedule]
    epochs = 8
";

fn start(folder: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qing"));
    command.arg("train").arg("tiny.toml").args(["--checkpoint-steps", "1", "--json"]).args(args).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("qing starts")
}

fn finish(child: Child) -> String {
    let output = child.wait_with_output().expect("qing ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_killed_run_comes_to_the_same_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("tiny.toml"), RECIPE).expect("a recipe");
    let whole = finish(start(folder.path(), &["--output", "whole", "--threads", "1"]));
    assert_eq!(whole.lines().count(), 9, "{whole}");
    assert!(whole.lines().last().is_some_and(|l| l.contains("\"test_samples\":20")), "{whole}");
    // Killed as soon as an epoch is reported: somewhere in the next, between, before or while a checkpoint is written.
    let mut resume = vec!["--output", "killed", "--threads", "2"];
    for _ in 0..2 {
        let mut child = start(folder.path(), &resume);
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first = lines.next().expect("an epoch").expect("text");
        assert!(first.contains("\"epoch\":") || first.contains("\"result\":"), "{first}");
        child.kill().expect("killed");
        child.wait().expect("ends");
        resume.push("--resume");
        resume.dedup();
    }
    finish(start(folder.path(), &resume));
    for file in ["tiny.qing", "tiny.onnx"] {
        let read = |run: &str| fs::read(at(run).join(file)).expect("a network");
        assert!(read("whole") == read("killed"), "{file} differs");
    }
    let left: Vec<String> = fs::read_dir(at("killed"))
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".tmp"))
        .collect();
    let files = ["tiny.checkpoint.npz", "tiny.csv", "tiny.onnx", "tiny.qing", "tiny.svg"];
    assert!(left.len() == files.len() && files.iter().all(|f| left.iter().any(|l| l == f)), "{left:?}");
}

#[test]
fn wrong_recipes_are_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("tiny.toml"), RECIPE).expect("a recipe");
    for (args, words) in [
        (&["--set", "optimizer.ratte=1"][..], &["ratte", "weight_decay"][..]),
        (&["--set", "model.architecture=vgg"], &["vgg", "resnet20"]),
        (&["--set", "schedule.epochs=many"], &["epochs"]),
        (&["--resume", "--output", "nothing"], &["tiny.checkpoint.npz"]),
    ] {
        let output = start(folder.path(), args).wait_with_output().expect("qing ends");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(words.iter().all(|w| error.contains(w)), "{args:?}: {error}");
    }
}

#[test]
fn fine_tuning_within_a_budget() {
    let folder = tempfile::tempdir().expect("a folder");
    let tune = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qing"));
        command.args(["finetune", "zoo:fashion", "--data", "zoo:fashion@:160", "--epochs", "1", "--json"]);
        command.args(args).current_dir(folder.path()).stdin(Stdio::null()).output().expect("qing starts")
    };
    let output =
        tune(&["--memory", "600kB", "--batch", "8", "--test", "zoo:fashion@160:260", "--teacher", "zoo:fashion"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("updated, the most gain for its memory first"), "{said}");
    let result = String::from_utf8(output.stdout).expect("text");
    assert!(result.lines().last().is_some_and(|l| l.contains("\"test_samples\":100")), "{result}");
    // The recipe it wrote does the same again.
    let tuned = fs::read(folder.path().join("fashion-tuned.qing")).expect("a network");
    let mut again = Command::new(env!("CARGO_BIN_EXE_qing"));
    again.args(["train", "fashion-tuned.toml", "-o", "again"]).current_dir(folder.path());
    assert!(again.output().expect("qing starts").status.success());
    assert!(fs::read(folder.path().join("again/fashion-tuned.qing")).expect("a network") == tuned);
    for (args, word) in
        [(["--memory", "5kB"], "5000 bytes"), (["--memory", "much"], "64MB"), (["--only", "x*"], "none is selected")]
    {
        let output = tune(&args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(word), "{args:?}: {error}");
    }
}

#[test]
fn a_lighter_network_learns_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qing"));
        command.args(["lighten", "zoo:fashion", "--bits", "w2a8", "--edge-bits", "0", "--seconds", "0", "--json"]);
        command.args(["--evaluate", "zoo:fashion@0::5", "-o", "light.qing"]).args(args).current_dir(folder.path());
        let output = command.stdin(Stdio::null()).output().expect("qing runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("text");
        let report =
            text.lines().position(|l| l == "{").map_or(0, |at| text.lines().take(at).map(|l| l.len() + 1).sum());
        let report: serde_json::Value = serde_json::from_str(&text[report..]).expect("a report");
        report["after"]["accuracy"]["top1"].as_f64().expect("an accuracy")
    };
    let rounded = run(&["--effort", "quick"]);
    let learnt = run(&["--recover", "zoo:fashion@!0::5", "--epochs", "6", "--rate", "0.01"]);
    assert!(learnt > rounded + 0.02, "{rounded} {learnt}");
    // What was trained is a recipe of its own.
    let recipe = fs::read_to_string(folder.path().join("light.toml")).expect("a recipe");
    assert!(
        recipe.contains("teacher = \"zoo:fashion\"") && recipe.contains("\"classify\" = \"w2a8\"")
            || recipe.contains("classify = \"w2a8\""),
        "{recipe}"
    );
}

#[test]
fn a_design_is_found_within_a_budget_and_its_recipe_trains() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("tiny.toml");
    fs::write(&recipe, RECIPE.replace("'resnet8'", "'residual:8,8x1,16x1s2'\n    classes = 10")).expect("a recipe");
    let qing = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qing"));
        command.args(args).current_dir(folder.path()).output().expect("qing runs")
    };
    let design = |budget: &str| {
        let out = qing(&[
            "design",
            "tiny.toml",
            "--budget",
            budget,
            "--trials",
            "12",
            "--finalists",
            "1",
            "--resolutions",
            "8,12",
            "--json",
        ]);
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    let (done, text, errors) = design("macs<=300k,params<=12k");
    assert!(done, "{errors}");
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(found["judged"], 12);
    let chosen = &found["chosen"];
    assert!(
        chosen["costs"][0].as_f64().is_some_and(|c| c <= 300e3)
            && chosen["costs"][1].as_f64().is_some_and(|c| c <= 12e3)
    );
    assert!(found["finalists"].as_array().is_some_and(|f| f.len() == 2 && f.iter().all(|f| f["accuracy"].is_number())));
    let trained = qing(&["train", "tiny-design.toml", "--set", "schedule.epochs=1", "--json"]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    assert!(folder.path().join("tiny-design.qing").exists());

    let (done, _, errors) = design("macs<=1k");
    assert!(!done && errors.contains("times as much"), "{errors}");
    let (done, _, errors) = design("drop<=1");
    assert!(!done && errors.contains("macs, params, latency and npu_cycles"), "{errors}");
}
