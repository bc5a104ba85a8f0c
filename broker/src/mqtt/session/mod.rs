//! The session machine: one per connection, without I/O and without a clock.
//!
//! In go packets ([`Session::handle_packet`]), deliveries ([`Session::deliver`]), the router's answers ([`Session::answer`]),
//! the durable mark ([`Session::durable`]) and time ([`Session::timeout`]). Out come [`Transmit`]s, to be written as soon as there
//! is room, and [`Action`]s, to be carried out in order: one that has to wait for the log holds up those behind it, but never a
//! packet to the client. What outlives the connection leaves with [`Session::into_state`].
//!
//! It guarantees:
//! * PUBACK, PUBREC, PUBCOMP, SUBACK and UNSUBACK leave in the order in which their packets came, and only when the durable mark
//!   has reached the ticket of what they acknowledge (G1).
//! * A QoS 2 message is handed out once, however often it is sent [MQTT-4.3.3-10].
//! * Never more unacknowledged messages towards the client than it allows [MQTT-3.3.4-9], ids unique among them.
//! * No packet can make it panic; everything it holds is bounded (see [`ReceivedIds`], [`InFlight`] and `acks`).
//!
//! It leaves out: which topics go where, authentication, enhanced authentication (refused).

mod acks;
mod aliases;
mod connect;
mod inbound;
mod message;
mod outbound;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use acks::AckTicket;
pub use aliases::{Alias, TOPIC_ALIAS_MAXIMUM};
pub use connect::{Limits, Negotiated, SessionExpiry, negotiate, refuse};
pub use inbound::ReceivedIds;
pub use message::{Delivery, Message, Origin, QueueCount, ShareId, message_cost_bytes};
pub use outbound::{InFlight, Stage};

use acks::{AckKind, Acks};
use aliases::{Aliases, OwnAliases};
use outbound::{AckFault, Outbound};

use crate::clock::Monotonic;
use crate::mqtt::packet::{
    Ack, Disconnect, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe, Unsubscribe, Version,
};
use crate::mqtt::topic::TopicName;
use crate::queue::Queue;

/// Acknowledgements owed besides those of publishes (SUBACK, PUBCOMP, repeated PUBREC) before reading stops.
const OTHER_ACKS: usize = 64;

/// Empty queues larger than this are freed: an idle connection holds none.
const KEPT_CAPACITY: usize = 16;

/// What to write to the client, in this order.
#[derive(Debug)]
pub enum Transmit {
    /// A packet; never a PUBLISH.
    Packet(Packet),
    /// A message.
    Publish(Outgoing),
}

/// What the shell has to do, in this order.
#[derive(Debug)]
pub enum Action {
    /// Route a message; its topic is set. With QoS > 0 the router's answer goes to [`Session::answer`].
    Publish(Publish),
    /// Forget a QoS 2 id that was stored, then [`Session::answer`].
    Release(PacketId),
    /// Subscribe, then [`Session::answer`].
    Subscribe(Subscribe),
    /// Unsubscribe, then [`Session::answer`].
    Unsubscribe(Unsubscribe),
    /// Write every [`Transmit`] and end the connection. Nothing follows.
    Close(Close),
}

/// A PUBLISH to the client. The message is shared, so that fan-out copies it once per client, into the write buffer.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Topic, properties and payload.
    pub message: Arc<Message>,
    /// Sent before, on an earlier connection.
    pub dup: bool,
    /// As granted.
    pub qos: QoS,
    /// As this client gets it.
    pub retain: bool,
    /// Present exactly when `qos` > 0.
    pub packet_id: Option<PacketId>,
    /// Empty on 3.1.1.
    pub subscription_ids: Vec<u32>,
    /// What is left of the Message Expiry Interval.
    pub message_expiry: Option<u32>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// By whom.
    pub by: ClosedBy,
    /// Why, as a DISCONNECT would say it; one is among the [`Transmit`]s if the peer may get one.
    pub reason: ReasonCode,
    /// For the log.
    pub detail: &'static str,
}

/// Who ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client said goodbye: its will is dropped [MQTT-3.1.2-8, MQTT-3.14.4-3].
    Client,
    /// The client left, and wants its will published (3.14.2.1, reason 0x04 and above).
    ClientWithWill,
    /// We do.
    Us,
}

/// The router's answer to a [`Action::Publish`] with QoS > 0, [`Action::Release`], [`Action::Subscribe`] or [`Action::Unsubscribe`].
#[derive(Clone, Debug)]
pub struct Answer {
    /// Acknowledge when the mark has reached this; 0 = at once.
    pub ticket: AckTicket,
    /// What to acknowledge with.
    pub result: AnswerResult,
}

/// See [`Answer`].
#[derive(Clone, Debug)]
pub enum AnswerResult {
    /// Of a publish or a release.
    One(ReasonCode, Option<&'static str>),
    /// Of a subscribe or an unsubscribe, one per filter.
    Each(Vec<ReasonCode>),
}

/// What becomes of a message given to [`Session::deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// On its way.
    Sent,
    /// It had expired [MQTT-3.3.2-5].
    Expired,
    /// The window is full: keep it. Ask [`Session::window`] first.
    NoRoom,
}

/// Whether the shell is reading from the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Yes: silence is the client's.
    Active,
    /// No, we hold it back: silence is ours.
    Paused,
}

/// What outlives a connection.
#[derive(Debug, Default)]
pub struct SessionState {
    /// Unacknowledged messages towards the client, in order of first sending.
    pub in_flight: VecDeque<InFlight>,
    /// QoS 2 ids from the client that are not released.
    pub received: ReceivedIds,
    /// The packet id to try next.
    pub next_packet_id: u16,
}

/// The machine; see the module.
#[derive(Debug)]
pub struct Session {
    version: Version,
    expiry: SessionExpiry,
    asked_no_session: bool,
    max_session_expiry: Duration,
    problem_information: bool,
    receive_maximum: usize,
    keep_alive: Option<Duration>,
    last_heard: Monotonic,
    mark: AckTicket,
    acks: Acks,
    received: ReceivedIds,
    outbound: Outbound,
    aliases: Aliases,
    /// `None` for a client that allows none: most do, and are idle.
    own_aliases: Option<Box<OwnAliases>>,
    /// Deliveries acknowledged since the state was last saved.
    progress: u64,
    transmits: Queue<Transmit>,
    actions: Queue<Action>,
    closed: bool,
}

impl Session {
    /// Begins a connection whose CONNECT was agreed on. The first packet is the CONNACK [MQTT-3.2.0-1].
    #[must_use]
    pub fn new(
        now: Monotonic,
        agreed: &Negotiated,
        limits: &Limits,
        state: SessionState,
        session_present: bool,
    ) -> Self {
        let mut session = Self {
            version: agreed.version,
            expiry: agreed.expiry,
            asked_no_session: !agreed.expiry.persists(),
            max_session_expiry: limits.max_session_expiry,
            problem_information: agreed.problem_information,
            receive_maximum: usize::from(limits.receive_maximum),
            // [MQTT-3.1.2-22]: one and a half times the keep alive.
            keep_alive: (agreed.keep_alive > 0).then(|| Duration::from_millis(u64::from(agreed.keep_alive) * 1500)),
            last_heard: now,
            mark: AckTicket(0),
            acks: Acks::default(),
            received: state.received.handed_over(),
            outbound: Outbound::new(agreed.window, state.in_flight, state.next_packet_id),
            aliases: Aliases::default(),
            own_aliases: (agreed.topic_alias_maximum > 0)
                .then(|| Box::new(OwnAliases::new(agreed.topic_alias_maximum))),
            progress: 0,
            transmits: Queue::default(),
            actions: Queue::default(),
            closed: false,
        };
        session.send(Packet::ConnAck(Box::new(connect::accept(agreed, limits, session_present))));
        session
    }

    /// Takes a packet from the client.
    pub fn handle_packet(&mut self, now: Monotonic, packet: Packet) {
        if self.closed {
            return;
        }
        self.last_heard = now;
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::PubAck(ack) => {
                let result = self.outbound.puback(ack.packet_id);
                self.acknowledged(result, "PUBACK for a message that awaits none");
            }
            Packet::PubRec(ack) => self.pubrec(&ack),
            Packet::PubRel(ack) => self.pubrel(&ack),
            Packet::PubComp(ack) => {
                let result = self.outbound.pubcomp(ack.packet_id);
                self.acknowledged(result, "PUBCOMP for a message that awaits none");
            }
            Packet::Subscribe(subscribe) => {
                self.acks.expect(AckKind::SubAck, subscribe.packet_id);
                self.actions.push_back(Action::Subscribe(subscribe));
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.acks.expect(AckKind::UnsubAck, unsubscribe.packet_id);
                self.actions.push_back(Action::Unsubscribe(unsubscribe));
            }
            // [MQTT-3.12.4-1]
            Packet::PingReq => self.send(Packet::PingResp),
            Packet::Disconnect(disconnect) => self.disconnect(&disconnect),
            Packet::Connect(_) => self.close(ReasonCode::ProtocolError, "a second CONNECT [MQTT-3.1.0-2]"),
            Packet::Auth(_) => self.close(ReasonCode::ProtocolError, "AUTH without an authentication method"),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                self.close(ReasonCode::ProtocolError, "a packet that only servers send");
            }
        }
    }

    /// Takes the router's answer to the oldest unanswered action that wants one.
    pub fn answer(&mut self, answer: Answer) {
        let Some((kind, packet_id)) = self.acks.first_open() else { return };
        let Answer { ticket, result } = answer;
        let packet = match (kind, result) {
            (AckKind::PubAck, AnswerResult::One(reason, text)) => Packet::PubAck(self.ack(packet_id, reason, text)),
            (AckKind::PubRec, AnswerResult::One(reason, text)) => {
                if reason as u8 >= 0x80 && self.version == Version::V5 {
                    // The handshake is over, the id free again [MQTT-4.3.3-9].
                    self.received.remove(packet_id);
                } else {
                    self.received.settle(packet_id, ticket);
                }
                Packet::PubRec(self.ack(packet_id, reason, text))
            }
            (AckKind::PubComp, AnswerResult::One(reason, text)) => {
                self.received.remove(packet_id);
                Packet::PubComp(self.ack(packet_id, reason, text))
            }
            (AckKind::SubAck, AnswerResult::Each(mut reasons)) => {
                if self.version != Version::V5 {
                    for reason in reasons.iter_mut().filter(|r| **r as u8 >= 0x80) {
                        *reason = ReasonCode::UnspecifiedError;
                    }
                }
                acks::suback(packet_id, reasons)
            }
            (AckKind::UnsubAck, AnswerResult::Each(reasons)) => acks::unsuback(packet_id, reasons),
            (AckKind::PubAck | AckKind::PubRec | AckKind::PubComp, AnswerResult::Each(_))
            | (AckKind::SubAck | AckKind::UnsubAck, AnswerResult::One(..)) => {
                debug_assert!(false, "the shell answered something else");
                return;
            }
        };
        self.acks.answer_first(ticket, packet);
        self.release_durable();
    }

    /// The log is durable up to and including `mark`.
    pub fn durable(&mut self, mark: AckTicket) {
        self.mark = self.mark.max(mark);
        self.release_durable();
    }

    fn release_durable(&mut self) {
        // IMPORTANT: after a failed sync the mark stands still, and so does everything behind it: G1.
        while let Some((_, _, packet)) = self.acks.pop_durable(self.mark) {
            self.send(packet);
        }
    }

    /// The ticket that the next acknowledgement waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<AckTicket> {
        self.acks.waits_for()
    }

    /// Messages with QoS > 0 that may be delivered now.
    #[must_use]
    pub fn window(&self) -> usize {
        self.outbound.free()
    }

    /// Messages of an earlier connection wait to be sent again; nothing may be delivered before [MQTT-4.6.0-1].
    #[must_use]
    pub fn redelivering(&self) -> bool {
        self.outbound.redelivering()
    }

    /// Sends a message to the client.
    pub fn deliver(&mut self, now: Monotonic, delivery: Delivery) -> Delivered {
        let Some(message_expiry) = delivery.message.remaining_expiry(now) else { return Delivered::Expired };
        let packet_id = match delivery.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                match self.outbound.begin(delivery.qos, delivery.retain, delivery.origin, delivery.share) {
                    Some(packet_id) => Some(packet_id),
                    None => return Delivered::NoRoom,
                }
            }
        };
        self.transmits.push_back(Transmit::Publish(Outgoing {
            message: delivery.message,
            dup: false,
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id,
            subscription_ids: delivery.subscription_ids,
            message_expiry,
        }));
        Delivered::Sent
    }

    /// The origin of the next message to send again, if the window allows it. Answer with [`Session::redeliver`].
    /// PUBRELs that are due before it are sent by this call [MQTT-4.4.0-1].
    pub fn next_redelivery(&mut self) -> Option<(PacketId, Option<Origin>)> {
        while let Some(entry) = self.outbound.next_redelivery() {
            match entry.stage {
                Stage::AwaitsAck | Stage::AwaitsRec => return Some((entry.packet_id, entry.origin)),
                Stage::AwaitsComp => {
                    self.outbound.redelivered();
                    self.send(Packet::PubRel(acks::ack(entry.packet_id, ReasonCode::Success, None)));
                }
            }
        }
        None
    }

    /// Sends the message of [`Session::next_redelivery`] again, with DUP and its old packet id [MQTT-3.3.1-1, MQTT-4.4.0-1].
    /// `None`: it is not in the log any more, and is forgotten.
    ///
    /// A message that was sent once is sent again even when its expiry has passed meanwhile: its delivery has begun.
    pub fn redeliver(&mut self, now: Monotonic, message: Option<(Arc<Message>, Vec<u32>)>) {
        let Some(entry) = self.outbound.next_redelivery() else { return };
        let Some((message, subscription_ids)) = message else {
            self.outbound.forget(entry.packet_id);
            return;
        };
        let qos = match entry.stage {
            Stage::AwaitsAck => QoS::AtLeastOnce,
            Stage::AwaitsRec => QoS::ExactlyOnce,
            Stage::AwaitsComp => return,
        };
        self.outbound.redelivered();
        self.transmits.push_back(Transmit::Publish(Outgoing {
            dup: true,
            qos,
            retain: entry.retain,
            packet_id: Some(entry.packet_id),
            subscription_ids,
            message_expiry: message.remaining_expiry(now).unwrap_or(Some(0)),
            message,
        }));
    }

    /// What was sent as this packet id exceeds the client's Maximum Packet Size: it counts as delivered [MQTT-3.1.2-25].
    pub fn undeliverable(&mut self, packet_id: PacketId) {
        self.outbound.forget(packet_id);
        self.progress += 1;
    }

    /// Whether further packets may be taken. No: hold the connection back until acknowledgements have left.
    ///
    /// A v5 client keeps to the receive maximum or is cut off; a 3.1.1 client knows none and is slowed down here.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        let room = match self.version {
            Version::V31 | Version::V311 => self.acks.publishes() < self.receive_maximum,
            Version::V5 => true,
        };
        !self.closed && room && self.acks.len() < self.receive_maximum + OTHER_ACKS
    }

    /// Bytes came from the client, perhaps only part of a packet: it is alive.
    pub fn heard(&mut self, now: Monotonic) {
        self.last_heard = now;
    }

    /// When the client was last heard.
    #[must_use]
    pub fn last_heard(&self) -> Monotonic {
        self.last_heard
    }

    /// Whether queues hold memory for the next burst; [`Session::rest`] gives it back.
    #[must_use]
    pub fn holds_room(&self) -> bool {
        self.transmits.holds_room() || self.actions.holds_room() || self.acks.holds_room() || self.outbound.holds_room()
    }

    /// Gives back what only a busy connection needs. Of its state nothing changes.
    pub fn rest(&mut self) {
        self.transmits.rest();
        self.actions.rest();
        self.acks.rest();
        self.outbound.rest();
    }

    /// When [`Session::timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Monotonic> {
        if self.closed { None } else { self.keep_alive.map(|limit| self.last_heard + limit) }
    }

    /// Time has passed: a client that was silent for one and a half times its keep alive is cut off [MQTT-3.1.2-22].
    pub fn timeout(&mut self, now: Monotonic, reading: Reading) {
        if self.next_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        match reading {
            Reading::Active => self.close(ReasonCode::KeepAliveTimeout, "keep alive timeout"),
            Reading::Paused => self.last_heard = now,
        }
    }

    /// Ends the connection from our side; a v5 client is told why.
    pub fn close(&mut self, reason: ReasonCode, detail: &'static str) {
        self.close_towards(reason, detail, None);
    }

    /// The same, with the servers to use instead: for [`ReasonCode::UseAnotherServer`] and [`ReasonCode::ServerMoved`] (4.11).
    pub fn close_towards(&mut self, reason: ReasonCode, detail: &'static str, servers: Option<&str>) {
        if self.closed {
            return;
        }
        if self.version == Version::V5 {
            // [MQTT-3.14.0-1]: only after a CONNACK below 0x80, which is the first thing that every session sends.
            self.send(Packet::Disconnect(Disconnect {
                reason,
                session_expiry: None,
                reason_string: self.problem_information.then(|| detail.to_owned()),
                user: Vec::new(),
                server_reference: servers.map(str::to_owned),
            }));
        }
        self.end(Close { by: ClosedBy::Us, reason, detail });
    }

    fn end(&mut self, close: Close) {
        self.closed = true;
        self.actions.push_back(Action::Close(close));
    }

    /// The next packet to be written.
    #[must_use]
    pub fn next_transmit(&self) -> Option<&Transmit> {
        self.transmits.front()
    }

    /// Packets that wait to be written.
    #[must_use]
    pub fn transmits_waiting(&self) -> usize {
        self.transmits.len()
    }

    /// The next packet to write.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let next = self.transmits.pop_front();
        if next.is_none() && self.transmits.capacity() > KEPT_CAPACITY {
            self.transmits.rest();
        }
        next
    }

    /// How a message to this topic is sent that leaves now; `None`: with the topic alone. Tell with [`Session::alias_sent`] when it left.
    pub fn alias(&mut self, topic: &TopicName) -> Option<Alias> {
        self.own_aliases.as_mut()?.find(topic)
    }

    /// A message to the topic left with this alias.
    pub fn alias_sent(&mut self, alias: Alias, topic: &TopicName) {
        if let Some(aliases) = &mut self.own_aliases {
            aliases.sent(alias, topic);
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        let next = self.actions.pop_front();
        if next.is_none() && self.actions.capacity() > KEPT_CAPACITY {
            self.actions.rest();
        }
        next
    }

    /// Protocol version of the connection.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// How long the session outlives the connection; DISCONNECT may have changed it.
    #[must_use]
    pub fn expiry(&self) -> SessionExpiry {
        self.expiry
    }

    /// Unacknowledged messages towards the client.
    #[must_use]
    pub fn in_flight(&self) -> &VecDeque<InFlight> {
        self.outbound.entries()
    }

    /// Deliveries acknowledged since [`Session::saved`].
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// The state was saved.
    pub fn saved(&mut self) {
        self.progress = 0;
    }

    /// What outlives the connection. Messages whose routing was not answered are as if never received.
    #[must_use]
    pub fn into_state(self) -> SessionState {
        let (in_flight, next_packet_id) = self.outbound.into_parts();
        SessionState { in_flight, received: self.received.handed_over(), next_packet_id }
    }

    fn publish(&mut self, mut publish: Publish) {
        if !publish.subscription_ids.is_empty() {
            return self.close(ReasonCode::ProtocolError, "subscription identifier from a client [MQTT-3.3.4-6]");
        }
        match self.aliases.resolve(publish.topic.take(), publish.topic_alias.take()) {
            Ok(topic) => publish.topic = Some(topic),
            Err(reason) => return self.close(reason, "topic alias [MQTT-3.3.2-8]"),
        }
        let Some(packet_id) = publish.packet_id else {
            self.actions.push_back(Action::Publish(publish));
            return;
        };
        match publish.qos {
            QoS::AtMostOnce => publish.packet_id = None,
            QoS::AtLeastOnce => {
                if self.exceeds_receive_maximum() {
                    return;
                }
                self.acks.expect(AckKind::PubAck, packet_id);
            }
            QoS::ExactlyOnce => {
                match self.received.find(packet_id) {
                    Some(received) => {
                        // [MQTT-4.3.3-10]: acknowledged again, not published again. If its first PUBREC is still owed, that one will do.
                        if let Some(ticket) = received.ticket {
                            let again = Packet::PubRec(self.ack(packet_id, ReasonCode::Success, None));
                            self.acks.push(AckKind::PubRec, packet_id, ticket, again);
                            self.release_durable();
                        }
                        return;
                    }
                    None if self.exceeds_receive_maximum() => return,
                    None => {
                        self.received.insert(packet_id);
                        self.acks.expect(AckKind::PubRec, packet_id);
                    }
                }
            }
        }
        self.actions.push_back(Action::Publish(publish));
    }

    /// [MQTT-3.3.4-7]: a v5 client must not have more unacknowledged messages than we said.
    fn exceeds_receive_maximum(&mut self) -> bool {
        if self.version != Version::V5 || self.acks.pubacks() + self.received.counted() < self.receive_maximum {
            return false;
        }
        self.close(ReasonCode::ReceiveMaximumExceeded, "more unacknowledged messages than the receive maximum");
        true
    }

    fn pubrec(&mut self, ack: &Ack) {
        match self.outbound.pubrec(ack.packet_id, ack.reason) {
            Ok(true) => self.send(Packet::PubRel(acks::ack(ack.packet_id, ReasonCode::Success, None))),
            Ok(false) => self.progress += 1,
            Err(AckFault::Unknown) => {
                // A message that we forgot, for example one that retention took: let the client finish its side.
                let reason = match self.version {
                    Version::V31 | Version::V311 => ReasonCode::Success,
                    Version::V5 => ReasonCode::PacketIdNotFound,
                };
                self.send(Packet::PubRel(acks::ack(ack.packet_id, reason, None)));
            }
            Err(AckFault::WrongStage) => self.close(ReasonCode::ProtocolError, "PUBREC for a QoS 1 message"),
        }
    }

    fn pubrel(&mut self, ack: &Ack) {
        match self.received.find(ack.packet_id) {
            Some(received) if received.ticket.is_some() => {
                self.acks.expect(AckKind::PubComp, ack.packet_id);
                self.actions.push_back(Action::Release(ack.packet_id));
            }
            Some(_) => self.close(ReasonCode::ProtocolError, "PUBREL before PUBREC"),
            None => {
                let reason = match self.version {
                    Version::V31 | Version::V311 => ReasonCode::Success,
                    Version::V5 => ReasonCode::PacketIdNotFound,
                };
                let packet = Packet::PubComp(self.ack(ack.packet_id, reason, None));
                self.acks.push(AckKind::PubComp, ack.packet_id, AckTicket(0), packet);
                self.release_durable();
            }
        }
    }

    fn disconnect(&mut self, disconnect: &Disconnect) {
        if let Some(expiry) = disconnect.session_expiry {
            if self.asked_no_session && expiry != 0 {
                return self
                    .close(ReasonCode::ProtocolError, "DISCONNECT gives a session to a CONNECT without [3.14.2.2.2]");
            }
            self.expiry = SessionExpiry(expiry).capped(self.max_session_expiry);
        }
        let by = match disconnect.reason {
            ReasonCode::Success => ClosedBy::Client,
            _ => ClosedBy::ClientWithWill,
        };
        self.end(Close { by, reason: disconnect.reason, detail: "the client disconnected" });
    }

    fn acknowledged(&mut self, result: Result<(), AckFault>, detail: &'static str) {
        match result {
            Ok(()) => self.progress += 1,
            // Of a message that we forgot; there is nobody to tell.
            Err(AckFault::Unknown) => {}
            Err(AckFault::WrongStage) => self.close(ReasonCode::ProtocolError, detail),
        }
    }

    fn ack(&self, packet_id: PacketId, reason: ReasonCode, text: Option<&str>) -> Ack {
        match self.version {
            // There is no way to refuse in 3.1.1: what could not be taken was held back or counted before.
            Version::V31 | Version::V311 => acks::ack(packet_id, ReasonCode::Success, None),
            Version::V5 => acks::ack(packet_id, reason, text.filter(|_| self.problem_information)),
        }
    }

    fn send(&mut self, packet: Packet) {
        self.transmits.push_back(Transmit::Packet(packet));
    }
}
