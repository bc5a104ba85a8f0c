//! What is read and said until a CONNECT is agreed on. The caller limits the time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::authorize::{Identity, rights};
use super::hub::Hub;
use super::peer::Peer;
use super::proxy;
use super::socket::Socket;
use super::stats::Refused;
use super::tls;
use super::websocket::WebSocketError;
use super::wire::{Read, Wire};
use crate::auth::acl::{Access, filled};
use crate::mqtt::codec::connect_return_code;
use crate::mqtt::packet::{Connect, Packet, ReasonCode, Version};
use crate::mqtt::session::{Negotiated, negotiate, refuse};

/// How long a refusal may take to leave.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Largest CONNECT: a will of 64 KiB and names of some length. Nobody has shown yet who it is, so that it is less than what a client
/// may send.
const MAX_CONNECT_BYTES: u32 = 128 * 1024;

/// What clients are told, as it is configured.
#[derive(Debug, Default)]
pub(super) struct Texts {
    /// Servers to use instead of this one.
    pub(super) server_reference: Option<String>,
    /// Where replies may go, with `%c` and `%u` for the client's names.
    pub(super) response_information: Option<String>,
}

/// What a CONNECT led to.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) negotiated: Negotiated,
    pub(super) identity: Identity,
    /// `None`: everything.
    pub(super) access: Option<Arc<Access>>,
}

impl Agreed {
    /// # Errors
    /// The reason for the CONNACK that refuses it.
    pub(super) fn new(hub: &Hub, connect: Connect, identity: Identity) -> Result<Agreed, ReasonCode> {
        let asks = connect.properties.request_response_information == Some(true);
        let mut negotiated = negotiate(connect, &hub.limits, assigned_client_id)?;
        // [MQTT-3.1.2-28]
        if let Some(pattern) = hub.texts.response_information.as_ref().filter(|_| asks) {
            // None for a name that cannot be part of a topic: it is ours to give or not (3.1.2.11.6).
            let filled = filled(pattern, identity.username.as_deref(), &negotiated.client_id);
            negotiated.response_information = filled.ok().flatten();
        }
        negotiated.user = identity.username.as_deref().map(Arc::from);
        let access = rights(&identity, &negotiated.client_id, negotiated.will.as_ref())?;
        Ok(Agreed { negotiated, identity, access })
    }
}

/// Reads whom a proxy connects for.
///
/// # Errors
/// Why there will be no connection.
pub(super) async fn proxied(socket: &Socket, proxy: Peer) -> Result<Peer, Refused> {
    let mut seen = vec![0; proxy::MAX_BYTES];
    let mut len = 0;
    loop {
        // Looked at, not taken: what follows the header is not ours here.
        let there = socket.peek(&mut seen[len..]).await.map_err(|_| Refused::NoConnect)?;
        let header = proxy::parse(&seen[..len + there]);
        let end = match header {
            _ if there == 0 => return Err(Refused::NoConnect),
            Ok(header) => header.map_or(len + there, |header| header.len),
            Err(error) => {
                tracing::debug!(%proxy, %error, "PROXY header refused");
                return Err(Refused::ProxyHeader);
            }
        };
        while len < end {
            len += socket.try_read(&mut seen[len..end]).map_err(|_| Refused::NoConnect)?;
        }
        if let Ok(Some(header)) = header {
            return Ok(header.source.map_or(proxy, Peer::Address));
        }
    }
}

/// Does what comes before MQTT: TLS, and the opening of a WebSocket. The first bytes of MQTT may be read with it.
///
/// # Errors
/// Why there will be no connection.
pub(super) async fn open(hub: &Hub, wire: &mut Wire, peer: Peer) -> Result<(), Refused> {
    while wire.is_opening() {
        read(hub, wire, peer).await?;
    }
    Ok(())
}

/// Reads the CONNECT.
///
/// # Errors
/// Why there will be no connection; the client has been told as far as its version allows.
pub(super) async fn connect(hub: &Hub, wire: &mut Wire, peer: Peer) -> Result<Box<Connect>, Refused> {
    loop {
        match wire.decode(None, hub.limits.max_packet_bytes.min(MAX_CONNECT_BYTES)) {
            Ok(Some(Packet::Connect(connect))) => {
                hub.counters.packets_in.fetch_add(1, Relaxed);
                wire.rest();
                return Ok(connect);
            }
            // The decoder lets nothing else through without a version [MQTT-3.1.0-1].
            Ok(Some(_)) => return Err(Refused::BadConnect),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%peer, reason = ?error.reason, detail = error.detail, "CONNECT refused");
                let version = wire.connect_version();
                // A protocol that we do not speak is told so in the words of 5.0, which is what the future will know [MQTT-3.1.2-2].
                if version.is_some() || error.reason == ReasonCode::UnsupportedProtocolVersion {
                    tell(hub, wire, version.unwrap_or(Version::V311), error.reason).await;
                }
                return Err(Refused::BadConnect);
            }
        }
        read(hub, wire, peer).await?;
    }
}

/// Waits for bytes and takes them in; answers what is answered below MQTT.
async fn read(hub: &Hub, wire: &mut Wire, peer: Peer) -> Result<(), Refused> {
    wire.ready().await.map_err(|_| Refused::NoConnect)?;
    wire.set_ready();
    let read = wire.read(&hub.counters);
    // What TLS answers to it, an alert included.
    let flushed = wire.flush(&hub.counters);
    match (read, flushed) {
        (Ok(Read::Some | Read::None), Ok(())) => Ok(()),
        (Err(error), _) if error.get_ref().is_some_and(|inner| inner.is::<WebSocketError>()) => {
            tracing::debug!(%peer, %error, "WebSocket refused");
            Err(Refused::WebSocket)
        }
        (Err(error), _) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            Err(if tls::is_expired_list(&error) { Refused::RevocationListExpired } else { Refused::Tls })
        }
        (Ok(Read::End) | Err(_), _) | (_, Err(_)) => Err(Refused::NoConnect),
    }
}

/// Sends the CONNACK that refuses [MQTT-3.1.4-5], where the version has one for the reason.
pub(super) async fn tell(hub: &Hub, wire: &mut Wire, version: Version, reason: ReasonCode) {
    if version != Version::V5 && connect_return_code(reason).is_none() {
        return;
    }
    let mut refusal = refuse(reason);
    if reason == ReasonCode::UseAnotherServer {
        refusal.properties.server_reference.clone_from(&hub.texts.server_reference);
    }
    wire.send(Packet::ConnAck(Box::new(refusal)), version, None);
    wire.finish();
    // The peer may be gone already, and nothing depends on it.
    let _ = tokio::time::timeout(LAST_BYTES, drain(hub, wire)).await;
    wire.discard();
}

/// Writes everything. The caller limits the time.
pub(super) async fn drain(hub: &Hub, wire: &mut Wire) -> io::Result<()> {
    loop {
        wire.flush(&hub.counters)?;
        if !wire.has_output() {
            return Ok(());
        }
        wire.socket.writable().await?;
    }
}

/// A client id for a client without one [MQTT-3.1.3-6]: 64 random bits, so that it is nobody's.
fn assigned_client_id() -> String {
    // Without randomness there is no safe id; the address of a counter would be guessable, a panic would end the broker.
    let bits = getrandom::u64().unwrap_or_else(|_| {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        COUNT.fetch_add(1, Ordering::Relaxed)
    });
    format!("auto-{bits:016x}")
}
