//! The control packets of MQTT 3.1, 3.1.1 and 5.0 as types. Names are the specification's.

use std::num::NonZeroU16;

use bytes::Bytes;

use super::topic::{TopicFilter, TopicName};

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1, protocol name `MQIsdp`, level 3. Handled as 3.1.1 except where this variant is named.
    V31,
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Quality of service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// 0
    #[default]
    AtMostOnce = 0,
    /// 1
    AtLeastOnce = 1,
    /// 2
    ExactlyOnce = 2,
}

impl QoS {
    /// `None` for anything but 0, 1, 2.
    #[must_use]
    pub const fn from_u8(qos: u8) -> Option<QoS> {
        match qos {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// Packet identifier, never 0 [MQTT-2.2.1-3].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// `None` for 0.
    #[must_use]
    pub const fn new(id: u16) -> Option<PacketId> {
        match NonZeroU16::new(id) {
            Some(id) => Some(PacketId(id)),
            None => None,
        }
    }

    /// As written on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// Any control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// 1
    Connect(Box<Connect>),
    /// 2
    ConnAck(Box<ConnAck>),
    /// 3
    Publish(Publish),
    /// 4
    PubAck(Ack),
    /// 5
    PubRec(Ack),
    /// 6
    PubRel(Ack),
    /// 7
    PubComp(Ack),
    /// 8
    Subscribe(Subscribe),
    /// 9
    SubAck(SubAck),
    /// 10
    Unsubscribe(Unsubscribe),
    /// 11
    UnsubAck(UnsubAck),
    /// 12
    PingReq,
    /// 13
    PingResp,
    /// 14
    Disconnect(Disconnect),
    /// 15, MQTT 5 only
    Auth(Auth),
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// 3.1.1 or 5.0.
    pub version: Version,
    /// Clean Session (3.1.1) or Clean Start (5.0).
    pub clean_start: bool,
    /// Seconds; 0 switches it off.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: String,
    /// Published when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
    /// MQTT 5 properties; the defaults of the specification on 3.1.1.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT with their absent values as the specification gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Seconds; `None` = absent (0). `u32::MAX` = never.
    pub session_expiry: Option<u32>,
    /// `None` = 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// `None` = no limit.
    pub maximum_packet_size: Option<u32>,
    /// `None` = 0.
    pub topic_alias_maximum: Option<u16>,
    /// `None` = no.
    pub request_response_information: Option<bool>,
    /// `None` = yes.
    pub request_problem_information: Option<bool>,
    /// In order.
    pub user: Vec<(String, String)>,
    /// Enhanced authentication.
    pub authentication_method: Option<String>,
    /// Enhanced authentication.
    pub authentication_data: Option<Bytes>,
}

/// The will of a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// How.
    pub qos: QoS,
    /// Kept for later subscribers.
    pub retain: bool,
    /// Seconds between the end of the connection and the will.
    pub delay: u32,
    /// As of a PUBLISH.
    pub properties: Option<Box<PublishProperties>>,
}

/// CONNACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// The server has a session for this client.
    pub session_present: bool,
    /// Written as the 3.1.1 return code on a 3.1.1 connection.
    pub reason: ReasonCode,
    /// MQTT 5.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK. `None` = absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the specification's (3.2.2.3)
pub struct ConnAckProperties {
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<String>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<String>,
    pub user: Vec<(String, String)>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_id_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<String>,
    pub server_reference: Option<String>,
    pub authentication_method: Option<String>,
    pub authentication_data: Option<Bytes>,
}

/// PUBLISH. Topic and payload share the buffer they were read into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Sent before.
    pub dup: bool,
    /// 0, 1, 2.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// `None` only where an MQTT 5 topic alias stands for it.
    pub topic: Option<TopicName>,
    /// Present exactly when `qos` > 0 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// Topic alias, 1.. [MQTT-3.3.2-8].
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription identifiers (server to client only).
    pub subscription_ids: Vec<u32>,
    /// Everything that travels with the message; `None` if there is nothing.
    pub properties: Option<Box<PublishProperties>>,
    /// The message.
    pub payload: Bytes,
}

/// The properties of a message that travel with it from publisher to subscriber, uplink and store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties {
    /// 0 = bytes, 1 = UTF-8 text.
    pub payload_format: Option<u8>,
    /// Seconds.
    pub message_expiry: Option<u32>,
    /// MIME type, by custom.
    pub content_type: Option<String>,
    /// Where an answer goes.
    pub response_topic: Option<TopicName>,
    /// Belongs to `response_topic`.
    pub correlation_data: Option<Bytes>,
    /// In order, names may repeat [MQTT-3.3.2-17].
    pub user: Vec<(String, String)>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// `Success` on 3.1.1.
    pub reason: ReasonCode,
    /// MQTT 5.
    pub reason_string: Option<String>,
    /// MQTT 5.
    pub user: Vec<(String, String)>,
}

/// SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Answered in SUBACK.
    pub packet_id: PacketId,
    /// MQTT 5; never 0.
    pub subscription_id: Option<u32>,
    /// MQTT 5.
    pub user: Vec<(String, String)>,
    /// At least one [MQTT-3.8.3-2]. `Err` holds the text of a filter that is not valid: it gets its own reason code.
    pub filters: Vec<(Result<TopicFilter, String>, SubscriptionOptions)>,
}

/// How a subscription wants its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// MQTT 5: not the client's own messages.
    pub no_local: bool,
    /// MQTT 5: keep the publisher's retain flag.
    pub retain_as_published: bool,
    /// MQTT 5: which retained messages at subscribe.
    pub retain_handling: RetainHandling,
}

/// Which retained messages a SUBSCRIBE is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetainHandling {
    /// 0
    #[default]
    Send = 0,
    /// 1
    SendIfNew = 1,
    /// 2
    DoNotSend = 2,
}

/// SUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// MQTT 5.
    pub reason_string: Option<String>,
    /// One per filter, in order [MQTT-3.8.4-6].
    pub reasons: Vec<ReasonCode>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Answered in UNSUBACK.
    pub packet_id: PacketId,
    /// MQTT 5.
    pub user: Vec<(String, String)>,
    /// At least one [MQTT-3.10.3-2]; `Err` as in [`Subscribe`].
    pub filters: Vec<Result<TopicFilter, String>>,
}

/// UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsubAck {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// MQTT 5.
    pub reason_string: Option<String>,
    /// One per filter; not written on 3.1.1.
    pub reasons: Vec<ReasonCode>,
}

/// DISCONNECT. A server may send it on MQTT 5 only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Why.
    pub reason: ReasonCode,
    /// Seconds; client only.
    pub session_expiry: Option<u32>,
    /// For people.
    pub reason_string: Option<String>,
    /// In order.
    pub user: Vec<(String, String)>,
    /// Server only.
    pub server_reference: Option<String>,
}

/// AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Why.
    pub reason: ReasonCode,
    /// Enhanced authentication.
    pub method: Option<String>,
    /// Enhanced authentication.
    pub data: Option<Bytes>,
    /// For people.
    pub reason_string: Option<String>,
    /// In order.
    pub user: Vec<(String, String)>,
}

/// Reason codes of MQTT 5.0 (2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the specification's table 2-6
pub enum ReasonCode {
    /// Success, Normal disconnection, Granted QoS 0.
    Success = 0x00,
    GrantedQoS1 = 0x01,
    GrantedQoS2 = 0x02,
    DisconnectWithWill = 0x04,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    ContinueAuthentication = 0x18,
    ReAuthenticate = 0x19,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ImplementationSpecificError = 0x83,
    UnsupportedProtocolVersion = 0x84,
    ClientIdNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8A,
    ServerShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdInUse = 0x91,
    PacketIdNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    MessageRateTooHigh = 0x96,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
    PayloadFormatInvalid = 0x99,
    RetainNotSupported = 0x9A,
    QoSNotSupported = 0x9B,
    UseAnotherServer = 0x9C,
    ServerMoved = 0x9D,
    SharedSubscriptionsNotSupported = 0x9E,
    ConnectionRateExceeded = 0x9F,
    MaximumConnectTime = 0xA0,
    SubscriptionIdsNotSupported = 0xA1,
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Every reason code, by value.
    pub const ALL: [ReasonCode; 43] = {
        use ReasonCode::*;
        [
            Success,
            GrantedQoS1,
            GrantedQoS2,
            DisconnectWithWill,
            NoMatchingSubscribers,
            NoSubscriptionExisted,
            ContinueAuthentication,
            ReAuthenticate,
            UnspecifiedError,
            MalformedPacket,
            ProtocolError,
            ImplementationSpecificError,
            UnsupportedProtocolVersion,
            ClientIdNotValid,
            BadUserNameOrPassword,
            NotAuthorized,
            ServerUnavailable,
            ServerBusy,
            Banned,
            ServerShuttingDown,
            BadAuthenticationMethod,
            KeepAliveTimeout,
            SessionTakenOver,
            TopicFilterInvalid,
            TopicNameInvalid,
            PacketIdInUse,
            PacketIdNotFound,
            ReceiveMaximumExceeded,
            TopicAliasInvalid,
            PacketTooLarge,
            MessageRateTooHigh,
            QuotaExceeded,
            AdministrativeAction,
            PayloadFormatInvalid,
            RetainNotSupported,
            QoSNotSupported,
            UseAnotherServer,
            ServerMoved,
            SharedSubscriptionsNotSupported,
            ConnectionRateExceeded,
            MaximumConnectTime,
            SubscriptionIdsNotSupported,
            WildcardSubscriptionsNotSupported,
        ]
    };

    /// `None` for a value that the specification does not define.
    #[must_use]
    pub fn from_u8(code: u8) -> Option<ReasonCode> {
        let index = ReasonCode::ALL.binary_search_by_key(&code, |reason| *reason as u8).ok()?;
        Some(ReasonCode::ALL[index])
    }

    /// 0x80 and above: a failure (2.4).
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }

    /// The reason a SUBACK grants `qos` with.
    #[must_use]
    pub const fn granted(qos: QoS) -> ReasonCode {
        match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        }
    }
}

/// Why bytes are not a packet: the peer is to blame, the connection ends with this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// `MalformedPacket`, `ProtocolError`, `PacketTooLarge`, `UnsupportedProtocolVersion`, ...
    pub reason: ReasonCode,
    /// What was wrong, with the clause, for the log.
    pub detail: &'static str,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (reason 0x{:02x})", self.detail, self.reason as u8)
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_codes_are_sorted_and_found_by_value() {
        assert!(ReasonCode::ALL.is_sorted_by_key(|reason| *reason as u8));
        for code in 0..=u8::MAX {
            match ReasonCode::from_u8(code) {
                Some(reason) => assert_eq!(reason as u8, code),
                None => assert!(!ReasonCode::ALL.iter().any(|reason| *reason as u8 == code)),
            }
        }
    }
}
