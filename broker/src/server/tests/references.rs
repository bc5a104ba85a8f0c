//! What clients are told beside what they asked: other servers, and where replies may go.

use super::*;

const SERVERS: &str = "gw-2.example.com:8883 gw-3.example.com:8883";

/// 4.11
#[tokio::test]
async fn who_finds_no_room_or_is_sent_away_is_told_which_other_server_to_use() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.mqtt.max_sessions = 2;
    config.mqtt.server_reference = Some(SERVERS.to_owned());
    let running = start(&config).await;
    let mut there = running.client("there", Version::V5, true).await.0;
    let mut old = running.client("old", Version::V311, true).await.0;
    let mut third = running.connect(connect("third", Version::V5, true)).await;
    match third.receive().await {
        Some(Packet::ConnAck(ack)) => {
            assert_eq!(ack.reason, ReasonCode::UseAnotherServer);
            assert_eq!(ack.properties.server_reference.as_deref(), Some(SERVERS));
        }
        other => panic!("{other:?}"),
    }
    let mut third = running.connect(connect("third", Version::V311, true)).await;
    assert!(matches!(third.receive().await, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::ServerUnavailable));
    let protocol_errors = running.broker.stats().protocol_errors;
    running.stop().await;
    match there.receive().await {
        Some(Packet::Disconnect(disconnect)) => {
            assert_eq!(disconnect.reason, ReasonCode::UseAnotherServer);
            assert_eq!(disconnect.server_reference.as_deref(), Some(SERVERS));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((old.receive().await, protocol_errors), (None, 0));
}

async fn told(running: &Running, id: &str, asks: Option<bool>) -> Option<String> {
    let mut how = connect(id, Version::V5, true);
    how.properties.request_response_information = asks;
    match running.connect(how).await.receive().await {
        Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success => ack.properties.response_information,
        other => panic!("{other:?}"),
    }
}

/// [MQTT-3.1.2-28]
#[tokio::test]
async fn a_client_that_asks_is_told_where_replies_to_it_may_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.mqtt.max_connections = 10;
    config.mqtt.response_information = Some("replies/%c/".to_owned());
    let running = start(&config).await;
    assert_eq!(told(&running, "pump-1", Some(true)).await.as_deref(), Some("replies/pump-1/"));
    for (id, asks) in [("pump-1", Some(false)), ("pump-1", None), ("not/one/level", Some(true))] {
        assert_eq!(told(&running, id, asks).await, None, "{id} {asks:?}");
    }
    running.stop().await;
}
