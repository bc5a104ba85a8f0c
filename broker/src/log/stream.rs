//! What a stream is: its name, its limits, its identity. JetStream's words.

use std::fmt;
use std::time::Duration;

/// A sequence number within one stream, from 1. Never reused, not even after a purge or a crash.
/// As a position to read from, 0 means "from the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Seq(pub u64);

impl Seq {
    /// The sequence behind this one.
    #[must_use]
    pub fn next(self) -> Seq {
        Seq(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Handle of an open stream: its number in this log, given once and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct StreamId(pub u32);

/// Random identity of a stream, made when the stream is, changed only when it is made again (data directory wiped).
/// Shown as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct StreamUid(pub u64);

impl fmt::Display for StreamUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What happens to an append when a limit of the stream, or the disk, is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// The oldest messages make room.
    #[default]
    Old,
    /// The append is refused with an error that names the limit.
    New,
}

/// Where the messages of a stream are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// On disk, acknowledged after the sync.
    #[default]
    File,
    /// In memory up to `max_bytes`; gone after a restart, acknowledged at once.
    Memory,
}

/// Limits of one stream. `None` means without a limit of its own (the disk budget always holds).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes of subject + headers + payload over all messages held.
    pub max_bytes: Option<u64>,
    /// A message older than this is discarded, never earlier (G7).
    pub max_age: Option<Duration>,
    /// Messages held.
    pub max_msgs: Option<u64>,
    /// Messages held per subject.
    pub max_msgs_per_subject: Option<u32>,
    /// Bytes of subject + headers + payload of one message; larger ones are refused.
    pub max_msg_bytes: Option<u32>,
    /// What a full stream does.
    pub discard: Discard,
    /// Bytes on disk that no other stream can push out; what it holds beyond them competes by priority and age.
    pub reserve: Option<u64>,
    /// Who yields when the disk is full.
    pub priority: Priority,
}

/// From 0 to [`Priority::MAX`]: when the disk is full, what all uplinks have confirmed goes first, then the lowest priority, then the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(pub u8);

impl Priority {
    /// The highest.
    pub const MAX: u8 = 9;
}

impl Default for Priority {
    fn default() -> Priority {
        Priority(5)
    }
}

/// A stream as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// 1-64 characters of `A-Z a-z 0-9 _ -`. Names that begin with `$` are the broker's own.
    pub name: String,
    /// Its limits.
    pub limits: StreamLimits,
    /// Where it is kept.
    pub storage: Storage,
}

/// What a stream holds now, as far as it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// First sequence held; `last.next()` when the stream is empty.
    pub first: Seq,
    /// Last sequence that is durable; `Seq(0)` before the first message.
    pub last: Seq,
    /// Messages held.
    pub msgs: u64,
    /// Bytes of subject + headers + payload held.
    pub bytes: u64,
}
