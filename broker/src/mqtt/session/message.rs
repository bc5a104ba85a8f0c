//! A message on its way to subscribers, shared by all of them.

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
}

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
        let properties = self.properties.as_ref().map_or(0, |p| {
            64 + p.content_type.as_ref().map_or(0, String::len)
                + p.correlation_data.as_ref().map_or(0, Bytes::len)
                + p.user.iter().map(|(k, v)| 48 + k.len() + v.len()).sum::<usize>()
        });
        96 + self.topic.as_bytes().len() + self.payload.len() + properties
    }
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
