//! A message on its way to subscribers, shared by all of them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Monotonic;
use crate::mqtt::packet::{PublishProperties, QoS};
use crate::mqtt::topic::TopicName;

/// A published message. Holds its own bytes: it never pins the buffer of the connection that it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// As published.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// What travels with it.
    pub properties: Option<Box<PublishProperties>>,
    /// When it arrived; `Monotonic(0)` for a message of an earlier boot, whose age is at least the time since this boot.
    pub received: Monotonic,
    /// The queues that it waits in.
    pub queues: QueueCount,
}

/// How many queues a message waits in; no part of what it is. Changed only by who owns all queues, so that no order between threads
/// is needed.
#[derive(Debug, Default)]
pub struct QueueCount(AtomicU32);

impl QueueCount {
    /// It enters a queue. `true`: the first one.
    pub fn enter(&self) -> bool {
        self.0.fetch_add(1, Relaxed) == 0
    }

    /// It leaves a queue. `true`: the last one.
    pub fn leave(&self) -> bool {
        self.0.fetch_sub(1, Relaxed) == 1
    }

    /// It waits in no queue.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

impl Clone for QueueCount {
    /// The copy is another message, in no queue.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for QueueCount {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for QueueCount {}

impl Message {
    /// Seconds of the Message Expiry Interval that are left: `Some(None)` without one, `None` when it has expired [MQTT-3.3.2-5].
    /// What is forwarded is the received value minus the time that it waited here [MQTT-3.3.2-6].
    #[must_use]
    pub fn remaining_expiry(&self, now: Monotonic) -> Option<Option<u32>> {
        let Some(interval) = self.properties.as_ref().and_then(|p| p.message_expiry) else { return Some(None) };
        let waited = now.since(self.received);
        if waited >= Duration::from_secs(u64::from(interval)) {
            return None;
        }
        // Less than `interval` seconds, so it fits.
        Some(Some(interval - u32::try_from(waited.as_secs()).unwrap_or(interval)))
    }

    /// Bytes that it is accounted with in queues: topic, payload and a flat amount for everything else.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        message_cost_bytes(&self.topic, &self.payload, self.properties.as_deref())
    }
}

/// What [`Message::cost_bytes`] will be of a message with this content.
#[must_use]
pub fn message_cost_bytes(topic: &TopicName, payload: &Bytes, properties: Option<&PublishProperties>) -> usize {
    let properties = properties.map_or(0, |p| {
        64 + p.content_type.as_ref().map_or(0, String::len)
            + p.correlation_data.as_ref().map_or(0, Bytes::len)
            + p.user.iter().map(|(k, v)| 48 + k.len() + v.len()).sum::<usize>()
    });
    96 + topic.as_bytes().len() + payload.len() + properties
}

/// Where a message can be read again: its stream and sequence, as numbers that only the router interprets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// Number of the stream.
    pub stream: u32,
    /// Sequence in the stream.
    pub seq: u64,
}

/// The group of a shared subscription, as a number that only the router interprets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId(pub std::num::NonZeroU32);

/// One message for one client.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message.
    pub message: std::sync::Arc<Message>,
    /// The smaller of the published and the granted QoS [MQTT-3.8.4-8].
    pub qos: QoS,
    /// The retain flag as this subscriber gets it.
    pub retain: bool,
    /// Identifiers of the subscriptions that matched [MQTT-3.3.4-3].
    pub subscription_ids: Vec<u32>,
    /// `None` when it is stored nowhere.
    pub origin: Option<Origin>,
    /// The shared subscription that it is for.
    pub share: Option<ShareId>,
}
