//! The way of a message: stream, log, subscribers; in one step, under one lock.

use std::sync::Arc;

use bytes::Bytes;

use super::outbox::Pushed;
use super::queues::{Room, entry_bytes};
use super::record::{self, RetainedRecord, StampRecord};
use super::sessions::Link;
use super::streams::StreamIndex;
use super::sys::is_sys;
use super::tables::{self, RECEIVED, RETAINED};
use super::{Router, SessionKey, Store};
use crate::auth::acl::Use;
use crate::clock::Monotonic;
use crate::log::{AppendError, Entry, NewMessage, Seq, Ticket};
use crate::mqtt::packet::{Publish, QoS, ReasonCode, Version};
use crate::mqtt::properties::encode_stored;
use crate::mqtt::session::{
    AckTicket, Answer, AnswerResult, Delivery, Message, Origin, QueueCount, message_cost_bytes,
};
use crate::mqtt::topic::TopicName;

/// Bytes of one append group, about: a group is one step of the log's writer and must fit its buffer.
const GROUP_BYTES: usize = 64 * 1024;

/// Payloads up to this size are copied out of the read buffer when they are queued or retained, so that a small message never
/// pins a large buffer. Larger ones fill most of their buffer anyway.
const COPY_UP_TO: usize = 8 * 1024;

/// Who publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// A connected client.
    Client(SessionKey, Version),
    /// The broker, for a client that is gone: a will.
    Will,
    /// The broker, about itself.
    Broker,
}

/// How far a batch came.
#[derive(Debug)]
pub struct Routed {
    /// Messages done, from the front. Each with QoS > 0 has got an answer.
    pub done: usize,
    /// Why not further.
    pub stopped: Option<Stop>,
    /// Of those done: discarded, because the client may not write to their topics.
    pub denied: usize,
}

/// Why a batch was not routed to its end. The message at `done` was not routed at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Wait for the log's room, then go on.
    Busy,
    /// A `discard = "new"` stream is full and a 3.1.1 client cannot be told: hold it back, try again later.
    Full {
        /// The stream.
        stream: String,
        /// The limit.
        limit: &'static str,
    },
    /// The log has failed: no message can become durable.
    Failed,
}

/// A message that was refused, for the log: once per episode, not per message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// See [`Stop::Full`].
    Full,
    /// Larger than the stream takes.
    TooLarge,
}

/// Buffers that are kept between calls, so that a message allocates nothing by itself.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    matched: Vec<Matched>,
    /// Per slot: the match it was last part of, and where in `matched`.
    marks: Vec<(u64, u32)>,
    generation: u64,
    /// Headers and keys of the group being built.
    arena: Vec<u8>,
}

/// One session that a message is for, all its matching subscriptions together [MQTT-3.3.5-1].
#[derive(Debug)]
struct Matched {
    key: SessionKey,
    qos: QoS,
    retain_as_published: bool,
    ids: Vec<u32>,
    /// Only subscriptions that do not want the client's own messages matched [MQTT-3.8.3-3].
    only_own: bool,
}

struct Plan {
    stream: Option<StreamIndex>,
    /// Must be a group by itself.
    alone: bool,
}

impl Router {
    /// Routes messages in order. Their topics are set.
    pub fn publish(
        &mut self,
        now: Monotonic,
        store: &impl Store,
        publisher: Publisher,
        batch: &[Publish],
        answers: &mut Vec<Answer>,
    ) -> Routed {
        let mut done = 0;
        let mut one_by_one = false;
        let mut denied = 0;
        while let Some(first) = batch.get(done) {
            let Some(topic) = &first.topic else {
                debug_assert!(false, "the session resolves aliases");
                done += 1;
                continue;
            };
            if !self.may_write(publisher, topic) {
                // A 3.1.1 client can only be told by cutting it off, which would not keep it from trying again (3.3.5).
                self.counters.denied_publish += 1;
                refuse(first, ReasonCode::NotAuthorized, "the client may not write to this topic", answers);
                denied += 1;
                done += 1;
                continue;
            }
            let plan = self.plan(first, topic, publisher);
            let mut end = done + 1;
            if plan.stream.is_some() && !plan.alone && !one_by_one {
                let mut bytes = first.payload.len();
                while let Some((next, topic)) = batch.get(end).and_then(|p| p.topic.as_ref().map(|t| (p, t))) {
                    bytes += next.payload.len() + topic.as_bytes().len() + 64;
                    let other = self.streams.find(topic) != plan.stream || !self.may_write(publisher, topic);
                    if next.retain || bytes > GROUP_BYTES || other {
                        break;
                    }
                    end += 1;
                }
            }
            let group = &batch[done..end];
            match self.append_and_fan_out(now, store, publisher, group, plan.stream, answers) {
                Ok(()) => {
                    done = end;
                    one_by_one = false;
                }
                Err(AppendError::Busy) => return Routed { done, stopped: Some(Stop::Busy), denied },
                Err(AppendError::Failed) => return Routed { done, stopped: Some(Stop::Failed), denied },
                // Perhaps only one of them is too much.
                Err(AppendError::TooLarge { .. } | AppendError::Full { .. }) if group.len() > 1 => one_by_one = true,
                Err(AppendError::TooLarge { .. }) => {
                    self.counters.refused_too_large += 1;
                    // IMPORTANT: a 3.1.1 client cannot be told, and would send the message again for ever if it were cut off or
                    // held back: it gets its acknowledgement, the message is discarded, counted, and logged by the connection.
                    refuse(first, ReasonCode::QuotaExceeded, "the message is larger than its stream takes", answers);
                    done = end;
                }
                Err(AppendError::Full { stream, limit }) => {
                    let told = !matches!(publisher, Publisher::Client(_, Version::V31 | Version::V311));
                    if first.qos > QoS::AtMostOnce && !told {
                        return Routed { done, stopped: Some(Stop::Full { stream, limit }), denied };
                    }
                    self.counters.refused_full += 1;
                    refuse(first, ReasonCode::QuotaExceeded, "the stream is full", answers);
                    done = end;
                }
            }
        }
        Routed { done, stopped: None, denied }
    }

    /// Wills were looked at when their clients connected and left.
    fn may_write(&self, publisher: Publisher, topic: &TopicName) -> bool {
        match publisher {
            // What is said about the broker is said by the broker.
            Publisher::Client(..) | Publisher::Will if is_sys(topic.levels().next()) => false,
            Publisher::Client(key, _) => self.slot(key).is_none_or(|slot| slot.may(Use::Write, topic)),
            Publisher::Will | Publisher::Broker => true,
        }
    }

    fn plan(&mut self, publish: &Publish, topic: &TopicName, publisher: Publisher) -> Plan {
        if let Some(stream) = self.streams.find(topic) {
            return Plan { stream: Some(stream), alone: publish.retain };
        }
        let needed = publish.qos > QoS::AtMostOnce && self.must_be_stored(publish, topic, publisher);
        Plan { stream: needed.then(|| self.streams.internal()), alone: true }
    }

    /// Whether somebody who gets the message with QoS > 0 may have to read it from the log.
    fn must_be_stored(&mut self, publish: &Publish, topic: &TopicName, publisher: Publisher) -> bool {
        let (groups, wanted) = self.shares.store(topic);
        if wanted {
            return true;
        }
        self.match_topic(topic, publisher);
        let cost = message_cost_bytes(topic, &publish.payload, publish.properties.as_deref());
        // IMPORTANT: what `fan_out` will do, in its order and not a byte less: who is found to have no room only there would lose it.
        let mut bytes = self.queues.bytes() + cost + groups * entry_bytes(1);
        let matched = std::mem::take(&mut self.scratch.matched);
        let needed = matched.iter().filter(|m| !m.only_own).any(|m| {
            let Some(slot) = self.slot(m.key) else { return false };
            let added = entry_bytes(m.ids.len());
            let fits = slot.outbox().is_none_or(|outbox| {
                outbox.is_live() && self.queues.room_behind(outbox, cost, bytes, added) == Room::Yes
            });
            bytes += added;
            m.qos > QoS::AtMostOnce && (slot.expiry.persists() || !fits)
        });
        self.scratch.matched = matched;
        needed
    }

    fn append_and_fan_out(
        &mut self,
        now: Monotonic,
        store: &impl Store,
        publisher: Publisher,
        group: &[Publish],
        stream: Option<StreamIndex>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), AppendError> {
        let first = &group[0];
        let retain = first.retain && self.may_retain(first);
        let (ticket, first_seq) = self.append_group(now, store, publisher, group, stream, retain)?;
        for (offset, publish) in (0u64..).zip(group) {
            let place = stream.zip(first_seq).map(|(stream, seq)| (stream, Seq(seq.0 + offset)));
            self.counters.messages_in[publish.qos as usize] += 1;
            let matched = self.fan_out(now, publish, place, publisher, retain);
            if publish.qos > QoS::AtMostOnce {
                let reason = if matched || place.is_some() || retain {
                    ReasonCode::Success
                } else {
                    ReasonCode::NoMatchingSubscribers
                };
                let text =
                    (publish.retain && !retain).then_some("not retained: the broker holds too many retained messages");
                answers.push(Answer { ticket: AckTicket(ticket.0), result: AnswerResult::One(reason, text) });
            }
        }
        Ok(())
    }

    /// Whether a message with the retain flag may take its place among the retained ones. One with an empty payload always may:
    /// it removes [MQTT-3.3.1-6].
    fn may_retain(&mut self, publish: &Publish) -> bool {
        let Some(topic) = &publish.topic else { return false };
        if publish.payload.is_empty() {
            return true;
        }
        let fits = self.retained.has_room(topic, 256 + topic.as_bytes().len() + publish.payload.len());
        if !fits {
            self.counters.retained_refused += 1;
        }
        fits
    }

    /// One group: messages of one stream, ids of QoS 2, the retained message. All of it reaches the disk together.
    fn append_group(
        &mut self,
        now: Monotonic,
        store: &impl Store,
        publisher: Publisher,
        group: &[Publish],
        stream: Option<StreamIndex>,
        retain: bool,
    ) -> Result<(Ticket, Option<Seq>), AppendError> {
        let remembered = match publisher {
            Publisher::Client(key, _) => {
                self.slot(key).filter(|s| s.expiry.persists()).map(|s| Arc::clone(&s.client_id))
            }
            Publisher::Will | Publisher::Broker => None,
        };
        // One that finds no room among the retained ones does not leave an older one to be taken for the last.
        let outdated = group[0].retain && !retain && group[0].topic.as_ref().is_some_and(|t| self.retained.contains(t));
        let remembers = remembered.is_some() && group[0].qos == QoS::ExactlyOnce;
        if stream.is_none() && !retain && !outdated && !remembers {
            return Ok((Ticket(0), None));
        }
        let mut arena = std::mem::take(&mut self.scratch.arena);
        arena.clear();
        // First everything that has to be encoded, then the entries that borrow it.
        let mut spans: Vec<(usize, usize)> = Vec::new();
        let needs_spans = remembered.is_some() || group.iter().any(|p| p.properties.is_some());
        if needs_spans {
            spans.reserve(group.len() * 2);
            for publish in group {
                if let Some(properties) = &publish.properties {
                    // Cannot fail: they came off the wire.
                    let _ = encode_stored(properties, &mut arena);
                }
                let headers_end = arena.len();
                if let (Some(client_id), QoS::ExactlyOnce, Some(id)) = (&remembered, publish.qos, publish.packet_id) {
                    tables::received_key(&mut arena, id, client_id);
                }
                spans.push((headers_end, arena.len()));
            }
        }
        let retained_value = (retain && !group[0].payload.is_empty()).then(|| {
            let headers = spans.first().map_or(&[][..], |(end, _)| &arena[..*end]);
            record::encode(&RetainedRecord {
                stamp: StampRecord(self.boot, now.0),
                qos: group[0].qos as u8,
                properties: headers,
                payload: &group[0].payload,
            })
        });
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(group.len() + 2);
        let mut start = 0;
        for (index, publish) in group.iter().enumerate() {
            let Some(topic) = &publish.topic else { continue };
            let (headers_end, end) = spans.get(index).copied().unwrap_or((0, 0));
            if let Some(stream) = stream {
                entries.push(Entry::Message(NewMessage {
                    stream: self.streams[stream].id,
                    subject: topic.as_bytes(),
                    headers: &arena[start..headers_end],
                    payload: &publish.payload,
                    tag: record::tag(publish.qos, publish.retain),
                }));
            }
            if end > headers_end {
                entries.push(Entry::Put { table: RECEIVED, key: &arena[headers_end..end], value: &[1] });
            }
            start = end;
            if retain || outdated {
                let key = topic.as_bytes();
                match &retained_value {
                    Some(value) => entries.push(Entry::Put { table: RETAINED, key, value }),
                    None if self.retained.contains(topic) => entries.push(Entry::Delete { table: RETAINED, key }),
                    None => {}
                }
            }
        }
        let awaited = group.iter().any(|publish| publish.qos > QoS::AtMostOnce);
        let result = match (entries.is_empty(), awaited) {
            (true, _) => Ok(None),
            (false, true) => store.append(&entries).map(Some),
            // No acknowledgement depends on it.
            (false, false) => store.append_unawaited(&entries).map(Some),
        };
        drop(entries);
        if arena.capacity() <= GROUP_BYTES {
            self.scratch.arena = arena;
        }
        let Some(appended) = result? else { return Ok((Ticket(0), None)) };
        let first_seq = stream.zip(appended.last_seq).map(|(stream, last)| {
            self.streams[stream].next = last.next();
            Seq(last.0 + 1 - group.len() as u64)
        });
        Ok((appended.ticket, first_seq))
    }

    /// Gives a message to everybody whom it is for. `true` if there was anybody.
    pub(super) fn fan_out(
        &mut self,
        now: Monotonic,
        publish: &Publish,
        place: Option<(StreamIndex, Seq)>,
        publisher: Publisher,
        retain: bool,
    ) -> bool {
        let Some(topic) = &publish.topic else { return false };
        let origin = place.map(|(stream, seq)| Origin { stream: self.streams[stream].id.0, seq: seq.0 });
        let mut shared: Option<Arc<Message>> = None;
        let mut message = || {
            Arc::clone(shared.get_or_insert_with(|| {
                let payload = if publish.payload.len() <= COPY_UP_TO {
                    Bytes::copy_from_slice(&publish.payload)
                } else {
                    publish.payload.clone()
                };
                Arc::new(Message {
                    topic: topic.detached(),
                    payload,
                    qos: publish.qos,
                    retain: publish.retain,
                    properties: publish.properties.clone(),
                    received: now,
                    queues: QueueCount::default(),
                })
            }))
        };
        if publish.retain && (publish.payload.is_empty() || !retain) {
            // [MQTT-3.3.1-6], and it is not stored [MQTT-3.3.1-11]. Or there is no room for it, and the one before is not the last any more.
            self.retained.remove(topic);
        } else if publish.retain {
            // Replaces the one before [MQTT-3.3.1-5].
            self.retained.set(message(), origin);
        }
        let shared_out = self.fan_out_shared(topic, publish.qos, place, &mut message);
        self.match_topic(topic, publisher);
        let mut matched = std::mem::take(&mut self.scratch.matched);
        let any = shared_out || matched.iter().any(|m| !m.only_own);
        for m in matched.drain(..) {
            let Some(slot) = self.slots.get_mut(m.key.0 as usize).and_then(Option::as_mut) else { continue };
            if !slot.may(Use::Read, topic) {
                continue;
            }
            if m.only_own {
                if let (Some((stream, seq)), Some(own)) = (place, slot.own_messages_to_remember())
                    && !own.add(stream, seq)
                {
                    self.counters.no_local_overflows += 1;
                }
                continue;
            }
            let Link::Online(online) = &mut slot.link else { continue };
            let delivery = Delivery {
                message: message(),
                qos: publish.qos.min(m.qos),
                // [MQTT-3.3.1-12, MQTT-3.3.1-13]
                retain: m.retain_as_published && publish.retain,
                subscription_ids: m.ids,
                origin,
                share: None,
            };
            let qos = delivery.qos;
            let was_live = online.outbox.is_live();
            match online.outbox.push(delivery, place, &mut self.queues, &self.streams) {
                Pushed::Queued { wake } => {
                    if wake {
                        self.woken.push(m.key);
                    }
                }
                Pushed::LeftToLog { wake, dropped } => {
                    self.counters.dropped_queue_full += dropped as u64;
                    if was_live {
                        self.counters.queue_overflows += 1;
                    }
                    if wake {
                        self.woken.push(m.key);
                    }
                }
                Pushed::Dropped if qos == QoS::AtMostOnce => self.counters.dropped_queue_full += 1,
                Pushed::Dropped => self.counters.dropped_unstored += 1,
            }
        }
        self.scratch.matched = matched;
        any
    }

    /// Fills `scratch.matched` with one entry per session.
    fn match_topic(&mut self, topic: &TopicName, publisher: Publisher) {
        let Scratch { matched, marks, generation, .. } = &mut self.scratch;
        matched.clear();
        *generation += 1;
        marks.resize(self.slots.len(), (0, 0));
        self.trie.matches(topic, &mut |key, subscription| {
            let own = subscription.options.no_local
                && matches!(publisher, Publisher::Client(publisher, _) if publisher == key);
            let mark = &mut marks[key.0 as usize];
            if mark.0 != *generation {
                *mark = (*generation, u32::try_from(matched.len()).unwrap_or(u32::MAX));
                matched.push(Matched {
                    key,
                    qos: QoS::AtMostOnce,
                    retain_as_published: false,
                    ids: Vec::new(),
                    only_own: true,
                });
            }
            if own {
                return;
            }
            let m = &mut matched[mark.1 as usize];
            m.only_own = false;
            m.qos = m.qos.max(subscription.options.qos);
            m.retain_as_published |= subscription.options.retain_as_published;
            m.ids.extend(subscription.id);
        });
    }
}

fn refuse(publish: &Publish, reason: ReasonCode, text: &'static str, answers: &mut Vec<Answer>) {
    if publish.qos > QoS::AtMostOnce {
        answers.push(Answer { ticket: AckTicket(0), result: AnswerResult::One(reason, Some(text)) });
    }
}
