//! `FORMAT` and its copy: what this directory is, and the seed without which no frame can be told from noise.
//!
//! Both hold the same text and a checksum of it, so that a damaged one is known, and the other takes its place. A directory of an earlier
//! build has neither checksum nor copy until it is opened for the first time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tracing::{error, warn};
use xxhash_rust::xxh3::xxh3_64;

use super::layout::FORMAT_VERSION;
use super::open::not_writable;
use super::{OpenError, quarantine};

const NAME: &str = "FORMAT";
const COPY: &str = "FORMAT.copy";

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: the log is made now.
    Nothing,
    /// Both files, or the one that a directory of an earlier build has.
    Whole,
    /// One was damaged or missing, and the other took its place.
    Restored,
    /// Neither can be read: there is a new seed, and what is in the staging files cannot be told from noise any more.
    Lost,
}

/// Whether there is a log in the directory, or what is left of one.
#[must_use]
pub fn holds_log(dir: &Path) -> bool {
    dir.join(NAME).exists() || dir.join(COPY).exists() || is_ours(dir)
}

/// Two of the names that a log has, or there may be something else here that happens to have one.
fn is_ours(dir: &Path) -> bool {
    let names = ["store/version", "store/keyspaces", "staging-0", "staging-1", "ends"];
    names.iter().filter(|name| dir.join(name).exists()).count() >= 2
}

/// Reads `FORMAT` or its copy, or makes both; the seed.
pub(super) fn open(dir: &Path) -> Result<(u64, Found), OpenError> {
    let (own, copy) = (read(dir, NAME)?, read(dir, COPY)?);
    let (own_whole, copy_whole) = (own.as_deref().is_some_and(is_whole), copy.as_deref().is_some_and(is_whole));
    // A newer program's directory is left alone, whichever of the two says so. Without a checksum no damage explains another version.
    if copy_whole {
        parse(dir, copy.as_deref().unwrap_or_default())?;
    }
    if let Some(text) = own.as_deref().filter(|text| !text.contains("check"))
        && let Err(error @ OpenError::OtherVersion { .. }) = parse(dir, text)
    {
        return Err(error);
    }
    if own_whole {
        let text = own.unwrap_or_default();
        let seed = parse(dir, &text)?;
        if copy.as_ref() != Some(&text) {
            let damaged = copy.is_some();
            write(dir, COPY, &text)?;
            return Ok((seed, if damaged { Found::Restored } else { Found::Whole }));
        }
        return Ok((seed, Found::Whole));
    }
    if let (true, Some(text)) = (copy_whole, copy) {
        let seed = parse(dir, &text)?;
        warn!("FORMAT was damaged or missing; its copy took its place");
        set_aside(dir, own.is_some())?;
        write(dir, NAME, &text)?;
        return Ok((seed, Found::Restored));
    }
    let refusal = match own.as_deref().map(|text| parse(dir, text)) {
        // Of an earlier build.
        Some(Ok(seed)) => {
            let text = text(seed);
            write(dir, NAME, &text)?;
            write(dir, COPY, &text)?;
            return Ok((seed, Found::Whole));
        }
        Some(Err(OpenError::NotALog { reason, .. })) => Some(reason),
        Some(Err(error)) => return Err(error),
        None => None,
    };
    let lost = is_ours(dir);
    match refusal {
        Some(reason) if !lost => return Err(OpenError::NotALog { dir: dir.to_owned(), reason }),
        None if !lost && (dir.join("store").exists() || dir.join("staging-0").exists()) => {
            return Err(OpenError::NotALog { dir: dir.to_owned(), reason: "FORMAT is missing".into() });
        }
        _ => {}
    }
    if lost {
        error!("FORMAT and its copy cannot be read; what was in no epoch yet is lost");
        set_aside(dir, own.is_some())?;
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| OpenError::Storage(e.to_string()))?;
    let seed = u64::from_le_bytes(random);
    let text = text(seed);
    write_whole(dir, &dir.join(NAME), text.as_bytes()).map_err(|e| not_writable(dir, &e))?;
    write(dir, COPY, &text)?;
    Ok((seed, if lost { Found::Lost } else { Found::Nothing }))
}

/// Bytes that are no text are damage, too.
fn read(dir: &Path, name: &str) -> Result<Option<String>, OpenError> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(not_writable(dir, &error)),
    }
}

fn text(seed: u64) -> String {
    let text = format!("headwater-log\nversion = {FORMAT_VERSION}\nseed = {seed:016x}\n");
    let check = xxh3_64(text.as_bytes());
    format!("{text}check = {check:016x}\n")
}

/// Whether the checksum at the end is that of what comes before it.
fn is_whole(text: &str) -> bool {
    let Some(at) = text.rfind("check = ") else { return false };
    text[at..] == format!("check = {:016x}\n", xxh3_64(&text.as_bytes()[..at]))
}

fn parse(dir: &Path, text: &str) -> Result<u64, OpenError> {
    let not_ours = |reason: &str| OpenError::NotALog { dir: dir.to_owned(), reason: reason.into() };
    let mut lines = text.lines();
    if lines.next() != Some("headwater-log") {
        return Err(not_ours("FORMAT is not ours"));
    }
    let field = |line: Option<&str>, name: &str| {
        line.and_then(|l| l.strip_prefix(name)?.trim_start().strip_prefix('=').map(|v| v.trim().to_owned()))
    };
    let version = field(lines.next(), "version").and_then(|v| v.parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => {}
        Some(found) => return Err(OpenError::OtherVersion { found, ours: FORMAT_VERSION }),
        None => return Err(not_ours("FORMAT has no version")),
    }
    let seed = field(lines.next(), "seed").and_then(|v| u64::from_str_radix(&v, 16).ok());
    seed.ok_or_else(|| not_ours("FORMAT has no seed"))
}

fn set_aside(dir: &Path, exists: bool) -> Result<(), OpenError> {
    match exists.then(|| quarantine::set_aside(dir, &dir.join(NAME))) {
        Some(Err(error)) if error.kind() != io::ErrorKind::StorageFull => Err(not_writable(dir, &error)),
        _ => Ok(()),
    }
}

/// Writes one of the two while the other is there: a full filesystem, on which the log makes room, only puts that off.
fn write(dir: &Path, name: &str, text: &str) -> Result<(), OpenError> {
    match write_whole(dir, &dir.join(name), text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(not_writable(dir, &error)),
        _ => Ok(()),
    }
}

/// Writes a file so that it is there whole or not at all.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_or_missing_one_is_taken_from_the_other() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let dir = dir.path();
        let (seed, found) = open(dir).expect("made");
        assert_eq!(found, Found::Nothing);
        assert_eq!(open(dir).expect("there"), (seed, Found::Whole));
        let whole = fs::read(dir.join(NAME)).expect("there");
        for name in [NAME, COPY] {
            for at in 0..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(dir.join(name), &damaged).expect("written");
                assert_eq!(open(dir).expect("restored"), (seed, Found::Restored), "{name}, byte {at}");
                fs::write(dir.join(name), &whole[..at]).expect("written");
                assert_eq!(open(dir).expect("restored"), (seed, Found::Restored), "{name} cut at {at}");
                assert_eq!(open(dir).expect("there"), (seed, Found::Whole));
            }
        }
        fs::remove_file(dir.join(NAME)).expect("removed");
        assert_eq!(open(dir).expect("restored"), (seed, Found::Restored));
        // What a start was about to make when the power went.
        fs::remove_file(dir.join(COPY)).expect("removed");
        assert_eq!(open(dir).expect("there"), (seed, Found::Whole));
        assert_eq!(fs::read(dir.join(COPY)).expect("made again"), whole);
    }

    #[test]
    fn a_directory_of_an_earlier_build_gets_checksums_and_a_copy() {
        let dir = tempfile::tempdir().expect("temporary directory");
        fs::write(dir.path().join(NAME), "headwater-log\nversion = 1\nseed = 00000000000000ff\n").expect("written");
        assert_eq!(open(dir.path()).expect("ours"), (255, Found::Whole));
        fs::remove_file(dir.path().join(NAME)).expect("removed");
        assert_eq!(open(dir.path()).expect("ours"), (255, Found::Restored));
    }

    #[test]
    fn a_newer_version_is_refused_whichever_of_the_two_says_so() {
        let dir = tempfile::tempdir().expect("temporary directory");
        open(dir.path()).expect("made");
        let newer = "headwater-log\nversion = 9\nseed = 00000000000000ff\n";
        let newer = format!("{newer}check = {:016x}\n", xxh3_64(newer.as_bytes()));
        for name in [COPY, NAME] {
            fs::write(dir.path().join(name), &newer).expect("written");
            assert_eq!(open(dir.path()), Err(OpenError::OtherVersion { found: 9, ours: 1 }));
        }
    }
}
