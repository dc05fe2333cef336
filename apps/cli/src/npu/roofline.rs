//! The layers of a profile against the rooflines of the chip, as a picture.

use std::{fmt::Write, path::Path};

use anyhow::Result;
use qing::{
    formats::atomic,
    npu::{Config, LayerProfile, Profile},
};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 40.0;

/// Writes the picture: per layer of the array, multiply–accumulates a cycle over the pairs of bits, both logarithmic.
pub(super) fn write(path: &Path, model: &str, profile: &Profile, config: &Config) -> Result<()> {
    Ok(atomic::write(path, picture(model, profile, config).as_bytes())?)
}

/// Bits multiplied per product of a layer.
fn products(l: &LayerProfile) -> Option<f64> {
    let w = l.bits.1?;
    (l.unit == "array" && l.macs > 0 && l.span.1 > l.span.0).then_some((l.bits.0 * w) as f64)
}

fn picture(model: &str, profile: &Profile, config: &Config) -> String {
    // From 64 pairs of bits on the left to one on the right; the array's peak falls on a diagonal, post bounds it for short dots.
    let peak = (config.rows * config.columns * config.lanes) as f64;
    let (low, high) = (peak / 64.0 / 256.0, peak);
    let x = |pairs: f64| LEFT + (64f64.log2() - pairs.log2()) / 6.0 * (WIDTH - 40.0);
    let y = |rate: f64| TOP + (1.0 - (rate.max(low) / low).log2() / (high / low).log2()) * HEIGHT;
    let mut text = String::new();
    let out = &mut text;
    let (w, h) = (WIDTH + LEFT + 30.0, HEIGHT + TOP + 60.0);
    let _ = writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="12">"#
    );
    let _ = writeln!(out, r##"<rect width="{w}" height="{h}" fill="#fff"/>"##);
    let title = format!(
        "{model} on `{}`: {} cycles, array {:.0} % in use",
        config.name,
        profile.cycles,
        100.0 * profile.array_use
    );
    let _ = writeln!(out, r#"<text x="{LEFT}" y="22" font-size="15">{}</text>"#, escape(&title));
    for pairs in [64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0] {
        let at = x(pairs);
        let _ = writeln!(out, r##"<line x1="{at}" y1="{TOP}" x2="{at}" y2="{}" stroke="#eee"/>"##, TOP + HEIGHT);
        let _ = writeln!(out, r#"<text x="{at}" y="{}" text-anchor="middle">{pairs}</text>"#, TOP + HEIGHT + 16.0);
    }
    let mut rate = low;
    while rate <= high * 1.01 {
        let at = y(rate);
        let _ =
            writeln!(out, r##"<line x1="{LEFT}" y1="{at}" x2="{}" y2="{at}" stroke="#eee"/>"##, LEFT + WIDTH - 40.0);
        let _ = writeln!(out, r#"<text x="{}" y="{}" text-anchor="end">{rate}</text>"#, LEFT - 8.0, at + 4.0);
        rate *= 4.0;
    }
    let _ = writeln!(
        out,
        r#"<text x="{}" y="{}" text-anchor="middle">bits of weights times bits of activations</text>"#,
        LEFT + WIDTH / 2.0,
        TOP + HEIGHT + 40.0
    );
    let _ = writeln!(
        out,
        r#"<text x="16" y="{}" transform="rotate(-90 16 {})" text-anchor="middle">multiply–accumulates a cycle</text>"#,
        TOP + HEIGHT / 2.0,
        TOP + HEIGHT / 2.0
    );
    let (a, b) = (y(peak / 64.0), y(peak));
    let _ =
        writeln!(out, r##"<line x1="{}" y1="{a}" x2="{}" y2="{b}" stroke="#c33" stroke-width="2"/>"##, x(64.0), x(1.0));
    for l in &profile.layers {
        let Some(pairs) = products(l) else { continue };
        let rate = l.macs as f64 / (l.span.1 + 1 - l.span.0) as f64;
        let size = 3.0 + 12.0 * (l.cycles as f64 / profile.cycles as f64).sqrt();
        let label = format!("{}: {rate:.1} MACs a cycle, {} cycles added", l.name, l.cycles);
        let _ = writeln!(
            out,
            r##"<circle cx="{}" cy="{}" r="{size:.1}" fill="#36c" fill-opacity="0.45"><title>{}</title></circle>"##,
            x(pairs),
            y(rate),
            escape(&label)
        );
    }
    text.push_str("</svg>\n");
    text
}

/// Text as it may stand in a picture.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_the_array_are_drawn_and_names_escaped() {
        let layer = LayerProfile {
            name: "a<b".into(),
            op: "Conv".into(),
            unit: "array",
            bits: (4, Some(4)),
            macs: 1000,
            span: (0, 99),
            work: 80,
            cycles: 100,
            instructions: 1,
            strips: 1,
        };
        let pool = LayerProfile { unit: "aux", ..layer.clone() };
        let profile = Profile { layers: vec![layer, pool], cycles: 100, macs: 1000, array_use: 0.5, traffic: (1, 1) };
        let text = picture("net", &profile, &Config::preset("core").unwrap());
        assert_eq!(text.matches("<circle").count(), 1);
        assert!(text.contains("a&lt;b: 10.0 MACs a cycle"));
    }
}
