//! Memory-mapped bytes: the one place of this crate that needs `unsafe`.

#[cfg(any(unix, windows))]
use std::fs::File;
use std::{io, path::Path};

use bytes::Bytes;

/// Maps a file into memory, read-only. Nothing is read until it is touched.
///
/// As with every mapping, truncating the file while it is mapped makes later reads fail with a bus error; writers must
/// replace model files by renaming, as qing's own writers do.
///
/// # Errors
/// Whatever opening or mapping the file gives.
#[cfg(any(unix, windows))]
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only; the file being replaced in place by another process is the documented
    // hazard above.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

/// Reads a file, as this system maps none.
///
/// # Errors
/// Whatever reading the file gives.
#[cfg(not(any(unix, windows)))]
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    std::fs::read(path).map(Bytes::from)
}
