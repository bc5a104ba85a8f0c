//! Retained messages in numbers: none is missing, whether it was just published or comes back after a kill.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use headwater_broker::mqtt::codec::{decode, encode};
use headwater_broker::mqtt::packet::*;
use headwater_tests::gateway::Gateway;
use headwater_tests::wait::{PATIENCE, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MESSAGES: usize = 100_000;

fn publish(number: usize, qos: QoS) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: true,
        topic: Some(format!("r/{}/{number}", number % 100).parse().expect("valid")),
        packet_id: (qos > QoS::AtMostOnce).then(|| PacketId::new(1).expect("not 0")),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: number.to_string().into_bytes().into(),
    })
}

async fn connected(broker: SocketAddr) -> (TcpStream, BytesMut) {
    let mut socket = TcpStream::connect(broker).await.expect("it listens");
    // Without a client id: every connection is another client.
    socket.write_all(b"\x10\x0d\0\x04MQTT\x05\x02\0\0\0\0\0").await.expect("it reads");
    let mut input = BytesMut::new();
    match receive(&mut socket, &mut input).await {
        Packet::ConnAck(ack) => assert_eq!(ack.reason, ReasonCode::Success),
        other => panic!("{other:?}"),
    }
    (socket, input)
}

async fn receive(socket: &mut TcpStream, input: &mut BytesMut) -> Packet {
    loop {
        if let Some(packet) = decode(input, Some(Version::V5), 1 << 20).expect("proper bytes") {
            return packet;
        }
        assert!(socket.read_buf(input).await.expect("it is connected") > 0, "closed");
    }
}

/// All messages below `r/`, each once and as it was published.
async fn all_arrive(broker: SocketAddr) {
    let (mut socket, mut input) = connected(broker).await;
    socket.write_all(b"\x82\x0b\0\x01\0\0\x05r/+/#\0").await.expect("it reads");
    let mut seen = vec![false; MESSAGES];
    let mut count = 0;
    while count < MESSAGES {
        match receive(&mut socket, &mut input).await {
            Packet::SubAck(ack) => assert_eq!(ack.reasons, [ReasonCode::Success]),
            Packet::Publish(message) => {
                let number: usize =
                    std::str::from_utf8(&message.payload).expect("text").parse().expect("a number below 100,000");
                let topic = format!("r/{}/{number}", number % 100);
                assert!(message.retain && message.topic.is_some_and(|t| t.to_string() == topic), "{number}");
                assert!(!std::mem::replace(&mut seen[number], true), "{number} twice");
                count += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_retained_messages_reach_a_subscription_with_wildcards() {
    let limits = "[mqtt]\nmax_retained_msgs = 100_000\nmax_retained_bytes = \"64MiB\"\n";
    let gateway = Gateway::new("gw-1").stream("s", &["other/#"]).with(limits);
    let broker = gateway.start().await;
    let begun = Instant::now();
    let (mut socket, mut input) = connected(broker.mqtt()).await;
    let mut bytes = BytesMut::new();
    for number in 0..MESSAGES {
        // The last one is acknowledged, and with it those before it are there.
        let qos = if number + 1 == MESSAGES { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        encode(&publish(number, qos), Version::V5, &mut bytes).expect("a proper packet");
    }
    socket.write_all(&bytes).await.expect("it reads");
    assert!(matches!(receive(&mut socket, &mut input).await, Packet::PubAck(_)));
    eprintln!("retained after {:?}", begun.elapsed());
    assert_eq!(broker.metrics().await.value("headwater_retained_messages", &[]).to_bits(), 100_000_f64.to_bits());
    all_arrive(broker.mqtt()).await;
    eprintln!("all received after {:?}", begun.elapsed());
    broker.kill();
    let broker = gateway.start().await;
    until(PATIENCE, "the retained messages to be there again", || async {
        let count = broker.metrics().await.value("headwater_retained_messages", &[]);
        if count > 99_999.5 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    all_arrive(broker.mqtt()).await;
    eprintln!("all received again after {:?}", begun.elapsed());
}
