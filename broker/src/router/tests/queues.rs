//! The bound of all queues together.

use proptest::prelude::*;

use super::super::queues::entry_bytes;
use super::*;

const TOTAL: usize = 8_000;

fn small() -> (Router, FakeLog) {
    let queue = QueueLimits { max_msgs: 100, max_bytes: 5_000, max_bytes_total: TOTAL };
    let log = FakeLog::default();
    (restored_with(RouterLimits { max_sessions: 100, queue, ..limits() }, &log, NOW).0, log)
}

fn subscriber(router: &mut Router, client_id: &str, expiry: u32, f: &str, qos: QoS) -> SessionKey {
    let key = attach(router, client_id, expiry);
    subscribe(router, key, f, qos);
    key
}

fn numbered(n: usize) -> String {
    format!("{n:0>500}")
}

/// Everything that the client is to get, from the queue and from the log, in the order in which it gets it.
fn read_all(router: &mut Router, log: &FakeLog, key: SessionKey) -> Vec<String> {
    log.sync();
    let mut got = Vec::new();
    let mut out = Vec::new();
    loop {
        let pull = router.pull(key, 1000, 100_000, &mut out);
        got.extend(payloads(&out));
        out.clear();
        match pull {
            Pull::More => {}
            Pull::Idle => return got,
            Pull::CatchUp(positions) => got.extend(payloads(&catch_up(router, log, key, positions))),
        }
    }
}

fn catch_up(router: &mut Router, log: &FakeLog, key: SessionKey, positions: Positions) -> Vec<Delivery> {
    let mut got = Vec::new();
    let mut reader = CatchUp::new(positions);
    loop {
        match reader.step() {
            Step::Deliver => got.extend(reader.pop()),
            Step::Read(stream, from) => {
                let page = router.filter_page(key, stream, log.read(router.stream_id(stream), from, 10));
                reader.accept(stream, page);
            }
            Step::Join => router.join(key, &mut reader),
            Step::GoLive => {
                assert!(router.go_live(key, &mut reader));
                return got;
            }
            Step::WaitDurable => panic!("all of it is durable"),
        }
    }
}

/// Topics that a stream captures, and those that none does.
#[test]
fn clients_that_never_read_hold_no_more_than_the_bound_and_lose_nothing_of_qos_1() {
    for topic in ["a/x", "n/x"] {
        let (mut router, log) = small();
        let deaf: Vec<_> =
            (0..20).map(|n| subscriber(&mut router, &format!("c{n}"), 0, topic, QoS::AtLeastOnce)).collect();
        for n in 0..40 {
            publish(&mut router, &log, msg(topic, &numbered(n), QoS::AtLeastOnce));
            assert!(router.queued().0 <= TOTAL, "{} bytes", router.queued().0);
        }
        assert!(router.queued().1 > 0 && router.take_queues_full() && !router.take_queues_full());
        let expected: Vec<_> = (0..40).map(numbered).collect();
        for key in deaf {
            assert_eq!(read_all(&mut router, &log, key), expected, "{topic}");
        }
        let counters = router.counters();
        assert_eq!((counters.dropped_unstored, counters.dropped_queue_full), (0, 0));
        assert_eq!(router.queued().0, 0);
    }
}

/// The bound is met in the middle of a fan-out: who comes behind it must find the message in the log.
#[test]
fn one_message_for_many_is_stored_where_the_last_of_them_has_no_room() {
    let (mut router, log) = small();
    let clients: Vec<_> =
        (0..90).map(|n| subscriber(&mut router, &format!("c{n}"), 0, "n/x", QoS::AtLeastOnce)).collect();
    // A group whose members ask for QoS 0 takes room, too, and first.
    let grouped = subscriber(&mut router, "grouped", 0, "$share/g/n/x", QoS::AtMostOnce);
    for n in 0..3 {
        publish(&mut router, &log, msg("n/x", &numbered(n), QoS::AtLeastOnce));
    }
    let expected: Vec<_> = (0..3).map(numbered).collect();
    for key in clients {
        assert_eq!(read_all(&mut router, &log, key), expected);
    }
    let counters = router.counters();
    // For the group, what it misses is of QoS 0.
    assert_eq!((counters.dropped_unstored, counters.dropped_queue_full), (0, 2));
    pull(&mut router, grouped);
    assert_eq!(router.queued().0, 0);
}

/// What a message costs is known exactly before it is decided whether it is stored.
#[test]
fn properties_count_where_it_is_decided_whether_a_message_is_stored() {
    let (mut router, log) = small();
    let key = subscriber(&mut router, "c", 0, "n/x", QoS::AtLeastOnce);
    let properties = crate::mqtt::packet::PublishProperties {
        user: vec![("k".to_owned(), "v".repeat(3_000))],
        ..Default::default()
    };
    for n in 0..3 {
        let publish_ =
            Publish { properties: Some(Box::new(properties.clone())), ..msg("n/x", &n.to_string(), QoS::AtLeastOnce) };
        publish(&mut router, &log, publish_);
    }
    assert_eq!(router.counters().dropped_unstored, 0);
    assert_eq!(read_all(&mut router, &log, key), ["0", "1", "2"]);
}

#[test]
fn qos_0_is_dropped_and_counted_at_the_bound_but_not_for_those_who_read() {
    let (mut router, log) = small();
    let deaf: Vec<_> = (0..4).map(|n| subscriber(&mut router, &format!("c{n}"), 0, "a/#", QoS::AtMostOnce)).collect();
    let reader = subscriber(&mut router, "reader", 0, "a/#", QoS::AtMostOnce);
    let mut got = Vec::new();
    for n in 0..50 {
        publish(&mut router, &log, msg("a/x", &numbered(n), QoS::AtMostOnce));
        got.extend(payloads(&pull(&mut router, reader)));
        assert!(router.queued().0 <= TOTAL);
    }
    assert_eq!(got, (0..50).map(numbered).collect::<Vec<_>>());
    let dropped = router.counters().dropped_queue_full;
    let held: usize = deaf.iter().map(|key| pull(&mut router, *key).len()).sum();
    assert_eq!(held + usize::try_from(dropped).expect("some hundred"), 4 * 50);
    assert!(router.queued().1 > 0);
}

#[test]
fn a_message_in_many_queues_counts_once_and_as_long_as_one_of_them_has_it() {
    let (mut router, log) = small();
    let (a, b) = (subscriber(&mut router, "a", 0, "a/#", QoS::AtMostOnce), attach(&mut router, "b", 100));
    subscribe(&mut router, b, "a/#", QoS::AtLeastOnce);
    publish(&mut router, &log, msg("a/x", &numbered(1), QoS::AtLeastOnce));
    let message = 96 + 3 + 500;
    assert_eq!(router.queued().0, message + 2 * entry_bytes(0));
    pull(&mut router, a);
    assert_eq!(router.queued().0, message + entry_bytes(0));
    router.detach(NOW, b, leaving(100));
    assert_eq!(router.queued().0, 0);
}

#[test]
fn a_group_that_finds_no_room_in_total_goes_on_when_others_have_read() {
    let (mut router, log) = small();
    let deaf: Vec<_> = (0..2).map(|n| subscriber(&mut router, &format!("c{n}"), 0, "b/#", QoS::AtLeastOnce)).collect();
    let member = subscriber(&mut router, "member", 0, "$share/g/a/#", QoS::AtLeastOnce);
    for n in 0..20 {
        publish(&mut router, &log, msg("b/x", &numbered(n), QoS::AtLeastOnce));
    }
    let large = "y".repeat(4_000);
    publish(&mut router, &log, msg("a/x", &large, QoS::AtLeastOnce));
    log.sync();
    let offer = |router: &mut Router| {
        let read = router.share_read().expect("it has a member with room");
        let batch = log.read(read.stream_id, read.from, 1);
        router.share_page(&read, batch)
    };
    assert!(!offer(&mut router));
    router.take_share_wake();
    for key in deaf {
        pull(&mut router, key);
    }
    assert!(router.take_share_wake());
    assert!(offer(&mut router));
    assert_eq!(payloads(&pull(&mut router, member)), [large]);
}

proptest! {
    /// Whatever enters queues leaves them again, whichever way: read, dropped, moved to the log, to another member, or with the session.
    #[test]
    fn what_is_counted_in_is_counted_out(steps in proptest::collection::vec((0u8..8, 0u8..5, 0u8..3), 0..120)) {
        let (mut router, log) = small();
        let mut there: [Option<SessionKey>; 5] = [None; 5];
        for (n, (step, who, qos)) in steps.into_iter().enumerate() {
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos)];
            let place = &mut there[usize::from(who)];
            match (step, *place) {
                (0..=3, _) => {
                    let topic = ["a/x", "b/x", "n/x"][n % 3];
                    publish(&mut router, &log, msg(topic, &numbered(n), qos));
                }
                (4, Some(key)) => drop(read_all(&mut router, &log, key)),
                (4.., None) => {
                    log.sync();
                    let attached = router.attach(&agreed(&who.to_string(), 100, n % 2 == 0)).expect("there is room");
                    if let Some(positions) = attached.catch_up {
                        catch_up(&mut router, &log, attached.key, positions);
                    }
                    let f = ["#", "$share/g/#", "a/#", "n/+", "$share/g/n/x"][usize::from(who)];
                    subscribe(&mut router, attached.key, f, qos);
                    *place = Some(attached.key);
                }
                (5.., Some(key)) => {
                    router.detach(NOW, key, leaving(if n % 2 == 0 { 0 } else { 100 }));
                    *place = None;
                }
            }
            prop_assert!(router.queued().0 <= TOTAL);
        }
        for key in there.into_iter().flatten() {
            router.detach(NOW, key, leaving(0));
        }
        prop_assert_eq!(router.queued().0, 0);
    }
}
