//! Looking for damage without changing anything.
//!
//! The log is opened as at any start, but in a shadow of its directory: tables, which are never written again, are symbolic links
//! there, everything else is copied. So whatever opening cuts, moves aside or writes, it does in the shadow, and what is found is what a
//! start would find. Then every message and every table value is read. The shadow takes the size of the staging files and lies in the
//! system's temporary directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::record::{GapReason, Item, TableId};
use super::stream::{Seq, StreamId};
use super::{AckPolicy, BlockCodec, LogConfig, OpenError, OpenReport, ReadError, disk, format, open, plan, quarantine};
use crate::clock::SystemClock;

/// One read.
const PAGE_MSGS: usize = 1_000;
const PAGE_BYTES: usize = 1 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// What opening would say.
    pub opened: OpenReport,
    /// Every stream, in the order in which they were made.
    pub streams: Vec<VerifiedStream>,
    /// Values of tables (sessions, retained messages) that could be read.
    pub values: u64,
    /// Tables of which values cannot be read, with the reason.
    pub damaged_tables: Vec<String>,
}

/// One stream of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedStream {
    /// Its name.
    pub name: String,
    /// Messages that could be read.
    pub msgs: u64,
    /// What cannot be read, both ends included. Damage that was found before is among it until retention takes it.
    pub damaged: Vec<(Seq, Seq)>,
}

impl Verified {
    /// Nothing is damaged. An unfinished write at the end counts as none: it was not acknowledged, unless that was in the second before
    /// the process was killed and the disk damaged it afterwards, which looks the same.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let OpenReport { frames_lost, damaged_epochs, damaged, quarantined, format_damaged, .. } = &self.opened;
        *frames_lost == 0
            && *damaged_epochs == 0
            && damaged.is_empty()
            && quarantined.is_none()
            && !format_damaged
            && self.damaged_tables.is_empty()
            && self.streams.iter().all(|stream| stream.damaged.is_empty())
    }
}

/// Whether no process has the data directory open; writes nothing.
///
/// # Errors
/// [`OpenError::Locked`] if one has, [`OpenError::NotALog`] if there is no directory.
pub fn ensure_closed(dir: &Path) -> Result<(), OpenError> {
    if !dir.is_dir() {
        return Err(OpenError::NotALog { dir: dir.to_owned(), reason: "there is no directory".into() });
    }
    lock(dir).map(drop)
}

/// Reads everything in a data directory that no process has open. Blocking, as long as reading takes.
///
/// # Errors
/// As opening it: it is in use, is no log, or is of another version. Damage is no error but a finding.
pub fn verify(dir: &Path) -> Result<Verified, OpenError> {
    let _lock = lock(dir)?;
    let storage = |error: io::Error| OpenError::Storage(format!("looking at {}: {error}", dir.display()));
    if !format::holds_log(dir) {
        return Err(OpenError::NotALog { dir: dir.to_owned(), reason: "there is no log".into() });
    }
    let shadow = Shadow::of(dir).map_err(storage)?;
    let config = LogConfig {
        dir: shadow.0.clone(),
        max_bytes: u64::MAX,
        min_free: 0,
        ack: AckPolicy::Synced,
        max_delay: Duration::ZERO,
        codec: BlockCodec::Lz4,
        streams: Vec::new(),
        clock: Arc::new(SystemClock),
    };
    // The smallest sizes: staging files that are larger are read as they are. Without its threads, the log writes nothing further.
    let (shared, opened) = open::open(config, plan::sizes(plan::MIN_BUDGET)).map_err(|error| in_place(error, dir))?;
    let mut verified = Verified { opened, ..Verified::default() };
    let names: Vec<String> = shared.lock().streams.iter().map(|stream| stream.name.clone()).collect();
    for (id, name) in (0..).map(StreamId).zip(names) {
        let mut stream = VerifiedStream { name, msgs: 0, damaged: Vec::new() };
        let mut from = Seq(0);
        loop {
            let batch = shared.read(id, from, PAGE_MSGS, PAGE_BYTES).map_err(|e| OpenError::Storage(e.to_string()))?;
            if batch.items.is_empty() {
                break;
            }
            for item in batch.items {
                match item {
                    Item::Message(_) => stream.msgs += 1,
                    Item::Gap { first, last, reason: GapReason::Damage } => stream.damaged.push((first, last)),
                    Item::Gap { .. } => {}
                }
            }
            from = batch.next;
        }
        verified.streams.push(stream);
    }
    for table in 0..=u8::MAX {
        match shared.table_scan(TableId(table), &mut |_, _| verified.values += 1) {
            Ok(()) => {}
            Err(ReadError::Damaged(what)) => verified.damaged_tables.push(what),
            Err(error) => return Err(OpenError::Storage(error.to_string())),
        }
    }
    Ok(verified)
}

/// Errors name the directory that was asked about, not its shadow.
fn in_place(error: OpenError, dir: &Path) -> OpenError {
    let dir = dir.to_owned();
    match error {
        OpenError::NotALog { reason, .. } => OpenError::NotALog { dir, reason },
        OpenError::NotWritable { error, .. } => OpenError::Storage(error),
        other => other,
    }
}

/// Keeps a broker from starting meanwhile; writes nothing. `None`: no process ever had the directory open.
fn lock(dir: &Path) -> Result<Option<File>, OpenError> {
    fs::read_dir(dir).map_err(|e| open::not_writable(dir, &e))?;
    let mut file = match OpenOptions::new().read(true).open(dir.join("LOCK")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open::not_writable(dir, &error)),
    };
    open::take_lock(&mut file, dir, FlockOperation::NonBlockingLockShared)?;
    Ok(Some(file))
}

/// A directory that looks like another one and can be written without changing that. Goes with its owner.
struct Shadow(PathBuf);

impl Shadow {
    fn of(dir: &Path) -> io::Result<Shadow> {
        let random = getrandom::u64().map_err(|e| io::Error::other(e.to_string()))?;
        let shadow = Shadow(std::env::temp_dir().join(format!("headwater-verify-{random:016x}")));
        fs::DirBuilder::new().mode(0o700).create(&shadow.0)?;
        mirror(&fs::canonicalize(dir)?, &shadow.0)?;
        Ok(shadow)
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        // What is left there is in nobody's way, and cannot be told to anybody from here.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    let is_tables = from.file_name().is_some_and(|name| name == "tables");
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            // What was moved aside earlier is no part of the log any more.
            if !quarantine::is_ours(&name) && name != disk::LOST_AND_FOUND {
                fs::create_dir(&target)?;
                mirror(&entry.path(), &target)?;
            }
        } else if is_tables {
            symlink(entry.path(), &target)?;
        } else if name != "LOCK" && name != "reserve" {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
