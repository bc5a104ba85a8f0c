//! The log: every stored message and every small piece of state that must survive is a record here.

mod record;
mod stream;

pub use record::{Entry, GapReason, Item, NewMessage, Stamp, StoredMessage, TableId, Ticket};
pub use stream::{Discard, Seq, Storage, StreamConfig, StreamId, StreamLimits, StreamState, StreamUid};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::clock::{Clock, WallTime};

/// When an append counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckPolicy {
    /// After the fdatasync of its group (G1).
    #[default]
    Synced,
    /// At once; the sync follows within the interval. Relaxes G1.
    Interval(Duration),
}

/// Compression of blocks at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockCodec {
    /// Cheap.
    Lz4,
    /// zstd level 3: half the bytes of LZ4 on telemetry, 1 us per message more.
    #[default]
    Zstd,
}

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The data directory; made if missing.
    pub dir: PathBuf,
    /// G2: allocated bytes of everything below `dir`, at any instant. At least 32 MiB.
    pub max_bytes: u64,
    /// Less than this left on the filesystem counts as full.
    pub min_free: u64,
    /// When an append counts as done.
    pub ack: AckPolicy,
    /// How long a commit may wait for company.
    pub max_delay: Duration,
    /// Compression of blocks at rest.
    pub codec: BlockCodec,
    /// The streams that exist.
    pub streams: Vec<StreamConfig>,
    /// The only source of time.
    pub clock: Arc<dyn Clock>,
}

/// How far the log is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableMark {
    /// Every group up to and including this one is on disk.
    pub ticket: Ticket,
    /// A sync failed: nothing further will become durable, the process must be restarted.
    pub failed: bool,
}

/// What became of an appended group.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Durable once the mark reaches this.
    pub ticket: Ticket,
    /// Sequence of the last message entry in the group, if it had one.
    pub last_seq: Option<Seq>,
}

/// Why an append was refused. Nothing of the group was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The group being collected is full: wait for [`Log::room`], then try again.
    Busy,
    /// The message exceeds `max_msg_bytes` of the stream, or what a group can hold. Trying again cannot help.
    TooLarge {
        /// Bytes of the message.
        bytes: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A `discard = "new"` stream is full. Names the stream and the limit ("max_bytes", "max_msgs", "disk", ...).
    Full {
        /// The stream's name.
        stream: String,
        /// The limit that was hit.
        limit: &'static str,
    },
    /// A sync failed earlier.
    Failed,
}

/// Handle of the open log; cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {}

impl Log {
    /// Opens (or makes) the log and replays what was not yet in an epoch.
    pub fn open(_config: LogConfig) -> Result<(Log, OpenReport), OpenError> {
        todo!()
    }
    /// The stream of that name, configured or the broker's own.
    pub fn stream(&self, _name: &str) -> Option<StreamId> {
        todo!()
    }
    /// Name, random identity.
    pub fn stream_uid(&self, _stream: StreamId) -> StreamUid {
        todo!()
    }
    /// What a stream holds.
    pub fn state(&self, _stream: StreamId) -> StreamState {
        todo!()
    }
    /// Appends a group: assigns sequences, copies it into the group being collected. Never waits for the disk.
    pub fn append(&self, _group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        todo!()
    }
    /// Resolves when an append that was `Busy` can be tried again.
    pub async fn room(&self) {
        todo!()
    }
    /// Follows the durable mark.
    pub fn durable(&self) -> watch::Receiver<DurableMark> {
        todo!()
    }
    /// Reads durable messages of `stream` from `from` on, at most `max_msgs` and about `max_bytes` (at least one item if there is one).
    /// Blocking: reads the disk unless the messages are in the tail.
    pub fn read(
        &self,
        _stream: StreamId,
        _from: Seq,
        _max_msgs: usize,
        _max_bytes: usize,
    ) -> Result<ReadBatch, ReadError> {
        todo!()
    }
    /// Visits every live key of a table. Blocking.
    pub fn table_scan(&self, _table: TableId, _visit: &mut dyn FnMut(&[u8], Bytes)) -> Result<(), ReadError> {
        todo!()
    }
    /// The live value of a key. Blocking.
    pub fn table_get(&self, _table: TableId, _key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        todo!()
    }
    /// Makes or finds the cursor `name` over `stream`; its floor is the last sequence confirmed (0 at first).
    pub fn cursor(&self, _name: &str, _stream: StreamId) -> Cursor {
        todo!()
    }
    /// Removes every message up to and including `through`.
    pub fn purge(&self, _stream: StreamId, _through: Seq) -> Result<(), AppendError> {
        todo!()
    }
    /// The wall time of a stamp, corrected once the clock of its boot is known.
    pub fn wall(&self, _stamp: Stamp) -> WallTime {
        todo!()
    }
    /// Figures for status and metrics.
    pub fn stats(&self) -> LogStats {
        todo!()
    }
    /// Commits what was appended, saves the cursors, ends the threads.
    pub fn close(&self) {
        todo!()
    }
}

/// A named position of a reader that the log keeps for it: retention that passes it is counted as loss (G3).
#[derive(Clone, Debug)]
pub struct Cursor {}

impl Cursor {
    /// Last sequence that the reader confirmed.
    pub fn floor(&self) -> Seq {
        todo!()
    }
    /// Confirms everything up to `floor`; saved with the next commit, never with a sync of its own.
    pub fn advance(&self, _floor: Seq) {
        todo!()
    }
    /// Messages that were discarded before this cursor confirmed them, since install.
    pub fn lost(&self) -> u64 {
        todo!()
    }
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
#[derive(Debug, Default)]
pub struct OpenReport {}
/// Why a log did not open.
#[derive(Debug)]
pub enum OpenError {}
/// Why a read failed.
#[derive(Debug)]
pub enum ReadError {}
/// Figures of the log.
#[derive(Clone, Debug, Default)]
pub struct LogStats {}
