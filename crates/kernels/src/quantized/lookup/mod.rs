//! Any unary function of a byte: one load from a table of 256.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
use crate::cpu::AVX512;
use crate::cpu::{Isa, has_vbmi};
use crate::error::{KernelError, expect_len};
use crate::pool::{Pool, SharedMut};

/// Bytes one thread takes at a time.
const CHUNK: usize = 32 * 1024;

/// `y[i] = table[x[i]]`.
///
/// # Errors
/// When `x` and `y` differ in length.
pub fn lookup(isa: Isa, table: &[u8; 256], x: &[u8], y: &mut [u8], pool: &Pool) -> Result<(), KernelError> {
    expect_len("output", y.len(), x.len())?;
    let len = x.len();
    let y = SharedMut::new(y);
    pool.run(len.div_ceil(CHUNK), &|chunk| {
        let range = chunk * CHUNK..((chunk + 1) * CHUNK).min(len);
        // SAFETY: ranges of distinct chunks do not overlap.
        let y = unsafe { y.slice(range.clone()) };
        y.copy_from_slice(&x[range]);
        in_place(isa, table, y);
    });
    Ok(())
}

/// Replaces every value by its entry in the table.
pub fn in_place(isa: Isa, table: &[u8; 256], values: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if AVX512 && isa.or_supported() == Isa::Avx512 && has_vbmi() {
        // SAFETY: the machine has VBMI.
        unsafe { avx512::in_place(table, values) };
        return;
    }
    #[cfg(target_arch = "aarch64")]
    if isa.or_supported() >= Isa::Neon {
        // SAFETY: the machine has NEON.
        unsafe { neon::in_place(table, values) };
        return;
    }
    let _ = (isa, has_vbmi);
    for value in values {
        *value = table[*value as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_instruction_set_reads_the_table(
            table in prop::collection::vec(any::<u8>(), 256),
            x in prop::collection::vec(any::<u8>(), 0..300),
            threads in 1usize..4,
        ) {
            let table: [u8; 256] = table.try_into().unwrap();
            let want: Vec<u8> = x.iter().map(|x| table[*x as usize]).collect();
            let pool = Pool::kept(threads);
            for isa in Isa::available() {
                let mut y = vec![0; x.len()];
                lookup(isa, &table, &x, &mut y, &pool).unwrap();
                prop_assert_eq!(&y, &want, "{:?}", isa);
            }
        }
    }
}
