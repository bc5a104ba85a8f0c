//! Histories that end: the hub's stream is made again, the gateway's disk is wiped. Told apart, and never guessed.

use std::collections::BTreeSet;

use headwater_tests::copy::{MIRROR_PATIENCE, assert_exact, dump, dump_through, log_of, settle};
use headwater_tests::gateway::Gateway;
use headwater_tests::hub::Hub;
use headwater_tests::publisher::Publisher;
use headwater_tests::wait::until;

const PREFIX: &str = "edge.gw-1.s";

fn gateway(hub: &Hub) -> Gateway {
    Gateway::new("gw-1").stream("s", &["plant/#"]).uplink(&hub.urls(), &[("s", "CENTRE")])
}

#[tokio::test]
async fn a_hub_stream_that_is_deleted_and_made_again_gets_everything_still_held() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub);
    let broker = gateway.start().await;
    let device = Publisher::new("d");
    device.publish(broker.mqtt(), 1, 200).await;
    dump_through(&hub, "CENTRE", PREFIX, 200).await;
    hub.delete_stream("CENTRE").await;
    device.publish(broker.mqtt(), 201, 100).await;
    // People are told which stream is missing.
    until(MIRROR_PATIENCE, "the missing stream to be named", || async {
        let uplinks = broker.page("/api/v1/uplinks").await.json();
        let error = &uplinks[0]["last_error"];
        let named = error["text"].as_str().is_some_and(|text| text.contains("CENTRE"));
        if error["kind"] == "stream-missing" && named { Ok(()) } else { Err(uplinks.to_string()) }
    })
    .await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    assert_eq!(settle(&gateway, &broker, "s", &hub, "CENTRE").await.len(), 300);
}

#[tokio::test]
async fn a_hub_stream_that_is_made_again_while_the_gateway_is_off_gets_everything_still_held() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub);
    let mut broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 200).await;
    dump_through(&hub, "CENTRE", PREFIX, 200).await;
    assert!(broker.stop().success());
    hub.delete_stream("CENTRE").await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let broker = gateway.start().await;
    assert_eq!(settle(&gateway, &broker, "s", &hub, "CENTRE").await.len(), 200);
}

#[tokio::test]
async fn what_the_hub_has_discarded_is_not_sent_again() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub);
    let mut broker = gateway.start().await;
    let device = Publisher::new("d");
    device.publish(broker.mqtt(), 1, 200).await;
    dump_through(&hub, "CENTRE", PREFIX, 200).await;
    assert!(broker.stop().success());
    let stream = hub.jetstream().get_stream("CENTRE").await.expect("the stream is there");
    stream.purge().await.expect("a purge");
    let broker = gateway.start().await;
    device.publish(broker.mqtt(), 201, 50).await;
    let copy = dump_through(&hub, "CENTRE", PREFIX, 250).await;
    assert_exact("gw-1", "s", &log_of(&broker, "s").await[200..], &copy);
}

#[tokio::test]
async fn a_wiped_gateway_begins_a_new_history_behind_the_old_one() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub);
    let device = Publisher::new("d");
    let mut broker = gateway.start().await;
    device.publish(broker.mqtt(), 1, 200).await;
    let old = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert!(broker.stop().success());
    std::fs::remove_dir_all(gateway.data_dir()).expect("the data directory can be removed");

    let broker = gateway.start().await;
    // Fewer than before: sequences of the new history are below the last one of the old.
    device.publish(broker.mqtt(), 1_001, 100).await;
    let new = log_of(&broker, "s").await;
    assert_eq!(new.first().map(|message| message.seq), Some(1));
    let copy = until(MIRROR_PATIENCE, "the new history in the hub", || async {
        let copy = dump(&hub, "CENTRE").await;
        if copy.len() >= old.len() + new.len() { Ok(copy) } else { Err(format!("{} messages", copy.len())) }
    })
    .await;
    assert_exact("gw-1", "s", &old, &copy[..old.len()]);
    assert_exact("gw-1", "s", &new, &copy[old.len()..]);
    let ids: BTreeSet<&str> = copy.iter().map(|message| message.header("Headwater-Stream-Id")).collect();
    assert_eq!(ids.len(), 2);
}
