//! What a report suggests: from what was measured to what may help.

use serde::Serialize;

use super::{Report, Study};

/// A place where something is lost, and what may win it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What was found.
    pub finding: String,
    /// What to try: flags of the command line.
    pub attempt: String,
}

/// Reads a report and a study of the same network; the most important first.
pub fn advice(report: &Report, study: Option<&Study>, lost_points: Option<f64>) -> Vec<Advice> {
    let mut all = vec![];
    if report.calibration.synthetic {
        say(
            &mut all,
            "Ranges were chosen on made-up inputs: nothing here says how real ones fare.".into(),
            "--calibrate DATA with a hundred typical inputs; labels are not needed",
        );
    } else if report.calibration.samples < 32 {
        say(
            &mut all,
            format!("Ranges were chosen on {} samples.", report.calibration.samples),
            "--calibrate with 100 to 500 samples: rare values are missed by few",
        );
    }
    if lost_points.is_none() {
        say(
            &mut all,
            "Accuracy was not measured.".into(),
            "--evaluate DATA with labelled samples that did not calibrate",
        );
    }
    let lost = lost_points.is_none_or(|points| points > 0.3);
    let Some(study) = study else { return all };
    let mut worst: Vec<_> = study.layers.iter().filter(|l| l.error_share > 0.12).collect();
    worst.sort_by(|a, b| b.error_share.total_cmp(&a.error_share));
    if lost {
        for layer in worst.iter().take(3) {
            let [w, a] = layer.bits;
            let wider = format!("--layer '{}=w{}a{}'", layer.name, (w + 2).min(8), (a + 2).min(8));
            let attempt = if w >= 8 && a >= 8 { format!("--keep-float '{}'", layer.name) } else { wider };
            say(
                &mut all,
                format!(
                    "{} adds {:.0} % of all error with {:.1} % of the size, in w{w}a{a}.",
                    layer.name,
                    100.0 * layer.error_share,
                    100.0 * layer.size_share
                ),
                &attempt,
            );
        }
        if study.layers.iter().any(|l| l.bits[0] < 8 || l.bits[1] < 8) {
            say(
                &mut all,
                "Layers have fewer than eight bits, and rounding decides how much that costs.".into(),
                "--rounding reconstruct (minutes, no labels), --recover DATA (labels), or --effort thorough",
            );
        }
    }
    if report.search.is_none() && study.layers.len() > 2 {
        let spread = |f: fn(&super::LayerStudy) -> f64| study.layers.iter().map(f).fold(0.0, f64::max);
        if spread(|l| l.error_share) > 3.0 / study.layers.len() as f64 {
            say(
                &mut all,
                "Layers differ in what they lose, and all have the same widths.".into(),
                "--budget \"size<=…\" or \"drop<=0.5\": widths chosen layer by layer",
            );
        }
    }
    let idle: f64 = study.layers.iter().filter(|l| l.error_share < 0.01 && l.bits[0] > 4).map(|l| l.size_share).sum();
    if idle > 0.3 {
        say(
            &mut all,
            format!("Layers with {:.0} % of the size add next to no error in more than four bits.", 100.0 * idle),
            "--bits w4a8, or a budget of size",
        );
    }
    let low =
        study.layers.iter().filter(|l| l.rank.is_some_and(|[r, n]| n >= 16 && 5 * r < 2 * n && l.size_share > 0.05));
    let low: Vec<&str> = low.map(|l| l.name.as_str()).take(3).collect();
    if !low.is_empty() {
        say(
            &mut all,
            format!("Less than two fifths of the rank of {} hold 99 % of their power.", low.join(", ")),
            "qing factorize before lightening",
        );
    }
    let zeros: f64 = study.layers.iter().map(|l| l.sparsity * l.size_share).sum();
    if zeros > 0.4 && report.file_bytes[1] * 10 < report.file_bytes[0] * 9 {
        say(
            &mut all,
            format!("{:.0} % of the weights are zero.", 100.0 * zeros),
            "--compress: the file is decoded when it is loaded",
        );
    }
    let floats: f64 = report
        .islands
        .iter()
        .filter_map(|i| study.other_time.iter().find(|(op, _)| *op == i.op).map(|(_, t)| *t))
        .fold(0.0, f64::max);
    if study.milliseconds > 0.0 && floats > 0.1 * study.milliseconds {
        say(
            &mut all,
            format!("Nodes in floating point take {:.0} % of the time.", 100.0 * floats / study.milliseconds),
            "see the islands below: each says why it is one",
        );
    }
    all
}

fn say(all: &mut Vec<Advice>, finding: String, attempt: &str) {
    all.push(Advice { finding, attempt: attempt.into() });
}
