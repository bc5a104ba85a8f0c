//! Limits of connections: who is let in, who is not, and how that is counted.

use super::*;

fn count(running: &Running, why: Refused) -> u64 {
    running.broker.stats().refused[why as usize]
}

async fn counted(running: &Running, why: Refused, expected: u64) {
    while count(running, why) < expected {
        tokio::task::yield_now().await;
    }
    assert_eq!(count(running, why), expected);
}

#[tokio::test]
async fn an_address_has_its_share_and_gets_places_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.mqtt.max_connections_per_address = 2;
    let running = start(&config).await;
    let (one, _) = running.client("1", Version::V5, true).await;
    let (_two, _) = running.client("2", Version::V5, true).await;
    assert_eq!(running.open(Version::V5).await.receive().await, None);
    counted(&running, Refused::AddressFull, 1).await;
    drop(one);
    while running.broker.stats().connections > 1 {
        tokio::task::yield_now().await;
    }
    let (_three, _) = running.client("3", Version::V5, true).await;
    assert_eq!(running.broker.stats().accepted, 3);
    running.stop().await;
}

#[tokio::test]
async fn rates_let_in_a_burst_and_close_what_comes_behind_it() {
    let dir = tempfile::tempdir().expect("a directory");
    for (of_listener, why) in [(true, Refused::ListenerRate), (false, Refused::AddressRate)] {
        let mut config = config(&dir.path().join(format!("{why:?}")));
        if of_listener {
            config.listeners[0].connect_rate = 1;
        } else {
            config.mqtt.connect_rate_per_address = 1;
        }
        config.mqtt.max_connections = 1_000;
        config.listeners[0].max_connections = 1_000;
        let running = start(&config).await;
        let mut kept = Vec::new();
        // Ten of a burst and one of each second that the test takes.
        while count(&running, why) == 0 {
            kept.push(running.open(Version::V5).await);
            tokio::task::yield_now().await;
        }
        assert!(running.broker.stats().accepted >= 10);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_listener_has_its_own_limit() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.listeners.push(config.listeners[0].clone());
    config.listeners[0].max_connections = 1;
    let running = start(&config).await;
    let (_first, _) = running.client("first", Version::V5, true).await;
    assert_eq!(running.open(Version::V5).await.receive().await, None);
    counted(&running, Refused::ListenerFull, 1).await;
    let socket = TcpStream::connect(running.broker.local_addrs()[1]).await.expect("it listens");
    let mut other = Client { socket, input: BytesMut::new(), version: Version::V5 };
    other.send(Packet::Connect(Box::new(connect("other", Version::V5, true)))).await;
    assert!(matches!(other.receive().await, Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success));
    running.stop().await;
}

#[tokio::test]
async fn who_only_opens_connections_keeps_nobody_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut client, _) = running.client("there", Version::V5, true).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(running.open(Version::V5).await);
    }
    while running.broker.stats().accepted < 4 {
        tokio::task::yield_now().await;
    }
    // All places are taken. Once the silent ones have been so for a second, a newcomer gets the place of the oldest.
    let _newcomer = loop {
        let mut newcomer = running.connect(connect("newcomer", Version::V5, true)).await;
        if let Some(Packet::ConnAck(ack)) = newcomer.receive().await {
            assert_eq!(ack.reason, ReasonCode::Success);
            break newcomer;
        }
    };
    assert_eq!(silent[0].receive().await, None);
    counted(&running, Refused::Displaced, 1).await;
    // Who is connected is not touched.
    client.send(Packet::PingReq).await;
    assert_eq!(client.receive().await, Some(Packet::PingResp));
    running.stop().await;
}
