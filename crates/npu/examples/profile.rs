//! Cycles of a network, layer by layer: `cargo run --release -p qing-npu --example profile -- MODEL [PRESET]`.

use std::{path::Path, time::Instant};

use qing_graph::Tensor;
use qing_npu::{Config, Session, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("MODEL [PRESET]")?;
    let config = Config::preset(&args.next().unwrap_or_else(|| "core".into()))?;
    let graph = qing_formats::read(Path::new(&path))?;
    let begin = Instant::now();
    let program = compile(&graph, &config)?;
    let compiled = begin.elapsed();
    let inputs: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|id| {
            let ty = graph.ty(*id);
            let shape: Vec<usize> = ty.shape.iter().flatten().map(|d| d.known().unwrap_or(1)).collect();
            let n = shape.iter().product();
            match ty.range().filter(|_| ty.element.bits() <= 8) {
                Some((lo, hi)) => {
                    let values: Vec<i32> = (0..n).map(|i| lo + (i as i32 * 37) % (hi - lo + 1)).collect();
                    Tensor::from_ints(ty.element, &shape, &values)
                }
                None => Tensor::new(&shape, (0..n).map(|i| (i % 201) as f32 / 100.0 - 1.0).collect()),
            }
        })
        .collect::<Result<_, _>>()?;
    let mut session = Session::new(program)?;
    let begin = Instant::now();
    let frame = session.run(&inputs)?;
    let simulated = begin.elapsed();
    let profile = session.program().profile(&frame.run);
    println!("{:>9} {:>9} {:>9} {:>9} {:>5}  bits  layer", "start", "end", "work", "cycles", "inst");
    for l in &profile.layers {
        let bits = l.bits.1.map_or_else(|| format!("{}", l.bits.0), |w| format!("{}·{w}", l.bits.0));
        println!(
            "{:>9} {:>9} {:>9} {:>9} {:>5}  {bits:>4}  {} {} ({})",
            l.span.0, l.span.1, l.work, l.cycles, l.instructions, l.unit, l.name, l.op
        );
    }
    println!("{} cycles, array {:.1} %, {:?}", profile.cycles, 100.0 * profile.array_use, frame.run.counters);
    if std::env::var_os("SPANS").is_some() {
        for s in &frame.run.spans {
            println!("{:?} {} {}..{}", s.queue, s.pc, s.start, s.end);
        }
    }
    println!("compiled in {compiled:.2?}, simulated in {simulated:.2?}");
    Ok(())
}
