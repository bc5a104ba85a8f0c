//! What one connected client is still to get: a bounded queue, and the agreement on who reads what from the log.
//!
//! # From the queue to the log and back, without loss, duplicate or reordering
//!
//! All of this happens under the router's one lock, which is also held while sequences are assigned, so "the tail of a stream"
//! is one well defined number at each of these moments. For every stream, and every message in it that matches:
//!
//! 1. [`Mode::Live`]: each message is pushed to the queue in order of sequence.
//! 2. The queue is full: the message at hand (sequence `n`) is the first one that is not pushed. The mode becomes
//!    [`Mode::Lagging`] with `from[s] = n` for its stream and `from[t] = tail of t` for the others: what is below `from` was
//!    pushed or does not match, what is at or above was not pushed and will be read. Nothing is pushed any more.
//! 3. The connection has emptied the queue, so everything below `from` is delivered. It takes `from` along as its positions and
//!    reads the log ([`Mode::CatchingUp`] with `live_from: None`).
//! 4. It has reached what is durable. It asks to join: `live_from` becomes the tails at this moment; what is at or above goes to
//!    the queue again, what is below is read. The connection delivers nothing from the queue before all its positions have
//!    reached `live_from`, so order per stream holds, and each message is on exactly one of the two sides.
//! 5. The queue overflows again before that: it is emptied, `live_from` is forgotten, and we are back at 3. Nothing is lost,
//!    because everything in that queue is at or above `live_from`, above the positions, and in the log (see below).
//! 6. All positions have reached `live_from`: [`Mode::Live`], the queue goes on with `live_from`.
//!
//! Everything that a reader may have to read is in the log: a message with QoS > 0 that no configured stream captures is appended
//! to the internal stream whenever it matches a session that persists, or one whose outbox is not live, or has no room for it.
//! QoS 0 messages are never read back: one that meets a full queue, or an outbox that is not live, is dropped and counted.

use super::queues::{Queues, Room};
use super::streams::{Positions, StreamIndex, Streams};
use crate::log::Seq;
use crate::mqtt::packet::QoS;
use crate::mqtt::session::{Delivery, Origin, ShareId};
use crate::queue::Queue;

/// Who delivers what; see the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Live,
    Lagging { from: Positions },
    CatchingUp { live_from: Option<Positions> },
}

/// The queue of one connected client.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Queue<Delivery>,
    queued_bytes: usize,
    pub(super) mode: Mode,
    /// The connection has been woken since it last looked.
    woken: bool,
    /// The client's own messages that it must not get back, while they may be read from the log [MQTT-3.8.3-3].
    pub(super) own: OwnMessages,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// In the queue; wake the connection if it is not awake.
    Queued { wake: bool },
    /// The connection will read it from the log.
    LeftToLog {
        /// Wake the connection.
        wake: bool,
        /// QoS 0 messages that were in the queue and are gone now.
        dropped: usize,
    },
    /// Gone, and to be counted.
    Dropped,
}

impl Outbox {
    pub(super) fn new(mode: Mode) -> Self {
        Self { queue: Queue::default(), queued_bytes: 0, mode, woken: false, own: OwnMessages::default() }
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(super) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    /// Takes a message that matches. `place` is where it was stored, `tails` what the other streams' next messages will be.
    pub(super) fn push(
        &mut self,
        delivery: Delivery,
        place: Option<(StreamIndex, Seq)>,
        queues: &mut Queues,
        streams: &Streams,
    ) -> Pushed {
        let accepts = match (&self.mode, place) {
            (Mode::Live, _) => true,
            (Mode::CatchingUp { live_from: Some(from) }, Some((stream, seq))) => seq >= from[stream],
            // Not in the log, so nothing says where it belongs: behind what is being read.
            (Mode::CatchingUp { live_from: Some(_) }, None) => true,
            (Mode::Lagging { .. } | Mode::CatchingUp { live_from: None }, _) => false,
        };
        let room = if accepts {
            queues.room(self, &delivery.message, delivery.subscription_ids.len())
        } else {
            Room::NotInQueue
        };
        match room {
            Room::Yes => {
                queues.entered(&delivery);
                self.queued_bytes += delivery.message.cost_bytes();
                self.queue.push_back(delivery);
                return Pushed::Queued { wake: !std::mem::replace(&mut self.woken, true) };
            }
            Room::NotInTotal => queues.refused(),
            Room::NotInQueue => {}
        }
        let Some((stream, seq)) = place.filter(|_| delivery.qos > QoS::AtMostOnce) else { return Pushed::Dropped };
        let mut dropped = 0;
        if accepts {
            match &mut self.mode {
                Mode::Live => {
                    let mut from = streams.tails();
                    from[stream] = seq;
                    self.mode = Mode::Lagging { from };
                }
                Mode::CatchingUp { live_from } => {
                    *live_from = None;
                    dropped = self.unstored();
                    self.clear(queues);
                }
                Mode::Lagging { .. } => {}
            }
        }
        Pushed::LeftToLog { wake: !std::mem::replace(&mut self.woken, true), dropped }
    }

    /// Drops what is queued.
    pub(super) fn clear(&mut self, queues: &mut Queues) {
        self.queue.iter().for_each(|delivery| queues.left(delivery));
        self.queue = Queue::default();
        self.queued_bytes = 0;
    }

    /// The connection looks: from now on a push wakes it again.
    pub(super) fn looked_at(&mut self) {
        self.woken = false;
    }

    /// The connection will look again by itself: pushes need not wake it.
    pub(super) fn awake(&mut self) {
        self.woken = true;
    }

    /// Whether the queue may be delivered from now.
    pub(super) fn deliverable(&self) -> bool {
        !matches!(self.mode, Mode::CatchingUp { .. })
    }

    pub(super) fn front(&self) -> Option<&Delivery> {
        self.queue.front()
    }

    pub(super) fn pop(&mut self, queues: &mut Queues) -> Option<Delivery> {
        let delivery = self.queue.pop_front()?;
        queues.left(&delivery);
        self.queued_bytes -= delivery.message.cost_bytes();
        if self.queue.is_empty() {
            // An idle client holds no queue.
            self.queue = Queue::default();
        }
        Some(delivery)
    }

    /// The queue is empty and the client lags behind: from here on the connection reads the log.
    pub(super) fn begin_catch_up(&mut self) -> Option<Positions> {
        match &mut self.mode {
            Mode::Lagging { .. } if !self.queue.is_empty() => None,
            Mode::Lagging { from } => {
                let from = from.clone();
                self.mode = Mode::CatchingUp { live_from: None };
                Some(from)
            }
            Mode::Live | Mode::CatchingUp { .. } => None,
        }
    }

    /// Step 4 of the module's text. Returns where the queue goes on.
    pub(super) fn join(&mut self, streams: &Streams) -> Option<Positions> {
        match &mut self.mode {
            Mode::CatchingUp { live_from } => Some(live_from.get_or_insert_with(|| streams.tails()).clone()),
            Mode::Live | Mode::Lagging { .. } => None,
        }
    }

    /// Step 6. `false`: the queue overflowed meanwhile (step 5), go on reading.
    pub(super) fn go_live(&mut self) -> bool {
        if matches!(self.mode, Mode::CatchingUp { live_from: None }) {
            return false;
        }
        self.mode = Mode::Live;
        if self.queue.is_empty() {
            self.own.clear();
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Where a reader has to begin so that it meets everything that was not delivered. `reading` are the positions of the
    /// connection, if it is catching up.
    pub(super) fn positions(&self, reading: Option<&Positions>, streams: &Streams) -> Positions {
        let mut positions = match (&self.mode, reading) {
            // What the queue holds lies at or above `live_from`, hence above the positions.
            (Mode::CatchingUp { .. }, Some(reading)) => return reading.clone(),
            (Mode::Lagging { from }, _) => from.clone(),
            (Mode::Live | Mode::CatchingUp { .. }, _) => streams.tails(),
        };
        for delivery in self.queue.iter().filter(|d| d.qos > QoS::AtMostOnce && d.share.is_none()) {
            let Some(origin) = delivery.origin else { continue };
            if let Some(stream) = streams.by_id(origin.stream) {
                positions[stream] = positions[stream].min(Seq(origin.seq));
            }
        }
        positions
    }

    /// Takes some out, in their order.
    pub(super) fn take_out(&mut self, queues: &mut Queues, which: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        if !self.queue.iter().any(&which) {
            return Vec::new();
        }
        let (taken, rest): (Vec<_>, Vec<_>) = self.queue.take().into_iter().partition(which);
        self.queued_bytes -= taken.iter().map(|d| d.message.cost_bytes()).sum::<usize>();
        taken.iter().for_each(|delivery| queues.left(delivery));
        self.queue = rest.into_iter().collect();
        taken
    }

    /// Where the queued messages of shared subscriptions are in the log.
    pub(super) fn shared(&self) -> impl Iterator<Item = (ShareId, Origin)> {
        self.queue.iter().filter(|d| d.qos > QoS::AtMostOnce).filter_map(|d| d.share.zip(d.origin))
    }

    /// QoS 0 messages that end with the connection.
    pub(super) fn unstored(&self) -> usize {
        self.queue.iter().filter(|d| d.qos == QoS::AtMostOnce || d.origin.is_none()).count()
    }
}

/// Ranges of sequences, per stream. At most 1,024 ranges of 24 bytes; a client with `no_local` that publishes more than so many
/// interrupted runs while it lags behind has them counted and delivered to itself.
#[derive(Debug, Default)]
pub(super) struct OwnMessages {
    ranges: Vec<(StreamIndex, Seq, Seq)>,
}

const MAX_OWN_RANGES: usize = 1024;

impl OwnMessages {
    /// `false`: the table is full.
    pub(super) fn add(&mut self, stream: StreamIndex, seq: Seq) -> bool {
        if let Some(last) = self.ranges.iter_mut().rev().find(|r| r.0 == stream)
            && last.2.next() == seq
        {
            last.2 = seq;
            return true;
        }
        if self.ranges.len() == MAX_OWN_RANGES {
            return false;
        }
        self.ranges.push((stream, seq, seq));
        true
    }

    pub(super) fn contains(&self, stream: StreamIndex, seq: Seq) -> bool {
        self.ranges.iter().any(|(s, first, last)| *s == stream && (*first..=*last).contains(&seq))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamIndex, Seq, Seq)> + '_ {
        self.ranges.iter().copied()
    }

    pub(super) fn restored(ranges: Vec<(StreamIndex, Seq, Seq)>) -> Self {
        Self { ranges }
    }

    pub(super) fn clear(&mut self) {
        self.ranges = Vec::new();
    }
}
