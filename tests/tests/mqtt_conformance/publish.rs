//! What a PUBLISH carries from one client to another: topic, payload, properties, flags, order.

use std::num::NonZeroU16;

use bytes::Bytes;
use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, ack, hello, publish, publish_at, resume, text};
use crate::target::Target;

/// [MQTT-3.3.2-1] [MQTT-4.7.3-4] [MQTT-3.3.5-1]: topic and payload arrive as they were sent, whatever they are.
#[tokio::test]
async fn topic_and_payload_arrive_unaltered() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "unaltered")).await;
        client.subscribe("publish/unaltered/#", QoS::AtMostOnce).await;
        let payloads: [&[u8]; 4] = [b"", b"\0\xFF\xFE", &[7; 5_000], "größe".as_bytes()];
        for (topic, payload) in
            ["publish/unaltered", "publish/unaltered//", "publish/unaltered/a b/ü", "publish/unaltered/\u{FEFF}."]
                .into_iter()
                .zip(payloads)
        {
            let payload = Bytes::copy_from_slice(payload);
            client.publish(Publish { payload: payload.clone(), ..publish(topic, "") }).await;
            let message = client.message().await;
            assert_eq!(message.topic.map(|topic| topic.to_string()), Some(topic.to_owned()));
            assert_eq!(message.payload, payload);
        }
    }
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
#[tokio::test]
async fn properties_travel_with_the_message() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "properties")).await;
    client.subscribe("publish/properties", QoS::AtLeastOnce).await;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let properties = PublishProperties {
        payload_format: Some(1),
        message_expiry: None,
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("publish/answer".parse().expect("a topic")),
        correlation_data: Some(Bytes::from_static(b"\0\x01\xFF")),
        user: vec![pair("b", "1"), pair("a", "2"), pair("b", "1"), pair("", "")],
    };
    let message = Publish { properties: Some(Box::new(properties.clone())), ..publish("publish/properties", "x") };
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        client.publish(Publish { qos, ..message.clone() }).await;
        assert_eq!(client.message().await.properties.as_deref(), Some(&properties), "{qos:?}");
    }
    // A client of 3.1.1 gets the message without them.
    let mut old = Client::connect(&target, hello(Version::V311, "properties")).await;
    old.subscribe("publish/properties", QoS::AtMostOnce).await;
    client.publish(message).await;
    assert_eq!(text(&old.message().await), "x");
}

/// [MQTT-3.3.1-1] [MQTT-3.3.1-3] [MQTT-3.3.1-12]: DUP and RETAIN of a forwarded message are the broker's own.
#[tokio::test]
async fn flags_of_a_forwarded_message_are_the_brokers_own() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("publish/flags/{version:?}");
        let mut client = Client::connect(&target, hello(version, "flags")).await;
        client.subscribe(&topic, QoS::AtLeastOnce).await;
        let sent = Publish { dup: true, retain: true, ..publish_at(QoS::AtLeastOnce, 77, &topic, "flagged") };
        client.publish(sent).await;
        let message = client.message().await;
        assert_eq!((message.dup, message.retain), (false, false));
        client.publish(Publish { retain: true, ..publish(&topic, "") }).await;
    }
}

/// [MQTT-3.8.4-8]: the lower of the publisher's QoS and the granted one.
#[tokio::test]
async fn a_message_comes_at_the_lower_qos() {
    let target = Target::start().await;
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    for version in VERSIONS {
        let mut publisher = Client::connect(&target, hello(version, "lower-pub")).await;
        for granted in all {
            let mut subscriber = Client::connect(&target, hello(version, "lower-sub")).await;
            let topic = format!("publish/lower/{version:?}/{granted:?}");
            subscriber.subscribe(&topic, granted).await;
            for sent in all {
                publisher.publish(Publish { qos: sent, ..publish(&topic, "x") }).await;
                assert_eq!(subscriber.message().await.qos, sent.min(granted), "{sent:?} to {granted:?}");
            }
        }
    }
}

/// [MQTT-4.6.0-5] [MQTT-4.6.0-6] (3.1.1: [MQTT-4.6.0-6]): order is kept per topic and QoS.
#[tokio::test]
async fn messages_keep_their_order() {
    let target = Target::start().await;
    for version in VERSIONS {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let topic = format!("publish/order/{version:?}/{qos:?}");
            let mut subscriber = Client::connect(&target, hello(version, "order-sub")).await;
            subscriber.subscribe(&topic, qos).await;
            let mut publisher = Client::connect(&target, hello(version, "order-pub")).await;
            // Without waiting for acknowledgements, up to what every receiver allows by default.
            for number in 1..=15_u16 {
                let message = publish(&topic, &number.to_string());
                let packet_id = PacketId::new(number).filter(|_| qos > QoS::AtMostOnce);
                publisher.send(Packet::Publish(Publish { qos, packet_id, ..message })).await;
            }
            // A broker may hold QoS 2 messages back until they are released; it releases in order [MQTT-4.6.0-4].
            if qos == QoS::ExactlyOnce {
                for number in 1..=15_u16 {
                    match publisher.recv().await {
                        Packet::PubRec(received) => assert_eq!(received.packet_id.get(), number),
                        other => panic!("expected PUBREC, got {other:?}"),
                    }
                    publisher.send(Packet::PubRel(ack(PacketId::new(number).expect("from 1")))).await;
                }
            }
            for number in 1..=15 {
                assert_eq!(text(&subscriber.message().await), number.to_string(), "{version:?} {qos:?}");
            }
        }
    }
}

/// [MQTT-3.3.4-6]: a client does not send subscription identifiers.
#[tokio::test]
async fn a_subscription_identifier_from_a_client_ends_the_connection() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "with-id")).await;
    client.send(Packet::Publish(Publish { subscription_ids: vec![1], ..publish("publish/id", "x") })).await;
    assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
}

/// [MQTT-3.3.2-9] [MQTT-3.3.2-12]: topic aliases up to what CONNACK announced, and gone with the connection.
#[tokio::test]
async fn topic_aliases_work_as_announced() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "alias")).await;
    let maximum = client.connack.properties.topic_alias_maximum.unwrap_or(0);
    let alias = NonZeroU16::new;
    if maximum > 0 {
        client.subscribe("publish/alias/#", QoS::AtMostOnce).await;
        let topics = ["publish/alias/a", "publish/alias/b"];
        // The second takes the alias over [MQTT-3.3.2-12].
        for topic in topics {
            client.publish(Publish { topic_alias: alias(maximum), ..publish(topic, "set") }).await;
            client.publish(Publish { topic_alias: alias(maximum), topic: None, ..publish(topic, "used") }).await;
            for expected in ["set", "used"] {
                let message = client.message().await;
                assert_eq!(message.topic.as_ref().map(ToString::to_string), Some(topic.to_owned()));
                assert_eq!(text(&message), expected);
                assert_eq!(message.topic_alias, None, "this client allows none [MQTT-3.1.2-26]");
            }
        }
        let mut other = Client::connect(&target, hello(Version::V5, "alias-2")).await;
        other.send(Packet::Publish(Publish { topic_alias: alias(1), topic: None, ..publish("x", "x") })).await;
        let reason = other.closed().await;
        assert!(matches!(reason, Some(ReasonCode::ProtocolError | ReasonCode::TopicAliasInvalid)), "{reason:?}");
    }
    let above = Publish { topic_alias: alias(maximum + 1), ..publish("publish/alias/c", "x") };
    client.send(Packet::Publish(above)).await;
    assert_eq!(client.closed().await, Some(ReasonCode::TopicAliasInvalid));
}

/// 3.4.2.1: a message that nobody wants is accepted all the same.
#[tokio::test]
async fn a_message_without_subscribers_is_acknowledged() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "nobody")).await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let reason = client.publish(Publish { qos, ..publish("publish/nobody", "x") }).await;
            assert!(matches!(reason, ReasonCode::Success | ReasonCode::NoMatchingSubscribers), "{reason:?}");
        }
    }
}

/// [MQTT-3.3.2-6]: a message says what is left of its expiry.
#[tokio::test]
async fn a_message_expiry_is_passed_on() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "expiry")).await;
    client.subscribe("publish/expiry", QoS::AtMostOnce).await;
    let properties = PublishProperties { message_expiry: Some(1_000), ..PublishProperties::default() };
    client.publish(Publish { properties: Some(Box::new(properties)), ..publish("publish/expiry", "x") }).await;
    let left = client.message().await.properties.and_then(|properties| properties.message_expiry);
    assert!(left.is_some_and(|seconds| (900..=1_000).contains(&seconds)), "{left:?}");
}

/// [MQTT-3.3.2-7]: also when the session goes on.
#[tokio::test]
async fn topic_aliases_end_with_their_connection() {
    let target = Target::start().await;
    Client::connect(&target, hello(Version::V5, "alias-ends")).await.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "alias-ends")).await;
    let set = Publish { topic_alias: NonZeroU16::new(1), ..publish("publish/alias-ends", "set") };
    client.publish(set.clone()).await;
    client.settled().await;
    client.vanish();
    let mut client = Client::connect(&target, resume(Version::V5, "alias-ends")).await;
    assert!(client.connack.session_present);
    client.send(Packet::Publish(Publish { topic: None, ..set })).await;
    assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
}

/// [MQTT-3.3.2-12]
#[tokio::test]
async fn every_topic_alias_that_was_announced_is_taken() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "all-aliases")).await;
    let maximum = client.connack.properties.topic_alias_maximum.unwrap_or(0);
    client.subscribe("publish/all-aliases/#", QoS::AtMostOnce).await;
    let topic = |number: u16| format!("publish/all-aliases/{number}");
    for number in 1..=maximum {
        client.publish(Publish { topic_alias: NonZeroU16::new(number), ..publish(&topic(number), "set") }).await;
    }
    for number in (1..=maximum).rev() {
        let alias = Publish { topic: None, topic_alias: NonZeroU16::new(number), ..publish("x", "used") };
        client.publish(alias).await;
    }
    for (number, payload) in
        (1..=maximum).map(|number| (number, "set")).chain((1..=maximum).rev().map(|number| (number, "used")))
    {
        let message = client.message().await;
        assert_eq!(text(&message), payload);
        assert_eq!(message.topic.map(|topic| topic.to_string()), Some(topic(number)));
    }
}

/// [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-11]: and whatever aliases come, they say the topic that was meant.
#[tokio::test]
async fn a_client_gets_no_topic_alias_above_its_maximum() {
    let target = Target::start().await;
    for maximum in [None, Some(0), Some(2), Some(u16::MAX)] {
        let mut connect = hello(Version::V5, "to-client");
        connect.properties.topic_alias_maximum = maximum;
        let mut client = Client::connect(&target, connect).await;
        client.subscribe("publish/to-client/#", QoS::AtMostOnce).await;
        let mut known = std::collections::BTreeMap::new();
        for round in 0..3 {
            for number in 0..40 {
                let topic = format!("publish/to-client/{number}");
                client.publish(publish(&topic, &round.to_string())).await;
                let message = client.message().await;
                assert!(message.topic_alias.map_or(0, NonZeroU16::get) <= maximum.unwrap_or(0));
                let said = match (message.topic.as_ref().map(ToString::to_string), message.topic_alias) {
                    (Some(topic), None) => topic,
                    (Some(topic), Some(alias)) => {
                        known.insert(alias, topic.clone());
                        topic
                    }
                    (None, Some(alias)) => known[&alias].clone(),
                    (None, None) => panic!("neither topic nor alias"),
                };
                assert_eq!(said, topic);
            }
        }
    }
}

/// [MQTT-4.7.3-4]: the same text in another Unicode form is another topic.
#[tokio::test]
async fn topics_are_not_normalised() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "normal")).await;
        let forms = ["caf\u{E9}", "cafe\u{301}", "CAF\u{C9}", "caf\u{E9}/", "/caf\u{E9}", " caf\u{E9}", "./caf\u{E9}"];
        for form in forms {
            client.subscribe(&format!("publish/normal/{form}"), QoS::AtMostOnce).await;
            for other in forms {
                client.publish(publish(&format!("publish/normal/{other}"), other)).await;
            }
            client.subscribe("publish/normal-last", QoS::AtMostOnce).await;
            client.publish(publish("publish/normal-last", "last")).await;
            assert_eq!(client.until("last").await, [form]);
            client.unsubscribe(&format!("publish/normal/{form}")).await;
        }
    }
}

/// 3.1.1: [MQTT-3.3.5-2]: acknowledged as if it had been taken, and on MQTT 5 with the reason.
#[tokio::test]
async fn a_publish_that_is_not_allowed_is_acknowledged_and_discarded() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "topic read denied/#\ntopic readwrite allowed/#\n").expect("a file can be written");
    let target = Target::start_with(&format!("[auth]\nacl_file = {:?}\n", acl.display().to_string())).await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "denied")).await;
        client.subscribe("denied/#", QoS::ExactlyOnce).await;
        client.subscribe("allowed/#", QoS::ExactlyOnce).await;
        let expected = if version == Version::V5 { ReasonCode::NotAuthorized } else { ReasonCode::Success };
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(client.publish(Publish { qos, ..publish("denied/x", "no") }).await, expected);
        }
        client.publish(publish("denied/x", "no")).await;
        client.publish(publish("allowed/last", "last")).await;
        assert_eq!(client.until("last").await, [""; 0]);
    }
}
