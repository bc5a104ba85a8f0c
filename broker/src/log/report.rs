//! What the log says of itself: errors, what opening found, figures.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::record::{Item, LossReason, Stamp};
use super::stream::{Seq, StreamConfig, StreamId, StreamState, StreamUid};
use super::wear::Wear;

/// A stream, for status.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: StreamId,
    /// Its random identity.
    pub uid: StreamUid,
    /// As configured; `None` if it no longer is.
    pub config: Option<StreamConfig>,
    /// What it holds.
    pub state: StreamState,
    /// Messages that limits or the disk budget discarded, since the stream was made.
    pub discarded_msgs: u64,
    /// Messages that could not be read.
    pub damaged_msgs: u64,
    /// Messages that `max_msgs_per_subject` did not count because too many subjects are in use, since open.
    pub untracked_subject_msgs: u64,
}

/// Messages that retention took from a reader before it had confirmed them: one episode, until the reader caught up (G3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossEntry {
    /// Entries are numbered from 1 as long as the data directory lives.
    pub number: u64,
    /// The stream's name.
    pub stream: String,
    /// Name of the cursor.
    pub reader: String,
    /// First sequence lost.
    pub first: Seq,
    /// Last sequence lost; between them there may be others that were not.
    pub last: Seq,
    /// Messages lost. Where the reader had confirmed a part of what was taken at once, the most that it can be.
    pub msgs: u64,
    /// Bytes of their subjects, headers and payloads.
    pub bytes: u64,
    /// When the first went.
    pub since: Stamp,
    /// When the last went.
    pub until: Stamp,
    /// Why.
    pub reason: LossReason,
}

/// Items read, in order.
#[derive(Debug, Default)]
pub struct ReadBatch {
    /// The items.
    pub items: Vec<Item>,
    /// Where to go on.
    pub next: Seq,
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The log did not exist before.
    pub created: bool,
    /// Number of this boot of the machine, as this log counts them.
    pub boot: u32,
    /// Epochs found.
    pub epochs: u64,
    /// Allocated bytes of the directory.
    pub disk_used_bytes: u64,
    /// Frames of the staging log that were in no epoch yet.
    pub frames_replayed: u64,
    /// Messages in them.
    pub messages_replayed: u64,
    /// Frames missing between them: damaged, not merely unfinished.
    pub frames_lost: u64,
    /// Bytes of a frame that was being written when the process or the machine stopped. It was never acknowledged.
    pub bytes_cut: u64,
    /// Messages that are not readable; readers get a gap.
    pub damaged: Vec<DamagedPlace>,
    /// Epochs that are lost, or whose index is not readable.
    pub damaged_epochs: u64,
    /// Where the epochs were moved because they could not be opened as they were. What was whole of them was kept.
    pub quarantined: Option<PathBuf>,
    /// `FORMAT` or its copy was damaged or missing; the other took its place, or if both were, a new seed.
    pub format_damaged: bool,
}

/// A range of a stream that is not readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The stream's name.
    pub stream: String,
    /// First sequence.
    pub first: Seq,
    /// Last sequence.
    pub last: Seq,
}

/// Why a log did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// A stream's configuration is not valid.
    Config(String),
    /// `max_bytes` is too small for a log.
    BudgetTooSmall {
        /// As configured.
        bytes: u64,
        /// The least possible.
        minimum: u64,
    },
    /// Another process has it open. Trying again helps once that ended.
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The other process, if it said.
        pid: Option<u32>,
    },
    /// The directory cannot be made, read or written.
    NotWritable {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        error: String,
    },
    /// The directory holds something else, or a log of which a part is missing.
    NotALog {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by another version.
    OtherVersion {
        /// Version of the directory.
        found: u32,
        /// Version of this program.
        ours: u32,
    },
    /// The filesystem has no room for what a log needs before it can store anything.
    DiskFull {
        /// The data directory.
        dir: PathBuf,
    },
    /// The disk failed, or the system.
    Storage(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Config(what) => f.write_str(what),
            OpenError::BudgetTooSmall { bytes, minimum } => {
                write!(f, "disk budget of {bytes} bytes is too small: at least {minimum} are needed")
            }
            OpenError::Locked { dir, pid: Some(pid) } => {
                write!(f, "data directory {} is in use by process {pid}", dir.display())
            }
            OpenError::Locked { dir, pid: None } => {
                write!(f, "data directory {} is in use by another process", dir.display())
            }
            OpenError::NotWritable { dir, error } => {
                write!(f, "data directory {} is not usable: {error}", dir.display())
            }
            OpenError::NotALog { dir, reason } => {
                write!(f, "data directory {} is not a complete log: {reason}", dir.display())
            }
            OpenError::OtherVersion { found, ours } if found > ours => {
                write!(
                    f,
                    "data directory has format version {found}, written by a newer program; this one knows up to {ours}"
                )
            }
            OpenError::OtherVersion { found, ours } => {
                write!(f, "data directory has format version {found}; this program reads {ours}")
            }
            OpenError::DiskFull { dir } => write!(f, "filesystem of data directory {} is full", dir.display()),
            OpenError::Storage(what) => write!(f, "storage failed: {what}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The id is not from this log.
    UnknownStream(StreamId),
    /// A table value is not readable. Trying again does not help.
    Damaged(String),
    /// The disk failed.
    Storage(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::UnknownStream(id) => write!(f, "stream number {} does not exist", id.0),
            ReadError::Damaged(what) | ReadError::Storage(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ReadError {}

/// Figures of the log. Counters run since open unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Allocated bytes of the data directory, as of the last epoch.
    pub disk_used_bytes: u64,
    /// They never exceed this.
    pub disk_max_bytes: u64,
    /// `discard = "new"` streams are refused because the disk is full of what must be kept.
    pub disk_full: bool,
    /// Epochs on disk.
    pub epochs: u64,
    /// Epochs written.
    pub epochs_written: u64,
    /// Epochs dropped to make room.
    pub epochs_dropped: u64,
    /// Group commits.
    pub commits: u64,
    /// Bytes of frames written.
    pub staged_bytes: u64,
    /// Bytes of blocks and indexes written into epochs.
    pub ingested_bytes: u64,
    /// Messages appended.
    pub appended_msgs: u64,
    /// Bytes of subject, headers and payload appended.
    pub appended_bytes: u64,
    /// Appends that found the group being collected full.
    pub busy: u64,
    /// Appends that a full stream or table refused.
    pub refused: u64,
    /// Times that the writer waited for the sealer.
    pub slot_waits: u64,
    /// Messages discarded by limits or the disk budget, since the streams were made.
    pub discarded_msgs: u64,
    /// Messages found not readable.
    pub damaged_msgs: u64,
    /// Live keys in tables.
    pub table_keys: u64,
    /// Bytes of live keys and values in tables.
    pub table_bytes: u64,
    /// They never exceed this.
    pub table_max_bytes: u64,
    /// Memory taken by frames that are in no epoch yet.
    pub tail_bytes: u64,
    /// Cursors.
    pub cursors: u64,
    /// Number of this boot.
    pub boot: u32,
    /// How long the oldest append has been waiting for its commit; zero if none waits.
    pub oldest_unsynced: Duration,
    /// A sync failed: a restart is needed.
    pub failed: bool,
    /// Bytes written, and for how many.
    pub wear: Wear,
}
