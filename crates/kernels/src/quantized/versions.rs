//! Plain loops compiled once for every instruction set.

/// Turns a function into one that takes an [`crate::Isa`] first and runs the copy of the body compiled for it.
///
/// Such a body is plain Rust whose meaning does not depend on the instruction set, so all copies agree; what differs
/// is how wide the compiler makes its loops.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) {
            #[inline(always)]
            fn body($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),*) {
                body($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),*) {
                body($($arg),*);
            }

            match isa.or_supported() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has the instructions.
                $crate::Isa::Avx512 if $crate::cpu::AVX512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::Isa::Avx2 | $crate::Isa::AvxVnni => unsafe { avx2($($arg),*) },
                _ => body($($arg),*),
            }
        }
    };
}

pub(crate) use per_isa;
