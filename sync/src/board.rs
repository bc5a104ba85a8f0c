//! Where an uplink's task writes down what it is doing, for those who ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headwater_broker::clock::{Clock, SystemClock, WallTime};
use headwater_broker::config::Uplink;
use headwater_broker::log::Seq;

use crate::encode::rfc3339;
use crate::source::Source;
use crate::status::{LastError, MirrorStatus, UplinkStatus};
use crate::uplink::Leg;

/// What the task writes down for those who ask.
#[derive(Debug)]
pub(crate) struct Board {
    link: Mutex<UplinkStatus>,
    mirrors: Vec<(Arc<dyn Source>, Mutex<Shown>)>,
    /// Somebody looks for the oldest unsent messages.
    looking: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) status: MirrorStatus,
    /// Sequence of the oldest unsent message, and when it was stored.
    pub(crate) oldest: Option<(Seq, WallTime)>,
}

impl Board {
    pub(crate) fn new(uplink: &Uplink, legs: &[Leg]) -> Self {
        let link = UplinkStatus { name: uplink.name.clone(), state: "connecting", ..UplinkStatus::default() };
        let mirrors = legs.iter().map(|leg| {
            let status = MirrorStatus {
                stream: leg.stream.clone(),
                into: leg.destination.stream.clone(),
                state: "offline",
                confirmed_seq: leg.source.floor().0,
                ..MirrorStatus::default()
            };
            (Arc::clone(&leg.source), Mutex::new(Shown { status, oldest: None }))
        });
        Self { link: Mutex::new(link), mirrors: mirrors.collect(), looking: AtomicBool::new(false) }
    }

    pub(crate) fn link(&self, change: impl FnOnce(&mut UplinkStatus)) {
        change(&mut self.link.lock().expect("no holder of this lock panics"));
    }

    pub(crate) fn mirror(&self, index: usize, change: impl FnOnce(&mut Shown)) {
        change(&mut self.mirrors[index].1.lock().expect("no holder of this lock panics"));
    }

    /// Looks up when the oldest unsent messages were stored, where that is not known yet. May block on the disk; then
    /// further calls return at once, so that no queue of them forms.
    pub(crate) fn look(&self) {
        if self.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        for (source, shown) in &self.mirrors {
            let next = {
                let shown = shown.lock().expect("no holder of this lock panics");
                let next = Seq(shown.status.confirmed_seq + 1);
                if shown.oldest.is_some_and(|(seq, _)| seq == next) || source.held().last < next {
                    continue;
                }
                next
            };
            let oldest = source.time_of(next).map(|time| (next, time));
            shown.lock().expect("no holder of this lock panics").oldest = oldest;
        }
        self.looking.store(false, Ordering::Release);
    }

    pub(crate) fn status(&self) -> UplinkStatus {
        let mut status = self.link.lock().expect("no holder of this lock panics").clone();
        let mirrors = self.mirrors.iter().map(|(source, shown)| {
            let shown = shown.lock().expect("no holder of this lock panics");
            let mut status = shown.status.clone();
            let held = source.held();
            status.backlog_msgs = held.last.0.saturating_sub(status.confirmed_seq);
            let msgs = (held.last.0 + 1).saturating_sub(held.first.0);
            let bytes = u128::from(source.held_bytes()) * u128::from(status.backlog_msgs.min(msgs));
            status.backlog_bytes = u64::try_from(bytes / u128::from(msgs.max(1))).unwrap_or(u64::MAX);
            status.lost_msgs = source.lost();
            status.oldest_unsent_age = shown
                .oldest
                .filter(|(seq, _)| status.backlog_msgs > 0 && seq.0 > status.confirmed_seq)
                .map(|(_, stored)| Duration::from_nanos(source.now().0.saturating_sub(stored.0)));
            status
        });
        status.mirrors = mirrors.collect();
        status
    }
}

/// Now, in words.
pub(crate) fn last_error(kind: &'static str, text: &dyn std::fmt::Display) -> LastError {
    LastError { kind, text: text.to_string(), at: rfc3339(SystemClock.wall()) }
}
