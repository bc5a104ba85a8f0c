//! Looking at the clocks, keeping what was learned, and telling times.
//!
//! The clocks are looked at where something happens anyway: with every commit, and as long as the clock of this boot is not known also when
//! somebody reads or asks, and when the service manager feels the pulse. Nobody is woken for it.

use tracing::info;

use super::Log;
use super::boots::Learned;
use super::core::Core;
use super::layout::{META_VERSION, Meta, SNAPSHOT_VERSION, append_anchors, decode_anchors, encode};
use super::record::Stamp;
use super::shared::Shared;
use crate::clock::{MessageTime, Reading};

impl Core {
    /// Compares the clocks. True if a commit should save what was learned, as nothing less than the time of all earlier messages depends on it.
    pub(super) fn look(&mut self, now: &Reading) -> bool {
        let learned = self.boots.observe(now);
        if learned != Learned::Nothing {
            self.metas.extend(self.boots.record().map(Meta::Boot));
        }
        let first = learned == Learned::FirstAnchor;
        if first {
            info!(
                boot = self.boots.current(),
                "the clock is right; messages stored since the machine started have their time"
            );
        }
        first
    }

    /// The bytes of a record of the log's own state.
    pub(super) fn encoded(&self, meta: &Meta) -> Vec<u8> {
        let bytes = encode(META_VERSION, meta);
        match meta {
            Meta::Boot(record) => append_anchors(bytes, &self.boots.anchors(Some(record.number))),
            Meta::Snapshot(_) => append_anchors(bytes, &self.boots.anchors(None)),
            _ => bytes,
        }
    }

    /// What every epoch ends with.
    pub(super) fn encoded_snapshot(&self) -> Vec<u8> {
        append_anchors(encode(SNAPSHOT_VERSION, &self.snapshot()), &self.boots.anchors(None))
    }

    pub(super) fn restore_anchors(&mut self, rest: &[u8]) {
        for anchor in decode_anchors(rest) {
            self.boots.restore_anchor(anchor);
        }
    }
}

impl Shared {
    /// Looks whether the clock is right by now, unless that is known.
    pub(super) fn look_at_clock(&self) {
        if self.lock().boots.is_synced() {
            return;
        }
        let now = self.clock.read();
        let mut core = self.lock();
        if core.look(&now) {
            core.must_commit = true;
            drop(core);
            self.writer_wake.notify_all();
        }
    }
}

impl Log {
    /// The time of a stamp, corrected once the clock of its boot is known.
    #[must_use]
    pub fn time(&self, stamp: Stamp) -> MessageTime {
        self.shared().lock().boots.time(stamp)
    }

    /// The time now, by what this log knows: the wall clock only as far as it is right, or nothing better is known.
    #[must_use]
    pub fn now(&self) -> MessageTime {
        self.shared().look_at_clock();
        self.time(self.stamp())
    }
}
