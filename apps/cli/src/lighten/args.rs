//! The flags of `qing lighten`.

use std::path::PathBuf;

use qing::lighten::{
    Bits, Codebook, Effort, Encoding, Factors, Options, Override, QuantizeOptions, RangeMethod, Smoothing,
};

use super::{recover::RecoverArgs, rounding::RoundingArgs, search::SearchArgs};
use crate::{calibration::DataArgs, feeds::PreprocessArgs};

/// Make a network lighter: fold, calibrate, quantize, and report what was gained and lost
///
/// Without -o, two files are written here: MODEL-wXaY.onnx (for onnxruntime and other tools) and MODEL-wXaY.qing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    pub model: String,
    #[command(flatten)]
    pub data: DataArgs,
    /// Bits of weights and activations, 1–8 each
    #[arg(long, value_name = "wXaY", default_value = "w4a8")]
    pub bits: Bits,
    /// Other bits for layers by name, `*` standing for anything: --layer 'head*=w8a8'. Repeatable, the first that fits wins
    #[arg(long, value_name = "NAME=wXaY")]
    pub layer: Vec<Override>,
    /// Leave layers in floating point, by name. Repeatable
    #[arg(long, value_name = "NAME")]
    pub keep_float: Vec<String>,
    /// Least bits for the first and the last layer; 0 to treat them like the others
    #[arg(long, value_name = "BITS", default_value_t = 8)]
    pub edge_bits: u8,
    /// How activation ranges are chosen: minmax, percentile (or percentile:99.99), mse (least squared error)
    #[arg(long, value_name = "METHOD", default_value = "mse", value_parser = parse_range)]
    pub range: RangeMethod,
    /// Do not even out the channels of consecutive layers first (cross-layer equalization)
    #[arg(long)]
    pub no_equalize: bool,
    /// Outliers of what matrix products read move into their weights (SmoothQuant): measured (for each value by how much is best, if
    /// the result is clearer for it), a share from 0 to 1 for all, or off [default: by --effort]
    #[arg(long, value_name = "SHARE")]
    pub smooth: Option<Smoothing>,
    /// Do not try to spread outliers of what matrix products read over channels by rotations (QuaRot)
    #[arg(long)]
    pub no_rotate: bool,
    /// Do not shift biases by the mean error of the weights
    #[arg(long)]
    pub no_bias_correction: bool,
    /// Do not let roundings make up for each other's errors
    #[arg(long)]
    pub no_error_feedback: bool,
    /// Take the weights of all layers but the first and the last from codebooks: LENGTHxENTRIES, 4x256 being words of 4 weights and 256 of
    /// them to a layer, so 2 bits for a weight. With --bits w8a8 for what the words are made of; .qing outputs are compressed
    #[arg(long, value_name = "LxE", conflicts_with = "budget")]
    pub codebook: Option<Codebook>,
    /// Make the weights of all layers but the first and the last products of ternary matrices, of so many bits for a weight: 2, say; where that
    /// loses more of a layer than plain weights of as many bits do, those. With --bits w8a8 for the products; .qing outputs are compressed
    #[arg(long, value_name = "BITS", conflicts_with_all = ["codebook", "budget", "per_tensor"])]
    pub factors: Option<Factors>,
    /// One weight scale for a whole layer rather than one for each output channel
    #[arg(long)]
    pub per_tensor: bool,
    /// Where to write, by extension .onnx or .qing; repeatable [default: both, here]
    #[arg(long, short, value_name = "FILE")]
    pub output: Vec<PathBuf>,
    /// Write a report too: one HTML page that needs nothing else (what other sizes would buy, every layer's bits, size, time and error,
    /// histograms, what to try), and its numbers beside it as .json
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Keep the weights of an .onnx output in a file beside it
    #[arg(long)]
    pub external_data: bool,
    /// Compress .qing outputs: to be sent or stored; decoded into memory when read, rather than used where they lie
    #[arg(long)]
    pub compress: bool,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Seconds spent on each latency; 0 leaves latency out
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    pub seconds: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How hard to try: quick (seconds), standard, thorough
    #[arg(long, value_name = "EFFORT", default_value = "standard")]
    pub effort: Effort,
    #[command(flatten)]
    pub rounding: RoundingArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    #[command(flatten)]
    pub recover: RecoverArgs,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
}

impl Args {
    /// What the weights are encoded in beyond integers.
    pub(super) fn encoding(&self) -> Option<Encoding> {
        self.codebook.map(Encoding::Codebook).or(self.factors.map(Encoding::Factors))
    }

    /// The widths in a word.
    pub(super) fn widths(&self) -> String {
        if self.search.given() {
            return "mixed".into();
        }
        format!("w{}a{}", self.bits.weights, self.bits.activations)
    }
}

fn parse_range(text: &str) -> Result<RangeMethod, String> {
    match text.split_once(':') {
        None if text == "minmax" => Ok(RangeMethod::MinMax),
        None if text == "mse" => Ok(RangeMethod::LeastSquares),
        None if text == "percentile" => Ok(RangeMethod::Percentile(99.99)),
        Some(("percentile", p)) => match p.parse() {
            Ok(p) if (50.0..=100.0).contains(&p) => Ok(RangeMethod::Percentile(p)),
            _ => Err(format!("`{p}` is no percentile between 50 and 100")),
        },
        _ => Err("methods are minmax, percentile, percentile:99.9 and mse".into()),
    }
}

pub(super) fn options(args: &Args, threads: usize) -> Options {
    let base = args.effort.apply(QuantizeOptions::with_bits(args.bits));
    let quantize = QuantizeOptions {
        overrides: args.layer.clone(),
        keep_float: args.keep_float.clone(),
        edge_bits: (args.edge_bits > 0).then_some(args.edge_bits),
        range: args.range,
        per_channel: !args.per_tensor,
        encoding: args.encoding(),
        bias_correction: !args.no_bias_correction,
        equalize: base.equalize && !args.no_equalize,
        smooth: args.smooth.unwrap_or(base.smooth),
        rotate: base.rotate && !args.no_rotate,
        error_feedback: base.error_feedback && !args.no_error_feedback,
        ..base
    };
    let quantize = args.rounding.apply(quantize);
    Options { quantize, threads, ..Options::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("minmax").unwrap(), RangeMethod::MinMax);
        assert_eq!(parse_range("percentile:99").unwrap(), RangeMethod::Percentile(99.0));
        for bad in ["", "max", "percentile:", "percentile:101", "mse:3"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
