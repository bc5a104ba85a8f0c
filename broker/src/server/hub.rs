//! What all connections share: the router behind its one lock, the log, the counters.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, oneshot};

use super::admission::{Admission, AdmissionLimits};
use super::alarms::Alarms;
use super::authorize::{Identity, Proof};
use super::bell::Bell;
use super::breather::Breather;
use super::episode::Episodes;
use super::handshake::{Agreed, Texts};
use super::hashing::Hashing;
use super::peer::Peer;
use super::stats::{BrokerStats, ClientInfo, Counters, Refused};
use crate::auth::Auth;
use crate::clock::{Clock, Monotonic};
use crate::log::{AppendError, Log, Ticket};
use crate::mqtt::packet::{Publish, QoS, Will};
use crate::mqtt::session::{Answer, Delivery, InFlight, Limits};
use crate::router::{AttachError, Attached, Leaving, Progress, Publisher, Pull, Routed, Router, SessionKey, Stop};

/// Clients that read from the log at the same time. Each holds one page; more would only fight for the disk.
const READERS: usize = 4;

/// The wire between the router and the task of one connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Peer,
    /// `None`: anonymous.
    username: Option<Box<str>>,
    /// It need not be in a password file.
    certified: bool,
    /// Its rights are not those of the files.
    own_rights: bool,
    /// The connection ends then: its token is over.
    pub(super) expires: Option<Monotonic>,
    /// Look into your outbox, and at the flags here.
    pub(super) bell: Bell,
    /// Another connection wants the session.
    pub(super) taken_over: AtomicBool,
    /// The user is gone or has another password.
    pub(super) revoked: AtomicBool,
    /// The session was given back.
    gone: AtomicBool,
    left: Notify,
}

impl Link {
    pub(super) fn new(peer: Peer, identity: &Identity) -> Arc<Self> {
        Arc::new(Self {
            peer,
            username: identity.username.as_deref().map(Into::into),
            certified: matches!(identity.proof, Proof::Certificate | Proof::Token { .. }),
            own_rights: matches!(identity.proof, Proof::Token { grants: Some(_), .. }),
            expires: match identity.proof {
                Proof::Token { expires, .. } => expires,
                Proof::Anonymous | Proof::Password | Proof::Certificate => None,
            },
            revoked: AtomicBool::new(false),
            bell: Bell::default(),
            taken_over: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            left: Notify::new(),
        })
    }
}

#[derive(Debug)]
struct State {
    router: Router,
    /// By session key.
    links: Vec<Option<Arc<Link>>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    admission: Mutex<Admission<oneshot::Sender<()>>>,
    /// Of refusals, and of all queues together being full.
    episodes: Mutex<Episodes<{ Refused::COUNT + 1 }>>,
    auth: Mutex<Arc<Auth>>,
    alarms: Mutex<Alarms>,
    /// There is an alarm before all others.
    pub(super) alarms_changed: Notify,
    pub(super) hashing: Arc<Hashing>,
    pub(super) log: Log,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    /// Set before anybody comes.
    pub(super) texts: Texts,
    /// Likewise.
    pub(super) breather: Breather,
    pub(super) counters: Counters,
    pub(super) readers: Arc<Semaphore>,
    /// A session expiry or a delayed will was set.
    pub(super) timers_changed: Notify,
    /// Something to do for groups of shared subscriptions.
    pub(super) shares: Notify,
    /// Somebody subscribed to figures.
    pub(super) sys: Notify,
}

impl Hub {
    pub(super) fn new(
        router: Router,
        auth: Auth,
        log: Log,
        clock: Arc<dyn Clock>,
        limits: Limits,
        admission: AdmissionLimits,
        max_waiting: usize,
    ) -> Self {
        Self {
            state: Mutex::new(State { router, links: Vec::new() }),
            admission: Mutex::new(Admission::new(admission)),
            episodes: Mutex::default(),
            auth: Mutex::new(Arc::new(auth)),
            alarms: Mutex::default(),
            alarms_changed: Notify::new(),
            hashing: Hashing::new(max_waiting, Arc::clone(&clock)),
            log,
            clock,
            limits,
            texts: Texts::default(),
            breather: Breather::default(),
            counters: Counters::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            timers_changed: Notify::new(),
            shares: Notify::new(),
            sys: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// Who is let in.
    pub(super) fn admission(&self) -> MutexGuard<'_, Admission<oneshot::Sender<()>>> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that is not taken, and says so once per episode where a limit of ours is the reason.
    pub(super) fn refuse(&self, why: Refused, peer: Peer) {
        self.counters.refused[why as usize].fetch_add(1, Ordering::Relaxed);
        let Some(limit) = why.limit() else { return };
        if self.episode_begins(why as usize) {
            let (_, reason) = Refused::ALL[why as usize];
            tracing::warn!(%peer, reason, "{limit}");
        }
    }

    fn episode_begins(&self, kind: usize) -> bool {
        self.episodes.lock().unwrap_or_else(PoisonError::into_inner).begins(self.now(), kind)
    }

    /// Users and rights as they are now.
    pub(super) fn auth(&self) -> Arc<Auth> {
        Arc::clone(&self.auth.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other users and rights in force, also for those who are connected: who is no user any more, or has another
    /// password, is disconnected. Returns how many those are.
    pub(super) fn set_auth(&self, auth: Auth) -> usize {
        let auth = Arc::new(auth);
        let old = std::mem::replace(&mut *self.auth.lock().unwrap_or_else(PoisonError::into_inner), Arc::clone(&auth));
        let mut revoked = Vec::new();
        let mut state = self.lock();
        let State { router, links } = &mut *state;
        for (key, link) in (0..).map(SessionKey).zip(&*links) {
            let (Some(link), Some(client_id)) = (link, router.client_id(key)) else { continue };
            let known = match (&link.username, auth.users()) {
                (None, _) => true,
                (Some(_), _) if link.certified => true,
                (Some(name), Some(users)) => users.keeps(name, old.users()),
                (Some(_), None) => false,
            };
            if link.own_rights {
                continue;
            }
            match auth.access(link.username.as_deref(), &client_id) {
                Ok(access) if known => router.set_access(key, access),
                _ => revoked.push(Arc::clone(link)),
            }
        }
        drop(state);
        for link in &revoked {
            link.revoked.store(true, Ordering::Release);
            link.bell.ring();
        }
        revoked.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the router is a bug of ours that leaves it half-changed: nobody may go on with it.
        self.state.lock().expect("the router panicked before")
    }

    /// Calls the router, then wakes those who have something to look at: outside of the lock, which they will want.
    pub(super) fn with<R>(&self, call: impl FnOnce(&mut Router, &Log) -> R) -> R {
        let mut state = self.lock();
        let result = call(&mut state.router, &self.log);
        if state.router.take_share_wake() {
            self.shares.notify_one();
        }
        if state.router.take_sys_wake() {
            self.sys.notify_one();
        }
        let full = state.router.take_queues_full();
        if !full && !state.router.has_woken() {
            return result;
        }
        let State { router, links } = &mut *state;
        let woken: Vec<Arc<Link>> =
            router.take_woken().filter_map(|key| links.get(key.0 as usize).cloned().flatten()).collect();
        drop(state);
        for link in woken {
            link.bell.ring();
        }
        if full && self.episode_begins(Refused::COUNT) {
            tracing::warn!(
                "mqtt.max_queued_bytes_total is reached: messages for slow clients are left to the log, or dropped with QoS 0"
            );
        }
        result
    }

    /// When connections want to be woken.
    pub(super) fn alarms(&self) -> MutexGuard<'_, Alarms> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the connection of a session at another time than before.
    pub(super) fn set_alarm(&self, key: SessionKey, before: Option<Monotonic>, at: Option<Monotonic>) {
        let is_next = self.alarms().put(key, before, at);
        if is_next {
            self.alarms_changed.notify_one();
        }
    }

    /// Wakes the connection of a session.
    pub(super) fn ring(&self, key: SessionKey) {
        let link = self.lock().links.get(key.0 as usize).cloned().flatten();
        if let Some(link) = link {
            link.bell.ring();
        }
    }

    /// Wakes every connection that has a session.
    pub(super) fn wake_all(&self) {
        let links: Vec<Arc<Link>> = self.lock().links.iter().flatten().cloned().collect();
        for link in links {
            link.bell.ring();
        }
    }

    /// Gives a session to a connection; the one that has it is told to leave and waited for [MQTT-3.1.4-3].
    pub(super) async fn attach(&self, agreed: &Agreed, link: &Arc<Link>) -> Result<Attached, AttachError> {
        loop {
            let old = {
                let mut state = self.lock();
                match state.router.attach(&agreed.negotiated) {
                    Ok(attached) => {
                        state.router.set_access(attached.key, agreed.access.clone());
                        let index = attached.key.0 as usize;
                        if state.links.len() <= index {
                            state.links.resize(index + 1, None);
                        }
                        state.links[index] = Some(Arc::clone(link));
                        return Ok(attached);
                    }
                    Err(AttachError::InUse(key)) => state.links.get(key.0 as usize).cloned().flatten(),
                    Err(error) => return Err(error),
                }
            };
            let Some(old) = old else {
                debug_assert!(false, "every attached session has a link");
                return Err(AttachError::TooManySessions);
            };
            let left = old.left.notified();
            old.taken_over.store(true, Ordering::Release);
            old.bell.ring();
            // The notification exists from here on, so that a leave between the look and the wait is not missed.
            if !old.gone.load(Ordering::Acquire) {
                left.await;
            }
        }
    }

    /// Takes a session back. Its will is published before anybody who waits for the session gets it.
    pub(super) async fn detach(&self, key: SessionKey, link: &Link, leaving: Leaving<'_>) {
        let now = self.now();
        let (mut will, mut save) = self.with(|router, log| {
            let detached = router.detach(now, key, leaving);
            let mut will = detached.will;
            if will.as_ref().is_some_and(|w| publish_will(router, log, now, w).is_ok()) {
                will = None;
            }
            let saved = router.save_progress(log, key, None);
            // What finds no room is saved by the task that serves the groups.
            let _ = router.save_shares(log);
            (will, detached.persists && saved == Err(AppendError::Busy))
        });
        self.timers_changed.notify_one();
        while will.is_some() || save {
            self.log.room().await;
            self.with(|router, log| {
                if will.as_ref().is_some_and(|w| publish_will(router, log, now, w).is_ok()) {
                    will = None;
                }
                if will.is_none() && save {
                    save = router.save_progress(log, key, None) == Err(AppendError::Busy);
                }
            });
        }
        link.gone.store(true, Ordering::Release);
        link.left.notify_waiters();
    }

    /// Publishes the will of a client that is gone.
    pub(super) async fn publish_will(&self, will: &Will) {
        loop {
            let now = self.now();
            if self.with(|router, log| publish_will(router, log, now, will)).is_ok() {
                return;
            }
            self.log.room().await;
        }
    }

    pub(super) fn publish(&self, publisher: Publisher, batch: &[Publish], answers: &mut Vec<Answer>) -> Routed {
        let now = self.now();
        let routed = self.with(|router, log| router.publish(now, log, publisher, batch, answers));
        self.breather.count(batch[..routed.done].iter().filter(|publish| publish.qos == QoS::AtMostOnce).count());
        routed
    }

    /// `in_flight` is what the client has not acknowledged.
    pub(super) fn pull(
        &self,
        key: SessionKey,
        (window, in_flight): (usize, &VecDeque<InFlight>),
        max_bytes: usize,
        out: &mut Vec<Delivery>,
    ) -> Pull {
        self.with(|router, _| {
            let pull = router.pull(key, window, max_bytes, out);
            router.note_in_flight(key, in_flight, out);
            pull
        })
    }

    pub(super) fn save_progress(&self, key: SessionKey, progress: Progress<'_>) -> Result<Ticket, AppendError> {
        self.lock().router.save_progress(&self.log, key, Some(progress))
    }

    pub(super) fn stats(&self) -> BrokerStats {
        let addresses_forgotten = self.admission().forgotten();
        let state = self.lock();
        let (sessions, clients, subscriptions) = state.router.sizes();
        let (retained_msgs, retained_bytes) = state.router.retained();
        let (queued_bytes, queues_full) = state.router.queued();
        BrokerStats {
            clients: clients as u64,
            sessions: sessions as u64,
            subscriptions: subscriptions as u64,
            max_clients: state.router.max_online() as u64,
            share_groups: state.router.share_groups() as u64,
            retained_msgs: retained_msgs as u64,
            retained_bytes,
            queued_bytes: queued_bytes as u64,
            queues_full,
            addresses_forgotten,
            waiting_for_hash: self.hashing.waiting() as u64,
            router: *state.router.counters(),
            ..self.counters.snapshot()
        }
    }

    pub(super) fn clients(&self, limit: usize) -> Vec<ClientInfo> {
        let state = self.lock();
        state
            .router
            .list(limit)
            .map(|(key, client_id, subscriptions, queued)| ClientInfo {
                client_id: client_id.to_owned(),
                peer: queued.and(state.links.get(key.0 as usize).and_then(|l| l.as_ref()).map(|l| l.peer)),
                subscriptions,
                queued: queued.unwrap_or(0),
            })
            .collect()
    }
}

/// `Err`: the log has no room now. A will that its stream refuses is counted by the router.
fn publish_will(router: &mut Router, log: &Log, now: Monotonic, will: &Will) -> Result<(), Stop> {
    let publish = Publish {
        dup: false,
        qos: will.qos,
        // [MQTT-3.1.2-14, MQTT-3.1.2-15]
        retain: will.retain,
        topic: Some(will.topic.clone()),
        packet_id: None,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: will.properties.clone(),
        payload: will.payload.clone(),
    };
    debug_assert!(publish.qos <= QoS::ExactlyOnce);
    let routed = router.publish(now, log, Publisher::Will, std::slice::from_ref(&publish), &mut Vec::new());
    match routed.stopped {
        Some(Stop::Busy) => Err(Stop::Busy),
        // A log that has failed takes nothing more; the clients are told by their acknowledgements staying away.
        Some(Stop::Full { .. } | Stop::Failed) | None => Ok(()),
    }
}
