//! Limits, seen from outside: of streams, of the disk (G2), and what a device is told where one is hit.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headwater_tests::copy::{Acknowledged, assert_holds, log_of};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::payload::Mark;
use headwater_tests::publisher::{Publisher, record};
use headwater_tests::wait::{PATIENCE, until};

const MIB: u64 = 1 << 20;

async fn connect(broker: &Broker, how: Connect) -> Device {
    Device::connect(broker.mqtt(), how).await.0
}

#[tokio::test]
async fn a_full_stream_that_discards_new_messages_refuses_them_and_keeps_the_old() {
    let gateway = Gateway::new("gw-1")
        .with("[[stream]]\nname = \"s\"\ntopics = [\"plant/#\"]\nmax_msgs = 5\ndiscard = \"new\"\n")
        .stream("other", &["other/#"]);
    let broker = gateway.start().await;
    let mut device = connect(&broker, Connect::v5("d")).await;
    for number in 0..5 {
        assert_eq!(device.publish("plant/x", format!("{number}"), 1, false).await, 0);
    }
    // Quota exceeded. (With QoS 2, paho-mqtt sends PUBREL behind a refusal and reports the answer to that.)
    assert_eq!(device.publish("plant/x", "more", 1, false).await, 0x97);
    // The connection goes on, and other streams are not concerned.
    assert_eq!(device.publish("other/x", "x", 1, false).await, 0);
    let log = log_of(&broker, "s").await;
    let payloads: Vec<String> = log.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect();
    assert_eq!(payloads, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn streams_keep_the_newest_messages_within_their_own_limits() {
    let gateway = Gateway::new("gw-1")
        .with("[[stream]]\nname = \"count\"\ntopics = [\"count/#\"]\nmax_msgs = 10\n")
        .with("[[stream]]\nname = \"subject\"\ntopics = [\"subject/#\"]\nmax_msgs_per_subject = 2\n")
        .with("[[stream]]\nname = \"age\"\ntopics = [\"age/#\"]\nmax_age = \"1s\"\n")
        .with("[[stream]]\nname = \"bytes\"\ntopics = [\"bytes/#\"]\nmax_bytes = \"64KiB\"\n");
    let broker = gateway.start().await;
    let mut device = connect(&broker, Connect::v5("d")).await;
    let payloads: Vec<Vec<u8>> = (0..100).map(|number| format!("{number:0>1000}").into_bytes()).collect();
    for topic in ["count/x", "subject/a", "subject/b", "age/x", "bytes/x"] {
        device.publish_all(topic, &payloads, 1).await;
    }
    let seqs = async |stream: &str| log_of(&broker, stream).await.iter().map(|m| m.seq).collect::<Vec<_>>();
    assert_eq!(seqs("count").await, (91..=100).collect::<Vec<_>>());
    assert_eq!(seqs("subject").await, [99, 100, 199, 200]);
    let bytes = seqs("bytes").await;
    // Topics count too: 65 messages of 1,007 bytes fit into 65,536.
    assert_eq!(bytes, (36..=100).collect::<Vec<_>>());
    until(PATIENCE, "old messages to be gone", || async {
        let held = seqs("age").await;
        if held.is_empty() { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
    // The next sequence follows on the last one, although nothing is held.
    device.publish("age/x", "new", 1, false).await;
    assert_eq!(seqs("age").await, [101]);
}

#[tokio::test]
async fn a_stream_in_memory_is_empty_after_a_restart_and_reuses_no_sequence() {
    let gateway = Gateway::new("gw-1")
        .with("[[stream]]\nname = \"m\"\ntopics = [\"m/#\"]\nstorage = \"memory\"\nmax_bytes = \"1MiB\"\n");
    let mut broker = gateway.start().await;
    let mut device = connect(&broker, Connect::v5("d")).await;
    for _ in 0..10 {
        device.publish("m/x", "x", 1, false).await;
    }
    assert_eq!(log_of(&broker, "m").await.len(), 10);
    assert!(broker.stop().success());
    let broker = gateway.start().await;
    assert!(log_of(&broker, "m").await.is_empty());
    let mut device = connect(&broker, Connect::v5("d")).await;
    device.publish("m/x", "x", 1, false).await;
    let log = log_of(&broker, "m").await;
    assert!(log.len() == 1 && log[0].seq > 10, "{log:?}");
}

#[tokio::test]
async fn an_excluded_topic_goes_to_another_stream_or_to_none() {
    let gateway = Gateway::new("gw-1")
        .with("[[stream]]\nname = \"all\"\ntopics = [\"#\"]\nexclude = [\"special/#\", \"never/+\"]\n")
        .stream("special", &["special/#"]);
    let broker = gateway.start().await;
    let mut device = connect(&broker, Connect::v5("d")).await;
    for topic in ["a", "special/x", "never/x", "never/x/y"] {
        // 0x10: taken, but nobody subscribes; so says the broker where no stream captures the message either.
        let expected = if topic == "never/x" { 0x10 } else { 0 };
        assert_eq!(device.publish(topic, topic, 1, false).await, expected);
    }
    let topics = async |stream: &str| log_of(&broker, stream).await.into_iter().map(|m| m.topic).collect::<Vec<_>>();
    assert_eq!(topics("all").await, ["a", "never/x/y"]);
    assert_eq!(topics("special").await, ["special/x"]);
}

/// Allocated bytes below `dir`, deleted files that a process still holds open not counted.
fn allocated(dir: &Path) -> u64 {
    let Ok(metadata) = std::fs::symlink_metadata(dir) else { return 0 };
    let below: u64 = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| allocated(&e.path())).sum();
    metadata.blocks() * 512 + below
}

/// Allocated bytes of deleted files that the process still holds open below `dir`.
fn held_open(pid: u32, dir: &Path) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter(|fd| {
            let link = std::fs::read_link(fd.path()).unwrap_or_default();
            link.starts_with(dir) && link.to_string_lossy().ends_with(" (deleted)")
        })
        .filter_map(|fd| Some(std::fs::metadata(fd.path()).ok()?.blocks() * 512))
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_never_holds_more_than_its_budget_not_even_while_the_broker_is_killed() {
    let budget = 32 * MIB;
    let disk = format!("max_bytes = \"{budget}\"\nmin_free = \"1MiB\"\n");
    let gateway = Gateway::new("gw-1").disk(&disk).stream("s", &["plant/#"]);
    let over = Arc::new(AtomicBool::new(false));
    let watch = {
        let (over, dir) = (Arc::clone(&over), gateway.data_dir());
        std::thread::spawn(move || {
            let (mut most, mut looks) = (0, 0_u64);
            while !over.load(Ordering::Relaxed) {
                most = most.max(allocated(&dir));
                looks += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            (most, looks)
        })
    };
    // What cannot be compressed, so that the budget is reached soon.
    let mut chance = headwater_tests::chance::Chance::new();
    let payloads: Vec<Vec<u8>> =
        (0..500).map(|_| (0..1_000).flat_map(|_| chance.number().to_le_bytes()).collect()).collect();
    let mut most_with_open = 0;
    for round in 0..4 {
        let mut broker = gateway.start().await;
        let pid = broker.process().pid();
        let (mut one, mut two) = (connect(&broker, Connect::v4("a")).await, connect(&broker, Connect::v4("b")).await);
        for _ in 0..4 {
            tokio::join!(one.publish_all("plant/a", &payloads, 1), two.publish_all("plant/b", &payloads, 1));
            most_with_open = most_with_open.max(allocated(&gateway.data_dir()) + held_open(pid, &gateway.data_dir()));
        }
        let status = broker.status().await;
        let first = status["streams"][0]["first_seq"].as_u64();
        assert!(round == 0 || first.is_some_and(|first| first > 1), "nothing was discarded: {status}");
        assert_eq!(status["disk"]["max_bytes"], budget);
        assert!(status["disk"]["used_bytes"].as_u64().is_some_and(|used| used <= budget), "{status}");
        broker.kill();
    }
    over.store(true, Ordering::Relaxed);
    let (most, looks) = watch.join().expect("the watch is done");
    assert!(looks > 100, "only {looks} looks");
    let most = most.max(most_with_open);
    assert!(most <= budget, "{most} bytes of {budget}");
    // It is used, too: a bound that is kept by keeping nothing is worth nothing.
    assert!(most > budget / 2, "{most} bytes of {budget}");
}

#[tokio::test]
async fn what_a_noisy_stream_discards_is_its_own() {
    let gateway = Gateway::new("gw-1")
        .disk("max_bytes = \"32MiB\"\nmin_free = \"1MiB\"\n")
        .with("[[stream]]\nname = \"noise\"\ntopics = [\"noise/#\"]\nmax_msgs = 1000\n")
        .stream("alarms", &["plant/#"]);
    let broker = gateway.start().await;
    let device = Publisher::new("d");
    let mut acknowledged = Acknowledged::new();
    record(&mut acknowledged, &device.publish(broker.mqtt(), 1, 200).await);
    let noise = Publisher { topics: vec!["noise/x".to_owned()], ..Publisher::new("noise") };
    noise.publish(broker.mqtt(), 1, 5_000).await;
    let alarms = log_of(&broker, "alarms").await;
    assert_holds(&acknowledged, alarms.iter().map(|message| &message.payload));
    let held = log_of(&broker, "noise").await;
    let numbers: Vec<u64> = held.iter().map(|m| Mark::of(&m.payload).expect("ours").number).collect();
    assert_eq!(numbers, (4_001..=5_000).collect::<Vec<_>>());
}
