//! The will: when it is published, and when not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, disconnect, hello, publish, resume, text};
use crate::target::Target;

fn with_will(connect: Connect, topic: &str) -> Connect {
    let will = Will {
        topic: topic.parse().expect("a topic"),
        payload: Bytes::from_static(b"will"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay: 0,
        properties: None,
    };
    Connect { will: Some(will), ..connect }
}

fn with_delay(mut connect: Connect, delay: u32) -> Connect {
    if let Some(will) = &mut connect.will {
        will.delay = delay;
    }
    connect
}

async fn witness(target: &Target, version: Version, topic: &str) -> Client {
    let mut witness = Client::connect(target, hello(version, &format!("witness-{}", topic.replace('/', "-")))).await;
    witness.subscribe(topic, QoS::ExactlyOnce).await;
    witness
}

/// [MQTT-3.1.2-8] [MQTT-3.1.2-14] [MQTT-3.1.2-15]: the will comes when the connection ends without DISCONNECT, with its
/// QoS and retain flag.
#[tokio::test]
async fn a_lost_connection_publishes_the_will() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("will/lost/{version:?}");
        for (qos, retain) in [(QoS::AtMostOnce, false), (QoS::AtLeastOnce, true), (QoS::ExactlyOnce, false)] {
            let mut witness = witness(&target, version, &topic).await;
            let mut connect = with_will(hello(version, "lost"), &topic);
            if let Some(will) = &mut connect.will {
                (will.qos, will.retain) = (qos, retain);
            }
            Client::connect(&target, connect).await.vanish();
            let message = witness.message().await;
            assert_eq!((text(&message), message.qos, message.retain), ("will", qos, false));
            let mut late = Client::connect(&target, hello(version, "late")).await;
            late.subscribe(&topic, QoS::AtMostOnce).await;
            late.publish(publish(&topic, "last")).await;
            assert_eq!(late.until("last").await.len(), usize::from(retain));
            late.publish(Publish { retain: true, ..publish(&topic, "") }).await;
            late.settled().await;
        }
    }
}

/// [MQTT-3.14.4-3] (3.1.1: [MQTT-3.1.2-10]): DISCONNECT drops the will; 3.14.2.1: unless it says otherwise.
#[tokio::test]
async fn disconnect_drops_the_will() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("will/dropped/{version:?}");
        let mut witness = witness(&target, version, &topic).await;
        Client::connect(&target, with_will(hello(version, "dropped"), &topic)).await.goodbye().await;
        // A session that comes later does not bring it back.
        Client::connect(&target, hello(version, "dropped")).await.vanish();
        witness.publish(publish(&topic, "last")).await;
        assert_eq!(witness.until("last").await, [""; 0]);
        if version == Version::V5 {
            let mut client = Client::connect(&target, with_will(hello(version, "dropped"), &topic)).await;
            client.send(disconnect(ReasonCode::DisconnectWithWill)).await;
            assert_eq!(client.closed().await, None);
            assert_eq!(text(&witness.message().await), "will");
        }
    }
}

/// 3.1.2.5: a keep alive that passes, a protocol error and a take-over publish the will as well [MQTT-3.1.2-8].
#[tokio::test]
async fn every_other_end_publishes_the_will() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("will/ends/{version:?}");
        let mut witness = witness(&target, version, &topic).await;
        let connect = || with_will(hello(version, "ends"), &topic);

        let mut silent = Client::connect(&target, Connect { keep_alive: 1, ..connect() }).await;
        silent.closed().await;
        assert_eq!(text(&witness.message().await), "will", "keep alive");

        let mut wrong = Client::connect(&target, connect()).await;
        wrong.send_bytes(b"\x30\x05\0\x03a/#").await;
        wrong.closed().await;
        assert_eq!(text(&witness.message().await), "will", "malformed packet");

        let mut old = Client::connect(&target, connect()).await;
        let new = Client::connect(&target, hello(version, "ends")).await;
        old.closed().await;
        assert_eq!(text(&witness.message().await), "will", "take-over");
        new.goodbye().await;
    }
}

/// 3.1.3.2: the properties of a will travel like those of any message.
#[tokio::test]
async fn a_will_has_properties() {
    let target = Target::start().await;
    let mut witness = witness(&target, Version::V5, "will/properties").await;
    let properties = PublishProperties {
        payload_format: Some(1),
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("will/answer".parse().expect("a topic")),
        correlation_data: Some(Bytes::from_static(b"c")),
        user: vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())],
        message_expiry: None,
    };
    let mut connect = with_will(hello(Version::V5, "will-properties"), "will/properties");
    if let Some(will) = &mut connect.will {
        will.properties = Some(Box::new(properties.clone()));
    }
    Client::connect(&target, connect).await.vanish();
    assert_eq!(witness.message().await.properties.as_deref(), Some(&properties));
}

/// 3.1.3.2.2: a delayed will comes after its delay, not before.
#[tokio::test]
async fn a_delayed_will_comes_after_its_delay() {
    let target = Target::start().await;
    let mut witness = witness(&target, Version::V5, "will/delayed").await;
    let connect = with_delay(with_will(resume(Version::V5, "delayed"), "will/delayed"), 1);
    let client = Client::connect(&target, connect).await;
    let since = Instant::now();
    client.vanish();
    assert_eq!(text(&witness.message().await), "will");
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    Client::connect(&target, hello(Version::V5, "delayed")).await.goodbye().await;
}

/// [MQTT-3.1.3-9]: a client that is back in time has no will.
#[tokio::test]
async fn a_client_that_comes_back_in_time_has_no_will() {
    let target = Target::start().await;
    let mut witness = witness(&target, Version::V5, "will/back").await;
    let connect = with_delay(with_will(resume(Version::V5, "back"), "will/back"), 2);
    Client::connect(&target, connect).await.vanish();
    let mut client = Client::connect(&target, resume(Version::V5, "back")).await;
    assert!(client.connack.session_present);
    // Longer than the delay: time itself is what is tested here.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    client.publish(publish("will/back", "last")).await;
    assert_eq!(witness.until("last").await, [""; 0]);
    Client::connect(&target, hello(Version::V5, "back")).await.goodbye().await;
}

/// 3.1.3.2.2: the end of the session publishes the will, if that comes first.
#[tokio::test]
async fn the_end_of_the_session_publishes_a_delayed_will() {
    let target = Target::start().await;
    let mut witness = witness(&target, Version::V5, "will/session").await;
    // Without a session expiry, the session ends with the connection.
    let connect = || with_delay(with_will(hello(Version::V5, "will-session"), "will/session"), 3_600);
    Client::connect(&target, connect()).await.vanish();
    assert_eq!(text(&witness.message().await), "will");
    // A clean start ends the session that is there.
    let kept = Connect { properties: resume(Version::V5, "").properties, ..connect() };
    Client::connect(&target, kept).await.vanish();
    Client::connect(&target, hello(Version::V5, "will-session")).await.goodbye().await;
    assert_eq!(text(&witness.message().await), "will");
}

/// 3.1.3.2.2 and G7: a will that waits survives a kill of the broker, and still waits its time.
#[tokio::test]
async fn a_delayed_will_survives_a_kill() {
    let mut target = Target::start().await;
    let mut keeper = Client::connect(&target, resume(Version::V5, "keeper")).await;
    keeper.subscribe("will/kill", QoS::AtLeastOnce).await;
    keeper.goodbye().await;
    let connect = with_delay(with_will(resume(Version::V5, "will-kill"), "will/kill"), 2);
    let client = Client::connect(&target, connect).await;
    client.vanish();
    target.connected(0).await;
    // What is acknowledged now is on disk, and so is all that came before it.
    let mut other = Client::connect(&target, hello(Version::V5, "will-kill-other")).await;
    other.publish(Publish { qos: QoS::AtLeastOnce, ..publish("stored/will", "x") }).await;
    target.kill_and_restart().await;
    let mut keeper = Client::connect(&target, resume(Version::V5, "keeper")).await;
    assert!(keeper.connack.session_present);
    assert_eq!(text(&keeper.message().await), "will");
}

/// [MQTT-3.1.2-10] (3.1.1: the same, and [MQTT-3.1.2-12]): a will that was published does not come again with the session.
#[tokio::test]
async fn a_will_is_published_once() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("will/once/{version:?}");
        let mut witness = witness(&target, version, &topic).await;
        Client::connect(&target, with_will(resume(version, "once"), &topic)).await.vanish();
        assert_eq!(text(&witness.message().await), "will");
        let mut client = Client::connect(&target, resume(version, "once")).await;
        assert!(client.connack.session_present);
        client.settled().await;
        client.vanish();
        // The end of that connection has been seen when the session is given out again.
        let client = Client::connect(&target, hello(version, "once")).await;
        client.goodbye().await;
        witness.publish(publish(&topic, "last")).await;
        assert_eq!(witness.until("last").await, [""; 0]);
    }
}
