//! CONNECT: what a client asks for, what it gets, and the CONNACK that says so.

use std::sync::Arc;
use std::time::Duration;

use super::aliases::TOPIC_ALIAS_MAXIMUM;
use crate::mqtt::packet::{ConnAck, ConnAckProperties, Connect, ReasonCode, Version, Will};

/// What this broker allows every client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unacknowledged QoS 1/2 messages from a client, and towards one that would take more.
    pub receive_maximum: u16,
    /// Bytes of a packet from a client.
    pub max_packet_bytes: u32,
    /// Longest life of an offline session.
    pub max_session_expiry: Duration,
    /// Largest keep alive in seconds; 0 = no limit.
    pub max_keep_alive: u16,
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct SessionExpiry(pub u32);

impl SessionExpiry {
    /// Ends with the connection.
    pub const AT_DISCONNECT: SessionExpiry = SessionExpiry(0);
    /// Never ends by itself.
    pub const NEVER: SessionExpiry = SessionExpiry(u32::MAX);

    /// Whether the session outlives its connection.
    #[must_use]
    pub fn persists(self) -> bool {
        self != Self::AT_DISCONNECT
    }

    /// `None`: never.
    #[must_use]
    pub fn duration(self) -> Option<Duration> {
        (self != Self::NEVER).then(|| Duration::from_secs(u64::from(self.0)))
    }

    pub(super) fn capped(self, max: Duration) -> SessionExpiry {
        self.min(SessionExpiry(u32::try_from(max.as_secs()).unwrap_or(u32::MAX)))
    }
}

/// A CONNECT as agreed.
#[derive(Clone, Debug)]
pub struct Negotiated {
    /// Protocol version.
    pub version: Version,
    /// The client's, or assigned by us.
    pub client_id: String,
    /// The user that the session belongs to; `None`: anonymous.
    pub user: Option<Arc<str>>,
    /// We assigned the client id.
    pub assigned: bool,
    /// Begin with a new session [MQTT-3.1.2-4].
    pub clean_start: bool,
    /// Seconds; 0 = off.
    pub keep_alive: u16,
    /// Told to the client because it differs from what it asked for [MQTT-3.1.2-21].
    pub server_keep_alive: Option<u16>,
    /// How long the session outlives the connection.
    pub expiry: SessionExpiry,
    /// What the client asked for, if it differs.
    pub asked_expiry: Option<u32>,
    /// Messages with QoS > 0 towards the client at once.
    pub window: u16,
    /// Largest packet towards the client.
    pub max_packet_bytes: Option<u32>,
    /// Topic aliases towards the client; 0: none.
    pub topic_alias_maximum: u16,
    /// Reason strings and user properties may be sent to it [MQTT-3.1.2-29].
    pub problem_information: bool,
    /// Where the client may get its replies, if it asks for it. The caller sets it.
    pub response_information: Option<String>,
    /// Published when the connection ends without DISCONNECT.
    pub will: Option<Will>,
}

/// Agrees on a CONNECT. `assigned_id` is used when the client has none. The caller sets the user, which a certificate may say,
/// and the response information.
///
/// # Errors
/// The reason for the CONNACK that refuses it.
pub fn negotiate(
    connect: Connect,
    limits: &Limits,
    assigned_id: impl FnOnce() -> String,
) -> Result<Negotiated, ReasonCode> {
    let properties = connect.properties;
    if properties.authentication_method.is_some() {
        // No extended authentication here [MQTT-4.12.0-1].
        return Err(ReasonCode::BadAuthenticationMethod);
    }
    let assigned = connect.client_id.is_empty();
    let nameless = match connect.version {
        // 3.1 knows only 1 to 23 characters (3.1 there). More are taken, as everywhere.
        Version::V31 => false,
        // [MQTT-3.1.3-8]
        Version::V311 => connect.clean_start,
        Version::V5 => true,
    };
    if assigned && !nameless {
        return Err(ReasonCode::ClientIdNotValid);
    }
    let (keep_alive, server_keep_alive) = match (connect.version, limits.max_keep_alive, connect.keep_alive) {
        (Version::V5, max, asked) if max > 0 && (asked == 0 || asked > max) => (max, Some(max)),
        (_, _, asked) => (asked, None),
    };
    let asked = match (connect.version, connect.clean_start) {
        // 3.1.1 knows only "until the connection ends" and "kept"; how long is ours to say (3.1.2.4 of 3.1.1).
        (Version::V31 | Version::V311, true) => SessionExpiry::AT_DISCONNECT,
        (Version::V31 | Version::V311, false) => SessionExpiry::NEVER,
        (Version::V5, _) => SessionExpiry(properties.session_expiry.unwrap_or(0)),
    };
    let expiry = asked.capped(limits.max_session_expiry);
    Ok(Negotiated {
        version: connect.version,
        client_id: if assigned { assigned_id() } else { connect.client_id },
        user: None,
        assigned,
        clean_start: connect.clean_start,
        keep_alive,
        server_keep_alive,
        expiry,
        asked_expiry: (expiry != asked).then_some(asked.0),
        window: properties.receive_maximum.map_or(u16::MAX, |n| n.get()).min(limits.receive_maximum).max(1),
        max_packet_bytes: properties.maximum_packet_size,
        topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
        problem_information: properties.request_problem_information.unwrap_or(true),
        response_information: None,
        will: connect.will,
    })
}

/// The CONNACK that accepts.
pub(super) fn accept(agreed: &Negotiated, limits: &Limits, session_present: bool) -> ConnAck {
    let properties = match agreed.version {
        Version::V31 | Version::V311 => ConnAckProperties::default(),
        Version::V5 => ConnAckProperties {
            session_expiry: agreed.asked_expiry.map(|_| agreed.expiry.0),
            receive_maximum: std::num::NonZeroU16::new(limits.receive_maximum),
            maximum_packet_size: Some(limits.max_packet_bytes),
            assigned_client_id: agreed.assigned.then(|| agreed.client_id.clone()),
            topic_alias_maximum: Some(TOPIC_ALIAS_MAXIMUM),
            shared_subscription_available: Some(true),
            server_keep_alive: agreed.server_keep_alive,
            response_information: agreed.response_information.clone(),
            ..ConnAckProperties::default()
        },
    };
    // Session present is 0 after a clean start [MQTT-3.2.2-2]. The byte is reserved in 3.1.
    let session_present = session_present && !agreed.clean_start && agreed.version != Version::V31;
    ConnAck { session_present, reason: ReasonCode::Success, properties }
}

/// The CONNACK that refuses. Session present is 0 [MQTT-3.2.2-6].
#[must_use]
pub fn refuse(reason: ReasonCode) -> ConnAck {
    ConnAck { session_present: false, reason, properties: ConnAckProperties::default() }
}
