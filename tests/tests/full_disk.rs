//! A filesystem that another program fills to the last block: the broker goes on with the room it has, loses nothing that it
//! acknowledged and still holds, and grows again when there is room.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use headwater_tests::chance::Chance;
use headwater_tests::copy::whole;
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};

const PAYLOAD_BYTES: usize = 16 << 10;

/// Payloads that cannot be compressed, each beginning with its number.
fn payloads(chance: &mut Chance, from: u64, count: u64) -> Vec<Vec<u8>> {
    (from..from + count)
        .map(|number| {
            let mut payload = number.to_be_bytes().to_vec();
            while payload.len() < PAYLOAD_BYTES {
                payload.extend(chance.number().to_be_bytes());
            }
            payload
        })
        .collect()
}

/// Writes until nothing more fits.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
    for size in [64 << 10, 4 << 10] {
        let error = loop {
            if let Err(error) = file.write_all(&vec![1; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}

/// The log holds the newest messages up to the last, each as it was published; what is missing before and between them is said to
/// have made room. The sealer may still be making room while this reads.
async fn assert_newest(broker: &Broker, all: &[Vec<u8>]) {
    let log = whole(broker, "s", 1).await;
    assert!(log.messages.len() > 100, "only {} messages are left", log.messages.len());
    let mut parts: Vec<(u64, u64)> = log.gaps.iter().map(|gap| (gap.first, gap.last)).collect();
    for message in &log.messages {
        let number = usize::try_from(message.seq - 1).expect("a position in memory");
        assert_eq!(message.payload, all[number], "at sequence {}", message.seq);
        parts.push((message.seq, message.seq));
    }
    parts.sort_unstable();
    let end = parts.iter().fold(1, |next, &(first, last)| {
        assert_eq!(first, next, "gaps: {:?}", log.gaps);
        last + 1
    });
    assert_eq!(end, all.len() as u64 + 1);
    assert!(log.gaps.iter().all(|gap| gap.reason == "retention"), "{:?}", log.gaps);
    assert_eq!(log.messages.last().map(|message| message.seq), Some(all.len() as u64));
}

#[tokio::test]
async fn a_filesystem_filled_by_others_costs_history_and_nothing_else() {
    let gateway = Gateway::new("gw-1").disk("max_bytes = \"40MiB\"\nmin_free = \"1MiB\"\n").stream("s", &["plant/#"]);
    let mut broker = gateway.start_on_own_filesystem(48).await;
    let other = broker.own_filesystem(&gateway).join("other");
    let mut chance = Chance::new();
    let mut all = Vec::new();
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("d")).await;
    // More than the budget; then, on a full filesystem, many times what the staging log holds; then with room again.
    for (full, bursts) in [(false, 15), (true, 6), (false, 3)] {
        if full {
            fill(&other);
        } else {
            // Not there the first time.
            let _ = std::fs::remove_file(&other);
        }
        for _ in 0..bursts {
            let next = payloads(&mut chance, all.len() as u64, 200);
            device.publish_all("plant/x", &next, 1).await;
            all.extend(next);
        }
        assert_newest(&broker, &all).await;
    }
    assert!(broker.stop().success());
}
