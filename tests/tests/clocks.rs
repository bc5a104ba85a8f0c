//! What the hub and people are told about the times of messages (G7). Leaps and boots are driven in the log's own tests: here the
//! machine's clock is what it is, and whether somebody vouches for it changes.

use headwater_tests::copy::{HubMessage, dump_through};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::hub::Hub;

fn clocks(copy: &[HubMessage]) -> Vec<&str> {
    copy.iter().map(|message| message.header("Headwater-Clock")).collect()
}

async fn publish(broker: &Broker, payload: &str) {
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("d")).await;
    assert_eq!(device.publish("a", payload, 1, false).await, 0);
    device.disconnect().await;
}

/// A gateway whose time daemon touches `synced` beside the data.
fn gateway(hub: &Hub) -> Gateway {
    let clock = "[clock]\ntrust = \"daemon\"\nsynced_file = \"synced\"\n";
    Gateway::new("gw-1").stream("s", &["#"]).uplink(&hub.urls(), &[("s", "CENTRE")]).with(clock)
}

fn touch(gateway: &Gateway) {
    std::fs::write(gateway.dir().join("synced"), "").expect("our own directory");
}

async fn synced(broker: &Broker) -> (serde_json::Value, f64) {
    (broker.status().await["clock"]["synced"].clone(), broker.metrics().await.value("headwater_clock_synced", &[]))
}

#[tokio::test]
async fn the_hub_and_people_learn_what_a_time_is_worth() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub);
    let broker = gateway.start().await;
    publish(&broker, "before").await;
    assert_eq!(clocks(&dump_through(&hub, "CENTRE", "edge.gw-1.s", 1).await), ["estimated"]);
    assert_eq!(synced(&broker).await, (false.into(), 0.0));
    let shown = gateway.command(&["stream", "get", "s", "1"]).success();
    assert!(shown.starts_with("1 ~20"), "{shown}");
    assert!(gateway.command(&["status"]).success().contains("NOT YET right"));

    touch(&gateway);
    publish(&broker, "after").await;
    // What was sent stays as it was sent; here the time of the first is known now, too.
    let copy = dump_through(&hub, "CENTRE", "edge.gw-1.s", 2).await;
    assert_eq!(clocks(&copy), ["estimated", "synced"]);
    assert!(copy.is_sorted_by_key(|message| message.header("Headwater-Time")), "RFC 3339 sorts by time");
    assert_eq!(synced(&broker).await, (true.into(), 1.0));
    let shown = gateway.command(&["stream", "get", "s", "1", "--json"]).success();
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((&shown["clock"], &shown["time"]), (&"synced".into(), &copy[0].header("Headwater-Time").into()));
    assert!(!gateway.command(&["status"]).success().contains("NOT YET"));

    // The daemon is gone, the process is killed: what is known of this boot stays known.
    std::fs::remove_file(gateway.dir().join("synced")).expect("it was touched");
    broker.kill();
    let broker = gateway.start().await;
    publish(&broker, "again").await;
    assert_eq!(clocks(&dump_through(&hub, "CENTRE", "edge.gw-1.s", 3).await), ["estimated", "synced", "synced"]);
    assert_eq!(synced(&broker).await, (true.into(), 1.0));
}

#[tokio::test]
async fn what_waited_for_the_hub_gets_its_right_time_before_it_is_sent() {
    let hub = Hub::single().await;
    let gateway = gateway(&hub);
    let broker = gateway.start().await;
    for payload in ["1", "2", "3"] {
        publish(&broker, payload).await;
    }
    let page = broker.page("/api/v1/streams/s/messages").await.json();
    let shown: Vec<&str> =
        page["messages"].as_array().expect("a list").iter().filter_map(|m| m["clock"].as_str()).collect();
    assert_eq!(shown, ["estimated"; 3]);
    touch(&gateway);
    // Only now there is somebody to send them to.
    hub.create_stream("CENTRE", &["edge.>"]).await;
    assert_eq!(clocks(&dump_through(&hub, "CENTRE", "edge.gw-1.s", 3).await), ["synced"; 3]);
}

#[tokio::test]
async fn the_operator_may_vouch_for_the_clock_or_never_believe_it() {
    for (trust, expected) in [("always", "synced"), ("never", "estimated")] {
        let hub = Hub::single().await;
        hub.create_stream("CENTRE", &["edge.>"]).await;
        let clock = format!("[clock]\ntrust = \"{trust}\"\n");
        let gateway = Gateway::new("gw-1").stream("s", &["#"]).uplink(&hub.urls(), &[("s", "CENTRE")]).with(&clock);
        let broker = gateway.start().await;
        publish(&broker, "x").await;
        assert_eq!(clocks(&dump_through(&hub, "CENTRE", "edge.gw-1.s", 1).await), [expected]);
        assert_eq!(broker.status().await["clock"]["trust"], trust);
    }
}
