//! What the router keeps in tables of the log. Numbers are never reused; every value begins with a version byte.
//!
//! | table | key | value | written |
//! |---|---|---|---|
//! | 16 retained | topic | [`super::record`]: stamp, QoS, properties, payload | with the retained message, in one group |
//! | 17 sessions | client id | [`super::record`]: subscriptions | with SUBSCRIBE and UNSUBSCRIBE |
//! | 18 received | packet id (2 bytes, big endian), client id | one byte 1 | with the QoS 2 message, in one group; deleted at PUBREL |
//! | 19 progress | client id | [`super::record`]: expiry, positions, in-flight messages, will | at connect, at disconnect, and lazily between |
//! | 20 shares | filter of a shared subscription | [`super::record`]: positions | with SUBSCRIBE, when a member leaves, and lazily between |
//! | 21 wills | client id | [`super::record`]: will of a connected client | at connect; deleted with the progress at disconnect |
//! | 22 owners | client id | user name | at connect, if there is a user name |

use crate::log::{StreamConfig, StreamLimits, TableId};
use crate::mqtt::packet::PacketId;

/// Retained messages by topic.
pub const RETAINED: TableId = TableId(16);
/// Subscriptions of persistent sessions by client id.
pub const SESSIONS: TableId = TableId(17);
/// QoS 2 packet ids received and not released.
pub const RECEIVED: TableId = TableId(18);
/// How far persistent sessions have read, by client id.
pub const PROGRESS: TableId = TableId(19);

/// How far groups of shared subscriptions with kept members have come, by filter.
pub const SHARES: TableId = TableId(20);

/// Wills of connected clients whose sessions are kept, by client id.
pub const WILLS: TableId = TableId(21);
/// Users that kept sessions belong to, by client id.
pub const OWNERS: TableId = TableId(22);

/// The stream of messages that no configured stream captures but a session needs.
pub const SESSIONS_STREAM: &str = "$sessions";

/// The streams that the router needs besides the configured ones.
#[must_use]
pub fn internal_streams() -> Vec<StreamConfig> {
    vec![StreamConfig {
        name: SESSIONS_STREAM.to_owned(),
        limits: StreamLimits::default(),
        storage: crate::log::Storage::File,
    }]
}

pub(super) fn received_key(buffer: &mut Vec<u8>, packet_id: PacketId, client_id: &str) {
    buffer.extend_from_slice(&packet_id.0.get().to_be_bytes());
    buffer.extend_from_slice(client_id.as_bytes());
}

pub(super) fn parse_received_key(key: &[u8]) -> Option<(PacketId, &str)> {
    let (id, client) = key.split_first_chunk::<2>()?;
    let id = std::num::NonZeroU16::new(u16::from_be_bytes(*id))?;
    Some((PacketId(id), std::str::from_utf8(client).ok()?))
}
