//! The session machine, driven by hand. Clauses are of MQTT 5.0 unless "of 3.1.1" is said.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::mqtt::packet::{Connect, ConnectProperties, PublishProperties, Will};
use crate::mqtt::topic::TopicName;

const NOW: Monotonic = Monotonic(1_000_000_000_000);

fn limits() -> Limits {
    Limits {
        receive_maximum: 3,
        max_packet_bytes: 1000,
        max_session_expiry: Duration::from_secs(3600),
        max_keep_alive: 0,
    }
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        clean_start: false,
        keep_alive: 10,
        client_id: "c".to_owned(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry: (version == Version::V5).then_some(60),
            ..ConnectProperties::default()
        },
    }
}

fn agree(connect: Connect) -> Result<Negotiated, ReasonCode> {
    negotiate(connect, &limits(), || "assigned".to_owned())
}

fn resumed(version: Version, state: SessionState) -> Session {
    let agreed = agree(connect(version)).expect("a plain CONNECT is accepted");
    let mut session = Session::new(NOW, &agreed, &limits(), state, true);
    assert!(matches!(session.poll_transmit(), Some(Transmit::Packet(Packet::ConnAck(_)))), "[MQTT-3.2.0-1]");
    session
}

fn session(version: Version) -> Session {
    resumed(version, SessionState::default())
}

fn id(n: u16) -> PacketId {
    PacketId(NonZeroU16::new(n).expect("tests use ids above 0"))
}

fn publish(qos: QoS, n: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some("t".parse().expect("valid")),
        packet_id: (qos > QoS::AtMostOnce).then(|| id(n)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from_static(b"p"),
    })
}

fn aliased(topic: Option<&str>, alias: u16) -> Packet {
    let Packet::Publish(publish) = publish(QoS::AtMostOnce, 0) else { unreachable!() };
    Packet::Publish(Publish {
        topic: topic.map(|t| t.parse().expect("valid")),
        topic_alias: NonZeroU16::new(alias),
        ..publish
    })
}

fn ack(n: u16) -> Ack {
    Ack { packet_id: id(n), reason: ReasonCode::Success, reason_string: None, user: Vec::new() }
}

fn done(ticket: u64) -> Answer {
    Answer { ticket: AckTicket(ticket), result: AnswerResult::One(ReasonCode::Success, None) }
}

fn message(expiry: Option<u32>) -> Arc<Message> {
    Arc::new(Message {
        topic: TopicName::new("t").expect("valid"),
        payload: Bytes::from_static(b"p"),
        qos: QoS::ExactlyOnce,
        retain: false,
        properties: expiry.map(|e| Box::new(PublishProperties { message_expiry: Some(e), ..Default::default() })),
        received: NOW,
        queues: QueueCount::default(),
    })
}

fn delivery(qos: QoS, seq: u64) -> Delivery {
    Delivery {
        message: message(None),
        qos,
        retain: false,
        subscription_ids: vec![7],
        origin: Some(Origin { stream: 1, seq }),
        share: None,
    }
}

fn sent(session: &mut Session) -> Vec<Packet> {
    std::iter::from_fn(|| session.poll_transmit())
        .filter_map(|t| match t {
            Transmit::Packet(packet) => Some(packet),
            Transmit::Publish(_) => None,
        })
        .collect()
}

fn published(session: &mut Session) -> Vec<Outgoing> {
    std::iter::from_fn(|| session.poll_transmit())
        .filter_map(|t| match t {
            Transmit::Publish(publish) => Some(publish),
            Transmit::Packet(_) => None,
        })
        .collect()
}

fn actions(session: &mut Session) -> Vec<Action> {
    std::iter::from_fn(|| session.poll_action()).collect()
}

fn closed(session: &mut Session) -> Option<Close> {
    actions(session).into_iter().find_map(|a| match a {
        Action::Close(close) => Some(close),
        _ => None,
    })
}

/// G1
#[test]
fn acknowledgements_wait_for_the_durable_mark_and_keep_the_order_of_arrival() {
    let mut s = session(Version::V5);
    s.handle_packet(NOW, publish(QoS::AtLeastOnce, 1));
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 2));
    s.handle_packet(NOW, publish(QoS::AtLeastOnce, 3));
    s.answer(done(5));
    s.answer(done(6));
    // Stored nowhere: could leave at once, but not before the others [MQTT-4.6.0-2].
    s.answer(done(0));
    s.durable(AckTicket(4));
    assert_eq!(sent(&mut s), []);
    s.durable(AckTicket(5));
    assert_eq!(sent(&mut s), [Packet::PubAck(ack(1))]);
    s.durable(AckTicket(9));
    // [MQTT-4.6.0-3]
    assert_eq!(sent(&mut s), [Packet::PubRec(ack(2)), Packet::PubAck(ack(3))]);
}

#[test]
fn what_is_stored_nowhere_is_acknowledged_at_once() {
    let mut s = session(Version::V311);
    s.handle_packet(NOW, publish(QoS::AtLeastOnce, 1));
    assert_eq!(sent(&mut s), [], "never before the router has answered");
    s.answer(done(0));
    assert_eq!(sent(&mut s), [Packet::PubAck(ack(1))]);
}

/// [MQTT-4.3.3-10]
#[test]
fn a_qos_2_message_is_handed_out_once_until_it_is_released() {
    let mut s = session(Version::V5);
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 9));
    // Again before the router has answered: one PUBREC will do.
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 9));
    assert_eq!(actions(&mut s).len(), 1);
    s.answer(done(5));
    // Again while the first is not durable: acknowledged again, but not before it is durable either.
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 9));
    assert_eq!((actions(&mut s).len(), sent(&mut s).len()), (0, 0));
    s.durable(AckTicket(5));
    assert_eq!(sent(&mut s), [Packet::PubRec(ack(9)), Packet::PubRec(ack(9))]);
    s.handle_packet(NOW, Packet::PubRel(ack(9)));
    assert!(matches!(actions(&mut s)[..], [Action::Release(released)] if released == id(9)));
    s.answer(done(6));
    assert_eq!(sent(&mut s), [], "the id must be gone from the disk before PUBCOMP");
    s.durable(AckTicket(6));
    // [MQTT-4.3.3-11]
    assert_eq!(sent(&mut s), [Packet::PubComp(ack(9))]);
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 9));
    assert_eq!(actions(&mut s).len(), 1, "after PUBCOMP the id is a new message's");
}

#[test]
fn a_qos_2_id_outlives_the_connection_only_if_the_router_took_the_message() {
    let mut s = session(Version::V5);
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 1));
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 2));
    s.answer(done(5));
    let mut s = resumed(Version::V5, s.into_state());
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 1));
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 2));
    let again = actions(&mut s);
    assert!(matches!(&again[..], [Action::Publish(p)] if p.packet_id == Some(id(2))), "{again:?}");
    s.durable(AckTicket(5));
    assert_eq!(sent(&mut s), [Packet::PubRec(ack(1))]);
}

#[test]
fn pubrel_of_an_unknown_id_is_answered() {
    let mut s = session(Version::V5);
    s.handle_packet(NOW, Packet::PubRel(ack(4)));
    let unknown = Ack { reason: ReasonCode::PacketIdNotFound, ..ack(4) };
    assert_eq!(sent(&mut s), [Packet::PubComp(unknown)]);
}

/// [MQTT-4.3.3-9]
#[test]
fn a_refused_qos_2_message_frees_its_id() {
    let mut s = session(Version::V5);
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 1));
    s.answer(Answer {
        ticket: AckTicket(0),
        result: AnswerResult::One(ReasonCode::QuotaExceeded, Some("the stream is full")),
    });
    assert!(matches!(&sent(&mut s)[..], [Packet::PubRec(a)] if a.reason == ReasonCode::QuotaExceeded));
    actions(&mut s);
    s.handle_packet(NOW, publish(QoS::ExactlyOnce, 1));
    assert_eq!(actions(&mut s).len(), 1);
}

/// [MQTT-3.3.4-7]
#[test]
fn a_v5_client_that_exceeds_the_receive_maximum_is_cut_off_with_0x93() {
    let mut s = session(Version::V5);
    for n in 1..=3 {
        s.handle_packet(NOW, publish(if n == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce }, n));
        s.answer(done(5));
    }
    assert!(s.wants_read());
    s.handle_packet(NOW, publish(QoS::AtMostOnce, 0));
    s.handle_packet(NOW, publish(QoS::AtLeastOnce, 4));
    assert_eq!(closed(&mut s).map(|c| c.reason), Some(ReasonCode::ReceiveMaximumExceeded));
    assert!(matches!(&sent(&mut s)[..], [Packet::Disconnect(d)] if d.reason == ReasonCode::ReceiveMaximumExceeded));
}

#[test]
fn a_v5_client_may_send_again_after_its_acknowledgements() {
    let mut s = session(Version::V5);
    for n in 1..=20 {
        s.handle_packet(NOW, publish(QoS::AtLeastOnce, n));
        s.answer(done(0));
    }
    assert_eq!(closed(&mut s), None);
}

#[test]
fn a_311_client_is_held_back_at_the_receive_maximum_and_read_again_after_acknowledgements() {
    let mut s = session(Version::V311);
    for n in 1..=3 {
        assert!(s.wants_read());
        s.handle_packet(NOW, publish(QoS::ExactlyOnce, n));
        s.answer(done(u64::from(n)));
    }
    assert!(!s.wants_read());
    s.durable(AckTicket(1));
    assert!(s.wants_read(), "a PUBREC has left; its PUBREL may come only if we read");
    assert_eq!(closed(&mut s), None);
}

/// [MQTT-3.1.2-22]
#[test]
fn silence_for_one_and_a_half_keep_alive_ends_the_connection() {
    let mut s = session(Version::V5);
    let deadline = NOW + Duration::from_secs(15);
    assert_eq!(s.next_timeout(), Some(deadline));
    s.timeout(Monotonic(deadline.0 - 1), Reading::Active);
    assert_eq!(closed(&mut s), None);
    s.timeout(deadline, Reading::Active);
    let close = closed(&mut s).expect("silent for long enough");
    assert_eq!((close.by, close.reason), (ClosedBy::Us, ReasonCode::KeepAliveTimeout));
}

#[test]
fn silence_that_is_ours_does_not_count() {
    let mut s = session(Version::V311);
    let deadline = NOW + Duration::from_secs(15);
    s.timeout(deadline, Reading::Paused);
    s.timeout(deadline, Reading::Active);
    assert_eq!((closed(&mut s), s.next_timeout()), (None, Some(deadline + Duration::from_secs(15))));
}

/// [MQTT-3.1.2-10] of 3.1.1, [MQTT-3.14.4-3]
#[test]
fn a_goodbye_drops_the_will_and_leaving_with_0x04_does_not() {
    let leave = |reason| {
        let mut s = session(Version::V5);
        let disconnect =
            Disconnect { reason, session_expiry: None, reason_string: None, user: Vec::new(), server_reference: None };
        s.handle_packet(NOW, Packet::Disconnect(disconnect));
        s.handle_packet(NOW, Packet::PingReq);
        assert_eq!(sent(&mut s), [], "nothing after DISCONNECT [MQTT-3.14.4-1]");
        closed(&mut s).map(|c| c.by)
    };
    assert_eq!(leave(ReasonCode::Success), Some(ClosedBy::Client));
    assert_eq!(leave(ReasonCode::DisconnectWithWill), Some(ClosedBy::ClientWithWill));
}

/// 3.14.2.2.2
#[test]
fn disconnect_may_change_the_expiry_but_not_make_a_session_of_none() {
    let disconnect = |expiry| {
        Packet::Disconnect(Disconnect {
            reason: ReasonCode::Success,
            session_expiry: Some(expiry),
            reason_string: None,
            user: Vec::new(),
            server_reference: None,
        })
    };
    let mut s = session(Version::V5);
    s.handle_packet(NOW, disconnect(0));
    assert_eq!(s.expiry(), SessionExpiry::AT_DISCONNECT);
    let mut s = session(Version::V5);
    s.handle_packet(NOW, disconnect(1_000_000));
    assert_eq!(s.expiry(), SessionExpiry(3600), "capped");
    let none = Connect { properties: ConnectProperties::default(), ..connect(Version::V5) };
    let agreed = agree(none).expect("accepted");
    let mut s = Session::new(NOW, &agreed, &limits(), SessionState::default(), false);
    s.handle_packet(NOW, disconnect(5));
    assert_eq!(closed(&mut s).map(|c| c.reason), Some(ReasonCode::ProtocolError));
}

#[test]
fn packets_that_do_not_belong_end_the_connection() {
    let suback = Packet::SubAck(crate::mqtt::packet::SubAck {
        packet_id: id(1),
        reason_string: None,
        reasons: vec![ReasonCode::Success],
    });
    // A second CONNECT [MQTT-3.1.0-2].
    for packet in [Packet::Connect(Box::new(connect(Version::V5))), Packet::PingResp, suback] {
        let mut s = session(Version::V5);
        s.handle_packet(NOW, packet);
        assert_eq!(closed(&mut s).map(|c| c.reason), Some(ReasonCode::ProtocolError));
    }
}

/// [MQTT-3.12.4-1]
#[test]
fn pingreq_is_answered() {
    let mut s = session(Version::V311);
    s.handle_packet(NOW, Packet::PingReq);
    assert_eq!(sent(&mut s), [Packet::PingResp]);
}

/// [MQTT-3.3.2-8] [MQTT-3.3.2-9]
#[test]
fn topic_aliases_are_kept_for_the_connection() {
    let mut s = session(Version::V5);
    s.handle_packet(NOW, aliased(Some("a"), 1));
    s.handle_packet(NOW, aliased(Some("b"), TOPIC_ALIAS_MAXIMUM));
    s.handle_packet(NOW, aliased(None, 1));
    s.handle_packet(NOW, aliased(Some("c"), 1));
    s.handle_packet(NOW, aliased(None, 1));
    let topics: Vec<String> = actions(&mut s)
        .into_iter()
        .map(|a| match a {
            Action::Publish(p) => p.topic.expect("resolved").to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(topics, ["a", "b", "a", "c", "c"]);
    s.handle_packet(NOW, aliased(Some("x"), TOPIC_ALIAS_MAXIMUM + 1));
    assert_eq!(closed(&mut s).map(|c| c.reason), Some(ReasonCode::TopicAliasInvalid));
    let mut s = session(Version::V5);
    s.handle_packet(NOW, aliased(None, 2));
    assert_eq!(closed(&mut s).map(|c| c.reason), Some(ReasonCode::ProtocolError));
}

/// [MQTT-3.3.4-9]
#[test]
fn never_more_in_flight_than_the_client_allows() {
    let mut asked = connect(Version::V5);
    asked.properties.receive_maximum = NonZeroU16::new(2);
    let agreed = agree(asked).expect("accepted");
    let mut s = Session::new(NOW, &agreed, &limits(), SessionState::default(), false);
    assert_eq!(s.deliver(NOW, delivery(QoS::AtLeastOnce, 1)), Delivered::Sent);
    assert_eq!(s.deliver(NOW, delivery(QoS::ExactlyOnce, 2)), Delivered::Sent);
    assert_eq!(s.deliver(NOW, delivery(QoS::AtLeastOnce, 3)), Delivered::NoRoom);
    // QoS 0 needs no room.
    assert_eq!(s.deliver(NOW, delivery(QoS::AtMostOnce, 4)), Delivered::Sent);
    let ids: Vec<_> = published(&mut s).iter().map(|p| p.packet_id).collect();
    assert_eq!(ids, [Some(id(1)), Some(id(2)), None]);
    // The window opens with PUBCOMP, not with PUBREC (4.9).
    s.handle_packet(NOW, Packet::PubRec(ack(2)));
    assert_eq!((sent(&mut s), s.window()), (vec![Packet::PubRel(ack(2))], 0));
    s.handle_packet(NOW, Packet::PubComp(ack(2)));
    assert_eq!(s.window(), 1);
    s.handle_packet(NOW, Packet::PubAck(ack(1)));
    assert_eq!((s.window(), s.progress()), (2, 2));
}

/// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1]
#[test]
fn a_resumed_session_sends_again_in_the_old_order_with_the_old_ids_and_dup() {
    let mut s = session(Version::V5);
    for seq in 1..=3 {
        s.deliver(NOW, delivery(if seq == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce }, seq));
    }
    s.handle_packet(NOW, Packet::PubRec(ack(2)));
    let mut s = resumed(Version::V5, s.into_state());
    assert!(s.redelivering());
    assert_eq!(s.window(), 0, "nothing new before the old");
    assert_eq!(s.next_redelivery(), Some((id(1), Some(Origin { stream: 1, seq: 1 }))));
    s.redeliver(NOW, Some((message(None), Vec::new())));
    assert_eq!(s.next_redelivery(), Some((id(3), Some(Origin { stream: 1, seq: 3 }))));
    s.redeliver(NOW, Some((message(None), Vec::new())));
    assert!(!s.redelivering());
    let mut order = Vec::new();
    while let Some(transmit) = s.poll_transmit() {
        order.push(match transmit {
            Transmit::Publish(p) => (p.packet_id, p.dup),
            Transmit::Packet(Packet::PubRel(a)) => (Some(a.packet_id), false),
            Transmit::Packet(other) => panic!("{other:?}"),
        });
    }
    assert_eq!(order, [(Some(id(1)), true), (Some(id(2)), false), (Some(id(3)), true)]);
    // New messages do not take their ids [MQTT-2.2.1-4].
    s.handle_packet(NOW, Packet::PubAck(ack(1)));
    s.deliver(NOW, delivery(QoS::AtLeastOnce, 4));
    assert_eq!(published(&mut s)[0].packet_id, Some(id(4)));
}

#[test]
fn a_message_that_the_log_lost_is_not_sent_again_and_holds_nothing_up() {
    let mut s = session(Version::V5);
    s.deliver(NOW, delivery(QoS::AtLeastOnce, 1));
    let mut s = resumed(Version::V5, s.into_state());
    assert!(s.next_redelivery().is_some());
    s.redeliver(NOW, None);
    assert!(!s.redelivering() && s.in_flight().is_empty());
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn an_expired_message_is_not_sent_and_the_time_waited_is_taken_off() {
    let mut s = session(Version::V5);
    let one = |s: &mut Session, waited: u64| {
        let now = NOW + Duration::from_millis(waited);
        s.deliver(now, Delivery { message: message(Some(10)), ..delivery(QoS::AtMostOnce, 1) })
    };
    assert_eq!(one(&mut s, 3_900), Delivered::Sent);
    assert_eq!(published(&mut s)[0].message_expiry, Some(7));
    assert_eq!(one(&mut s, 9_999), Delivered::Sent);
    assert_eq!(published(&mut s)[0].message_expiry, Some(1));
    assert_eq!(one(&mut s, 10_000), Delivered::Expired);
    assert!(published(&mut s).is_empty());
}

/// [MQTT-3.1.3-8] of 3.1.1, [MQTT-3.1.3-6], [MQTT-3.1.2-21], 3.1.2.11.2
#[test]
fn connect_is_agreed_on() {
    let empty = |version, clean_start| {
        agree(Connect { client_id: String::new(), clean_start, ..connect(version) }).map(|a| (a.client_id, a.assigned))
    };
    assert_eq!(empty(Version::V31, true), Err(ReasonCode::ClientIdNotValid));
    assert_eq!(empty(Version::V311, false), Err(ReasonCode::ClientIdNotValid));
    assert_eq!(empty(Version::V311, true), Ok(("assigned".to_owned(), true)));
    assert_eq!(empty(Version::V5, false), Ok(("assigned".to_owned(), true)));
    let expiry = |version, clean_start, session_expiry| {
        let properties = ConnectProperties { session_expiry, ..ConnectProperties::default() };
        let agreed = agree(Connect { clean_start, properties, ..connect(version) }).expect("accepted");
        (agreed.expiry.0, agreed.asked_expiry.is_some())
    };
    assert_eq!(expiry(Version::V311, true, None).0, 0);
    assert_eq!(expiry(Version::V311, false, None).0, 3600);
    assert_eq!(expiry(Version::V5, false, None), (0, false));
    assert_eq!(expiry(Version::V5, true, Some(5)), (5, false));
    assert_eq!(expiry(Version::V5, true, Some(u32::MAX)), (3600, true));
    let keep_alive = |version, keep_alive| {
        let limits = Limits { max_keep_alive: 30, ..limits() };
        let agreed = negotiate(Connect { keep_alive, ..connect(version) }, &limits, String::new).expect("accepted");
        (agreed.keep_alive, agreed.server_keep_alive)
    };
    assert_eq!(keep_alive(Version::V5, 0), (30, Some(30)));
    assert_eq!(keep_alive(Version::V5, 20), (20, None));
    assert_eq!(keep_alive(Version::V311, 0), (0, None));
}

/// [MQTT-4.12.0-1]
#[test]
fn enhanced_authentication_is_refused() {
    let mut asked = connect(Version::V5);
    asked.properties.authentication_method = Some("SCRAM".to_owned());
    assert_eq!(agree(asked).err(), Some(ReasonCode::BadAuthenticationMethod));
}

/// [MQTT-3.2.2-2]
#[test]
fn session_present_is_told() {
    let present = |clean_start, present| {
        let agreed = agree(Connect { clean_start, ..connect(Version::V311) }).expect("accepted");
        let mut s = Session::new(NOW, &agreed, &limits(), SessionState::default(), present);
        match s.poll_transmit() {
            Some(Transmit::Packet(Packet::ConnAck(ack))) => ack.session_present,
            other => panic!("{other:?}"),
        }
    };
    assert!(present(false, true));
    assert!(!present(false, false));
    assert!(!present(true, true));
}

#[test]
fn ids_wrap_and_skip_those_in_flight() {
    let mut out = Outbound::new(u16::MAX, VecDeque::new(), 65_534);
    let mut next = || out.begin(QoS::AtLeastOnce, false, None, None).map(|i| i.0.get());
    assert_eq!([next(), next(), next()], [Some(65_534), Some(65_535), Some(1)]);
    for n in 2..65_534 {
        assert_eq!(next(), Some(n));
    }
    assert_eq!(next(), None, "all are in use");
    out.puback(id(7)).expect("in flight");
    assert_eq!(out.begin(QoS::AtLeastOnce, false, None, None), Some(id(7)));
}

#[derive(Clone, Debug)]
enum Input {
    Packet(Packet),
    Deliver(QoS),
    Answer(u64),
    Durable(u64),
    Redeliver(bool),
    Pass(u64),
    Reconnect,
}

fn any_qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn any_input() -> impl Strategy<Value = Input> {
    let small = 1u16..6;
    let reason = prop_oneof![4 => Just(ReasonCode::Success), 1 => Just(ReasonCode::UnspecifiedError)];
    prop_oneof![
        6 => (any_qos(), small.clone()).prop_map(|(q, n)| Input::Packet(publish(q, n))),
        3 => small.clone().prop_map(|n| Input::Packet(Packet::PubAck(ack(n)))),
        3 => (small.clone(), reason).prop_map(|(n, reason)| Input::Packet(Packet::PubRec(Ack { reason, ..ack(n) }))),
        3 => small.clone().prop_map(|n| Input::Packet(Packet::PubRel(ack(n)))),
        3 => small.prop_map(|n| Input::Packet(Packet::PubComp(ack(n)))),
        1 => (0u16..20, any::<bool>()).prop_map(|(n, t)| Input::Packet(aliased(t.then_some("a"), n))),
        1 => Just(Input::Packet(Packet::PingReq)),
        6 => any_qos().prop_map(Input::Deliver),
        6 => (0u64..3).prop_map(Input::Answer),
        6 => (0u64..4).prop_map(Input::Durable),
        3 => any::<bool>().prop_map(Input::Redeliver),
        1 => (0u64..8).prop_map(Input::Pass),
        1 => Just(Input::Reconnect),
    ]
}

proptest! {
    /// Whatever comes in whatever order: no panic, never more in flight than allowed, ids unique, acknowledgements of publishes in
    /// the order of arrival and never ahead of the mark (G1), a QoS 2 id handed out once until it is released.
    #[test]
    fn any_sequence_keeps_the_promises(
        version in prop_oneof![Just(Version::V311), Just(Version::V5)],
        inputs in proptest::collection::vec(any_input(), 0..200),
    ) {
        let mut s = session(version);
        let (mut now, mut ticket, mut mark, mut seq) = (NOW, 0, 0, 0);
        // What the router was given and has not answered; what was answered, with its ticket, and not acknowledged.
        let mut open: VecDeque<Option<(PacketId, QoS)>> = VecDeque::new();
        let mut owed: VecDeque<((PacketId, QoS), u64)> = VecDeque::new();
        let mut held: BTreeSet<PacketId> = BTreeSet::new();
        for input in inputs {
            match input {
                Input::Packet(packet) => s.handle_packet(now, packet),
                Input::Deliver(qos) => {
                    seq += 1;
                    let room = s.window() > 0;
                    let outcome = s.deliver(now, delivery(qos, seq));
                    prop_assert_eq!(outcome == Delivered::Sent, qos == QoS::AtMostOnce || room);
                }
                Input::Answer(step) => {
                    if let Some(publish) = open.pop_front() {
                        ticket += step;
                        if let Some(publish) = publish {
                            owed.push_back((publish, ticket));
                        }
                        s.answer(done(ticket));
                    }
                }
                Input::Durable(step) => {
                    mark = (mark + step).min(ticket);
                    s.durable(AckTicket(mark));
                }
                Input::Redeliver(found) => {
                    if s.next_redelivery().is_some() {
                        s.redeliver(now, found.then(|| (message(None), Vec::new())));
                    }
                }
                Input::Pass(seconds) => {
                    now = now + Duration::from_secs(seconds);
                    s.timeout(now, Reading::Active);
                }
                Input::Reconnect => {
                    s = resumed(version, s.into_state());
                    s.durable(AckTicket(mark));
                    s.heard(now);
                    // Messages that were not answered are as if never received, acknowledgements that were owed are not sent.
                    for (packet_id, _) in open.drain(..).flatten() {
                        held.remove(&packet_id);
                    }
                    owed.clear();
                }
            }
            while let Some(action) = s.poll_action() {
                match action {
                    Action::Publish(p) => {
                        prop_assert!(p.topic.is_some());
                        if p.qos == QoS::ExactlyOnce {
                            prop_assert!(held.insert(p.packet_id.expect("QoS 2")), "[MQTT-4.3.3-10]");
                        }
                        if p.qos > QoS::AtMostOnce {
                            open.push_back(p.packet_id.map(|packet_id| (packet_id, p.qos)));
                        }
                    }
                    Action::Release(released) => {
                        held.remove(&released);
                        open.push_back(None);
                    }
                    Action::Subscribe(_) | Action::Unsubscribe(_) => unreachable!("none was sent"),
                    Action::Close(_) => return Ok(()),
                }
            }
            while let Some(transmit) = s.poll_transmit() {
                // A client may use one id for a QoS 1 and a QoS 2 message at once.
                let acknowledged = match transmit {
                    Transmit::Packet(Packet::PubAck(a)) => (a.packet_id, QoS::AtLeastOnce),
                    Transmit::Packet(Packet::PubRec(a)) => (a.packet_id, QoS::ExactlyOnce),
                    Transmit::Packet(_) | Transmit::Publish(_) => continue,
                };
                // Repeated PUBRECs are not among the owed; they come behind the first one.
                if let Some(at) = owed.iter().position(|(publish, _)| *publish == acknowledged) {
                    prop_assert_eq!(at, 0, "[MQTT-4.6.0-2, MQTT-4.6.0-3]");
                    let (_, ticket) = owed.pop_front().expect("found");
                    prop_assert!(ticket <= mark, "G1");
                }
            }
            let ids: BTreeSet<_> = s.in_flight().iter().map(|e| e.packet_id).collect();
            prop_assert_eq!(ids.len(), s.in_flight().len(), "[MQTT-2.2.1-4]");
            prop_assert!(s.in_flight().len() <= 3, "[MQTT-3.3.4-9]");
        }
    }
}

#[test]
fn a_will_is_kept_as_the_client_gave_it() {
    let will = Will {
        topic: "w".parse().expect("valid"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: true,
        delay: 5,
        properties: None,
    };
    let agreed = agree(Connect { will: Some(will.clone()), ..connect(Version::V5) }).expect("accepted");
    assert_eq!(agreed.will, Some(will));
}
