//! What lies in a directory, to see that nothing was touched.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every path below `dir` with what can be told of it: its kind, permissions, length and a hash of its content.
///
/// # Panics
/// If something cannot be read.
#[must_use]
#[track_caller]
pub fn of(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let read = |e: std::io::Error| -> ! { panic!("cannot look at {}: {e}", path.display()) };
        let metadata = std::fs::symlink_metadata(&path).unwrap_or_else(|e| read(e));
        let mode = metadata.mode();
        let what = if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap_or_else(|e| read(e));
            left.extend(entries.map(|entry| entry.unwrap_or_else(|e| read(e)).path()));
            format!("directory {mode:o}")
        } else {
            let content = std::fs::read(&path).unwrap_or_else(|e| read(e));
            let mut hash = std::hash::DefaultHasher::new();
            hash.write(&content);
            format!("file {mode:o}, {} bytes, {:016x}", content.len(), hash.finish())
        };
        found.insert(path, what);
    }
    found
}
