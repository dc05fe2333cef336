use std::process::Command;

/// The Python that has `onnx` and `onnxruntime`, if any has: `QING_PYTHON`, or `python3`.
pub fn python() -> Command {
    Command::new(std::env::var_os("QING_PYTHON").unwrap_or_else(|| "python3".into()))
}
