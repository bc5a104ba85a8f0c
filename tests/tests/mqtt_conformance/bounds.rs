//! What the configuration bounds, the broker says and holds to.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use headwater_broker::mqtt::codec::encoded_len;
use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, hello, publish, publish_at, resume, text};
use crate::target::Target;

/// 3.1.4: a connection that does not say CONNECT is closed, whatever part of it came.
#[tokio::test]
async fn a_connection_without_connect_is_closed() {
    let target = Target::start_with("[mqtt]\nconnect_timeout = \"1s\"\n").await;
    let since = Instant::now();
    let mut silent = Client::open(&target, Version::V5).await;
    let mut slow = Client::open(&target, Version::V5).await;
    slow.send_bytes(b"\x10\x0D\0\x04MQ").await;
    for client in [&mut silent, &mut slow] {
        let _ = client.closed().await; // with or without a word
        assert!(since.elapsed() > Duration::from_millis(900), "{:?}", since.elapsed());
    }
}

/// A connection too many is refused, and costs the others nothing; its place is free again when one leaves.
#[tokio::test]
async fn connections_are_bounded() {
    let target = Target::start_with("[mqtt]\nmax_connections = 2\nmax_sessions = 2\n").await;
    let mut one = Client::connect(&target, hello(Version::V5, "one")).await;
    let two = Client::connect(&target, hello(Version::V5, "two")).await;
    let mut three = Client::open(&target, Version::V5).await;
    three.send_to_be_refused(b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01c").await;
    let reason = three.refused_or_closed().await;
    assert!(reason.is_none_or(|reason| reason.is_failure()), "{reason:?}");
    one.settled().await;
    two.goodbye().await;
    headwater_tests::wait::until(headwater_tests::wait::PATIENCE, "a free place", || async {
        let mut next = Client::open(&target, Version::V5).await;
        next.send_to_be_refused(b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01c").await;
        match next.answer_to_connect().await {
            Some(ReasonCode::Success) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

/// [MQTT-3.1.2-21] [MQTT-3.2.2-21] [MQTT-3.2.2-22]: the broker's own keep alive counts where it says so.
#[tokio::test]
async fn the_server_keep_alive_is_said_and_counts() {
    let target = Target::start_with("[mqtt]\nmax_keep_alive = \"1s\"\n").await;
    for keep_alive in [60, 0] {
        let mut client = Client::connect(&target, Connect { keep_alive, ..hello(Version::V5, "kept") }).await;
        assert_eq!(client.connack.properties.server_keep_alive, Some(1));
        let since = Instant::now();
        assert_eq!(client.closed().await, Some(ReasonCode::KeepAliveTimeout));
        assert!(since.elapsed() > Duration::from_millis(1_400), "{:?}", since.elapsed());
    }
    let client = Client::connect(&target, Connect { keep_alive: 1, ..hello(Version::V5, "kept") }).await;
    assert_eq!(client.connack.properties.server_keep_alive, None, "nothing was changed");
}

/// 3.2.2.3.2: a session expiry that the broker shortens is said in CONNACK, and counts.
#[tokio::test]
async fn a_shortened_session_expiry_is_said_and_counts() {
    let target = Target::start_with("[mqtt]\nmax_session_expiry = \"1s\"\n").await;
    for version in VERSIONS {
        let client = Client::connect(&target, resume(version, "short")).await;
        if version == Version::V5 {
            assert_eq!(client.connack.properties.session_expiry, Some(1));
        }
        client.goodbye().await;
    }
    // Each look would renew the sessions, so time itself has to pass.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for version in VERSIONS {
        assert!(!Client::connect(&target, resume(version, "short")).await.connack.session_present);
    }
}

/// 3.9.3: a subscription too many is refused by itself; replacing one is not one more.
#[tokio::test]
async fn subscriptions_are_bounded() {
    let target = Target::start_with("[mqtt]\nmax_subscriptions = 2\n").await;
    let mut client = Client::connect(&target, hello(Version::V5, "subs")).await;
    client.subscribe("bounds/1", QoS::AtMostOnce).await;
    client.subscribe("bounds/2", QoS::AtMostOnce).await;
    let third = client.subscribe_with("bounds/3", SubscriptionOptions::default(), None).await;
    assert_eq!(third, ReasonCode::QuotaExceeded);
    client.subscribe("bounds/2", QoS::AtLeastOnce).await;
    client.unsubscribe("bounds/1").await;
    client.subscribe("bounds/3", QoS::AtMostOnce).await;
}

/// G5 and [MQTT-4.6.0-6]: a client that reads slowly holds no memory, and misses nothing of QoS 1 and 2.
#[tokio::test]
async fn a_slow_reader_gets_everything_in_order() {
    let target = Target::start_with("[mqtt]\nmax_queued_msgs = 20\n").await;
    for (qos, topic) in [(QoS::AtLeastOnce, "stored/slow"), (QoS::ExactlyOnce, "bounds/slow")] {
        let mut connect = hello(Version::V5, "slow");
        connect.properties.receive_maximum = NonZeroU16::new(5);
        let mut slow = Client::connect(&target, connect).await;
        slow.subscribe(topic, qos).await;
        let mut quick = Client::connect(&target, hello(Version::V5, "quick")).await;
        quick.subscribe(topic, QoS::AtMostOnce).await;
        let mut publisher = Client::connect(&target, hello(Version::V5, "slow-pub")).await;
        for number in 0..300 {
            publisher.publish(Publish { qos, ..publish(topic, &number.to_string()) }).await;
            assert_eq!(text(&quick.message().await), number.to_string(), "others do not wait");
        }
        for number in 0..300 {
            assert_eq!(text(&slow.message().await), number.to_string(), "{qos:?} {topic}");
        }
        // It has caught up: what comes now comes live, and in order still.
        for number in 300..400 {
            publisher.publish(Publish { qos, ..publish(topic, &number.to_string()) }).await;
        }
        for number in 300..400 {
            assert_eq!(text(&slow.message().await), number.to_string(), "{qos:?} {topic}");
        }
    }
}

/// G5: clients that never read hold no more than the bound for all of them, take nothing from those who read, and lose nothing of QoS 1.
#[tokio::test]
async fn all_queues_together_are_bounded() {
    const TOTAL: u32 = 2 << 20;
    let mut target = Target::start_with(
        "[mqtt]\nreceive_maximum = 5\nmax_packet_bytes = \"256KiB\"\nmax_queued_bytes = \"512KiB\"\n\
         max_queued_bytes_total = \"2MiB\"\n",
    )
    .await;
    let mut deaf = Vec::new();
    for number in 0..10 {
        let mut client = Client::connect(&target, hello(Version::V5, &format!("deaf-{number}"))).await;
        client.subscribe(&format!("bounds/deaf/{number}"), QoS::AtLeastOnce).await;
        deaf.push(client);
    }
    let mut reader = Client::connect(&target, hello(Version::V5, "reader")).await;
    reader.subscribe("bounds/#", QoS::AtMostOnce).await;
    let mut publisher = Client::connect(&target, hello(Version::V5, "all-pub")).await;
    // 10 MiB, of which the windows let go a third.
    for round in 0..16 {
        for number in 0..deaf.len() {
            let payload = format!("{round:x>60000}");
            let qos = QoS::AtLeastOnce;
            publisher.publish(Publish { qos, ..publish(&format!("bounds/deaf/{number}"), &payload) }).await;
            assert_eq!(text(&reader.message().await), payload, "who reads misses nothing");
        }
        let queued = target.metric("headwater_queued_bytes").await;
        assert!(queued <= f64::from(TOTAL), "{queued}");
    }
    assert!(target.metric("headwater_queues_full_total").await > 0.0);
    assert_eq!(target.logged("mqtt.max_queued_bytes_total is reached"), 1, "once per episode");
    for client in &mut deaf {
        for round in 0..16 {
            assert_eq!(text(&client.message().await), format!("{round:x>60000}"));
        }
    }
    publisher.settled().await;
    assert_eq!(target.metric("headwater_queued_bytes").await.to_bits(), 0.0f64.to_bits());
}

/// G5: a client that does not read at all cannot make the broker hold what it should get.
#[tokio::test]
async fn a_client_that_does_not_read_costs_no_memory() {
    let mut target = Target::start().await;
    let mut deaf = Client::connect(&target, hello(Version::V5, "deaf")).await;
    deaf.subscribe("bounds/deaf", QoS::AtMostOnce).await;
    let mut publisher = Client::connect(&target, hello(Version::V5, "deaf-pub")).await;
    let payload = "x".repeat(64 * 1024);
    for _ in 0..20 {
        publisher.publish(publish("bounds/deaf", &payload)).await;
    }
    publisher.settled().await;
    let before = target.resident_bytes();
    // 64 MiB, of which the sockets hold a few.
    for _ in 0..1_000 {
        publisher.publish(publish("bounds/deaf", &payload)).await;
    }
    publisher.settled().await;
    let grown = target.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "grown by {grown} bytes");
    // The next one is not lost for good: a new subscription gets what comes.
    let mut other = Client::connect(&target, hello(Version::V5, "deaf-other")).await;
    other.subscribe("bounds/deaf", QoS::AtMostOnce).await;
    publisher.publish(publish("bounds/deaf", "last")).await;
    assert_eq!(text(&other.message().await), "last");
}

/// [MQTT-3.1.2-29]: why a message was refused is said in words to who did not decline them; [MQTT-3.4.2-2] [MQTT-3.5.2-2]
/// [MQTT-3.14.2-3]: and has room for them.
#[tokio::test]
async fn a_reason_string_comes_only_to_who_wants_it() {
    let stream = "[[stream]]\nname = \"tiny\"\ntopics = [\"tiny/#\"]\nmax_msgs = 1\ndiscard = \"new\"\n";
    let target = Target::start_with(stream).await;
    let mut first = Client::connect(&target, hello(Version::V5, "fills")).await;
    assert!(!first.publish(Publish { qos: QoS::AtLeastOnce, ..publish("tiny/x", "fills it") }).await.is_failure());
    // Room for the CONNACK, and for no words.
    let small = encoded_len(&Packet::ConnAck(Box::new(first.connack.clone())), Version::V5).expect("was sent");
    let small = u32::try_from(small).expect("small");
    for (wanted, room, said) in
        [(None, None, true), (Some(true), None, true), (Some(false), None, false), (Some(true), Some(small), false)]
    {
        let mut connect = hello(Version::V5, "words");
        connect.properties.request_problem_information = wanted;
        connect.properties.maximum_packet_size = room;
        let mut client = Client::connect(&target, connect).await;
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client.send(Packet::Publish(publish_at(qos, 1, "tiny/x", "too much"))).await;
            match client.recv().await {
                Packet::PubAck(ack) | Packet::PubRec(ack) => {
                    assert_eq!((ack.reason, ack.reason_string.is_some()), (ReasonCode::QuotaExceeded, said));
                    assert_eq!(ack.user, []);
                }
                other => panic!("expected a refusal, got {other:?}"),
            }
        }
        client.send_bytes(b"\xC1\0").await;
        match client.recv().await {
            Packet::Disconnect(disconnect) => {
                assert_eq!(disconnect.reason, ReasonCode::MalformedPacket);
                assert!(room.is_none() || disconnect.reason_string.is_none());
            }
            other => panic!("expected DISCONNECT, got {other:?}"),
        }
    }
}
