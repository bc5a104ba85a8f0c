//! Receive Maximum and Maximum Packet Size, in both directions.

use std::num::NonZeroU16;

use headwater_broker::mqtt::codec::encoded_len;
use headwater_broker::mqtt::packet::*;

use crate::client::{Client, ack, hello, publish, publish_at, resume, text};
use crate::target::Target;

/// [MQTT-3.3.4-9] [MQTT-3.3.4-10] and 4.9: never more unacknowledged messages towards a client than it allows.
#[tokio::test]
async fn a_client_gets_no_more_at_once_than_it_allows() {
    let target = Target::start().await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let topic = format!("limits/receive/{qos:?}");
        let mut connect = hello(Version::V5, "receive");
        connect.properties.receive_maximum = NonZeroU16::new(2);
        let mut client = Client::connect(&target, connect).await;
        client.subscribe(&topic, qos).await;
        let mut publisher = Client::connect(&target, hello(Version::V5, "receive-pub")).await;
        for number in 0..5 {
            publisher.publish(Publish { qos, ..publish(&topic, &number.to_string()) }).await;
        }
        let mut ids = Vec::new();
        for number in 0..2 {
            let message = client.unacknowledged().await;
            assert_eq!(text(&message), number.to_string());
            ids.push(message.packet_id.expect("QoS 1 or 2"));
        }
        // Only PUBLISH waits for the window [MQTT-3.3.4-10].
        client.settled().await;
        assert_eq!(client.waiting(), 0, "the window is full");
        for number in 2..5 {
            let id = ids.remove(0);
            match qos {
                QoS::ExactlyOnce => {
                    client.send(Packet::PubRec(ack(id))).await;
                    let answer = client.recv().await;
                    assert!(matches!(answer, Packet::PubRel(_)), "PUBREC alone opens nothing: {answer:?}");
                    client.settled().await;
                    assert_eq!(client.waiting(), 0);
                    client.send(Packet::PubComp(ack(id))).await;
                }
                _ => client.send(Packet::PubAck(ack(id))).await,
            }
            let message = client.unacknowledged().await;
            assert_eq!(text(&message), number.to_string());
            ids.push(message.packet_id.expect("QoS 1 or 2"));
        }
    }
}

/// [MQTT-3.3.4-7]: a client that sends more than the broker allows is disconnected.
#[tokio::test]
async fn a_client_that_exceeds_the_receive_maximum_is_disconnected() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "exceeds")).await;
    let maximum = client.connack.properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get);
    assert!(maximum < u16::MAX, "the broker sets a limit");
    // Up to the limit everything is taken; none is released, so the window stays full.
    for id in 1..=maximum {
        client.send(Packet::Publish(publish_at(QoS::ExactlyOnce, id, "limits/exceed", "x"))).await;
    }
    for id in 1..=maximum {
        match client.recv().await {
            Packet::PubRec(received) => assert_eq!(received.packet_id.get(), id),
            other => panic!("expected PUBREC, got {other:?}"),
        }
    }
    client.settled().await;
    client.send(Packet::Publish(publish_at(QoS::ExactlyOnce, maximum + 1, "limits/exceed", "x"))).await;
    assert_eq!(client.closed().await, Some(ReasonCode::ReceiveMaximumExceeded));
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]: what is too large for a client is not sent to it, and nothing waits behind it.
#[tokio::test]
async fn a_message_too_large_for_a_client_is_passed_over() {
    let target = Target::start().await;
    let mut connect = hello(Version::V5, "small");
    connect.properties.maximum_packet_size = Some(100);
    let mut small = Client::connect(&target, connect).await;
    let mut large = Client::connect(&target, hello(Version::V5, "large")).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let topic = format!("limits/size/{qos:?}");
        small.subscribe(&topic, qos).await;
        large.subscribe(&topic, qos).await;
        let mut publisher = Client::connect(&target, hello(Version::V5, "size-pub")).await;
        for payload in [&"x".repeat(200), "fits", &"y".repeat(100), "last"] {
            publisher.publish(Publish { qos, ..publish(&topic, payload) }).await;
        }
        assert_eq!(small.until("last").await, ["fits"]);
        assert_eq!(large.until("last").await.len(), 3);
    }
}

/// The limit counts every byte of the packet: one that just fits is sent [MQTT-3.1.2-24].
#[tokio::test]
async fn a_message_that_just_fits_is_sent() {
    let target = Target::start().await;
    let mut connect = hello(Version::V5, "fits");
    connect.properties.maximum_packet_size = Some(100);
    let mut client = Client::connect(&target, connect).await;
    client.subscribe("t", QoS::AtMostOnce).await;
    // 2 bytes of fixed header, 3 of topic, 1 of property length.
    for (payload, fits) in [(94, true), (95, false)] {
        client.publish(publish("t", &"x".repeat(payload))).await;
        client.publish(publish("t", "last")).await;
        assert_eq!(client.until("last").await.len(), usize::from(fits), "{payload}");
    }
}

/// [MQTT-3.2.2-15]: a packet above the broker's own limit ends the connection, as soon as its length is known.
#[tokio::test]
async fn a_packet_above_the_limit_ends_the_connection() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "above")).await;
    let maximum = client.connack.properties.maximum_packet_size.expect("the broker sets a limit");
    // The largest that is allowed is taken: what is not payload are the first byte, the length, topic and properties.
    let length_bytes = if maximum > 2_097_155 {
        4
    } else if maximum > 16_386 {
        3
    } else {
        2
    };
    let payload = maximum as usize - 1 - length_bytes - 3 - 1;
    let largest = Packet::Publish(publish("t", &"x".repeat(payload)));
    assert_eq!(encoded_len(&largest, Version::V5), Ok(maximum as usize));
    client.send(largest).await;
    client.settled().await;
    // One byte more is refused by its header alone.
    let remaining = maximum as usize - length_bytes;
    let mut header = vec![0x30];
    header.extend((0..length_bytes).map(|index| {
        let more = if index + 1 < length_bytes { 0x80 } else { 0 };
        u8::try_from((remaining >> (7 * index)) & 0x7F).expect("seven bits") | more
    }));
    client.send_to_be_refused(&header).await;
    assert_eq!(client.closed().await, Some(ReasonCode::PacketTooLarge));
}

/// [MQTT-3.1.2-24] for everything else: acknowledgements shrink to fit a client with a tiny limit.
#[tokio::test]
async fn a_tiny_maximum_packet_size_still_gets_acknowledgements() {
    let target = Target::start().await;
    let mut connect = hello(Version::V5, "tiny");
    // Room for a CONNACK as the broker makes it, whatever that is: taken from a first connection.
    let first = Client::connect(&target, connect.clone()).await;
    let size = encoded_len(&Packet::ConnAck(Box::new(first.connack.clone())), Version::V5);
    connect.properties.maximum_packet_size = Some(u32::try_from(size.expect("was sent")).expect("small"));
    first.goodbye().await;
    let mut client = Client::connect(&target, connect).await;
    client.subscribe("limits/tiny", QoS::AtMostOnce).await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert!(!client.publish(Publish { qos, ..publish("limits/tiny", "x") }).await.is_failure());
        assert_eq!(text(&client.message().await), "x");
    }
    client.unsubscribe("limits/tiny").await;
    client.settled().await;
}

/// [MQTT-3.3.4-9] [MQTT-3.1.2-24] [MQTT-3.1.2-25] with [MQTT-4.4.0-1]: what is sent again keeps to what the client allows
/// now, and that may be less than before.
#[tokio::test]
async fn what_is_sent_again_keeps_to_the_new_limits() {
    let target = Target::start().await;
    Client::connect(&target, hello(Version::V5, "less")).await.goodbye().await;
    let mut client = Client::connect(&target, resume(Version::V5, "less")).await;
    client.subscribe("limits/less", QoS::ExactlyOnce).await;
    let mut publisher = Client::connect(&target, hello(Version::V5, "less-pub")).await;
    let large = "x".repeat(200);
    let payloads = ["0", &large, "2", "3", "4"];
    for payload in payloads {
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish("limits/less", payload) }).await;
        assert_eq!(text(&client.unacknowledged().await), payload);
    }
    client.vanish();
    let mut connect = resume(Version::V5, "less");
    connect.properties.receive_maximum = NonZeroU16::new(2);
    connect.properties.maximum_packet_size = Some(100);
    let mut client = Client::connect(&target, connect).await;
    let mut open = Vec::new();
    for payload in ["0", "2", "3", "4"] {
        let message = client.unacknowledged().await;
        assert_eq!((text(&message), message.dup), (payload, true));
        open.push(message);
        if open.len() == 2 {
            client.settled().await;
            assert_eq!(client.waiting(), 0, "the window is full");
            client.acknowledge(&open.remove(0)).await;
        }
    }
    client.acknowledge(&open.remove(0)).await;
    publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish("limits/less", "last") }).await;
    assert_eq!(client.until("last").await, [""; 0]);
    client.settled().await;
    client.goodbye().await;
    Client::connect(&target, hello(Version::V5, "less")).await.goodbye().await;
}
