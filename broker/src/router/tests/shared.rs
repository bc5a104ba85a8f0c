//! Shared subscriptions (4.8.2).

use std::collections::VecDeque;
use std::num::NonZeroU16;

use super::*;
use crate::auth::acl::Acl;
use crate::mqtt::packet::{PacketId, Unsubscribe};
use crate::mqtt::session::{InFlight, Stage};

const SHARED: &str = "$share/g/a/#";

fn member(router: &mut Router, client_id: &str, expiry: u32, qos: QoS) -> SessionKey {
    let key = attach(router, client_id, expiry);
    assert!((subscribe(router, key, SHARED, qos).0 as u8) < 3);
    key
}

fn send(router: &mut Router, log: &FakeLog, payloads: std::ops::Range<u32>) {
    for n in payloads {
        publish(router, log, msg("a/x", &n.to_string(), QoS::AtLeastOnce));
    }
}

/// As a connection does it: what was in flight before, and what is pulled now.
fn take(router: &mut Router, key: SessionKey, in_flight: &mut VecDeque<InFlight>, window: usize) -> Vec<String> {
    let mut out = Vec::new();
    router.pull(key, window, 100_000, &mut out);
    router.note_in_flight(key, in_flight, &out);
    for (n, d) in (1u16..).zip(&out) {
        let packet_id = PacketId(NonZeroU16::new(n).expect("counted from 1"));
        let stage = if d.qos == QoS::ExactlyOnce { Stage::AwaitsRec } else { Stage::AwaitsAck };
        in_flight.push_back(InFlight { packet_id, stage, retain: d.retain, origin: d.origin, share: d.share });
    }
    payloads(&out)
}

/// What the server's task does.
fn serve(router: &mut Router, log: &FakeLog) {
    log.sync();
    while let Some(read) = router.share_read() {
        let batch = log.read(read.stream_id, read.from, 2);
        if !router.share_page(&read, batch) {
            return;
        }
    }
}

/// A client that comes back reads the log for its own subscriptions first.
fn come_back(router: &mut Router, log: &FakeLog, client_id: &str) -> SessionKey {
    log.sync();
    let Attached { key, catch_up, .. } = router.attach(&agreed(client_id, 100, false)).expect("there is room");
    let Some(mut reader) = catch_up.map(CatchUp::new) else { return key };
    loop {
        match reader.step() {
            Step::Read(stream, from) if router.concerns(key, stream) => {
                let page = router.filter_page(key, stream, log.read(router.stream_id(stream), from, 10));
                reader.accept(stream, page);
            }
            Step::Read(stream, _) => reader.accept(stream, router.skip_stream(stream)),
            Step::Join => router.join(key, &mut reader),
            Step::GoLive => {
                assert!(router.go_live(key, &mut reader));
                return key;
            }
            step @ (Step::Deliver | Step::WaitDurable) => panic!("{step:?}: nothing is for this session alone"),
        }
    }
}

fn leave(router: &mut Router, log: &FakeLog, key: SessionKey, expiry: u32, in_flight: VecDeque<InFlight>) {
    let state = SessionState { in_flight, received: Default::default(), next_packet_id: 1 };
    router.detach(NOW, key, Leaving { state, ..leaving(expiry) });
    router.save_progress(log, key, None).expect("there is room");
    router.save_shares(log).expect("there is room");
}

#[test]
fn each_message_goes_to_one_member_and_to_the_least_loaded_one() {
    let (mut router, log) = router();
    let (a, b) = (member(&mut router, "a", 0, QoS::AtLeastOnce), member(&mut router, "b", 0, QoS::AtLeastOnce));
    let other = attach(&mut router, "other", 0);
    subscribe(&mut router, other, "a/#", QoS::AtLeastOnce);
    send(&mut router, &log, 0..2);
    let (mut of_a, mut of_b) = (VecDeque::new(), VecDeque::new());
    assert_eq!(take(&mut router, a, &mut of_a, 9).len(), 1);
    assert_eq!(take(&mut router, b, &mut of_b, 9).len(), 1);
    assert_eq!(payloads(&pull(&mut router, other)), ["0", "1"]);
    // `b` acknowledges, `a` does not: the next two are for `b`, until both have as much.
    of_b.clear();
    take(&mut router, b, &mut of_b, 9);
    take(&mut router, a, &mut of_a, 0);
    send(&mut router, &log, 2..3);
    assert_eq!(take(&mut router, b, &mut of_b, 9), ["2"]);
    assert_eq!(take(&mut router, a, &mut of_a, 9), [""; 0]);
}

#[test]
fn qos_is_that_of_the_member_and_retained_messages_are_not_sent() {
    let (mut router, log) = router();
    publish(&mut router, &log, Publish { retain: true, ..msg("a/r", "kept", QoS::AtLeastOnce) });
    let key = attach(&mut router, "a", 0);
    let (reason, replays) = subscribe(&mut router, key, SHARED, QoS::ExactlyOnce);
    assert_eq!((reason, replays), (ReasonCode::GrantedQoS2, Vec::new()));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publish(&mut router, &log, msg("a/x", "m", qos));
        assert_eq!(pull(&mut router, key)[0].qos, qos);
    }
    subscribe(&mut router, key, SHARED, QoS::AtMostOnce);
    publish(&mut router, &log, msg("a/x", "m", QoS::ExactlyOnce));
    assert_eq!(pull(&mut router, key)[0].qos, QoS::AtMostOnce);
}

#[test]
fn what_a_member_did_not_acknowledge_moves_when_it_leaves_but_not_qos_2_in_flight() {
    let (mut router, log) = router();
    let a = member(&mut router, "a", 100, QoS::ExactlyOnce);
    publish(&mut router, &log, msg("a/x", "exact", QoS::ExactlyOnce));
    send(&mut router, &log, 1..3);
    let mut of_a = VecDeque::new();
    assert_eq!(take(&mut router, a, &mut of_a, 2), ["exact", "1"]);
    let b = member(&mut router, "b", 0, QoS::AtLeastOnce);
    leave(&mut router, &log, a, 100, of_a);
    serve(&mut router, &log);
    assert_eq!(payloads(&pull(&mut router, b)), ["1", "2"]);
    assert_eq!(router.counters().shared_moved, 2);
    let back = router.attach(&agreed("a", 100, false)).expect("there is room");
    assert_eq!(back.state.in_flight.len(), 1);
    assert_eq!(back.state.in_flight[0].stage, Stage::AwaitsRec);
}

#[test]
fn a_group_whose_members_are_all_busy_goes_on_from_the_log_in_order() {
    let (mut router, log) = router();
    let (a, b) = (member(&mut router, "a", 0, QoS::AtLeastOnce), member(&mut router, "b", 0, QoS::AtLeastOnce));
    // Queues hold 3 each.
    send(&mut router, &log, 0..20);
    let mut got: Vec<u32> = Vec::new();
    for _ in 0..10 {
        for key in [a, b] {
            let texts = take(&mut router, key, &mut VecDeque::new(), 9);
            got.extend(texts.iter().map(|t| t.parse::<u32>().expect("a number")));
        }
        serve(&mut router, &log);
    }
    got.sort_unstable();
    assert_eq!(got, (0..20).collect::<Vec<_>>());
    assert_eq!((router.counters().dropped_unstored, router.counters().dropped_queue_full), (0, 0));
    // Live again.
    send(&mut router, &log, 20..21);
    let (of_a, of_b) = (pull(&mut router, a), pull(&mut router, b));
    assert_eq!(of_a.len() + of_b.len(), 1);
}

/// What no stream captures is stored for the group, so that it can move.
#[test]
fn members_that_are_away_find_what_came_meanwhile_also_after_a_restart() {
    for topic in ["a/x", "n/x"] {
        let (mut router, log) = router();
        let shared = format!("$share/g/{topic}");
        let key = attach(&mut router, "a", 100);
        subscribe(&mut router, key, &shared, QoS::AtLeastOnce);
        let progress = Progress { in_flight: &VecDeque::new(), reading: None, replays: &[] };
        router.save_session(&log, key, progress).expect("there is room");
        assert!(log.has(SHARES, shared.as_bytes()));
        leave(&mut router, &log, key, 100, VecDeque::new());
        for n in 0..5 {
            publish(&mut router, &log, msg(topic, &n.to_string(), QoS::AtLeastOnce));
        }
        let (mut router, report) = restored(&log, NOW);
        assert_eq!((report.sessions, report.unreadable), (1, 0));
        let back = come_back(&mut router, &log, "a");
        let mut got = Vec::new();
        for _ in 0..3 {
            serve(&mut router, &log);
            got.extend(take(&mut router, back, &mut VecDeque::new(), 9));
        }
        assert_eq!(got, ["0", "1", "2", "3", "4"], "{topic}");
        // All acknowledged and saved: nothing comes twice.
        leave(&mut router, &log, back, 100, VecDeque::new());
        let (mut router, _) = restored(&log, NOW);
        let back = come_back(&mut router, &log, "a");
        serve(&mut router, &log);
        assert_eq!(payloads(&pull(&mut router, back)), [""; 0]);
    }
}

#[test]
fn a_kill_loses_nothing_that_was_in_flight() {
    let (mut router, log) = router();
    let key = member(&mut router, "a", 100, QoS::AtLeastOnce);
    fn progress(in_flight: &VecDeque<InFlight>) -> Progress<'_> {
        Progress { in_flight, reading: None, replays: &[] }
    }
    let nothing = VecDeque::new();
    router.save_session(&log, key, progress(&nothing)).expect("there is room");
    send(&mut router, &log, 0..3);
    let mut in_flight = VecDeque::new();
    take(&mut router, key, &mut in_flight, 2);
    router.save_shares(&log).expect("there is room");
    router.save_progress(&log, key, Some(progress(&in_flight))).expect("there is room");
    // Killed here.
    let (mut router, _) = restored(&log, NOW);
    let back = router.attach(&agreed("a", 100, false)).expect("there is room");
    assert_eq!(back.state.in_flight.len(), 0, "they are the group's");
    serve(&mut router, &log);
    assert_eq!(payloads(&pull(&mut router, back.key)), ["0", "1", "2"]);
}

fn unsubscribe(router: &mut Router, key: SessionKey) {
    let filters = vec![Ok(SHARED.parse().expect("valid"))];
    let packet = Unsubscribe { packet_id: PacketId(NonZeroU16::MIN), user: Vec::new(), filters };
    assert_eq!(router.unsubscribe(key, packet, &mut Vec::new()), [ReasonCode::Success]);
}

fn save(router: &mut Router, log: &FakeLog, key: SessionKey, in_flight: &VecDeque<InFlight>) {
    let progress = Progress { in_flight, reading: None, replays: &[] };
    router.save_session(log, key, progress).expect("there is room");
    router.save_shares(log).expect("there is room");
}

/// `a` with one message in flight and one queued, and another member with two queued.
fn with_one_in_flight(expiry_of_b: u32) -> (Router, FakeLog, SessionKey, SessionKey, VecDeque<InFlight>) {
    let (mut router, log) = router();
    let (a, b) =
        (member(&mut router, "a", 100, QoS::AtLeastOnce), member(&mut router, "b", expiry_of_b, QoS::AtLeastOnce));
    for key in [a, b] {
        save(&mut router, &log, key, &VecDeque::new());
    }
    send(&mut router, &log, 0..4);
    let mut in_flight = VecDeque::new();
    assert_eq!(take(&mut router, a, &mut in_flight, 1), ["0"]);
    save(&mut router, &log, a, &in_flight);
    (router, log, a, b, in_flight)
}

/// [MQTT-3.10.4-3], also across a kill, and whoever else is in the group.
#[test]
fn a_kept_session_that_unsubscribes_goes_on_with_what_it_had_in_flight() {
    for expiry_of_b in [0, 100] {
        for again in [false, true] {
            let (mut router, log, a, b, in_flight) = with_one_in_flight(expiry_of_b);
            unsubscribe(&mut router, a);
            save(&mut router, &log, a, &in_flight);
            if again {
                // A member as before: the group answers for it again.
                subscribe(&mut router, a, SHARED, QoS::AtLeastOnce);
                save(&mut router, &log, a, &in_flight);
            } else {
                // What was not sent yet is for the others, at once.
                serve(&mut router, &log);
                let mut got = payloads(&pull(&mut router, b));
                got.sort_unstable();
                assert_eq!(got, ["1", "2", "3"]);
            }
            // Killed here.
            let (mut router, _) = restored(&log, NOW);
            let back = router.attach(&agreed("a", 100, false)).expect("there is room");
            let own: Vec<_> = back.state.in_flight.iter().filter_map(|e| e.origin).map(|o| o.seq).collect();
            if again {
                serve(&mut router, &log);
                assert!(own.is_empty() && payloads(&pull(&mut router, back.key)).contains(&"0".to_owned()));
            } else {
                assert_eq!(own, [1], "{expiry_of_b}");
            }
        }
    }
}

#[test]
fn a_session_that_has_left_its_group_keeps_what_it_had_in_flight_when_it_disconnects() {
    for expiry in [0, 100] {
        let (mut router, log, a, b, in_flight) = with_one_in_flight(0);
        unsubscribe(&mut router, a);
        serve(&mut router, &log);
        assert_eq!(pull(&mut router, b).len(), 3);
        leave(&mut router, &log, a, expiry, in_flight);
        serve(&mut router, &log);
        let moved = payloads(&pull(&mut router, b));
        let back = router.attach(&agreed("a", 100, false)).expect("there is room");
        // A session that ends leaves it to the others.
        let expected = if expiry == 0 { (vec!["0".to_owned()], 0) } else { (Vec::new(), 1) };
        assert_eq!((moved, back.state.in_flight.len()), expected);
    }
}

#[test]
fn a_group_ends_with_its_last_member_and_its_record_with_it() {
    let (mut router, log) = router();
    let key = member(&mut router, "a", 100, QoS::AtLeastOnce);
    let progress = Progress { in_flight: &VecDeque::new(), reading: None, replays: &[] };
    router.save_session(&log, key, progress).expect("there is room");
    assert_eq!(router.share_groups(), 1);
    unsubscribe(&mut router, key);
    router.flush_deletes(&log).expect("there is room");
    assert_eq!((router.share_groups(), router.sizes().2), (0, 0));
    assert!(!log.has(SHARES, SHARED.as_bytes()));
    send(&mut router, &log, 0..1);
    assert_eq!(payloads(&pull(&mut router, key)), [""; 0]);
}

#[test]
fn a_member_gets_only_what_it_may_read_and_subscribes_only_to_that() {
    let (mut router, log) = router();
    let (a, b) = (member(&mut router, "a", 0, QoS::AtLeastOnce), member(&mut router, "b", 0, QoS::AtLeastOnce));
    let access = Acl::parse("topic read a/open/#").expect("proper").access(None, "a").expect("plain");
    router.set_access(a, Some(Arc::new(access)));
    for topic in ["a/secret", "a/secret", "a/open/1"] {
        publish(&mut router, &log, msg(topic, topic, QoS::AtLeastOnce));
    }
    assert_eq!(payloads(&pull(&mut router, b)), ["a/secret", "a/secret"]);
    assert_eq!(payloads(&pull(&mut router, a)), ["a/open/1"]);
    assert_eq!(subscribe(&mut router, a, "$share/h/b/#", QoS::AtLeastOnce).0, ReasonCode::NotAuthorized);
}
