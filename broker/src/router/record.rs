//! The values of the router's tables: postcard behind a version byte. A value that does not decode is counted and skipped.

use serde::{Deserialize, Serialize};

use crate::log::Stamp;
use crate::mqtt::packet::{QoS, RetainHandling, SubscriptionOptions};
use crate::mqtt::session::{Origin, Stage};

/// First byte of every value.
const VERSION: u8 = 1;

/// Why a value could not be read: it was written by a newer version, or is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRecord;

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialising plain structs into a growing buffer has no way to fail.
    postcard::to_extend(value, vec![VERSION]).unwrap_or_default()
}

pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, BadRecord> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| BadRecord),
        _ => Err(BadRecord),
    }
}

/// `(boot, monotonic nanoseconds)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StampRecord(pub(super) u32, pub(super) u64);

impl From<Stamp> for StampRecord {
    fn from(stamp: Stamp) -> Self {
        Self(stamp.boot, stamp.at.0)
    }
}

/// Table 16. The topic is the key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RetainedRecord<'a> {
    pub(super) stamp: StampRecord,
    pub(super) qos: u8,
    /// As stored with messages.
    pub(super) properties: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// Table 17.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) subscriptions: Vec<SubscriptionRecord>,
}

/// One subscription.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SubscriptionRecord {
    pub(super) filter: String,
    pub(super) options: OptionsRecord,
    pub(super) id: Option<u32>,
    /// Set while older messages are still being caught up with: per stream number, the first sequence after the SUBSCRIBE.
    pub(super) since: Vec<(u32, u64)>,
}

/// As in a SUBSCRIBE packet (3.8.3.1): bits 0-1 QoS, 2 no local, 3 retain as published, 4-5 retain handling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OptionsRecord(u8);

impl From<SubscriptionOptions> for OptionsRecord {
    fn from(o: SubscriptionOptions) -> Self {
        Self(
            o.qos as u8
                | u8::from(o.no_local) << 2
                | u8::from(o.retain_as_published) << 3
                | (o.retain_handling as u8) << 4,
        )
    }
}

impl From<OptionsRecord> for SubscriptionOptions {
    fn from(OptionsRecord(bits): OptionsRecord) -> Self {
        Self {
            qos: qos_of(bits),
            no_local: bits & 0b100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            retain_handling: match bits >> 4 & 0b11 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::DoNotSend,
            },
        }
    }
}

/// Table 19.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProgressRecord {
    /// Seconds; `u32::MAX` = never ends.
    pub(super) expiry: u32,
    /// `None`: was connected when this was written.
    pub(super) offline_since: Option<StampRecord>,
    /// Per stream number, the next sequence to look at.
    pub(super) positions: Vec<(u32, u64)>,
    /// In order of first sending.
    pub(super) in_flight: Vec<InFlightRecord>,
    pub(super) next_packet_id: u16,
    /// The client's own messages that it must not get, per stream number first and last sequence.
    pub(super) own: Vec<(u32, u64, u64)>,
    pub(super) replays: Vec<ReplayRecord>,
    /// A will that waits for its delay.
    pub(super) will: Option<WillRecord>,
}

/// Table 20. The filter, `$share/NAME/FILTER`, is the key.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShareRecord {
    /// Per stream number, where a reader must begin to meet everything that no member has acknowledged.
    pub(super) positions: Vec<(u32, u64)>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InFlightRecord {
    pub(super) packet_id: u16,
    pub(super) stage: Stage,
    pub(super) retain: bool,
    pub(super) origin: Option<Origin>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplayRecord {
    pub(super) filter: String,
    pub(super) qos: u8,
    pub(super) subscription_id: Option<u32>,
    pub(super) after: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WillRecord {
    /// Seconds of its delay, counted from `offline_since`.
    pub(super) delay: u32,
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) properties: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// The tag of a message in the log: bits 0-1 QoS, bit 2 retain.
pub(super) fn tag(qos: QoS, retain: bool) -> u8 {
    qos as u8 | u8::from(retain) << 2
}

pub(super) fn qos_of(bits: u8) -> QoS {
    match bits & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

pub(super) fn retain_of(tag: u8) -> bool {
    tag & 0b100 != 0
}
