//! Listeners: from an accepted socket to a connection that can be run, within limits of places, rates and time.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::admission::SilentId;
use super::authorize::authorize;
use super::connection::Connection;
use super::handshake::{self, Agreed};
use super::hub::{Hub, Link};
use super::peer::{Origin, Peer};
use super::socket::{Listening, Socket};
use super::stats::Refused;
use super::websocket::WebSocket;
use super::wire::Wire;
use super::{Shutdown, tls};
use crate::config;
use crate::mqtt::packet::{Connect, ReasonCode, Version};
use crate::mqtt::session::Negotiated;
use crate::router::{AttachError, Attached};

/// Pause after a failed `accept`: out of file descriptors, mostly, and trying at once would burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a listener lets clients in.
#[derive(Debug)]
pub(super) struct Gate {
    /// Its place in the configuration.
    pub(super) index: u32,
    /// Clients without a user name.
    pub(super) anonymous: bool,
    pub(super) tls: Option<Arc<tls::Acceptor>>,
    pub(super) websocket: Option<Arc<config::WebSocket>>,
    /// A header says whom the peer connects for.
    pub(super) proxy_protocol: bool,
    /// For what comes before MQTT.
    pub(super) handshake_timeout: Duration,
    /// For the CONNECT, and once more for its answer.
    pub(super) connect_timeout: Duration,
}

/// The place of a connection, given back however its task ends.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) hub: Arc<Hub>,
    listener: u32,
    /// Counted for it.
    origin: Option<Origin>,
    _alive: mpsc::Sender<Infallible>,
}

impl Place {
    fn new(hub: &Arc<Hub>, listener: u32, alive: &mpsc::Sender<Infallible>) -> Place {
        hub.counters.connections.fetch_add(1, Relaxed);
        Place { hub: Arc::clone(hub), listener, origin: None, _alive: alive.clone() }
    }

    /// The client's address is known from here on.
    ///
    /// # Errors
    /// The limit that it is past.
    fn comes_from(&mut self, peer: Peer) -> Result<(), Refused> {
        if let Some(origin) = peer.origin() {
            self.hub.admission().comes_from(self.hub.now(), origin)?;
            self.origin = Some(origin);
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.admission().leave(self.hub.now(), self.listener as usize, self.origin);
        self.hub.counters.connections.fetch_sub(1, Relaxed);
    }
}

/// A connection that has said nothing yet, and may have to give its place to another one.
#[derive(Debug)]
struct Silence {
    hub: Arc<Hub>,
    id: SilentId,
}

impl Silence {
    /// `false`: it came too late.
    fn ends(&self) -> bool {
        self.hub.admission().spoke(self.id)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.ends();
    }
}

/// Accepts until the shutdown, and waits until the connections it made have ended.
pub(super) async fn accept(hub: Arc<Hub>, listener: Listening, gate: Arc<Gate>, mut shutdown: Shutdown) {
    // Closed when the last connection is gone. A set of tasks would take 80 bytes for each.
    let (alive, mut all_gone) = mpsc::channel::<Infallible>(1);
    // In an episode of failures, which is logged once.
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                hub.counters.accept_errors.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "connections cannot be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failing = false;
        let Some(life) = admit(&hub, socket, peer, &gate, &alive, &shutdown) else { continue };
        tokio::spawn(life);
    }
    drop(listener);
    drop(alive);
    // Nothing is ever sent.
    let _ = all_gone.recv().await;
}

/// The life of a connection, as one task.
///
/// IMPORTANT: a task is as large as its largest moment, and there is one for every idle client. What is needed once is boxed, and gone
/// before the client is idle.
pub(super) enum Life {
    Opening(Pin<Box<dyn Future<Output = Option<Box<Connection>>> + Send>>),
    Serving(Box<Connection>),
    Ending(Pin<Box<dyn Future<Output = ()> + Send>>),
    Over,
}

impl Future for Life {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut *self {
                Life::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Some(connection) => Life::Serving(connection),
                    None => Life::Over,
                },
                Life::Serving(connection) => {
                    ready!(connection.poll_serve(context));
                    let Life::Serving(connection) = std::mem::replace(&mut *self, Life::Over) else { continue };
                    Life::Ending(Box::pin(connection.end()))
                }
                Life::Ending(ending) => {
                    ready!(ending.as_mut().poll(context));
                    Life::Over
                }
                Life::Over => return Poll::Ready(()),
            };
            *self = next;
        }
    }
}

fn admit(
    hub: &Arc<Hub>,
    socket: Socket,
    mut peer: Peer,
    gate: &Arc<Gate>,
    alive: &mpsc::Sender<Infallible>,
    shutdown: &Shutdown,
) -> Option<Life> {
    let (handle, displaced) = oneshot::channel();
    let entered = hub.admission().enter(hub.now(), gate.index as usize, handle);
    let entered = entered.map_err(|why| hub.refuse(why, peer)).ok()?;
    let silence = Silence { hub: Arc::clone(hub), id: entered.id };
    if let Some(other) = entered.displaced {
        // It may have ended by itself in the meantime.
        let _ = other.send(());
    }
    let mut place = Place::new(hub, gate.index, alive);
    if !gate.proxy_protocol {
        place.comes_from(peer).map_err(|why| hub.refuse(why, peer)).ok()?;
    }
    hub.counters.accepted.fetch_add(1, Relaxed);
    let (hub, gate, mut shutdown) = (Arc::clone(hub), Arc::clone(gate), shutdown.clone());
    let opening = Box::pin(async move {
        let opened = tokio::select! {
            opened = open(&hub, socket, &mut peer, &gate, &mut place, &silence) => opened,
            // Ends without a word when the silence does.
            Ok(()) = displaced => Err(Refused::Displaced),
            () = shutdown.requested() => return None,
        };
        match opened {
            Ok((wire, link, agreed, mut attached)) => {
                if let Some(will) = attached.will.take() {
                    hub.publish_will(&will).await;
                }
                Some(Box::new(Connection::new(place, wire, link, agreed, attached, shutdown)))
            }
            Err(refused) => {
                hub.refuse(refused, peer);
                None
            }
        }
    });
    Some(Life::Opening(opening))
}

/// From the socket to a session. Safe to cancel: taking the session is the last thing it does.
async fn open(
    hub: &Hub,
    socket: Socket,
    peer: &mut Peer,
    gate: &Gate,
    place: &mut Place,
    silence: &Silence,
) -> Result<(Wire, Arc<Link>, Negotiated, Attached), Refused> {
    let tls = gate.tls.as_deref().map(tls::Acceptor::session).transpose().map_err(|error| {
        tracing::error!(%error, "TLS cannot be spoken");
        Refused::Tls
    })?;
    let opened = async {
        if gate.proxy_protocol {
            *peer = Box::pin(handshake::proxied(&socket, *peer)).await?;
            place.comes_from(*peer)?;
        }
        let mut wire = Wire::new(socket, tls, gate.websocket.clone().map(WebSocket::new));
        handshake::open(hub, &mut wire, *peer).await?;
        Ok(wire)
    };
    let mut wire = timeout(gate.handshake_timeout, opened).await.unwrap_or(Err(Refused::HandshakeTimeout))?;
    let peer = *peer;
    let connect = timeout(gate.connect_timeout, handshake::connect(hub, &mut wire, peer)).await;
    let connect = connect.unwrap_or(Err(Refused::ConnectTimeout))?;
    if !silence.ends() {
        return Err(Refused::Displaced);
    }
    let version = connect.version;
    // Boxed, as those who say nothing have no use for its room.
    let certified = wire.certified();
    let decided = timeout(gate.connect_timeout, Box::pin(decide(hub, connect, peer, gate.anonymous, certified))).await;
    match decided.unwrap_or(Err((ReasonCode::ServerBusy, Refused::Busy))) {
        Ok((link, agreed, attached)) => Ok((wire, link, agreed, attached)),
        Err((reason, refused)) => {
            tracing::debug!(%peer, ?reason, "CONNECT refused");
            handshake::tell(hub, &mut wire, version, reason).await;
            Err(refused)
        }
    }
}

/// The answer to a CONNECT. Safe to cancel, as [`open`].
///
/// # Errors
/// The reason for the CONNACK that refuses it, and how it is counted.
async fn decide(
    hub: &Hub,
    connect: Box<Connect>,
    peer: Peer,
    anonymous: bool,
    certified: tls::Certified,
) -> Result<(Arc<Link>, Negotiated, Attached), (ReasonCode, Refused)> {
    let version = connect.version;
    let identity = authorize(hub, &connect, peer, anonymous, certified).await?;
    let agreed = Agreed::new(hub, *connect, identity).map_err(|reason| (reason, Refused::NotAuthorized))?;
    let link = Link::new(peer, &agreed.identity);
    match hub.attach(&agreed, &link).await {
        Ok(attached) => Ok((link, agreed.negotiated, attached)),
        Err(AttachError::TooManySessions | AttachError::InUse(_)) => {
            let reason = match version {
                Version::V31 | Version::V311 => ReasonCode::ServerUnavailable,
                Version::V5 if hub.texts.server_reference.is_some() => ReasonCode::UseAnotherServer,
                Version::V5 => ReasonCode::QuotaExceeded,
            };
            Err((reason, Refused::TooManySessions))
        }
    }
}
