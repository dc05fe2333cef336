//! What was measured after each epoch, as a table for programs and a picture for people.

use std::{fmt::Write as _, path::Path};

use qing_formats::atomic;

use crate::{TrainError, recipe::file};

/// One epoch. What was not measured is NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Epochs finished, from 1.
    pub epoch: f64,
    /// Learning rate of the last step.
    pub rate: f64,
    /// Mean loss of the training batches.
    pub loss: f64,
    /// Share of the training samples classified correctly, changed and mixed as they were.
    pub accuracy: f64,
    /// Mean cross entropy of the samples held out.
    pub held_loss: f64,
    /// Share of the samples held out that were classified correctly, by the network as it is exported.
    pub held_accuracy: f64,
    /// Seconds since the start.
    pub seconds: f64,
}

impl Default for Row {
    fn default() -> Row {
        Row::from_numbers(&[f64::NAN; 7])
    }
}

impl Row {
    /// Names of the columns.
    pub const COLUMNS: [&'static str; 7] =
        ["epoch", "rate", "loss", "accuracy", "held_loss", "held_accuracy", "seconds"];

    pub(crate) fn numbers(&self) -> [f64; 7] {
        let Row { epoch, rate, loss, accuracy, held_loss, held_accuracy, seconds } = *self;
        [epoch, rate, loss, accuracy, held_loss, held_accuracy, seconds]
    }

    /// # Panics
    /// If there are not seven numbers.
    pub(crate) fn from_numbers(n: &[f64]) -> Row {
        let &[epoch, rate, loss, accuracy, held_loss, held_accuracy, seconds] = n else { panic!("seven columns") };
        Row { epoch, rate, loss, accuracy, held_loss, held_accuracy, seconds }
    }
}

/// Comma-separated values under a line of names; what was not measured is empty.
pub fn csv(rows: &[Row]) -> String {
    let mut out = Row::COLUMNS.join(",") + "\n";
    for row in rows {
        let fields = row.numbers().map(|v| if v.is_nan() { String::new() } else { format!("{}", v as f32) });
        out += &(fields.join(",") + "\n");
    }
    out
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 220.0;

/// The curves as SVG: losses to the left, accuracies to the right.
pub fn svg(title: &str, rows: &[Row]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 920 320\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"920\" height=\"320\" fill=\"white\"/>\n<text x=\"60\" y=\"24\" font-size=\"15\">{}</text>",
        escape(title)
    );
    let column = |f: fn(&Row) -> f64| rows.iter().map(|r| (r.epoch, f(r))).filter(|(_, v)| v.is_finite()).collect();
    let losses: [(&str, &str, Vec<(f64, f64)>); 2] =
        [("training", "#4477aa", column(|r| r.loss)), ("held out", "#cc3311", column(|r| r.held_loss))];
    let accuracies: [(&str, &str, Vec<(f64, f64)>); 2] = [
        ("training", "#4477aa", column(|r| 100.0 * r.accuracy)),
        ("held out", "#cc3311", column(|r| 100.0 * r.held_accuracy)),
    ];
    panel(&mut out, 60.0, "loss", &losses);
    panel(&mut out, 510.0, "accuracy, %", &accuracies);
    out + "</svg>\n"
}

/// Numbers at which an axis is marked: about five, round.
fn marks(low: f64, high: f64) -> Vec<f64> {
    let rough = ((high - low) / 5.0).max(1e-9);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn panel(out: &mut String, left: f64, title: &str, lines: &[(&str, &str, Vec<(f64, f64)>)]) {
    let top = 50.0;
    let points = || lines.iter().flat_map(|l| &l.2);
    let bound = |f: fn(f64, f64) -> f64, of: fn(&(f64, f64)) -> f64, start| points().map(of).fold(start, f);
    let (mut low, mut high) = (bound(f64::min, |p| p.1, f64::INFINITY), bound(f64::max, |p| p.1, f64::NEG_INFINITY));
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let room = (0.05 * (high - low)).max(1e-3);
    (low, high) = (low - room, high + room);
    let last = bound(f64::max, |p| p.0, 1.0);
    let x = |v: f64| left + WIDTH * v / last;
    let y = |v: f64| top + HEIGHT * (high - v) / (high - low);
    let _ = writeln!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#888\"/>\n\
         <text x=\"{left}\" y=\"{}\">{title}</text>",
        top - 8.0
    );
    for v in marks(low, high) {
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" x2=\"{}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left + WIDTH,
            y(v),
            y(v),
            left - 6.0,
            y(v) + 4.0,
            v as f32
        );
    }
    for v in marks(0.0, last) {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(v),
            top + HEIGHT + 18.0,
            v as f32
        );
    }
    for (i, (name, colour, points)) in lines.iter().filter(|l| !l.2.is_empty()).enumerate() {
        let path: Vec<String> = points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>",
            path.join(" "),
            left + WIDTH - 8.0,
            top - 8.0 - 14.0 * i as f64 + 0.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">epoch</text>",
        left + WIDTH / 2.0,
        top + HEIGHT + 36.0
    );
}

/// Writes `NAME.csv` and `NAME.svg` into a folder.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, name: &str, rows: &[Row]) -> Result<(), TrainError> {
    atomic::write(&file(folder, name, "csv"), csv(rows).as_bytes())?;
    Ok(atomic::write(&file(folder, name, "svg"), svg(name, rows).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_leave_out_what_was_not_measured() {
        let row = Row { epoch: 1.0, rate: 0.5, loss: 2.25, accuracy: 0.1, seconds: 3.0, ..Row::default() };
        let want = "epoch,rate,loss,accuracy,held_loss,held_accuracy,seconds\n1,0.5,2.25,0.1,,,3\n";
        assert_eq!(csv(&[row]), want);
        assert_eq!(Row::from_numbers(&row.numbers()).numbers()[..4], row.numbers()[..4]);
    }

    #[test]
    fn pictures_have_a_line_for_each_curve() {
        let rows: Vec<Row> = (1..=4)
            .map(|e| Row { epoch: f64::from(e), loss: 1.0 / f64::from(e), held_accuracy: 0.2, ..Row::default() })
            .collect();
        let picture = svg("a < b", &rows);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert!(picture.contains("a &lt; b") && !picture.contains("NaN") && !picture.contains("inf"));
        assert!(!svg("nothing yet", &[]).contains("NaN"));
    }

    #[test]
    fn axes_are_marked_at_round_numbers() {
        assert_eq!(marks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(marks(0.12, 0.34).len(), 4);
        assert!(marks(5.0, 5.0).len() <= 1);
    }
}
