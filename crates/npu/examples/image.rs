//! Writes the program image of a network with two frames of noise, for the test bench of the RTL:
//! `cargo run -p qing-npu --example image -- MODEL PRESET FOLDER`.

use std::path::Path;

use qing_graph::Tensor;
use qing_npu::{Config, compile, export::Image};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, preset, folder] = &args[..] else { return Err("MODEL PRESET FOLDER".into()) };
    let graph = qing_formats::read(Path::new(model))?;
    let program = compile(&graph, &Config::preset(preset)?)?;
    let mut image = Image::new(&program.config, &program.instructions)?;
    let (_, cycles) = image.run(program.setup, program.setup_words.clone());
    println!("set-up: {cycles} cycles");
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for frame in 0..2 {
        let inputs: Vec<Tensor> = program
            .graph
            .inputs
            .iter()
            .map(|id| {
                let ty = program.graph.ty(*id);
                let shape = ty.known_shape().ok_or("an input of unknown shape")?;
                let mut next = || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state
                };
                let n = shape.iter().product();
                let tensor = match ty.range().filter(|_| ty.element.bits() <= 8) {
                    Some((lo, hi)) => {
                        let values: Vec<i32> = (0..n).map(|_| lo + (next() % (hi - lo + 1) as u64) as i32).collect();
                        Tensor::from_ints(ty.element, &shape, &values)?
                    }
                    None => Tensor::new(&shape, (0..n).map(|_| (next() % 2001) as f32 / 1000.0 - 1.0).collect())?,
                };
                Ok::<Tensor, Box<dyn std::error::Error>>(tensor)
            })
            .collect::<Result<_, _>>()?;
        let words = program.frame_input(&inputs)?;
        let (_, cycles) = image.run(program.frame, words);
        println!("frame {frame}: {cycles} cycles");
    }
    image.write(Path::new(folder))?;
    Ok(())
}
