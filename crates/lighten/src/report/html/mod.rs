//! A report as one HTML file that needs nothing else: plots are drawings inside it, and the same numbers as JSON are too.

mod plot;

use std::fmt::Write as _;

use super::{Document, LayerStudy, Study};

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn html(document: &Document) -> String {
    let report = &document.report;
    let mut page = String::new();
    let title = escaped(&format!("{} made lighter", report.model));
    let _ = writeln!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>"
    );
    summary(&mut page, document);
    section(&mut page, "What other sizes would buy", &plot::pareto(document));
    shapes(&mut page, document);
    losses(&mut page, document);
    if let Some(study) = &document.study {
        table(&mut page, study);
        histograms(&mut page, study);
    }
    islands(&mut page, document);
    let json = serde_json::to_string(document).unwrap_or_default().replace("</", "<\\/");
    let _ = writeln!(page, "<script type=\"application/json\" id=\"report\">{json}</script>\n</body></html>");
    page
}

fn section(page: &mut String, title: &str, body: &str) {
    let _ = writeln!(page, "<section><h2>{}</h2>\n{body}</section>", escaped(title));
}

/// Before and after in a row of numbers.
fn summary(page: &mut String, document: &Document) {
    let (report, measured) = (&document.report, &document.measured);
    let mut cells = String::new();
    let mut cell = |name: &str, before: String, after: String, change: String| {
        let _ = writeln!(
            cells,
            "<div class=\"tile\"><span>{name}</span><b>{after}</b><small>from {before}</small><em>{change}</em></div>"
        );
    };
    let ratio = |x: f64, y: f64| if y > 0.0 { format!("÷ {:.2}", x / y) } else { String::new() };
    let [x, y] = measured.file_bytes.map(|b| b as f64);
    cell("file", bytes(x), bytes(y), ratio(x, y));
    let (a, b) = (&report.before, &report.after);
    cell("weights", bytes(a.weight_bytes), bytes(b.weight_bytes), ratio(a.weight_bytes, b.weight_bytes));
    let (x, y) = (a.bit_operations as f64, b.bit_operations as f64);
    cell("bit operations", count(x), count(y), ratio(x, y));
    if let Some([x, y]) = measured.latency_ms {
        cell("latency", format!("{x:.3} ms"), format!("{y:.3} ms"), ratio(x, y));
    }
    if let Some(accuracy) = &measured.accuracy {
        let [x, y] = accuracy.top1;
        let points = format!("{:+.2} points on {}", 100.0 * (y - x), accuracy.samples);
        cell("accuracy", percent(x), percent(y), points);
    }
    if let Some(db) = report.output_sqnr_db {
        cell("output", "∞".into(), format!("{db:.1} dB"), "signal over error".into());
    }
    let how = if report.calibration.synthetic { "<strong>made-up inputs</strong>" } else { "samples" };
    let _ = writeln!(
        page,
        "<div class=\"tiles\">{cells}</div>\n<p>Calibrated on {} {how}.</p>",
        report.calibration.samples
    );
}

/// Forms of the network that were tried, if there was more than one.
fn shapes(page: &mut String, document: &Document) {
    let tried = document.report.search.as_ref().map_or(&[][..], |s| &s.shapes);
    if tried.is_empty() {
        return;
    }
    let mut body = String::from(
        "<table class=\"text\"><thead><tr><th>made of</th><th>size</th><th>output over its error</th><th></th></tr></thead>\n",
    );
    for t in tried {
        let size = t.file_bytes.map_or_else(|| escaped(t.refused.as_deref().unwrap_or_default()), |b| bytes(b as f64));
        let clarity = t.output_sqnr_db.map_or(String::new(), |db| format!("{db:.1} dB"));
        let chosen = if t.chosen { "<b>chosen</b>" } else { "" };
        let _ =
            writeln!(body, "<tr><td>{}</td><td>{size}</td><td>{clarity}</td><td>{chosen}</td></tr>", escaped(&t.shape));
    }
    section(page, "What the network is made of", &(body + "</table>\n"));
}

/// Where accuracy is lost and what to try.
fn losses(page: &mut String, document: &Document) {
    let mut body = String::new();
    if let Some(study) = &document.study {
        let mut worst: Vec<&LayerStudy> = study.layers.iter().filter(|l| l.error_share > 0.0).collect();
        worst.sort_by(|a, b| b.error_share.total_cmp(&a.error_share));
        let rows: Vec<(String, f64)> = worst.iter().take(12).map(|l| (l.name.clone(), l.error_share)).collect();
        body += "<p>What a layer adds to the error of its result, relative to the power of the result, as a share of what all layers \
                 add:</p>\n";
        body += &plot::bars(&rows);
        if let Some(agreement) = study.comparison.agreement {
            let _ = writeln!(
                body,
                "<p>Both networks prefer the same class for {} of {} samples.</p>",
                percent(agreement),
                study.comparison.samples
            );
        }
    }
    if document.advice.is_empty() {
        body += "<p>Nothing stands out.</p>\n";
    } else {
        body += "<table class=\"text\"><thead><tr><th>what was found</th><th>what to try</th></tr></thead>\n";
        for advice in &document.advice {
            let (finding, attempt) = (escaped(&advice.finding), escaped(&advice.attempt));
            let _ = writeln!(body, "<tr><td>{finding}</td><td>{attempt}</td></tr>");
        }
        body += "</table>\n";
    }
    section(page, "Where accuracy is lost, and what to try", &body);
}

fn table(page: &mut String, study: &Study) {
    let mut body = String::from(
        "<table><thead><tr><th>layer</th><th>op</th><th>weights</th><th>activations</th><th>zeros</th><th>rank (99 %)</th>\
         <th>signal / error</th><th>size</th><th>time</th><th>error</th></tr></thead>\n",
    );
    for l in &study.layers {
        let rank = l.rank.map_or_else(|| "–".into(), |[r, n]| format!("{r} of {n}"));
        let snr = l.snr_db.map_or_else(|| "–".into(), |db| format!("{db:.1} dB"));
        let _ = writeln!(
            body,
            "<tr><td class=\"name\">{}</td><td class=\"name\">{}</td><td>{} bit</td><td>{} bit</td><td>{}</td><td>{rank}</td>\
             <td>{snr}</td>{}{}{}</tr>",
            escaped(&l.name),
            escaped(&l.op),
            l.bits[0],
            l.bits[1],
            percent(l.sparsity),
            share(l.size_share, &bytes(l.bytes)),
            share(l.time_share, &format!("{:.3} ms", l.milliseconds)),
            share(l.error_share, ""),
        );
    }
    body += "</table>\n";
    let rest: f64 = study.other_time.iter().map(|(_, t)| t).sum();
    if study.milliseconds > 0.0 {
        let top: Vec<String> =
            study.other_time.iter().take(4).map(|(op, t)| format!("{} {t:.3} ms", escaped(op))).collect();
        let _ = writeln!(
            body,
            "<p>One sample takes {:.3} ms, {:.0} % of it outside of layers with weights ({}).</p>",
            study.milliseconds,
            100.0 * rest / study.milliseconds,
            top.join(", ")
        );
    }
    section(page, "Layer by layer", &body);
}

/// A share with a bar behind it.
fn share(part: f64, exact: &str) -> String {
    let width = 100.0 * part.clamp(0.0, 1.0);
    format!("<td class=\"share\" title=\"{exact}\" style=\"background-size:{width:.1}% 100%\">{}</td>", percent(part))
}

fn histograms(page: &mut String, study: &Study) {
    let mut body = String::from(
        "<p>Counts on a logarithmic scale: <span class=\"before\">before</span>, <span class=\"after\">after</span>. Activations are \
         those of the layer's result, behind its activation function.</p>\n<div class=\"grid\">\n",
    );
    for l in &study.layers {
        if l.weights.is_none() && l.activations.is_none() {
            continue;
        }
        let _ = writeln!(body, "<figure><figcaption>{}</figcaption>", escaped(&l.name));
        for (what, histogram) in [("weights", &l.weights), ("activations", &l.activations)] {
            if let Some(h) = histogram {
                body += &plot::histogram(what, h);
            }
        }
        body += "</figure>\n";
    }
    body += "</div>\n";
    section(page, "Weights and activations", &body);
}

fn islands(page: &mut String, document: &Document) {
    let islands = &document.report.islands;
    if islands.is_empty() {
        section(page, "Islands of floating point", "<p>None: every node computes on integers.</p>\n");
        return;
    }
    let mut body = String::from("<table class=\"text\"><thead><tr><th>node</th><th>op</th><th>why</th></tr></thead>\n");
    for island in islands {
        let (node, op, reason) = (escaped(&island.node), escaped(&island.op), escaped(&island.reason));
        let _ = writeln!(body, "<tr><td>{node}</td><td>{op}</td><td>{reason}</td></tr>");
    }
    body += "</table>\n";
    section(page, "Islands of floating point", &body);
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn percent(part: f64) -> String {
    format!("{:.2} %", 100.0 * part)
}

fn count(n: f64) -> String {
    let prefixes = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    match prefixes.iter().find(|(size, _)| n >= *size) {
        Some((size, prefix)) => format!("{:.2}{prefix}", n / size),
        None => format!("{n:.0}"),
    }
}

fn bytes(n: f64) -> String {
    let text = count(n);
    if text.contains(' ') { format!("{text}B") } else { format!("{text} B") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
        assert_eq!((bytes(12.0), count(7_338_720.0)), ("12 B".into(), "7.34 M".into()));
    }
}
