//! Sessions that outlive their connection, and the broker.

use std::time::Duration;

use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, ack, disconnect, hello, publish, publish_at, resume, text};
use crate::target::Target;

async fn forget(target: &Target, version: Version, client_id: &str) {
    Client::connect(target, hello(version, client_id)).await.goodbye().await;
}

/// [MQTT-4.1.0-1] (3.1.1: [MQTT-3.1.2-5]): messages of QoS 1 and 2 wait for the client, in order; subscriptions stay.
#[tokio::test]
async fn messages_wait_for_an_absent_client() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("session/waits/{version:?}");
        forget(&target, version, "waits").await;
        let mut client = Client::connect(&target, resume(version, "waits")).await;
        client.subscribe(&topic, QoS::ExactlyOnce).await;
        client.goodbye().await;
        let mut publisher = Client::connect(&target, hello(version, "waits-pub")).await;
        for number in 0..50 {
            let qos = if number % 3 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
            publisher.publish(Publish { qos, ..publish(&topic, &number.to_string()) }).await;
        }
        let mut client = Client::connect(&target, resume(version, "waits")).await;
        assert!(client.connack.session_present);
        for number in 0..50 {
            let message = client.message().await;
            assert_eq!(text(&message), number.to_string());
            assert!(!message.dup, "it was never sent before");
            assert_eq!(message.qos, if number % 3 == 0 { QoS::ExactlyOnce } else { QoS::AtLeastOnce });
        }
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "live") }).await;
        assert_eq!(text(&client.message().await), "live");
        client.settled().await;
        client.goodbye().await;
        forget(&target, version, "waits").await;
    }
}

/// G1 and issue of the main job: sessions and what waits for them survive a kill of the broker.
#[tokio::test]
async fn sessions_survive_a_kill_of_the_broker() {
    let mut target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, resume(version, "kill")).await;
        client.subscribe(&format!("session/kill/{version:?}"), QoS::AtLeastOnce).await;
        client.goodbye().await;
        let mut publisher = Client::connect(&target, hello(version, "kill-pub")).await;
        for number in 0..20 {
            let message = publish(&format!("session/kill/{version:?}"), &number.to_string());
            publisher.publish(Publish { qos: QoS::AtLeastOnce, ..message }).await;
        }
    }
    target.kill_and_restart().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, resume(version, "kill")).await;
        assert!(client.connack.session_present);
        for number in 0..20 {
            assert_eq!(text(&client.message().await), number.to_string());
        }
        // The subscription is there as well. Not at QoS 0: what a client gets while it catches up may leave those out.
        let live = publish(&format!("session/kill/{version:?}"), "live");
        client.publish(Publish { qos: QoS::AtLeastOnce, ..live }).await;
        assert_eq!(text(&client.message().await), "live");
    }
}

/// [MQTT-4.3.3-10] across a kill: a QoS 2 message whose PUBREC was sent is not taken twice.
#[tokio::test]
async fn a_qos_2_message_is_taken_once_across_a_kill() {
    let mut target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("session/once/{version:?}");
        let mut subscriber = Client::connect(&target, resume(version, "once-sub")).await;
        subscriber.subscribe(&topic, QoS::ExactlyOnce).await;
        subscriber.goodbye().await;
        let mut client = Client::connect(&target, resume(version, "once")).await;
        client.send(Packet::Publish(publish_at(QoS::ExactlyOnce, 8, &topic, "once"))).await;
        assert!(matches!(client.recv().await, Packet::PubRec(_)));
        target.kill_and_restart().await;
        let mut client = Client::connect(&target, resume(version, "once")).await;
        assert!(client.connack.session_present);
        client.send(Packet::Publish(Publish { dup: true, ..publish_at(QoS::ExactlyOnce, 8, &topic, "once") })).await;
        assert!(matches!(client.recv().await, Packet::PubRec(_)));
        assert_eq!(client.release(PacketId::new(8).expect("from 1")).await, ReasonCode::Success);
        client.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "last") }).await;
        let mut subscriber = Client::connect(&target, resume(version, "once-sub")).await;
        assert_eq!(subscriber.until("last").await, ["once"]);
    }
}

/// 3.1.2.11.2: a session ends when its expiry has passed.
#[tokio::test]
async fn a_session_expires() {
    let target = Target::start().await;
    forget(&target, Version::V5, "expires").await;
    let mut connect = resume(Version::V5, "expires");
    connect.properties.session_expiry = Some(3);
    Client::connect(&target, connect.clone()).await.goodbye().await;
    let early = Client::connect(&target, connect.clone()).await;
    assert!(early.connack.session_present, "not before its time");
    early.goodbye().await;
    // Each look renews the session, so time itself has to pass.
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    let late = Client::connect(&target, connect).await;
    assert!(!late.connack.session_present);
}

/// [MQTT-3.1.2-4]: a clean start takes nothing over, neither subscriptions nor what waits.
#[tokio::test]
async fn a_clean_start_takes_nothing_over() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("session/clean/{version:?}");
        forget(&target, version, "clean").await;
        let mut client = Client::connect(&target, resume(version, "clean")).await;
        client.subscribe(&topic, QoS::AtLeastOnce).await;
        client.goodbye().await;
        let mut publisher = Client::connect(&target, hello(version, "clean-pub")).await;
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "waits") }).await;
        let mut client = Client::connect(&target, hello(version, "clean")).await;
        client.subscribe("session/clean/last", QoS::AtMostOnce).await;
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "live") }).await;
        publisher.publish(publish("session/clean/last", "last")).await;
        assert_eq!(client.until("last").await, [""; 0]);
    }
}

/// 3.1.1: [MQTT-3.1.2-6]: the session of a clean connection ends with it.
#[tokio::test]
async fn the_session_of_a_clean_connection_ends_with_it() {
    let target = Target::start().await;
    forget(&target, Version::V311, "clean-end").await;
    let client = Client::connect(&target, hello(Version::V311, "clean-end")).await;
    client.vanish();
    let client = Client::connect(&target, resume(Version::V311, "clean-end")).await;
    assert!(!client.connack.session_present);
    client.goodbye().await;
    forget(&target, Version::V311, "clean-end").await;
}

/// [MQTT-3.3.2-5]: a message that expired while its client was away is not delivered; one that did not says what is left
/// [MQTT-3.3.2-6].
#[tokio::test]
async fn a_waiting_message_expires() {
    let target = Target::start().await;
    forget(&target, Version::V5, "msg-expiry").await;
    let mut client = Client::connect(&target, resume(Version::V5, "msg-expiry")).await;
    client.subscribe("session/expiry", QoS::AtLeastOnce).await;
    client.goodbye().await;
    let mut publisher = Client::connect(&target, hello(Version::V5, "msg-expiry-pub")).await;
    for (payload, message_expiry) in [("gone", 1), ("last", 1_000)] {
        let properties = PublishProperties { message_expiry: Some(message_expiry), ..PublishProperties::default() };
        let message = Publish { properties: Some(Box::new(properties)), ..publish("session/expiry", payload) };
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..message }).await;
    }
    // Time itself is what is tested here.
    tokio::time::sleep(Duration::from_millis(2_200)).await;
    let mut client = Client::connect(&target, resume(Version::V5, "msg-expiry")).await;
    let message = client.message().await;
    assert_eq!(text(&message), "last");
    let left = message.properties.and_then(|properties| properties.message_expiry);
    assert!(left.is_some_and(|seconds| (900..=998).contains(&seconds)), "{left:?}");
    client.settled().await;
    client.goodbye().await;
    forget(&target, Version::V5, "msg-expiry").await;
}

/// 4.1: QoS 0 subscriptions are part of a session; the session goes on after DISCONNECT with a will, too.
#[tokio::test]
async fn subscriptions_of_every_qos_stay() {
    let target = Target::start().await;
    for version in VERSIONS {
        forget(&target, version, "stay").await;
        let mut client = Client::connect(&target, resume(version, "stay")).await;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client.subscribe(&format!("session/stay/{version:?}/{qos:?}"), qos).await;
        }
        if version == Version::V5 {
            client.send(disconnect(ReasonCode::DisconnectWithWill)).await;
            assert_eq!(client.closed().await, None);
        } else {
            client.vanish();
        }
        let mut client = Client::connect(&target, resume(version, "stay")).await;
        assert!(client.connack.session_present);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client
                .publish(Publish {
                    qos: QoS::ExactlyOnce,
                    ..publish(&format!("session/stay/{version:?}/{qos:?}"), "x")
                })
                .await;
            assert_eq!(client.message().await.qos, qos);
        }
        client.settled().await;
        client.goodbye().await;
        forget(&target, version, "stay").await;
    }
}

/// [MQTT-2.2.1-4] towards the client: ids in use are not given out again, also not across connections.
#[tokio::test]
async fn packet_ids_in_flight_are_not_given_out_again() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("session/ids/{version:?}");
        forget(&target, version, "ids").await;
        let mut client = Client::connect(&target, resume(version, "ids")).await;
        client.subscribe(&topic, QoS::AtLeastOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "ids-pub")).await;
        let mut seen = Vec::new();
        for round in 0..3 {
            publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, &round.to_string()) }).await;
            // First what is in flight, then the new one.
            for number in 0..=round {
                let message = client.unacknowledged().await;
                assert_eq!(text(&message), number.to_string());
                let id = message.packet_id.expect("QoS 1");
                if number == round {
                    assert!(!seen.contains(&id), "{id:?} is in flight");
                    seen.push(id);
                } else {
                    assert_eq!(seen[number], id);
                }
            }
            client.vanish();
            client = Client::connect(&target, resume(version, "ids")).await;
        }
        for expected in seen {
            let message = client.unacknowledged().await;
            assert_eq!(message.packet_id, Some(expected));
            client.send(Packet::PubAck(ack(expected))).await;
        }
        client.settled().await;
        client.goodbye().await;
        forget(&target, version, "ids").await;
    }
}

/// [MQTT-4.4.0-1] across a restart: what was in flight is sent again with its id, what was acknowledged is not, and the
/// exchange of QoS 2 goes on where it was.
#[tokio::test]
async fn exchanges_go_on_across_a_restart() {
    let mut target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("session/flight/{version:?}");
        let (mut client, ids) = with_four_in_flight(&target, version, &topic).await;
        client.send(Packet::PubAck(ack(ids[0]))).await;
        client.send(Packet::PubRec(ack(ids[2]))).await;
        assert!(matches!(client.recv().await, Packet::PubRel(release) if release.packet_id == ids[2]));
        target.stop_and_restart().await;

        let mut client = Client::connect(&target, resume(version, "flight")).await;
        assert!(client.connack.session_present);
        for expected in [Some("1"), None, Some("3")] {
            match (client.recv().await, expected) {
                (Packet::Publish(message), Some(expected)) => {
                    assert_eq!((text(&message), message.dup), (expected, true));
                    assert_eq!(message.packet_id, Some(ids[expected.parse::<usize>().expect("a number")]));
                }
                (Packet::PubRel(release), None) => assert_eq!(release.packet_id, ids[2]),
                (other, _) => panic!("got {other:?}"),
            }
        }
    }
}

/// The same across a kill: a second or so of acknowledgements may be forgotten, but never a message.
#[tokio::test]
async fn nothing_in_flight_is_lost_in_a_kill() {
    let mut target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("session/flight/{version:?}");
        let (mut client, ids) = with_four_in_flight(&target, version, &topic).await;
        client.send(Packet::PubAck(ack(ids[0]))).await;
        client.settled().await;
        target.kill_and_restart().await;
        let mut client = Client::connect(&target, resume(version, "flight")).await;
        assert!(client.connack.session_present);
        let mut first = client.message().await;
        if text(&first) == "0" {
            first = client.message().await;
        }
        assert_eq!(text(&first), "1");
        for expected in ["2", "3"] {
            assert_eq!(text(&client.message().await), expected);
        }
    }
}

/// A client of a session to which four messages were sent, at QoS 1, 1, 2, 2, and nothing acknowledged.
async fn with_four_in_flight(target: &Target, version: Version, topic: &str) -> (Client, Vec<PacketId>) {
    let mut client = Client::connect(target, resume(version, "flight")).await;
    client.subscribe(topic, QoS::ExactlyOnce).await;
    let mut publisher = Client::connect(target, hello(version, "flight-pub")).await;
    let mut ids = Vec::new();
    for (number, qos) in
        [QoS::AtLeastOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce].into_iter().enumerate()
    {
        publisher.publish(Publish { qos, ..publish(topic, &number.to_string()) }).await;
        let message = client.unacknowledged().await;
        assert_eq!(text(&message), number.to_string());
        ids.push(message.packet_id.expect("QoS 1 or 2"));
    }
    (client, ids)
}

/// A session that is taken up again and again while messages come misses none and gets them in order.
#[tokio::test]
async fn a_client_that_comes_and_goes_misses_nothing() {
    let target = Target::start().await;
    for (version, topic) in [(Version::V5, "stored/comes"), (Version::V311, "session/comes")] {
        forget(&target, version, "comes").await;
        let mut client = Client::connect(&target, resume(version, "comes")).await;
        client.subscribe(topic, QoS::ExactlyOnce).await;
        let mut publisher = Client::connect(&target, hello(version, "comes-pub")).await;
        let publishing = async {
            for number in 0..600 {
                let qos = if number % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
                publisher.publish(Publish { qos, ..publish(topic, &number.to_string()) }).await;
            }
        };
        let reading = async {
            let mut next = 0;
            while next < 600 {
                // Some messages on each connection; every third connection ends in the middle of an exchange.
                for count in 0..(7 + next % 13) {
                    if next == 600 {
                        break;
                    }
                    let unfinished = next % 3 == 0 && count == 5;
                    let message = client.message_or_release().await;
                    if !unfinished {
                        client.acknowledge(&message).await;
                    }
                    let number: usize = text(&message).parse().expect("a number");
                    // What was not acknowledged comes again; nothing is skipped.
                    assert!(number <= next, "{number} came before {next}");
                    assert!(message.dup || number == next, "{number} came again without DUP, at {next}");
                    if unfinished {
                        break;
                    }
                    next = next.max(number + 1);
                }
                client.vanish();
                client = Client::connect(&target, resume(version, "comes")).await;
                assert!(client.connack.session_present);
            }
        };
        tokio::join!(publishing, reading);
        forget(&target, version, "comes").await;
    }
}
