//! The reader that a client becomes when it was away, or is slower than what it subscribed to.
//!
//! [`CatchUp`] belongs to the connection and decides what to do next; reading the log is the connection's, filtering the
//! router's work. It holds one page of messages. Why nothing is lost between reader and queue: see `outbox`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::record::{qos_of, retain_of};
use super::streams::{Positions, StreamIndex};
use super::{Router, SessionKey};
use crate::auth::acl::Use;
use crate::log::{Item, ReadBatch, Seq, StoredMessage, StreamId};
use crate::mqtt::packet::QoS;
use crate::mqtt::properties::decode_stored;
use crate::mqtt::session::{Delivery, Message, Origin, QueueCount};
use crate::mqtt::topic::TopicName;

/// Bit of the tag that says: kept for one session to be sent again, not for readers of the stream.
pub(super) const TAG_COPY: u8 = 0b1000;

/// The reader of one connection.
#[derive(Debug)]
pub struct CatchUp {
    positions: Positions,
    live_from: Option<Positions>,
    /// Streams read up to what is durable, since the mark last moved.
    at_tail: Vec<bool>,
    page: VecDeque<(Seq, Delivery)>,
    page_of: StreamIndex,
    page_next: Seq,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Deliver what [`CatchUp::pop`] returns.
    Deliver,
    /// Read the log there, have it filtered by [`Router::filter_page`], and give it to [`CatchUp::accept`].
    Read(StreamIndex, Seq),
    /// Call [`Router::join`].
    Join,
    /// Call [`Router::go_live`].
    GoLive,
    /// Wait for the durable mark to move, then call [`CatchUp::mark_moved`].
    WaitDurable,
}

/// Messages of one read that are for the client.
#[derive(Debug)]
pub struct Page {
    deliveries: VecDeque<(Seq, Delivery)>,
    next: Seq,
}

impl CatchUp {
    /// Begins at `positions`.
    #[must_use]
    pub fn new(positions: Positions) -> Self {
        let streams = positions.0.len();
        Self {
            positions,
            live_from: None,
            at_tail: vec![false; streams],
            page: VecDeque::new(),
            page_of: StreamIndex(0),
            page_next: Seq(0),
        }
    }

    /// What to do next.
    #[must_use]
    pub fn step(&self) -> Step {
        if !self.page.is_empty() {
            return Step::Deliver;
        }
        let behind = |index: usize| self.live_from.as_ref().is_none_or(|from| self.positions.0[index] < from.0[index]);
        if let Some(index) = (0..self.positions.0.len()).find(|&i| !self.at_tail[i] && behind(i)) {
            return Step::Read(StreamIndex(index), self.positions.0[index]);
        }
        match &self.live_from {
            None => Step::Join,
            Some(_) if (0..self.positions.0.len()).any(behind) => Step::WaitDurable,
            Some(_) => Step::GoLive,
        }
    }

    /// Takes what [`Step::Read`] found.
    pub fn accept(&mut self, stream: StreamIndex, mut page: Page) {
        if page.next <= self.positions[stream] {
            self.at_tail[stream.0] = true;
            return;
        }
        if let Some(live_from) = &self.live_from {
            // IMPORTANT: what is at or above lies in the queue; delivering it here too would be a duplicate.
            let end = live_from[stream];
            page.deliveries.retain(|(seq, _)| *seq < end);
            page.next = page.next.min(end);
        }
        self.page_of = stream;
        self.page_next = page.next;
        self.page = page.deliveries;
        if self.page.is_empty() {
            self.positions[stream] = self.page_next;
        }
    }

    /// QoS of the message that [`CatchUp::pop`] would return.
    #[must_use]
    pub fn front(&self) -> Option<&Delivery> {
        self.page.front().map(|(_, delivery)| delivery)
    }

    /// The next message to deliver. Its position counts as passed: it is in flight, or was QoS 0.
    pub fn pop(&mut self) -> Option<Delivery> {
        let (seq, delivery) = self.page.pop_front()?;
        self.positions[self.page_of] = if self.page.is_empty() { self.page_next } else { seq.next() };
        Some(delivery)
    }

    /// Answer to [`Step::Join`].
    pub fn joined(&mut self, live_from: Positions) {
        self.live_from = Some(live_from);
        self.mark_moved();
    }

    /// The queue overflowed before [`Step::GoLive`].
    pub fn rejected(&mut self) {
        self.live_from = None;
        self.mark_moved();
    }

    /// More of the log is durable.
    pub fn mark_moved(&mut self) {
        self.at_tail.fill(false);
    }

    /// Everything below is delivered or in flight.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.positions
    }
}

impl Router {
    /// The number that the log knows a stream by.
    #[must_use]
    pub fn stream_id(&self, stream: StreamIndex) -> StreamId {
        self.streams[stream].id
    }

    /// Whether a stream may hold anything for the session; if not, it need not be read.
    #[must_use]
    pub fn concerns(&self, key: SessionKey, stream: StreamIndex) -> bool {
        let Some(slot) = self.slot(key) else { return false };
        let topics = &self.streams[stream].topics;
        topics.is_empty()
            || slot.subscriptions.filters().any(|f| !f.is_shared() && topics.iter().any(|t| t.overlaps(f)))
    }

    /// A page that skips the stream up to its tail, for a stream that does not [`concern`](Router::concerns) the session.
    #[must_use]
    pub fn skip_stream(&self, stream: StreamIndex) -> Page {
        Page { deliveries: VecDeque::new(), next: self.streams[stream].next }
    }

    /// Picks the messages out of a read that are for the session: QoS > 0 after the subscription's maximum [MQTT-3.8.4-8], not
    /// its own where it asked for that [MQTT-3.8.3-3].
    pub fn filter_page(&mut self, key: SessionKey, stream: StreamIndex, batch: ReadBatch) -> Page {
        let mut deliveries = VecDeque::new();
        for item in batch.items {
            match item {
                Item::Message(stored) => {
                    let seq = stored.seq;
                    deliveries.extend(self.filter_one(key, stream, stored).map(|d| (seq, d)));
                }
                Item::Gap { first, last, .. } => self.counters.lost_to_retention += last.0 + 1 - first.0,
            }
        }
        Page { deliveries, next: batch.next }
    }

    fn filter_one(&mut self, key: SessionKey, stream: StreamIndex, stored: StoredMessage) -> Option<Delivery> {
        let (seq, tag) = (stored.seq, stored.tag);
        let published = qos_of(tag);
        if published == QoS::AtMostOnce || tag & TAG_COPY != 0 {
            return None;
        }
        let Ok(topic) = TopicName::new(stored.subject.clone()) else {
            self.counters.bad_records += 1;
            return None;
        };
        let slot = self.slot(key).filter(|slot| slot.may(Use::Read, &topic))?;
        let own = slot.outbox().is_some_and(|o| o.own.contains(stream, seq));
        let mut qos = QoS::AtMostOnce;
        let mut retain_as_published = false;
        let mut ids = Vec::new();
        for (_, subscription) in slot.subscriptions.iter().filter(|(f, _)| !f.is_shared() && f.matches(&topic)) {
            let too_old = subscription.since.as_ref().is_some_and(|since| seq < since[stream]);
            if too_old || (own && subscription.options.no_local) {
                continue;
            }
            qos = qos.max(subscription.options.qos);
            retain_as_published |= subscription.options.retain_as_published;
            ids.extend(subscription.id);
        }
        let qos = qos.min(published);
        if qos == QoS::AtMostOnce {
            return None;
        }
        let origin = Origin { stream: self.streams[stream].id.0, seq: seq.0 };
        let message = self.message_of(stored)?;
        let retain = retain_as_published && message.retain;
        Some(Delivery { message, qos, retain, subscription_ids: ids, origin: Some(origin), share: None })
    }

    /// Whether a message was appended in this run or before it ended in order; one that was not got lost with a crash.
    #[must_use]
    pub fn is_appended(&self, origin: Origin) -> bool {
        self.streams.by_id(origin.stream).is_some_and(|stream| Seq(origin.seq) < self.streams[stream].next)
    }

    /// A message of the log as it goes to subscribers.
    pub fn message_of(&mut self, stored: StoredMessage) -> Option<Arc<Message>> {
        let received = self.received(stored.stamp);
        let topic = TopicName::new(stored.subject);
        let properties = if stored.headers.is_empty() { Ok(None) } else { decode_stored(&stored.headers).map(Some) };
        let (Ok(topic), Ok(properties)) = (topic, properties) else {
            self.counters.bad_records += 1;
            return None;
        };
        Some(Arc::new(Message {
            topic,
            payload: stored.payload,
            qos: qos_of(stored.tag),
            retain: retain_of(stored.tag),
            properties: properties.map(Box::new),
            received,
            queues: QueueCount::default(),
        }))
    }

    /// Answers [`Step::Join`].
    pub fn join(&mut self, key: SessionKey, catch_up: &mut CatchUp) {
        let streams = &self.streams;
        let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else { return };
        if let Some(live_from) = slot.outbox_mut().and_then(|o| o.join(streams)) {
            catch_up.joined(live_from);
        }
    }

    /// Answers [`Step::GoLive`]: `true` when the queue takes over, and the [`CatchUp`] is done.
    pub fn go_live(&mut self, key: SessionKey, catch_up: &mut CatchUp) -> bool {
        let Some(slot) = self.slot_mut(key) else { return false };
        let live = slot.outbox_mut().is_some_and(super::Outbox::go_live);
        if live {
            for subscription in slot.subscriptions.values_mut() {
                subscription.since = None;
            }
        } else {
            catch_up.rejected();
        }
        live
    }
}
