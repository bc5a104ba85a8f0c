//! What the handle, the writer and the sealer share, and the steps of retention that need both the state and the disk.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{error, warn};

use super::block::OpenBlock;
use super::cache::Cache;
use super::core::Core;
use super::drops::Drops;
use super::ends::Ends;
use super::frame::unpack;
use super::held::{Head, Piece, Source, Wanted};
use super::layout::{EpochIndex, INDEX_STREAM, INDEX_VERSION, TABLE_BASE, decode, key};
use super::pulse::Pulse;
use super::record::Stamp;
use super::records::{FrameRecords, Record};
use super::staging::Staging;
use super::store::{Store, StoreError};
use super::stream::StreamId;
use super::wear::Meter;
use super::{AckPolicy, BlockCodec, DurableMark};
use crate::clock::{Clock, Monotonic};

/// The parts of the open log.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    /// Something for the writer: a group, a free slot, the end.
    pub(super) writer_wake: Condvar,
    /// Something for the sealer: a sealed slot, the end.
    pub(super) sealer_wake: Condvar,
    /// The group being collected was taken.
    pub(super) room: Notify,
    pub(super) mark: watch::Sender<DurableMark>,
    pub(super) pulse: Pulse,
    pub(super) store: Store,
    pub(super) staging: Staging,
    pub(super) ends: Ends,
    pub(super) drops: Drops,
    pub(super) cache: Mutex<Cache>,
    pub(super) wear: Mutex<Meter>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dir: PathBuf,
    pub(super) max_bytes: u64,
    pub(super) min_free: u64,
    pub(super) ack: AckPolicy,
    pub(super) max_delay: Duration,
    pub(super) codec: BlockCodec,
    pub(super) seed: u64,
    /// Held for as long as the log is open.
    pub(super) _lock: std::fs::File,
}

/// A block or frame was asked for and is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// Where to go on.
    pub(super) end: u64,
}

/// How to find a piece of a stream.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A block of it.
    Block(OpenBlock),
    /// The unpacked body of a frame, with base time and boot.
    Frame { body: bytes::Bytes, base_at: u64, boot: u32 },
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("nobody panics while holding the state: its own checks return errors")
    }

    pub(super) fn wear(&self) -> MutexGuard<'_, Meter> {
        self.wear.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log wrote this much, and stored so many bytes of messages with it.
    pub(super) fn wrote(&self, bytes: u64, payload: u64) {
        self.wear().add(self.now(), bytes, payload);
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// The log cannot go on: nothing further becomes durable.
    pub(super) fn fail(&self, what: &str) {
        error!(
            error = what,
            "the log failed; what is acknowledged is safe, nothing further is accepted until a restart"
        );
        self.lock().failed = true;
        self.mark.send_modify(|mark| mark.failed = true);
        self.writer_wake.notify_all();
        self.sealer_wake.notify_all();
        self.room.notify_waiters();
    }

    /// The content of `source` around `seq` of a stream (or table). `Ok(None)`: it is gone, look again where the stream is now.
    pub(super) fn content(
        &self,
        source: Source,
        stream: u32,
        seq: u64,
        last: u64,
    ) -> Result<Option<Content>, Unreadable> {
        match source {
            Source::Frame(group) => {
                let frame = self.lock().tail.frame(group);
                let Some(frame) = frame else { return Ok(None) };
                let (base_at, boot) = (frame.header.base_at, frame.header.boot);
                if let Some(body) = self.cache().frame(group) {
                    return Ok(Some(Content::Frame { body, base_at, boot }));
                }
                let mut raw = Vec::new();
                if !unpack(frame.header.codec, &frame.body, frame.header.raw_len, &mut raw) {
                    return Err(Unreadable { end: last + 1 });
                }
                let body = bytes::Bytes::from(raw);
                self.cache().keep_frame(group, body.clone());
                Ok(Some(Content::Frame { body, base_at, boot }))
            }
            Source::Epoch(epoch) => {
                if let Some(block) = self.cache().block(epoch, stream, seq) {
                    return Ok(Some(Content::Block(block)));
                }
                let opened = match self.store.block_at(epoch, stream, seq) {
                    Ok(Some((first, value))) => OpenBlock::open(first, &value),
                    Ok(None) if self.epoch_exists(epoch) => None,
                    Ok(None) => return Ok(None),
                    Err(_) if !self.epoch_exists(epoch) => return Ok(None),
                    // A search also reads neighbours: the one wanted may be whole.
                    Err(error) => self.block_by_directory(epoch, stream, seq).or_else(|| {
                        warn!(epoch, stream, seq, %error, "a block cannot be read");
                        None
                    }),
                };
                match opened {
                    Some(block) => {
                        self.cache().keep_block(epoch, stream, block.clone());
                        Ok(Some(Content::Block(block)))
                    }
                    None => Err(Unreadable { end: self.behind_block(epoch, stream, seq).unwrap_or(last + 1) }),
                }
            }
        }
    }

    pub(super) fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().expect("nobody panics while holding the cache")
    }

    fn epoch_exists(&self, epoch: u32) -> bool {
        self.lock().epochs.iter().any(|e| e.number == epoch)
    }

    /// The block that holds `seq`, found with the directory of the epoch.
    fn block_by_directory(&self, epoch: u32, stream: u32, seq: u64) -> Option<OpenBlock> {
        let index = self.epoch_index(epoch).ok()??;
        let table = stream.checked_sub(TABLE_BASE).and_then(|t| u8::try_from(t).ok());
        let steps = match table {
            Some(table) => &index.tables.iter().find(|t| t.table == table)?.blocks,
            None => &index.streams.iter().find(|s| s.id == stream)?.blocks,
        };
        let firsts = steps.iter().scan(0, |first, step| {
            *first += step;
            Some(*first)
        });
        let first = firsts.take_while(|first| *first <= seq).last()?;
        let value = self.store.value(&key(epoch, stream, first)).ok()??;
        OpenBlock::open(first, &value)
    }

    /// Where in a piece the block behind the one that holds `seq` begins, or where the piece ends.
    pub(super) fn block_behind(&self, piece: &Piece, stream: u32, seq: u64) -> u64 {
        let found = match piece.source {
            Source::Epoch(epoch) => self.behind_block(epoch, stream, seq),
            Source::Frame(_) => None,
        };
        found.unwrap_or(piece.last + 1).min(piece.last + 1)
    }

    /// Where in a piece the block that holds `seq` begins; where the piece does, if nobody knows.
    pub(super) fn block_begin(&self, piece: &Piece, stream: u32, seq: u64) -> u64 {
        let found = match piece.source {
            Source::Epoch(epoch) => self.epoch_index(epoch).ok().flatten(),
            Source::Frame(_) => None,
        };
        let entry = found.and_then(|index| index.streams.into_iter().find(|s| s.id == stream)).unwrap_or_default();
        let firsts = entry.blocks.iter().scan(0, |first, step| {
            *first += step;
            Some(*first)
        });
        firsts.take_while(|first| *first <= seq).last().unwrap_or(piece.first).max(piece.first)
    }

    /// Where the block behind the one that holds `seq` begins, from the directory of the epoch.
    pub(super) fn behind_block(&self, epoch: u32, stream: u32, seq: u64) -> Option<u64> {
        let index = self.epoch_index(epoch).ok()??;
        let found = index.streams.iter().find(|s| s.id == stream)?;
        let mut first = 0;
        found.blocks.iter().find_map(|step| {
            first += step;
            (first > seq).then_some(first)
        })
    }

    pub(super) fn epoch_index(&self, epoch: u32) -> Result<Option<EpochIndex>, StoreError> {
        let Some(value) = self.store.value(&key(epoch, INDEX_STREAM, 0))? else { return Ok(None) };
        match decode::<EpochIndex>(INDEX_VERSION, &value) {
            Some((index, _)) => Ok(Some(index)),
            None => Err(StoreError::Damaged(format!("index of epoch {epoch}"))),
        }
    }

    /// Applies the limits of a stream; reads what it must for that, without the lock.
    pub(super) fn enforce(&self, id: StreamId) {
        while let Some(wanted) = self.enforce_known(id) {
            self.learn(id, wanted);
        }
    }

    fn enforce_known(&self, id: StreamId) -> Option<Wanted> {
        let now = self.now();
        let mut core = self.lock();
        let core = &mut *core;
        let boots = &core.boots;
        let stream = &mut core.streams[id.0 as usize];
        let limits = stream.limits()?.clone();
        let expired = |stamp: Stamp| limits.max_age.is_some_and(|max| boots.age(stamp, now) > max);
        if let Some(ring) = &mut stream.ring {
            let lost = ring.enforce(expired);
            core.charge_cursors(id, &lost, now);
            return None;
        }
        let more = stream.held.enforce(&limits, expired);
        let wanted = if more { stream.held.wanted() } else { None };
        core.settle_losses(now);
        wanted
    }

    /// Removes everything before `end` of a stream. Wanted so by a person, or known to be gone: neither counted nor charged to cursors.
    pub(super) fn trim(&self, id: StreamId, end: u64) {
        loop {
            let mut core = self.lock();
            let stream = core.stream_mut(id);
            let more = stream.held.trim(end);
            let wanted = if more { stream.held.wanted() } else { None };
            drop(core);
            let Some(wanted) = wanted else { return };
            self.learn(id, wanted);
        }
    }

    /// Reads the messages that a stream wants to know, and tells it. The caller must not hold the lock.
    fn learn(&self, id: StreamId, wanted: Wanted) {
        let last = self.lock().stream(id).held.piece_at(wanted.from).map_or(wanted.from, |p| p.last);
        let mut heads = Vec::new();
        let seed = self.lock().stream(id).held.subjects.is_some().then_some(self.seed);
        let subject = |s: &[u8]| seed.map_or(0, |seed| xxhash_rust::xxh3::xxh3_128_with_seed(s, seed));
        let end = match self.content(wanted.source, id.0, wanted.from, last) {
            // Dropped meanwhile: the stream wants something else now.
            Ok(None) => return,
            Err(unreadable) => unreadable.end,
            Ok(Some(Content::Block(block))) => {
                for message in block.messages().map_while(Result::ok).filter(|m| m.seq >= wanted.from) {
                    let stamp = Stamp { boot: block.boot, at: Monotonic(message.at) };
                    heads.push(Head {
                        seq: message.seq,
                        bytes: message.bytes(),
                        stamp,
                        subject: subject(message.subject),
                    });
                }
                match wanted.source {
                    Source::Epoch(epoch) if block.last_seq < wanted.from => {
                        self.behind_block(epoch, id.0, wanted.from).unwrap_or(last + 1)
                    }
                    _ => block.last_seq + 1,
                }
            }
            Ok(Some(Content::Frame { body, base_at, boot })) => {
                for record in FrameRecords::new(&body).map_while(Result::ok) {
                    let Record::Message { stream, message } = record else { continue };
                    if stream == id.0 && message.seq >= wanted.from {
                        let stamp = Stamp { boot, at: Monotonic(base_at.saturating_add(message.at)) };
                        heads.push(Head {
                            seq: message.seq,
                            bytes: message.bytes(),
                            stamp,
                            subject: subject(message.subject),
                        });
                    }
                }
                last + 1
            }
        };
        self.lock().stream_mut(id).held.learn(wanted, heads, end);
    }
}
