//! Which of the networks and chips of `qing npu explore` are worth taking, as marks and as a picture.

use std::{fmt::Write, path::Path};

use anyhow::{Result, ensure};
use qing::formats::atomic;

use super::{explore::Row, roofline::escape};
use crate::run::has_extension;

/// Width and height of a panel's plot.
const PANEL: (f64, f64) = (430.0, 360.0);
/// Left of a panel's plot.
const LEFT: f64 = 76.0;
const TOP: f64 = 44.0;
const COLOURS: [&str; 6] = ["#0b7a75", "#d9480f", "#364fc7", "#862e9c", "#5c940d", "#495057"];

/// Marks the rows of which no other is as good in everything and better in something.
pub(super) fn mark(rows: &mut [Row]) {
    let costs: Vec<_> = rows.iter().map(Row::costs).collect();
    for (row, own) in rows.iter_mut().zip(&costs) {
        row.front = own.is_some_and(|own| {
            let beats = |other: &[f64; 4]| other.iter().zip(&own).all(|(o, m)| o <= m) && *other != own;
            !costs.iter().flatten().any(beats)
        });
    }
}

/// Refuses a path that no picture could be written to, before anything takes time.
pub(super) fn check(path: &Path) -> Result<()> {
    ensure!(has_extension(path, "svg"), "--plot {}: the picture is an .svg file", path.display());
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(folder.is_dir(), "--plot {}: the folder {} does not exist", path.display(), folder.display());
    Ok(())
}

/// Writes the picture: accuracy (or the output's signal-to-noise ratio) over latency, and over energy; rows of the front are filled.
pub(super) fn write(path: &Path, model: &str, rows: &[Row]) -> Result<()> {
    Ok(atomic::write(path, picture(model, rows).as_bytes())?)
}

fn picture(model: &str, rows: &[Row]) -> String {
    let mut chips: Vec<&str> = vec![];
    for row in rows {
        if !chips.contains(&row.chip.as_str()) {
            chips.push(&row.chip);
        }
    }
    let (width, height) = (2.0 * (PANEL.0 + LEFT) + 20.0, PANEL.1 + TOP + 60.0);
    let mut text = String::new();
    let out = &mut text;
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">"#
    );
    let _ = writeln!(out, r##"<rect width="{width}" height="{height}" fill="#fff"/>"##);
    let _ = writeln!(out, r#"<text x="{LEFT}" y="22" font-size="15">{}</text>"#, escape(model));
    for (k, chip) in chips.iter().enumerate() {
        let (x, colour) = (LEFT + 240.0 + 110.0 * k as f64, COLOURS[k % COLOURS.len()]);
        let _ = writeln!(out, r#"<circle cx="{x}" cy="18" r="5" fill="{colour}"/>"#);
        let _ = writeln!(out, r#"<text x="{}" y="22">{}</text>"#, x + 9.0, escape(chip));
    }
    for (panel, name) in ["milliseconds a frame", "microjoules a frame"].into_iter().enumerate() {
        draw(out, panel, name, rows, &chips);
    }
    text.push_str("</svg>\n");
    text
}

/// A panel: the cost at place `at` of [`Row::costs`] to the right, logarithmic; accuracy upwards.
fn draw(out: &mut String, at: usize, name: &str, rows: &[Row], chips: &[&str]) {
    let left = LEFT + at as f64 * (PANEL.0 + LEFT);
    let points: Vec<(&Row, f64, f64)> =
        rows.iter().filter_map(|r| Some((r, r.costs()?[at].max(1e-9).log10(), height(r)?))).collect();
    let span = |of: &dyn Fn(&(&Row, f64, f64)) -> f64, least: f64| {
        let (lo, hi) = points.iter().map(of).fold((f64::MAX, f64::MIN), |(lo, hi), v| (lo.min(v), hi.max(v)));
        let margin = ((hi - lo) * 0.08).max(least);
        if points.is_empty() { (0.0, 1.0) } else { (lo - margin, hi + margin) }
    };
    let ((x0, x1), (y0, y1)) = (span(&|p| p.1, 0.05), span(&|p| p.2, 0.5));
    let x = |v: f64| left + (v - x0) / (x1 - x0) * PANEL.0;
    let y = |v: f64| TOP + (1.0 - (v - y0) / (y1 - y0)) * PANEL.1;
    let (right, base) = (left + PANEL.0, TOP + PANEL.1);
    for k in 0..=4 {
        let (vx, vy) = (x0 + (x1 - x0) * f64::from(k) / 4.0, y0 + (y1 - y0) * f64::from(k) / 4.0);
        let (gx, gy) = (x(vx), y(vy));
        let _ = writeln!(
            out,
            r##"<path d="M{left:.1} {gy:.1}H{right:.1}M{gx:.1} {TOP}V{base:.1}" stroke="#e4e8ee"/>
<text x="{:.1}" y="{:.1}" text-anchor="end">{vy:.1}</text>
<text x="{gx:.1}" y="{:.1}" text-anchor="middle">{}</text>"##,
            left - 6.0,
            gy + 4.0,
            base + 16.0,
            three_digits(10f64.powf(vx))
        );
    }
    let axis = if rows.iter().any(|r| r.accuracy.is_some()) { "accuracy, %" } else { "output over its error, dB" };
    let (mx, my) = (left + PANEL.0 / 2.0, TOP + PANEL.1 / 2.0);
    let _ = writeln!(out, r#"<text x="{mx}" y="{}" text-anchor="middle">{name}</text>"#, base + 40.0);
    let _ = writeln!(
        out,
        r#"<text transform="translate({} {my}) rotate(-90)" text-anchor="middle">{axis}</text>"#,
        left - 54.0
    );
    for (row, vx, vy) in &points {
        let colour = COLOURS[chips.iter().position(|c| *c == row.chip).unwrap_or(0) % COLOURS.len()];
        let fill = if row.front { colour } else { "#fff" };
        let (px, py) = (x(*vx), y(*vy));
        let label = format!("{} on {}: {vy:.2}, {} {name}", row.bits, row.chip, three_digits(10f64.powf(*vx)));
        let _ = writeln!(
            out,
            r#"<circle cx="{px:.1}" cy="{py:.1}" r="5" fill="{fill}" stroke="{colour}" stroke-width="1.5"><title>{}</title></circle>
<text x="{:.1}" y="{:.1}" font-size="10">{}</text>"#,
            escape(&label),
            px + 8.0,
            py + 3.0,
            escape(&row.bits)
        );
    }
}

/// Where a row is drawn: its accuracy in percent, or the signal-to-noise ratio of its output; nothing is known of it otherwise.
fn height(row: &Row) -> Option<f64> {
    row.accuracy.map(|a| 100.0 * a).or(row.output_db)
}

fn three_digits(v: f64) -> String {
    match v {
        _ if v >= 100.0 => format!("{v:.0}"),
        _ if v >= 10.0 => format!("{v:.1}"),
        _ if v >= 1.0 => format!("{v:.2}"),
        _ => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::explore::{Measured, Outcome},
        *,
    };

    fn row(chip: &str, ms: f64, microjoules: f64, accuracy: f64) -> Row {
        let outcome = Outcome::Measured(Measured {
            cycles: 1,
            ms,
            microjoules,
            logic_mm2: 0.1,
            memory_mm2: 0.2,
            weight_bytes: 8,
            array_use: 0.5,
            external: String::new(),
        });
        Row {
            bits: "w4<a4".into(),
            chip: chip.into(),
            accuracy: Some(accuracy),
            output_db: None,
            outcome,
            front: false,
        }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let mut rows = vec![
            row("a", 1.0, 1.0, 0.90),
            row("b", 1.0, 2.0, 0.90), // as fast and as accurate as the first, for more energy
            row("c", 2.0, 2.0, 0.95),
            row("d", 0.5, 3.0, 0.10),
            row("a", 1.0, 1.0, 0.90), // the same as the first: both stay
        ];
        let why = Outcome::DoesNotFit("too many weights".into());
        rows.push(Row { outcome: why, ..rows[0].clone() });
        mark(&mut rows);
        let front: Vec<bool> = rows.iter().map(|r| r.front).collect();
        assert_eq!(front, [true, false, true, true, true, false]);
    }

    #[test]
    fn a_picture_has_every_measured_row_twice() {
        let mut rows = vec![row("a&b", 1.0, 1.0, 0.9), row("c", 2.0, 9.0, 0.95)];
        rows.push(Row { outcome: Outcome::DoesNotFit("no".into()), ..rows[0].clone() });
        mark(&mut rows);
        let text = picture("net", &rows);
        assert_eq!(text.matches("<title>").count(), 4);
        assert!(text.contains("w4&lt;a4 on a&amp;b: 90.00, 1.00 milliseconds"), "{text}");
        assert!(!text.contains("NaN") && !picture("nothing", &rows[2..]).contains("NaN"));
    }
}
