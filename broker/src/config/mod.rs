//! The configuration, resolved: no `Option` here means "default".
//!
//! * `raw`: the file as written, with its defaults; `size` and `span`: values with units; `key`: with places.
//! * `tree`: the file and what overrides it, merged; `env`: the overrides of the environment.
//! * `resolve`, `listeners`, `streams`, `uplinks`: from raw to the types here, everything checked.
//! * `error`: what is wrong, and where.

pub mod env;
mod error;
mod key;
mod listeners;
mod raw;
#[cfg(test)]
mod reference;
mod resolve;
mod size;
mod span;
mod streams;
mod tree;
mod uplinks;

pub use error::{ConfigError, ConfigErrors, Location};
pub use resolve::{Loaded, load};
pub use size::Size;
pub use span::Span;
pub use tree::{Given, Override};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::AuthFiles;
use crate::clock::ClockTrust;
use crate::log::{AckPolicy, BlockCodec, Storage, StreamLimits};

/// Everything the gateway runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[gateway]`
    pub gateway: Gateway,
    /// `[disk]`
    pub disk: Disk,
    /// `[durability]`
    pub durability: Durability,
    /// `[clock]`
    pub clock: ClockTrust,
    /// `[http]`
    pub http: Http,
    /// `[mqtt]`
    pub mqtt: Mqtt,
    /// `[auth]`
    pub auth: Auth,
    /// `[[listener]]`
    pub listeners: Vec<Listener>,
    /// `[[stream]]`
    pub streams: Vec<Stream>,
    /// `[[uplink]]`
    pub uplinks: Vec<Uplink>,
}

impl Config {
    /// Names of the sections that are not the same in `other`.
    #[must_use]
    pub fn sections_that_differ(&self, other: &Config) -> Vec<&'static str> {
        let Config { gateway, disk, durability, clock, http, mqtt, auth, listeners, streams, uplinks } = self;
        let sections = [
            ("gateway", *gateway == other.gateway),
            ("disk", *disk == other.disk),
            ("durability", *durability == other.durability),
            ("clock", *clock == other.clock),
            ("http", *http == other.http),
            ("mqtt", *mqtt == other.mqtt),
            ("auth", *auth == other.auth),
            ("listener", *listeners == other.listeners),
            ("stream", *streams == other.streams),
            ("uplink", *uplinks == other.uplinks),
        ];
        sections.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// Who we are and where our data lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// One subject token: no `.`, `*`, `>`, white space.
    pub id: String,
    /// The data directory.
    pub data_dir: PathBuf,
}

/// G2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Allocated bytes of everything below the data directory, at most.
    pub max_bytes: u64,
    /// Left on the filesystem, at least.
    pub min_free: u64,
    /// Compression of blocks at rest.
    pub codec: BlockCodec,
}

/// G1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// When an append is acknowledged.
    pub ack: AckPolicy,
    /// How long a commit may wait for company.
    pub max_delay: Duration,
}

/// Status and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `None` switches it off.
    pub bind: Option<SocketAddr>,
    /// Whether stored messages are shown to peers that are not on this machine.
    pub remote_messages: bool,
}

/// Limits towards MQTT clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Connections at once.
    pub max_connections: u32,
    /// Connections of one address at once; 0 = no limit.
    pub max_connections_per_address: u32,
    /// Connections that one address may open per second, in the mean over ten seconds; 0 = no limit.
    pub connect_rate_per_address: u32,
    /// Bytes of a packet from a client.
    pub max_packet_bytes: u32,
    /// Unacknowledged QoS 1/2 messages from a client (and towards one that asks for more).
    pub receive_maximum: u16,
    /// From accept to the end of what comes before MQTT.
    pub handshake_timeout: Duration,
    /// From there to CONNECT, and from CONNECT to its answer.
    pub connect_timeout: Duration,
    /// Longest life of an offline session.
    pub max_session_expiry: Duration,
    /// Sessions, connected or not.
    pub max_sessions: u32,
    /// Subscriptions of one session.
    pub max_subscriptions: u32,
    /// Messages queued in memory towards one client; beyond, it reads from the log.
    pub max_queued_msgs: u32,
    /// Bytes queued in memory towards one client.
    pub max_queued_bytes: u32,
    /// Bytes queued in memory towards all clients together.
    pub max_queued_bytes_total: u32,
    /// Retained messages.
    pub max_retained_msgs: u32,
    /// Bytes of retained messages.
    pub max_retained_bytes: u64,
    /// How often figures below `$SYS` are published while somebody subscribes to them; 0 = there are none.
    pub sys_interval: Duration,
    /// Other servers, told to MQTT 5 clients that find no room here or are sent away by a shutdown.
    pub server_reference: Option<String>,
    /// The topics that a client may use for replies, told to one that asks; with `%c` and `%u` for its names.
    pub response_information: Option<String>,
    /// Largest keep alive; a larger or absent one is replaced by this on MQTT 5 (Server Keep Alive). 0 = no limit.
    pub max_keep_alive: u16,
}

/// Who may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Where users and rights are read from.
    pub files: AuthFiles,
    /// Clients that wait for their passwords to be checked, at most.
    pub max_waiting: u32,
}

/// One socket that accepts clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// What is spoken.
    pub kind: ListenerKind,
    /// Where.
    pub bind: Bind,
    /// Clients without a user name are let in.
    pub anonymous: bool,
    /// A PROXY protocol header comes first and says whom the peer connects for.
    pub proxy_protocol: bool,
    /// Its connections at once.
    pub max_connections: u32,
    /// Connections that it takes per second, in the mean over ten seconds; 0 = no limit.
    pub connect_rate: u32,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// On a network.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix {
        /// Its file.
        path: PathBuf,
        /// Who may connect: the rights of that file.
        mode: u32,
    },
}

impl Bind {
    /// Only processes of this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp(address) => address.ip().is_loopback(),
            Bind::Unix { .. } => true,
        }
    }

    /// The network address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Bind::Tcp(address) => Some(*address),
            Bind::Unix { .. } => None,
        }
    }

    /// Two listeners cannot both have it.
    #[must_use]
    pub fn collides(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::Tcp(one), Bind::Tcp(other)) => one.port() != 0 && one == other,
            (Bind::Unix { path: one, .. }, Bind::Unix { path: other, .. }) => one == other,
            _ => false,
        }
    }
}

impl std::fmt::Display for Bind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT.
    Mqtt,
    /// MQTT over TLS.
    Mqtts(ListenerTls),
    /// MQTT over WebSocket.
    Ws(WebSocket),
    /// MQTT over WebSocket over TLS.
    Wss(WebSocket, ListenerTls),
}

impl ListenerKind {
    /// As the file names it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            ListenerKind::Mqtt => "mqtt",
            ListenerKind::Mqtts(_) => "mqtts",
            ListenerKind::Ws(_) => "ws",
            ListenerKind::Wss(..) => "wss",
        }
    }

    /// How it speaks TLS, if it does.
    #[must_use]
    pub fn tls(&self) -> Option<&ListenerTls> {
        match self {
            ListenerKind::Mqtts(tls) | ListenerKind::Wss(_, tls) => Some(tls),
            ListenerKind::Mqtt | ListenerKind::Ws(_) => None,
        }
    }

    /// How it opens WebSockets, if it does.
    #[must_use]
    pub fn websocket(&self) -> Option<&WebSocket> {
        match self {
            ListenerKind::Ws(websocket) | ListenerKind::Wss(websocket, _) => Some(websocket),
            ListenerKind::Mqtt | ListenerKind::Mqtts(_) => None,
        }
    }

    /// Only clients with a certificate get in.
    #[must_use]
    pub fn requires_certificate(&self) -> bool {
        self.tls().is_some_and(|tls| tls.clients == ClientCertificates::Required)
    }
}

/// Which requests open a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// To this path.
    pub path: String,
    /// From pages of these origins, beside those of the same host; `*` is any.
    pub origins: Vec<String>,
}

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// PEM: our certificate, and those between it and the authority that clients trust.
    pub cert_file: PathBuf,
    /// PEM: its private key.
    pub key_file: PathBuf,
    /// PEM: authorities of client certificates.
    pub ca_file: Option<PathBuf>,
    /// PEM: certificates that are revoked.
    pub crl_file: Option<PathBuf>,
    /// A list past its next update is used all the same.
    pub crl_may_be_expired: bool,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
    /// Where in its certificate the client's user name stands; `None`: it says itself who it is.
    pub name_from: Option<NameFrom>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked for.
    None,
    /// They may.
    Optional,
    /// They must.
    Required,
}

/// Where a name stands in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFrom {
    /// The common name of its subject.
    CommonName,
    /// The first DNS name, mail address or URI of its subject alternative name.
    AlternativeName,
}

/// A stream and what it captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Topic filters captured; those of two streams never overlap.
    pub topics: Vec<crate::mqtt::topic::TopicFilter>,
    /// Topic filters not captured.
    pub exclude: Vec<crate::mqtt::topic::TopicFilter>,
    /// Its limits.
    pub limits: StreamLimits,
    /// Where it is kept.
    pub storage: Storage,
}

/// A central cluster to mirror to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// `nats://host:port` or `tls://host:port`.
    pub servers: Vec<String>,
    /// How we show who we are.
    pub auth: UplinkAuth,
    /// TLS files.
    pub tls: UplinkTls,
    /// What is mirrored where.
    pub mirrors: Vec<Mirror>,
    /// Largest batch, messages (the hub allows 1,000).
    pub batch_msgs: u32,
    /// Largest batch, bytes.
    pub batch_bytes: u32,
    /// How long a batch may wait for company.
    pub batch_delay: Duration,
    /// An unanswered batch is in doubt after this; also the half-open detection.
    pub ack_timeout: Duration,
    /// Longest pause between attempts.
    pub max_backoff: Duration,
}

impl Uplink {
    /// The files that are read when it connects, each with the key that names it.
    #[must_use]
    pub fn files(&self) -> Vec<(&'static str, &std::path::Path)> {
        uplinks::files(self)
    }
}

/// Credentials towards the hub. Its debug text shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum UplinkAuth {
    /// None.
    Anonymous,
    /// A `.creds` file.
    CredentialsFile(PathBuf),
    /// User and password.
    UserPassword {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token.
    Token(String),
    /// An nkey seed.
    Nkey(String),
}

impl std::fmt::Debug for UplinkAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            UplinkAuth::Anonymous => f.write_str("Anonymous"),
            UplinkAuth::CredentialsFile(path) => f.debug_tuple("CredentialsFile").field(path).finish(),
            UplinkAuth::UserPassword { user, .. } => {
                f.debug_struct("UserPassword").field("user", user).finish_non_exhaustive()
            }
            UplinkAuth::Token(_) => f.write_str("Token(..)"),
            UplinkAuth::Nkey(_) => f.write_str("Nkey(..)"),
        }
    }
}

/// TLS towards the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkTls {
    /// Demand TLS even where the URL does not say so.
    pub required: bool,
    /// Trusted roots instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// One stream mirrored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Our stream.
    pub stream: String,
    /// The hub's stream.
    pub into: String,
    /// Subject template; default `edge.{gateway}.{stream}.{subject}`.
    pub subject: String,
    /// Make the hub's stream if missing.
    pub create: Option<CreateStream>,
}

/// How the hub's stream is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateStream {
    /// 1, 3, 5.
    pub replicas: u8,
    /// `None` = no limit.
    pub max_bytes: Option<u64>,
    /// `None` = no limit.
    pub max_age: Option<Duration>,
    /// The subjects it takes. Empty: those of all mirrors into it, from any gateway.
    pub subjects: Vec<String>,
}
