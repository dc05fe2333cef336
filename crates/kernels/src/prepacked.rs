//! Packed weights that outlive the plan they were made for: kept while one plan is made, and taken by later ones where they lie,
//! in a mapped file, so that loading a network neither reads its weights nor writes them anew.
//!
//! Kernels pack through `Aligned::packed` and `integers`. While [`keep`] runs, what they make is noted under
//! the node it belongs to ([`node`]), with what it is; while [`take`] runs, what was noted is handed out instead of being made, as long as it is what
//! is asked for. Anything else is made as ever: a plan with other methods, or for another machine, is merely slower to make.
//!
//! The first array of every kind is made all the same and compared, unless it is large, so arrays that another version of the loops packed are
//! not believed; and [`VERSION`] is part of the name under which sections are kept.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes of the head of a section, and of what it says of each array.
const HEAD: usize = 16;
const ENTRY: usize = 32;
/// Arrays start at a multiple of so many bytes from the start of the section.
const ALIGN: usize = 64;
const MAGIC: [u8; 8] = *b"qingpack";
/// Bytes of an array beyond which it is believed without being made: that would take as long as not having it.
const MOST_COMPARED: usize = 128 << 10;

/// The version of all orders of packed weights together: raised when one of them changes.
pub const VERSION: u32 = 1;

/// What an array is: where it is packed, and the numbers that its order depends on besides its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    site: u32,
    of: u64,
}

impl Tag {
    /// The tag of an array packed at `site` under `numbers`.
    pub(crate) fn new(site: &str, numbers: &[usize]) -> Tag {
        // FNV-1a.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let start = 0xcbf2_9ce4_8422_2325;
        let site = site.bytes().fold(start, mix);
        let of = numbers.iter().flat_map(|n| (*n as u64).to_le_bytes()).fold(site, mix);
        Tag { site: (site ^ site >> 32) as u32, of }
    }
}

/// An array as a section has it.
#[derive(Debug, Clone)]
struct Entry {
    node: u32,
    tag: Tag,
    /// Of the section.
    range: Range<usize>,
}

/// A section of packed arrays, to be taken by [`take`].
#[derive(Clone)]
pub struct Prepacked {
    bytes: Bytes,
    /// The arrays of every node, in the order in which they were packed.
    nodes: Arc<HashMap<u32, Vec<Entry>>>,
}

impl fmt::Debug for Prepacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepacked {{ nodes: {} }}", self.nodes.len())
    }
}

impl Prepacked {
    /// The section that [`keep`] gave, or `None` where the bytes are none.
    #[must_use]
    pub fn new(bytes: Bytes) -> Option<Prepacked> {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let count = usize::try_from(number(8)?).ok().filter(|count| *count <= bytes.len() / ENTRY)?;
        let mut nodes: HashMap<u32, Vec<Entry>> = HashMap::new();
        for i in 0..count {
            let at = HEAD + ENTRY * i;
            let place = number(at)?;
            let (from, len) = (usize::try_from(number(at + 16)?).ok()?, usize::try_from(number(at + 24)?).ok()?);
            let end = from.checked_add(len).filter(|end| *end <= bytes.len())?;
            let (node, site) = (place as u32, (place >> 32) as u32);
            let tag = Tag { site, of: number(at + 8)? };
            nodes.entry(node).or_default().push(Entry { node, tag, range: from..end });
        }
        Some(Prepacked { bytes, nodes: Arc::new(nodes) })
    }
}

/// What packing does on this thread.
enum Mode {
    Plain,
    Keep { entries: Vec<Entry>, bytes: Vec<u8> },
    Take { from: Prepacked, next: usize, known: HashSet<u32> },
}

struct State {
    mode: Mode,
    node: u32,
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State { mode: Mode::Plain, node: 0 }) };
}

/// Puts the mode back when it goes, a panic included.
struct Restore(Option<State>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(before) = self.0.take() {
            STATE.replace(before);
        }
    }
}

fn within<R>(mode: Mode, run: impl FnOnce() -> R) -> (R, Mode) {
    let mut restore = Restore(Some(STATE.replace(State { mode, node: 0 })));
    let result = run();
    let after = STATE.replace(restore.0.take().unwrap_or(State { mode: Mode::Plain, node: 0 }));
    (result, after.mode)
}

/// Runs `make` and gives a section of everything that it packed on this thread.
pub fn keep<R>(make: impl FnOnce() -> R) -> (R, Vec<u8>) {
    let (result, mode) = within(Mode::Keep { entries: vec![], bytes: vec![] }, make);
    let Mode::Keep { entries, bytes } = mode else { return (result, vec![]) };
    let data = (HEAD + ENTRY * entries.len()).next_multiple_of(ALIGN);
    let mut section = Vec::with_capacity(data + bytes.len());
    section.extend(MAGIC);
    section.extend((entries.len() as u64).to_le_bytes());
    for entry in &entries {
        section.extend((u64::from(entry.node) | u64::from(entry.tag.site) << 32).to_le_bytes());
        section.extend(entry.tag.of.to_le_bytes());
        section.extend(((data + entry.range.start) as u64).to_le_bytes());
        section.extend((entry.range.len() as u64).to_le_bytes());
    }
    section.resize(data, 0);
    section.extend(bytes);
    (result, section)
}

/// Runs `make`, which takes what it would pack on this thread out of a section where that has it.
pub fn take<R>(from: Prepacked, make: impl FnOnce() -> R) -> R {
    within(Mode::Take { from, next: 0, known: HashSet::new() }, make).0
}

/// Says that what is packed from here on belongs to the node of that number.
pub fn node(number: usize) {
    STATE.with_borrow_mut(|state| {
        state.node = number as u32;
        if let Mode::Take { next, .. } = &mut state.mode {
            *next = 0;
        }
    });
}

/// Notes an array of the current node.
pub(crate) fn note(tag: Tag, array: &[u8]) {
    STATE.with_borrow_mut(|state| {
        let node = state.node;
        if let Mode::Keep { entries, bytes } = &mut state.mode {
            bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
            let range = bytes.len()..bytes.len() + array.len();
            bytes.extend_from_slice(array);
            entries.push(Entry { node, tag, range });
        }
    });
}

/// The next array of the current node, if the section has it, with `true` if it is to be believed.
pub(crate) fn next(tag: Tag, fits: impl FnOnce(usize) -> bool) -> Option<(Bytes, bool)> {
    STATE.with_borrow_mut(|state| {
        let node = state.node;
        let Mode::Take { from, next, known } = &mut state.mode else { return None };
        let entry = from.nodes.get(&node)?.get(*next)?;
        *next += 1;
        if entry.tag != tag || !fits(entry.range.len()) {
            return None;
        }
        let trusted = known.contains(&tag.site) || entry.range.len() > MOST_COMPARED;
        Some((from.bytes.slice(entry.range.clone()), trusted))
    })
}

/// Says whether the first array of a kind was what it should be. If not, nothing more is taken from the section.
pub(crate) fn judge(tag: Tag, same: bool) {
    STATE.with_borrow_mut(|state| {
        if let Mode::Take { known, .. } = &mut state.mode {
            if same {
                known.insert(tag.site);
            } else {
                state.mode = Mode::Plain;
            }
        }
    });
}

/// `len` integers that follow from the weights, as [`Aligned::packed`](crate::aligned::Aligned::packed) does it.
pub(crate) fn integers<E>(tag: Tag, len: usize, make: impl FnOnce() -> Result<Vec<i32>, E>) -> Result<Vec<i32>, E> {
    let read = |shared: &Bytes| {
        shared.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<i32>>()
    };
    let found = next(tag, |bytes| bytes == 4 * len);
    if let Some((shared, true)) = &found {
        return Ok(read(shared));
    }
    let made = make()?;
    if let Some((shared, _)) = found {
        judge(tag, read(&shared) == made);
    }
    let bytes: Vec<u8> = made.iter().flat_map(|v| v.to_le_bytes()).collect();
    note(tag, &bytes);
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::Aligned;

    fn pack(calls: &mut usize, salt: i32) -> (Vec<Aligned<i32>>, Vec<i32>) {
        let mut arrays = vec![];
        for n in 0..3 {
            node(n);
            arrays.push(Aligned::packed(Tag::new("test", &[n]), 5 + n, |to| {
                *calls += 1;
                to.iter_mut().enumerate().for_each(|(i, to)| *to = (n * 10 + i) as i32 + salt);
            }));
        }
        let sums = integers::<()>(Tag::new("sums", &[]), 2, || {
            *calls += 1;
            Ok(vec![salt, 2])
        });
        (arrays, sums.unwrap())
    }

    fn section() -> (Vec<u8>, Vec<Vec<i32>>) {
        let ((arrays, _), section) = keep(|| pack(&mut 0, 0));
        (section, arrays.iter().map(|a| a.to_vec()).collect())
    }

    /// The bytes on a boundary, as those of a file are.
    fn lined(bytes: &[u8]) -> Bytes {
        let mut room = vec![0; bytes.len() + ALIGN];
        let start = room.as_ptr().align_offset(ALIGN);
        room[start..start + bytes.len()].copy_from_slice(bytes);
        Bytes::from(room).slice(start..start + bytes.len())
    }

    #[test]
    fn what_was_kept_is_taken_but_for_the_first_of_a_kind() {
        let (section, arrays) = section();
        let from = Prepacked::new(lined(&section)).unwrap();
        let mut calls = 0;
        let (taken, sums) = take(from, || pack(&mut calls, 0));
        assert_eq!(calls, 2, "one array and one run of integers are compared");
        assert_eq!(taken.iter().map(|a| a.to_vec()).collect::<Vec<_>>(), arrays);
        assert_eq!(sums, [0, 2]);
        // And nothing lasts.
        pack(&mut calls, 0);
        assert_eq!(calls, 6);
    }

    #[test]
    fn what_another_version_packed_is_not_believed() {
        let (section, _) = section();
        let from = Prepacked::new(lined(&section)).unwrap();
        let mut calls = 0;
        let (taken, sums) = take(from, || pack(&mut calls, 1));
        assert_eq!((calls, taken[2][0], sums[0]), (4, 21, 1));
    }

    #[test]
    fn damaged_sections_are_refused_or_harmless() {
        let (section, _) = section();
        for at in 0..section.len() {
            for flip in [1u8, 0x80] {
                let mut bytes = section.clone();
                bytes[at] ^= flip;
                if let Some(from) = Prepacked::new(lined(&bytes)) {
                    take(from, || pack(&mut 0, 0));
                }
            }
            if let Some(from) = Prepacked::new(lined(&section[..at])) {
                take(from, || pack(&mut 0, 0));
            }
        }
    }
}
