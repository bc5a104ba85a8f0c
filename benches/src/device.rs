//! A block device of our own whose counters tell what really reaches the card: ext4 on a loop device over a file in memory.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted ext4 with the defaults of mkfs. Unmounted and released when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    mount: PathBuf,
    device: String,
}

impl LoopDevice {
    /// Makes a filesystem of `bytes` in `image` (best on a tmpfs) and mounts it on `mount`. Needs root.
    ///
    /// # Errors
    /// When one of truncate, losetup, mkfs.ext4 or mount fails; the text is theirs.
    pub fn make(image: &Path, mount: &Path, bytes: u64) -> io::Result<Self> {
        std::fs::File::create(image)?.set_len(bytes)?;
        std::fs::create_dir_all(mount)?;
        let device = output("losetup", &["--find", "--show", &image.to_string_lossy()])?.trim().to_owned();
        let made = Self { mount: mount.to_owned(), device };
        // lazy initialisation would write in the background while we measure
        output("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &made.device])?;
        output("mount", &[&made.device, &mount.to_string_lossy()])?;
        Ok(made)
    }

    /// Bytes written to the device so far, everything included (data, journal, metadata). What is still in the page cache is written
    /// first: who leaves it there wears the card, too.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn written(&self) -> io::Result<u64> {
        rustix::fs::syncfs(std::fs::File::open(&self.mount)?)?;
        let name = self.device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat"))?;
        let sectors: u64 = stat
            .split_whitespace()
            .nth(6)
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| io::Error::other(format!("/sys/block/{name}/stat has no seventh field")))?;
        Ok(sectors * 512)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Best effort: a device that stays behind is the bench machine's, not the product's.
        let _ = output("umount", &[&self.mount.to_string_lossy()]);
        let _ = output("losetup", &["--detach", &self.device]);
    }
}

fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let done = Command::new(program).args(arguments).output()?;
    if !done.status.success() {
        return Err(io::Error::other(format!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&done.stderr).trim()
        )));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Allocated bytes of everything below `dir`, which may change while it is looked at.
///
/// # Errors
/// When `dir` cannot be read.
pub fn allocated(dir: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A file may be gone between the listing and the look.
        let Ok(metadata) = entry.metadata() else { continue };
        // st_blocks counts 512 bytes, whatever the filesystem's block is.
        sum += metadata.blocks() * 512;
        if metadata.is_dir() {
            sum += allocated(&entry.path()).unwrap_or(0);
        }
    }
    Ok(sum)
}
