//! An uplink against a real nats-server: the ordinary way, outages, resumes.

mod common;

use std::time::Duration;

use common::{Hub, MemorySource, contents, run, seqs, stream_config, until, uplink_to};
use headwater_broker::config::CreateStream;

#[tokio::test]
async fn a_backlog_and_live_messages_arrive_in_order() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=2500);
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    for n in 2501..=2520 {
        source.append(format!("message {n}"));
        running.caught_up().await;
    }
    let status = running.caught_up().await;
    assert_eq!(status.promise, Some("exact"));
    assert_eq!((status.counters.sent_msgs, status.counters.retries), (2520, 0));
    assert_eq!((status.backlog_msgs, status.oldest_unsent_age), (0, None));
    assert!(status.counters.batches < 40, "batches were not filled: {status:?}");
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=2520).collect::<Vec<_>>());
    assert_eq!(copies[41].subject, "edge.gw.s.t.0");
    assert_eq!(copies[41].payload, "message 42");
    assert_eq!(copies[41].uid, source.uid());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_missing_stream_is_made_when_wanted() {
    let hub = Hub::start().await;
    let mut config = uplink_to(&[hub.url()]);
    config.mirrors[0].create = Some(CreateStream { replicas: 1, max_bytes: None, max_age: None, subjects: Vec::new() });
    let source = MemorySource::new(1);
    source.append_numbered(1..=10);
    let running = run(&config, &source);
    assert_eq!(running.caught_up().await.promise, Some("exact"));
    let js = hub.client().await;
    let mut stream = js.get_stream("S").await.expect("it was made");
    let made = stream.info().await.expect("it can be asked").config.clone();
    assert_eq!(made.subjects, ["edge.*.s.>"]);
    assert!(made.allow_atomic_publish);
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_hub_that_dies_and_returns_gets_the_rest_once() {
    let mut hub = Hub::start_with("").await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    let mut config = uplink_to(&[hub.url()]);
    config.batch_msgs = 50;
    let running = run(&config, &source);
    let mut sent = 0;
    for round in 1..=5u64 {
        source.append_numbered(sent + 1..=sent + 3000);
        sent += 3000;
        until("some of it arrived", async || (running.mirror().confirmed_seq > sent - 2500).then_some(())).await;
        hub.kill();
        until("the loss was noticed", async || (running.mirror().state == "offline").then_some(())).await;
        source.append_numbered(sent + 1..=sent + round);
        sent += round;
        hub.restart().await;
    }
    running.caught_up().await;
    drop(js);
    let js = hub.client().await;
    assert_eq!(seqs(&contents(&js, "S").await), (1..=sent).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_restart_with_an_old_cursor_repeats_nothing() {
    let hub = Hub::start().await;
    // The dedupe window must not be what helps.
    let js = hub
        .make(async_nats::jetstream::stream::Config {
            duplicate_window: Duration::from_millis(100),
            ..stream_config("S")
        })
        .await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=2000);
    for round in 0..4u64 {
        let running = run(&uplink_to(&[hub.url()]), &source);
        running.caught_up().await;
        running.uplinks.shutdown().await;
        source.set_floor(round * 300);
        source.append_numbered(2001 + round * 10..=2010 + round * 10);
    }
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), (1..=2040).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_wiped_gateway_begins_a_new_history_behind_the_old_one() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let old = MemorySource::new(1);
    old.append_numbered(1..=100);
    let running = run(&uplink_to(&[hub.url()]), &old);
    running.caught_up().await;
    running.uplinks.shutdown().await;
    let new = MemorySource::new(2);
    new.append_numbered(1..=50);
    let running = run(&uplink_to(&[hub.url()]), &new);
    running.caught_up().await;
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=100).chain(1..=50).collect::<Vec<_>>());
    assert!(copies[..100].iter().all(|c| c.uid == old.uid()) && copies[100..].iter().all(|c| c.uid == new.uid()));
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_hub_stream_made_again_gets_everything_still_held() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=100);
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    source.trim(31);
    js.delete_stream("S").await.expect("the stream can be deleted");
    source.append_numbered(101..=110);
    running.troubled("no-responders").await;
    js.create_stream(stream_config("S")).await.expect("the stream can be made again");
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), (31..=110).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn purged_messages_are_not_sent_again() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=100);
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    js.get_stream("S").await.expect("it exists").purge().await.expect("it can be purged");
    source.append_numbered(101..=110);
    running.caught_up().await;
    running.uplinks.shutdown().await;
    let running = run(&uplink_to(&[hub.url()]), &source);
    source.append_numbered(111..=120);
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), (101..=120).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn retention_that_overtakes_the_uplink_is_announced_with_exact_bounds() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=100);
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    running.uplinks.shutdown().await;
    source.append_numbered(101..=1000);
    source.trim(901);
    let running = run(&uplink_to(&[hub.url()]), &source);
    assert_eq!(running.caught_up().await.counters.gaps, 1);
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=100).chain(900..=1000).collect::<Vec<_>>());
    assert_eq!(copies[100].gap, Some((101, 900, "retention".into())));
    assert_eq!(copies[100].subject, "edge.gw.s.headwater_gap");
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn other_gateways_in_the_same_stream_do_not_disturb_the_fence() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    let mut config = uplink_to(&[hub.url()]);
    config.batch_msgs = 20;
    let running = run(&config, &source);
    for n in 1..=40u64 {
        source.append_numbered(n * 50 - 49..=n * 50);
        js.publish("edge.other.s.x", "not ours".into()).await.expect("published").await.expect("acknowledged");
    }
    let status = running.caught_up().await;
    assert_eq!(status.counters.retries, 0, "{status:?}");
    let copies = contents(&js, "S").await;
    let ours: Vec<_> = copies.iter().filter(|c| c.subject.starts_with("edge.gw.")).map(|c| c.seq).collect();
    assert_eq!(ours, (1..=2000).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_stream_without_atomic_batches_gets_fenced_publishes() {
    let hub = Hub::start().await;
    let js =
        hub.make(async_nats::jetstream::stream::Config { allow_atomic_publish: false, ..stream_config("S") }).await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=300);
    let running = run(&uplink_to(&[hub.url()]), &source);
    let status = running.caught_up().await;
    assert_eq!(status.promise, Some("exact (single)"));
    assert_eq!(status.counters.batches, 300);
    assert_eq!(seqs(&contents(&js, "S").await), (1..=300).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn consumed_messages_are_not_sent_again() {
    let hub = Hub::start().await;
    let retention = async_nats::jetstream::stream::RetentionPolicy::WorkQueue;
    let js = hub.make(async_nats::jetstream::stream::Config { retention, ..stream_config("S") }).await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=10);
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    running.uplinks.shutdown().await;
    let stream = js.get_stream("S").await.expect("it exists");
    for sequence in [4, 10] {
        stream.delete_message(sequence).await.expect("a message can be taken");
    }
    source.append_numbered(11..=12);
    let running = run(&uplink_to(&[hub.url()]), &source);
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), [1, 2, 3, 5, 6, 7, 8, 9, 11, 12]);
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn shutdown_and_nothing_to_do_are_quick() {
    let hub = Hub::start().await;
    hub.make_stream("S").await;
    let source = MemorySource::new(1);
    let running = run(&uplink_to(&[hub.url()]), &source);
    until("it streams", async || (running.mirror().state == "streaming").then_some(())).await;
    let start = std::time::Instant::now();
    running.uplinks.shutdown().await;
    assert!(start.elapsed() < Duration::from_secs(1));
}
