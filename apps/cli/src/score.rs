//! `qing score`: a network counted by the rules of the MicroNet challenge.

use anyhow::Result;
use qing::lighten::{
    LightenError,
    score::{Baseline, Cost, Line, Rules, Score, Sums, score},
};
use serde_json::json;

use crate::{
    model,
    output::{self, count, percent},
    table::Table,
};

const RULES: &str = "\
How it counts: everything in units of 32 bits. A parameter of b bits is b/32; weights are stored dense, or those that are not zero with a
mask of one bit for every place; scales, biases, tables and indices are parameters too, each in the narrowest format that holds it exactly.
Multiplications and additions of one sample count apart, by the width of their widest input; weights that are zero cost nothing; a scale
that is a power of two is no multiplication; rounding and saturation are part of a scale. The documentation of qing::lighten::score has
every rule. --as-released and the network of bench/micronet give the figures that the winner of the CIFAR-100 track published.";

/// Count a network by the rules of the MicroNet challenge: parameters and operations against a baseline
#[derive(Debug, clap::Args)]
#[command(after_help = RULES)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// What counts as 1 + 1: cifar100 (36.5 M parameters, 10.49 G operations) or imagenet (6.9 M, 1170 M)
    #[arg(long, value_name = "NAME", default_value = "cifar100", value_parser = Baseline::find)]
    baseline: Baseline,
    /// Where integer products are summed: tree (an adder tree, each level a bit wider), fixed (accumulators as wide as the
    /// layer's shape asks for), f32, or a number of bits
    #[arg(long, value_name = "HOW", default_value = "tree", value_parser = sums)]
    sums: Sums,
    /// Bits of additions of reals outside of products (biases, pooling) [default: those of their inputs]
    #[arg(long, value_name = "BITS")]
    real_sums: Option<u8>,
    /// Count as the counter that the winner of the CIFAR-100 track released: less than the rules ask for
    #[arg(long)]
    as_released: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn sums(text: &str) -> Result<Sums, LightenError> {
    match text {
        "tree" => Ok(Sums::Tree),
        "fixed" => Ok(Sums::Fixed),
        "f32" => Ok(Sums::Bits(32)),
        bits => bits.parse().map(Sums::Bits).map_err(|_| {
            LightenError::Option(format!("sums `{bits}`: write tree, fixed, f32 or a number of bits such as 16"))
        }),
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let rules = Rules {
        baseline: args.baseline.clone(),
        sums: args.sums,
        real_sums: args.real_sums,
        as_released: args.as_released,
    };
    let score = score(&model.graph, &rules)?;
    if args.json {
        let mut value = serde_json::to_value(&score)?;
        value["model"] = json!(args.model);
        return output::json(&value);
    }
    show(&score)?;
    if !score.assumed.is_empty() {
        let names: Vec<String> =
            score.assumed.iter().map(|(name, op)| format!("{} {op}", output::name(name))).collect();
        output::note(&format!("note: counted as one multiplication for each output: {}", names.join(", ")));
    }
    Ok(())
}

fn show(score: &Score) -> Result<()> {
    let mut table = Table::new(&[
        "layer",
        "op",
        ">weights",
        ">not 0",
        ">bits",
        ">activations",
        ">parameters",
        ">multiplications",
        ">additions",
        ">of the score",
    ]);
    for line in &score.lines {
        table.row(row(score, line));
    }
    output::print(&table.render())?;
    let base = &score.rules.baseline;
    let parts = [
        ("weights", score.total.values, base.parameters),
        ("masks", score.total.masks, base.parameters),
        ("scales, biases, tables", score.total.scales, base.parameters),
        ("multiplications", score.total.multiplications, base.operations),
        ("additions", score.total.additions, base.operations),
    ];
    let mut table = Table::new(&["\u{2007}", ">of 32 bits", ">score", ">of it"]);
    let mut add = |name: &str, amount: f64, part: f64| {
        table.row([
            name.into(),
            count(amount),
            format!("{part:.6}"),
            percent(part / score.score.max(f64::MIN_POSITIVE)),
        ]);
    };
    for (name, bits, of) in parts {
        add(name, bits / 32.0, bits / 32.0 / of);
    }
    add("parameters", score.parameters, score.storage_score);
    add("operations", score.operations, score.operation_score);
    output::line("")?;
    output::print(&table.render())?;
    output::line(&format!(
        "\nscore {:.6} = {:.6} for parameters + {:.6} for operations, against {} ({} and {})",
        score.score,
        score.storage_score,
        score.operation_score,
        base.name,
        count(base.parameters),
        count(base.operations)
    ))
}

fn row(score: &Score, line: &Line) -> [String; 10] {
    let some = |n: u64| if line.weights == 0 { String::new() } else { count(n as f64) };
    [
        output::name(&line.name),
        line.op.clone(),
        some(line.weights),
        some(line.nonzero),
        some(line.weight_bits.into()),
        format!("{} bit", line.activation_bits),
        count(line.cost.storage() / 32.0),
        count(line.cost.multiplications / 32.0),
        count(line.cost.additions / 32.0),
        percent(share(score, &line.cost)),
    ]
}

/// What part of the score a cost is.
fn share(score: &Score, cost: &Cost) -> f64 {
    let base = &score.rules.baseline;
    let own = cost.storage() / 32.0 / base.parameters + cost.operations() / 32.0 / base.operations;
    own / score.score.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_name() {
        assert_eq!(sums("tree").unwrap(), Sums::Tree);
        assert_eq!(sums("f32").unwrap(), Sums::Bits(32));
        assert_eq!(sums("16").unwrap(), Sums::Bits(16));
        assert!(sums("wide").unwrap_err().to_string().contains("tree, fixed"));
    }
}
