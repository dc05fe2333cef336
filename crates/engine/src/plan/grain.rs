//! Which steps are too short to be shared among threads.

use qing_kernels::Isa;

use crate::{Arithmetic, lower::StepSpec};

/// Nanoseconds that a step must take one thread to be worth sharing: handing it out and waiting for it takes a quarter of a
/// microsecond, and its operands then lie in the caches of several cores.
const SHARED: f64 = 2500.0;
/// Bytes a nanosecond that move through the nearest caches, and that functions of single values read and write.
const MOVED: f64 = 32.0;
const COMPUTED: f64 = 4.0;

/// Whether one thread is as fast as several. Times are estimated from what cores of a few gigahertz reach with the set; they need to be
/// right within a factor of two.
pub(super) fn alone(isa: Isa, step: &StepSpec) -> bool {
    let [float, integer] = match isa {
        Isa::Avx512 => [100.0, 400.0],
        Isa::AvxVnni => [50.0, 200.0],
        Isa::Avx2 => [50.0, 90.0],
        Isa::NeonI8mm => [20.0, 120.0],
        Isa::NeonDot => [20.0, 60.0],
        Isa::Neon => [20.0, 25.0],
        Isa::Simd128 => [15.0, 25.0],
        Isa::Scalar => [1.0, 1.0],
    };
    let rate = if step.arithmetic == Arithmetic::Float { float } else { integer };
    let bytes = if step.macs > 0 { MOVED } else { COMPUTED };
    step.macs as f64 / rate + step.bytes() as f64 / bytes < SHARED
}
