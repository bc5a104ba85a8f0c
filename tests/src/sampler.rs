//! Watches what a data directory takes on its filesystem, every few milliseconds, for as long as a test runs.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(2);

/// What was seen, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Looks.
    pub looks: u64,
    /// The most that was allocated at once.
    pub most: u64,
    /// The most that unlinked files which were still open had of it.
    pub most_unlinked: u64,
    /// The least and the sum over all looks of what tables (the data) took, since [`Sampler::steady`].
    pub least_tables: u64,
    /// See there.
    pub sum_tables: u64,
    /// Looks since then.
    pub steady_looks: u64,
}

impl Seen {
    /// What tables took in the mean.
    #[must_use]
    pub fn mean_tables(&self) -> u64 {
        self.sum_tables / self.steady_looks.max(1)
    }
}

/// The thread. Ends with [`Sampler::stop`].
#[derive(Debug)]
pub struct Sampler {
    over: Arc<AtomicBool>,
    steady: Arc<AtomicBool>,
    pid: Arc<AtomicU32>,
    thread: JoinHandle<Seen>,
}

/// A file: what it has, and whether it is a table, or has no name any more.
#[derive(Clone, Copy)]
struct File {
    bytes: u64,
    table: bool,
    unlinked: bool,
}

impl Sampler {
    /// Begins to watch.
    #[must_use]
    pub fn start(dir: &Path) -> Sampler {
        let (over, steady) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let pid = Arc::<AtomicU32>::default();
        let dir = dir.to_owned();
        let watch = (Arc::clone(&over), Arc::clone(&steady), Arc::clone(&pid));
        let thread = std::thread::spawn(move || {
            let (over, steady, pid) = watch;
            let mut seen = Seen { least_tables: u64::MAX, ..Seen::default() };
            while !over.load(Ordering::Relaxed) {
                look(&dir, pid.load(Ordering::Relaxed), steady.load(Ordering::Relaxed), &mut seen);
                std::thread::sleep(EVERY);
            }
            seen
        });
        Sampler { over, steady, pid, thread }
    }

    /// The process whose open files count.
    pub fn follow(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// From now on the directory is as full as it gets.
    pub fn steady(&self) {
        self.steady.store(true, Ordering::Relaxed);
    }

    /// What was seen.
    ///
    /// # Panics
    /// If watching failed.
    #[must_use]
    pub fn stop(self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// One look is two walks. What both met existed at the moment between them, with at least the smaller of its two sizes: so a file that is
/// removed while another one appears is never counted with it.
fn look(dir: &Path, pid: u32, steady: bool, seen: &mut Seen) {
    let (before, after) = (walk(dir, pid), walk(dir, pid));
    let (mut sum, mut unlinked, mut tables) = (0, 0, 0);
    for (inode, file) in &after {
        let Some(earlier) = before.get(inode) else { continue };
        let bytes = file.bytes.min(earlier.bytes);
        sum += bytes;
        unlinked += if file.unlinked { bytes } else { 0 };
        tables += if file.table { bytes } else { 0 };
    }
    seen.looks += 1;
    seen.most = seen.most.max(sum);
    seen.most_unlinked = seen.most_unlinked.max(unlinked);
    if steady {
        seen.least_tables = seen.least_tables.min(tables);
        seen.sum_tables += tables;
        seen.steady_looks += 1;
    }
}

fn walk(dir: &Path, pid: u32) -> HashMap<u64, File> {
    let mut found = HashMap::new();
    below(dir, &mut found);
    // Gone while the process is not running.
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let Some(name) = target.to_str().and_then(|name| name.strip_suffix(" (deleted)")).map(PathBuf::from) else {
            continue;
        };
        if let (true, Ok(metadata)) = (name.starts_with(dir), fs::metadata(entry.path())) {
            let bytes = metadata.blocks() * 512;
            found.entry(metadata.ino()).or_insert(File { bytes, table: false, unlinked: true });
        }
    }
    found
}

/// What is removed meanwhile takes nothing.
fn below(dir: &Path, found: &mut HashMap<u64, File>) {
    let table = dir.file_name().is_some_and(|name| name == "tables");
    if let Ok(metadata) = fs::symlink_metadata(dir) {
        found.insert(metadata.ino(), File { bytes: metadata.blocks() * 512, table: false, unlinked: false });
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => below(&entry.path(), found),
            Ok(metadata) => {
                let bytes = metadata.blocks() * 512;
                found.insert(metadata.ino(), File { bytes, table, unlinked: false });
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn named_and_unlinked_files_are_counted_once() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let dir = dir.path().canonicalize().expect("it exists");
        fs::create_dir(dir.join("tables")).expect("made");
        fs::write(dir.join("tables/1"), vec![1; 40_960]).expect("written");
        fs::hard_link(dir.join("tables/1"), dir.join("again")).expect("linked");
        let mut gone = fs::File::create(dir.join("gone")).expect("made");
        gone.write_all(&[1; 81_920]).expect("written");
        fs::remove_file(dir.join("gone")).expect("removed");
        let mut seen = Seen { least_tables: u64::MAX, ..Seen::default() };
        look(&dir, std::process::id(), true, &mut seen);
        assert_eq!(seen.most_unlinked, 81_920);
        assert!((122_880..140_000).contains(&seen.most), "{seen:?}");
        drop(gone);
        look(&dir, std::process::id(), true, &mut seen);
        assert_eq!(seen.steady_looks, 2);
    }
}
