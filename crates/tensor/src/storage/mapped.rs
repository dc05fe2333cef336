//! Files mapped into memory, and how their pages are given back.

use std::{
    fs::File,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use memmap2::Mmap;

/// The mappings that are alive: [`release`] must know mapped bytes from those that exist nowhere else.
static MAPPINGS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

/// Lets `Bytes` share a mapping with [`MAPPINGS`].
struct Shared(Arc<Mmap>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a file into memory, read-only. Nothing is read until it is touched.
///
/// As with every mapping, truncating the file while it is mapped makes later reads fail with a bus error; writers must
/// replace model files by renaming, as qing's own writers do.
///
/// # Errors
/// Whatever opening or mapping the file gives.
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only; the file being replaced in place by another process is the documented
    // hazard above.
    #[allow(unsafe_code)]
    let map = Arc::new(unsafe { Mmap::map(&file)? });
    let mut mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
    mappings.retain(|map| map.strong_count() > 0);
    mappings.push(Arc::downgrade(&map));
    Ok(Bytes::from_owner(Shared(map)))
}

/// Says that bytes will hardly be read again: if they are mapped from a file, the whole pages among them stop counting as memory
/// of this process, and come back from the file should they be read after all. Other bytes are left alone.
pub fn release(bytes: &[u8]) {
    let wanted = bytes.as_ptr_range();
    let wanted = wanted.start as usize..wanted.end as usize;
    let map = {
        let mappings = MAPPINGS.lock().unwrap_or_else(PoisonError::into_inner);
        mappings.iter().filter_map(Weak::upgrade).find(|map| {
            let all = map.as_ptr_range();
            all.start as usize <= wanted.start && wanted.end <= all.end as usize
        })
    };
    if let Some(map) = map {
        let start = map.as_ptr() as usize;
        let pages = whole_pages(wanted.start - start..wanted.end - start);
        advise(&map, pages);
    }
}

/// Bytes of a page. Where pages are larger, neighbours are given back as well and come back when they are read.
const PAGE: usize = 4096;

/// The pages that lie in a range from the start of a mapping, which is that of a page.
fn whole_pages(range: Range<usize>) -> Range<usize> {
    let start = range.start.next_multiple_of(PAGE);
    start..(range.end / PAGE * PAGE).max(start)
}

#[cfg(target_os = "linux")]
fn advise(map: &Mmap, pages: Range<usize>) {
    if pages.is_empty() {
        return;
    }
    // SAFETY: the mapping is read-only and of a file, so its pages hold nothing that the file does not: reading them again gives
    // the same bytes. The range lies in the mapping.
    #[allow(unsafe_code)]
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, pages.start, pages.len()) };
    // Advice that is not taken changes nothing.
    let _ = advised;
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &Mmap, _: Range<usize>) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_are_read_again() {
        let path = std::env::temp_dir().join(format!("qing-release-{}", std::process::id()));
        let content: Vec<u8> = (0..5 * PAGE + 100).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let mapped = map_file(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(mapped, content);
        for range in [0..content.len(), 1..PAGE + 5, 100..200, 3 * PAGE..5 * PAGE] {
            release(&mapped[range]);
            assert_eq!(mapped, content);
        }
        // Bytes of the heap exist nowhere else.
        release(&content);
        assert_eq!(mapped, content);
        release(&[]);
    }

    #[test]
    fn only_whole_pages_are_given_back() {
        assert_eq!(whole_pages(1..3 * PAGE - 1), PAGE..2 * PAGE);
        assert!(whole_pages(1..PAGE - 1).is_empty());
        assert_eq!(whole_pages(0..PAGE), 0..PAGE);
    }
}
