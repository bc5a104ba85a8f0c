//! Retained messages: the last one per topic, in memory, bounded by count and bytes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::clock::Monotonic;
use crate::mqtt::packet::QoS;
use crate::mqtt::session::{Message, Origin};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Topics looked at in one step of a replay, so that the router's lock is never held for long.
const TOPICS_PER_STEP: usize = 256;

#[derive(Debug)]
pub(super) struct Retained {
    pub(super) message: Arc<Message>,
    pub(super) origin: Option<Origin>,
    /// Counts changes of the index; tells a replay what came after its subscription.
    version: u64,
}

/// The index.
#[derive(Debug)]
pub(super) struct RetainedIndex {
    by_topic: BTreeMap<TopicName, Retained>,
    bytes: u64,
    max_msgs: usize,
    max_bytes: u64,
    version: u64,
}

/// Retained messages that a subscription is still to be sent: a cursor over the topics, a few dozen bytes however many there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub(super) filter: TopicFilter,
    pub(super) qos: QoS,
    pub(super) subscription_id: Option<u32>,
    /// The last topic looked at.
    pub(super) after: Option<TopicName>,
    /// What was retained later reached the subscription live.
    pub(super) until_version: u64,
}

impl RetainedIndex {
    pub(super) fn new(max_msgs: usize, max_bytes: u64) -> Self {
        Self { by_topic: BTreeMap::new(), bytes: 0, max_msgs, max_bytes, version: 0 }
    }

    pub(super) fn msgs(&self) -> usize {
        self.by_topic.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn contains(&self, topic: &TopicName) -> bool {
        self.by_topic.contains_key(topic)
    }

    /// Whether a message of this cost fits in place of the one that the topic has now.
    pub(super) fn has_room(&self, topic: &TopicName, cost: usize) -> bool {
        let (msgs, freed) = match self.by_topic.get(topic) {
            Some(old) => (self.by_topic.len(), cost_of(&old.message)),
            None => (self.by_topic.len() + 1, 0),
        };
        msgs <= self.max_msgs && self.bytes - freed + cost as u64 <= self.max_bytes
    }

    pub(super) fn set(&mut self, message: Arc<Message>, origin: Option<Origin>) {
        self.version += 1;
        self.bytes += cost_of(&message);
        let entry = Retained { message, origin, version: self.version };
        if let Some(old) = self.by_topic.insert(entry.message.topic.clone(), entry) {
            self.bytes -= cost_of(&old.message);
        }
    }

    /// Notes where a copy of the topic's message can be read.
    pub(super) fn set_origin(&mut self, topic: &TopicName, origin: Origin) {
        if let Some(entry) = self.by_topic.get_mut(topic) {
            entry.origin = Some(origin);
        }
    }

    pub(super) fn remove(&mut self, topic: &TopicName) {
        if let Some(old) = self.by_topic.remove(topic) {
            self.version += 1;
            self.bytes -= cost_of(&old.message);
        }
    }

    /// Goes on with a replay; `true` when it has reached the end. Calls `found` for each message until it says stop.
    ///
    /// Expired messages are skipped [MQTT-3.3.2-5]; they leave the index when their topic is next published to.
    pub(super) fn step(
        &self,
        replay: &mut Replay,
        now: Monotonic,
        mut found: impl FnMut(&Retained, &Replay) -> bool,
    ) -> bool {
        let prefix = literal_prefix(&replay.filter);
        let first = TopicName::new(prefix.clone()).ok();
        let from = match (&replay.after, &first) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some(first)) => Bound::Included(first.clone()),
            (None, None) => Bound::Unbounded,
        };
        for (looked_at, (topic, entry)) in self.by_topic.range((from, Bound::Unbounded)).enumerate() {
            if looked_at == TOPICS_PER_STEP {
                return false;
            }
            if !topic.as_bytes().starts_with(&prefix) || (replay.filter.is_exact() && replay.after.is_some()) {
                return true;
            }
            let wanted = entry.version <= replay.until_version
                && replay.filter.matches(topic)
                && entry.message.remaining_expiry(now).is_some();
            if wanted && !found(entry, replay) {
                return false;
            }
            replay.after = Some(topic.clone());
        }
        true
    }
}

fn cost_of(message: &Message) -> u64 {
    message.cost_bytes() as u64
}

/// What every matching topic begins with: topics are sorted, so a replay needs to look at no others.
fn literal_prefix(filter: &TopicFilter) -> bytes::Bytes {
    let all = filter.as_bytes();
    match all.iter().position(|b| matches!(b, b'+' | b'#')) {
        None => all.clone(),
        // `a/#` matches `a` too, so the separator is not part of the prefix.
        Some(wildcard) => all.slice(..wildcard.saturating_sub(1)),
    }
}
