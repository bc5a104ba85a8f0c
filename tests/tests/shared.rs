//! Shared subscriptions and kept sessions, seen through paho-mqtt: what moves to others, and what outlives a kill of the broker.

use std::collections::BTreeSet;

use headwater_tests::device::{Connect, Device, Received, will};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::publisher::Publisher;
use headwater_tests::wait::{PATIENCE, until};

fn gateway() -> Gateway {
    Gateway::new("gw-1").stream("s", &["plant/#"])
}

async fn connect(broker: &Broker, how: Connect) -> Device {
    Device::connect(broker.mqtt(), how).await.0
}

fn payloads(messages: &[Received]) -> BTreeSet<Vec<u8>> {
    messages.iter().map(|m| m.payload.clone()).collect()
}

/// 4.8.2: one member gets each message, with its QoS, on 3.1.1 too; a plain subscriber gets all of them.
#[tokio::test]
async fn each_message_goes_to_one_member_of_each_group() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for topic in ["plant/x", "elsewhere/x"] {
        let mut members = [connect(&broker, Connect::v5("a")).await, connect(&broker, Connect::v4("b")).await];
        for member in &mut members {
            assert_eq!(member.subscribe(&[&format!("$share/g/{topic}"), "end"], 1).await, [1, 1]);
        }
        let mut all = connect(&broker, Connect::v5("all")).await;
        all.subscribe(&[topic], 1).await;
        let mut publisher = connect(&broker, Connect::v5("p")).await;
        let sent: Vec<Vec<u8>> = (0..100).map(|n| format!("{n}").into_bytes()).collect();
        publisher.publish_all(topic, &sent, 2).await;
        assert!(all.collect(100).await.iter().zip(&sent).all(|(m, payload)| m.payload == *payload));
        publisher.publish("end", "end", 1, false).await;
        let mut shares = Vec::new();
        for member in &mut members {
            let mut got = Vec::new();
            loop {
                let message = member.message().await;
                if message.topic == "end" {
                    break;
                }
                assert_eq!(message.qos, 1);
                got.push(message);
            }
            assert!(got.len() >= 10, "{} of 100 for one of two equal members", got.len());
            shares.push(got);
        }
        assert_eq!(shares[0].len() + shares[1].len(), 100, "{topic}");
        assert_eq!(&payloads(&shares[0]) | &payloads(&shares[1]), sent.into_iter().collect(), "{topic}");
    }
}

/// What a member does not acknowledge moves to another one when its connection is lost, also what it was sent already.
#[tokio::test]
async fn messages_move_on_when_a_member_is_lost() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let mut lazy = connect(&broker, Connect { manual_ack: true, ..Connect::v5("lazy").persistent() }).await;
    lazy.subscribe(&["$share/g/plant/+/telemetry"], 1).await;
    let publisher = Publisher::new("p");
    publisher.publish(broker.mqtt(), 0, 300).await;
    let first = lazy.message().await;
    let mut other = connect(&broker, Connect::v5("other")).await;
    other.subscribe(&["$share/g/plant/+/telemetry"], 1).await;
    lazy.vanish().await;
    let got = other.collect(300).await;
    assert_eq!(payloads(&got).len(), 300, "each once");
    assert!(payloads(&got).contains(&first.payload));
    // Nobody else is there: what comes now waits for the kept session in the log.
    other.disconnect().await;
    publisher.publish(broker.mqtt(), 300, 300).await;
    let mut lazy = connect(&broker, Connect::v5("lazy").persistent()).await;
    assert_eq!(payloads(&lazy.collect(300).await).len(), 300);
}

/// After a kill, a group may repeat what was acknowledged in the last second, and loses nothing.
#[tokio::test]
async fn a_group_of_kept_sessions_loses_nothing_when_the_broker_is_killed() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let ids = ["a", "b"];
    for id in ids {
        let mut member = connect(&broker, Connect { manual_ack: true, ..Connect::v5(id).persistent() }).await;
        member.subscribe(&["$share/g/plant/+/telemetry"], 1).await;
        if id == "a" {
            member.disconnect().await;
        } else {
            Publisher::new("p").publish(broker.mqtt(), 0, 200).await;
            // In flight and queued when the broker dies.
            member.message().await;
        }
    }
    broker.kill();
    let broker = gateway.start().await;
    let mut member = connect(&broker, Connect::v5("a").persistent()).await;
    assert_eq!(payloads(&member.collect(200).await).len(), 200);
}

/// [MQTT-3.1.2-8]: a kill of the broker ends the connection of its clients, and the wills of kept sessions are on disk.
#[tokio::test]
async fn the_will_of_a_kept_session_is_published_after_a_kill() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let mut watcher = connect(&broker, Connect::v5("watcher").persistent()).await;
    watcher.subscribe(&["dead/#"], 1).await;
    let dying =
        |id: &str| Connect { will: will(&format!("dead/{id}"), b"gone", 1, true), ..Connect::v5(id).persistent() };
    let mut dead = connect(&broker, dying("dead")).await;
    // A connection that is answered has its record on the way to the disk, before this.
    dead.publish("plant/x", "x", 1, false).await;
    let mut polite = connect(&broker, dying("polite")).await;
    polite.publish("plant/x", "x", 1, false).await;
    polite.disconnect().await;
    until(PATIENCE, "the goodbye", || async {
        let clients = &broker.status().await["clients"];
        if clients["connected"] == 2 { Ok(()) } else { Err(clients.to_string()) }
    })
    .await;
    dead.publish("plant/x", "x", 1, false).await;
    broker.kill();
    let broker = gateway.start().await;
    let mut watcher = connect(&broker, Connect::v5("watcher").persistent()).await;
    let message = watcher.message().await;
    assert_eq!((message.topic.as_str(), message.text().as_str()), ("dead/dead", "gone"));
    // Who said goodbye has no will.
    let mut publisher = connect(&broker, Connect::v5("p")).await;
    publisher.publish("dead/last", "last", 1, false).await;
    assert_eq!(watcher.message().await.topic, "dead/last");
}
