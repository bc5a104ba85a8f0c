//! The main job in one go, with nothing but rumqttc as a device: `targets/check` runs just this with the binaries of other
//! machines, emulated.

use headwater_tests::copy::{Acknowledged, assert_holds, dump_through, settle};
use headwater_tests::gateway::Gateway;
use headwater_tests::hub::Hub;
use headwater_tests::publisher::{Publisher, record};
use headwater_tests::wait::{PATIENCE, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smoke_what_was_acknowledged_before_a_kill_is_read_back_and_mirrored() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    // More than 32 bits of address can name; the filesystem may lower it, not the width of a number.
    let gateway = Gateway::new("gw-1")
        .disk("max_bytes = \"6GiB\"\nmin_free = \"1MiB\"\n")
        .stream("s", &["plant/#"])
        .uplink(&hub.urls(), &[("s", "CENTRE")]);
    let broker = gateway.start().await;
    let disk = broker.status().await["disk"].clone();
    assert_eq!(disk["configured_bytes"], 6_u64 << 30, "{disk}");
    let mut acknowledged = Acknowledged::new();
    let device = Publisher::new("d");
    let first = device.publish(broker.mqtt(), 1, 200).await;
    record(&mut acknowledged, &first);
    dump_through(&hub, "CENTRE", "edge.gw-1.s", 200).await;
    // `targets/check --2040` gives the broker another clock than ours.
    if let Ok(year) = std::env::var("HEADWATER_TEST_YEAR") {
        let page = broker.page("/api/v1/streams/s/messages?from=1&limit=1").await.text();
        assert!(page.contains(&format!("\"{year}-")), "not of {year}: {page}");
    }

    let address = broker.mqtt();
    let cut = tokio::spawn(async move { device.publish_until_cut(address, first.next, 1 << 40).await });
    until(PATIENCE, "messages to arrive", || async {
        let last = broker.status().await["streams"][0]["last_seq"].as_u64();
        if last > Some(300) { Ok(()) } else { Err(format!("{last:?}")) }
    })
    .await;
    broker.kill();
    record(&mut acknowledged, &cut.await.expect("the device is done"));

    let mut broker = gateway.start().await;
    let log = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
    assert!(gateway.command(&["status"]).success().contains("gw-1"));
    assert!(broker.stop().success());
}
