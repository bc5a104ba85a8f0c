//! The log: every stored message and every small piece of state that must survive is a record here.
//!
//! One writer thread collects what many append, writes it as one frame into a preallocated staging file, syncs once, and publishes.
//! A second thread, the sealer, turns a full staging file into an epoch: one table of compressed blocks, ordered by stream. The oldest
//! epochs are dropped before a new one is written, so that the disk budget holds at every instant (`plan.rs` has the proof).
//! `layout.rs` has every byte on disk. What it guarantees: G1 to G7 of the design, as far as they concern storage.
//!
//! | file | what |
//! |---|---|
//! | `core.rs`, `restore.rs` | the state behind one short lock, and how it comes back; `cursors.rs` its readers, `losses.rs` what was taken from them; `group.rs` what is being collected; `held.rs` what a stream holds; `tables.rs`, `subjects.rs`, `memory.rs` |
//! | `boots.rs`, `clocks.rs` | what is known of the times of stamps, and where it comes from |
//! | `writer.rs`, `sealer.rs` | the two threads, `pulse.rs` whether the first still turns, `wear.rs` what they write; `room.rs` what the second does to make room, `plan.rs` and `classes.rs` what goes first; `job.rs`, `epoch.rs` what an epoch is made of |
//! | `query.rs`, `page.rs`, `filter.rs`, `signature.rs` | pages of what somebody asks for, and the blocks that need not be read for it |
//! | `read.rs`, `open.rs`, `verify.rs` | reading, opening and recovery, looking for damage without changing anything |
//! | `frame.rs`, `records.rs`, `block.rs` | bytes; pure |
//! | `format.rs`, `staging.rs`, `ends.rs`, `drops.rs` (both in `notes.rs`), `store.rs`, `quarantine.rs`, `disk.rs` | files; fjall is named in `store.rs` only |
//! | `kernels.rs` | blocks by themselves, for `benches/` |
//!
//! Left out on purpose: who may append what, retries, anything MQTT.

mod block;
mod boots;
mod cache;
mod classes;
mod clocks;
mod core;
mod cursors;
mod disk;
mod drops;
mod ends;
mod epoch;
mod filter;
mod format;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod group;
mod held;
mod job;
#[doc(hidden)]
pub mod kernels;
mod layout;
mod losses;
mod memory;
mod notes;
mod open;
mod page;
mod plan;
mod pulse;
mod quarantine;
mod query;
mod read;
mod record;
mod records;
mod report;
mod restore;
mod room;
mod scan;
mod sealer;
mod shared;
mod signature;
mod staging;
mod store;
mod stream;
mod subjects;
mod tables;
mod tail;
#[cfg(test)]
mod tests;
mod verify;
mod wear;
mod writer;

pub use classes::{MAX_CLASSES, retention_classes};
pub use disk::allocated;
pub use filter::{FilterError, SubjectFilter};
pub use format::holds_log;
pub use query::{Order, Page, Query};
pub use record::{Entry, GapReason, Item, LossReason, NewMessage, Stamp, StoredMessage, TableId, Ticket};
pub use report::{DamagedPlace, LogStats, LossEntry, OpenError, OpenReport, ReadBatch, ReadError, StreamInfo};
pub use stream::{Discard, Priority, Seq, Storage, StreamConfig, StreamId, StreamLimits, StreamState, StreamUid};
pub use verify::{Verified, VerifiedStream, ensure_closed, verify};
pub use wear::Wear;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use self::shared::Shared;
use crate::clock::Clock;

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
    /// A sync failed earlier, or the log was closed.
    Failed,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendError::Busy => f.write_str("the group being collected is full"),
            AppendError::TooLarge { bytes, limit } => write!(f, "{bytes} bytes are more than the {limit} allowed"),
            AppendError::Full { stream, limit } => write!(f, "stream \"{stream}\" is full: {limit}"),
            AppendError::Failed => f.write_str("the log failed or was closed"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Stack of the two threads: they recurse nowhere, and keep their buffers on the heap.
const STACK_BYTES: usize = 512 << 10;

/// Handle of the open log; cheap to clone. The log is closed when the last one goes, or by [`Log::close`].
#[derive(Clone, Debug)]
pub struct Log {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn close(&self) {
        self.shared.lock().closing = true;
        self.shared.writer_wake.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                self.shared.fail("a thread of the log panicked");
            }
        }
        self.shared.room.notify_waiters();
    }
}

impl Log {
    /// Opens (or makes) the log and replays what was not yet in an epoch. Blocking.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing in the directory was changed if it is the operator's to solve.
    pub fn open(config: LogConfig) -> Result<(Log, OpenReport), OpenError> {
        if config.max_bytes < plan::MIN_BUDGET {
            return Err(OpenError::BudgetTooSmall { bytes: config.max_bytes, minimum: plan::MIN_BUDGET });
        }
        let sizes = plan::sizes(config.max_bytes);
        Log::open_sized(config, sizes)
    }

    /// Opens with other sizes than those that belong to the budget: edges are reached with little data.
    fn open_sized(config: LogConfig, sizes: plan::Sizes) -> Result<(Log, OpenReport), OpenError> {
        let (shared, report) = open::open(config, sizes)?;
        let shared = Arc::new(shared);
        let inner = Inner { shared: Arc::clone(&shared), threads: Mutex::new(Vec::new()) };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run);
            thread.map_err(|e| OpenError::Storage(format!("thread {name}: {e}")))
        };
        let writer = writer::Writer::new(Arc::clone(&shared));
        let sealer = sealer::Sealer::new(shared);
        for (name, run) in [
            ("log-writer", Box::new(move || writer.run()) as Box<dyn FnOnce() + Send>),
            ("log-sealer", Box::new(move || sealer.run())),
        ] {
            let thread = spawn(name, run)?;
            inner.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok((Log { inner: Arc::new(inner) }, report))
    }

    /// The stream of that name, configured or the broker's own, or left from an earlier configuration.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<StreamId> {
        self.shared().lock().names.get(name).copied()
    }

    /// All streams, also those that are no longer configured.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamInfo> {
        let core = self.shared().lock();
        let streams = (0..).zip(&core.streams).map(|(id, stream)| StreamInfo {
            name: stream.name.clone(),
            id: StreamId(id),
            uid: stream.uid,
            config: stream.config.clone(),
            state: stream.state(),
            discarded_msgs: stream.discarded_msgs(),
            damaged_msgs: stream.damage.iter().map(|d| d.1 - d.0 + 1).sum(),
            untracked_subject_msgs: stream.held.subjects.as_ref().map_or(0, |s| s.untracked),
        });
        streams.collect()
    }

    /// Random identity of a stream.
    ///
    /// # Panics
    /// If the id is not from this log.
    #[must_use]
    pub fn stream_uid(&self, stream: StreamId) -> StreamUid {
        self.shared().lock().stream(stream).uid
    }

    /// What a stream holds.
    ///
    /// # Panics
    /// If the id is not from this log.
    #[must_use]
    pub fn state(&self, stream: StreamId) -> StreamState {
        self.shared().lock().stream(stream).state()
    }

    /// Appends a group: assigns sequences, copies it into the group being collected. Never waits for the disk.
    ///
    /// # Errors
    /// See [`AppendError`]; then nothing of the group was appended.
    pub fn append(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        self.append_as(group, true)
    }

    /// The same where nobody waits for it to become durable: it may wait 5 ms for company before it is committed, or as long as
    /// something is appended that somebody waits for. A busy log syncs less then.
    ///
    /// # Errors
    /// As of [`Log::append`].
    pub fn append_unawaited(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        self.append_as(group, false)
    }

    fn append_as(&self, group: &[Entry<'_>], awaited: bool) -> Result<Appended, AppendError> {
        let shared = self.shared();
        let mut core = shared.lock();
        let stamp = Stamp { boot: core.boots.current(), at: shared.clock.monotonic() };
        let (before, waiting, due) = (core.group.raw.len(), core.must_commit, core.group.due(shared.max_delay));
        let appended = core.append(group, stamp)?;
        // What went to memory streams alone is done, whoever waits for it.
        core.group.awaited |= awaited && !core.group.is_empty();
        let (after, half) = (core.group.raw.len(), core.sizes.group_bytes / 2);
        let sooner = core.group.due(shared.max_delay) != due;
        let wake = sooner || (before <= half && after > half) || (core.must_commit && !waiting);
        let memory = appended.ticket.0 == core.durable && appended.last_seq.is_some();
        drop(core);
        if wake {
            shared.writer_wake.notify_all();
        }
        if memory {
            // Followers of memory streams look again.
            shared.mark.send_modify(|_| {});
        }
        Ok(appended)
    }

    /// Resolves when an append that was `Busy` can be tried again. May resolve early.
    pub async fn room(&self) {
        let shared = self.shared();
        loop {
            let taken = shared.room.notified();
            let mut taken = std::pin::pin!(taken);
            taken.as_mut().enable();
            {
                let core = shared.lock();
                let low = core.group.raw.len() < core.sizes.group_bytes / 2;
                if core.failed || core.closing || (low && !core.awaits_reservation()) {
                    return;
                }
            }
            taken.await;
        }
    }

    /// Follows the durable mark. Also notified, unchanged, when a memory stream grew.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<DurableMark> {
        self.shared().mark.subscribe()
    }

    /// Reads durable messages of `stream` from `from` on, at most `max_msgs` items and about `max_bytes` (at least one item if there is one).
    /// Blocking: reads the disk unless the messages are in the tail.
    ///
    /// # Errors
    /// See [`ReadError`]. Damaged messages are no error but an [`Item::Gap`].
    pub fn read(&self, stream: StreamId, from: Seq, max_msgs: usize, max_bytes: usize) -> Result<ReadBatch, ReadError> {
        self.shared().look_at_clock();
        self.shared().read(stream, from, max_msgs, max_bytes)
    }

    /// Visits every live key of a table, with its value; in no order. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn table_scan(&self, table: TableId, visit: &mut dyn FnMut(&[u8], Bytes)) -> Result<(), ReadError> {
        self.shared().table_scan(table, visit)
    }

    /// The live value of a key, as far as it is durable. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn table_get(&self, table: TableId, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.shared().table_get(table, key)
    }

    /// Makes or finds the cursor `name` over `stream`; its floor is the last sequence confirmed (0 at first).
    #[must_use]
    pub fn cursor(&self, name: &str, stream: StreamId) -> Cursor {
        let at = self.shared().lock().cursor(name, stream);
        Cursor { shared: Arc::clone(&self.inner.shared), at }
    }

    /// All cursors: name and stream.
    #[must_use]
    pub fn cursors(&self) -> Vec<(String, StreamId)> {
        let core = self.shared().lock();
        core.cursors.iter().flatten().map(|c| (c.name.clone(), c.stream)).collect()
    }

    /// Forgets a cursor; handles of it do nothing any more.
    pub fn remove_cursor(&self, name: &str, stream: StreamId) {
        self.shared().lock().remove_cursor(name, stream);
    }

    /// What retention took from readers that had not confirmed it, oldest first; the last 256 episodes.
    #[must_use]
    pub fn losses(&self) -> Vec<LossEntry> {
        let core = self.shared().lock();
        let stamp = |(boot, at)| Stamp { boot, at: crate::clock::Monotonic(at) };
        let name = |id: u32| core.streams.get(id as usize).map_or(String::new(), |s| s.name.clone());
        let entries = core.losses.records().map(|r| LossEntry {
            number: r.number,
            stream: name(r.stream),
            reader: r.reader.clone(),
            first: Seq(r.first),
            last: Seq(r.last),
            msgs: r.msgs,
            bytes: r.bytes,
            since: stamp(r.since),
            until: stamp(r.until),
            reason: r.reason,
        });
        entries.collect()
    }

    /// Removes every message up to and including `through` that is durable. Blocking: may read blocks to keep the counts exact.
    /// Durable with the next commit, which this asks for.
    ///
    /// # Errors
    /// [`AppendError::Failed`] if the log failed or was closed.
    pub fn purge(&self, stream: StreamId, through: Seq) -> Result<(), AppendError> {
        let shared = self.shared();
        let end = {
            let mut core = shared.lock();
            if core.failed || core.closing {
                return Err(AppendError::Failed);
            }
            let state = core.stream(stream).state();
            let end = through.0.min(state.last.0) + 1;
            if end <= state.first.0 {
                return Ok(());
            }
            let target = core.stream_mut(stream);
            target.purged = target.purged.max(end - 1);
            target.dirty = true;
            if let Some(ring) = &mut target.ring {
                ring.trim(end);
            }
            end
        };
        shared.trim(stream, end);
        let mut core = shared.lock();
        // Again: a commit may have saved what was known halfway.
        core.stream_mut(stream).dirty = true;
        core.must_commit = true;
        drop(core);
        shared.writer_wake.notify_all();
        Ok(())
    }

    /// Applies the limits of all streams now. The log does so by itself whenever one is due; this is for clocks that are moved by hand.
    pub fn apply_limits(&self) {
        let count = self.shared().lock().streams.len();
        for id in (0..).take(count) {
            self.shared().enforce(StreamId(id));
        }
    }

    /// The stamp that a message appended now would get.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let now = self.shared().clock.monotonic();
        Stamp { boot: self.shared().lock().boots.current(), at: now }
    }
    /// How long ago a stamp was at least; of time between two boots nothing is known, so it counts as none (G7).
    #[must_use]
    pub fn age(&self, stamp: Stamp) -> Duration {
        let now = self.shared().clock.monotonic();
        self.shared().lock().boots.age(stamp, now)
    }

    /// Figures for status and metrics.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        let shared = self.shared();
        let core = shared.lock();
        let c = &core.counters;
        LogStats {
            disk_used_bytes: c.disk_used,
            disk_max_bytes: shared.max_bytes,
            disk_full: core.disk_full,
            epochs: core.epochs.len() as u64,
            epochs_written: c.epochs_written,
            epochs_dropped: c.epochs_dropped,
            commits: c.commits,
            staged_bytes: c.staged_bytes,
            ingested_bytes: c.ingested_bytes,
            appended_msgs: c.appended_msgs,
            appended_bytes: c.appended_bytes,
            busy: c.busy,
            refused: c.refused,
            slot_waits: c.slot_waits,
            discarded_msgs: core.streams.iter().map(core::StreamCore::discarded_msgs).sum(),
            damaged_msgs: c.damaged_msgs,
            table_keys: core.tables.keys(),
            table_bytes: core.tables.live_bytes(),
            table_max_bytes: core.sizes.table_bytes,
            tail_bytes: core.tail.bytes(),
            cursors: core.cursors.iter().flatten().count() as u64,
            boot: core.boots.current(),
            oldest_unsynced: core.oldest_pending().map_or(Duration::ZERO, |since| since.elapsed()),
            failed: core.failed,
            wear: shared.wear().wear(shared.now()),
        }
    }

    /// Returns once the commit loop has come round after this call: it lives, and no sync or sealing holds it up. Writes nothing.
    /// Never returns once the log has failed or was closed.
    pub async fn pulse(&self) {
        let shared = self.shared();
        let (number, mut answered) = shared.pulse.ask();
        // Under the lock: the writer has either seen the question already or is asleep.
        let core = shared.lock();
        shared.writer_wake.notify_all();
        drop(core);
        // Cannot fail: the sender lives as long as this handle.
        let _ = answered.wait_for(|answered| *answered >= number).await;
    }

    /// Commits what was appended, saves the cursors, ends the threads. Blocking. Later appends fail; reads go on.
    pub fn close(&self) {
        self.inner.close();
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }
}

/// A named position of a reader that the log keeps for it: retention that passes it is counted as loss (G3).
#[derive(Clone, Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    at: cursors::CursorAt,
}

impl Cursor {
    /// Last sequence that the reader confirmed.
    #[must_use]
    pub fn floor(&self) -> Seq {
        let core = self.shared.lock();
        Seq(core.cursor_at(self.at).map_or(0, |c| c.floor))
    }

    /// Confirms everything up to `floor`; saved with the next commit, never with a sync of its own. A lower floor than before is ignored.
    pub fn advance(&self, floor: Seq) {
        self.shared.lock().advance_cursor(self.at, floor.0);
    }

    /// Messages that were discarded before this cursor confirmed them, since install.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let core = self.shared.lock();
        core.cursor_at(self.at).map_or(0, |c| c.lost)
    }
}
