//! Topic aliases towards clients that allow them.

use super::*;

const TOPIC: &str = "plant/line-7/machine-12/telemetry/temperature";

fn allowing(id: &str, aliases: u16) -> Connect {
    let mut connect = connect(id, Version::V5, true);
    connect.properties.topic_alias_maximum = Some(aliases);
    connect
}

async fn subscriber(running: &Running, how: Connect) -> Client {
    let mut client = running.connect(how).await;
    assert!(matches!(client.receive().await, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success));
    client.subscribe("#", QoS::AtLeastOnce).await;
    client
}

/// The next message: its topic and its alias.
async fn next(client: &mut Client) -> (Option<String>, Option<u16>) {
    let publish = client.message().await;
    client.acknowledge(&publish).await;
    (publish.topic.map(|topic| topic.to_string()), publish.topic_alias.map(std::num::NonZeroU16::get))
}

/// [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-10] [MQTT-3.3.2-12]
#[tokio::test]
async fn a_client_that_allows_aliases_is_sent_a_topic_once_on_each_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let mut plain = subscriber(&running, allowing("plain", 0)).await;
    let mut publisher = running.client("publisher", Version::V5, true).await.0;
    for _ in 0..2 {
        let mut one = subscriber(&running, allowing("one", 1)).await;
        for (round, topic) in [TOPIC, TOPIC, "other/topic", TOPIC].into_iter().enumerate() {
            let qos = if round % 2 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
            publisher.publish(topic, "x", qos, 1).await;
            let expected = match (topic, round) {
                ("other/topic", _) => (Some(topic.to_owned()), None),
                (_, 0) => (Some(topic.to_owned()), Some(1)),
                _ => (None, Some(1)),
            };
            assert_eq!(next(&mut one).await, expected, "{round}");
            assert_eq!(next(&mut plain).await, (Some(topic.to_owned()), None));
        }
    }
    running.stop().await;
}

/// What it is for: fewer bytes on a link that is paid by the byte.
#[tokio::test]
async fn aliases_save_the_topic_of_every_message_but_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let mut publisher = running.client("publisher", Version::V5, true).await.0;
    let mut sent = Vec::new();
    for aliases in [0, 10] {
        let mut client = subscriber(&running, allowing("c", aliases)).await;
        let mut bytes = BytesMut::new();
        for _ in 0..10 {
            publisher.publish(TOPIC, "x", QoS::AtMostOnce, 0).await;
            codec::encode(&Packet::Publish(client.message().await), Version::V5, &mut bytes).expect("it came");
        }
        sent.push(bytes.len());
    }
    assert_eq!(sent[0] - sent[1], 9 * TOPIC.len() - 10 * 3);
    running.stop().await;
}

/// [MQTT-3.1.2-24]: the alias that would make a packet too large is left away, and is not taken for known.
#[tokio::test]
async fn a_message_that_fits_only_without_an_alias_is_sent_without() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let mut publisher = running.client("publisher", Version::V5, true).await.0;
    let mut how = allowing("c", 10);
    // CONNACK and SUBACK fit, and the message to the byte: header 2, topic 2 and its length, properties 1, payload 1.
    how.properties.maximum_packet_size = Some(6 + u32::try_from(TOPIC.len()).expect("short"));
    let mut client = subscriber(&running, how).await;
    for _ in 0..2 {
        publisher.publish(TOPIC, "x", QoS::AtMostOnce, 0).await;
        assert_eq!(next(&mut client).await, (Some(TOPIC.to_owned()), None));
    }
    running.stop().await;
}
