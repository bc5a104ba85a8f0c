//! The harness against the real things it stands on, without Headwater: if these fail, no other result counts.

use headwater_tests::copy::{self, Acknowledged, assert_holds};
use headwater_tests::device::{Connect, Device, will};
use headwater_tests::hub::Hub;
use headwater_tests::mosquitto::{self, Mosquitto, Subscriber};
use headwater_tests::payload::Mark;
use headwater_tests::proxy::{Direction, Proxy};
use headwater_tests::publisher::{Publisher, record};
use serde_json::json;

#[tokio::test]
async fn a_hub_keeps_what_it_acknowledged_and_the_dump_shows_it() {
    let hub = Hub::single().await;
    hub.create_stream("S", &["edge.>"]).await;
    let jetstream = hub.jetstream();
    for number in 0..1_200u32 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Headwater-Seq", number.to_string());
        let ack = jetstream.publish_with_headers("edge.g.s.a", headers, number.to_string().into());
        let _ = ack.await.expect("a publish").await.expect("an acknowledgement");
    }
    let dumped = copy::dump_through(&hub, "S", "edge.g.s", 1_199).await;
    let payloads: Vec<String> =
        dumped.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect();
    assert_eq!(payloads, (0..1_200).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(dumped[7].seq(), 7);
    hub.delete_stream("S").await;
    assert!(hub.jetstream().get_stream("S").await.is_err());
}

#[tokio::test]
async fn cluster_nodes_come_and_go_and_the_stream_survives() {
    let mut hub = Hub::cluster().await;
    hub.create_stream("S", &["edge.>"]).await;
    let publish = async |hub: &Hub, number: u32| {
        let jetstream = hub.jetstream();
        headwater_tests::wait::until(headwater_tests::wait::PATIENCE, "an acknowledgement", || async {
            let ack = jetstream.publish("edge.g.s.a", number.to_string().into()).await.map_err(|e| e.to_string())?;
            ack.await.map(|_| ()).map_err(|e| e.to_string())
        })
        .await;
    };
    publish(&hub, 1).await;
    let leader = hub.leader("S").await;
    hub.kill(leader);
    publish(&hub, 2).await;
    assert_ne!(hub.leader("S").await, leader);
    hub.restart(leader).await;
    hub.current("S").await;
    hub.kill_all();
    hub.restart_all().await;
    hub.current("S").await;
    publish(&hub, 3).await;
    let payloads: Vec<Vec<u8>> = copy::dump(&hub, "S").await.into_iter().map(|message| message.payload).collect();
    // Messages without an id: an answer lost in an election may leave one twice, never none.
    let mut distinct = payloads.clone();
    distinct.dedup();
    assert_eq!(distinct, [b"1", b"2", b"3"]);
}

#[tokio::test]
async fn a_hub_behind_the_proxy_is_reached_through_it_only() {
    let hub = Hub::single().await;
    let proxy = Proxy::start(hub.address(0)).await;
    let client = async_nats::connect(proxy.url()).await.expect("a connection");
    client.flush().await.expect("a flush");
    assert!(proxy.forwarded(Direction::Up) > 0 && proxy.forwarded(Direction::Down) > 0);
    assert!(client.server_info().connect_urls.is_empty(), "{:?}", client.server_info());
}

#[tokio::test]
async fn devices_of_three_makes_publish_and_receive_at_the_reference_broker() {
    let broker = Mosquitto::start();
    let mut tool = Subscriber::start(broker.address(), &["-t", "tool/#", "-q", "1"]);
    let (mut paho, connected) = Device::connect(broker.address(), Connect::v5("paho")).await;
    assert_eq!(connected["session_present"], false);
    assert_eq!(paho.subscribe(&["plant/#", "wills/#"], 1).await, [1, 1]);

    mosquitto::publish_lines(broker.address(), "tool/lines", &["one".to_owned(), "two".to_owned()]);
    assert_eq!(tool.messages(2), ["tool/lines 1 0 one", "tool/lines 1 0 two"]);

    let published = Publisher::new("rum").publish(broker.address(), 1, 300).await;
    assert_eq!((published.acknowledged.len(), published.next), (300, 301));
    let mut acknowledged = Acknowledged::new();
    record(&mut acknowledged, &published);
    let received = paho.collect(300).await;
    assert_holds(&acknowledged, received.iter().map(|message| &message.payload));

    let properties = json!({ "UserProperty": [["a", "1"], ["a", "2"]], "ContentType": "text/plain" });
    assert_eq!(paho.publish_with("plant/x", "hi", 2, false, properties.clone()).await, 0);
    let message = paho.message().await;
    assert_eq!((message.text().as_str(), message.qos), ("hi", 1));
    assert_eq!(message.properties["UserProperty"], properties["UserProperty"]);
    assert_eq!(message.properties["ContentType"], "text/plain");

    let last = Connect { will: will("wills/w", b"gone", 1, false), ..Connect::v4("w") };
    let (mut dying, _) = Device::connect(broker.address(), last).await;
    dying.vanish().await;
    assert_eq!(paho.message().await.text(), "gone");
}

#[tokio::test]
async fn a_publisher_whose_broker_is_gone_says_so_and_keeps_what_was_acknowledged() {
    let broker = Mosquitto::start();
    let address = broker.address();
    let publisher = Publisher::new("rum");
    let first = publisher.publish(address, 1, 10).await;
    assert_eq!(first.acknowledged, (1..=10).collect::<Vec<_>>());
    drop(broker);
    let second = publisher.publish_until_cut(address, first.next, 10).await;
    assert!(second.failure.is_some());
    assert_eq!((second.acknowledged.len(), second.next), (0, 11));
    assert!(Mark::of(&Mark { publisher: "rum".into(), number: 1 }.payload()).is_ok());
}
