//! Which instructions this machine can run.

use std::sync::OnceLock;

/// A set of instructions that kernels are written for.
///
/// All sets exist on every target, so that a name means the same everywhere; of those of one architecture, a later
/// one is the better choice where the machine has both. Having it does not mean having the earlier ones: there are
/// processors with AVX-512 VNNI and without AVX-VNNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Scalar,
    /// WebAssembly with 128-bit vectors.
    Simd128,
    /// Armv8-A with NEON.
    Neon,
    /// NEON with dot products of four bytes (`sdot`, Armv8.2-A).
    NeonDot,
    /// NEON with dot products and the matrix product of bytes (`usmmla`, Armv8.6-A).
    NeonI8mm,
    /// AVX2 with FMA.
    Avx2,
    /// AVX2 with FMA and AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, VL and DQ with VNNI.
    Avx512,
}

/// Whether kernels with AVX-512 are part of this build (the feature `avx512`). What asks for the set asks for this as well, so that the
/// compiler leaves out what is never reached.
pub(crate) const AVX512: bool = cfg!(all(target_arch = "x86_64", feature = "avx512"));

/// The sets of the architecture and the features that this is compiled for, from least to best.
const SETS: &[Isa] = if AVX512 {
    &[Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512]
} else if cfg!(target_arch = "x86_64") {
    &[Isa::Scalar, Isa::Avx2, Isa::AvxVnni]
} else if cfg!(target_arch = "aarch64") {
    &[Isa::Scalar, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm]
} else if cfg!(target_arch = "wasm32") {
    &[Isa::Scalar, Isa::Simd128]
} else {
    &[Isa::Scalar]
};

impl Isa {
    /// Every set there is, of whatever architecture.
    pub const ALL: [Isa; 8] =
        [Isa::Scalar, Isa::Simd128, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm, Isa::Avx2, Isa::AvxVnni, Isa::Avx512];

    /// The best set this machine runs, at most what the environment variable `QING_ISA` names ([`Isa::name`]).
    /// A value that names no set of this architecture is ignored.
    #[must_use]
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let cap = std::env::var("QING_ISA").ok().and_then(|name| Isa::from_name(&name));
            cap.unwrap_or(*SETS.last().unwrap_or(&Isa::Scalar)).or_supported()
        })
    }

    /// Every set this machine runs, whatever `QING_ISA` says, from least to best; tests walk this list.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        SETS.iter().copied().filter(|isa| isa.supported()).collect()
    }

    /// The lower-case name, as `QING_ISA` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Simd128 => "simd128",
            Isa::Neon => "neon",
            Isa::NeonDot => "neon-dotprod",
            Isa::NeonI8mm => "neon-i8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
        }
    }

    /// The set of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name))
    }

    /// This set if the machine has it, else the best one it has below it, or, for a set of another architecture, the
    /// best it has: what makes it sound to call a kernel compiled for the set that is returned.
    #[must_use]
    pub fn or_supported(self) -> Isa {
        // Asked before every small piece of work, so the machine is asked once.
        static GIVEN: OnceLock<[Isa; Isa::ALL.len()]> = OnceLock::new();
        GIVEN.get_or_init(|| {
            Isa::ALL.map(|isa| {
                let most = if SETS.contains(&isa) { isa } else { Isa::Avx512 };
                SETS.iter().copied().rfind(|isa| *isa <= most && probe(*isa)).unwrap_or(Isa::Scalar)
            })
        })[self as usize]
    }

    /// Whether this machine runs the set.
    #[must_use]
    pub fn supported(self) -> bool {
        self.or_supported() == self
    }
}

/// Whether bytes can be permuted across a whole 512-bit register (AVX-512 VBMI).
#[must_use]
pub fn has_vbmi() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        AVX512 && Isa::Avx512.supported() && is_x86_feature_detected!("avx512vbmi")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Bytes of a core's second-level cache; 512 KiB where the machine does not say.
#[must_use]
pub fn level2() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::__cpuid;
            // Extended leaf 6: kilobytes of the second level in the upper half of ECX, on AMD and Intel alike.
            let size = if __cpuid(0x8000_0000).eax >= 0x8000_0006 { __cpuid(0x8000_0006).ecx >> 16 } else { 0 };
            if (128..=16 << 10).contains(&size) {
                return (size as usize) << 10;
            }
        }
        512 << 10
    })
}

/// Whether 512-bit registers count the bits of their words and bytes (AVX-512 VPOPCNTDQ and BITALG).
#[must_use]
pub fn has_vpopcnt() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        AVX512
            && Isa::Avx512.supported()
            && is_x86_feature_detected!("avx512vpopcntdq")
            && is_x86_feature_detected!("avx512bitalg")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(target_arch = "x86_64")]
fn probe(isa: Isa) -> bool {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    match isa {
        Isa::Scalar => true,
        Isa::Avx2 => avx2,
        Isa::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
        Isa::Avx512 => {
            avx2 && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
        }
        _ => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn probe(isa: Isa) -> bool {
    use std::arch::is_aarch64_feature_detected;
    let dot = is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod");
    match isa {
        Isa::Scalar => true,
        Isa::Neon => is_aarch64_feature_detected!("neon"),
        Isa::NeonDot => dot,
        Isa::NeonI8mm => dot && is_aarch64_feature_detected!("i8mm"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn probe(isa: Isa) -> bool {
    // A WebAssembly module either contains vector instructions or does not: nothing is asked when it runs.
    isa == Isa::Scalar || (isa == Isa::Simd128 && cfg!(target_feature = "simd128"))
}

/// Whether floats can be multiplied as bfloat16 (AVX-512 BF16).
#[must_use]
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        AVX512 && Isa::Avx512.supported() && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// What the order of packed weights depends on beside the weights, as a word.
#[must_use]
pub fn packing(isa: Isa) -> String {
    let bytes = if isa == Isa::Avx512 && has_vbmi() { "+vbmi" } else { "" };
    format!("{}{bytes}, {}", isa.name(), crate::prepacked::VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_there_and_names_round_trip() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::Scalar);
        assert!(all.is_sorted());
        assert!(all.contains(&Isa::detect()));
        for isa in &all {
            assert_eq!(isa.or_supported(), *isa);
        }
        for (index, isa) in Isa::ALL.into_iter().enumerate() {
            assert_eq!(isa as usize, index);
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }

    #[test]
    fn a_set_that_is_missing_gives_one_that_is_there() {
        let all = Isa::available();
        for isa in Isa::ALL {
            let given = isa.or_supported();
            assert!(all.contains(&given), "{isa:?} gives {given:?}");
            if SETS.contains(&isa) {
                assert!(given <= isa, "{isa:?} gives {given:?}");
            } else {
                assert_eq!(Some(&given), all.last(), "{isa:?}");
            }
        }
    }
}
