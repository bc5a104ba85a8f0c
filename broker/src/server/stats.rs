//! Figures of the broker, for status and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::peer::Peer;
use crate::router::RouterCounters;

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `max_connections` is reached.
    TooManyConnections,
    /// The peer closed before it said CONNECT.
    NoConnect,
    /// The CONNECT was malformed, or of another protocol.
    BadConnect,
    /// Refused by authorization or negotiation.
    NotAuthorized,
    /// `max_sessions` is reached.
    TooManySessions,
    /// The user name or the password was wrong.
    WrongPassword,
    /// TLS could not be agreed on; a certificate that is missing, revoked or not trusted, mostly.
    Tls,
    /// `max_connections` of its listener is reached.
    ListenerFull,
    /// More connections per second than its listener takes.
    ListenerRate,
    /// `max_connections_per_address` is reached.
    AddressFull,
    /// More connections per second than one address may open.
    AddressRate,
    /// Had not said CONNECT when `max_connections` was reached, and gave its place to a newcomer.
    Displaced,
    /// What comes before MQTT, TLS for one, took longer than `handshake_timeout`.
    HandshakeTimeout,
    /// No CONNECT within `connect_timeout`.
    ConnectTimeout,
    /// No WebSocket was opened, or something else than MQTT came over it.
    WebSocket,
    /// No PROXY protocol header, or a malformed one.
    ProxyHeader,
    /// The list of revoked certificates is past its next update, so that no certificate counts.
    RevocationListExpired,
    /// The CONNECT could not be answered in time: too many passwords to check, or a session that is not given back.
    Busy,
}

impl Refused {
    /// How many reasons there are.
    pub const COUNT: usize = Refused::ALL.len();

    /// All of them, in order, with the name that metrics use.
    pub const ALL: [(Refused, &'static str); 18] = [
        (Refused::TooManyConnections, "too_many_connections"),
        (Refused::NoConnect, "no_connect"),
        (Refused::BadConnect, "bad_connect"),
        (Refused::NotAuthorized, "not_authorized"),
        (Refused::TooManySessions, "too_many_sessions"),
        (Refused::WrongPassword, "wrong_password"),
        (Refused::Tls, "tls"),
        (Refused::ListenerFull, "listener_full"),
        (Refused::ListenerRate, "listener_rate"),
        (Refused::AddressFull, "address_full"),
        (Refused::AddressRate, "address_rate"),
        (Refused::Displaced, "displaced"),
        (Refused::HandshakeTimeout, "handshake_timeout"),
        (Refused::ConnectTimeout, "connect_timeout"),
        (Refused::WebSocket, "websocket"),
        (Refused::ProxyHeader, "proxy_header"),
        (Refused::RevocationListExpired, "revocation_list_expired"),
        (Refused::Busy, "busy"),
    ];

    /// What the operator is told when an episode of it begins; `None`: it is the client's own matter.
    pub(super) fn limit(self) -> Option<&'static str> {
        Some(match self {
            Refused::TooManyConnections => "connections are refused: mqtt.max_connections is reached",
            Refused::TooManySessions => "clients are refused: mqtt.max_sessions is reached",
            Refused::ListenerFull => "connections are refused: max_connections of their listener is reached",
            Refused::ListenerRate => "connections are refused: their listener gets more than its connect_rate",
            Refused::AddressFull => "connections are refused: their address has mqtt.max_connections_per_address",
            Refused::AddressRate => {
                "connections are refused: their address opens more than mqtt.connect_rate_per_address"
            }
            Refused::Displaced => {
                "mqtt.max_connections is reached: connections that say nothing give their places to newcomers"
            }
            Refused::HandshakeTimeout => {
                "connections are closed: their handshake took longer than mqtt.handshake_timeout"
            }
            Refused::ConnectTimeout => "connections are closed: they said no CONNECT within mqtt.connect_timeout",
            Refused::ProxyHeader => {
                "connections are closed: what comes to a listener with proxy_protocol has no proper header"
            }
            Refused::RevocationListExpired => {
                "clients with certificates are refused: listener.tls.crl_file is past its next update"
            }
            Refused::Busy => "clients are refused: their passwords or sessions cannot be had in time",
            Refused::NoConnect
            | Refused::BadConnect
            | Refused::NotAuthorized
            | Refused::WrongPassword
            | Refused::WebSocket
            | Refused::Tls => return None,
        })
    }
}

/// Counters that connections share.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) refused: [AtomicU64; Refused::COUNT],
    pub(super) bytes_in: AtomicU64,
    pub(super) packets_in: AtomicU64,
    pub(super) packets_out: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) messages_out: [AtomicU64; 3],
    pub(super) redelivered: AtomicU64,
    pub(super) dropped_too_large_for_client: AtomicU64,
    pub(super) catch_up_readers: AtomicU64,
    pub(super) keep_alive_timeouts: AtomicU64,
    pub(super) protocol_errors: AtomicU64,
    pub(super) accept_errors: AtomicU64,
}

/// A snapshot of everything countable.
#[derive(Clone, Copy, Debug, Default)]
pub struct BrokerStats {
    /// Connections now, those without a CONNECT yet included.
    pub connections: u64,
    /// Clients connected now.
    pub clients: u64,
    /// Sessions known, connected or not.
    pub sessions: u64,
    /// Most clients that were connected at once.
    pub max_clients: u64,
    /// Groups of shared subscriptions.
    pub share_groups: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Connections accepted since start.
    pub accepted: u64,
    /// Connections refused since start, in the order of [`Refused::ALL`].
    pub refused: [u64; Refused::COUNT],
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// Messages sent to clients, by QoS, repetitions included.
    pub messages_out: [u64; 3],
    /// Messages sent again after a reconnect.
    pub redelivered: u64,
    /// Messages larger than the client's Maximum Packet Size [MQTT-3.1.2-25].
    pub dropped_too_large_for_client: u64,
    /// Retained messages.
    pub retained_msgs: u64,
    /// Bytes of retained messages.
    pub retained_bytes: u64,
    /// Bytes in the queues towards all clients.
    pub queued_bytes: u64,
    /// Messages that `max_queued_bytes_total` kept out of queues with room: dropped with QoS 0, else left to the log.
    pub queues_full: u64,
    /// Clients that read from the log now, because they were away or are slow.
    pub catch_up_readers: u64,
    /// Clients cut off for silence.
    pub keep_alive_timeouts: u64,
    /// Clients cut off for what they sent.
    pub protocol_errors: u64,
    /// Clients that wait for their password to be checked now.
    pub waiting_for_hash: u64,
    /// Addresses whose rate was forgotten before its time, because there were too many of them.
    pub addresses_forgotten: u64,
    /// Failed `accept` calls.
    pub accept_errors: u64,
    /// Messages in by QoS, and everything that was refused or dropped, by reason.
    pub router: RouterCounters,
}

impl Counters {
    pub(super) fn snapshot(&self) -> BrokerStats {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        BrokerStats {
            connections: load(&self.connections),
            accepted: load(&self.accepted),
            refused: std::array::from_fn(|i| load(&self.refused[i])),
            bytes_in: load(&self.bytes_in),
            packets_in: load(&self.packets_in),
            packets_out: load(&self.packets_out),
            bytes_out: load(&self.bytes_out),
            messages_out: std::array::from_fn(|i| load(&self.messages_out[i])),
            redelivered: load(&self.redelivered),
            dropped_too_large_for_client: load(&self.dropped_too_large_for_client),
            catch_up_readers: load(&self.catch_up_readers),
            keep_alive_timeouts: load(&self.keep_alive_timeouts),
            protocol_errors: load(&self.protocol_errors),
            accept_errors: load(&self.accept_errors),
            ..BrokerStats::default()
        }
    }
}

/// A client in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// Its client id.
    pub client_id: String,
    /// Where it connected from; `None`: it is away, its session waits.
    pub peer: Option<Peer>,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Messages in its queue.
    pub queued: usize,
}
