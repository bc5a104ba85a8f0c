//! What the filesystem says: how much we take of it, and how much it lets us have.

use std::io;
use std::path::{Path, PathBuf};

use headwater_broker::config::Disk;
use headwater_broker::log;

use crate::failure::Failure;
use crate::out::bytes;

/// G2's smallest budget.
const MIN_BUDGET: u64 = 32 << 20;

/// A budget that the filesystem can hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Bytes.
    pub(crate) max_bytes: u64,
    /// Set if it is less than was configured.
    pub(crate) lowered: Option<String>,
}

/// The budget for `dir`: what was configured, or as much of it as the filesystem holds beside `min_free`.
pub(crate) fn budget(disk: &Disk, dir: &Path) -> Result<Budget, Failure> {
    let place = existing(dir);
    let free = available(&place)?;
    let own = allocated(dir)
        .map_err(|e| Failure::runtime(format!("data directory {} cannot be looked into: {e}", dir.display())))?;
    fit(disk, free, own, &place)
}

/// Bytes that we could take of the filesystem of `place`, which exists.
pub(crate) fn available(place: &Path) -> Result<u64, Failure> {
    let stat = rustix::fs::statvfs(place)
        .map_err(|e| Failure::runtime(format!("cannot ask the filesystem of {}: {e}", place.display())))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn fit(disk: &Disk, free: u64, own: u64, place: &Path) -> Result<Budget, Failure> {
    let possible = own.saturating_add(free.saturating_sub(disk.min_free));
    if possible >= disk.max_bytes {
        return Ok(Budget { max_bytes: disk.max_bytes, lowered: None });
    }
    let (place, free) = (place.display(), bytes(free));
    if possible < MIN_BUDGET {
        return Err(Failure::runtime(format!(
            "the filesystem of {place} has {free} free, and disk.min_free keeps {} of it: at least {} are needed",
            bytes(disk.min_free),
            bytes(MIN_BUDGET)
        )));
    }
    // Whole mebibytes: the figure is shown to people.
    let max_bytes = possible >> 20 << 20;
    let lowered = format!(
        "disk.max_bytes is {}, but the filesystem of {place} has {free} free: using at most {}",
        bytes(disk.max_bytes),
        bytes(max_bytes)
    );
    Ok(Budget { max_bytes, lowered: Some(lowered) })
}

/// What the log's directory takes; 0 if it does not exist.
fn allocated(dir: &Path) -> io::Result<u64> {
    match log::allocated(dir, None) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        found => found,
    }
}

/// The nearest directory above `dir` that exists, or `dir` itself.
pub(crate) fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|path| path.is_dir());
    match found {
        Some(path) if !path.as_os_str().is_empty() => path.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use headwater_broker::log::BlockCodec;

    const MIB: u64 = 1 << 20;

    fn disk(max: u64, min_free: u64) -> Disk {
        Disk { max_bytes: max * MIB, min_free: min_free * MIB, codec: BlockCodec::Zstd }
    }

    #[test]
    fn a_budget_that_fits_is_left_alone() {
        let budget = fit(&disk(1024, 64), 2000 * MIB, 0, Path::new("/x")).expect("fits");
        assert_eq!(budget, Budget { max_bytes: 1024 * MIB, lowered: None });
        // What we hold already counts as ours.
        assert!(
            fit(&disk(1024, 64), 70 * MIB, 1020 * MIB, Path::new("/x")).is_ok_and(|budget| budget.lowered.is_none())
        );
    }

    #[test]
    fn a_small_filesystem_lowers_the_budget_and_says_so() {
        let budget = fit(&disk(1024, 64), 564 * MIB, 100 * MIB, Path::new("/x")).expect("fits");
        assert_eq!(budget.max_bytes, 600 * MIB);
        assert!(budget.lowered.is_some_and(|text| text.contains("600 MiB") && text.contains("/x")));
    }

    #[test]
    fn a_full_filesystem_is_refused() {
        assert!(
            matches!(fit(&disk(1024, 64), 80 * MIB, 0, Path::new("/x")), Err(Failure::Runtime(text)) if text.contains("32 MiB"))
        );
    }

    #[test]
    fn allocated_bytes_are_summed_below_the_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("a")).expect("made");
        fs::write(dir.path().join("a/b"), vec![1_u8; 100_000]).expect("written");
        fs::create_dir(dir.path().join("lost+found")).expect("made");
        fs::write(dir.path().join("lost+found/#1"), vec![1_u8; 500_000]).expect("written");
        assert!(allocated(dir.path()).is_ok_and(|bytes| (100_000..200_000).contains(&bytes)));
        assert_eq!(allocated(&dir.path().join("none")).ok(), Some(0));
        assert_eq!(existing(&dir.path().join("x/y/z")), dir.path());
    }
}
