//! What goes into the log and what comes out. The log treats subject, headers and payload as bytes.

use bytes::Bytes;

use super::stream::{Seq, StreamId};
use crate::clock::Monotonic;

/// When a message was appended: boot number of this data directory and monotonic time within that boot.
/// The log turns it into wall time once the clock of that boot is known (G7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Counts the boots of the machine as seen by this data directory, from 1.
    pub boot: u32,
    /// Time since that boot.
    pub at: Monotonic,
}

/// A message to append. Borrowed: the log copies it once, into the group being collected.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// The stream it goes to.
    pub stream: StreamId,
    /// Its key for `max_msgs_per_subject` and filters; for MQTT the topic as published. At most 65,535 bytes.
    pub subject: &'a [u8],
    /// Opaque to the log; empty for none.
    pub headers: &'a [u8],
    /// The message itself.
    pub payload: &'a [u8],
    /// Opaque to the log; the broker keeps QoS and retain here.
    pub tag: u8,
}

/// A small table in the log that keeps the last value per key (retained messages, sessions, cursors).
/// Live values move along when their epoch is dropped, so they share the log's one bound and one sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u8);

/// One element of an append group. All entries of a group reach the disk together or not at all.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// Append to a stream.
    Message(NewMessage<'a>),
    /// Set `key` in a table.
    Put {
        /// The table.
        table: TableId,
        /// At most 65,535 bytes.
        key: &'a [u8],
        /// The new value.
        value: &'a [u8],
    },
    /// Remove `key` from a table.
    Delete {
        /// The table.
        table: TableId,
        /// At most 65,535 bytes.
        key: &'a [u8],
    },
}

/// Counts append groups since the log was opened. A group is durable once the log's durable mark has reached its ticket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A message read back. Subject, headers and payload share the block they were read with.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its sequence in its stream.
    pub seq: Seq,
    /// When it was appended.
    pub stamp: Stamp,
    /// As appended.
    pub subject: Bytes,
    /// As appended.
    pub headers: Bytes,
    /// As appended.
    pub payload: Bytes,
    /// As appended.
    pub tag: u8,
}

impl StoredMessage {
    /// One with bytes of its own, in one piece of memory.
    pub(super) fn copied(seq: Seq, stamp: Stamp, subject: &[u8], headers: &[u8], payload: &[u8], tag: u8) -> Self {
        let mut payload = Bytes::from([subject, headers, payload].concat());
        let subject = payload.split_to(subject.len());
        let headers = payload.split_to(headers.len());
        StoredMessage { seq, stamp, subject, headers, payload, tag }
    }
}

/// Why sequences are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Discarded by a limit of the stream or of the disk.
    Retention,
    /// Removed by a person.
    Purge,
    /// Unreadable, moved to quarantine.
    Damage,
}

/// Why retention took a message that a reader had not confirmed. Kept on disk: variants are only added, at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LossReason {
    /// The disk budget, or the filesystem, was full.
    Disk,
    /// `max_bytes` of the stream.
    MaxBytes,
    /// `max_msgs` of the stream.
    MaxMsgs,
    /// `max_age` of the stream.
    MaxAge,
    /// `max_msgs_per_subject` of the stream.
    MaxMsgsPerSubject,
    /// It could not be read.
    Damage,
}

impl LossReason {
    /// As in the configuration, for people and for JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LossReason::Disk => "disk",
            LossReason::MaxBytes => "max_bytes",
            LossReason::MaxMsgs => "max_msgs",
            LossReason::MaxAge => "max_age",
            LossReason::MaxMsgsPerSubject => "max_msgs_per_subject",
            LossReason::Damage => "damage",
        }
    }
}

/// What a reader meets, in order of sequence.
#[derive(Clone, Debug)]
pub enum Item {
    /// A message.
    Message(StoredMessage),
    /// `first..=last` are not there any more.
    Gap {
        /// First missing sequence.
        first: Seq,
        /// Last missing sequence.
        last: Seq,
        /// Why.
        reason: GapReason,
    },
}
