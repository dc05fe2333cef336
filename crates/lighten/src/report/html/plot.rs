//! Drawings in SVG.

use std::fmt::Write as _;

use super::{bytes, escaped, percent};
use crate::report::{Document, Histogram};

/// Width, height and margins of the large plot.
const WIDE: f64 = 720.0;
const HIGH: f64 = 320.0;
const LEFT: f64 = 70.0;
const BELOW: f64 = 46.0;

/// A point of the Pareto plot: size, what is lost, name, and whether it is what was made.
struct Dot {
    size: f64,
    loss: f64,
    label: String,
    chosen: bool,
}

/// Size against what it costs: points of accuracy where they were measured, else the disturbance that was predicted.
pub(super) fn pareto(document: &Document) -> String {
    let front = document.report.search.as_ref().map_or(&[][..], |s| &s.front);
    let measured = front.iter().filter(|p| p.drop.is_some()).count() >= 2;
    let mut dots: Vec<Dot> = front
        .iter()
        .filter_map(|p| {
            let loss = if measured { p.drop? } else { p.error };
            Some(Dot { size: p.size, loss, label: p.label.clone(), chosen: p.chosen })
        })
        .collect();
    let mut note = String::new();
    let axis = if measured { "points of accuracy lost" } else { "disturbance of the output" };
    let mut axis = axis.to_string();
    if dots.is_empty() {
        let bytes = document.measured.file_bytes.map(|b| b as f64);
        let (loss, name) = match (&document.measured.accuracy, document.report.output_sqnr_db) {
            (Some(accuracy), _) => (100.0 * (accuracy.top1[0] - accuracy.top1[1]), "points of accuracy lost"),
            (None, Some(db)) => (100.0 * 10f64.powf(-db / 10.0), "error of the output, % of its power"),
            (None, None) => (0.0, "no loss was measured"),
        };
        axis = name.into();
        dots.push(Dot { size: bytes[0], loss: 0.0, label: "as it came".into(), chosen: false });
        dots.push(Dot { size: bytes[1], loss, label: "made".into(), chosen: true });
        note = "<p>One choice of widths was made. With <code>--budget</code> the best choice for every size is looked for, and \
                stands here.</p>\n"
            .into();
    }
    scatter(&dots, &axis) + &note
}

fn scatter(dots: &[Dot], axis: &str) -> String {
    let over = |f: fn(&Dot) -> f64| {
        let finite = dots.iter().map(f).filter(|v| v.is_finite());
        finite.fold((0.0f64, f64::MIN_POSITIVE), |(lo, hi), v| (lo.min(v), hi.max(v)))
    };
    let ((_, widest), (lowest, highest)) = (over(|d| d.size), over(|d| d.loss));
    let x = |size: f64| LEFT + size / (widest * 1.05) * (WIDE - LEFT - 20.0);
    let span = (highest - lowest).max(f64::MIN_POSITIVE) * 1.1;
    let y = |loss: f64| HIGH - BELOW - (loss - lowest) / span * (HIGH - BELOW - 20.0);
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDE} {HIGH}\" width=\"{WIDE}\" role=\"img\" aria-label=\"size and loss\">\n");
    for k in 0..=4 {
        let (size, loss) = (widest * 1.05 * f64::from(k) / 4.0, lowest + span * f64::from(k) / 4.0);
        let (at_x, at_y, end, base) = (x(size), y(loss), WIDE - 20.0, HIGH - BELOW);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at_y:.1}\" y2=\"{at_y:.1}\" stroke=\"#dfe4ec\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{at_x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            LEFT - 6.0,
            at_y + 4.0,
            number(loss),
            base + 17.0,
            bytes(size)
        );
    }
    let mut sorted: Vec<&Dot> = dots.iter().filter(|d| d.size.is_finite() && d.loss.is_finite()).collect();
    sorted.sort_by(|a, b| a.size.total_cmp(&b.size));
    let path: Vec<String> = sorted.iter().map(|d| format!("{:.1},{:.1}", x(d.size), y(d.loss))).collect();
    let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#9aa7b8\"/>", path.join(" "));
    for dot in sorted {
        let (fill, radius) = if dot.chosen { ("#d9480f", 6) } else { ("#0b7a75", 4) };
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"{fill}\"><title>{}: {}, {}</title></circle>",
            x(dot.size),
            y(dot.loss),
            escaped(&dot.label),
            bytes(dot.size),
            number(dot.loss)
        );
        if dot.chosen {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:#d9480f\">{}</text>",
                x(dot.size) + 9.0,
                y(dot.loss) - 7.0,
                escaped(&dot.label)
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">size of the file</text>\
         <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text></svg>",
        (LEFT + WIDE) / 2.0,
        HIGH - 8.0,
        (HIGH - BELOW) / 2.0,
        escaped(axis)
    );
    svg
}

/// Horizontal bars of shares.
pub(super) fn bars(rows: &[(String, f64)]) -> String {
    const NAMES: f64 = 300.0;
    let most = rows.iter().map(|r| r.1).fold(f64::MIN_POSITIVE, f64::max);
    let height = rows.len() as f64 * 20.0 + 6.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDE} {height}\" width=\"{WIDE}\" role=\"img\" aria-label=\"shares of the error\">\n"
    );
    for (i, (name, part)) in rows.iter().enumerate() {
        let y = i as f64 * 20.0 + 4.0;
        let width = part / most * (WIDE - NAMES - 70.0);
        let short: String = name.chars().skip(name.chars().count().saturating_sub(44)).collect();
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"#0b7a75\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            NAMES - 6.0,
            y + 12.0,
            escaped(&short),
            NAMES + width + 6.0,
            y + 12.0,
            percent(*part)
        );
    }
    svg + "</svg>\n"
}

/// Two histograms, one behind the other.
pub(super) fn histogram(what: &str, h: &Histogram) -> String {
    const W: f64 = 320.0;
    const H: f64 = 90.0;
    let tall = |n: u64| (n as f64).ln_1p();
    let most = h.before.iter().chain(&h.after).map(|n| tall(*n)).fold(f64::MIN_POSITIVE, f64::max);
    let step = W / h.before.len().max(1) as f64;
    let mut svg =
        format!("<svg viewBox=\"0 0 {W} {:.0}\" width=\"{W}\" role=\"img\" aria-label=\"{what}\">\n", H + 18.0);
    let path = |counts: &[u64]| {
        let mut d = format!("M0,{H}");
        for (i, n) in counts.iter().enumerate() {
            let y = H - tall(*n) / most * (H - 4.0);
            let _ = write!(d, "L{:.1},{y:.1}L{:.1},{y:.1}", i as f64 * step, (i + 1) as f64 * step);
        }
        d + &format!("L{W},{H}Z")
    };
    let _ = writeln!(
        svg,
        "<path d=\"{}\" fill=\"#9aa7b8\" fill-opacity=\".45\"/><path d=\"{}\" fill=\"none\" stroke=\"#0b7a75\"/>\n\
         <text x=\"0\" y=\"{y:.0}\">{}</text><text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"middle\">{what}</text>\
         <text x=\"{W}\" y=\"{y:.0}\" text-anchor=\"end\">{}</text></svg>",
        path(&h.before),
        path(&h.after),
        number(h.from.into()),
        W / 2.0,
        number(h.to.into()),
        y = H + 14.0
    );
    svg
}

/// A number with as many digits as an axis has room for.
fn number(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if a >= 1000.0 => format!("{v:.0}"),
        a if a >= 1.0 => format!("{v:.2}"),
        a if a >= 0.001 => format!("{v:.4}"),
        _ => format!("{v:.1e}"),
    }
}
