//! `qing lighten` as a power cut meets it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Learns roundings on few samples; `output` is where the network goes.
fn start(folder: &Path, output: &str, threads: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qing"));
    command.args(["lighten", "zoo:fashion", "--bits", "w3a4", "--rounding", "reconstruct", "--iterations", "30"]);
    command.args(["--calibration-limit", "16", "--limit", "20", "--seconds", "0", "--threads", threads, "-o", output]);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("qing starts")
}

fn finish(child: Child) {
    let output = child.wait_with_output().expect("qing ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_killed_run_goes_on_and_comes_to_the_same_network() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    finish(start(folder.path(), "whole.qing", "1"));
    // Killed as soon as a block is noted.
    let mut child = start(folder.path(), "killed.qing", "2");
    let begun = Instant::now();
    while !at("killed.blocks.npz").exists() {
        assert!(child.try_wait().expect("a state").is_none(), "it ended before anything was noted");
        assert!(begun.elapsed() < Duration::from_secs(300), "nothing was noted in five minutes");
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("ends");
    assert!(!at("killed.qing").exists(), "a network that was not finished");
    finish(start(folder.path(), "killed.qing", "1"));
    assert!(fs::read(at("whole.qing")).expect("a network") == fs::read(at("killed.qing")).expect("a network"));
    assert!(!at("killed.blocks.npz").exists(), "what was noted is of no more use");
}
