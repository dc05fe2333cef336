//! `--report`: a page that shows what became of the network.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use qing::{
    Graph, formats,
    lighten::{
        Report,
        report::{Accuracy, Document, Measured, html, study},
    },
};

use super::show::Side;
use crate::{calibration::Batches, progress::Progress, run::has_extension};

/// Batches of calibration data that layers are looked at on.
const SEEN: usize = 8;

/// Refuses a path that nothing could be written to, before anything takes time.
pub(super) fn check(path: &Path) -> Result<()> {
    ensure!(
        has_extension(path, "html"),
        "--report {}: the page is an .html file, its numbers go beside it as .json",
        path.display()
    );
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "--report {}: the folder {} does not exist", path.display(), folder.display());
    Ok(())
}

/// Writes the page and, beside it, the same as JSON; gives both paths.
pub(super) fn write(
    path: &Path,
    float: &Graph,
    light: &Graph,
    batches: &Batches,
    sides: &[Side; 2],
    report: &Report,
    threads: usize,
) -> Result<[PathBuf; 2]> {
    let shown = &batches.tensors[..batches.tensors.len().min(SEEN)];
    let mut progress = Progress::new("report", 1);
    let seen = match shown.is_empty() {
        true => None,
        false => Some(study(float, light, shown, threads, &mut |p| progress.stage(p.stage, p.done, p.total))?),
    };
    drop(progress);
    let [a, b] = sides;
    let measured = Measured {
        file_bytes: [a.file_bytes, b.file_bytes],
        latency_ms: a.timing.zip(b.timing).map(|(x, y)| [x.median, y.median]),
        accuracy: a.accuracy.zip(b.accuracy).map(|(x, y)| Accuracy { samples: x.samples, top1: [x.top1(), y.top1()] }),
    };
    let document = Document::new(report.clone(), measured, seen);
    let json = path.with_extension("json");
    let text = serde_json::to_string_pretty(&document)? + "\n";
    formats::atomic::write(path, html(&document).as_bytes())?;
    formats::atomic::write(&json, text.as_bytes())?;
    Ok([path.to_path_buf(), json])
}
