//! The main job: devices publish over MQTT, and a real JetStream cluster gets an exact copy.

use std::collections::BTreeMap;

use headwater_tests::copy::{Acknowledged, assert_holds, dump, dump_by_nats_py, dump_through, log_of, settle};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::Gateway;
use headwater_tests::hub::{Hub, mirror_stream};
use headwater_tests::mosquitto;
use headwater_tests::payload::Mark;
use headwater_tests::publisher::{Publisher, record};
use headwater_tests::wait::{PATIENCE, until};
use serde_json::json;

fn payloads(publisher: &str, count: u64) -> Vec<Vec<u8>> {
    (1..=count).map(|number| Mark { publisher: publisher.to_owned(), number }.payload()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_gets_an_exact_copy_of_what_devices_of_three_makes_published() {
    let hub = Hub::cluster().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway =
        Gateway::new("gw-1").stream("telemetry", &["plant/#"]).uplink(&hub.urls(), &[("telemetry", "CENTRE")]);
    let broker = gateway.start().await;
    let address = broker.mqtt();

    let lines: Vec<String> =
        payloads("tool", 200).into_iter().map(|p| String::from_utf8(p).expect("payloads are text")).collect();
    let tool = tokio::task::spawn_blocking(move || mosquitto::publish_lines(address, "plant/tool", &lines));
    let paho = tokio::spawn(async move {
        let (mut device, _) = Device::connect(address, Connect::v5("paho")).await;
        device.publish_all("plant/paho/temperature", &payloads("paho", 200), 1).await;
    });
    let many =
        Publisher { topics: (0..7).map(|i| format!("plant/line-{i}/speed")).collect(), ..Publisher::new("rum-1") };
    let exactly_once = Publisher { qos: 2, window: 10, ..Publisher::new("rum-2") };
    let (first, second) = tokio::join!(many.publish(address, 1, 1_000), exactly_once.publish(address, 1, 300));
    tool.await.expect("mosquitto_pub is done");
    paho.await.expect("paho is done");

    let log = settle(&gateway, &broker, "telemetry", &hub, "CENTRE").await;
    let mut acknowledged: Acknowledged = BTreeMap::new();
    record(&mut acknowledged, &first);
    record(&mut acknowledged, &second);
    acknowledged.insert("tool".to_owned(), (1..=200).collect());
    acknowledged.insert("paho".to_owned(), (1..=200).collect());
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
    // Another client of the hub sees the same.
    assert!(dump_by_nats_py(&hub, "CENTRE") == dump(&hub, "CENTRE").await, "nats-py and async-nats differ");
    // Nobody sent anything twice, and nothing else was sent.
    assert_eq!(log.len(), 1_700);
    assert_eq!(log.first().map(|message| message.seq), Some(1));
}

#[tokio::test]
async fn topics_and_properties_arrive_as_subjects_and_headers() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = Gateway::new("gw-1").stream("all", &["#"]).uplink(&hub.urls(), &[("all", "CENTRE")]);
    let broker = gateway.start().await;
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("d")).await;
    // As nats-server maps them; a blank, which a subject cannot hold, is percent-encoded.
    let topics =
        [("a/b", "a.b"), ("/a", "/.a"), ("a/", "a./"), ("a//b", "a./.b"), ("a.b", "a//b"), ("a b/c", "a%20b.c")];
    for (topic, _) in topics {
        assert_eq!(device.publish(topic, "x", 1, false).await, 0);
    }
    let properties = json!({
        "UserProperty": [["site", "north"], ["Nats-Msg-Id", "mine"]], "ContentType": "application/json",
        "ResponseTopic": "answers/here", "CorrelationData": "00ff",
    });
    assert_eq!(device.publish_with("last", "{}", 1, false, properties).await, 0);
    let copy = dump_through(&hub, "CENTRE", "edge.gw-1.all", 7).await;
    let subjects: Vec<&str> = copy.iter().map(|message| message.subject.as_str()).collect();
    let expected: Vec<String> =
        topics.iter().map(|(_, subject)| *subject).chain(["last"]).map(|s| format!("edge.gw-1.all.{s}")).collect();
    assert_eq!(subjects, expected);
    let last = &copy[6];
    assert_eq!((last.header("site"), last.header("Content-Type")), ("north", "application/json"));
    assert_eq!(last.header("Mqtt-Response-Topic"), "answers/here");
    assert_eq!(last.header("Mqtt-Correlation-Data"), "AP8=");
    // A device cannot set a header that the hub acts on.
    assert_eq!(last.header("Mqtt-User-Nats-Msg-Id"), "mine");
    assert!(last.header("Nats-Msg-Id").starts_with("gw-1/all/7@"));
}

#[tokio::test]
async fn the_uplink_makes_the_stream_that_it_is_told_to_make() {
    let hub = Hub::single().await;
    let gateway = Gateway::new("gw-1").stream("telemetry", &["plant/#"]).with(&format!(
        "[[uplink]]\nname = \"hub\"\nkind = \"jetstream\"\nservers = {:?}\n\
         [[uplink.mirror]]\nstream = \"telemetry\"\ninto = \"CENTRE\"\ncreate = {{ replicas = 1, max_bytes = \"8MiB\" }}\n",
        hub.urls()
    ));
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 300).await;
    settle(&gateway, &broker, "telemetry", &hub, "CENTRE").await;
    let config = hub.info("CENTRE").await.config;
    assert!(config.allow_atomic_publish);
    assert_eq!((config.num_replicas, config.max_bytes), (1, 8 << 20));
}

#[tokio::test]
async fn gateways_that_share_a_hub_stream_do_not_disturb_each_other() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let make = |id: &str| Gateway::new(id).stream("s", &["plant/#"]).uplink(&hub.urls(), &[("s", "CENTRE")]);
    let (one, two) = (make("gw-1"), make("gw-2"));
    let (broker_one, broker_two) = (one.start().await, two.start().await);
    let device = Publisher::new("d");
    tokio::join!(device.publish(broker_one.mqtt(), 1, 1_000), device.publish(broker_two.mqtt(), 1, 1_000));
    settle(&one, &broker_one, "s", &hub, "CENTRE").await;
    settle(&two, &broker_two, "s", &hub, "CENTRE").await;
}

#[tokio::test]
async fn a_hub_without_atomic_batches_gets_the_same_copy_and_status_says_what_is_weaker() {
    let hub = Hub::single().await;
    let mut config = mirror_stream("CENTRE", &["edge.>"], 1);
    config.allow_atomic_publish = false;
    hub.create(config).await;
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]).uplink(&hub.urls(), &[("s", "CENTRE")]);
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 500).await;
    settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    let uplinks = broker.page("/api/v1/uplinks").await.json();
    assert_eq!(uplinks[0]["mirrors"][0]["promise"], "exact (single)");
}

#[tokio::test]
async fn a_message_that_the_hub_finds_too_large_is_set_aside_and_the_stream_goes_on() {
    let hub = Hub::single().await;
    let mut config = mirror_stream("CENTRE", &["edge.>"], 1);
    config.max_message_size = 10_000;
    hub.create(config).await;
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]).uplink(&hub.urls(), &[("s", "CENTRE")]);
    let broker = gateway.start().await;
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v4("d")).await;
    for payload in [vec![b'a'; 10], vec![b'b'; 20_000], vec![b'c'; 10]] {
        assert_eq!(device.publish("plant/d", payload, 1, false).await, 0);
    }
    let copy = dump_through(&hub, "CENTRE", "edge.gw-1.s", 3).await;
    let arrived: Vec<u64> = copy.iter().filter(|message| !message.is_gap()).map(|message| message.seq()).collect();
    assert_eq!(arrived, [1, 3]);
    assert_eq!(log_of(&broker, "s").await.len(), 3);
    until(PATIENCE, "the set aside message to be counted", || async {
        let uplinks = broker.page("/api/v1/uplinks").await.json();
        let aside = uplinks[0]["mirrors"][0]["set_aside"].as_u64();
        if aside == Some(1) { Ok(()) } else { Err(uplinks.to_string()) }
    })
    .await;
}
