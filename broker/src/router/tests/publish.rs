//! The way of a message.

use super::*;
use crate::mqtt::packet::{PublishProperties, RetainHandling};
use crate::mqtt::session::{Message, QueueCount};

fn retained(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish { retain: true, ..msg(topic, payload, qos) }
}

fn client(key: SessionKey) -> Publisher {
    Publisher::Client(key, Version::V5)
}

/// [MQTT-3.3.5-1] [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
#[test]
fn overlapping_subscriptions_bring_one_message_with_the_highest_qos_and_all_ids() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    for (f, qos, id) in [("a/#", QoS::AtMostOnce, 7), ("a/+", QoS::ExactlyOnce, 8), ("a/x", QoS::AtLeastOnce, 9)] {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        router.subscribe(key, subscribe_packet(f, options, Some(id)), &mut Vec::new());
    }
    publish(&mut router, &log, msg("a/x", "1", QoS::ExactlyOnce));
    let got = pull(&mut router, key);
    let mut ids = got[0].subscription_ids.clone();
    ids.sort_unstable();
    assert_eq!((got.len(), got[0].qos, ids), (1, QoS::ExactlyOnce, vec![7, 8, 9]));
    // [MQTT-3.8.4-8]
    publish(&mut router, &log, msg("a/x", "2", QoS::AtLeastOnce));
    assert_eq!(pull(&mut router, key)[0].qos, QoS::AtLeastOnce);
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_a_clients_own_messages_from_it_also_when_it_was_away() {
    let (mut router, log) = router();
    let (me, other) = (attach(&mut router, "me", 100), attach(&mut router, "other", 0));
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, no_local: true, ..SubscriptionOptions::default() };
    router.subscribe(me, subscribe_packet("a/#", options, None), &mut Vec::new());
    publish_as(&mut router, &log, client(other), &[msg("a/1", "theirs", QoS::AtLeastOnce)]);
    publish_as(&mut router, &log, client(me), &[msg("a/1", "mine", QoS::AtLeastOnce)]);
    publish_as(&mut router, &log, client(other), &[msg("a/1", "theirs too", QoS::AtLeastOnce)]);
    // Nothing was taken: all of it is read back from the log.
    router.detach(NOW, me, leaving(100));
    log.sync();
    let back = router.attach(&agreed("me", 100, false)).expect("there is room");
    let mut catch_up = CatchUp::new(back.catch_up.expect("something was missed"));
    let mut got = Vec::new();
    loop {
        match catch_up.step() {
            Step::Deliver => got.extend(catch_up.pop()),
            Step::Read(stream, from) => {
                let batch = log.read(router.stream_id(stream), from, 10);
                let page = router.filter_page(back.key, stream, batch);
                catch_up.accept(stream, page);
            }
            Step::Join => router.join(back.key, &mut catch_up),
            Step::GoLive => break,
            Step::WaitDurable => panic!("all of it is durable"),
        }
    }
    assert_eq!(payloads(&got), ["theirs", "theirs too"]);
}

#[test]
fn the_log_is_told_which_messages_somebody_waits_for() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    let unawaited = |router: &mut Router, batch: &[Publish]| {
        let before = log.unawaited.get();
        publish_as(router, &log, client(key), batch);
        log.unawaited.get() > before
    };
    let (none, some) = (msg("a/1", "x", QoS::AtMostOnce), msg("a/1", "y", QoS::AtLeastOnce));
    assert!(unawaited(&mut router, &[none.clone(), none.clone()]));
    assert!(unawaited(&mut router, &[retained("a/1", "x", QoS::AtMostOnce)]));
    assert!(!unawaited(&mut router, std::slice::from_ref(&some)));
    assert!(!unawaited(&mut router, &[none.clone(), some, none]), "they are one group");
}

/// [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[test]
fn the_retain_flag_is_cleared_unless_the_subscription_keeps_it() {
    let (mut router, log) = router();
    for (name, keeps) in [("plain", false), ("keeps", true)] {
        let key = attach(&mut router, name, 0);
        let options = SubscriptionOptions { retain_as_published: keeps, ..SubscriptionOptions::default() };
        router.subscribe(key, subscribe_packet("a/#", options, None), &mut Vec::new());
        publish(&mut router, &log, retained("a/1", "x", QoS::AtMostOnce));
        assert_eq!(pull(&mut router, key)[0].retain, keeps);
    }
}

fn replay(router: &mut Router, log: &FakeLog, key: SessionKey, mut replays: Vec<Replay>) -> Vec<Delivery> {
    let mut out = Vec::new();
    for mut replay in replays.drain(..) {
        while router.replay(NOW, log, key, &mut replay, 1, &mut out) != Replayed::Done {}
    }
    out
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-8] [MQTT-3.3.1-9]
#[test]
fn a_new_subscription_gets_the_last_retained_message_of_each_topic() {
    let (mut router, log) = router();
    for (topic, payload) in [("a/1", "old"), ("a/1", "new"), ("a/2", "gone"), ("a/2", ""), ("b/1", "other")] {
        publish(&mut router, &log, retained(topic, payload, QoS::AtLeastOnce));
    }
    assert_eq!(router.retained().0, 2);
    assert!(log.has(RETAINED, b"a/1") && !log.has(RETAINED, b"a/2"));
    // The message and its place among the retained reach the disk together.
    assert_eq!(log.groups.borrow()[0], "mp16");
    let key = attach(&mut router, "c", 0);
    let (_, replays) = subscribe(&mut router, key, "a/#", QoS::AtLeastOnce);
    // What is retained after the subscription comes live, once.
    publish(&mut router, &log, retained("a/3", "live", QoS::AtLeastOnce));
    let got = replay(&mut router, &log, key, replays);
    assert_eq!(payloads(&got), ["new"]);
    assert!(got[0].retain);
    assert_eq!(payloads(&pull(&mut router, key)), ["live"]);
}

/// [MQTT-3.3.1-10] [MQTT-3.3.1-11]
#[test]
fn retain_handling_decides_whether_retained_messages_are_sent() {
    let (mut router, log) = router();
    publish(&mut router, &log, retained("a/1", "x", QoS::AtMostOnce));
    let key = attach(&mut router, "c", 0);
    let mut sends = |retain_handling| {
        let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() };
        let mut replays = Vec::new();
        router.subscribe(key, subscribe_packet("a/#", options, None), &mut replays);
        !replays.is_empty()
    };
    assert!(!sends(RetainHandling::DoNotSend));
    assert!(!sends(RetainHandling::SendIfNew), "the subscription exists");
    assert!(sends(RetainHandling::Send));
}

#[test]
fn retained_messages_beyond_the_bound_are_delivered_counted_and_told() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    subscribe(&mut router, key, "#", QoS::AtMostOnce);
    for n in 1..=4 {
        let answers = publish(&mut router, &log, retained(&format!("a/{n}"), "x", QoS::AtLeastOnce));
        let AnswerResult::One(reason, text) = &answers[0].result else { panic!("of a publish") };
        assert_eq!((*reason, text.is_some()), (ReasonCode::Success, n == 4));
        assert_eq!(pull(&mut router, key).len(), 1);
    }
    assert_eq!((router.retained().0, router.counters().retained_refused), (3, 1));
    // Replacing one needs no more room.
    publish(&mut router, &log, retained("a/1", "y", QoS::AtLeastOnce));
    assert_eq!(router.counters().retained_refused, 1);
}

/// [MQTT-3.3.1-5]
#[test]
fn one_that_cannot_be_retained_leaves_no_older_one_in_its_place() {
    let (mut router, log) = router();
    publish(&mut router, &log, retained("a/1", "old", QoS::AtLeastOnce));
    publish(&mut router, &log, retained("a/2", "stays", QoS::AtLeastOnce));
    publish(&mut router, &log, retained("a/1", &"x".repeat(1 << 20), QoS::AtLeastOnce));
    assert_eq!((router.retained().0, router.counters().retained_refused), (1, 1));
    log.sync();
    let (restored, _) = restored(&log, Monotonic(5));
    assert_eq!(restored.retained().0, 1, "also after a restart");
}

#[test]
fn an_uncaptured_retained_message_can_be_read_again_by_a_session_that_persists_and_by_nobody_else() {
    let (mut router, log) = router();
    publish(&mut router, &log, retained("n/1", "x", QoS::AtLeastOnce));
    assert_eq!(log.messages.borrow().len(), 0);
    let key = attach(&mut router, "c", 100);
    let (_, replays) = subscribe(&mut router, key, "n/#", QoS::AtLeastOnce);
    let got = replay(&mut router, &log, key, replays);
    assert_eq!(got[0].origin.map(|o| (o.stream, o.seq)), Some((9, 1)));
    log.sync();
    let page = router.filter_page(key, StreamIndex(2), log.read(StreamId(9), Seq(0), 10));
    let mut reader = CatchUp::new(Positions(vec![Seq(1); 3]));
    reader.accept(StreamIndex(2), page);
    assert_eq!(reader.front().map(|_| ()), None, "a copy for redelivery is no new message");
    // A second subscriber uses the same copy.
    let other = attach(&mut router, "d", 100);
    let (_, replays) = subscribe(&mut router, other, "n/#", QoS::AtLeastOnce);
    replay(&mut router, &log, other, replays);
    assert_eq!(log.messages.borrow().len(), 1);
}

#[test]
fn what_nobody_captures_is_stored_only_for_sessions_that_persist() {
    let (mut router, log) = router();
    let passing = attach(&mut router, "passing", 0);
    subscribe(&mut router, passing, "n/#", QoS::AtLeastOnce);
    let answers = publish(&mut router, &log, msg("n/1", "1", QoS::AtLeastOnce));
    assert_eq!((log.messages.borrow().len(), answers[0].ticket.0), (0, 0));
    let kept = attach(&mut router, "kept", 100);
    subscribe(&mut router, kept, "n/#", QoS::AtLeastOnce);
    publish(&mut router, &log, msg("n/1", "2", QoS::AtMostOnce));
    assert_eq!(log.messages.borrow().len(), 0);
    publish(&mut router, &log, msg("n/1", "3", QoS::AtLeastOnce));
    assert_eq!(log.messages.borrow()[0].0, 9);
    assert_eq!(payloads(&pull(&mut router, passing)), ["1", "2", "3"]);
}

#[test]
fn a_batch_of_one_stream_is_one_group_with_consecutive_sequences() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    subscribe(&mut router, key, "#", QoS::AtLeastOnce);
    let batch =
        [msg("a/1", "1", QoS::AtLeastOnce), msg("a/2", "2", QoS::AtMostOnce), msg("b/1", "3", QoS::AtLeastOnce)];
    let answers = publish_as(&mut router, &log, Publisher::Will, &batch);
    assert_eq!(*log.groups.borrow(), ["mm", "m"]);
    assert_eq!(answers.iter().map(|a| a.ticket.0).collect::<Vec<_>>(), [1, 2]);
    let origins: Vec<_> = pull(&mut router, key).iter().filter_map(|d| d.origin).map(|o| (o.stream, o.seq)).collect();
    assert_eq!(origins, [(1, 1), (1, 2), (2, 1)]);
}

/// [MQTT-4.3.3-10], also when the broker is killed in between
#[test]
fn the_id_of_a_qos_2_message_is_in_the_group_of_the_message() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    publish_as(&mut router, &log, client(key), &[msg("a/1", "1", QoS::ExactlyOnce)]);
    assert_eq!(*log.groups.borrow(), ["mp18"]);
    assert!(log.has(RECEIVED, b"\x00\x01c"));
    // Stored nowhere: the id alone, so that the exchange is exact all the same.
    publish_as(&mut router, &log, client(key), &[msg("n/1", "1", QoS::ExactlyOnce)]);
    assert_eq!(log.groups.borrow()[1], "p18");
    let id = crate::mqtt::packet::PacketId(std::num::NonZeroU16::MIN);
    assert_eq!(router.release(&log, key, id), Ok(Ticket(3)));
    assert!(!log.has(RECEIVED, b"\x00\x01c"));
    // A session that ends with its connection needs nothing on disk.
    let passing = attach(&mut router, "p", 0);
    publish_as(&mut router, &log, client(passing), &[msg("n/1", "1", QoS::ExactlyOnce)]);
    assert_eq!((log.groups.borrow().len(), router.release(&log, passing, id)), (3, Ok(Ticket(0))));
}

#[test]
fn a_busy_log_changes_nothing() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    subscribe(&mut router, key, "#", QoS::AtLeastOnce);
    *log.refuse.borrow_mut() = Some(AppendError::Busy);
    let mut answers = Vec::new();
    let batch = [msg("n/1", "0", QoS::AtMostOnce), retained("a/1", "1", QoS::AtLeastOnce)];
    let routed = router.publish(NOW, &log, Publisher::Will, &batch, &mut answers);
    assert_eq!((routed.done, routed.stopped, answers.len()), (1, Some(Stop::Busy), 0));
    assert_eq!((payloads(&pull(&mut router, key)), router.retained().0), (vec!["0".to_owned()], 0));
    *log.refuse.borrow_mut() = None;
    publish_as(&mut router, &log, Publisher::Will, &batch[1..]);
    assert_eq!(payloads(&pull(&mut router, key)), ["1"]);
}

#[test]
fn a_full_stream_refuses_v5_with_quota_exceeded_and_holds_311_back() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    *log.refuse.borrow_mut() = Some(AppendError::Full { stream: "s1".to_owned(), limit: "max_msgs" });
    let batch = [msg("a/1", "1", QoS::AtLeastOnce), msg("a/1", "2", QoS::AtLeastOnce)];
    let answers = publish_as(&mut router, &log, client(key), &batch);
    assert_eq!(answers.iter().map(reason).collect::<Vec<_>>(), [ReasonCode::QuotaExceeded; 2]);
    assert_eq!(router.counters().refused_full, 2);
    let mut answers = Vec::new();
    let routed = router.publish(NOW, &log, Publisher::Client(key, Version::V311), &batch, &mut answers);
    assert!(matches!(routed.stopped, Some(Stop::Full { .. })) && routed.done == 0 && answers.is_empty());
}

#[test]
fn a_message_that_no_retry_can_store_is_answered_and_counted() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    *log.refuse.borrow_mut() = Some(AppendError::TooLarge { bytes: 2, limit: 1 });
    let answers =
        publish_as(&mut router, &log, Publisher::Client(key, Version::V311), &[msg("a/1", "1", QoS::AtLeastOnce)]);
    assert_eq!(reason(&answers[0]), ReasonCode::QuotaExceeded);
    assert_eq!(router.counters().refused_too_large, 1);
}

#[test]
fn qos_0_messages_that_meet_a_full_queue_are_dropped_and_counted() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    subscribe(&mut router, key, "#", QoS::AtMostOnce);
    for n in 0..5 {
        publish(&mut router, &log, msg("a/1", &n.to_string(), QoS::AtLeastOnce));
    }
    assert_eq!(router.counters().dropped_queue_full, 2);
    assert_eq!(payloads(&pull(&mut router, key)), ["0", "1", "2"]);
    publish(&mut router, &log, msg("a/1", "5", QoS::AtLeastOnce));
    assert_eq!(payloads(&pull(&mut router, key)), ["5"]);
}

#[test]
fn a_connection_is_woken_once_until_it_looks() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 0);
    subscribe(&mut router, key, "#", QoS::AtMostOnce);
    publish(&mut router, &log, msg("a/1", "1", QoS::AtMostOnce));
    publish(&mut router, &log, msg("a/1", "2", QoS::AtMostOnce));
    assert_eq!(router.take_woken().collect::<Vec<_>>(), [key]);
    pull(&mut router, key);
    publish(&mut router, &log, msg("a/1", "3", QoS::AtMostOnce));
    assert_eq!(router.take_woken().count(), 1);
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-17] [MQTT-3.3.2-20]
#[test]
fn properties_travel_through_the_log() {
    let (mut router, log) = router();
    let key = attach(&mut router, "c", 100);
    subscribe(&mut router, key, "#", QoS::AtLeastOnce);
    let properties = PublishProperties {
        payload_format: Some(1),
        message_expiry: Some(60),
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("r".parse().expect("valid")),
        correlation_data: Some(Bytes::from_static(b"\x00x")),
        user: vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), "w".to_owned())],
    };
    let sent = Publish { properties: Some(Box::new(properties.clone())), ..msg("a/1", "1", QoS::AtLeastOnce) };
    publish(&mut router, &log, sent);
    let live = pull(&mut router, key);
    assert_eq!(live[0].message.properties.as_deref(), Some(&properties));
    let stored = log.messages.borrow()[0].1.clone();
    let read = router.message_of(stored).expect("readable");
    assert_eq!(read, live[0].message);
}

/// However many there are, a replay holds a page of them, and meets each once.
#[test]
fn a_hundred_thousand_retained_messages_are_replayed_page_by_page() {
    const COUNT: usize = 100_000;
    let (mut router, _) = router();
    router.retained = RetainedIndex::new(COUNT, u64::MAX);
    for n in 0..COUNT {
        let message = Message {
            topic: format!("r/{}/{n}", n % 7).parse().expect("valid"),
            payload: Bytes::from_static(b"x"),
            qos: QoS::AtMostOnce,
            retain: true,
            properties: None,
            received: NOW,
            queues: QueueCount::default(),
        };
        router.retained.set(Arc::new(message), None);
    }
    let log = FakeLog::default();
    let key = attach(&mut router, "c", 0);
    for (filter, expected) in [("r/#", COUNT), ("r/3/+", COUNT / 7 + 1), ("+/+/99999", 1)] {
        let (_, mut replays) = subscribe(&mut router, key, filter, QoS::AtMostOnce);
        let mut replay = replays.pop().expect("there are retained messages");
        let mut got = std::collections::BTreeSet::new();
        loop {
            let mut page = Vec::new();
            let replayed = router.replay(NOW, &log, key, &mut replay, 0, &mut page);
            assert!(page.len() <= 64, "{}", page.len());
            for delivery in page {
                assert!(got.insert(delivery.message.topic.clone()), "{} twice", delivery.message.topic);
            }
            match replayed {
                Replayed::Done => break,
                Replayed::More => {}
                stop @ (Replayed::WindowFull | Replayed::NoRoom) => panic!("{stop:?}"),
            }
        }
        assert_eq!(got.len(), expected, "{filter}");
    }
}
