//! The task of one connection: a thin shell around the session machine.
//!
//! It carries out what the machine says, in order: packets into the write buffer, messages to the router, in batches of what
//! one read brought. It never waits inside an action: what finds no room in the log is kept (`batch`, `held`) and tried again,
//! while deliveries and acknowledgements go on. It waits at one place ([`Connection::poll_events`]), for whatever may happen next.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;

use super::feed::Feed;
use super::hub::{Hub, Link};
use super::listener::Place;
use super::waiting::{Wait, others_first};
use super::wire::{Read, Wire};
use super::{Phase, Shutdown};
use crate::clock::Monotonic;
use crate::log::{AppendError, DurableMark, Ticket};
use crate::mqtt::packet::{Publish, QoS, ReasonCode, Version, Will};
use crate::mqtt::session::{
    AckTicket, Action, Answer, AnswerResult, Close, ClosedBy, Delivery, Negotiated, Reading, Session,
};
use crate::router::{Attached, Leaving, Progress, Publisher, SessionKey, Stop};

/// Messages of one batch: what one read can bring of small ones.
const BATCH_MSGS: usize = 256;

/// Packets of one client after which others get their turn. A read brings thousands of the smallest, and a client that sends nothing else
/// would keep a processor for a hundred reads on end.
const PACKETS_OF_ONE_TURN: u32 = 1024;

/// How often a message that a full `discard = "new"` stream refused is tried again for a client that cannot be told.
const FULL_RETRY: Duration = Duration::from_millis(250);

/// Progress of a session is saved after this long or this many acknowledgements; a crash repeats at most so much of QoS 1.
const SAVE_AFTER: Duration = Duration::from_secs(1);
const SAVE_AFTER_ACKS: u64 = 1000;

/// A connection that was heard no more for so long gives back the memory that only a busy one needs.
const REST_AFTER: Duration = Duration::from_secs(1);

/// How long the last bytes may take to leave when we end a connection.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// Why nothing more is carried out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// The log has no room for a moment.
    Room,
    /// A stream is full; try again at this time.
    Full(Monotonic),
}

/// What a connection holds only while it has something to do; see [`Connection::rest`].
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// Messages from the client that are not routed yet.
    batch: Vec<Publish>,
    /// What comes after them.
    held: Option<Action>,
    /// Subscribed, but the record is not appended yet: what to answer then.
    unsaved: Option<Vec<ReasonCode>>,
    /// The record that the first packets that wait, so many, must not leave before.
    pub(super) exact_after: Option<(Ticket, usize)>,
    /// When the progress of the session is to be saved.
    pub(super) save_at: Option<Monotonic>,
    /// When to look whether the client has become idle.
    pub(super) rest_at: Option<Monotonic>,
    /// Room for the router's answers.
    answers: Vec<Answer>,
    /// Room for messages out of the queue.
    pub(super) pulled: Vec<Delivery>,
    pub(super) mark_moves: Wait,
    pub(super) room_comes: Wait,
}

impl Busy {
    /// Everything that was received is routed and appended.
    fn settled(&self) -> bool {
        self.batch.is_empty() && self.held.is_none() && self.unsaved.is_none()
    }

    /// Holds nothing but room. A wait is room, too: it begins again.
    fn is_done(&self) -> bool {
        self.settled() && self.exact_after.is_none() && self.save_at.is_none()
    }
}

/// One connection with a session; see the module.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) hub: Arc<Hub>,
    /// Given back at the end.
    _place: Place,
    pub(super) wire: Wire,
    pub(super) session: Session,
    pub(super) key: SessionKey,
    pub(super) link: Arc<Link>,
    client_id: Arc<str>,
    pub(super) max_packet_bytes: Option<u32>,
    will: Option<Box<Will>>,
    pub(super) durable: watch::Receiver<DurableMark>,
    pub(super) busy: Option<Box<Busy>>,
    /// The record that the session is connected is not appended yet. It goes before everything else that is stored for it.
    unsaved_connect: bool,
    pub(super) blocked: Option<Blocked>,
    /// In an episode of refused messages, which is logged once.
    refusing: bool,
    /// It has tried to write where it may not, and that was logged.
    denied: bool,
    pub(super) feed: Feed,
    pub(super) closing: Option<Box<Close>>,
    /// The broker shuts down: nothing more is read, what was taken is finished.
    stopping: bool,
    /// The socket is dead.
    pub(super) broken: bool,
    /// So many of the next packets are on disk as far as they must be.
    pub(super) exact: usize,
    /// Packets since others had their turn.
    handled: u32,
    /// There is something to do, whatever happens.
    again: bool,
    /// Messages have come or gone since it last rested.
    pub(super) moved: bool,
    /// When it is to be woken.
    pub(super) alarm_at: Option<Monotonic>,
    shutdown: Shutdown,
}

impl Connection {
    pub(super) fn new(
        place: Place,
        wire: Wire,
        link: Arc<Link>,
        agreed: Negotiated,
        attached: Attached,
        shutdown: Shutdown,
    ) -> Self {
        let hub = Arc::clone(&place.hub);
        let now = hub.now();
        let session = Session::new(now, &agreed, &hub.limits, attached.state, attached.present);
        let durable = hub.log.durable();
        let feed = Feed::new(attached.catch_up, attached.replays, &hub.counters);
        Self {
            wire,
            session,
            key: attached.key,
            link,
            client_id: attached.client_id,
            max_packet_bytes: agreed.max_packet_bytes,
            will: agreed.will.map(Box::new),
            durable,
            unsaved_connect: agreed.expiry.persists(),
            busy: None,
            blocked: None,
            refusing: false,
            denied: false,
            feed,
            closing: None,
            stopping: false,
            broken: false,
            exact: 0,
            handled: 0,
            again: true,
            moved: false,
            alarm_at: None,
            shutdown,
            _place: place,
            hub,
        }
    }

    /// Serves the client. Ready when the connection ends: [`Connection::end`] has to follow then.
    pub(super) fn poll_serve(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if !self.poll_events(context) && !self.again {
                return Poll::Pending;
            }
            self.again = true;
            if self.handled >= PACKETS_OF_ONE_TURN {
                self.handled = 0;
                return others_first(context);
            }
            // Who is rung for without end has to let others go first, too.
            ready!(pin!(tokio::task::consume_budget()).poll(context));
            self.mind_shutdown();
            let more = self.work();
            if self.wire.flush(&self.hub.counters).is_err() {
                self.broken = true;
            }
            if self.closing.is_some() || self.broken {
                return Poll::Ready(());
            }
            if self.stopping && self.settled() {
                self.shut_down();
                continue;
            }
            if more {
                return others_first(context);
            }
            self.again = false;
        }
    }

    fn batch(&self) -> &[Publish] {
        self.busy.as_ref().map_or(&[], |busy| &busy.batch)
    }

    /// Packets wait for their record to be durable.
    pub(super) fn awaits_exact(&self) -> bool {
        self.busy.as_ref().is_some_and(|busy| busy.exact_after.is_some())
    }

    fn mind_shutdown(&mut self) {
        match self.shutdown.phase() {
            Phase::Running => {}
            Phase::Stopping => self.stopping = true,
            Phase::Expired => {
                self.stopping = true;
                self.abandon();
                self.shut_down();
            }
        }
    }

    fn shut_down(&mut self) {
        let servers = self.hub.texts.server_reference.as_deref();
        // Another server for now: nobody knows here for how long (4.11).
        let reason = servers.map_or(ReasonCode::ServerShuttingDown, |_| ReasonCode::UseAnotherServer);
        self.session.close_towards(reason, "the server is shutting down", servers);
    }

    /// Does everything that can be done without waiting. `true`: call again soon, there is more.
    fn work(&mut self) -> bool {
        let now = self.hub.now();
        if self.link.taken_over.load(Acquire) {
            self.abandon();
            // [MQTT-3.1.4-3]
            self.session.close(ReasonCode::SessionTakenOver, "another connection has taken the session over");
        }
        if self.link.revoked.load(Acquire) {
            self.abandon();
            self.session.close(ReasonCode::NotAuthorized, "the user is not known any more, or has another password");
        }
        if self.link.expires.is_some_and(|at| at <= now) {
            self.abandon();
            self.session.close(ReasonCode::NotAuthorized, "the token has expired");
        }
        if self.session.waits_for().is_some()
            || self.awaits_exact()
            || self.feed.is_catching_up()
            || self.session.redelivering()
        {
            // Before the log is read, so that a reader that finds nothing knows since when.
            let mark = self.durable.borrow_and_update().ticket;
            self.session.durable(AckTicket(mark.0));
            self.feed.set_mark(mark);
            let exact = self.busy.as_mut().and_then(|busy| busy.exact_after.take_if(|(ticket, _)| *ticket <= mark));
            if let Some((_, count)) = exact {
                self.exact = count;
            }
        }
        self.session.timeout(now, if self.held_back() { Reading::Paused } else { Reading::Active });
        if self.blocked.is_none_or(|b| matches!(b, Blocked::Full(at) if at <= now)) {
            self.blocked = None;
            self.carry_out(now);
        }
        if self.may_read() {
            match self.wire.read(&self.hub.counters) {
                Ok(Read::Some) => self.session.heard(now),
                Ok(Read::None) => {}
                Ok(Read::End) | Err(_) => self.broken = true,
            }
        }
        while self.may_read() {
            match self.wire.decode(Some(self.session.version()), self.hub.limits.max_packet_bytes) {
                Ok(Some(packet)) => {
                    self.handled += 1;
                    self.hub.counters.packets_in.fetch_add(1, Relaxed);
                    self.session.handle_packet(now, packet);
                }
                Ok(None) => break,
                Err(error) => self.session.close(error.reason, error.detail),
            }
        }
        self.carry_out(now);
        self.transmit();
        let more = self.closing.is_none() && !self.broken && self.deliver(now);
        self.save_exact();
        self.save_progress(now);
        self.rest(now);
        more
    }

    /// Gives back what only a busy connection needs. One that moves messages keeps it for a while, as more will follow; one that has
    /// only connected, subscribed or pinged does at once: when thousands connect together, what they keep meanwhile adds up, and the
    /// holes that it leaves stay.
    fn rest(&mut self, now: Monotonic) {
        let holds_room = self.session.holds_room() || self.busy.is_some();
        let rest_at = match self.busy.as_ref().and_then(|busy| busy.rest_at) {
            None if holds_room && self.moved => Some(now + REST_AFTER),
            Some(at) if now < at => Some(at),
            Some(_) if now.since(self.session.last_heard()) < REST_AFTER => Some(now + REST_AFTER),
            None | Some(_) => {
                self.session.rest();
                self.busy.take_if(|busy| busy.is_done());
                self.moved = false;
                None
            }
        };
        if rest_at.is_some() || self.busy.is_some() {
            self.busy.get_or_insert_default().rest_at = rest_at;
        }
    }

    /// We keep the client from being heard.
    fn held_back(&self) -> bool {
        self.blocked.is_some() || !self.session.wants_read()
    }

    pub(super) fn may_read(&self) -> bool {
        !self.broken && !self.stopping && self.closing.is_none() && !self.held_back() && self.wire.may_read()
    }

    /// Everything that was received is routed, appended and acknowledged.
    fn settled(&self) -> bool {
        self.busy.as_ref().is_none_or(|busy| busy.settled()) && self.session.waits_for().is_none()
    }

    /// Carries out what the machine says, until there is nothing more or the log has no room.
    fn carry_out(&mut self, now: Monotonic) {
        loop {
            if self.blocked.is_some() || self.closing.is_some() {
                return;
            }
            if self.unsaved_connect {
                self.unsaved_connect = false;
                match self.save_connect() {
                    Err(AppendError::Busy) => {
                        self.unsaved_connect = true;
                        self.blocked = Some(Blocked::Room);
                    }
                    Err(AppendError::Failed) => self.log_failed(),
                    Ok(_) | Err(AppendError::TooLarge { .. } | AppendError::Full { .. }) => {}
                }
                continue;
            }
            if let Some(reasons) = self.busy.as_mut().and_then(|busy| busy.unsaved.take()) {
                self.save_session(reasons);
                continue;
            }
            while self.busy.as_ref().is_none_or(|busy| busy.held.is_none() && busy.batch.len() < BATCH_MSGS) {
                let Some(action) = self.session.poll_action() else { break };
                let busy = self.busy.get_or_insert_default();
                match action {
                    Action::Publish(publish) => busy.batch.push(publish),
                    other => busy.held = Some(other),
                }
            }
            let Some(busy) = &mut self.busy else { return };
            if !busy.batch.is_empty() {
                self.route(now);
            } else if let Some(action) = busy.held.take() {
                self.execute(action);
            } else {
                return;
            }
        }
    }

    fn route(&mut self, now: Monotonic) {
        self.moved = true;
        let publisher = Publisher::Client(self.key, self.session.version());
        let Some(busy) = &mut self.busy else { return };
        let mut answers = std::mem::take(&mut busy.answers);
        let routed = self.hub.publish(publisher, &busy.batch, &mut answers);
        busy.batch.drain(..routed.done);
        let refused = answers.iter().any(|a| matches!(a.result, AnswerResult::One(ReasonCode::QuotaExceeded, _)));
        if routed.denied > 0 && !std::mem::replace(&mut self.denied, true) {
            tracing::warn!(
                client_id = &*self.client_id,
                "messages to topics that the client may not write to are discarded"
            );
        }
        if refused {
            self.refusing(None);
        }
        for answer in answers.drain(..) {
            self.session.answer(answer);
        }
        if let Some(busy) = &mut self.busy {
            busy.answers = answers;
            if routed.stopped.is_none() && busy.batch.capacity() > BATCH_MSGS / 4 {
                busy.batch = Vec::new();
            }
        }
        match routed.stopped {
            None => self.refusing &= refused,
            Some(Stop::Busy) => self.blocked = Some(Blocked::Room),
            Some(Stop::Full { stream, limit }) => {
                self.refusing(Some((&stream, limit)));
                self.blocked = Some(Blocked::Full(now + FULL_RETRY));
            }
            Some(Stop::Failed) => self.log_failed(),
        }
    }

    fn refusing(&mut self, held_back: Option<(&str, &str)>) {
        if std::mem::replace(&mut self.refusing, true) {
            return;
        }
        let client_id = &*self.client_id;
        match held_back {
            Some((stream, limit)) => {
                tracing::warn!(client_id, stream, limit, "stream is full, the client is held back until there is room");
            }
            None if self.session.version() == Version::V5 => {
                tracing::warn!(client_id, "messages refused with quota exceeded");
            }
            None => {
                tracing::warn!(
                    client_id,
                    "messages larger than their stream takes are acknowledged and discarded, as MQTT 3.1.1 cannot refuse them"
                );
            }
        }
    }

    pub(super) fn log_failed(&mut self) {
        self.abandon();
        self.session.close(ReasonCode::ImplementationSpecificError, "the log has failed");
    }

    /// Drops what was not routed: it was not acknowledged, the client will send it again. A goodbye that waits behind it stays one.
    fn abandon(&mut self) {
        let mut next = None;
        if let Some(busy) = &mut self.busy {
            busy.batch = Vec::new();
            next = busy.held.take();
            busy.unsaved = None;
        }
        self.blocked = None;
        // Whatever else the machine wanted belongs to packets behind these.
        while let Some(action) = next.take().or_else(|| self.session.poll_action()) {
            if let Action::Close(close) = action {
                self.closing = Some(Box::new(close));
            }
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Release(packet_id) => match self.hub.with(|router, log| router.release(log, self.key, packet_id)) {
                Ok(ticket) => self.session.answer(Answer {
                    ticket: AckTicket(ticket.0),
                    result: AnswerResult::One(ReasonCode::Success, None),
                }),
                Err(AppendError::Failed) => self.log_failed(),
                Err(AppendError::Busy | AppendError::TooLarge { .. } | AppendError::Full { .. }) => {
                    self.busy.get_or_insert_default().held = Some(Action::Release(packet_id));
                    self.blocked = Some(Blocked::Room);
                }
            },
            Action::Subscribe(subscribe) => {
                let replays = &mut self.feed.replays;
                let reasons = self.hub.with(|router, _| router.subscribe(self.key, subscribe, replays));
                self.save_session(reasons);
            }
            Action::Unsubscribe(unsubscribe) => {
                let replays = &mut self.feed.replays;
                let reasons = self.hub.with(|router, _| router.unsubscribe(self.key, unsubscribe, replays));
                self.save_session(reasons);
            }
            Action::Publish(_) => debug_assert!(false, "collected before"),
            Action::Close(close) => self.closing = Some(Box::new(close)),
        }
    }

    /// Saves changed subscriptions; SUBACK and UNSUBACK wait for it.
    fn save_session(&mut self, reasons: Vec<ReasonCode>) {
        let ticket = match self.hub.with(|router, log| router.save_session(log, self.key, self.progress())) {
            Ok(ticket) => ticket,
            Err(AppendError::Busy) => {
                self.busy.get_or_insert_default().unsaved = Some(reasons);
                self.blocked = Some(Blocked::Room);
                return;
            }
            Err(AppendError::Failed) => return self.log_failed(),
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Full { .. })) => {
                tracing::error!(
                    client_id = &*self.client_id,
                    ?error,
                    "subscriptions could not be saved and will not survive a restart"
                );
                Ticket(0)
            }
        };
        let result = AnswerResult::Each(reasons);
        self.session.answer(Answer { ticket: AckTicket(ticket.0), result });
    }

    /// Saves how far the client has come; nothing waits for it.
    fn save_progress(&mut self, now: Monotonic) {
        let progress = self.session.progress();
        if progress == 0 || !self.session.expiry().persists() || self.closing.is_some() {
            return;
        }
        let at = *self.busy.get_or_insert_default().save_at.get_or_insert(now + SAVE_AFTER);
        if now < at && progress < SAVE_AFTER_ACKS {
            return;
        }
        let saved = self.save_now().is_ok();
        if saved {
            self.session.saved();
        }
        self.busy.get_or_insert_default().save_at = (!saved).then(|| now + SAVE_AFTER);
    }

    fn save_connect(&self) -> Result<Ticket, AppendError> {
        self.hub.with(|router, log| router.save_connect(log, self.key, self.progress(), self.will.as_deref()))
    }

    pub(super) fn save_now(&self) -> Result<Ticket, AppendError> {
        self.hub.save_progress(self.key, self.progress())
    }

    fn progress(&self) -> Progress<'_> {
        Progress { in_flight: self.session.in_flight(), reading: self.feed.positions(), replays: &self.feed.replays }
    }

    /// Gives the session back, after what the client sent before it left was routed.
    pub(super) async fn end(mut self: Box<Self>) {
        if let Some(close) = self.closing.as_deref().copied() {
            match (close.by, close.reason) {
                (ClosedBy::Us, ReasonCode::KeepAliveTimeout) => {
                    self.hub.counters.keep_alive_timeouts.fetch_add(1, Relaxed);
                }
                (
                    ClosedBy::Us,
                    ReasonCode::SessionTakenOver
                    | ReasonCode::ServerShuttingDown
                    | ReasonCode::UseAnotherServer
                    | ReasonCode::NotAuthorized,
                )
                | (ClosedBy::Client | ClosedBy::ClientWithWill, _) => {}
                (ClosedBy::Us, _) => {
                    self.hub.counters.protocol_errors.fetch_add(1, Relaxed);
                }
            }
            tracing::debug!(client_id = &*self.client_id, reason = ?close.reason, detail = close.detail, "connection closed");
            self.wire.finish();
            if self.wire.has_output() && !self.broken {
                // The peer may not read any more; nothing depends on these bytes.
                let _ = tokio::time::timeout(LAST_BYTES, super::handshake::drain(&self.hub, &mut self.wire)).await;
            }
            self.wire.discard();
        } else {
            tracing::debug!(client_id = &*self.client_id, "connection lost");
            self.finish_batch().await;
            let unsent = self.batch().iter().filter(|p| p.qos == QoS::AtMostOnce).count();
            self.hub.with(|router, _| router.counters_mut().dropped_disconnected += unsent as u64);
        }
        let drop_will = self.closing.as_ref().is_some_and(|close| close.by == ClosedBy::Client);
        let will = self.will.take().filter(|_| !drop_will);
        let expiry = self.session.expiry();
        let reading = self.feed.positions().cloned();
        let replays = std::mem::take(&mut self.feed.replays);
        self.feed.end(&self.hub.counters);
        let Connection { hub, session, key, link, wire, alarm_at, .. } = *self;
        link.bell.leave();
        hub.set_alarm(key, alarm_at, None);
        // The socket first: whoever takes the session over need not fear that this one still writes.
        drop(wire);
        let state = session.into_state();
        hub.detach(key, &link, Leaving { state, reading: reading.as_ref(), replays, expiry, will }).await;
    }

    /// The client is gone, what it sent before is not routed yet: routes it if the log finds room. QoS 0 messages would be lost
    /// otherwise; others will come again.
    async fn finish_batch(&mut self) {
        while !self.batch().is_empty() && self.blocked == Some(Blocked::Room) {
            tokio::select! {
                () = self.hub.log.room() => {}
                () = self.shutdown.expired() => return,
                () = poll_fn(|context| self.link.bell.poll_rung(context)) => {
                    if self.link.taken_over.load(Acquire) {
                        return;
                    }
                }
            }
            self.blocked = None;
            let now = self.hub.now();
            self.carry_out(now);
        }
    }
}
