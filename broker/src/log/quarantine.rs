//! `quarantine/`: what was damaged and set aside, for a person to look at. Inside the budget: the oldest goes when room is needed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// In the data directory; below it a folder for every time that something was set aside, numbered.
pub(super) const FOLDER: &str = "quarantine";

/// Before a number: what earlier builds set aside, in the data directory itself.
const EARLIER: &str = "damaged-";

/// Whether a name in the data directory is no part of the log but what was set aside.
pub(super) fn is_ours(name: &OsStr) -> bool {
    name == FOLDER || name.to_string_lossy().starts_with(EARLIER)
}

/// Moves a file or folder of the data directory here; where it is now.
pub(super) fn set_aside(dir: &Path, what: &Path) -> io::Result<PathBuf> {
    let folder = dir.join(FOLDER);
    let next = numbered(&folder, "")?.last().map_or(1, |(number, _)| number + 1);
    let place = folder.join(next.to_string());
    fs::create_dir_all(&place)?;
    let aside = place.join(what.file_name().unwrap_or_else(|| OsStr::new("unnamed")));
    fs::rename(what, &aside)?;
    for changed in [&place, &folder, dir] {
        File::open(changed)?.sync_all()?;
    }
    Ok(aside)
}

/// Deletes what was set aside first; its place, or `None` if there is nothing.
pub(super) fn drop_oldest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut all = numbered(dir, EARLIER)?;
    all.extend(numbered(&dir.join(FOLDER), "")?);
    let Some((_, oldest)) = all.into_iter().next() else { return Ok(None) };
    fs::remove_dir_all(&oldest)?;
    Ok(Some(oldest))
}

/// Folders of that prefix and a number, in order.
fn numbered(folder: &Path, prefix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix(prefix)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first_that_of_earlier_builds_before_all() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path();
        for n in 1..=11 {
            fs::write(dir.join("file"), [n]).expect("written");
            assert_eq!(set_aside(dir, &dir.join("file")).expect("moved"), dir.join(format!("quarantine/{n}/file")));
        }
        fs::create_dir(dir.join("damaged-1")).expect("made");
        assert_eq!(drop_oldest(dir).expect("deleted"), Some(dir.join("damaged-1")));
        for n in 1..=11 {
            assert_eq!(drop_oldest(dir).expect("deleted"), Some(dir.join(format!("quarantine/{n}"))));
        }
        assert_eq!(drop_oldest(dir).expect("nothing"), None);
    }
}
