//! G1 and G4 under SIGKILL, many times: what was acknowledged is there, in order and intact, and the hub's copy is exact.
//!
//! `HEADWATER_KILL_ROUNDS` sets the number of rounds; `tests/kill-loop` runs thousands.

use std::time::Duration;

use headwater_tests::chance::{Chance, rounds};
use headwater_tests::copy::{Acknowledged, assert_exact, assert_holds, dump, log_from, log_of, settle};
use headwater_tests::gateway::{Gateway, Logged};
use headwater_tests::hub::Hub;
use headwater_tests::publisher::{Published, Publisher, record};
use headwater_tests::wait::until;

/// Devices whose next message is remembered from one run of the broker to the next.
struct Devices {
    publishers: Vec<(Publisher, u64)>,
    acknowledged: Acknowledged,
}

impl Devices {
    fn new() -> Devices {
        let small = Publisher { window: 5, ..Publisher::new("small") };
        let exactly_once = Publisher { qos: 2, window: 20, ..Publisher::new("twice") };
        let publishers = [Publisher::new("wide"), small, exactly_once].map(|publisher| (publisher, 1)).to_vec();
        Devices { publishers, acknowledged: Acknowledged::new() }
    }

    /// Publishes until the broker goes away; that must happen meanwhile, by `kill`.
    async fn publish_until(&mut self, broker: std::net::SocketAddr, kill: impl Future<Output = ()>) {
        let runs = self.publishers.iter().map(|(publisher, next)| publisher.publish_until_cut(broker, *next, 1 << 40));
        let (published, ()) = tokio::join!(futures_util::future::join_all(runs), kill);
        for ((_, next), published) in self.publishers.iter_mut().zip(&published) {
            let Published { name, failure, .. } = published;
            assert!(failure.is_some(), "{name} ended before the broker was killed");
            *next = published.next;
            record(&mut self.acknowledged, published);
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.values().map(Vec::len).sum()
    }
}

#[tokio::test]
async fn sigkill_during_ingest_loses_no_acknowledged_message_in_many_rounds() {
    let rounds = rounds(60);
    let mut chance = Chance::new();
    // Enough room that retention takes nothing: every message must be there at the end.
    let disk = format!("max_bytes = \"{}MiB\"\nmin_free = \"1MiB\"\n", 256.max(rounds * 3));
    let mut gateway = Gateway::new("gw-1").disk(&disk).stream("s", &["plant/#"]);
    let mut devices = Devices::new();
    let mut log: Vec<Logged> = Vec::new();
    for _ in 0..rounds {
        if chance.below(5) == 0 {
            // Killed while it starts.
            let broker = gateway.launch();
            tokio::time::sleep(chance.moment(Duration::from_millis(40))).await;
            broker.kill();
        }
        let broker = gateway.start().await;
        log.extend(log_from(&broker, "s", log.len() as u64 + 1).await);
        assert_holds(&devices.acknowledged, log.iter().map(|message| &message.payload));
        let address = broker.mqtt();
        let moment = chance.moment(Duration::from_millis(150));
        devices
            .publish_until(address, async {
                tokio::time::sleep(moment).await;
                broker.kill();
            })
            .await;
    }
    assert!(devices.count() > 100, "only {} messages were acknowledged: nothing was tested", devices.count());

    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    gateway.clear_sections();
    let gateway = gateway.stream("s", &["plant/#"]).uplink(&hub.urls(), &[("s", "CENTRE")]);
    let broker = gateway.start().await;
    let whole = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&devices.acknowledged, whole.iter().map(|message| &message.payload));
    // What was read once is never something else later, and sequences run on without a hole.
    assert!(whole.starts_with(&log), "the log changed what it had shown before");
    assert!(whole.iter().zip(1..).all(|(message, seq)| message.seq == seq), "sequences have holes");
}

#[tokio::test]
async fn sigkill_during_backfill_leaves_an_exact_copy_in_many_rounds() {
    let rounds = rounds(25);
    let mut chance = Chance::new();
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let disk = format!("max_bytes = \"{}MiB\"\nmin_free = \"1MiB\"\n", 256.max(rounds * 3));
    let mut gateway = Gateway::new("gw-1").disk(&disk).stream("s", &["plant/#"]);
    // A backlog that takes some rounds, in small batches.
    let broker = gateway.start().await;
    let device = Publisher::new("backlog");
    let mut devices = Devices::new();
    record(&mut devices.acknowledged, &device.publish(broker.mqtt(), 1, 10_000).await);
    let mut next = 10_001;
    broker.kill();
    gateway.clear_sections();
    let gateway = gateway.stream("s", &["plant/#"]).with(&format!(
        "[[uplink]]\nname = \"hub\"\nkind = \"jetstream\"\nservers = {:?}\nbatch_msgs = 40\nmax_backoff = \"500ms\"\n\
         [[uplink.mirror]]\nstream = \"s\"\ninto = \"CENTRE\"\n",
        hub.urls()
    ));
    let mut killed_midway = 0;
    for _ in 0..rounds {
        let broker = gateway.start().await;
        let address = broker.mqtt();
        let stored = hub.info("CENTRE").await.state.messages;
        // Something that the hub cannot have, also where the kill before came after it had all.
        record(&mut devices.acknowledged, &device.publish(address, next, 60).await);
        next += 60;
        // The first batches of this run are under way or stored when it is killed.
        until(headwater_tests::wait::PATIENCE, "the backfill to go on", || async {
            let now = hub.info("CENTRE").await.state.messages;
            if now > stored { Ok(()) } else { Err(format!("{now} messages")) }
        })
        .await;
        let moment = chance.moment(Duration::from_millis(60));
        let hub = &hub;
        let before = log_of(&broker, "s").await.len() as u64;
        devices
            .publish_until(address, async {
                tokio::time::sleep(moment).await;
                broker.kill();
                if hub.info("CENTRE").await.state.messages < before {
                    killed_midway += 1;
                }
            })
            .await;
        let copy = dump(hub, "CENTRE").await;
        let numbers: Vec<u64> = copy.iter().map(headwater_tests::copy::HubMessage::seq).collect();
        let expected: Vec<u64> = (1..=copy.len() as u64).collect();
        assert!(numbers == expected, "the copy has a hole or a duplicate: {numbers:?}");
    }
    assert!(killed_midway > 0, "no kill met a backfill: nothing was tested");
    let broker = gateway.start().await;
    let log = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&devices.acknowledged, log.iter().map(|message| &message.payload));
    assert_exact("gw-1", "s", &log, &dump(&hub, "CENTRE").await);
}
