//! The binary as a user meets it: help, tables, errors, exit codes, and the whole path from a network to a lighter one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn qing(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qing"));
    // Help is as wide as the terminal, if there is one.
    command.env_remove("COLUMNS").stdin(Stdio::null());
    command.args(args).current_dir(folder).output().expect("qing starts")
}

/// Exit code, standard output and standard error, with what differs from run to run replaced.
fn transcript(folder: &Path, args: &[&str]) -> String {
    let output = qing(folder, args);
    let text = |bytes: &[u8]| redact(&String::from_utf8_lossy(bytes).replace(&folder.display().to_string(), "FOLDER"));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    format!("$ qing {}\nexit code {}\n{out}{err}", args.join(" "), output.status.code().unwrap_or(-1))
}

/// Numbers with decimals depend on the instruction set and the clock: `93.4` becomes `#.#`.
fn redact(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('.') {
        let digits = |c: char| c.is_ascii_digit();
        let before = rest[..at].len() - rest[..at].trim_end_matches(digits).len();
        let after = rest[at + 1..].len() - rest[at + 1..].trim_start_matches(digits).len();
        if before == 0 || after < 2 {
            out += &rest[..=at];
            rest = &rest[at + 1..];
            continue;
        }
        out += &rest[..at - before];
        out += "#.#";
        rest = &rest[at + 1 + after..];
    }
    out + rest
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let output = qing(folder, args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "qing {}: {error}", args.join(" "));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("qing {}: {e}", args.join(" ")))
}

/// What a command that fails says.
fn fails(folder: &Path, args: &[&str]) -> String {
    let out = qing(folder, args);
    assert!(!out.status.success(), "{args:?}");
    String::from_utf8(out.stderr).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A `.npy` file of zeros.
fn zeros(path: PathBuf, shape: &[usize]) {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}", dims.join(", "));
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\0".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + 4 * shape.iter().product::<usize>(), 0);
    fs::write(path, bytes).expect("a file");
}

#[test]
fn help() {
    let here = folder();
    for command in [
        "",
        "lighten",
        "design",
        "factorize",
        "run",
        "evaluate",
        "inspect",
        "compare",
        "score",
        "bench",
        "train",
        "finetune",
        "zoo",
    ] {
        let args: Vec<&str> = [command, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        let name = if command.is_empty() { "help".to_string() } else { format!("help_{command}") };
        let output = qing(here.path(), &args);
        assert!(output.status.success());
        insta::assert_snapshot!(name, String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn embedded_network() {
    let here = folder();
    insta::assert_snapshot!("zoo", transcript(here.path(), &["zoo"]));
    insta::assert_snapshot!("inspect", transcript(here.path(), &["inspect", "zoo:fashion"]));
    insta::assert_snapshot!("inspect_graph", transcript(here.path(), &["inspect", "zoo:fashion", "--graph"]));
    insta::assert_snapshot!("run", transcript(here.path(), &["run", "zoo:fashion", "--top", "1"]));
    let limited = ["evaluate", "zoo:fashion", "--data", "zoo:fashion@:100", "--batch", "8", "--json"];
    let got = json(here.path(), &limited);
    assert_eq!((got["samples"].as_u64(), got["classes"].as_u64()), (Some(100), Some(10)));
    assert!(got["top1"].as_f64() > Some(0.9), "{got}");
}

#[test]
fn errors_say_what_and_where() {
    let here = folder();
    let at = |name: &str| here.path().join(name);
    assert!(qing(here.path(), &["zoo", "--save", "fashion"]).status.success());
    let model = fs::read(at("fashion.onnx")).expect("the saved network");
    fs::write(at("cut.onnx"), &model[..model.len() / 2]).expect("a file");
    fs::write(at("noise.onnx"), b"\x89PNG not a model at all").expect("a file");
    fs::write(at("text.jpg"), b"hello").expect("a file");
    zeros(at("small.npy"), &[1, 1, 5, 5]);
    fs::create_dir(at("empty")).expect("a folder");
    for (name, args) in [
        ("no_such_file", &["inspect", "nowhere.onnx"][..]),
        ("no_such_zoo", &["inspect", "zoo:nothing"]),
        ("cut_model", &["inspect", "cut.onnx"]),
        ("no_model", &["run", "noise.onnx", "small.npy"]),
        ("wrong_shape", &["run", "fashion.onnx", "small.npy"]),
        ("no_image", &["run", "fashion.onnx", "text.jpg"]),
        ("no_input", &["run", "fashion.onnx"]),
        ("no_data", &["evaluate", "fashion.onnx"]),
        ("empty_data", &["evaluate", "fashion.onnx", "--data", "empty"]),
        ("missing_data", &["lighten", "fashion.onnx", "--calibrate", "missing"]),
        ("empty_slice", &["evaluate", "fashion.onnx", "--data", "zoo:fashion@5000:"]),
        ("bad_bits", &["lighten", "fashion.onnx", "--bits", "w9a8"]),
        ("bad_budget", &["lighten", "fashion.onnx", "--budget", "size<500"]),
        ("drop_without_labels", &["lighten", "zoo:fashion", "--budget", "drop<=1"]),
        ("bad_layer", &["lighten", "fashion.onnx", "--layer", "conv"]),
        ("no_such_layer", &["lighten", "fashion.onnx", "--layer", "head*=w8a8"]),
        ("bad_range", &["lighten", "fashion.onnx", "--range", "median"]),
        ("bad_output", &["lighten", "fashion.onnx", "-o", "light.tflite"]),
        ("no_folder", &["lighten", "fashion.onnx", "-o", "nowhere/light.qing"]),
        ("bad_mean", &["run", "fashion.onnx", "text.jpg", "--mean", "dark"]),
        ("bad_command", &["enlighten"]),
    ] {
        insta::assert_snapshot!(format!("error_{name}"), transcript(here.path(), args));
    }
}

#[test]
fn a_network_becomes_light_without_losing_its_task() {
    let here = folder();
    let report = json(here.path(), &["lighten", "zoo:fashion", "--seconds", "0.05", "--json"]);
    let accuracy = |side: &str| report[side]["accuracy"]["top1"].as_f64().expect("an accuracy");
    assert!((accuracy("before") - 0.950).abs() < 0.003, "{report}");
    assert!(accuracy("after") > accuracy("before") - 0.01, "{report}");
    let bytes = |side: &str| report[side]["file_bytes"].as_f64().expect("a size");
    assert!(bytes("before") > 5.0 * bytes("after"), "{report}");
    let narrow = |l: &&Value| l["weight_bits"] == 4 && l["activation_bits"] == 8;
    assert_eq!(report["layers"].as_array().map(|l| l.iter().filter(narrow).count()), Some(6), "{report}");

    // Both files hold the same network, and say how images are prepared.
    let evaluate = |file: &str| json(here.path(), &["evaluate", file, "--data", "zoo:fashion", "--json"]);
    assert_eq!(evaluate("fashion-w4a8.qing")["top1"], report["after"]["accuracy"]["top1"]);
    let onnx = evaluate("fashion-w4a8.onnx")["top1"].as_f64().expect("an accuracy");
    assert!((onnx - accuracy("after")).abs() < 0.005, "{onnx} from the ONNX file, {} from .qing", accuracy("after"));
    let left: Vec<_> = fs::read_dir(here.path()).expect("a folder").collect();
    assert_eq!(left.len(), 2, "no temporary files are left: {left:?}");
}

#[test]
fn without_data_the_report_is_loud() {
    let here = folder();
    assert!(qing(here.path(), &["zoo", "--save", "fashion"]).status.success());
    let args = ["lighten", "fashion.onnx", "--bits", "w8a8", "-o", "light.qing", "--seconds", "0"];
    let output = qing(here.path(), &args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(err.contains("WARNING: no calibration data") && out.contains("give --calibrate DATA"), "{err}{out}");
}

#[test]
fn bench_keeps_its_contract() {
    let here = folder();
    let args = ["bench", "zoo:fashion", "--threads", "2", "--batch", "2", "--seconds", "0.01", "--profile", "--json"];
    let got = json(here.path(), &args);
    for path in ["/latency_ms/median", "/latency_ms/min", "/cpu_ms/median", "/load_ms", "/peak_memory_bytes"] {
        assert!(got.pointer(path).and_then(Value::as_f64).is_some_and(|v| v > 0.0), "{path} of {got}");
    }
    assert!(got["base_memory_bytes"].is_u64() && got["batch"] == 2, "{got}");
    let layers = got["layers"].as_array().expect("layers");
    let stem = layers.iter().find(|l| l["node"] == "stem.conv").unwrap_or_else(|| panic!("{got}"));
    for key in ["ms", "macs", "bytes", "weight_bytes", "roof_ms", "of_roof"] {
        assert!(stem[key].as_f64() > Some(0.0), "{key} of {stem}");
    }
    assert!(stem["bound"] == "compute" || stem["bound"] == "memory", "{stem}");
    assert!(got.pointer("/profile/peaks/int8_macs_per_second").and_then(Value::as_f64) > Some(1e6), "{got}");
    let share = |group: &Value| group["share"].as_f64().expect("a share");
    let kernels = got.pointer("/profile/kernels").and_then(Value::as_array).expect("kernels");
    assert!((kernels.iter().map(share).sum::<f64>() - 1.0).abs() < 1e-6, "{got}");
}

#[test]
fn a_profile_is_a_table_for_people() {
    let here = folder();
    let output = qing(here.path(), &["bench", "zoo:fashion", "--seconds", "0.01", "--profile"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for word in ["stem.conv", "of roof", "CPU/wall", "peaks", "slowest", "products", "DRAM"] {
        assert!(out.contains(word), "{word} in {out}");
    }
}

#[test]
fn a_trace_has_every_layer_of_every_run() {
    let here = folder();
    let flags = ["bench", "zoo:fashion", "--seconds", "0.01", "--threads", "2", "--json", "--trace", "trace.json"];
    let report = json(here.path(), &flags);
    assert!(report.get("layers").is_none(), "{report}");
    let trace = fs::read(here.path().join("trace.json")).expect("the trace");
    let trace: Value = serde_json::from_slice(&trace).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    let spans = |row: u64| events.iter().filter(move |e| e["ph"] == "X" && e["tid"] == row);
    assert_eq!(spans(0).filter(|e| e["name"] == "stem.conv").count(), 3);
    assert!(spans(0).all(|e| e["dur"].as_f64() >= Some(0.0) && e["args"]["kernel"].is_string()));
    // The caller takes part in every job; whether the other thread does is up to the system.
    assert!(spans(1).count() + spans(2).count() > 0);
    let layers: Vec<&Value> = spans(0).map(|e| &e["name"]).collect();
    assert!(spans(1).chain(spans(2)).all(|e| layers.contains(&&e["name"])));
}

#[test]
fn without_the_other_engine_the_error_says_how_to_get_it() {
    let here = folder();
    let flags = ["bench", "zoo:fashion", "--against", "onnxruntime", "--python", "no-such-python"];
    insta::assert_snapshot!("error_no_python", transcript(here.path(), &flags));
    let flags = ["bench", "zoo:fashion", "--against", "tensorflow"];
    insta::assert_snapshot!("error_no_such_engine", transcript(here.path(), &flags));
    insta::assert_snapshot!("error_rounds_alone", transcript(here.path(), &["bench", "zoo:fashion", "--rounds", "3"]));
}

#[test]
fn beside_onnxruntime() {
    let here = folder();
    let python = std::env::var("QING_PYTHON").unwrap_or_else(|_| "python3".into());
    let has = Command::new(&python).args(["-c", "import numpy, onnxruntime"]).output();
    if !has.is_ok_and(|o| o.status.success()) {
        println!("skipped: {python} has no onnxruntime; QING_PYTHON names one that has");
        return;
    }
    // A float network from the zoo, and an integer one that goes out through ONNX first.
    let light = ["lighten", "zoo:fashion", "--bits", "w8a8", "-o", "light.qing", "--seconds", "0"];
    assert!(qing(here.path(), &light).status.success());
    for model in ["zoo:fashion", "light.qing"] {
        let flags =
            ["bench", model, "--against", "onnxruntime", "--python", &python, "--rounds", "2", "--seconds", "0.02"];
        let output = qing(here.path(), &flags);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{model}: {err}");
        assert!(out.contains("CPU time") && out.contains("Outputs agree"), "{out}");
        let got = json(here.path(), &[&flags[..], &["--json"]].concat());
        assert_eq!(got["pairs"].as_array().map(Vec::len), Some(2), "{got}");
        for measure in ["latency", "cpu_time", "loading", "memory"] {
            assert!(got["medians"][measure]["ratio"].as_f64() > Some(0.0), "{measure} of {got}");
        }
        let output = &got["outputs"][0];
        assert!(output["deviation"].as_f64() <= output["allowed"].as_f64(), "{got}");
    }
}

#[test]
fn outputs_are_written() {
    let here = folder();
    zeros(here.path().join("x.npy"), &[3, 1, 28, 28]);
    let got = json(here.path(), &["run", "zoo:fashion", "x.npy", "--output", "y.npz", "--json"]);
    assert_eq!(got["runs"][0]["outputs"][0]["shape"], serde_json::json!([3, 10]));
    assert!(fs::read(here.path().join("y.npz")).expect("the archive").starts_with(b"PK"));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_qing"))
        .args(["inspect", "zoo:fashion", "--graph"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qing starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("qing ends");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && error.is_empty(), "{:?}: {error}", output.status);
}

#[test]
fn channels_go_and_what_is_left_runs() {
    let dir = folder();
    let here = dir.path();
    let args = [
        "prune",
        "zoo:fashion",
        "--budget",
        "macs<=0.7x",
        "--calibrate",
        "zoo:fashion:calibrate",
        "--evaluate",
        "zoo:fashion",
        "--threads",
        "1",
        "-o",
        "less.onnx",
        "--json",
    ];
    let made = json(here, &args);
    let (before, after) = (&made["report"]["cost_before"], &made["report"]["cost_after"]);
    assert!(after.as_f64().unwrap() <= 0.7 * before.as_f64().unwrap(), "{made}");
    let accuracy = json(here, &["evaluate", "less.onnx", "--data", "zoo:fashion", "--json"])["top1"].as_f64().unwrap();
    assert!((accuracy - made["accuracy_after"].as_f64().unwrap()).abs() < 1e-9 && accuracy > 0.5, "{accuracy}");
    let error = transcript(here, &["prune", "zoo:fashion", "--budget", "macs<=0.5x"]);
    assert!(error.contains("needs samples"), "{error}");
}

#[test]
fn compressed_files_are_smaller_and_the_same_network() {
    let dir = folder();
    let here = dir.path();
    let lighten = |file: &str, more: &[&str]| {
        let args =
            ["lighten", "zoo:fashion", "--bits", "w3a8", "--seconds", "0", "--threads", "1", "--json", "-o", file];
        json(here, &[&args[..], more].concat())
    };
    let plain = lighten("plain.qing", &[]);
    let small = lighten("small.qing", &["--compress"]);
    let size = |file: &str| fs::metadata(here.join(file)).unwrap().len();
    assert!(size("small.qing") < size("plain.qing") * 9 / 10, "{} {}", size("small.qing"), size("plain.qing"));
    // The file says besides how it was made.
    let said = small["file_bytes"]["compressed"].as_u64().unwrap();
    assert!((said..said + 200).contains(&size("small.qing")), "{said} {}", size("small.qing"));
    assert_eq!(plain["after"]["accuracy"], small["after"]["accuracy"]);
    let made = json(here, &["compress", "plain.qing", "-o", "again.qing", "--json"]);
    assert_eq!(made["compressed"].as_f64(), Some(size("again.qing") as f64));
    let accuracy = json(here, &["evaluate", "again.qing", "--data", "zoo:fashion", "--json"]);
    assert_eq!(accuracy["top1"], plain["after"]["accuracy"]["top1"]);
}

#[test]
fn encoded_weights_take_less() {
    let dir = folder();
    let here = dir.path();
    let lighten = |file: &str, more: &[&str]| {
        let args = [
            "lighten",
            "zoo:fashion",
            "--bits",
            "w8a8",
            "--seconds",
            "0",
            "--threads",
            "1",
            "--limit",
            "300",
            "--json",
        ];
        json(here, &[&args[..], &["-o", file], more].concat())
    };
    let plain = lighten("plain.qing", &["--compress"]);
    let size = |file: &str| fs::metadata(here.join(file)).unwrap().len();
    let top1 = |made: &serde_json::Value| made["after"]["accuracy"]["top1"].as_f64().unwrap();
    for (option, value) in [("--codebook", "4x64"), ("--factors", "3")] {
        let coded = lighten("coded.qing", &[option, value]);
        assert!(size("coded.qing") < size("plain.qing") / 2, "{} {}", size("coded.qing"), size("plain.qing"));
        assert!(top1(&coded) > top1(&plain) - 0.1, "{} {}", top1(&coded), top1(&plain));
        // What is encoded stays so.
        json(here, &["compress", "coded.qing", "-o", "again.qing", "--json"]);
        assert_eq!(fs::read(here.join("again.qing")).unwrap(), fs::read(here.join("coded.qing")).unwrap(), "{option}");
        let error = fails(here, &["lighten", "zoo:fashion", option, value, "--rounding", "reconstruct"]);
        assert!(error.contains("cannot be learned one by one"), "{error}");
    }
    let error = fails(here, &["lighten", "zoo:fashion", "--factors", "9"]);
    assert!(error.contains("write 1 to 6"), "{error}");
    for other in [["--factors", "2"], ["--budget", "size<=20kB"]] {
        let error = fails(here, &[&["lighten", "zoo:fashion", "--codebook", "4x64"][..], &other].concat());
        assert!(error.contains("cannot be used with"), "{error}");
    }
}

#[test]
fn chips_and_widths_side_by_side() {
    let dir = folder();
    let here = dir.path();
    let args = ["npu", "explore", "zoo:fashion", "--bits", "w4a4,w1a2", "--limit", "60", "--threads", "1", "--json"];
    let made = json(here, &[&args[..], &["--chips", "nano,core", "--plot", "front.svg"]].concat());
    let rows = made["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{made}");
    for row in rows {
        assert!(row["measured"]["cycles"].as_u64() > Some(1000), "{row}");
        assert!(row["measured"]["microjoules"].as_f64() > Some(0.0) && row["accuracy"].as_f64() > Some(0.1), "{row}");
    }
    // One network is as accurate on every chip, and faster on the larger; the first has more bits.
    assert_eq!(rows[0]["accuracy"], rows[1]["accuracy"]);
    let ms = |i: usize| rows[i]["measured"]["ms"].as_f64().unwrap();
    assert!(ms(1) < ms(0) && ms(2) < ms(0), "{made}");
    assert!(rows.iter().any(|r| r["front"] == true));
    assert!(fs::read_to_string(here.join("front.svg")).unwrap().contains("milliseconds a frame"));
    let error = fails(here, &["npu", "explore", "zoo:fashion", "--chips", "giant"]);
    assert!(error.contains("nano, edge, core") && error.contains("giant"), "{error}");
}

#[test]
fn a_float_network_beside_its_lighter_form() {
    let dir = folder();
    let here = dir.path();
    let args = ["lighten", "zoo:fashion", "--bits", "w4a8", "--seconds", "0", "--threads", "1", "--limit", "50"];
    let made = json(here, &[&args[..], &["--report", "page.html", "--json"]].concat());
    assert_eq!(made["outputs"].as_array().map(Vec::len), Some(4), "{made}");
    // Float against the device file, and the device file against ONNX.
    let data = ["--data", "zoo:fashion", "--limit", "40", "--threads", "1", "--json"];
    let float = json(here, &[&["compare", "zoo:fashion", "fashion-w4a8.qing"], &data[..]].concat());
    let pairs = |v: &Value| v["pairs"].as_array().cloned().expect("pairs");
    assert_eq!(pairs(&float).iter().filter(|p| p["layer"] == true).count(), 8, "{float}");
    assert!(float["only_a"] == serde_json::json!([]) && float["only_b"] == serde_json::json!([]), "{float}");
    assert!(float["agreement"].as_f64() > Some(0.9) && float["accuracy"][1].as_f64() > Some(0.85), "{float}");
    assert!(pairs(&float).iter().all(|p| p["snr_db"].as_f64() > Some(8.0)), "{float}");
    let files = json(here, &[&["compare", "fashion-w4a8.qing", "fashion-w4a8.onnx"], &data[..]].concat());
    assert!(pairs(&files).iter().all(|p| p["snr_db"].as_f64() > Some(30.0)), "{files}");
    // The page and its numbers.
    let page = fs::read_to_string(here.join("page.html")).expect("the page");
    assert!(page.contains("Where accuracy is lost") && page.contains("stem.conv"), "{page}");
    let numbers: Value = serde_json::from_slice(&fs::read(here.join("page.json")).expect("numbers")).expect("JSON");
    assert_eq!(numbers["study"]["layers"].as_array().map(Vec::len), Some(8), "{numbers}");
    let error = transcript(here, &["lighten", "zoo:fashion", "--report", "page.pdf"]);
    assert!(error.contains("exit code 1") && error.contains(".html file"), "{error}");
}

#[test]
fn a_network_is_scored() {
    let here = folder();
    let got = json(here.path(), &["score", "zoo:fashion", "--json"]);
    let number = |key: &str| got[key].as_f64().expect("a number");
    assert!((number("storage_score") + number("operation_score") - number("score")).abs() < 1e-12, "{got}");
    // Floats: every weight counts one, a normalization two numbers a channel, and a multiply–accumulate about two operations.
    let inspected = json(here.path(), &["inspect", "zoo:fashion", "--json"]);
    let weights: f64 = got["lines"].as_array().expect("lines").iter().filter_map(|l| l["weights"].as_f64()).sum();
    assert_eq!(got["total"]["values"].as_f64(), Some(32.0 * weights), "{got}");
    let ratio = number("operations") / inspected["macs"].as_f64().expect("a count");
    assert!((1.9..2.4).contains(&ratio), "{ratio}");
    let error = transcript(here.path(), &["score", "zoo:fashion", "--sums", "wide"]);
    assert!(error.contains("exit code 2") && error.contains("tree, fixed, f32"), "{error}");
}
