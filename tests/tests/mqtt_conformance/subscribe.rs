//! SUBSCRIBE and UNSUBSCRIBE: filters, options, identifiers, overlaps.

use std::collections::BTreeSet;

use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, ack, hello, publish, resume, text};
use crate::target::Target;

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

/// [MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7]: one SUBACK with its id, one code per
/// filter in order; a bad filter does not harm the others.
#[tokio::test]
async fn suback_answers_every_filter_in_order() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "suback")).await;
        let packet_id = PacketId::new(0xBEEF).expect("from 1");
        let filters = [
            ("sub/0", QoS::AtMostOnce),
            ("sub/#/bad", QoS::AtLeastOnce),
            ("sub/2", QoS::ExactlyOnce),
            ("sub/1", QoS::AtLeastOnce),
            ("sub/a+", QoS::AtMostOnce),
        ]
        .map(|(text, qos)| (text.parse().map_err(|_| text.to_owned()), options(qos)));
        client
            .send(Packet::Subscribe(Subscribe {
                packet_id,
                subscription_id: None,
                user: Vec::new(),
                filters: filters.into(),
            }))
            .await;
        let suback = client.suback().await;
        let bad = if version == Version::V5 { ReasonCode::TopicFilterInvalid } else { ReasonCode::UnspecifiedError };
        assert_eq!(suback.packet_id, packet_id);
        assert_eq!(suback.reasons, [ReasonCode::Success, bad, ReasonCode::GrantedQoS2, ReasonCode::GrantedQoS1, bad]);
        client.publish(publish("sub/2", "works")).await;
        assert_eq!(text(&client.message().await), "works");
    }
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.2-1]
#[tokio::test]
async fn wildcards_take_what_they_should() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "wild")).await;
        let root = format!("wild-{version:?}");
        for filter in ["a/+", "b/#", "+/c/+", "d//+"] {
            client.subscribe(&format!("{root}/{filter}"), QoS::AtMostOnce).await;
        }
        for topic in
            ["a", "a/", "a/x", "a/x/y", "b", "b/", "b/x/y/z", "bb/x", "x/c/", "x/c", "/c/y", "d//", "d/x/y", "d//y"]
        {
            client.publish(publish(&format!("{root}/{topic}"), topic)).await;
        }
        client.publish(publish(&format!("{root}/b"), "last")).await;
        assert_eq!(client.until("last").await, ["a/", "a/x", "b", "b/", "b/x/y/z", "x/c/", "/c/y", "d//", "d//y"]);
    }
}

/// [MQTT-4.7.2-1]: a leading wildcard does not see topics with `$`.
#[tokio::test]
async fn leading_wildcards_do_not_see_dollar_topics() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "dollar")).await;
        client.subscribe("#", QoS::AtMostOnce).await;
        client.subscribe("+/dollar", QoS::AtMostOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "dollar-pub")).await;
        publisher.publish(publish("$test/dollar", "hidden")).await;
        publisher.publish(publish("dollar/last", "last")).await;
        let seen = client.until("last").await;
        assert!(!seen.contains(&"hidden".to_owned()), "{seen:?}");
    }
}

/// [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.11.3-1] [MQTT-3.11.3-2]
#[tokio::test]
async fn unsubscribe_ends_exactly_that_filter() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "unsub")).await;
        let topic = format!("unsub/{version:?}");
        client.subscribe(&topic, QoS::AtMostOnce).await;
        client.subscribe("unsub/last", QoS::AtMostOnce).await;
        let v5 = |reason| if version == Version::V5 { vec![reason] } else { Vec::new() };
        // Compared character by character: neither a wildcard nor another case ends it.
        assert_eq!(client.unsubscribe("unsub/+").await, v5(ReasonCode::NoSubscriptionExisted));
        client.publish(publish(&topic, "still")).await;
        assert_eq!(text(&client.message().await), "still");
        assert_eq!(client.unsubscribe(&topic).await, v5(ReasonCode::Success));
        assert_eq!(client.unsubscribe(&topic).await, v5(ReasonCode::NoSubscriptionExisted));
        client.publish(publish(&topic, "gone")).await;
        client.publish(publish("unsub/last", "last")).await;
        assert_eq!(client.until("last").await, [""; 0]);
    }
}

/// [MQTT-3.8.4-3]: the same filter again replaces the subscription, and does not add one.
#[tokio::test]
async fn the_same_filter_replaces_the_subscription() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "replace")).await;
        let topic = format!("sub/replace/{version:?}");
        client.subscribe(&topic, QoS::AtMostOnce).await;
        client.subscribe(&topic, QoS::AtLeastOnce).await;
        client.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "one") }).await;
        client.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "last") }).await;
        let message = client.message().await;
        assert_eq!((text(&message), message.qos), ("one", QoS::AtLeastOnce));
        assert_eq!(client.until("last").await, [""; 0]);
    }
}

/// [MQTT-3.3.4-2] (3.1.1: [MQTT-3.3.5-1]): overlapping subscriptions give at least one copy, the best at the highest
/// granted QoS.
#[tokio::test]
async fn overlapping_subscriptions_give_the_highest_qos() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "overlap")).await;
        let root = format!("sub/overlap/{version:?}");
        client.subscribe(&format!("{root}/#"), QoS::AtLeastOnce).await;
        client.subscribe(&format!("{root}/+"), QoS::ExactlyOnce).await;
        client.subscribe(&format!("{root}/a"), QoS::AtMostOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "overlap-pub")).await;
        publisher.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&format!("{root}/a"), "x") }).await;
        publisher.publish(publish(&format!("{root}/last/one"), "last")).await;
        let mut best = None;
        loop {
            let message = client.message().await;
            if text(&message) == "last" {
                break;
            }
            best = best.max(Some(message.qos));
        }
        assert_eq!(best, Some(QoS::ExactlyOnce));
    }
}

/// [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]: a message names the subscriptions it came by.
#[tokio::test]
async fn messages_name_their_subscriptions() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "ids")).await;
    let at = options(QoS::AtMostOnce);
    assert_eq!(client.subscribe_with("sub/ids/#", at, Some(268_435_455)).await, ReasonCode::Success);
    assert_eq!(client.subscribe_with("sub/ids/+", at, Some(2)).await, ReasonCode::Success);
    assert_eq!(client.subscribe_with("sub/+/a", at, None).await, ReasonCode::Success);
    assert_eq!(client.subscribe_with("sub/other/#", at, Some(9)).await, ReasonCode::Success);
    client.publish(publish("sub/ids/a", "x")).await;
    client.publish(publish("sub/other/last", "last")).await;
    let mut ids = BTreeSet::new();
    loop {
        let message = client.message().await;
        if text(&message) == "last" {
            assert_eq!(message.subscription_ids, [9]);
            break;
        }
        ids.extend(message.subscription_ids);
    }
    assert_eq!(Vec::from_iter(ids), [2, 268_435_455]);
    // Subscribing again changes the identifier, and can take it away.
    assert_eq!(client.subscribe_with("sub/other/#", at, Some(10)).await, ReasonCode::Success);
    client.publish(publish("sub/other/x", "x")).await;
    assert_eq!(client.message().await.subscription_ids, [10]);
    assert_eq!(client.subscribe_with("sub/other/#", at, None).await, ReasonCode::Success);
    client.publish(publish("sub/other/x", "x")).await;
    assert_eq!(client.message().await.subscription_ids, [0; 0]);
}

/// [MQTT-3.3.4-3]: also those that are retained, that waited, and that are sent again.
#[tokio::test]
async fn messages_name_their_subscriptions_however_they_come() {
    let target = Target::start().await;
    let topic = "stored/ids";
    let mut publisher = Client::connect(&target, hello(Version::V5, "ids-pub")).await;
    let send = async |publisher: &mut Client, payload: &str, retain| {
        let message = Publish { qos: QoS::AtLeastOnce, retain, ..publish(topic, payload) };
        assert!(!publisher.publish(message).await.is_failure());
    };
    send(&mut publisher, "retained", true).await;
    Client::connect(&target, hello(Version::V5, "ids-kept")).await.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "ids-kept")).await;
    assert_eq!(client.subscribe_with(topic, options(QoS::AtLeastOnce), Some(7)).await, ReasonCode::GrantedQoS1);
    let message = client.message().await;
    assert_eq!((text(&message), message.retain, &message.subscription_ids[..]), ("retained", true, &[7][..]));
    send(&mut publisher, "in flight", false).await;
    let message = client.unacknowledged().await;
    assert_eq!((text(&message), &message.subscription_ids[..]), ("in flight", &[7][..]));
    client.vanish();
    send(&mut publisher, "waits", false).await;
    let mut client = Client::connect(&target, resume(Version::V5, "ids-kept")).await;
    for (payload, dup) in [("in flight", true), ("waits", false)] {
        let message = client.message().await;
        assert_eq!((text(&message), message.dup, &message.subscription_ids[..]), (payload, dup, &[7][..]));
    }
    client.settled().await;
    client.goodbye().await;
    Client::connect(&target, hello(Version::V5, "ids-kept")).await.goodbye().await;
    publisher.publish(Publish { retain: true, ..publish(topic, "") }).await;
}

/// [MQTT-3.8.3-3]: No Local keeps a client's own messages from it, and nobody else's.
#[tokio::test]
async fn no_local_keeps_own_messages_away() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "local")).await;
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    assert_eq!(client.subscribe_with("sub/local", no_local, None).await, ReasonCode::Success);
    client.publish(publish("sub/local", "own")).await;
    client.settled().await;
    let mut other = Client::connect(&target, hello(Version::V5, "local-other")).await;
    other.publish(publish("sub/local", "last")).await;
    assert_eq!(client.until("last").await, [""; 0]);
}

/// [MQTT-3.8.3-3] leaves open whether a retained message is forwarded by whom it came from. Here it is what the topic says to
/// every new subscription, and belongs to nobody; Mosquitto sees it so, too.
#[tokio::test]
async fn no_local_does_not_keep_retained_messages_away() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "local-retained")).await;
    client.publish(Publish { retain: true, qos: QoS::AtLeastOnce, ..publish("sub/local-retained", "kept") }).await;
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    assert_eq!(client.subscribe_with("sub/local-retained", no_local, None).await, ReasonCode::Success);
    let message = client.message().await;
    assert_eq!((text(&message), message.retain), ("kept", true));
    client.publish(Publish { retain: true, ..publish("sub/local-retained", "") }).await;
}

/// [MQTT-4.8.2-1] and 3.2.2.3.13: shared subscriptions are granted, or refused as CONNACK announced.
#[tokio::test]
async fn shared_subscriptions_are_as_announced() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "shared")).await;
    let answer = client.subscribe_with("$share/group/sub/shared", SubscriptionOptions::default(), None).await;
    match client.connack.properties.shared_subscription_available {
        Some(false) => assert_eq!(answer, ReasonCode::SharedSubscriptionsNotSupported),
        _ => {
            assert_eq!(answer, ReasonCode::Success);
            client.publish(publish("sub/shared", "x")).await;
            assert_eq!(text(&client.message().await), "x");
        }
    }
    client.settled().await;
}

/// [MQTT-3.8.4-4] (3.1.1: [MQTT-3.8.4-3]): whoever subscribes again while messages come misses none, and gets none twice.
#[tokio::test]
async fn replacing_a_subscription_interrupts_nothing() {
    const MESSAGES: usize = 300;
    let target = Target::start().await;
    for (version, topic) in [(Version::V5, "stored/replaced"), (Version::V311, "sub/replaced")] {
        let mut client = Client::connect(&target, hello(version, "replaced")).await;
        client.subscribe(topic, QoS::AtLeastOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "replaced-pub")).await;
        let publishing = async {
            for number in 0..MESSAGES {
                publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(topic, &number.to_string()) }).await;
            }
        };
        let subscribing = async {
            for number in 0..MESSAGES {
                if number % 5 == 0 {
                    let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                    client.subscribe(topic, qos).await;
                }
                let message = client.message().await;
                assert_eq!((text(&message), message.dup), (number.to_string().as_str(), false));
            }
        };
        tokio::join!(publishing, subscribing);
        client.settled().await;
        assert_eq!(client.waiting(), 0);
    }
}

/// [MQTT-3.8.4-5]: the filters of one SUBSCRIBE count one after the other.
#[tokio::test]
async fn the_later_of_two_equal_filters_counts() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "equal")).await;
        let topic = format!("sub/equal/{version:?}");
        let filters = [QoS::ExactlyOnce, QoS::AtMostOnce, QoS::AtLeastOnce]
            .map(|qos| (topic.parse().map_err(|_| topic.clone()), options(qos)));
        let packet_id = PacketId::new(3).expect("from 1");
        let filters = filters.into();
        client.send(Packet::Subscribe(Subscribe { packet_id, subscription_id: None, user: Vec::new(), filters })).await;
        let granted = [ReasonCode::GrantedQoS2, ReasonCode::Success, ReasonCode::GrantedQoS1];
        assert_eq!(client.suback().await.reasons, granted);
        client.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, "once") }).await;
        client.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, "last") }).await;
        let message = client.message().await;
        assert_eq!((text(&message), message.qos), ("once", QoS::AtLeastOnce));
        assert_eq!(client.until("last").await, [""; 0]);
    }
}

/// [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-2.2.1-6]
#[tokio::test]
async fn unsubscribe_takes_many_filters() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "many-unsub")).await;
        let root = format!("unsub/many/{version:?}");
        for name in ["a", "b", "c", "last"] {
            client.subscribe(&format!("{root}/{name}"), QoS::AtMostOnce).await;
        }
        let filters = ["a", "unknown", "c", "a", "#/bad"].map(|name| {
            let filter = format!("{root}/{name}");
            filter.parse().map_err(|_| filter.clone())
        });
        let packet_id = PacketId::new(0xCAFE).expect("from 1");
        client.send(Packet::Unsubscribe(Unsubscribe { packet_id, user: Vec::new(), filters: filters.into() })).await;
        match client.recv().await {
            Packet::UnsubAck(unsuback) => {
                assert_eq!(unsuback.packet_id, packet_id);
                let none = ReasonCode::NoSubscriptionExisted;
                let expected = [ReasonCode::Success, none, ReasonCode::Success, none, ReasonCode::TopicFilterInvalid];
                assert_eq!(unsuback.reasons, if version == Version::V5 { &expected[..] } else { &[] });
            }
            other => panic!("expected UNSUBACK, got {other:?}"),
        }
        for name in ["a", "b", "c", "last"] {
            client.publish(publish(&format!("{root}/{name}"), name)).await;
        }
        assert_eq!(client.until("last").await, ["b"]);
        client.settled().await;
    }
}

/// [MQTT-3.10.4-3]: what was sent before UNSUBSCRIBE goes on to its end, also on another connection.
#[tokio::test]
async fn a_delivery_that_began_is_completed_after_unsubscribe() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("unsub/began/{version:?}");
        Client::connect(&target, hello(version, "began")).await.goodbye().await;
        let mut client = Client::connect(&target, resume(version, "began")).await;
        client.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "began-pub")).await;
        let mut ids = Vec::new();
        for (payload, qos) in [("0", QoS::ExactlyOnce), ("1", QoS::ExactlyOnce), ("2", QoS::AtLeastOnce)] {
            publisher.publish(Publish { qos, ..publish(&topic, payload) }).await;
            ids.push(client.unacknowledged().await.packet_id.expect("QoS 1 or 2"));
        }
        client.unsubscribe(&topic).await;
        client.send(Packet::PubRec(ack(ids[0]))).await;
        match client.recv().await {
            Packet::PubRel(release) => assert_eq!(release.packet_id, ids[0]),
            other => panic!("expected PUBREL, got {other:?}"),
        }
        client.send(Packet::PubComp(ack(ids[0]))).await;
        client.settled().await;
        client.vanish();
        let mut client = Client::connect(&target, resume(version, "began")).await;
        for number in [1, 2] {
            let message = client.message().await;
            assert_eq!(
                (text(&message), message.packet_id, message.dup),
                (number.to_string().as_str(), Some(ids[number]), true)
            );
        }
        client.settled().await;
        client.goodbye().await;
        Client::connect(&target, hello(version, "began")).await.goodbye().await;
    }
}

/// [MQTT-4.7.3-1]: refused by itself.
#[tokio::test]
async fn an_empty_filter_is_refused() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "empty")).await;
        let refused = client.subscribe_with("", options(QoS::AtMostOnce), None).await;
        let bad = if version == Version::V5 { ReasonCode::TopicFilterInvalid } else { ReasonCode::UnspecifiedError };
        assert_eq!(refused, bad);
        client.settled().await;
    }
}
