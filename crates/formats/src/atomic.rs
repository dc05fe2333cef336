//! Files that are there whole or not at all.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use crate::FormatError;

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder. A kill or a
/// full disk leaves the old file, or none; never a part of the new one.
///
/// # Errors
/// [`FormatError::Io`] with the path; the temporary file is removed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let attempt = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        if let Some(folder) = path.parent() {
            // Not every file system lets a folder be opened and synced; the file itself is safe by now.
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let _ = File::open(folder).and_then(|f| f.sync_all());
        }
        Ok(())
    };
    attempt().map_err(|e: std::io::Error| {
        let _ = fs::remove_file(&temporary);
        FormatError::from(e).in_file(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_behind() {
        let folder = std::env::temp_dir().join(format!("qing-atomic-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn says_which_file_could_not_be_written() {
        let error = write(Path::new("/nonexistent/folder/file"), b"").unwrap_err().to_string();
        assert!(error.contains("/nonexistent/folder/file"), "{error}");
    }
}
