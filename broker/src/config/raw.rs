//! The configuration file as it is written: one struct per section, every key with its default.
//!
//! `configs/headwater.toml` describes each key to the operator; a test holds it to these structs. The reason for a
//! default stands there, beside the key, because that is where somebody asks for it.

use serde::Deserialize;

use super::key::{Key, Switch, keys_of};
use super::size::{GIB, MIB, Size};
use super::span::Span;
use crate::log::Priority;

#[cfg(test)]
use serde::Serialize;

/// The subjects that a mirror publishes to unless it says otherwise.
pub(crate) const DEFAULT_SUBJECT: &str = "edge.{gateway}.{stream}.{subject}";

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawFile {
    pub(crate) gateway: RawGateway,
    pub(crate) disk: RawDisk,
    pub(crate) durability: RawDurability,
    pub(crate) clock: RawClock,
    pub(crate) http: RawHttp,
    pub(crate) mqtt: RawMqtt,
    pub(crate) auth: RawAuth,
    pub(crate) listener: Vec<Key<RawListener>>,
    pub(crate) stream: Vec<Key<RawStream>>,
    pub(crate) uplink: Vec<Key<RawUplink>>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawGateway {
    pub(crate) id: Key<Option<String>>,
    pub(crate) data_dir: Key<String>,
}

impl Default for RawGateway {
    fn default() -> Self {
        Self { id: None.into(), data_dir: "headwater-data".to_owned().into() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawDisk {
    pub(crate) max_bytes: Key<Size>,
    pub(crate) min_free: Key<Size>,
    pub(crate) compression: RawCompression,
}

impl Default for RawDisk {
    fn default() -> Self {
        Self { max_bytes: Size(GIB).into(), min_free: Size(64 * MIB).into(), compression: RawCompression::Zstd }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawCompression {
    Zstd,
    Lz4,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawDurability {
    pub(crate) ack: Key<RawAck>,
    pub(crate) interval: Key<Span>,
    pub(crate) max_delay: Key<Span>,
}

impl Default for RawDurability {
    fn default() -> Self {
        Self { ack: RawAck::Synced.into(), interval: Span::ms(1_000).into(), max_delay: Span::ms(0).into() }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawAck {
    Synced,
    Interval,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawClock {
    pub(crate) trust: Key<RawTrust>,
    pub(crate) synced_file: Key<String>,
}

impl Default for RawClock {
    fn default() -> Self {
        Self { trust: RawTrust::Daemon.into(), synced_file: "/run/systemd/timesync/synchronized".to_owned().into() }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawTrust {
    Daemon,
    Always,
    Never,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawHttp {
    pub(crate) bind: Key<String>,
    pub(crate) remote_messages: bool,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { bind: "127.0.0.1:8222".to_owned().into(), remote_messages: false }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawMqtt {
    pub(crate) max_connections: Key<u32>,
    pub(crate) max_connections_per_address: Key<u32>,
    pub(crate) connect_rate_per_address: Key<u32>,
    pub(crate) max_packet_bytes: Key<Size>,
    pub(crate) receive_maximum: Key<u16>,
    pub(crate) handshake_timeout: Key<Span>,
    pub(crate) connect_timeout: Key<Span>,
    pub(crate) max_keep_alive: Key<Span>,
    pub(crate) max_sessions: Key<u32>,
    pub(crate) max_session_expiry: Key<Span>,
    pub(crate) max_subscriptions: Key<u32>,
    pub(crate) max_queued_msgs: Key<u32>,
    pub(crate) max_queued_bytes: Key<Size>,
    pub(crate) max_queued_bytes_total: Key<Size>,
    pub(crate) max_retained_msgs: Key<u32>,
    pub(crate) max_retained_bytes: Key<Size>,
    pub(crate) sys_interval: Key<Span>,
    pub(crate) server_reference: Key<Option<String>>,
    pub(crate) response_information: Key<Option<String>>,
}

impl Default for RawMqtt {
    fn default() -> Self {
        Self {
            max_connections: 10_000.into(),
            max_connections_per_address: 0.into(),
            connect_rate_per_address: 0.into(),
            max_packet_bytes: Size(MIB).into(),
            receive_maximum: 100.into(),
            handshake_timeout: Span::ms(10_000).into(),
            connect_timeout: Span::ms(10_000).into(),
            max_keep_alive: Span::ms(3_600_000).into(),
            max_sessions: 20_000.into(),
            max_session_expiry: Span::ms(30 * 86_400_000).into(),
            max_subscriptions: 500.into(),
            max_queued_msgs: 500.into(),
            max_queued_bytes: Size(MIB).into(),
            max_queued_bytes_total: Size(8 * MIB).into(),
            max_retained_msgs: 10_000.into(),
            max_retained_bytes: Size(16 * MIB).into(),
            sys_interval: Span::ms(10_000).into(),
            server_reference: None.into(),
            response_information: None.into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawAuth {
    pub(crate) password_file: Key<Option<String>>,
    pub(crate) acl_file: Key<Option<String>>,
    pub(crate) max_waiting: Key<u32>,
    pub(crate) jwt: RawJwt,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawJwt {
    pub(crate) key_file: Key<Option<String>>,
    pub(crate) issuer: Key<Option<String>>,
    pub(crate) audience: Key<Option<String>>,
    pub(crate) leeway: Key<Span>,
    pub(crate) without_clock: Key<bool>,
}

impl Default for RawJwt {
    fn default() -> Self {
        Self {
            key_file: None.into(),
            issuer: None.into(),
            audience: None.into(),
            leeway: Span::ms(60_000).into(),
            without_clock: false.into(),
        }
    }
}

impl Default for RawAuth {
    fn default() -> Self {
        Self { password_file: None.into(), acl_file: None.into(), max_waiting: 100.into(), jwt: RawJwt::default() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawListener {
    pub(crate) kind: Key<RawListenerKind>,
    pub(crate) bind: Key<String>,
    pub(crate) anonymous: Key<Option<bool>>,
    pub(crate) socket_mode: Key<String>,
    pub(crate) path: Key<String>,
    pub(crate) origins: Key<Vec<String>>,
    pub(crate) proxy_protocol: Key<bool>,
    pub(crate) max_connections: Key<Option<u32>>,
    pub(crate) connect_rate: Key<u32>,
    pub(crate) tls: RawListenerTls,
}

impl Default for RawListener {
    fn default() -> Self {
        Self {
            kind: RawListenerKind::Mqtt.into(),
            bind: "127.0.0.1:1883".to_owned().into(),
            anonymous: None.into(),
            socket_mode: "0660".to_owned().into(),
            path: "/mqtt".to_owned().into(),
            origins: Vec::new().into(),
            proxy_protocol: false.into(),
            max_connections: None.into(),
            connect_rate: 0.into(),
            tls: RawListenerTls::default(),
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawListenerTls {
    pub(crate) cert_file: Key<Option<String>>,
    pub(crate) key_file: Key<Option<String>>,
    pub(crate) ca_file: Key<Option<String>>,
    pub(crate) crl_file: Key<Option<String>>,
    pub(crate) crl_may_be_expired: bool,
    pub(crate) client_certificates: Key<RawClientCertificates>,
    pub(crate) user_name_from: Key<Option<RawNameFrom>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawClientCertificates {
    #[default]
    None,
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawNameFrom {
    Cn,
    San,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawListenerKind {
    Mqtt,
    Mqtts,
    Ws,
    Wss,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawStream {
    pub(crate) name: Key<Option<String>>,
    pub(crate) topics: Vec<Key<String>>,
    pub(crate) exclude: Vec<Key<String>>,
    pub(crate) max_bytes: Key<Option<Size>>,
    pub(crate) max_age: Key<Option<Span>>,
    pub(crate) max_msgs: Key<Option<u64>>,
    pub(crate) max_msgs_per_subject: Key<Option<u32>>,
    pub(crate) max_msg_bytes: Key<Option<Size>>,
    pub(crate) discard: RawDiscard,
    pub(crate) reserve: Key<Option<Size>>,
    pub(crate) priority: Key<RawPriority>,
    pub(crate) storage: Key<RawStorage>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(transparent)]
pub(crate) struct RawPriority(pub(crate) u8);

impl Default for RawPriority {
    fn default() -> RawPriority {
        RawPriority(Priority::default().0)
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawDiscard {
    #[default]
    Old,
    New,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawStorage {
    #[default]
    File,
    Memory,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawUplink {
    pub(crate) name: Key<Option<String>>,
    pub(crate) kind: Key<RawUplinkKind>,
    pub(crate) servers: Vec<Key<String>>,
    pub(crate) credentials_file: Key<Option<String>>,
    pub(crate) user: Key<Option<String>>,
    pub(crate) password: Key<Option<String>>,
    pub(crate) token: Key<Option<String>>,
    pub(crate) nkey: Key<Option<String>>,
    pub(crate) tls: RawTls,
    pub(crate) batch_msgs: Key<u32>,
    pub(crate) batch_bytes: Key<Size>,
    pub(crate) batch_delay: Key<Span>,
    pub(crate) ack_timeout: Key<Span>,
    pub(crate) max_backoff: Key<Span>,
    pub(crate) mirror: Vec<Key<RawMirror>>,
}

impl Default for RawUplink {
    fn default() -> Self {
        Self {
            name: None.into(),
            kind: RawUplinkKind::Jetstream.into(),
            servers: Vec::new(),
            credentials_file: None.into(),
            user: None.into(),
            password: None.into(),
            token: None.into(),
            nkey: None.into(),
            tls: RawTls::default(),
            batch_msgs: 1_000.into(),
            batch_bytes: Size(MIB).into(),
            batch_delay: Span::ms(20).into(),
            ack_timeout: Span::ms(5_000).into(),
            max_backoff: Span::ms(30_000).into(),
            mirror: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(rename_all = "lowercase")]
pub(crate) enum RawUplinkKind {
    Jetstream,
    Leaf,
    Mqtt,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawTls {
    pub(crate) required: bool,
    pub(crate) ca_file: Key<Option<String>>,
    pub(crate) cert_file: Key<Option<String>>,
    pub(crate) key_file: Key<Option<String>>,
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawMirror {
    pub(crate) stream: Key<Option<String>>,
    pub(crate) into: Key<Option<String>>,
    pub(crate) subject: Key<String>,
    pub(crate) create: Key<Switch<RawCreate>>,
}

impl Default for RawMirror {
    fn default() -> Self {
        Self {
            stream: None.into(),
            into: None.into(),
            subject: DEFAULT_SUBJECT.to_owned().into(),
            create: Switch::Off.into(),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawCreate {
    pub(crate) replicas: Key<u8>,
    pub(crate) max_bytes: Key<Option<Size>>,
    pub(crate) max_age: Key<Option<Span>>,
    pub(crate) subjects: Vec<Key<String>>,
}

impl Default for RawCreate {
    fn default() -> Self {
        Self { replicas: 1.into(), max_bytes: None.into(), max_age: None.into(), subjects: Vec::new() }
    }
}

/// Keys of the section at that path (`""` is the whole file); empty if there is no such section.
pub(crate) fn keys_at(section: &str) -> &'static [&'static str] {
    match section {
        "" => keys_of::<RawFile>(),
        "gateway" => keys_of::<RawGateway>(),
        "disk" => keys_of::<RawDisk>(),
        "durability" => keys_of::<RawDurability>(),
        "clock" => keys_of::<RawClock>(),
        "http" => keys_of::<RawHttp>(),
        "mqtt" => keys_of::<RawMqtt>(),
        "auth" => keys_of::<RawAuth>(),
        "auth.jwt" => keys_of::<RawJwt>(),
        "listener" => keys_of::<RawListener>(),
        "listener.tls" => keys_of::<RawListenerTls>(),
        "stream" => keys_of::<RawStream>(),
        "uplink" => keys_of::<RawUplink>(),
        "uplink.tls" => keys_of::<RawTls>(),
        "uplink.mirror" => keys_of::<RawMirror>(),
        "uplink.mirror.create" => keys_of::<RawCreate>(),
        _ => &[],
    }
}
