//! From an accepted socket to an agreed CONNECT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::authorize::{Identity, authorize, rights};
use super::hub::Hub;
use super::stats::Refused;
use super::wire::{Read, Wire};
use crate::auth::acl::Access;
use crate::mqtt::codec::connect_return_code;
use crate::mqtt::packet::{Connect, Packet, ReasonCode, Version};
use crate::mqtt::session::{Negotiated, negotiate, refuse};

/// What a CONNECT led to.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) negotiated: Negotiated,
    pub(super) identity: Identity,
    /// `None`: everything.
    pub(super) access: Option<Arc<Access>>,
}

/// Reads the CONNECT and agrees on it. The caller limits the time.
///
/// # Errors
/// Why there will be no connection; the client has been told as far as its version allows.
pub(super) async fn handshake(
    hub: &Hub,
    wire: &mut Wire,
    peer: SocketAddr,
    anonymous: bool,
) -> Result<Agreed, Refused> {
    let connect = loop {
        match wire.decode(None, hub.limits.max_packet_bytes) {
            Ok(Some(Packet::Connect(connect))) => {
                hub.counters.packets_in.fetch_add(1, Relaxed);
                break connect;
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
        wire.ready().await.map_err(|_| Refused::NoConnect)?;
        wire.set_ready();
        let read = wire.read(&hub.counters);
        // What TLS answers to it, an alert included.
        let flushed = wire.flush(&hub.counters);
        match (read, flushed) {
            (Ok(Read::Some | Read::None), Ok(())) => {}
            (Err(error), _) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                return Err(Refused::Tls);
            }
            (Ok(Read::End) | Err(_), _) | (_, Err(_)) => return Err(Refused::NoConnect),
        }
    };
    let version = connect.version;
    let agreed = match authorize(hub, &connect, peer, anonymous, wire.certified_name()).await {
        Ok(identity) => agree(hub, *connect, identity).map_err(|reason| (reason, Refused::NotAuthorized)),
        Err(refused) => Err(refused),
    };
    match agreed {
        Ok(agreed) => Ok(agreed),
        Err((reason, refused)) => {
            tracing::debug!(%peer, ?reason, "CONNECT refused");
            tell(hub, wire, version, reason).await;
            Err(refused)
        }
    }
}

fn agree(hub: &Hub, connect: Connect, identity: Identity) -> Result<Agreed, ReasonCode> {
    let mut negotiated = negotiate(connect, &hub.limits, assigned_client_id)?;
    negotiated.user = identity.username.as_deref().map(Arc::from);
    let access = rights(&identity, &negotiated.client_id, negotiated.will.as_ref())?;
    Ok(Agreed { negotiated, identity, access })
}

/// Sends the CONNACK that refuses [MQTT-3.1.4-5], where the version has one for the reason.
pub(super) async fn tell(hub: &Hub, wire: &mut Wire, version: Version, reason: ReasonCode) {
    if version != Version::V5 && connect_return_code(reason).is_none() {
        return;
    }
    wire.send(Packet::ConnAck(Box::new(refuse(reason))), version, None);
    // The peer may be gone already, and nothing depends on it.
    let _ = drain(hub, wire).await;
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
