//! Which instructions this machine can run.

use std::sync::OnceLock;

/// A set of instructions that kernels are written for, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust; runs everywhere.
    Scalar,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, VL and DQ with VNNI.
    Avx512,
}

impl Isa {
    /// The best set this machine runs, at most what the environment variable `QING_ISA`
    /// (`scalar`, `avx2` or `avx512`) allows. Any other value of the variable is ignored.
    #[must_use]
    pub fn detect() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let cap = std::env::var("QING_ISA").ok().and_then(|name| Isa::from_name(&name)).unwrap_or(Isa::Avx512);
            supported().min(cap)
        })
    }

    /// Every set this machine runs, whatever `QING_ISA` says; tests walk this list.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        let best = supported();
        [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| *isa <= best).collect()
    }

    /// The lower-case name, as `QING_ISA` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The set of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Isa> {
        [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name))
    }

    /// This set if the machine has it, else the best one it has: what makes it sound to call a kernel
    /// compiled for the set that is returned.
    #[must_use]
    pub fn or_supported(self) -> Isa {
        self.min(supported())
    }
}

/// Whether bytes can be permuted across a whole 512-bit register (AVX-512 VBMI).
#[must_use]
pub fn has_vbmi() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        supported() == Isa::Avx512 && is_x86_feature_detected!("avx512vbmi")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

#[cfg(target_arch = "x86_64")]
fn supported() -> Isa {
    // Asked before every small piece of work, so the seven questions are put once.
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(|| {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni");
        match (avx2, avx512) {
            (true, true) => Isa::Avx512,
            (true, false) => Isa::Avx2,
            _ => Isa::Scalar,
        }
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn supported() -> Isa {
    Isa::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_is_always_there_and_names_round_trip() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::Scalar);
        assert!(all.contains(&Isa::detect()));
        for isa in all {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
            assert_eq!(isa.or_supported(), isa);
        }
        assert_eq!(Isa::from_name("sse9"), None);
    }
}
