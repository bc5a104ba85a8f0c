//! The whole way: the log on disk, an uplink over it, a real nats-server.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Copy, GATEWAY, Hub, contents, seqs, until, uplink_to};
use headwater_broker::clock::SystemClock;
use headwater_broker::log::{
    AckPolicy, AppendError, BlockCodec, Entry, Log, LogConfig, NewMessage, Storage, StreamConfig, StreamLimits,
};
use headwater_broker::mqtt::packet::PublishProperties;
use headwater_broker::mqtt::properties::encode_stored;
use headwater_broker::mqtt::topic::TopicName;
use headwater_sync::{MirrorStatus, Uplinks};
use tokio::sync::watch;

fn open(dir: &Path, limits: StreamLimits, storage: Storage) -> Log {
    let config = LogConfig {
        dir: dir.to_owned(),
        max_bytes: 64 << 20,
        min_free: 0,
        ack: AckPolicy::Synced,
        max_delay: Duration::ZERO,
        codec: BlockCodec::default(),
        streams: vec![StreamConfig { name: "s".into(), limits, storage }],
        clock: Arc::new(SystemClock),
    };
    Log::open(config).expect("the log opens").0
}

async fn append(log: &Log, topic: &str, headers: &[u8], payload: &[u8]) {
    let stream = log.stream("s").expect("it is configured");
    loop {
        let message = NewMessage { stream, subject: topic.as_bytes(), headers, payload, tag: 1 };
        match log.append(&[Entry::Message(message)]) {
            Ok(_) => return,
            Err(AppendError::Busy) => log.room().await,
            Err(e) => panic!("refused: {e}"),
        }
    }
}

async fn append_numbered(log: &Log, range: std::ops::RangeInclusive<u64>) {
    for n in range {
        append(log, "plant/7/temp", b"", format!("{{\"n\":{n},\"value\":21.5}}").as_bytes()).await;
    }
}

fn start(hub: &Hub, log: &Log) -> (Uplinks, watch::Sender<bool>) {
    let (shutdown, stop) = watch::channel(false);
    (Uplinks::start(&[uplink_to(&[hub.url()])], GATEWAY, log, &stop).expect("a valid configuration"), shutdown)
}

async fn caught_up(uplinks: &Uplinks, last: u64) -> MirrorStatus {
    until(&format!("confirmed up to {last}"), async || {
        let mirror = uplinks.status().remove(0).mirrors.remove(0);
        (mirror.confirmed_seq == last && mirror.state == "streaming").then_some(mirror)
    })
    .await
}

fn payloads_are_in_order(copies: &[Copy]) {
    for copy in copies.iter().filter(|c| c.gap.is_none()) {
        assert_eq!(copy.payload, format!("{{\"n\":{},\"value\":21.5}}", copy.seq));
        assert_eq!(copy.subject, "edge.gw.s.plant.7.temp");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_mirrored_through_restarts() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    for round in 0..3u64 {
        let log = open(dir.path(), StreamLimits::default(), Storage::File);
        append_numbered(&log, round * 3000 + 1..=round * 3000 + 2000).await;
        let (uplinks, _shutdown) = start(&hub, &log);
        append_numbered(&log, round * 3000 + 2001..=round * 3000 + 3000).await;
        let status = caught_up(&uplinks, (round + 1) * 3000).await;
        assert_eq!((status.counters.sent_msgs, status.lost_msgs, status.backlog_msgs), (3000, 0, 0), "{status:?}");
        uplinks.shutdown().await;
        log.close();
    }
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=9000).collect::<Vec<_>>());
    payloads_are_in_order(&copies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_overtakes_is_counted_and_announced_alike() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let limits = StreamLimits { max_msgs: Some(500), ..StreamLimits::default() };
    let log = open(dir.path(), limits, Storage::File);
    append_numbered(&log, 1..=100).await;
    let (uplinks, _shutdown) = start(&hub, &log);
    caught_up(&uplinks, 100).await;
    uplinks.shutdown().await;
    append_numbered(&log, 101..=2000).await;
    let stream = log.stream("s").expect("it is configured");
    until("everything is durable and trimmed", async || {
        let state = log.state(stream);
        (state.last.0 == 2000 && state.msgs == 500).then_some(())
    })
    .await;
    let (uplinks, _shutdown) = start(&hub, &log);
    let status = caught_up(&uplinks, 2000).await;
    assert_eq!((status.counters.gaps, status.lost_msgs), (1, 1400), "{status:?}");
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=100).chain(1500..=2000).collect::<Vec<_>>());
    assert_eq!(copies[100].gap, Some((101, 1500, "retention".into())));
    payloads_are_in_order(&copies);
    uplinks.shutdown().await;
    log.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_stream_made_again_while_we_were_down_gets_everything() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path(), StreamLimits::default(), Storage::File);
    append_numbered(&log, 1..=100).await;
    let (uplinks, _shutdown) = start(&hub, &log);
    caught_up(&uplinks, 100).await;
    uplinks.shutdown().await;
    log.close();
    drop(log);
    js.delete_stream("S").await.expect("the stream can be deleted");
    let js = hub.make_stream("S").await;
    // Another gateway was there first: the last sequence alone would not tell.
    js.publish("edge.other.s.x", "x".into()).await.expect("published").await.expect("acknowledged");
    let log = open(dir.path(), StreamLimits::default(), Storage::File);
    let (uplinks, _shutdown) = start(&hub, &log);
    until("all is there again", async || (contents(&js, "S").await.len() == 101).then_some(())).await;
    let status = caught_up(&uplinks, 100).await;
    assert!(status.alarm.is_some_and(|text| text.contains("made again")));
    assert_eq!(seqs(&contents(&js, "S").await[1..]), (1..=100).collect::<Vec<_>>());
    uplinks.shutdown().await;
    log.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_and_properties_arrive_as_subjects_and_headers() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path(), StreamLimits::default(), Storage::Memory);
    let properties = PublishProperties {
        content_type: Some("application/json".into()),
        response_topic: Some(TopicName::new("answers/1").expect("a valid topic")),
        correlation_data: Some(Bytes::from_static(b"\x00\x01")),
        user: vec![("unit".into(), "°C".into()), ("Nats-Rollup".into(), "all\r\nX: y".into())],
        ..PublishProperties::default()
    };
    let mut stored = Vec::new();
    encode_stored(&properties, &mut stored).expect("short properties");
    append(&log, "/a.b//c d/>", &stored, b"21.5").await;
    let (uplinks, _shutdown) = start(&hub, &log);
    caught_up(&uplinks, 1).await;
    let message = js.get_stream("S").await.expect("it exists").get_raw_message(1).await.expect("it holds one");
    assert_eq!(message.subject.as_str(), "edge.gw.s./.a//b./.c%20d.%3E");
    let header = |name: &str| message.headers.get(name).map(|v| v.as_str());
    assert_eq!(header("Content-Type"), Some("application/json"));
    assert_eq!(header("Mqtt-Response-Topic"), Some("answers/1"));
    assert_eq!(header("Mqtt-Correlation-Data"), Some("AAE="));
    assert_eq!(header("unit"), Some("°C"));
    assert_eq!(header("Mqtt-User-Nats-Rollup"), Some("all%0D%0AX: y"));
    assert_eq!(header("X"), None);
    assert!(header("Headwater-Time").is_some_and(|time| time.starts_with("20") && time.ends_with('Z')));
    assert!(header("Nats-Msg-Id").is_some_and(|id| id.starts_with("gw/s/1@")));
    uplinks.shutdown().await;
    log.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backlog_and_its_age_are_shown_while_there_is_no_link() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = open(dir.path(), StreamLimits::default(), Storage::File);
    append_numbered(&log, 1..=50).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let (_shutdown, stop) = watch::channel(false);
    let config = uplink_to(&[format!("nats://127.0.0.1:{free}")]);
    let uplinks = Uplinks::start(&[config], GATEWAY, &log, &stop).expect("a valid configuration");
    let mirror = until("the age is known", async || {
        uplinks.look().await;
        let mirror = uplinks.status().remove(0).mirrors.remove(0);
        (mirror.oldest_unsent_age.is_some() && mirror.backlog_msgs == 50).then_some(mirror)
    })
    .await;
    assert!(mirror.backlog_bytes > 50 * 20 && mirror.state == "offline", "{mirror:?}");
    uplinks.shutdown().await;
    log.close();
}
