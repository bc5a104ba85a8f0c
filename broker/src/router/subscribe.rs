//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use super::catch_up::TAG_COPY;
use super::retained::Replay;
use super::sessions::{Link, Subscription};
use super::{Router, SessionKey, Store, Wants, record};
use crate::auth::acl::Use;
use crate::clock::Monotonic;
use crate::log::{AppendError, Entry, NewMessage};
use crate::mqtt::packet::{QoS, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::mqtt::properties::encode_stored;
use crate::mqtt::session::{Delivery, Message, Origin, ShareId};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Retained messages taken in one step.
const REPLAY_PAGE: usize = 64;

/// How far a replay came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// To its end.
    Done,
    /// Call again.
    More,
    /// Call again when the client has acknowledged.
    WindowFull,
    /// Call again when the log has room.
    NoRoom,
}

impl Router {
    /// Subscribes; the caller saves the session. One reason per filter [MQTT-3.8.4-6], and the retained messages to send.
    pub fn subscribe(&mut self, key: SessionKey, subscribe: Subscribe, replays: &mut Vec<Replay>) -> Vec<ReasonCode> {
        let id = subscribe.subscription_id;
        subscribe
            .filters
            .into_iter()
            .map(|(filter, options)| match filter {
                Err(_) => ReasonCode::TopicFilterInvalid,
                Ok(filter) => self.subscribe_one(key, filter, options, id, replays),
            })
            .collect()
    }

    fn subscribe_one(
        &mut self,
        key: SessionKey,
        filter: TopicFilter,
        options: SubscriptionOptions,
        id: Option<u32>,
        replays: &mut Vec<Replay>,
    ) -> ReasonCode {
        let max = self.limits.max_subscriptions;
        let tails = self.streams.tails();
        let until_version = self.retained.version();
        let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return ReasonCode::UnspecifiedError;
        };
        if slot.access.as_ref().is_some_and(|access| !access.may_subscribe(&filter)) {
            self.counters.denied_subscribe += 1;
            return ReasonCode::NotAuthorized;
        }
        let known = slot.subscriptions.get(&filter).map(|s| s.since.clone());
        if known.is_none() && slot.subscriptions.len() >= max {
            return ReasonCode::QuotaExceeded;
        }
        let live = match &slot.link {
            Link::Online(online) => online.outbox.is_live(),
            Link::Offline(_) => false,
        };
        // A subscription that replaces an identical one keeps its place [MQTT-3.8.4-3].
        let is_new = known.is_none();
        let shared = filter.is_shared();
        let since = known.unwrap_or_else(|| (!live && !shared).then(|| Box::new(tails)));
        let subscription = Subscription { options, id, since };
        self.enroll(&filter, key, options, id);
        self.subscriptions += usize::from(is_new);
        if is_new {
            self.note_sys(&filter);
        }
        let send_retained = match options.retain_handling {
            // [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11]
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        // Not to shared subscriptions (4.8.2).
        let send_retained = send_retained && !shared;
        if send_retained && self.wants_sys(&filter) {
            self.sys.wants_all(&filter, key, id);
        }
        if send_retained && self.retained.msgs() > 0 {
            // A replay of the same filter that is still running starts over.
            replays.retain(|r| r.filter != filter);
            let filter = filter.clone();
            replays.push(Replay { filter, qos: options.qos, subscription_id: id, after: None, until_version });
        }
        // Last, so that it need not be copied: shared bytes cost 32 more than those of one owner.
        if let Some(slot) = self.slot_mut(key) {
            slot.subscriptions.insert(filter, subscription);
        }
        match options.qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }

    /// Makes a subscription of a session known to publishers. The group that it is a member of by it, if it is shared.
    pub(super) fn enroll(
        &mut self,
        filter: &TopicFilter,
        key: SessionKey,
        options: SubscriptionOptions,
        id: Option<u32>,
    ) -> Option<ShareId> {
        if filter.is_shared() {
            return Some(self.shares.join(filter, key, options, id));
        }
        self.trie.insert(filter, key, Wants { options, id });
        None
    }

    /// Undoes [`Router::enroll`] and [`Router::note_sys`].
    pub(super) fn withdraw(&mut self, filter: &TopicFilter, key: SessionKey) {
        self.sys.remove(filter, key);
        if filter.is_shared() {
            self.leave_group(filter, key);
        } else {
            self.trie.remove(filter, key);
        }
    }

    /// Unsubscribes; the caller saves the session. One reason per filter [MQTT-3.11.3-1].
    pub fn unsubscribe(
        &mut self,
        key: SessionKey,
        unsubscribe: Unsubscribe,
        replays: &mut Vec<Replay>,
    ) -> Vec<ReasonCode> {
        unsubscribe
            .filters
            .into_iter()
            .map(|filter| {
                let Ok(filter) = filter else { return ReasonCode::TopicFilterInvalid };
                let Some(slot) = self.slot_mut(key) else { return ReasonCode::UnspecifiedError };
                if slot.subscriptions.remove(&filter).is_none() {
                    return ReasonCode::NoSubscriptionExisted;
                }
                self.subscriptions -= 1;
                if filter.is_shared() {
                    self.return_queued(&filter, key);
                }
                self.withdraw(&filter, key);
                replays.retain(|r| r.filter != filter);
                ReasonCode::Success
            })
            .collect()
    }

    /// Goes on with a replay of retained messages: at most `window` with QoS > 0 and a page of others.
    ///
    /// A session that persists must be able to read what it has in flight again, also when the retained message is replaced
    /// meanwhile: one that is not in the log is appended to the internal stream, once, as a copy that readers skip.
    pub fn replay(
        &mut self,
        now: Monotonic,
        store: &impl Store,
        key: SessionKey,
        replay: &mut Replay,
        window: usize,
        out: &mut Vec<Delivery>,
    ) -> Replayed {
        let Some(slot) = self.slot(key) else { return Replayed::Done };
        let persists = slot.expiry.persists();
        let before = replay.after.clone();
        let mut window = window;
        let mut window_full = false;
        let mut found = Vec::new();
        let done = self.retained.step(replay, now, |entry, replay| {
            if !slot.may(Use::Read, &entry.message.topic) {
                return true;
            }
            let qos = replay.qos.min(entry.message.qos);
            window_full = qos > QoS::AtMostOnce && window == 0;
            if found.len() == REPLAY_PAGE || window_full {
                return false;
            }
            window -= usize::from(qos > QoS::AtMostOnce);
            found.push((Arc::clone(&entry.message), qos, entry.origin));
            true
        });
        let mut last = before;
        for (message, qos, mut origin) in found {
            if persists && qos > QoS::AtMostOnce && origin.is_none() {
                match self.append_copy(store, &message) {
                    Ok(copy) => origin = Some(copy),
                    Err(_) => {
                        // No room now: from here on again later.
                        replay.after = last;
                        return Replayed::NoRoom;
                    }
                }
            }
            last = Some(message.topic.clone());
            let subscription_ids = replay.subscription_id.into_iter().collect();
            // [MQTT-3.3.1-8]: the retain flag says that it is one.
            out.push(Delivery { message, qos, retain: true, subscription_ids, origin, share: None });
        }
        match (done, window_full) {
            (true, _) => Replayed::Done,
            (false, true) => Replayed::WindowFull,
            (false, false) => Replayed::More,
        }
    }

    fn append_copy(&mut self, store: &impl Store, message: &Message) -> Result<Origin, AppendError> {
        let stream = self.streams.internal();
        let mut headers = Vec::new();
        if let Some(properties) = &message.properties {
            // Cannot fail: they came off the wire.
            let _ = encode_stored(properties, &mut headers);
        }
        let copy = NewMessage {
            stream: self.streams[stream].id,
            subject: message.topic.as_bytes(),
            headers: &headers,
            payload: &message.payload,
            tag: record::tag(message.qos, true) | TAG_COPY,
        };
        let seq = store.append(&[Entry::Message(copy)])?.last_seq.unwrap_or_default();
        self.streams[stream].next = seq.next();
        let origin = Origin { stream: self.streams[stream].id.0, seq: seq.0 };
        self.retained.set_origin(&message.topic, origin);
        Ok(origin)
    }

    /// Identifiers of the session's subscriptions that match, for a message that is sent again.
    #[must_use]
    pub fn subscription_ids(&self, key: SessionKey, topic: &TopicName) -> Vec<u32> {
        let Some(slot) = self.slot(key) else { return Vec::new() };
        slot.subscriptions.iter().filter(|(f, _)| f.matches(topic)).filter_map(|(_, s)| s.id).collect()
    }
}
