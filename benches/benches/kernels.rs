//! The parts that decide what a message costs, each by itself: packet codec, trie, group commit, block codec, log scan, cursor, forwarder.
//!
//! `cargo bench -p headwater-benches --bench kernels` measures; `cargo test --bench kernels` runs each once, to see that it still does.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use headwater_benches::payload::{Numbers, PAYLOAD_BYTES, telemetry, topic};
use headwater_benches::store::Store;
use headwater_broker::clock::{ClockQuality, MessageTime, Monotonic, WallTime};
use headwater_broker::log::kernels::BlockKernel;
use headwater_broker::log::{AckPolicy, BlockCodec, Seq, StreamUid, Ticket};
use headwater_broker::mqtt::codec::{decode, encode_publish};
use headwater_broker::mqtt::packet::{Packet, PacketId, Publish, QoS, Version};
use headwater_broker::mqtt::topic::{TopicFilter, TopicName};
use headwater_broker::router::trie::SubscriptionTrie;
use headwater_sync::backoff::Jitter;
use headwater_sync::batch::{Entry, Limits};
use headwater_sync::encode::{Encoder, Outgoing};
use headwater_sync::forwarder::{Forwarder, Held, Input, Now, Output, Settings};
use headwater_sync::hub::{Committed, Delivery, HubAnswer, HubSeq, HubStream, Keeps};

const SUBJECT: &str = "plant/1/telemetry";

fn payloads(count: u64) -> Vec<Vec<u8>> {
    let mut numbers = Numbers::new(1);
    (0..count).map(|number| telemetry(&mut numbers, 1, number)).collect()
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(1));
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Some(topic(1, 0).parse().expect("a valid topic")),
        packet_id: PacketId::new(7),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from(payloads(1).remove(0)),
    };
    for version in [Version::V311, Version::V5] {
        let mut wire = BytesMut::new();
        encode_publish(&publish.as_parts(), version, &mut wire).expect("a valid packet");
        group.bench_function(BenchmarkId::new("decode publish", format!("{version:?}")), |b| {
            b.iter_batched_ref(
                || BytesMut::from(&wire[..]),
                |buf| match decode(buf, Some(version), 1 << 20) {
                    Ok(Some(Packet::Publish(publish))) => publish,
                    other => panic!("{other:?}"),
                },
                BatchSize::SmallInput,
            );
        });
        let mut out = BytesMut::with_capacity(1 << 10);
        group.bench_function(BenchmarkId::new("encode publish", format!("{version:?}")), |b| {
            b.iter(|| {
                out.clear();
                encode_publish(&black_box(&publish).as_parts(), version, &mut out)
            });
        });
    }
    group.finish();
}

/// Subscriptions without a wildcard, and such of which three in ten have one: two with a plus in different places, one with a hash.
fn tries(subscriptions: u32) -> [SubscriptionTrie<u32, ()>; 2] {
    let (mut exact, mut mixed) = (SubscriptionTrie::new(), SubscriptionTrie::new());
    for number in 0..subscriptions {
        let text = match number % 10 {
            0 => format!("plant/{number}/+/telemetry"),
            1 => format!("plant/+/press-{number}/telemetry"),
            2 => format!("plant/{number}/#"),
            _ => format!("plant/{number}/press-{number}/telemetry"),
        };
        exact.insert(&filter(&format!("device/{number}/command")), number, ());
        mixed.insert(&filter(&text), number, ());
    }
    [exact, mixed]
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a valid filter")
}

fn trie(c: &mut Criterion) {
    let mut group = c.benchmark_group("trie");
    let mut largest = SubscriptionTrie::new();
    for subscriptions in [1_000, 10_000, 100_000] {
        let [exact, mixed] = tries(subscriptions);
        let half = subscriptions / 2;
        for (name, trie, text, expected) in [
            ("exact, one matches", &exact, format!("device/{half}/command"), 1),
            ("exact, none matches", &exact, "device/none/command".to_owned(), 0),
            ("wildcards, one matches", &mixed, format!("plant/{half}/press-{half}/telemetry"), 1),
            ("wildcards, none matches", &mixed, "plant/none/press-none/telemetry".to_owned(), 0),
        ] {
            let topic: TopicName = text.parse().expect("a valid topic");
            let matches = |topic: &TopicName| {
                let mut count = 0_u32;
                trie.matches(topic, &mut |_, ()| count += 1);
                count
            };
            assert_eq!(matches(&topic), expected);
            group.bench_function(BenchmarkId::new(name, subscriptions), |b| b.iter(|| matches(black_box(&topic))));
            // Another topic each time, as it is in use: what the processor has kept from the last one helps less.
            let topics: Vec<TopicName> = (0..1_009)
                .map(|n| text.replace(&half.to_string(), &(n * 7_919 % subscriptions).to_string()))
                .map(|text| text.parse().expect("a valid topic"))
                .collect();
            if expected > 0 {
                let mut next = topics.iter().cycle();
                group.bench_function(BenchmarkId::new(format!("{name}, topics in turn"), subscriptions), |b| {
                    b.iter(|| next.next().map(|topic| matches(black_box(topic))));
                });
            }
        }
        largest = mixed;
    }
    let more: Vec<TopicFilter> = (0..1_000).map(|number| filter(&format!("plant/+/new-{number}/#"))).collect();
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("insert and remove 1,000 among 100,000", |b| {
        b.iter(|| {
            for (number, filter) in (200_000..).zip(&more) {
                largest.insert(filter, number, ());
            }
            for (number, filter) in (200_000..).zip(&more) {
                largest.remove(filter, number);
            }
        });
    });
    group.finish();
}

fn log(c: &mut Criterion) {
    let payloads = payloads(512);
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), 64 << 20, AckPolicy::Synced).expect("a new log opens");
    let mut writer = store.writer().expect("a runtime");
    let mut group = c.benchmark_group("group commit");
    group.sample_size(10);
    for size in [1_u64, 64, 1_024] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("append and sync", size), |b| {
            b.iter(|| {
                let mut ticket = Ticket(0);
                for payload in payloads.iter().cycle().take(usize::try_from(size).expect("small")) {
                    ticket = writer.append(SUBJECT, payload).expect("accepted");
                }
                writer.wait(ticket).expect("the log lives");
            });
        });
    }
    group.finish();

    // Enough to be in epochs, not only in the tail.
    let mut ticket = Ticket(0);
    for payload in payloads.iter().cycle().take(100_000) {
        ticket = writer.append(SUBJECT, payload).expect("accepted");
    }
    writer.wait(ticket).expect("the log lives");
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(50_000));
    group.sample_size(10);
    group.bench_function("scan 50,000", |b| {
        b.iter(|| {
            let mut at = store.log.state(store.stream).first;
            let mut count = 0;
            while count < 50_000 {
                let batch = store.log.read(store.stream, at, 500, 256 << 10).expect("readable");
                assert!(!batch.items.is_empty(), "the stream holds 100,000");
                count += batch.items.len();
                at = batch.next;
            }
            count
        });
    });
    group.throughput(Throughput::Elements(1));
    group.sample_size(100);
    let mut numbers = Numbers::new(5);
    group.bench_function("one message by sequence", |b| {
        b.iter(|| {
            let first = store.log.state(store.stream).first.0;
            store.log.read(store.stream, Seq(first + numbers.draw() % 50_000), 1, 1).expect("readable")
        });
    });
    let cursor = store.log.cursor("bench", store.stream);
    let mut floor = cursor.floor().0;
    group.bench_function("cursor: read 100 of the tail and advance", |b| {
        b.iter(|| {
            let last = store.log.state(store.stream).last.0;
            let batch = store.log.read(store.stream, Seq(last - 100), 100, 256 << 10).expect("readable");
            floor += 1;
            cursor.advance(Seq(floor.min(last)));
            batch
        });
    });
    group.finish();
}

fn blocks(c: &mut Criterion) {
    let payloads = payloads(4_096);
    let mut group = c.benchmark_group("block codec, 4,096 messages");
    group.throughput(Throughput::Bytes((payloads.len() * PAYLOAD_BYTES) as u64));
    for codec in [BlockCodec::Zstd, BlockCodec::Lz4] {
        let mut kernel = BlockKernel::new(codec);
        let name = format!("{codec:?}");
        group.bench_function(BenchmarkId::new("pack", &name), |b| {
            b.iter(|| {
                let mut bytes = 0;
                kernel.pack(SUBJECT.as_bytes(), payloads.iter().map(Vec::as_slice), &mut |block| {
                    bytes += block.packed_bytes()
                });
                bytes
            });
        });
        let mut packed = Vec::new();
        kernel.pack(SUBJECT.as_bytes(), payloads.iter().map(Vec::as_slice), &mut |block| packed.push(block));
        group.bench_function(BenchmarkId::new("open and visit", &name), |b| {
            b.iter(|| {
                let mut bytes = 0;
                let opened = packed.iter().map(|block| block.open(&mut |payload| bytes += payload.len()));
                let count: usize = opened.map(|count| count.expect("as packed")).sum();
                assert_eq!(count, 4_096);
                bytes
            });
        });
    }
    group.finish();
}

/// A hub that takes everything: batches of 1,000 out of 100,000 messages, each confirmed as soon as it is sent.
fn forwarder(c: &mut Criterion) {
    const MESSAGES: u64 = 100_000;
    let uid = StreamUid(7);
    let encoder = Encoder::new("edge.{gateway}.{stream}.{subject}", "gw", "s", uid).expect("a valid template");
    let encoder = Arc::new(encoder);
    let payload = Bytes::from(payloads(1).remove(0));
    let time = MessageTime { wall: WallTime(0), quality: ClockQuality::Synced };
    let one: Outgoing = encoder.message(Seq(1), time, "plant/1/telemetry", None, payload).expect("short");
    let run = || {
        let settings = Settings {
            batch: Limits { msgs: 1_000, bytes: 1 << 20 },
            batch_delay: Duration::from_millis(20),
            ack_timeout: Duration::from_secs(5),
            max_backoff: Duration::from_secs(30),
        };
        let held = Held { first: Seq(1), last: Seq(MESSAGES) };
        let mut forwarder = Forwarder::new(settings, Arc::clone(&encoder), uid, Seq(0), None, held);
        let mut waiting = vec![Input::LinkUp { max_payload: 1 << 20 }];
        let mut hub = 0;
        while let Some(input) = waiting.pop() {
            forwarder.handle(Now { at: Monotonic(1_000_000_000), jitter: Jitter(u32::MAX) }, input);
            while let Some(output) = forwarder.poll() {
                match output {
                    Output::Ask { id } => waiting.push(Input::Answered { id, answer: Ok(empty_hub()) }),
                    Output::Read { id, from, limits } => {
                        let end = (from.0 + limits.msgs as u64).min(MESSAGES + 1);
                        let entries = (from.0..end).map(|seq| Entry::Message { seq: Seq(seq), outgoing: one.clone() });
                        waiting.push(Input::Read { id, result: Ok((entries.collect(), Seq(end))) });
                    }
                    Output::Send { id, batch } => {
                        hub += batch.messages.len() as u64;
                        let committed = Committed { last: HubSeq(hub), duplicate: false };
                        waiting.push(Input::Sent { id, result: Ok(committed) });
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(forwarder.confirmed(), Seq(MESSAGES), "everything is confirmed");
    };
    let mut group = c.benchmark_group("forwarder");
    group.throughput(Throughput::Elements(MESSAGES));
    group.sample_size(20);
    group.bench_function("100,000 messages in batches of 1,000", |b| b.iter(run));
    group.finish();
}

fn empty_hub() -> HubAnswer {
    HubAnswer {
        last: None,
        stream: HubStream {
            created: "t1".into(),
            last_seq: HubSeq(0),
            delivery: Delivery::Atomic,
            keeps: Keeps::UntilLimits,
            max_msg_bytes: None,
        },
    }
}

criterion_group!(kernels, codec, trie, log, blocks, forwarder);
criterion_main!(kernels);
