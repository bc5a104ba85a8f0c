//! Who is there, and what outlives a connection.

use std::collections::VecDeque;
use std::time::Duration;

use super::*;
use crate::mqtt::packet::{PacketId, Unsubscribe, Will};
use crate::mqtt::session::{InFlight, Origin, ReceivedIds, Stage};

fn will(delay: u32) -> Option<Box<Will>> {
    Some(Box::new(Will {
        topic: "w".parse().expect("valid"),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay,
        properties: None,
    }))
}

fn after(seconds: u64) -> Monotonic {
    NOW + Duration::from_secs(seconds)
}

fn id(n: u16) -> PacketId {
    PacketId(std::num::NonZeroU16::new(n).expect("above 0"))
}

/// [MQTT-3.1.4-3]
#[test]
fn a_session_in_use_is_given_only_after_it_was_given_back() {
    let (mut router, _) = router();
    let key = attach(&mut router, "c", 100);
    assert_eq!(router.attach(&agreed("c", 100, true)).err(), Some(AttachError::InUse(key)));
    router.detach(NOW, key, leaving(100));
    assert!(router.attach(&agreed("c", 100, false)).is_ok_and(|a| a.present));
}

/// [MQTT-3.1.2-4] [MQTT-3.1.2-5]
#[test]
fn a_clean_start_ends_the_old_session_on_disk_too() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    subscribe(&mut router, key, "a/#", QoS::AtLeastOnce);
    save(&mut router, &log, key);
    let state = SessionState { received: ReceivedIds::restored([id(5)]), ..SessionState::default() };
    router.detach(NOW, key, Leaving { state, ..leaving(100) });
    assert!(log.has(SESSIONS, b"c"));
    log.tables.borrow_mut().insert((RECEIVED.0, b"\x00\x05c".to_vec()), Bytes::from_static(b"\x01"));
    let attached = router.attach(&agreed("c", 100, true)).expect("there is room");
    assert!(!attached.present);
    publish(&mut router, &log, msg("a/1", "1", QoS::AtLeastOnce));
    assert!(pull(&mut router, attached.key).is_empty());
    router.flush_deletes(&log).expect("there is room");
    assert!(!log.has(SESSIONS, b"c") && !log.has(PROGRESS, b"c") && !log.has(RECEIVED, b"\x00\x05c"));
}

fn save(router: &mut Router, log: &FakeLog, key: SessionKey) {
    let progress = Progress { in_flight: &VecDeque::new(), reading: None, replays: &[] };
    router.save_session(log, key, progress).expect("there is room");
}

/// [MQTT-3.1.2-23]
#[test]
fn a_session_that_does_not_persist_leaves_nothing() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    subscribe(&mut router, key, "a/#", QoS::AtLeastOnce);
    save(&mut router, &log, key);
    let detached = router.detach(NOW, key, leaving(0));
    assert!(!detached.persists && log.groups.borrow().is_empty());
    assert_eq!(router.sizes(), (0, 0, 0));
}

#[test]
fn disconnect_with_expiry_0_ends_a_session_that_was_stored() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    save(&mut router, &log, key);
    router.detach(NOW, key, leaving(0));
    router.flush_deletes(&log).expect("there is room");
    assert!(!log.has(SESSIONS, b"c") && !log.has(PROGRESS, b"c"));
}

#[test]
fn the_bounds_on_sessions_and_subscriptions_hold() {
    let (mut router, _) = router();
    for n in 0..4 {
        attach(&mut router, &n.to_string(), 100);
    }
    assert_eq!(router.attach(&agreed("x", 0, true)).err(), Some(AttachError::TooManySessions));
    let key = router.by_client["0"];
    for f in ["1", "2", "3"] {
        assert_eq!(subscribe(&mut router, key, f, QoS::AtMostOnce).0, ReasonCode::Success);
    }
    assert_eq!(subscribe(&mut router, key, "4", QoS::AtMostOnce).0, ReasonCode::QuotaExceeded);
    // [MQTT-3.8.4-3]: an identical filter replaces.
    assert_eq!(subscribe(&mut router, key, "3", QoS::ExactlyOnce).0, ReasonCode::GrantedQoS2);
    assert_eq!(router.sizes().2, 3);
}

/// [MQTT-3.8.4-6] [MQTT-3.11.3-1] [MQTT-3.10.4-1]
#[test]
fn every_filter_gets_its_own_reason() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    let options = SubscriptionOptions::default();
    let packet = Subscribe {
        filters: vec![
            (Ok("a/#".parse().expect("valid")), options),
            (Err("a/#/b".to_owned()), options),
            (Ok("$share/g/a".parse().expect("valid")), options),
        ],
        ..filter("x", QoS::AtMostOnce)
    };
    let reasons = router.subscribe(key, packet, &mut Vec::new());
    assert_eq!(reasons, [ReasonCode::Success, ReasonCode::TopicFilterInvalid, ReasonCode::Success]);
    let packet = Unsubscribe {
        packet_id: id(1),
        user: Vec::new(),
        filters: vec![Ok("a/#".parse().expect("valid")), Ok("a/#".parse().expect("valid")), Err("+x".to_owned())],
    };
    let reasons = router.unsubscribe(key, packet, &mut Vec::new());
    assert_eq!(reasons, [ReasonCode::Success, ReasonCode::NoSubscriptionExisted, ReasonCode::TopicFilterInvalid]);
    publish(&mut router, &log, msg("a/1", "1", QoS::AtMostOnce));
    assert!(pull(&mut router, key).is_empty());
}

/// [MQTT-3.1.2-8] [MQTT-3.1.3-9], 3.1.3.2.2
#[test]
fn a_will_waits_for_its_delay_or_the_end_of_the_session() {
    let (mut router, _) = router();
    let mut leave = |client: &str, expiry: u32, delay: u32| {
        let key = attach(&mut router, client, expiry);
        router.detach(NOW, key, Leaving { will: will(delay), ..leaving(expiry) }).will.is_some()
    };
    assert!(leave("now", 100, 0));
    assert!(leave("no session", 0, 50), "the session has ended");
    assert!(!leave("later", 100, 50));
    assert!(!leave("session first", 20, 50));
    assert!(!leave("back", 100, 30));
    assert!(router.attach(&agreed("back", 100, false)).is_ok_and(|a| a.will.is_none()));
    assert_eq!(router.next_timeout(), Some(after(20)));
    assert!(router.timeout(after(19)).is_none());
    assert!(router.timeout(after(20)).is_some());
    assert_eq!(router.counters().sessions_expired, 1);
    assert!(router.timeout(after(49)).is_none());
    assert!(router.timeout(after(50)).is_some());
    assert!(router.timeout(after(50)).is_none());
}

#[test]
fn a_clean_start_publishes_the_will_that_the_old_session_still_waited_with() {
    let (mut router, _) = router();
    let key = attach(&mut router, "c", 100);
    router.detach(NOW, key, Leaving { will: will(50), ..leaving(100) });
    let attached = router.attach(&agreed("c", 100, true)).expect("there is room");
    assert!(attached.will.is_some());
    assert!(router.timeout(after(200)).is_none());
}

#[test]
fn sessions_end_when_their_expiry_has_passed_and_never_without() {
    let (mut router, log) = router();
    for (client, expiry) in [("short", 10), ("long", 20), ("never", u32::MAX)] {
        let key = attach(&mut router, client, expiry);
        subscribe(&mut router, key, "a/#", QoS::AtLeastOnce);
        save(&mut router, &log, key);
        router.detach(NOW, key, leaving(expiry));
    }
    assert!(router.timeout(after(10)).is_none());
    assert_eq!(router.sizes().0, 2);
    router.timeout(after(10_000_000));
    assert_eq!(router.sizes().0, 1);
    router.flush_deletes(&log).expect("there is room");
    assert!(!log.has(SESSIONS, b"long") && log.has(SESSIONS, b"never"));
}

#[test]
fn a_restart_brings_sessions_back_as_they_were() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    let options = SubscriptionOptions { qos: QoS::ExactlyOnce, no_local: true, ..SubscriptionOptions::default() };
    router.subscribe(key, subscribe_packet("a/#", options, Some(4)), &mut Vec::new());
    publish(&mut router, &log, Publish { retain: true, ..msg("a/r", "kept", QoS::AtLeastOnce) });
    save(&mut router, &log, key);
    let in_flight = VecDeque::from([
        InFlight {
            packet_id: id(3),
            stage: Stage::AwaitsRec,
            retain: true,
            origin: Some(Origin { stream: 1, seq: 1 }),
            share: None,
        },
        InFlight { packet_id: id(2), stage: Stage::AwaitsComp, retain: false, origin: None, share: None },
    ]);
    publish_as(
        &mut router,
        &log,
        Publisher::Client(key, Version::V5),
        &[Publish { packet_id: Some(id(77)), ..msg("n/1", "1", QoS::ExactlyOnce) }],
    );
    pull(&mut router, key);
    let state = SessionState { in_flight: in_flight.clone(), received: ReceivedIds::default(), next_packet_id: 9 };
    router.detach(NOW, key, Leaving { state, will: will(50), ..leaving(100) });
    router.save_progress(&log, key, None).expect("there is room");
    let (mut router, report) = restored(&log, after(30));
    assert_eq!((report.sessions, report.retained, report.unreadable), (1, 1, 0));
    assert_eq!(router.next_timeout(), Some(after(50)), "the will, 50 seconds after the client left");
    publish(&mut router, &log, msg("a/2", "missed", QoS::ExactlyOnce));
    let back = router.attach(&agreed("c", 100, false)).expect("there is room");
    assert!(back.present && back.catch_up.is_some());
    assert_eq!(back.state.in_flight, in_flight);
    assert_eq!((back.state.next_packet_id, back.state.received.iter().collect::<Vec<_>>()), (9, vec![77]));
    log.sync();
    let page = router.filter_page(back.key, StreamIndex(0), log.read(StreamId(1), Seq(2), 10));
    let mut reader = CatchUp::new(Positions(vec![Seq(2); 3]));
    reader.accept(StreamIndex(0), page);
    let delivery = reader.pop().expect("it was missed");
    assert_eq!((delivery.qos, delivery.subscription_ids), (QoS::ExactlyOnce, vec![4]));
    let other = attach(&mut router, "new", 0);
    assert_eq!(subscribe(&mut router, other, "a/+", QoS::AtLeastOnce).1.len(), 1, "the retained message is back");
}

/// G7
#[test]
fn a_session_that_was_connected_when_the_broker_was_killed_is_away_from_the_restart_on() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    save(&mut router, &log, key);
    let (mut router, _) = restored(&log, after(5_000));
    assert_eq!(router.next_timeout(), Some(after(5_100)));
    router.timeout(after(5_099));
    assert_eq!(router.sizes().0, 1);
}

#[test]
fn damaged_records_are_counted_and_left_alone() {
    let (mut router, log) = router();
    let key = attach(&mut router, "good", 100);
    save(&mut router, &log, key);
    for (table, value) in [(SESSIONS, &b"\x01\xff"[..]), (PROGRESS, b"\x09"), (RETAINED, b""), (PROGRESS, b"\x01\x00")]
    {
        log.tables
            .borrow_mut()
            .insert((table.0, format!("bad{}", value.len()).into_bytes()), Bytes::copy_from_slice(value));
    }
    let (router, report) = restored(&log, NOW);
    assert_eq!((report.sessions, report.unreadable), (1, 4));
    assert_eq!(router.sizes().0, 1);
}

/// The bytes of version 1 of every record. They lie in people's data directories: a change needs a new version byte.
#[test]
fn records_of_version_1_still_load() {
    let log = FakeLog::default();
    let session = b"\x01\x01\x03a/#\x02\x01\x07\x00";
    let progress = b"\x01\x64\x01\x03\x00\x01\x01\x05\x01\x04\x00\x00\x01\x01\x05\x09\x00\x00\x00";
    let retained = b"\x01\x03\x00\x01\x00\x02hi";
    for (table, key, value) in [
        (SESSIONS, &b"c"[..], &session[..]),
        (PROGRESS, b"c", progress),
        (RETAINED, b"a/1", retained),
        (RECEIVED, b"\x00\x05c", b"\x01"),
    ] {
        log.tables.borrow_mut().insert((table.0, key.to_vec()), Bytes::copy_from_slice(value));
    }
    let (mut router, report) = restored(&log, NOW);
    assert_eq!((report.sessions, report.retained, report.unreadable), (1, 1, 0));
    let back = router.attach(&agreed("c", 100, false)).expect("there is room");
    let in_flight = InFlight {
        packet_id: id(4),
        stage: Stage::AwaitsAck,
        retain: false,
        origin: Some(Origin { stream: 1, seq: 5 }),
        share: None,
    };
    assert_eq!(back.state.in_flight, [in_flight]);
    assert_eq!((back.state.next_packet_id, back.state.received.iter().collect::<Vec<_>>()), (9, vec![5]));
}

/// [MQTT-3.1.2-8]: a kill of the broker ends the connection, too.
#[test]
fn the_will_of_a_client_that_was_connected_outlives_a_kill() {
    for (delay, due) in [(0, 0), (50, 50), (500, 100)] {
        let (mut router, log) = router();
        let key = attach(&mut router, "c", 100);
        let progress = Progress { in_flight: &VecDeque::new(), reading: None, replays: &[] };
        router.save_connect(&log, key, progress, will(delay).as_deref()).expect("there is room");
        // Killed here, and again before the will is due.
        for start in [1_000, 2_000] {
            let (router, report) = restored(&log, after(start));
            assert_eq!((report.sessions, report.unreadable), (1, 0));
            assert_eq!(router.next_timeout(), Some(after(start + due)));
        }
        let (mut router, _) = restored(&log, after(3_000));
        assert_eq!(router.timeout(after(3_000 + due)), will(delay), "after {delay} s");
        router.flush_deletes(&log).expect("there is room");
        // It was published: not again.
        let (mut router, _) = restored(&log, after(4_000));
        assert_eq!(router.timeout(after(4_000 + due)), None);
        assert!(!log.has(WILLS, b"c"));
    }
}

#[test]
fn a_will_on_disk_goes_with_a_goodbye_and_with_a_connect_without_one() {
    let (mut router, log) = router();
    let progress = Progress { in_flight: &VecDeque::new(), reading: None, replays: &[] };
    let key = attach(&mut router, "c", 100);
    router.save_connect(&log, key, progress, will(0).as_deref()).expect("there is room");
    assert!(log.has(WILLS, b"c"));
    router.detach(NOW, key, leaving(100));
    router.save_progress(&log, key, None).expect("there is room");
    assert!(!log.has(WILLS, b"c"));
    let key = attach(&mut router, "c", 100);
    router.save_connect(&log, key, progress, will(0).as_deref()).expect("there is room");
    let (mut router, _) = restored(&log, NOW);
    let key = attach(&mut router, "c", 100);
    router.save_connect(&log, key, progress, None).expect("there is room");
    assert!(!log.has(WILLS, b"c"));
}

/// A delayed will is published once, also when the broker is restarted afterwards.
#[test]
fn a_delayed_will_that_was_published_does_not_come_again_after_a_restart() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    router.detach(NOW, key, Leaving { will: will(50), ..leaving(100) });
    router.save_progress(&log, key, None).expect("there is room");
    assert_eq!(router.timeout(after(50)), will(50));
    router.flush_deletes(&log).expect("there is room");
    let (mut router, report) = restored(&log, after(60));
    assert_eq!((report.sessions, router.timeout(after(60))), (1, None));
}

#[test]
fn another_user_with_the_same_client_id_gets_a_new_session() {
    let by = |user: Option<&str>| Negotiated { user: user.map(Arc::from), ..agreed("c", 100, false) };
    let progress = Progress { in_flight: &VecDeque::new(), reading: None, replays: &[] };
    for restart in [false, true] {
        for (first, second, present) in [
            (Some("ann"), Some("ann"), true),
            (Some("ann"), Some("bob"), false),
            (Some("ann"), None, false),
            (None, None, true),
            // As sessions are that were stored before there were users.
            (None, Some("bob"), true),
        ] {
            let (mut router, log) = router();
            let key = router.attach(&by(first)).expect("there is room").key;
            router.save_connect(&log, key, progress, None).expect("there is room");
            subscribe(&mut router, key, "a/#", QoS::AtLeastOnce);
            save(&mut router, &log, key);
            router.detach(NOW, key, leaving(100));
            router.save_progress(&log, key, None).expect("there is room");
            if restart {
                router = restored(&log, NOW).0;
            }
            let attached = router.attach(&by(second)).expect("there is room");
            assert_eq!(attached.present, present, "{first:?} {second:?} {restart}");
            assert_eq!(router.sizes().2, usize::from(present));
            assert_eq!(router.counters().sessions_of_others, u64::from(!present));
            // It is the second one's from now on.
            router.save_connect(&log, attached.key, progress, None).expect("there is room");
            router.detach(NOW, attached.key, leaving(100));
            router.save_progress(&log, attached.key, None).expect("there is room");
            assert!(restored(&log, NOW).0.attach(&by(second)).expect("there is room").present);
        }
    }
}
