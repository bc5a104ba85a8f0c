//! G2 as the filesystem sees it: what the data directory takes, unlinked files that are still open included, never exceeds
//! `disk.max_bytes`, whatever is done to the broker; and nine tenths of it hold data.
//!
//! `HEADWATER_BOUND_MIB` sets another budget than 64 MiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use headwater_tests::chance::Chance;
use headwater_tests::flood::{Flood, Noise};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::http;
use headwater_tests::port::Port;
use headwater_tests::sampler::Sampler;
use headwater_tests::wait::{PATIENCE, until};
use tokio::task::JoinSet;

const MIB: u64 = 1 << 20;
const STREAMS: usize = 200;
/// The largest payload; its packet is larger than the default for `max_packet_bytes`.
const LARGEST: usize = 1 << 20;
const KILLS: usize = 6;
/// Between two looks of what only has to be there.
const PAUSE: Duration = Duration::from_millis(20);

fn gateway(budget: u64, hub: &Port) -> Gateway {
    let mut sections = "[mqtt]\nmax_packet_bytes = \"1088KiB\"\nmax_queued_bytes = \"1088KiB\"\n".to_owned();
    for n in 0..STREAMS {
        sections += &format!("[[stream]]\nname = \"s{n}\"\ntopics = [\"plant/{n}\"]\n");
    }
    Gateway::new("gw-1")
        .disk(&format!("max_bytes = \"{budget}MiB\"\nmin_free = \"1MiB\"\n"))
        .with(&sections)
        // Nobody listens there.
        .uplink(&[format!("nats://127.0.0.1:{}", hub.number())], &[("s0", "A"), ("s1", "B"), ("s150", "C")])
}

/// The size of a payload: as many between 1 and 10 bytes as between 100 KB and 1 MiB. Every second device sends small ones only.
fn size(chance: &mut Chance, device: usize) -> usize {
    let top = if device.is_multiple_of(2) { LARGEST } else { 200 };
    let bits = chance.below(u64::from(top.ilog2()) + 1);
    let least = 1 << bits;
    // The largest itself is among them.
    usize::try_from(least + chance.below(least + 1)).expect("a size in memory").min(top)
}

/// Everyone who makes one run of the broker work: a device for every stream, a subscriber to everything that reads nothing, and readers
/// of the oldest messages.
struct Load {
    tasks: JoinSet<()>,
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn start(broker: &Broker, chance: &mut Chance, noise: &Noise) -> Load {
        let (mqtt, pages) = (broker.mqtt(), broker.http());
        let (bytes, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for device in 0..STREAMS {
            let mut chance = Chance::from_seed(chance.number());
            let (noise, bytes, over) = (noise.clone(), Arc::clone(&bytes), Arc::clone(&over));
            tasks.spawn(async move {
                let flood = Flood::connect(mqtt, &format!("d{device}"), &format!("plant/{device}")).await;
                let Some(mut flood) = flood else { return };
                while !over.load(Ordering::Relaxed) {
                    let size = size(&mut chance, device);
                    let Some(done) = flood.publish(noise.cut(&mut chance, size), 4).await else { return };
                    bytes.fetch_add(done as u64, Ordering::Relaxed);
                }
                // Gone before the last acknowledgements: another round.
                let _ = flood.settle().await;
            });
        }
        let silent = Arc::clone(&over);
        tasks.spawn(async move {
            let flood = Flood::connect(mqtt, "silent", "none").await;
            let Some(mut flood) = flood else { return };
            if flood.subscribe_and_fall_silent().await.is_some() {
                while !silent.load(Ordering::Relaxed) {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        for _ in 0..3 {
            let over = Arc::clone(&over);
            let mut chance = Chance::from_seed(chance.number());
            tasks.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let path = format!("/api/v1/streams/s{}/messages?from=1&limit=5", chance.below(STREAMS as u64));
                    if http::get(pages, &path).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Load { tasks, bytes, over }
    }

    /// Waits until so many bytes of payload were acknowledged.
    async fn acknowledged(&self, bytes: u64) {
        until(PATIENCE, "the devices to publish", || async {
            let now = self.bytes.load(Ordering::Relaxed);
            if now >= bytes { Ok(()) } else { Err(format!("{now} of {bytes} bytes")) }
        })
        .await;
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        // Tasks that panicked make this panic.
        self.tasks.join_all().await;
    }
}

/// Kills at any moment, then a run that fills the budget and goes on for half as much again.
async fn fill(budget: u64, kills: usize) {
    let mut chance = Chance::new();
    let noise = Noise::new(&mut chance, 4 << 20);
    let hub = Port::lease();
    let gateway = gateway(budget, &hub);
    let sampler = Sampler::start(&gateway.data_dir());
    for _ in 0..kills {
        let mut broker = gateway.launch();
        sampler.follow(broker.process().pid());
        if chance.below(4) == 0 {
            // While it starts.
            tokio::time::sleep(chance.moment(Duration::from_millis(100))).await;
            broker.kill();
            continue;
        }
        broker.ready().await;
        let load = Load::start(&broker, &mut chance, &noise);
        load.acknowledged(chance.below(budget * MIB / 4)).await;
        broker.kill();
        load.end().await;
    }
    let mut broker = gateway.launch();
    sampler.follow(broker.process().pid());
    broker.ready().await;
    let load = Load::start(&broker, &mut chance, &noise);
    load.acknowledged(budget * MIB).await;
    sampler.steady();
    load.acknowledged(budget * MIB * 3 / 2).await;
    load.end().await;
    let status = broker.status().await;
    let held: u64 = status["streams"].as_array().into_iter().flatten().filter_map(|s| s["bytes"].as_u64()).sum();
    // This client is acknowledged also what is refused as too large, which nothing was.
    let metrics = broker.metrics().await;
    assert_eq!(metrics.value("headwater_messages_refused_total", &[("reason", "too_large")]), 0.0);
    assert!(broker.stop().success());
    let seen = sampler.stop();
    let percent = |bytes: u64| bytes as f64 / (budget * MIB) as f64 * 100.0;
    eprintln!(
        "{budget} MiB: {} looks, at most {:.2} % allocated, of it {} bytes unlinked; tables take {:.2} % in the mean, {:.2} % at least; \
         messages held: {:.2} %",
        seen.looks,
        percent(seen.most),
        seen.most_unlinked,
        percent(seen.mean_tables()),
        percent(seen.least_tables),
        percent(held)
    );
    assert!(seen.looks > 100 && seen.steady_looks > 20, "{seen:?}");
    assert!(seen.most <= budget * MIB, "more than the budget: {seen:?}");
    // What is fixed weighs more where there is little.
    let usable: u32 = if budget >= 64 { 90 } else { 80 };
    assert!(percent(seen.mean_tables()) >= f64::from(usable), "too little of the budget holds data: {seen:?}");
    assert!(held >= budget * MIB * u64::from(usable) / 100, "too little of the budget holds messages: {held}");
    let verified = gateway.command(&["store", "verify"]).success();
    assert!(verified.ends_with("sound\n"), "{verified}");
}

#[tokio::test]
async fn the_data_directory_never_takes_more_than_its_budget_and_nine_tenths_of_it_hold_data() {
    let budget = std::env::var("HEADWATER_BOUND_MIB").map_or(64, |text| text.parse().expect("a number of MiB"));
    fill(budget, KILLS).await;
}
