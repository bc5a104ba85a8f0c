//! A disk that fails: a sync that was refused is not tried again, the broker says so and ends, and nothing acknowledged is lost; a
//! full disk costs history only, also when the power goes then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headwater_tests::chance::Chance;
use headwater_tests::copy::{Acknowledged, assert_holds, log_of, whole};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Gateway, STOP_LIMIT};
use headwater_tests::powercut::disk::Disk;
use headwater_tests::powercut::rig::{Change, Rig, Verdict, Volume};
use headwater_tests::publisher::{Publisher, record};

fn gateway_on(volume: &Volume) -> Gateway {
    let mut gateway = Gateway::new("gw-1").stream("s", &["plant/#"]);
    gateway.move_data(&volume.path().join("data"));
    gateway
}

/// From now on syncs of what `fails` names are refused, those of others happen. Counts how often they were asked for.
fn refuse_syncs(volume: &Volume, fails: fn(&str) -> bool) -> Arc<AtomicU64> {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    volume.watch(move |operation| {
        // What has no name any more is nobody's.
        let path = operation.disk.path(operation.inode).unwrap_or_default();
        if operation.change == Change::Sync && fails(&path) {
            count.fetch_add(1, Ordering::SeqCst);
            Verdict::Fails
        } else {
            Verdict::Happens
        }
    });
    asked
}

/// The broker ends by itself with exit code 1 once a sync failed, after that one attempt; what it acknowledged is there when it runs
/// again, on the same machine or after a power cut.
async fn a_refused_sync_ends_it(fails: fn(&str) -> bool, says: &str) {
    let mut chance = Chance::new();
    let rig = Rig::mount();
    let mut volume = rig.add(Disk::default());
    let mut gateway = gateway_on(&volume);
    let mut broker = gateway.start().await;
    let device = Publisher { window: 100, ..Publisher::new("d") };
    let mut acknowledged = Acknowledged::new();
    let published = device.publish(broker.mqtt(), 1, 500).await;
    record(&mut acknowledged, &published);

    let asked = refuse_syncs(&volume, fails);
    let published = device.publish_until_cut(broker.mqtt(), published.next, 1 << 40).await;
    record(&mut acknowledged, &published);
    let status = broker.process().wait(STOP_LIMIT);
    let output = broker.process().output();
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains(says), "{output}");
    assert!(output.contains("nothing is acknowledged any more"), "{output}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "a refused sync was asked for again:\n{output}");
    volume.unwatch();

    let mut next = published.next;
    for power_goes in [true, false, true] {
        let disk = if power_goes { volume.disk().cut(&mut chance) } else { volume.disk() };
        volume = rig.add(disk);
        gateway.move_data(&volume.path().join("data"));
        let broker = gateway.start().await;
        let log = log_of(&broker, "s").await;
        assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
        let published = device.publish(broker.mqtt(), next, 300).await;
        record(&mut acknowledged, &published);
        next = published.next;
        broker.kill();
    }
}

#[tokio::test]
async fn a_refused_sync_of_the_staging_log_ends_the_broker_and_loses_nothing_acknowledged() {
    a_refused_sync_ends_it(|path| path.starts_with("data/staging-"), "the log failed").await;
}

#[tokio::test]
async fn a_refused_sync_of_a_table_ends_the_broker_and_loses_nothing_acknowledged() {
    a_refused_sync_ends_it(|path| path.contains("/tables/"), "sealing an epoch").await;
}

#[tokio::test]
async fn a_refused_sync_of_a_folder_of_the_store_ends_the_broker_and_loses_nothing_acknowledged() {
    a_refused_sync_ends_it(|path| path.ends_with("/tables"), "sealing an epoch").await;
}

#[tokio::test]
async fn a_full_disk_that_loses_power_holds_the_newest_messages() {
    let mut chance = Chance::new();
    let rig = Rig::mount();
    let volume = rig.add(Disk::default());
    let gateway = gateway_on(&volume);
    let mut broker = gateway.start().await;
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("d")).await;
    let mut all: Vec<Vec<u8>> = Vec::new();
    for burst in 0..9 {
        if burst == 6 {
            // Hardly a block more than what is in use.
            let used = volume.disk().room().used;
            volume.set_capacity(used + (64 << 10));
        }
        let next: Vec<Vec<u8>> =
            (0..200).map(|_| (0..1000).flat_map(|_| chance.number().to_be_bytes()).collect()).collect();
        device.publish_all("plant/x", &next, 1).await;
        all.extend(next);
    }
    let after = rig.add(volume.disk().cut(&mut chance));
    assert_eq!(broker.process().ended(), None, "{}", broker.process().output());
    broker.kill();
    // A start with less than the smallest budget is refused: there is room again.
    after.set_capacity(usize::MAX);
    let mut gateway = gateway;
    gateway.move_data(&after.path().join("data"));
    let broker = gateway.start().await;
    let log = whole(&broker, "s", 1).await;
    assert!(log.messages.len() > 100, "only {} messages are left", log.messages.len());
    assert!(log.gaps.iter().all(|gap| gap.reason == "retention"), "{:?}", log.gaps);
    let first = all.len() - log.messages.len();
    for (at, message) in log.messages.iter().enumerate() {
        assert_eq!(message.seq, (first + at) as u64 + 1);
        assert!(message.payload == all[first + at], "at sequence {}", message.seq);
    }
}
