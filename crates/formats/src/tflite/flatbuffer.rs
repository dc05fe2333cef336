//! Just enough of FlatBuffers to read a model: tables, vectors, strings and scalars, every offset checked.
//!
//! Reads borrow the file and allocate nothing; a table that refers to itself cannot make the reader loop, because the
//! schema decides how deep it goes. Format: <https://flatbuffers.dev/internals/>.

use crate::FormatError;

/// A table: fields found through its vtable.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    vtable: usize,
    vtable_len: usize,
    len: usize,
}

fn fail(at: usize, what: &str) -> FormatError {
    FormatError::malformed(format!("byte {at}"), what)
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], FormatError> {
    at.checked_add(N)
        .and_then(|end| bytes.get(at..end))
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| fail(at, "an offset leads past the end of the file"))
}

fn follow(bytes: &[u8], at: usize) -> Result<usize, FormatError> {
    let offset = u32::from_le_bytes(read(bytes, at)?) as usize;
    at.checked_add(offset)
        .filter(|to| *to < bytes.len())
        .ok_or_else(|| fail(at, "an offset leads past the end of the file"))
}

impl<'a> Table<'a> {
    /// The root table of a file.
    pub(super) fn root(bytes: &'a [u8]) -> Result<Table<'a>, FormatError> {
        Table::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Table<'a>, FormatError> {
        let back = i32::from_le_bytes(read(bytes, at)?);
        let vtable = usize::try_from(at as i64 - i64::from(back)).map_err(|_| fail(at, "a table without a vtable"))?;
        let vtable_len = u16::from_le_bytes(read(bytes, vtable)?) as usize;
        let len = u16::from_le_bytes(read(bytes, vtable.saturating_add(2))?) as usize;
        if vtable_len < 4 || vtable.saturating_add(vtable_len) > bytes.len() || at.saturating_add(len) > bytes.len() {
            return Err(fail(at, "a table that does not fit the file"));
        }
        Ok(Table { bytes, at, vtable, vtable_len, len })
    }

    /// Where field `id` is; `None` if it has its default.
    fn field(&self, id: usize, size: usize) -> Result<Option<usize>, FormatError> {
        let slot = 4 + 2 * id;
        if slot + 2 > self.vtable_len {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(read(self.bytes, self.vtable + slot)?) as usize;
        match offset {
            0 => Ok(None),
            o if o + size <= self.len => Ok(Some(self.at + o)),
            _ => Err(fail(self.at, "a field outside of its table")),
        }
    }

    pub(super) fn i8(&self, id: usize, default: i8) -> Result<i8, FormatError> {
        self.field(id, 1)?.map_or(Ok(default), |at| Ok(i8::from_le_bytes(read(self.bytes, at)?)))
    }

    pub(super) fn i32(&self, id: usize, default: i32) -> Result<i32, FormatError> {
        self.field(id, 4)?.map_or(Ok(default), |at| Ok(i32::from_le_bytes(read(self.bytes, at)?)))
    }

    pub(super) fn u32(&self, id: usize, default: u32) -> Result<u32, FormatError> {
        self.field(id, 4)?.map_or(Ok(default), |at| Ok(u32::from_le_bytes(read(self.bytes, at)?)))
    }

    pub(super) fn f32(&self, id: usize, default: f32) -> Result<f32, FormatError> {
        self.field(id, 4)?.map_or(Ok(default), |at| Ok(f32::from_le_bytes(read(self.bytes, at)?)))
    }

    pub(super) fn table(&self, id: usize) -> Result<Option<Table<'a>>, FormatError> {
        self.field(id, 4)?.map(|at| Table::at(self.bytes, follow(self.bytes, at)?)).transpose()
    }

    /// Position and length of a vector of elements of `size` bytes; empty if absent.
    fn vector(&self, id: usize, size: usize) -> Result<(usize, usize), FormatError> {
        let Some(at) = self.field(id, 4)? else { return Ok((0, 0)) };
        let at = follow(self.bytes, at)?;
        let count = u32::from_le_bytes(read(self.bytes, at)?) as usize;
        let fits =
            count.checked_mul(size).and_then(|n| n.checked_add(at + 4)).is_some_and(|end| end <= self.bytes.len());
        if fits { Ok((at + 4, count)) } else { Err(fail(at, "a vector that passes the end of the file")) }
    }

    /// Range of the file that a vector of bytes covers.
    pub(super) fn bytes(&self, id: usize) -> Result<std::ops::Range<usize>, FormatError> {
        let (at, count) = self.vector(id, 1)?;
        Ok(at..at + count)
    }

    pub(super) fn string(&self, id: usize) -> Result<String, FormatError> {
        Ok(String::from_utf8_lossy(&self.bytes[self.bytes(id)?]).into_owned())
    }

    fn scalars<const N: usize>(&self, id: usize) -> Result<impl Iterator<Item = [u8; N]> + 'a, FormatError> {
        let (at, count) = self.vector(id, N)?;
        Ok(self.bytes[at..at + count * N].chunks_exact(N).map(|c| c.try_into().expect("chunks of N bytes")))
    }

    pub(super) fn i32s(&self, id: usize) -> Result<Vec<i32>, FormatError> {
        Ok(self.scalars(id)?.map(i32::from_le_bytes).collect())
    }

    pub(super) fn i64s(&self, id: usize) -> Result<Vec<i64>, FormatError> {
        Ok(self.scalars(id)?.map(i64::from_le_bytes).collect())
    }

    pub(super) fn f32s(&self, id: usize) -> Result<Vec<f32>, FormatError> {
        Ok(self.scalars(id)?.map(f32::from_le_bytes).collect())
    }

    pub(super) fn tables(&self, id: usize) -> Result<Vec<Table<'a>>, FormatError> {
        let (at, count) = self.vector(id, 4)?;
        (0..count).map(|i| Table::at(self.bytes, follow(self.bytes, at + 4 * i)?)).collect()
    }
}
