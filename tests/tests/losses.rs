//! What a full disk costs is said: what an uplink had not confirmed is listed, and streams that discard nothing refuse.

use headwater_tests::chance::Chance;
use headwater_tests::copy::whole;
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::port::Port;
use serde_json::Value;

const QUOTA_EXCEEDED: u64 = 0x97;

/// Bytes that cannot be compressed.
fn noise(chance: &mut Chance, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| chance.number().to_be_bytes()).flatten().take(len).collect()
}

async fn losses(gateway: &Gateway, broker: &Broker) -> Vec<Value> {
    let page = broker.page("/api/v1/losses").await.json();
    let shown = gateway.command(&["stream", "losses", "s", "--json", "--http", &broker.http().to_string()]);
    assert_eq!(serde_json::from_str::<Value>(&shown.stdout).expect("JSON"), page, "the command shows the page");
    page.as_array().expect("a list").clone()
}

#[tokio::test]
async fn what_the_disk_takes_from_an_uplink_is_listed_also_after_a_kill() {
    // Nobody listens there: nothing is ever confirmed.
    let nobody = Port::lease();
    let nobody_url = format!("nats://{}", nobody.address());
    let gateway = Gateway::new("gw-1")
        .disk("max_bytes = \"32MiB\"\n")
        .stream("s", &["plant/#"])
        .uplink(&[nobody_url], &[("s", "PLANT")]);
    let mut broker = gateway.start().await;
    assert!(losses(&gateway, &broker).await.is_empty());
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("d")).await;
    let mut chance = Chance::new();
    let (mut sent, mut restarts) = (0, 0);
    while restarts < 3 {
        let payloads: Vec<_> = (0..40).map(|_| noise(&mut chance, 30_000)).collect();
        device.publish_all("plant/x", &payloads, 1).await;
        sent += 40;
        let told = losses(&gateway, &broker).await.len();
        if told <= restarts {
            assert!(sent < 4000, "{sent} messages of 30,000 bytes fit into 32 MiB");
            continue;
        }
        // Something was dropped a moment ago.
        restarts += 1;
        broker.kill();
        broker = gateway.start().await;
        device = Device::connect(broker.mqtt(), Connect::v5("d")).await.0;
        let all = losses(&gateway, &broker).await;
        let log = whole(&broker, "s", 1).await;
        let missing: u64 = log.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
        let listed: u64 = all.iter().map(|loss| loss["msgs"].as_u64().expect("a number")).sum();
        assert_eq!(listed, missing, "{all:?}");
        assert_eq!(all[0]["first_seq"], 1);
        assert!(all.iter().all(|loss| loss["reason"] == "disk" && loss["reader"] == "uplink/hub/PLANT/s"), "{all:?}");
        assert_eq!(all[0]["bytes"].as_u64().expect("a number") / all[0]["msgs"].as_u64().expect("a number"), 30_007);
    }
    assert!(broker.stop().success());
}

#[tokio::test]
async fn a_disk_full_of_what_must_stay_is_said_and_others_go_on() {
    let gateway = Gateway::new("gw-1")
        .disk("max_bytes = \"32MiB\"\n")
        .with("[[stream]]\nname = \"alarms\"\ntopics = [\"alarm/#\"]\ndiscard = \"new\"\n")
        .stream("s", &["plant/#"]);
    let mut broker = gateway.start().await;
    let healthy = broker.page("/healthz").await;
    assert_eq!((healthy.code, &healthy.text()[..]), (200, "ok\n"));
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("d")).await;
    let mut chance = Chance::new();
    let mut stored = 0;
    loop {
        // One of the other stream with each: they must not hold each other.
        assert_ne!(device.publish("plant/x", noise(&mut chance, 30_000), 1, false).await, QUOTA_EXCEEDED);
        if device.publish("alarm/x", noise(&mut chance, 30_000), 1, false).await == QUOTA_EXCEEDED {
            break;
        }
        stored += 1;
        assert!(stored < 2000, "more than the disk holds");
    }
    assert!(stored > 400, "only {stored} alarms of 30,000 bytes fit into 32 MiB");
    let full = broker.page("/healthz").await;
    assert_eq!(full.code, 200, "a restart would not help");
    assert!(full.text().contains("full"), "{}", full.text());
    assert_eq!(broker.status().await["disk"]["full"], true);
    assert!((broker.metrics().await.value("headwater_disk_full", &[]) - 1.0).abs() < 0.1);
    let before = broker.status().await;
    for _ in 0..300 {
        device.publish("plant/x", noise(&mut chance, 30_000), 1, false).await;
    }
    let alarms = whole(&broker, "alarms", 1).await;
    assert_eq!((alarms.messages.len(), alarms.gaps.len()), (stored, 0), "{before}");
    assert!(broker.stop().success());
}
