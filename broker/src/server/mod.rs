//! The MQTT server: listeners and connections, thin shells around the session machine and the router.
//!
//! [`Broker::start`] opens the listeners, [`Broker::shutdown`] ends everything in order. Each connection is one task; what they
//! share is the `hub`. Bounds: `max_connections` tasks, each with at most 16 KiB of read buffer (or one packet), 64 KiB and one
//! message of write buffer, `max_queued_bytes` of queue (`max_queued_bytes_total` with all others) and one page of 64 KiB; none of them while idle.
//! Each thread keeps two spare buffers of 64 KiB at most.

mod admission;
mod alarms;
mod authorize;
mod bell;
mod breather;
mod connection;
mod episode;
mod feed;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handshake;
mod hashing;
mod hub;
mod listener;
mod outgoing;
mod peer;
mod proxy;
mod rate;
mod shares;
mod socket;
mod spare;
mod stats;
mod sys;
#[cfg(test)]
mod tests;
pub mod tls;
mod turns;
mod waiting;
mod websocket;
mod wire;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use breather::Breather;
pub use peer::Peer;
pub use socket::probe;
pub use stats::{BrokerStats, ClientInfo, Refused};
pub use tls::TlsError;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Bind, Config};
use crate::log::{Log, ReadError};
use crate::mqtt::session::Limits;
use crate::router::{Capture, QueueLimits, RestoreReport, Restorer, Router, RouterLimits, SESSIONS_STREAM, Streams};
use admission::{AdmissionLimits, ListenerLimits};
use handshake::Texts;
use hub::Hub;
use listener::Gate;
use rate::Rate;
use socket::Listening;

/// Longest sleep of a timer that follows the boot clock while the runtime's clock stands still in a suspended machine.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why the broker did not start.
#[derive(Debug)]
pub enum StartError {
    /// A listener's address cannot be bound; the operator has to look.
    Bind {
        /// The address.
        addr: Bind,
        /// Why.
        error: io::Error,
    },
    /// The log was opened without a stream that the configuration or the router needs; the wiring is wrong.
    NoStream(String),
    /// A listener's TLS files cannot be used; the operator has to look.
    Tls(TlsError),
    /// Sessions or retained messages could not be read from the log.
    Read(ReadError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind { addr, error } => write!(f, "cannot listen on {addr}: {error}"),
            StartError::Tls(error) => error.fmt(f),
            StartError::NoStream(name) => write!(f, "the log has no stream \"{name}\""),
            StartError::Read(error) => write!(f, "sessions cannot be read from the log: {error:?}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The running MQTT server.
#[derive(Debug)]
pub struct Broker {
    hub: Arc<Hub>,
    binds: Vec<Bind>,
    acceptors: Vec<Arc<tls::Acceptor>>,
    restored: RestoreReport,
    phase: watch::Sender<Phase>,
    tasks: JoinSet<()>,
    /// What connections need until they have ended; dropped behind them.
    _alarms: JoinSet<()>,
}

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    /// Finish what was taken.
    Stopping,
    /// Time is up.
    Expired,
}

/// Tells a task to end.
#[derive(Clone, Debug)]
struct Shutdown(watch::Receiver<Phase>);

impl Shutdown {
    /// How far it has come. Connections with a session look at it whenever they wake, and [`Hub::wake_all`] wakes them.
    fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    async fn reached(&mut self, phase: Phase) {
        // A broker that was dropped without a shutdown counts as one.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }

    /// Resolves when everything is to end in order. Safe to cancel.
    async fn requested(&mut self) {
        self.reached(Phase::Stopping).await;
    }

    /// Resolves when the time for that is over. Safe to cancel.
    async fn expired(&mut self) {
        self.reached(Phase::Expired).await;
    }
}

impl Broker {
    /// Restores sessions and retained messages from the log (blocking reads, before anything else runs) and opens the listeners.
    /// Must be called within a tokio runtime, whose workers are to call [`Breather::breathe`].
    ///
    /// # Errors
    /// As [`StartError`] says; nothing runs then.
    pub async fn start(
        config: &Config,
        auth: Auth,
        log: Log,
        clock: Arc<dyn Clock>,
        breather: Breather,
    ) -> Result<Broker, StartError> {
        let mqtt = &config.mqtt;
        let now = clock.monotonic();
        let router = Router::new(
            RouterLimits {
                max_sessions: usize_of(mqtt.max_sessions),
                max_subscriptions: usize_of(mqtt.max_subscriptions),
                queue: QueueLimits {
                    max_msgs: usize_of(mqtt.max_queued_msgs),
                    max_bytes: usize_of(mqtt.max_queued_bytes),
                    max_bytes_total: usize_of(mqtt.max_queued_bytes_total),
                },
                max_retained_msgs: usize_of(mqtt.max_retained_msgs),
                max_retained_bytes: mqtt.max_retained_bytes,
                sys: !mqtt.sys_interval.is_zero(),
            },
            streams(config, &log)?,
            log.stamp().boot,
        );
        let (router, restored) = restore(router, &log, now).await?;
        let limits = Limits {
            receive_maximum: mqtt.receive_maximum.max(1),
            max_packet_bytes: mqtt.max_packet_bytes,
            max_session_expiry: mqtt.max_session_expiry,
            max_keep_alive: mqtt.max_keep_alive,
        };
        let mut listeners = Vec::new();
        let mut binds = Vec::new();
        let mut acceptors = Vec::new();
        for (index, listener) in (0..).zip(&config.listeners) {
            let failed = |error| StartError::Bind { addr: listener.bind.clone(), error };
            let bound = Listening::bind(&listener.bind).await.map_err(failed)?;
            binds.push(bound.bound(&listener.bind).map_err(failed)?);
            let tls = listener.kind.tls().map(tls::Acceptor::load).transpose().map_err(StartError::Tls)?.map(Arc::new);
            acceptors.extend(tls.clone());
            let gate = Gate {
                index,
                anonymous: listener.anonymous,
                tls,
                websocket: listener.kind.websocket().cloned().map(Arc::new),
                proxy_protocol: listener.proxy_protocol,
                handshake_timeout: mqtt.handshake_timeout,
                connect_timeout: mqtt.connect_timeout,
            };
            listeners.push((bound, Arc::new(gate)));
            if listener.anonymous && !listener.kind.requires_certificate() && !listener.bind.is_local() {
                let addr = &listener.bind;
                tracing::warn!(%addr, "anybody who reaches this listener may connect: it lets in anonymous clients");
            }
        }
        let mut hub =
            Hub::new(router, auth, log, clock, limits, admission_limits(config), usize_of(config.auth.max_waiting));
        hub.breather = breather;
        hub.texts = Texts {
            server_reference: mqtt.server_reference.clone(),
            response_information: mqtt.response_information.clone(),
        };
        let hub = Arc::new(hub);
        let (phase, receiver) = watch::channel(Phase::Running);
        let shutdown = Shutdown(receiver);
        let mut tasks = JoinSet::new();
        for (listener, gate) in listeners {
            tasks.spawn(listener::accept(Arc::clone(&hub), listener, gate, shutdown.clone()));
        }
        if !mqtt.sys_interval.is_zero() {
            tasks.spawn(sys::serve(Arc::clone(&hub), mqtt.sys_interval, shutdown.clone()));
        }
        tasks.spawn(shares::serve(Arc::clone(&hub), shutdown.clone()));
        tasks.spawn(keep_time(Arc::clone(&hub), shutdown));
        let mut alarms = JoinSet::new();
        alarms.spawn(alarms::serve(Arc::clone(&hub)));
        Ok(Broker { hub, binds, acceptors, restored, phase, tasks, _alarms: alarms })
    }

    /// Where it listens, in the order of the configuration; with the real port where that said 0.
    #[must_use]
    pub fn binds(&self) -> &[Bind] {
        &self.binds
    }

    /// Those of them that are network addresses.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.binds.iter().filter_map(Bind::address).collect()
    }

    /// What was restored at start.
    #[must_use]
    pub fn restored(&self) -> &RestoreReport {
        &self.restored
    }

    /// Figures, now.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.hub.stats()
    }

    /// Some clients, at most `limit`, in no particular order.
    #[must_use]
    pub fn clients(&self, limit: usize) -> Vec<ClientInfo> {
        self.hub.clients(limit)
    }

    /// Puts other users and rights in force, for connected clients too: who is no user any more, or has another password, is
    /// disconnected. Returns how many those are.
    pub fn set_auth(&self, auth: Auth) -> usize {
        self.hub.set_auth(auth)
    }

    /// Reads certificates and keys of all listeners again, for clients who come from now on; those who are there keep what they have.
    /// Returns how many listeners those are.
    ///
    /// # Errors
    /// What is wrong with the files of some listener; then all of them keep what they had.
    pub fn reload_certificates(&self) -> Result<usize, TlsError> {
        let fresh = self.acceptors.iter().map(|acceptor| acceptor.prepare()).collect::<Result<Vec<_>, _>>()?;
        for (acceptor, fresh) in self.acceptors.iter().zip(fresh) {
            acceptor.put(fresh);
        }
        Ok(self.acceptors.len())
    }

    /// A handle for status and metrics that outlives the borrow of the broker.
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer(Arc::clone(&self.hub))
    }

    /// Stops accepting, tells v5 clients (0x8B), finishes appends and acknowledgements of what was taken, saves the sessions,
    /// and ends every task; after `deadline` without further patience. The log stays open.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.enter(Phase::Stopping);
        let in_order = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(deadline, in_order).await.is_ok() {
            return;
        }
        tracing::warn!("connections did not end in time and are cut off");
        self.enter(Phase::Expired);
        // Everything that still waits now looks at the phase; a second is long for that. A connection that is not through then, as its
        // client does not take its last bytes, ends with them or with the runtime.
        let at_once = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(1), at_once).await;
        self.tasks.shutdown().await;
    }

    fn enter(&self, phase: Phase) {
        // IMPORTANT: in this order. Who attaches in between has not looked at the phase yet.
        self.phase.send_replace(phase);
        self.hub.wake_all();
    }
}

impl Drop for Broker {
    /// Connections look at the phase by themselves: one that was dropped without a shutdown ends them, too.
    fn drop(&mut self) {
        self.enter(Phase::Expired);
    }
}

/// Reads the figures of a broker.
#[derive(Clone, Debug)]
pub struct Observer(Arc<Hub>);

impl Observer {
    /// As [`Broker::stats`].
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.0.stats()
    }

    /// As [`Broker::clients`].
    #[must_use]
    pub fn clients(&self, limit: usize) -> Vec<ClientInfo> {
        self.0.clients(limit)
    }
}

fn admission_limits(config: &Config) -> AdmissionLimits {
    let listeners = config.listeners.iter().map(|listener| ListenerLimits {
        max_connections: listener.max_connections,
        rate: Rate::per_second(listener.connect_rate),
    });
    AdmissionLimits {
        max_connections: config.mqtt.max_connections,
        max_per_address: config.mqtt.max_connections_per_address,
        rate_per_address: Rate::per_second(config.mqtt.connect_rate_per_address),
        listeners: listeners.collect(),
    }
}

fn streams(config: &Config, log: &Log) -> Result<Streams, StartError> {
    let capture = |name: &str, topics: &[_], exclude: &[_]| {
        let id = log.stream(name).ok_or_else(|| StartError::NoStream(name.to_owned()))?;
        Ok(Capture {
            id,
            name: name.to_owned(),
            topics: topics.to_vec(),
            exclude: exclude.to_vec(),
            next: log.state(id).last.next(),
        })
    };
    let configured =
        config.streams.iter().map(|s| capture(&s.name, &s.topics, &s.exclude)).collect::<Result<Vec<_>, _>>()?;
    Ok(Streams::new(configured, capture(SESSIONS_STREAM, &[], &[])?))
}

async fn restore(
    router: Router,
    log: &Log,
    now: crate::clock::Monotonic,
) -> Result<(Router, RestoreReport), StartError> {
    let log = log.clone();
    let restored = tokio::task::spawn_blocking(move || {
        let mut restorer = Restorer::new(router, now, |stamp| log.age(stamp));
        for table in Restorer::TABLES {
            log.table_scan(table, &mut |key, value| restorer.entry(table, key, &value))?;
        }
        Ok(restorer.finish())
    });
    match restored.await {
        Ok(restored) => restored.map_err(StartError::Read),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Ends sessions whose time is over, and publishes wills that were delayed.
async fn keep_time(hub: Arc<Hub>, mut shutdown: Shutdown) {
    loop {
        let now = hub.now();
        while let Some(will) = hub.with(|router, _| router.timeout(now)) {
            hub.publish_will(&will).await;
        }
        // Without room now, the next one who saves anything deletes them.
        let _ = hub.with(|router, log| router.flush_deletes(log));
        let next = hub.with(|router, _| router.next_timeout());
        let sleep = next.map_or(LONGEST_SLEEP, |at| at.since(now).min(LONGEST_SLEEP));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = hub.timers_changed.notified() => {}
            () = shutdown.requested() => return,
        }
    }
}

fn usize_of(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
