//! Prints the SystemVerilog package of a preset: `cargo run -p qing-npu --example package -- core > npu_pkg.sv`.

fn main() -> Result<(), qing_npu::NpuError> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "core".into());
    print!("{}", qing_npu::Config::preset(&name)?.package());
    Ok(())
}
