//! How often the hot paths ask the allocator for memory in steady state, per message: shown, not judged.
//!
//! `cargo bench -p headwater-benches --bench allocations`. A counting allocator is the program's own, so this is a program of its own.
//! It counts every thread: for the log the writer, and the sealer with what it packs and the tree it writes to.

#![expect(clippy::print_stdout)] // the figures are this program's output

use std::alloc::System;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use headwater_benches::payload::{Numbers, telemetry, topic};
use headwater_benches::store::Store;
use headwater_broker::log::{AckPolicy, Ticket};
use headwater_broker::mqtt::codec::{decode, encode_publish};
use headwater_broker::mqtt::packet::{Packet, Version};
use headwater_broker::router::trie::SubscriptionTrie;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    // Told by cargo whether it is to measure; `cargo test --bench allocations` only sees that it still does.
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let messages = if quick { 2_000 } else { 400_000 };
    println!("allocations and reallocations per message, {messages} messages after as many to warm up");
    codec(messages);
    trie(messages);
    for per_sync in [1, 64, 1_000] {
        let messages = if per_sync == 1 { messages / 40 } else { messages };
        log(messages, per_sync, AckPolicy::Synced);
    }
    log(messages, 64, AckPolicy::Interval(Duration::from_secs(1)));
}

fn count(what: &str, messages: u64, mut work: impl FnMut(u64)) {
    work(messages);
    let region = Region::new(ALLOCATOR);
    work(messages);
    let change = region.change();
    let each = |count: usize| count as f64 / messages as f64;
    println!(
        "{what:<50} {:>9.4} allocations {:>9.4} reallocations {:>9.1} bytes",
        each(change.allocations),
        each(change.reallocations),
        each(change.bytes_allocated)
    );
}

fn codec(messages: u64) {
    let mut wire = Vec::new();
    let mut numbers = Numbers::new(1);
    headwater_benches::packet::publish(&mut wire, &topic(1, 0), Some(7), &telemetry(&mut numbers, 1, 1));
    // A read buffer as a connection has it: packets are taken off the front, its memory is used again once they are gone.
    let mut input = BytesMut::with_capacity(16 << 10);
    count("decode a PUBLISH from a read buffer", messages, |messages| {
        for _ in 0..messages {
            input.extend_from_slice(&wire);
            let packet = decode(&mut input, Some(Version::V311), 1 << 20).expect("valid").expect("complete");
            assert!(matches!(packet, Packet::Publish(_)));
        }
    });
    let mut input = BytesMut::from(&wire[..]);
    let Ok(Some(Packet::Publish(publish))) = decode(&mut input, Some(Version::V311), 1 << 20) else {
        panic!("a PUBLISH was encoded");
    };
    let mut out = BytesMut::with_capacity(1 << 10);
    count("encode a PUBLISH into a write buffer", messages, |messages| {
        for _ in 0..messages {
            encode_publish(&publish.as_parts(), Version::V311, &mut out).expect("a valid packet");
            out.advance(out.len());
            out.clear();
        }
    });
}

fn trie(messages: u64) {
    let mut trie = SubscriptionTrie::new();
    for number in 0..10_000_u32 {
        trie.insert(&format!("plant/+/press-{number}/#").parse().expect("a valid filter"), number, ());
    }
    let topic = "plant/7/press-77/telemetry".parse().expect("a valid topic");
    count("match a topic against 10,000 subscriptions", messages, |messages| {
        let mut found = 0;
        for _ in 0..messages {
            trie.matches(&topic, &mut |_, ()| found += 1);
        }
        assert_eq!(found, messages);
    });
}

fn log(messages: u64, per_sync: u64, ack: AckPolicy) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), 64 << 20, ack).expect("a new log opens");
    let mut writer = store.writer().expect("a runtime");
    let mut numbers = Numbers::new(1);
    let payloads: Vec<Vec<u8>> = (0..512).map(|number| telemetry(&mut numbers, 1, number)).collect();
    let what = format!("append, group commit and seal, {per_sync} at once, {ack:?}");
    count(&what, messages, |messages| {
        let mut ticket = Ticket(0);
        for (number, payload) in (1..=messages).zip(payloads.iter().cycle()) {
            ticket = writer.append("plant/1/telemetry", payload).expect("accepted");
            if number % per_sync == 0 {
                writer.wait(ticket).expect("the log lives");
            }
        }
        writer.wait(ticket).expect("the log lives");
    });
}
