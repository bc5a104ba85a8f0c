//! The writer thread: group commit. Takes what was collected while the last sync ran, writes it as one frame, syncs once, publishes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::AckPolicy;
use super::core::{Core, StreamCore};
use super::ends::NOTE_AFTER;
use super::frame::{FrameHeader, FrameIdentity, encode_frame, frame_len};
use super::group::Group;
use super::held::{Piece, Source};
use super::layout::FRAME_HEADER_BYTES;
use super::record::{Stamp, Ticket};
use super::shared::Shared;
use super::staging::SlotId;
use super::stream::StreamId;
use super::tail::Stage;
use super::wear::pages;

/// A frame buffer that grew beyond this is given back.
const KEEP_BYTES: usize = 256 << 10;

/// The kernel keeps a changed page for so long, by default.
const WRITE_BACK: Duration = Duration::from_secs(30);

/// What the writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Commit,
    Sync,
    Note,
    Expire,
    End,
}

/// State of the thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    spare: Group,
    frame: Vec<u8>,
    /// Since when something is written and not synced, and where (only with [`AckPolicy::Interval`]).
    unsynced: Option<(Instant, SlotId)>,
    /// Since when something is durable that the `ends` file does not say.
    unnoted: Option<Instant>,
    /// When a note was last counted as written.
    note_counted: Option<Instant>,
    /// The last note could not be written; said once.
    note_failed: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Writer {
        Writer {
            shared,
            spare: Group::default(),
            frame: Vec::new(),
            unsynced: None,
            unnoted: None,
            note_counted: None,
            note_failed: false,
        }
    }

    /// Runs until the log is closed or fails.
    pub(super) fn run(mut self) {
        loop {
            let done = match self.wait() {
                Todo::Commit => self.commit(),
                Todo::Sync => self.sync(),
                Todo::Note => {
                    self.note();
                    Ok(())
                }
                Todo::Expire => {
                    self.expire();
                    Ok(())
                }
                Todo::End => break,
            };
            if let Err(error) = done {
                self.shared.fail(&error.to_string());
                break;
            }
        }
        match self.sync() {
            Err(error) => self.shared.fail(&error.to_string()),
            Ok(()) => self.note_all(),
        }
        self.shared.lock().writer_ended = true;
        self.shared.sealer_wake.notify_all();
    }

    /// Sleeps until there is something to do; idle, that is until somebody appends.
    fn wait(&self) -> Todo {
        let mut core = self.shared.lock();
        loop {
            if core.failed {
                return Todo::End;
            }
            if self.shared.pulse.answer() && !core.boots.is_synced() {
                let learned = core.look(&self.shared.clock.read());
                core.must_commit |= learned;
            }
            let now = Instant::now();
            let mut until: Option<Instant> = None;
            let mut at_latest = |at: Instant| until = Some(until.map_or(at, |u| u.min(at)));
            if let (Some(since), None) = (self.unnoted, self.unsynced) {
                if now >= since + NOTE_AFTER {
                    return Todo::Note;
                }
                at_latest(since + NOTE_AFTER);
            }
            if core.noting && core.closing {
                // Then everything can be saved.
                core = self.shared.writer_wake.wait(core).expect("nobody panics while holding the state");
                continue;
            }
            if (core.must_commit && !core.noting) || (core.closing && core.has_unsaved()) {
                return Todo::Commit;
            }
            if let Some(ready) = core.group.due(self.shared.max_delay) {
                if now >= ready || core.group.raw.len() > core.sizes.group_bytes / 2 || core.closing {
                    return Todo::Commit;
                }
                at_latest(ready);
            }
            if core.closing {
                return Todo::End;
            }
            if let (Some((since, _)), AckPolicy::Interval(interval)) = (self.unsynced, self.shared.ack) {
                let due = since + interval;
                if now >= due {
                    return Todo::Sync;
                }
                at_latest(due);
            }
            match self.next_expiry(&core) {
                Some(Duration::ZERO) => return Todo::Expire,
                // A clock moved by hand is looked at when something happens.
                Some(left) => at_latest(now + left.min(Duration::from_secs(3600))),
                None => {}
            }
            let wake = &self.shared.writer_wake;
            core = match until {
                None => wake.wait(core).expect("nobody panics while holding the state"),
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    wake.wait_timeout(core, left).expect("nobody panics while holding the state").0
                }
            };
        }
    }

    /// Time until the next message is too old; zero also if a first message must be looked at to know.
    fn next_expiry(&self, core: &Core) -> Option<Duration> {
        let with_age = core.streams.iter().filter_map(|s| Some((s, s.limits()?.max_age?)));
        let due = with_age.filter_map(|(stream, max_age)| {
            let stamp: Option<Stamp> = match &stream.ring {
                Some(ring) => Some(ring.first_stamp()?),
                None if stream.held.msgs == 0 => return None,
                None => stream.held.first_stamp(),
            };
            let Some(stamp) = stamp else { return stream.held.wanted().map(|_| Duration::ZERO) };
            let age = core.boots.age(stamp, self.shared.now());
            // The nanosecond because exactly max_age is not yet too old.
            Some(if age > max_age { Duration::ZERO } else { max_age - age + Duration::from_nanos(1) })
        });
        due.min()
    }

    fn expire(&self) {
        let ids: Vec<StreamId> = {
            let core = self.shared.lock();
            let aged = (0u32..).zip(&core.streams).filter(|(_, s)| s.limits().is_some_and(|l| l.max_age.is_some()));
            aged.map(|(id, _)| StreamId(id)).collect()
        };
        for id in ids {
            self.shared.enforce(id);
        }
    }

    fn commit(&mut self) -> std::io::Result<()> {
        let spare = std::mem::take(&mut self.spare);
        let (mut group, number, boot) = {
            let now = self.shared.clock.read();
            let mut core = self.shared.lock();
            core.look(&now);
            let group = core.take_group(spare, now.at);
            let number = core.next_group;
            (group, number, core.boots.current())
        };
        self.shared.room.notify_waiters();
        if group.is_empty() {
            self.spare = group;
            return Ok(());
        }

        let slot = self.place(&mut group, number, boot);
        let Some((slot, at, header)) = slot else {
            // The log failed while this waited for a slot; its appends stay unacknowledged.
            return Ok(());
        };
        self.shared.staging.write(slot, at, &self.frame)?;
        let stored = group.spans.iter().map(|span| span.bytes).sum();
        self.shared.wrote(pages(at, self.frame.len() as u64), stored);
        match self.shared.ack {
            AckPolicy::Synced => self.shared.staging.sync(slot)?,
            AckPolicy::Interval(_) => self.unsynced = self.unsynced.or(Some((Instant::now(), slot))),
        }

        // IMPORTANT: nothing of the group may be seen, or acknowledged, before this line.
        let body_end = FRAME_HEADER_BYTES + header.body_len as usize;
        let touched: Vec<StreamId> = {
            let mut core = self.shared.lock();
            let core = &mut *core;
            core.next_group = number + 1;
            core.tail.push(slot, header, &self.frame[FRAME_HEADER_BYTES..body_end], self.frame.len() as u64);
            core.tail.slot_mut(slot).table_records += group.tables.len() as u64;
            core.publish(&group, number, self.shared.now());
            core.counters.commits += 1;
            core.counters.staged_bytes += self.frame.len() as u64;
            let limited = |id: u32| core.streams[id as usize].limits().is_some_and(has_limit);
            group.spans.iter().filter(|s| limited(s.stream)).map(|s| StreamId(s.stream)).collect()
        };
        for id in touched {
            self.shared.enforce(id);
        }
        if !group.reserves.is_empty() {
            // Appends to memory streams may have waited for these.
            self.shared.room.notify_waiters();
        }
        self.unnoted = self.unnoted.or(Some(Instant::now()));
        self.shared.mark.send_modify(|mark| mark.ticket = mark.ticket.max(Ticket(group.ticket)));
        group.clear();
        self.spare = group;
        if self.frame.capacity() > KEEP_BYTES {
            self.frame = Vec::new();
        }
        Ok(())
    }

    /// Encodes the group into `self.frame` and finds its place, changing over to the other slot if this one is full.
    fn place(&mut self, group: &mut Group, number: u64, boot: u32) -> Option<(SlotId, u64, FrameHeader)> {
        let (seed, slot_bytes) = (self.shared.seed, self.shared.staging.slot_bytes());
        let active = {
            let core = self.shared.lock();
            core.tail.active().map(|slot| {
                let tail = core.tail.slot(slot);
                (slot, tail.used, tail.generation, tail.raw_bytes >= core.sizes.epoch_raw_bytes)
            })
        };
        let records = group.records;
        let base_at = group.base_at;
        let identity = |generation, records| FrameIdentity { group: number, generation, base_at, boot, records };
        if let Some((slot, used, generation, full)) = active
            && !full
        {
            let header = encode_frame(&mut self.frame, seed, identity(generation, records), &group.raw);
            if used + frame_len(header.body_len as usize) as u64 <= slot_bytes {
                return Some((slot, used, header));
            }
        }
        let (slot, generation) = self.change_over(active.map(|a| a.0), group)?;
        let header = encode_frame(&mut self.frame, seed, identity(generation, group.records), &group.raw);
        Some((slot, 0, header))
    }

    /// Seals the active slot and waits for the other one. `None` if the log failed meanwhile.
    fn change_over(&mut self, full: Option<SlotId>, group: &mut Group) -> Option<(SlotId, u64)> {
        if full.is_some() && self.unsynced.is_some() && self.sync().is_err() {
            self.shared.fail("sync of a full slot failed");
            return None;
        }
        let mut core = self.shared.lock();
        if let Some(full) = full {
            core.tail.slot_mut(full).stage = Stage::Sealed;
            self.shared.sealer_wake.notify_all();
        }
        let slot = full.map_or(SlotId::A, SlotId::other);
        let mut waited = false;
        // While a drop is being noted, too: the record that the slot begins with must not be ahead of the note.
        while core.tail.slot(slot).stage != Stage::Free || core.noting {
            if core.failed {
                return None;
            }
            if !waited {
                waited = true;
                core.counters.slot_waits += 1;
            }
            core = self.shared.writer_wake.wait(core).expect("nobody panics while holding the state");
        }
        let generation = core.next_generation;
        core.next_generation += 1;
        let tail = core.tail.slot_mut(slot);
        tail.stage = Stage::Active;
        tail.generation = generation;
        if let Some(record) = core.slot_record() {
            group.meta(&record);
        }
        Some((slot, generation))
    }

    /// Notes how far all is durable. Only for use while nothing is unsynced.
    fn note(&mut self) {
        self.unnoted = None;
        let (group, ends) = {
            let core = self.shared.lock();
            let in_frame = |piece: &Piece| matches!(piece.source, Source::Frame(_));
            let staged = |s: &StreamCore| s.held.pieces().next_back().is_some_and(in_frame);
            let staged = (0u32..).zip(&core.streams).filter(|(_, s)| staged(s));
            (core.next_group - 1, staged.map(|(id, stream)| (id, stream.durable_next)).collect())
        };
        // Its page goes to the disk when the kernel writes it back, however often it changed until then.
        if self.note_counted.is_none_or(|at| at.elapsed() >= WRITE_BACK) {
            self.note_counted = Some(Instant::now());
            self.shared.wrote(pages(0, 1), 0);
        }
        let wear = self.shared.wear().total();
        let noted = self.shared.ends.note(group, ends, wear);
        if let (Err(error), false) = (&noted, self.note_failed) {
            // Costs no message: only later damage to the last frames could not be told from an unfinished write.
            warn!(%error, "cannot note in the data directory how far the log is durable");
        }
        self.note_failed = noted.is_err();
    }

    /// At the end: the last note, on disk.
    fn note_all(&mut self) {
        if self.unnoted.is_some() && !self.shared.lock().failed {
            self.note();
            if let Err(error) = self.shared.ends.sync() {
                warn!(%error, "cannot sync the note of how far the log is durable");
            }
        }
    }

    fn sync(&mut self) -> std::io::Result<()> {
        match self.unsynced.take() {
            Some((_, slot)) => self.shared.staging.sync(slot),
            None => Ok(()),
        }
    }
}

fn has_limit(limits: &super::StreamLimits) -> bool {
    limits.max_bytes.is_some() || limits.max_msgs.is_some() || limits.max_age.is_some()
}
