//! Bytes of files: mapped into memory, the one place of this crate that needs `unsafe`, or read where no system maps.

#[cfg(any(unix, windows))]
mod mapped;

#[cfg(any(unix, windows))]
pub use mapped::{map_file, release};

/// Reads a file, as this system maps none.
///
/// # Errors
/// Whatever reading the file gives.
#[cfg(not(any(unix, windows)))]
pub fn map_file(path: &std::path::Path) -> std::io::Result<bytes::Bytes> {
    std::fs::read(path).map(bytes::Bytes::from)
}

/// Says that bytes will hardly be read again; without mappings there is nothing to give back.
#[cfg(not(any(unix, windows)))]
pub fn release(_: &[u8]) {}
