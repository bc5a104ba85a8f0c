//! What the data directory takes on its filesystem, and what is left there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where `fsck` puts what it finds: the filesystem's own, at its top, and only root may look into it.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Allocated bytes of everything below `dir`, itself included. Left out: what is in `lost+found`, which is the filesystem's own where
/// `dir` is the top of one, and which only root may look into; and the files in `except` (not that folder itself).
///
/// # Errors
/// `dir` does not exist, or something below it cannot be read. A file that is removed meanwhile takes nothing.
pub fn allocated(dir: &Path, except: Option<&Path>) -> io::Result<u64> {
    let mut sum = fs::symlink_metadata(dir)?.blocks() * 512;
    if except == Some(dir) {
        return Ok(sum);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let size = match entry.metadata() {
            Ok(meta) if meta.is_dir() && entry.file_name() != LOST_AND_FOUND => allocated(&entry.path(), except),
            Ok(meta) => Ok(meta.blocks() * 512),
            Err(error) => Err(error),
        };
        match size {
            Ok(bytes) => sum += bytes,
            // Removed while this looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// Bytes left on the filesystem for a process without privileges.
pub(super) fn available(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes a file of `bytes` zeros, allocated.
pub(super) fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let file = fs::File::create(path)?;
    let mut left = bytes;
    let zeros = [0; 4096];
    while left > 0 {
        let n = left.min(zeros.len() as u64);
        io::Write::write_all(&mut &file, &zeros[..usize::try_from(n).unwrap_or(zeros.len())])?;
        left -= n;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_filesystem_keeps_for_itself_is_not_looked_into() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join(LOST_AND_FOUND)).expect("made");
        let before = allocated(dir.path(), None).expect("measured");
        fs::write(dir.path().join(LOST_AND_FOUND).join("#1"), vec![1; 100_000]).expect("written");
        assert_eq!(allocated(dir.path(), None).expect("measured"), before);
        fs::write(dir.path().join("ours"), vec![1; 100_000]).expect("written");
        assert!(allocated(dir.path(), None).expect("measured") >= before + 100_000);
    }
}
