//! The hub or the link to it fails while devices go on publishing: no loss and no duplicate.

use headwater_tests::copy::{Acknowledged, assert_holds, dump_through, settle};
use headwater_tests::gateway::Gateway;
use headwater_tests::hub::Hub;
use headwater_tests::proxy::{Direction, Flow, Proxy};
use headwater_tests::publisher::{Publisher, record};
use headwater_tests::traffic::Traffic;
use headwater_tests::wait::{PATIENCE, until};

const PREFIX: &str = "edge.gw-1.s";

fn gateway(servers: &[String]) -> Gateway {
    Gateway::new("gw-1").stream("s", &["plant/#"]).uplink(servers, &[("s", "CENTRE")])
}

#[tokio::test]
async fn a_hub_that_is_down_for_a_while_gets_everything_afterwards() {
    let mut hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub.urls());
    let broker = gateway.start().await;
    let device = Publisher::new("d");
    let mut acknowledged = Acknowledged::new();
    record(&mut acknowledged, &device.publish(broker.mqtt(), 1, 300).await);
    dump_through(&hub, "CENTRE", PREFIX, 300).await;
    hub.kill(0);
    record(&mut acknowledged, &device.publish(broker.mqtt(), 301, 2_500).await);
    hub.restart(0).await;
    record(&mut acknowledged, &device.publish(broker.mqtt(), 2_801, 300).await);
    let log = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
    assert_eq!(log.len(), 3_100);
}

#[tokio::test]
async fn a_hub_that_is_down_at_the_start_gets_everything_once_it_is_up() {
    let mut hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    hub.stop(0);
    let gateway = gateway(&hub.urls());
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 300).await;
    hub.restart(0).await;
    assert_eq!(settle(&gateway, &broker, "s", &hub, "CENTRE").await.len(), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_nodes_are_restarted_one_after_the_other_while_devices_publish() {
    let mut hub = Hub::cluster().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub.urls());
    let broker = gateway.start().await;
    let traffic = Traffic::start(broker.mqtt(), &["a", "b"]);
    traffic.flow(200).await;
    for node in 0..hub.size() {
        hub.stop(node);
        traffic.flow(200).await;
        hub.restart(node).await;
        hub.current("CENTRE").await;
    }
    traffic.flow(200).await;
    let acknowledged = traffic.stop().await;
    let log = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_leader_is_killed_again_and_again_while_devices_publish() {
    let mut hub = Hub::cluster().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub.urls());
    let broker = gateway.start().await;
    let traffic = Traffic::start(broker.mqtt(), &["a", "b"]);
    for _ in 0..3 {
        traffic.flow(200).await;
        let leader = hub.leader("CENTRE").await;
        hub.kill(leader);
        traffic.flow(200).await;
        // Somebody else leads now, and the mirror goes on with two of three.
        assert_ne!(hub.leader("CENTRE").await, leader);
        hub.restart(leader).await;
        hub.current("CENTRE").await;
    }
    let acknowledged = traffic.stop().await;
    let log = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
}

#[tokio::test]
async fn acknowledgements_lost_on_their_way_back_leave_no_duplicate_once_the_hub_has_forgotten_the_ids() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let proxy = Proxy::start(hub.address(0)).await;
    let gateway = gateway(&[proxy.url()]);
    let broker = gateway.start().await;
    let device = Publisher::new("d");
    device.publish(broker.mqtt(), 1, 50).await;
    dump_through(&hub, "CENTRE", PREFIX, 50).await;

    proxy.set(Direction::Down, Flow::Swallow);
    device.publish(broker.mqtt(), 51, 400).await;
    // The hub has stored some of them, and its answer was thrown away.
    until(PATIENCE, "an acknowledgement to be lost", || async {
        let (stored, lost) = (hub.info("CENTRE").await.state.messages, proxy.swallowed(Direction::Down));
        if stored > 50 && lost > 0 { Ok(()) } else { Err(format!("{stored} messages, {lost} bytes lost")) }
    })
    .await;
    hub.forget_ids("edge.probe").await;
    proxy.heal();
    device.publish(broker.mqtt(), 451, 50).await;
    assert_eq!(settle(&gateway, &broker, "s", &hub, "CENTRE").await.len(), 500);
}

#[tokio::test]
async fn a_half_open_link_is_noticed_and_left() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let proxy = Proxy::start(hub.address(0)).await;
    let gateway = gateway(&[proxy.url()]);
    let broker = gateway.start().await;
    let device = Publisher::new("d");
    device.publish(broker.mqtt(), 1, 50).await;
    dump_through(&hub, "CENTRE", PREFIX, 50).await;
    // Nothing arrives any more, in either direction, and nobody says so.
    proxy.set(Direction::Up, Flow::Hold);
    proxy.set(Direction::Down, Flow::Hold);
    let before = proxy.connections();
    device.publish(broker.mqtt(), 51, 50).await;
    until(PATIENCE, "the uplink to try another connection", || async {
        let now = proxy.connections();
        if now > before { Ok(()) } else { Err(format!("{now} connections")) }
    })
    .await;
    proxy.heal();
    assert_eq!(settle(&gateway, &broker, "s", &hub, "CENTRE").await.len(), 100);
}

#[tokio::test]
async fn a_link_that_is_cut_again_and_again_costs_nothing() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let proxy = Proxy::start(hub.address(0)).await;
    let gateway = gateway(&[proxy.url()]);
    let broker = gateway.start().await;
    let traffic = Traffic::start(broker.mqtt(), &["a"]);
    for _ in 0..10 {
        traffic.flow(60).await;
        proxy.cut();
        traffic.flow(20).await;
        proxy.heal();
    }
    let acknowledged = traffic.stop().await;
    let log = settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
}
