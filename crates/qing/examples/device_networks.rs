//! Networks for `suite/device`, as files for devices: MobileNetV2 as floats and in eight bits, each also with its weights packed.
//!
//! `cargo run --release -p qing --example device_networks -- FOLDER`
//!
//! The network is `mobilenetv2.onnx` of the folder `QING_MODELS`, by default `../shared/models` beside the repository; where there is
//! none, one of its shape at 0.35 of the width, with made-up weights. The data it is calibrated on is made up.

use std::{env, error::Error, path::Path};

use qing::{
    Graph, Plan, PlanOptions, formats, graph,
    lighten::{Options, lighten},
    train::architectures::{Settings, build},
};

fn network() -> Result<Graph, Box<dyn Error>> {
    let folder = env::var_os("QING_MODELS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"),
        |models| env::split_paths(&models).next().unwrap_or_default(),
    );
    let path = folder.join("mobilenetv2.onnx");
    if path.exists() {
        return Ok(formats::read(&path)?);
    }
    println!("{} is not here: made-up weights", path.display());
    Ok(build("mobilenetv2-small", &Settings { input: vec![3, 224, 224], classes: 1000, seed: 1 })?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).ok_or("usage: device_networks FOLDER")?;
    let folder = Path::new(&folder);
    let network = network()?;
    // No comparison of layers: nobody reads the report.
    let options = Options { noise_batches: 0, synthetic_batches: 1, ..Options::default() };
    let lighter = lighten(&network, &[], &options, &mut |_| {})?;
    let mut float = network;
    graph::passes::normalize(&mut float)?;
    let options = PlanOptions::default();
    for (graph, name) in [(&float, "mobilenetv2"), (&lighter.graph, "mobilenetv2-w8a8")] {
        formats::qing::write(graph, &folder.join(name).with_extension("qing"))?;
        let packed = [(options.packing(), Plan::prepack(graph, &options)?.1)];
        formats::qing::write_prepacked(graph, &packed, &folder.join(format!("{name}-packed.qing")))?;
    }
    Ok(())
}
