//! The server over real sockets and a real log. Clauses are of MQTT 5.0.

mod aliases;
mod limits;
mod memory;
mod references;
mod tokens;

use std::path::Path;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::{ClockTrust, SystemClock};
use crate::config;
use crate::config::{Disk, Durability, Gateway, Http, Listener, ListenerKind, Mqtt, Stream};
use crate::log::{AckPolicy, BlockCodec, Discard, LogConfig, Seq, Storage, StreamConfig, StreamLimits};
use crate::mqtt::codec;
use crate::mqtt::packet::{
    Ack, Connect, ConnectProperties, Packet, PacketId, Publish, QoS, ReasonCode, Subscribe, SubscriptionOptions,
    Version,
};
use crate::router::internal_streams;

/// A file stream for `#`, and one for `full/#` that holds one message and refuses more.
fn config(dir: &Path) -> Config {
    let stream = |name: &str, topic: &str, exclude: &[&str], limits| Stream {
        name: name.to_owned(),
        topics: vec![topic.parse().expect("valid")],
        exclude: exclude.iter().map(|f| f.parse().expect("valid")).collect(),
        limits,
        storage: Storage::File,
    };
    let one = StreamLimits { max_msgs: Some(1), discard: Discard::New, ..StreamLimits::default() };
    Config {
        gateway: Gateway { id: "test".to_owned(), data_dir: dir.to_owned() },
        disk: Disk { max_bytes: 32 << 20, min_free: 0, codec: BlockCodec::Lz4 },
        durability: Durability { ack: AckPolicy::Synced, max_delay: Duration::ZERO },
        clock: ClockTrust::Never,
        http: Http { bind: None, remote_messages: false },
        mqtt: Mqtt {
            max_connections: 4,
            max_connections_per_address: 0,
            connect_rate_per_address: 0,
            max_packet_bytes: 100_000,
            receive_maximum: 10,
            handshake_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(20),
            max_session_expiry: Duration::from_secs(3600),
            max_sessions: 10,
            max_subscriptions: 10,
            max_queued_msgs: 20,
            max_queued_bytes: 100_000,
            max_queued_bytes_total: 1_000_000,
            max_retained_msgs: 100,
            max_retained_bytes: 100_000,
            sys_interval: Duration::ZERO,
            server_reference: None,
            response_information: None,
            max_keep_alive: 0,
        },
        auth: config::Auth { max_waiting: 10, ..config::Auth::default() },
        listeners: vec![Listener {
            kind: ListenerKind::Mqtt,
            bind: Bind::Tcp("127.0.0.1:0".parse().expect("valid")),
            proxy_protocol: false,
            anonymous: true,
            max_connections: 100,
            connect_rate: 0,
        }],
        streams: vec![stream("default", "#", &["full/#"], StreamLimits::default()), stream("full", "full/#", &[], one)],
        uplinks: Vec::new(),
    }
}

struct Running {
    broker: Broker,
    log: Log,
}

async fn start(config: &Config) -> Running {
    let clock = Arc::new(SystemClock);
    let streams = config
        .streams
        .iter()
        .map(|s| StreamConfig { name: s.name.clone(), limits: s.limits.clone(), storage: s.storage })
        .chain(internal_streams())
        .collect();
    let log_config = LogConfig {
        dir: config.gateway.data_dir.clone(),
        max_bytes: config.disk.max_bytes,
        min_free: config.disk.min_free,
        ack: config.durability.ack,
        max_delay: config.durability.max_delay,
        codec: config.disk.codec,
        streams,
        clock: clock.clone(),
    };
    let opened = tokio::task::spawn_blocking(move || Log::open(log_config)).await.expect("opening does not panic");
    let (log, _) = opened.expect("a fresh or proper directory");
    let broker = Broker::start(config, Auth::default(), log.clone(), clock, Breather::default())
        .await
        .expect("the port is free");
    Running { broker, log }
}

impl Running {
    async fn stop(self) {
        self.broker.shutdown(Duration::from_secs(20)).await;
        let log = self.log;
        tokio::task::spawn_blocking(move || log.close()).await.expect("closing does not panic");
    }

    async fn connect(&self, connect: Connect) -> Client {
        let mut client = self.open(connect.version).await;
        client.send(Packet::Connect(Box::new(connect))).await;
        client
    }

    async fn open(&self, version: Version) -> Client {
        let socket = TcpStream::connect(self.broker.local_addrs()[0]).await.expect("it listens");
        Client { socket, input: BytesMut::new(), version }
    }

    /// A client whose CONNACK has come.
    async fn client(&self, id: &str, version: Version, clean_start: bool) -> (Client, bool) {
        let mut client = self.connect(connect(id, version, clean_start)).await;
        match client.receive().await {
            Some(Packet::ConnAck(ack)) if ack.reason == ReasonCode::Success => (client, ack.session_present),
            other => panic!("{other:?}"),
        }
    }
}

fn connect(id: &str, version: Version, clean_start: bool) -> Connect {
    Connect {
        version,
        clean_start,
        keep_alive: 0,
        client_id: id.to_owned(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties {
            session_expiry: (version == Version::V5 && !clean_start).then_some(600),
            ..ConnectProperties::default()
        },
    }
}

struct Client {
    socket: TcpStream,
    input: BytesMut,
    version: Version,
}

impl Client {
    async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        codec::encode(&packet, self.version, &mut out).expect("a proper packet");
        self.socket.write_all(&out).await.expect("the broker reads");
    }

    /// The next packet; `None` at the end of the connection.
    async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = codec::decode(&mut self.input, Some(self.version), u32::MAX).expect("proper bytes") {
                return Some(packet);
            }
            match self.socket.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn publish(&mut self, topic: &str, payload: &str, qos: QoS, n: u16) {
        self.send(publish(topic, payload, qos, n)).await;
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        let filters = vec![(Ok(filter.parse().expect("valid")), options)];
        self.send(Packet::Subscribe(Subscribe { packet_id: id(1), subscription_id: None, user: Vec::new(), filters }))
            .await;
        assert!(matches!(self.receive().await, Some(Packet::SubAck(ack)) if (ack.reasons[0] as u8) < 0x80));
    }

    async fn message(&mut self) -> Publish {
        match self.receive().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }

    async fn acknowledge(&mut self, publish: &Publish) {
        if let Some(packet_id) = publish.packet_id {
            self.send(Packet::PubAck(ack(packet_id))).await;
        }
    }
}

fn publish(topic: &str, payload: &str, qos: QoS, n: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic.parse().expect("valid")),
        packet_id: (qos > QoS::AtMostOnce).then(|| id(n)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: bytes::Bytes::copy_from_slice(payload.as_bytes()),
    })
}

fn id(n: u16) -> PacketId {
    PacketId(std::num::NonZeroU16::new(n).expect("above 0"))
}

fn ack(packet_id: PacketId) -> Ack {
    Ack { packet_id, reason: ReasonCode::Success, reason_string: None, user: Vec::new() }
}

/// G1
#[tokio::test]
async fn an_acknowledged_message_is_durable_and_live_for_subscribers() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut subscriber, _) = running.client("s", Version::V311, true).await;
    subscriber.subscribe("t/#", QoS::ExactlyOnce).await;
    let (mut publisher, _) = running.client("p", Version::V5, true).await;
    publisher.publish("t/1", "one", QoS::AtLeastOnce, 7).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubAck(ack(id(7)))));
    let stream = running.log.stream("default").expect("configured");
    assert_eq!(running.log.state(stream).last, Seq(1));
    publisher.publish("t/2", "two", QoS::ExactlyOnce, 8).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubRec(ack(id(8)))));
    assert_eq!(running.log.state(stream).last, Seq(2));
    publisher.send(Packet::PubRel(ack(id(8)))).await;
    assert_eq!(publisher.receive().await, Some(Packet::PubComp(ack(id(8)))));
    let (one, two) = (subscriber.message().await, subscriber.message().await);
    assert_eq!(
        (&one.payload[..], one.qos, &two.payload[..], two.qos),
        (&b"one"[..], QoS::AtLeastOnce, &b"two"[..], QoS::ExactlyOnce)
    );
    running.stop().await;
}

/// [MQTT-3.1.4-3]
#[tokio::test]
async fn a_second_connection_takes_the_session_over_with_what_was_in_flight() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut old, _) = running.client("c", Version::V5, false).await;
    old.subscribe("t", QoS::AtLeastOnce).await;
    old.publish("t", "x", QoS::AtMostOnce, 0).await;
    old.publish("t", "y", QoS::AtLeastOnce, 5).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        if let Some(Packet::Publish(publish)) = old.receive().await {
            seen.push(publish);
        }
    }
    let (mut new, present) = running.client("c", Version::V5, false).await;
    assert!(present);
    loop {
        match old.receive().await {
            Some(Packet::Disconnect(disconnect)) => {
                assert_eq!(disconnect.reason, ReasonCode::SessionTakenOver);
                break;
            }
            Some(_) => {}
            None => panic!("a v5 client is told"),
        }
    }
    // [MQTT-4.4.0-1]
    let again = new.message().await;
    assert_eq!((again.dup, again.packet_id, &again.payload[..]), (true, seen[1].packet_id, &b"y"[..]));
    running.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_sessions_and_tells_v5_clients() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let running = start(&config).await;
    let (mut client, present) = running.client("c", Version::V5, false).await;
    assert!(!present);
    client.subscribe("t/#", QoS::AtLeastOnce).await;
    let (mut publisher, _) = running.client("p", Version::V311, true).await;
    publisher.publish("t/1", "before", QoS::AtLeastOnce, 1).await;
    let before = client.message().await;
    running.stop().await;
    // [MQTT-4.13.1-1] 0x8B
    assert!(
        matches!(client.receive().await, Some(Packet::Disconnect(d)) if d.reason == ReasonCode::ServerShuttingDown)
    );
    assert_eq!(client.receive().await, None);
    let running = start(&config).await;
    assert_eq!(running.broker.restored().sessions, 1);
    let (mut publisher, _) = running.client("p", Version::V311, true).await;
    publisher.publish("t/2", "while away", QoS::AtLeastOnce, 1).await;
    publisher.receive().await;
    let (mut client, present) = running.client("c", Version::V5, false).await;
    assert!(present);
    let again = client.message().await;
    assert_eq!((again.dup, again.packet_id, again.payload), (true, before.packet_id, before.payload));
    client.send(Packet::PubAck(ack(again.packet_id.expect("QoS 1")))).await;
    assert_eq!(&client.message().await.payload[..], b"while away");
    running.stop().await;
}

#[tokio::test]
async fn a_client_slower_than_its_subscription_reads_the_log_and_misses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut slow, _) = running.client("slow", Version::V311, true).await;
    slow.subscribe("t/#", QoS::AtLeastOnce).await;
    let (mut publisher, _) = running.client("p", Version::V311, true).await;
    // Far more than the queue and the in-flight window hold.
    for n in 0u16..200 {
        publisher.publish("t/1", &n.to_string(), QoS::AtLeastOnce, n + 1).await;
        publisher.receive().await;
    }
    assert!(running.broker.stats().router.queue_overflows >= 1);
    for n in 0u16..200 {
        let message = slow.message().await;
        assert_eq!(message.payload, n.to_string());
        slow.acknowledge(&message).await;
    }
    publisher.publish("t/1", "live again", QoS::AtLeastOnce, 1).await;
    assert_eq!(&slow.message().await.payload[..], b"live again");
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_grow_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut deaf, _) = running.client("deaf", Version::V311, true).await;
    deaf.subscribe("t/#", QoS::AtMostOnce).await;
    let (mut publisher, _) = running.client("p", Version::V311, true).await;
    let payload = "x".repeat(50_000);
    // Until the sockets' buffers, the write buffer and the queue are full, however large the kernel makes them.
    while running.broker.stats().router.dropped_queue_full == 0 {
        publisher.publish("t/1", &payload, QoS::AtLeastOnce, 1).await;
        publisher.receive().await;
    }
    let queued = running.broker.clients(10).into_iter().find(|c| c.client_id == "deaf").expect("connected").queued;
    assert!(queued * payload.len() <= 100_000, "{queued}");
    running.stop().await;
}

#[tokio::test]
async fn a_full_stream_holds_a_311_client_back_until_there_is_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut v5, _) = running.client("v5", Version::V5, true).await;
    v5.publish("full/1", "1", QoS::AtLeastOnce, 1).await;
    assert_eq!(v5.receive().await, Some(Packet::PubAck(ack(id(1)))));
    v5.publish("full/1", "2", QoS::AtLeastOnce, 2).await;
    assert!(matches!(v5.receive().await, Some(Packet::PubAck(a)) if a.reason == ReasonCode::QuotaExceeded));
    let (mut v311, _) = running.client("v311", Version::V311, true).await;
    v311.publish("full/1", "3", QoS::AtLeastOnce, 3).await;
    // Behind it; its answer comes only after the one before.
    v311.publish("other", "4", QoS::AtLeastOnce, 4).await;
    let (log, stream) = (running.log.clone(), running.log.stream("full").expect("configured"));
    tokio::task::spawn_blocking(move || log.purge(stream, Seq(1))).await.expect("no panic").expect("it is open");
    assert_eq!(v311.receive().await, Some(Packet::PubAck(ack(id(3)))));
    assert_eq!(v311.receive().await, Some(Packet::PubAck(ack(id(4)))));
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_is_held_back_and_says_goodbye_gives_its_session_to_the_next() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = start(&config(dir.path())).await;
    let (mut client, _) = running.client("s", Version::V311, false).await;
    // All of it comes with one read, so that the goodbye waits behind the message that the full stream does not take.
    let mut bytes = BytesMut::new();
    for packet in [publish("full/a", "1", QoS::AtLeastOnce, 1), publish("full/a", "2", QoS::AtLeastOnce, 2)] {
        codec::encode(&packet, Version::V311, &mut bytes).expect("a proper packet");
    }
    bytes.extend_from_slice(&[0xe0, 0]);
    client.socket.write_all(&bytes).await.expect("the broker reads");
    assert_eq!(client.receive().await, Some(Packet::PubAck(ack(id(1)))));
    let (_next, present) = running.client("s", Version::V311, false).await;
    assert!(present);
    running.stop().await;
}

#[tokio::test]
async fn refusals_are_counted_by_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.mqtt.connect_timeout = Duration::from_millis(50);
    config.mqtt.max_connections = 1;
    let running = start(&config).await;
    // Says nothing.
    let mut silent = running.open(Version::V5).await;
    assert_eq!(silent.receive().await, None);
    while running.broker.stats().connections > 0 {
        tokio::task::yield_now().await;
    }
    // Not a CONNECT [MQTT-3.1.0-1].
    let mut wrong = running.open(Version::V5).await;
    wrong.send(Packet::PingReq).await;
    assert_eq!(wrong.receive().await, None);
    while running.broker.stats().connections > 0 {
        tokio::task::yield_now().await;
    }
    let (first, _) = running.client("first", Version::V5, true).await;
    let mut second = running.open(Version::V5).await;
    assert_eq!(second.receive().await, None);
    drop(first);
    let refused = running.broker.stats().refused;
    let count = |why: Refused| refused[why as usize];
    assert_eq!(
        [Refused::ConnectTimeout, Refused::BadConnect, Refused::TooManyConnections].map(count),
        [1, 1, 1],
        "{refused:?}"
    );
    running.stop().await;
}

/// [MQTT-3.2.2-15] 0x95
#[tokio::test]
async fn a_packet_above_the_limit_ends_the_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let (mut client, _) = running.client("c", Version::V5, true).await;
    client.publish("t", &"x".repeat(100_000), QoS::AtMostOnce, 0).await;
    assert!(matches!(client.receive().await, Some(Packet::Disconnect(d)) if d.reason == ReasonCode::PacketTooLarge));
    assert_eq!(client.receive().await, None);
    assert_eq!(running.broker.stats().protocol_errors, 1);
    running.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = start(&config(dir.path())).await;
    let mut config = config(dir.path());
    config.listeners[0].bind = running.broker.binds()[0].clone();
    let error =
        Broker::start(&config, Auth::default(), running.log.clone(), Arc::new(SystemClock), Breather::default())
            .await
            .expect_err("it is in use");
    assert!(error.to_string().starts_with(&format!("cannot listen on {}", config.listeners[0].bind)), "{error}");
    running.stop().await;
}
