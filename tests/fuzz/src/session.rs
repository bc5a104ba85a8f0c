//! The session machine, fed with any sequence of packets, answers, marks, deliveries, time and new connections, beside a
//! plain model of what each side owes the other.
//!
//! Held: nothing panics; whatever is sent can be encoded and is read back; packet ids towards the client are unique and no
//! more are open than it allows; acknowledgements leave in the order of their packets, none ahead of the mark (G1) and
//! none late; a QoS 2 message is handed out once; a client within the receive maximum is not cut off; what is owed is bounded.

mod model;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use headwater_broker::clock::Monotonic;
use headwater_broker::mqtt::codec::{PublishRef, decode, encode, encode_publish};
use headwater_broker::mqtt::packet::*;
use headwater_broker::mqtt::session::{
    AckTicket, Action, Answer, AnswerResult, Close, Delivered, Delivery, Limits, Message, Negotiated, Origin, Outgoing,
    QueueCount, Reading, Session, SessionState, Transmit, negotiate,
};

use crate::input::Input;
use model::{Kind, Model};

/// More than enough to reach every state, and soon over.
const MAX_STEPS: usize = 2_000;

const START: Monotonic = Monotonic(1_000_000_000_000);

const TOPICS: [&str; 4] = ["t", "a/b", "$x", "größe"];

/// A connection is chosen, then one step after the other.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let mut run = Run::new(&mut input);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            return;
        }
        run.step(&mut input);
    }
}

struct Run {
    session: Session,
    model: Model,
    limits: Limits,
    version: Version,
    now: Monotonic,
    seq: u64,
    keep_alive: Option<Duration>,
}

fn agree(input: &mut Input<'_>, version: Version, limits: &Limits) -> Negotiated {
    let v5 = version == Version::V5;
    let properties = ConnectProperties {
        session_expiry: v5.then(|| input.of(&[60, 0, u32::MAX])),
        receive_maximum: std::num::NonZeroU16::new(u16::from(input.below(5))).filter(|_| v5),
        request_problem_information: v5.then(|| input.flag()),
        ..ConnectProperties::default()
    };
    let connect = Connect {
        version,
        clean_start: input.flag(),
        keep_alive: input.of(&[10, 0, 1, u16::MAX]),
        client_id: "c".to_owned(),
        will: None,
        username: None,
        password: None,
        properties,
    };
    negotiate(connect, limits, || "assigned".to_owned()).expect("a plain CONNECT is accepted")
}

impl Run {
    fn new(input: &mut Input<'_>) -> Run {
        let version = input.of(&[Version::V5, Version::V311, Version::V31]);
        let limits = Limits {
            receive_maximum: u16::from(1 + input.below(5)),
            max_packet_bytes: 1 << 20,
            max_session_expiry: Duration::from_secs(3_600),
            max_keep_alive: 0,
        };
        let agreed = agree(input, version, &limits);
        let keep_alive = (agreed.keep_alive > 0).then(|| Duration::from_millis(u64::from(agreed.keep_alive) * 1_500));
        let session = Session::new(START, &agreed, &limits, SessionState::default(), false);
        let model = Model::new(version, limits.receive_maximum, agreed.window);
        let mut run = Run { session, model, limits, version, now: START, seq: 0, keep_alive };
        run.welcomed();
        run
    }

    fn welcomed(&mut self) {
        match self.session.poll_transmit() {
            Some(Transmit::Packet(packet @ Packet::ConnAck(_))) => self.is_readable(&packet),
            other => panic!("[MQTT-3.2.0-1]: {other:?}"),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.below(20) {
            0 | 1 => self.publish(input),
            2..=5 => self.ack(input),
            6 => self.subscribe(input),
            7 => self.packet(Packet::PingReq),
            8 => self.disconnect(input),
            9 => self.bytes(input.bytes()),
            10 | 11 => self.deliver(input),
            12 | 13 => self.answer(input),
            14 => {
                self.model.mark = (self.model.mark + u64::from(input.below(4))).min(self.model.ticket);
                self.session.durable(AckTicket(self.model.mark));
            }
            15 => self.redeliver(input.flag()),
            16 => self.pass(input),
            17 => return self.reconnect(input),
            18 => {
                let held = self.session.transmits_waiting();
                self.session.rest();
                assert!(!self.session.holds_room() && self.session.transmits_waiting() == held);
            }
            _ => {
                if input.flag() {
                    let packet_id = id(input);
                    self.session.undeliverable(packet_id);
                    self.model.forgotten(packet_id);
                }
                self.session.heard(now);
                self.session.saved();
                assert_eq!((self.session.progress(), self.session.last_heard()), (0, now));
            }
        }
        self.settle(input);
    }

    /// A packet from the client. As the shell does: nothing is read while the session does not want to.
    fn packet(&mut self, packet: Packet) {
        if self.session.wants_read() {
            self.model.before(&packet, self.session.in_flight());
            self.session.handle_packet(self.now, packet);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut buf = BytesMut::from(bytes);
        if let Ok(Some(packet)) = decode(&mut buf, Some(self.version), self.limits.max_packet_bytes) {
            self.packet(packet);
        }
    }

    fn publish(&mut self, input: &mut Input<'_>) {
        let v5 = self.version == Version::V5;
        let qos = input.of(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce]);
        let flags = input.byte();
        let topic_alias = std::num::NonZeroU16::new(u16::from(flags >> 3)).filter(|_| v5 && flags & 1 == 1);
        self.packet(Packet::Publish(Publish {
            dup: flags & 2 == 2 && qos > QoS::AtMostOnce,
            qos,
            retain: flags & 4 == 4,
            topic: Some(input.of(&TOPICS).parse().expect("valid")).filter(|_| topic_alias.is_none() || flags & 2 == 0),
            packet_id: (qos > QoS::AtMostOnce).then(|| id(input)),
            topic_alias,
            subscription_ids: Vec::new(),
            properties: None,
            payload: Bytes::from_static(b"p"),
        }));
    }

    fn ack(&mut self, input: &mut Input<'_>) {
        let kind = input.of::<fn(Ack) -> Packet>(&[Packet::PubAck, Packet::PubRec, Packet::PubRel, Packet::PubComp]);
        let reason = match input.flag() && self.version == Version::V5 {
            true => ReasonCode::PacketIdNotFound,
            false => ReasonCode::Success,
        };
        self.packet(kind(Ack { packet_id: id(input), reason, reason_string: None, user: Vec::new() }));
    }

    fn subscribe(&mut self, input: &mut Input<'_>) {
        let packet_id = id(input);
        let filters = 1 + input.below(3);
        let filter = |n: u8| ["a", "+/#", "$share/g/a"][usize::from(n) % 3].parse().map_err(|_| "none".to_owned());
        self.packet(match input.flag() {
            true => Packet::Unsubscribe(Unsubscribe {
                packet_id,
                user: Vec::new(),
                filters: (0..filters).map(filter).collect(),
            }),
            false => Packet::Subscribe(Subscribe {
                packet_id,
                subscription_id: None,
                user: Vec::new(),
                filters: (0..filters).map(|n| (filter(n), SubscriptionOptions::default())).collect(),
            }),
        });
    }

    fn disconnect(&mut self, input: &mut Input<'_>) {
        match input.below(3) {
            0 => self.session.close(ReasonCode::SessionTakenOver, "another connection took the session over"),
            n => self.packet(Packet::Disconnect(Disconnect {
                reason: input.of(&[ReasonCode::Success, ReasonCode::DisconnectWithWill]),
                session_expiry: (n == 1 && self.version == Version::V5).then(|| u32::from(input.byte())),
                reason_string: None,
                user: Vec::new(),
                server_reference: None,
            })),
        }
    }

    fn deliver(&mut self, input: &mut Input<'_>) {
        self.seq += 1;
        let qos = input.of(&[QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtMostOnce]);
        let expiry = input.of(&[None, Some(0), Some(5)]);
        let age = Duration::from_secs(u64::from(input.below(8)));
        let message = self.message(expiry, Monotonic(self.now.0 - u64::try_from(age.as_nanos()).expect("seconds")));
        let delivery = Delivery {
            message,
            qos,
            retain: input.flag(),
            subscription_ids: if self.version == Version::V5 { vec![7] } else { Vec::new() },
            origin: Some(Origin { stream: 1, seq: self.seq }),
            share: None,
        };
        let room = self.session.window() > 0;
        let expected = match (expiry, qos) {
            (Some(seconds), _) if age >= Duration::from_secs(u64::from(seconds)) => Delivered::Expired,
            (_, QoS::AtLeastOnce | QoS::ExactlyOnce) if !room => Delivered::NoRoom,
            _ => Delivered::Sent,
        };
        assert_eq!(self.session.deliver(self.now, delivery), expected);
    }

    fn message(&self, message_expiry: Option<u32>, received: Monotonic) -> Arc<Message> {
        Arc::new(Message {
            topic: TOPICS[usize::try_from(self.seq).unwrap_or(0) % TOPICS.len()].parse().expect("valid"),
            payload: Bytes::from_static(b"p"),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: message_expiry
                .map(|_| Box::new(PublishProperties { message_expiry, ..PublishProperties::default() })),
            received,
            queues: QueueCount::default(),
        })
    }

    fn answer(&mut self, input: &mut Input<'_>) {
        let (reason, step) = (input.byte(), u64::from(input.below(3)));
        let Some((kind, filters)) = self.model.first_open() else { return };
        self.model.ticket += step;
        let reason = match reason % 4 {
            0 => ReasonCode::QuotaExceeded,
            1 => ReasonCode::NoMatchingSubscribers,
            _ => ReasonCode::Success,
        };
        let each = |reason| vec![reason; filters];
        let result = match kind {
            Kind::PubAck | Kind::PubRec => AnswerResult::One(reason, Some("for people")),
            Kind::PubComp => AnswerResult::One(ReasonCode::Success, None),
            Kind::SubAck if reason == ReasonCode::NoMatchingSubscribers => {
                AnswerResult::Each(each(ReasonCode::GrantedQoS2))
            }
            Kind::UnsubAck if reason != ReasonCode::Success => {
                AnswerResult::Each(each(ReasonCode::NoSubscriptionExisted))
            }
            Kind::SubAck | Kind::UnsubAck => AnswerResult::Each(each(reason)),
        };
        let refused = matches!(result, AnswerResult::One(reason, _) if reason.is_failure());
        self.session.answer(Answer { ticket: AckTicket(self.model.ticket), result });
        self.model.answered(refused);
    }

    fn redeliver(&mut self, found: bool) {
        if let Some((packet_id, origin)) = self.session.next_redelivery() {
            assert!(origin.is_some(), "every delivery had one");
            let message = found.then(|| (self.message(None, self.now), Vec::new()));
            self.session.redeliver(self.now, message);
            assert_eq!(self.session.in_flight().iter().any(|e| e.packet_id == packet_id), found);
        }
    }

    fn pass(&mut self, input: &mut Input<'_>) {
        self.now = self.now + Duration::from_millis(u64::from(input.byte()) * 100);
        let reading = if input.flag() { Reading::Active } else { Reading::Paused };
        let due = self.session.next_timeout();
        assert_eq!(due, self.keep_alive.map(|limit| self.session.last_heard() + limit));
        self.session.timeout(self.now, reading);
        self.model.may_time_out = reading == Reading::Active && due.is_some_and(|due| due <= self.now);
    }

    fn reconnect(&mut self, input: &mut Input<'_>) {
        let agreed = agree(input, self.version, &self.limits);
        self.keep_alive = (agreed.keep_alive > 0).then(|| Duration::from_millis(u64::from(agreed.keep_alive) * 1_500));
        let new = || Session::new(self.now, &agreed, &self.limits, SessionState::default(), false);
        let before = std::mem::replace(&mut self.session, new());
        let in_flight = before.in_flight().clone();
        let state = before.into_state();
        assert_eq!(state.in_flight, in_flight);
        self.model.disconnected();
        assert!(state.received.iter().eq(self.model.received()), "{:?} {:?}", state.received, self.model);
        self.session = Session::new(self.now, &agreed, &self.limits, state, true);
        self.session.durable(AckTicket(self.model.mark));
        self.model.connected(agreed.window);
        assert_eq!(self.session.redelivering(), !in_flight.is_empty());
        self.welcomed();
    }

    fn settle(&mut self, input: &mut Input<'_>) {
        if self.settled() {
            assert!(!self.session.wants_read() && self.session.next_timeout().is_none());
            self.session.handle_packet(self.now, Packet::PingReq);
            self.session.close(ReasonCode::ServerShuttingDown, "once more");
            assert!(self.session.poll_action().is_none() && self.session.poll_transmit().is_none(), "nothing follows");
            self.reconnect(input);
        }
    }

    /// Carries out and writes everything there is. True: the connection has ended.
    fn settled(&mut self) -> bool {
        let mut close: Option<Close> = None;
        while let Some(action) = self.session.poll_action() {
            assert!(close.is_none(), "nothing follows a close");
            match action {
                Action::Publish(publish) => {
                    assert!(publish.topic.is_some() && publish.topic_alias.is_none());
                    assert_eq!(publish.packet_id.is_some(), publish.qos > QoS::AtMostOnce);
                    self.model.handed_out(&Packet::Publish(publish));
                }
                Action::Release(packet_id) => self.model.released(packet_id),
                Action::Subscribe(subscribe) => self.model.handed_out(&Packet::Subscribe(subscribe)),
                Action::Unsubscribe(unsubscribe) => self.model.handed_out(&Packet::Unsubscribe(unsubscribe)),
                Action::Close(by) => close = Some(by),
            }
        }
        self.model.after(close);
        let mut told = false;
        while let Some(transmit) = self.session.poll_transmit() {
            assert!(!told, "nothing follows a DISCONNECT");
            match transmit {
                Transmit::Publish(outgoing) => self.published(&outgoing),
                Transmit::Packet(packet) => {
                    self.is_readable(&packet);
                    told = matches!(packet, Packet::Disconnect(_));
                    self.model.sent(&packet);
                }
            }
        }
        self.model.nothing_is_late(self.session.waits_for().map(|ticket| ticket.0));
        self.model.agrees(self.session.in_flight());
        let by_us = close.is_some_and(|close| close.by == headwater_broker::mqtt::session::ClosedBy::Us);
        assert_eq!(told, by_us && self.version == Version::V5, "[MQTT-3.14.0-1]");
        close.is_some()
    }

    fn published(&mut self, outgoing: &Outgoing) {
        let message = &outgoing.message;
        let parts = PublishRef {
            dup: outgoing.dup,
            qos: outgoing.qos,
            retain: outgoing.retain,
            topic: Some(&message.topic),
            packet_id: outgoing.packet_id,
            topic_alias: None,
            subscription_ids: &outgoing.subscription_ids,
            message_expiry: outgoing.message_expiry,
            properties: message.properties.as_deref(),
            payload: &message.payload,
        };
        let mut out = BytesMut::new();
        encode_publish(&parts, self.version, &mut out).expect("what a session sends can be encoded");
        match decode(&mut out, Some(self.version), u32::MAX) {
            Ok(Some(Packet::Publish(read))) => {
                assert_eq!((read.packet_id, read.dup, read.qos), (outgoing.packet_id, outgoing.dup, outgoing.qos));
                self.model.delivered(&read);
            }
            other => panic!("{other:?}"),
        }
    }

    fn is_readable(&self, packet: &Packet) {
        let mut out = BytesMut::new();
        encode(packet, self.version, &mut out).expect("what a session sends can be encoded");
        let read = decode(&mut out, Some(self.version), u32::MAX);
        assert!(matches!(read, Ok(Some(_))) && out.is_empty(), "{packet:?}: {read:?}");
    }
}

fn id(input: &mut Input<'_>) -> PacketId {
    PacketId::new(u16::from(1 + input.below(7))).expect("from 1")
}
