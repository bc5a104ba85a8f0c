//! The handshakes of QoS 1 and 2, with everything that goes wrong on the way.

use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, ack, hello, publish, publish_at, resume, text};
use crate::target::Target;

/// [MQTT-4.3.2-4] [MQTT-2.2.1-5]
#[tokio::test]
async fn qos_1_is_acknowledged_with_its_id() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "qos1")).await;
        for id in [1, 0x1234, u16::MAX] {
            client.send(Packet::Publish(publish_at(QoS::AtLeastOnce, id, "qos/1", "x"))).await;
            match client.recv().await {
                Packet::PubAck(ack) => assert_eq!(ack.packet_id.get(), id),
                other => panic!("expected PUBACK, got {other:?}"),
            }
        }
    }
}

/// [MQTT-4.6.0-2] (3.1.1: the same) PUBACKs leave in the order of their PUBLISHes.
#[tokio::test]
async fn acknowledgements_come_in_order() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "ack-order")).await;
        // Stored ones wait for the disk, the others need not: the order holds between them.
        for id in 1..=20_u16 {
            let topic = if id % 2 == 0 { "stored/order" } else { "qos/order" };
            client.send(Packet::Publish(publish_at(QoS::AtLeastOnce, id, topic, "x"))).await;
        }
        for id in 1..=20_u16 {
            match client.recv().await {
                Packet::PubAck(ack) => assert_eq!(ack.packet_id.get(), id),
                other => panic!("expected PUBACK, got {other:?}"),
            }
        }
        // [MQTT-4.6.0-3] [MQTT-4.6.0-4]
        for id in 1..=10_u16 {
            let topic = if id % 2 == 0 { "stored/order" } else { "qos/order" };
            client.send(Packet::Publish(publish_at(QoS::ExactlyOnce, id, topic, "x"))).await;
        }
        for id in 1..=10_u16 {
            match client.recv().await {
                Packet::PubRec(ack) => assert_eq!(ack.packet_id.get(), id),
                other => panic!("expected PUBREC, got {other:?}"),
            }
        }
    }
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] [MQTT-4.3.3-12]: until PUBREL the same id is the same message, sent
/// again; after it, a new one.
#[tokio::test]
async fn a_qos_2_message_sent_again_is_delivered_once() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("qos/2/{version:?}");
        let mut subscriber = Client::connect(&target, hello(version, "qos2-sub")).await;
        subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut client = Client::connect(&target, hello(version, "qos2-pub")).await;
        let message = publish_at(QoS::ExactlyOnce, 10, &topic, "once");
        for dup in [false, true, true] {
            client.send(Packet::Publish(Publish { dup, ..message.clone() })).await;
            match client.recv().await {
                Packet::PubRec(received) => {
                    assert_eq!(received.packet_id.get(), 10);
                    assert!(!received.reason.is_failure());
                }
                other => panic!("expected PUBREC, got {other:?}"),
            }
        }
        let id = PacketId::new(10).expect("from 1");
        assert_eq!(client.release(id).await, ReasonCode::Success);
        client.publish(Publish { packet_id: Some(id), ..publish_at(QoS::ExactlyOnce, 10, &topic, "twice") }).await;
        client.publish(publish(&topic, "last")).await;
        assert_eq!(subscriber.until("last").await, ["once", "twice"]);
    }
}

/// 3.7.2.1: PUBREL for an id that is not known gets its PUBCOMP, on MQTT 5 with Packet Identifier not found.
#[tokio::test]
async fn an_unknown_release_is_completed() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "unknown-rel")).await;
        let reason = client.release(PacketId::new(4_711).expect("from 1")).await;
        match version {
            Version::V31 | Version::V311 => assert_eq!(reason, ReasonCode::Success),
            Version::V5 => assert_eq!(reason, ReasonCode::PacketIdNotFound),
        }
        client.settled().await;
    }
}

/// 3.4, 3.5: acknowledgements for ids that the broker did not use do no harm to others, and do not bring it down.
#[tokio::test]
async fn stray_acknowledgements_harm_nobody() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut bystander = Client::connect(&target, hello(version, "stray-by")).await;
        let stray = ack(PacketId::new(99).expect("from 1"));
        for packet in [Packet::PubAck(stray.clone()), Packet::PubComp(stray.clone()), Packet::PubRec(stray.clone())] {
            let mut client = Client::connect(&target, hello(version, "stray")).await;
            client.send(packet).await;
            client.vanish();
        }
        bystander.settled().await;
    }
}

/// [MQTT-4.4.0-1] [MQTT-3.3.1-1]: what was not acknowledged is sent again on the next connection, with DUP and the same
/// id, in order, and only then.
#[tokio::test]
async fn unacknowledged_messages_are_sent_again_in_order() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("qos/again/{version:?}");
        Client::connect(&target, hello(version, "again")).await.goodbye().await;
        let mut subscriber = Client::connect(&target, resume(version, "again")).await;
        subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "again-pub")).await;
        for (qos, payload) in [(QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2"), (QoS::AtLeastOnce, "3")] {
            publisher.publish(Publish { qos, ..publish(&topic, payload) }).await;
        }
        let mut ids = Vec::new();
        for payload in ["1", "2", "3"] {
            let message = subscriber.unacknowledged().await;
            assert_eq!((text(&message), message.dup), (payload, false));
            ids.push(message.packet_id.expect("QoS 1 or 2"));
        }
        subscriber.vanish();
        let mut subscriber = Client::connect(&target, resume(version, "again")).await;
        assert!(subscriber.connack.session_present);
        for (payload, id) in ["1", "2", "3"].into_iter().zip(&ids) {
            let message = subscriber.unacknowledged().await;
            assert_eq!((text(&message), message.dup, message.packet_id), (payload, true, Some(*id)));
        }
        for (id, qos) in ids.iter().zip([QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce]) {
            match qos {
                QoS::ExactlyOnce => {
                    subscriber.send(Packet::PubRec(ack(*id))).await;
                    match subscriber.recv().await {
                        Packet::PubRel(release) => assert_eq!(release.packet_id, *id),
                        other => panic!("expected PUBREL, got {other:?}"),
                    }
                    subscriber.send(Packet::PubComp(ack(*id))).await;
                }
                _ => subscriber.send(Packet::PubAck(ack(*id))).await,
            }
        }
        subscriber.settled().await;
        subscriber.goodbye().await;
        // All acknowledged: nothing comes before the next message.
        let mut subscriber = Client::connect(&target, resume(version, "again")).await;
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "4") }).await;
        assert_eq!(subscriber.until("4").await, [""; 0]);
        subscriber.goodbye().await;
        Client::connect(&target, hello(version, "again")).await.goodbye().await;
    }
}

/// [MQTT-4.4.0-1] [MQTT-4.3.3-4] [MQTT-4.3.3-5]: behind PUBREC it is PUBREL that is sent again, not the message.
#[tokio::test]
async fn a_release_is_sent_again_instead_of_the_message() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("qos/release/{version:?}");
        Client::connect(&target, hello(version, "release")).await.goodbye().await;
        let mut subscriber = Client::connect(&target, resume(version, "release")).await;
        subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
        subscriber.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, "x") }).await;
        let id = subscriber.unacknowledged().await.packet_id.expect("QoS 2");
        subscriber.send(Packet::PubRec(ack(id))).await;
        for _ in 0..2 {
            match subscriber.recv().await {
                Packet::PubRel(release) => assert_eq!(release.packet_id, id),
                other => panic!("expected PUBREL, got {other:?}"),
            }
            subscriber.vanish();
            subscriber = Client::connect(&target, resume(version, "release")).await;
        }
        match subscriber.recv().await {
            Packet::PubRel(release) => assert_eq!(release.packet_id, id),
            other => panic!("expected PUBREL, got {other:?}"),
        }
        subscriber.send(Packet::PubComp(ack(id))).await;
        subscriber.settled().await;
        subscriber.goodbye().await;
        Client::connect(&target, hello(version, "release")).await.goodbye().await;
    }
}

/// [MQTT-4.3.3-10] [MQTT-4.1.0-1]: the ids of QoS 2 messages that were not released belong to the session.
#[tokio::test]
async fn a_qos_2_message_sent_again_after_a_reconnect_is_delivered_once() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("qos/reconnect/{version:?}");
        let mut subscriber = Client::connect(&target, hello(version, "reconnect-sub")).await;
        subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
        Client::connect(&target, hello(version, "reconnect")).await.goodbye().await;
        let message = publish_at(QoS::ExactlyOnce, 3, &topic, "once");
        for dup in [false, true] {
            let mut client = Client::connect(&target, resume(version, "reconnect")).await;
            assert_eq!(client.connack.session_present, dup);
            client.send(Packet::Publish(Publish { dup, ..message.clone() })).await;
            match client.recv().await {
                Packet::PubRec(received) => assert_eq!(received.packet_id.get(), 3),
                other => panic!("expected PUBREC, got {other:?}"),
            }
            client.vanish();
        }
        let mut client = Client::connect(&target, resume(version, "reconnect")).await;
        assert_eq!(client.release(PacketId::new(3).expect("from 1")).await, ReasonCode::Success);
        client.publish(publish(&topic, "last")).await;
        assert_eq!(subscriber.until("last").await, ["once"]);
        client.goodbye().await;
        Client::connect(&target, hello(version, "reconnect")).await.goodbye().await;
    }
}

/// [MQTT-4.3.3-4]: a PUBREC with a failure ends the exchange; its id is free and the message is not sent again.
#[tokio::test]
async fn a_refused_qos_2_message_is_not_sent_again() {
    let target = Target::start().await;
    Client::connect(&target, hello(Version::V5, "refusing")).await.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "refusing")).await;
    client.subscribe("qos/refused", QoS::ExactlyOnce).await;
    client.publish(Publish { qos: QoS::ExactlyOnce, ..publish("qos/refused", "no") }).await;
    let id = client.unacknowledged().await.packet_id.expect("QoS 2");
    client.send(Packet::PubRec(Ack { reason: ReasonCode::QuotaExceeded, ..ack(id) })).await;
    client.settled().await;
    client.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "refusing")).await;
    client.publish(Publish { qos: QoS::ExactlyOnce, ..publish("qos/refused", "last") }).await;
    assert_eq!(client.until("last").await, [""; 0]);
    client.goodbye().await;
    Client::connect(&target, hello(Version::V5, "refusing")).await.goodbye().await;
}

/// [MQTT-4.3.3-2] [MQTT-4.4.0-1]: a receiver that keeps its ids gets each message once and in order, whenever the broker is killed.
#[tokio::test]
async fn qos_2_deliveries_are_exact_across_kills() {
    const ROUNDS: usize = 6;
    const MESSAGES: usize = 20;
    let mut target = Target::start_with("").await;
    let mut subscriber = Client::connect(&target, resume(Version::V5, "exact")).await;
    subscriber.subscribe("stored/exact", QoS::ExactlyOnce).await;
    let mut unreleased = std::collections::HashSet::new();
    let mut got = Vec::new();
    for round in 0..=ROUNDS {
        if round < ROUNDS {
            let mut publisher = Client::connect(&target, hello(Version::V5, "exact-pub")).await;
            for number in 0..MESSAGES {
                let payload = (round * MESSAGES + number).to_string();
                publisher.publish(Publish { qos: QoS::ExactlyOnce, ..publish("stored/exact", &payload) }).await;
            }
        }
        // Killed after another number of packets each time, some of them PUBREL; at the end everything must come.
        let mut packets = if round < ROUNDS { 25 + 2 * round } else { usize::MAX };
        while packets > 0 && !(got.len() >= ROUNDS * MESSAGES && unreleased.is_empty()) {
            packets -= 1;
            match subscriber.recv().await {
                Packet::Publish(message) => {
                    let id = message.packet_id.expect("QoS 2");
                    if unreleased.insert(id) {
                        got.push(text(&message).to_owned());
                    }
                    subscriber.send(Packet::PubRec(ack(id))).await;
                }
                Packet::PubRel(release) => {
                    unreleased.remove(&release.packet_id);
                    subscriber.send(Packet::PubComp(ack(release.packet_id))).await;
                }
                other => panic!("expected PUBLISH or PUBREL, got {other:?}"),
            }
        }
        if round < ROUNDS {
            target.kill_and_restart().await;
            subscriber = Client::connect(&target, resume(Version::V5, "exact")).await;
        }
    }
    let expected: Vec<String> = (0..ROUNDS * MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(got, expected);
}

/// [MQTT-4.3.2-5]: whatever DUP says.
#[tokio::test]
async fn an_acknowledged_id_is_a_new_message() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("qos/new/{version:?}");
        let mut subscriber = Client::connect(&target, hello(version, "new-sub")).await;
        subscriber.subscribe(&topic, QoS::AtLeastOnce).await;
        let mut client = Client::connect(&target, hello(version, "new")).await;
        for (payload, dup) in [("1", false), ("2", true), ("3", false)] {
            client.publish(Publish { dup, ..publish_at(QoS::AtLeastOnce, 5, &topic, payload) }).await;
        }
        client.publish(publish_at(QoS::AtLeastOnce, 5, &topic, "last")).await;
        assert_eq!(subscriber.until("last").await, ["1", "2", "3"]);
    }
}

/// [MQTT-4.4.0-2]: a PUBACK with a failure ends the exchange like any other.
#[tokio::test]
async fn a_refused_qos_1_message_is_not_sent_again() {
    let target = Target::start().await;
    Client::connect(&target, hello(Version::V5, "refusing-1")).await.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "refusing-1")).await;
    client.subscribe("qos/refused-1", QoS::AtLeastOnce).await;
    client.publish(Publish { qos: QoS::AtLeastOnce, ..publish("qos/refused-1", "no") }).await;
    let id = client.unacknowledged().await.packet_id.expect("QoS 1");
    client.send(Packet::PubAck(Ack { reason: ReasonCode::UnspecifiedError, ..ack(id) })).await;
    client.settled().await;
    client.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "refusing-1")).await;
    client.publish(Publish { qos: QoS::AtLeastOnce, ..publish("qos/refused-1", "last") }).await;
    assert_eq!(client.until("last").await, [""; 0]);
    client.goodbye().await;
    Client::connect(&target, hello(Version::V5, "refusing-1")).await.goodbye().await;
}

/// [MQTT-4.3.3-7] [MQTT-4.3.3-13]: the expiry of a message does not end an exchange that has begun, in either direction.
#[tokio::test]
async fn an_exchange_goes_on_when_its_message_expires() {
    let target = Target::start().await;
    Client::connect(&target, hello(Version::V5, "expires")).await.goodbye().await;
    let mut subscriber = Client::connect(&target, resume(Version::V5, "expires")).await;
    subscriber.subscribe("qos/expires", QoS::ExactlyOnce).await;
    let mut publisher = Client::connect(&target, hello(Version::V5, "expires-pub")).await;
    let properties = PublishProperties { message_expiry: Some(1), ..PublishProperties::default() };
    let brief =
        Publish { properties: Some(Box::new(properties)), ..publish_at(QoS::ExactlyOnce, 7, "qos/expires", "x") };
    publisher.send(Packet::Publish(brief)).await;
    assert!(matches!(publisher.recv().await, Packet::PubRec(_)));
    let first = subscriber.unacknowledged().await;
    subscriber.vanish();
    // Time itself is what is tested here.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(publisher.release(PacketId::new(7).expect("from 1")).await, ReasonCode::Success);
    let mut subscriber = Client::connect(&target, resume(Version::V5, "expires")).await;
    let again = subscriber.unacknowledged().await;
    assert_eq!((again.packet_id, again.dup, text(&again)), (first.packet_id, true, "x"));
    subscriber.acknowledge(&again).await;
    subscriber.settled().await;
    subscriber.goodbye().await;
    Client::connect(&target, hello(Version::V5, "expires")).await.goodbye().await;
}

/// 3.1.1: [MQTT-4.6.0-4], which 4.6.0-6 there asks of the server, too.
#[tokio::test]
async fn releases_come_in_the_order_of_their_receipts() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("qos/releases/{version:?}");
        let mut subscriber = Client::connect(&target, hello(version, "releases")).await;
        subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "releases-pub")).await;
        let mut ids = Vec::new();
        for number in 0..4 {
            publisher.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, &number.to_string()) }).await;
            ids.push(subscriber.unacknowledged().await.packet_id.expect("QoS 2"));
        }
        ids.swap(0, 2);
        for id in &ids {
            subscriber.send(Packet::PubRec(ack(*id))).await;
        }
        for id in &ids {
            match subscriber.recv().await {
                Packet::PubRel(release) => assert_eq!(release.packet_id, *id),
                other => panic!("expected PUBREL, got {other:?}"),
            }
        }
    }
}
