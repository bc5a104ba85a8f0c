//! What every ordinary MQTT client expects of a broker, seen through paho-mqtt and Mosquitto's tools.

use headwater_tests::device::{Connect, Device, Received, will};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::mosquitto::{self, Subscriber};
use serde_json::json;

fn gateway() -> Gateway {
    Gateway::new("gw-1").stream("all", &["#"])
}

async fn connect(broker: &Broker, how: Connect) -> Device {
    Device::connect(broker.mqtt(), how).await.0
}

fn texts(messages: &[Received]) -> Vec<String> {
    messages.iter().map(Received::text).collect()
}

/// Both versions of the protocol.
fn versions(id: &str) -> [Connect; 2] {
    [Connect::v4(&format!("{id}-4")), Connect::v5(&format!("{id}-5"))]
}

#[tokio::test]
async fn a_message_arrives_with_the_lower_of_both_qualities_of_service() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for how in versions("sub") {
        let mut publisher = connect(&broker, Connect { id: format!("pub-{}", how.version), ..how.clone() }).await;
        let mut subscriber = connect(&broker, how).await;
        for granted in 0..=2u8 {
            let filter = format!("q{granted}/+");
            assert_eq!(subscriber.subscribe(&[&filter], granted).await, [u64::from(granted)]);
            for published in 0..=2u8 {
                let topic = format!("q{granted}/{published}");
                assert_eq!(publisher.publish(&topic, "x", published, false).await, 0);
                let message = subscriber.message().await;
                assert_eq!((message.topic, message.qos), (topic, granted.min(published)));
                assert!(!message.retain && !message.dup);
            }
        }
    }
}

#[tokio::test]
async fn messages_of_a_publisher_arrive_in_order_and_once() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for qos in [1, 2] {
        let mut subscriber = connect(&broker, Connect::v5("sub")).await;
        let mut publisher = connect(&broker, Connect::v4("pub")).await;
        subscriber.subscribe(&["many/#", "end"], qos).await;
        let payloads: Vec<Vec<u8>> = (0..1_000).map(|number| format!("{number}").into_bytes()).collect();
        publisher.publish_all("many/x", &payloads, qos).await;
        publisher.publish("end", "end", qos, false).await;
        let received = subscriber.collect(1_001).await;
        assert!(received.iter().zip(&payloads).all(|(message, payload)| message.payload == *payload));
        assert_eq!(received[1_000].topic, "end");
    }
}

#[tokio::test]
async fn a_large_message_passes_unchanged() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let mut subscriber = connect(&broker, Connect::v5("sub")).await;
    subscriber.subscribe(&["large"], 1).await;
    let mut publisher = connect(&broker, Connect::v4("pub")).await;
    let payload: Vec<u8> = (0..300_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    publisher.publish("large", &payload, 1, false).await;
    assert!(subscriber.message().await.payload == payload);
}

#[tokio::test]
async fn a_retained_message_meets_every_new_subscriber_until_it_is_removed() {
    let gateway = gateway();
    let mut broker = gateway.start().await;
    let mut publisher = connect(&broker, Connect::v4("pub")).await;
    publisher.publish("state/a", "old", 1, true).await;
    publisher.publish("state/a", "new", 1, true).await;
    publisher.publish("state/b", "gone", 1, true).await;
    publisher.publish("state/b", "", 1, true).await;
    publisher.publish("state/c", "other", 0, true).await;
    // Acknowledged, so everything before it on this connection was taken too.
    publisher.publish("mark", "", 1, false).await;
    for run in 0..3 {
        let mut subscriber = connect(&broker, Connect::v5("sub")).await;
        subscriber.subscribe(&["state/#"], 1).await;
        let mut found = subscriber.collect(2).await;
        found.sort_by(|a, b| a.topic.cmp(&b.topic));
        assert_eq!(texts(&found), ["new", "other"], "run {run}");
        assert!(found.iter().all(|message| message.retain));
        let mut publisher = connect(&broker, Connect::v4("pub")).await;
        // To a subscriber that is there already, it is an ordinary message.
        publisher.publish("state/d", "live", 1, true).await;
        let live = subscriber.message().await;
        assert_eq!((live.text().as_str(), live.retain), ("live", false));
        publisher.publish("state/d", "", 1, true).await;
        // Retained messages survive an orderly end, and a kill.
        if run == 0 {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        broker = gateway.start().await;
    }
}

#[tokio::test]
async fn a_last_will_is_published_when_a_device_vanishes_and_only_then() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for how in versions("dev") {
        let mut watcher = connect(&broker, Connect::v5("watch")).await;
        watcher.subscribe(&["wills/#"], 2).await;
        let (topic, version) = (format!("wills/{}", how.id), how.version);
        let with_will = Connect { will: will(&topic, b"gone", 1, true), ..how };
        let mut polite = connect(&broker, with_will.clone()).await;
        polite.disconnect().await;
        let mut lost = connect(&broker, with_will.clone()).await;
        lost.vanish().await;
        let message = watcher.message().await;
        assert_eq!((message.topic.as_str(), message.text().as_str(), message.qos), (topic.as_str(), "gone", 1));
        // The polite device had left no will: the next message is the one of a third.
        if version == 5 {
            let mut third = connect(&broker, with_will).await;
            third.disconnect_with(json!({ "code": 4 })).await;
            assert_eq!(watcher.message().await.text(), "gone");
        }
        let mut last = connect(&broker, Connect::v4("last")).await;
        last.publish("wills/end", "end", 1, false).await;
        assert_eq!(watcher.message().await.text(), "end");
        // The will was to be retained.
        let mut late = connect(&broker, Connect::v4("late")).await;
        late.subscribe(&[&topic], 1).await;
        assert!(late.message().await.retain);
        last.publish(&topic, "", 1, true).await;
    }
}

#[tokio::test]
async fn a_silent_device_is_dropped_after_one_and_a_half_keep_alives() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let mut watcher = connect(&broker, Connect::v5("watch")).await;
    watcher.subscribe(&["wills/#"], 1).await;
    for how in versions("dev") {
        let device =
            connect(&broker, Connect { keep_alive: 1, will: will("wills/x", b"silent", 1, false), ..how }).await;
        device.freeze();
        assert_eq!(watcher.message().await.text(), "silent");
    }
    // A device that only pings stays: its connection still works after several keep alives of the others.
    let mut quiet = connect(&broker, Connect { keep_alive: 1, ..Connect::v4("quiet") }).await;
    let frozen = Connect { keep_alive: 4, will: will("wills/x", b"later", 1, false), ..Connect::v4("other") };
    let device = connect(&broker, frozen).await;
    device.freeze();
    assert_eq!(watcher.message().await.text(), "later");
    assert_eq!(quiet.publish("still/here", "x", 1, false).await, 0);
}

/// Messages for a session that is away arrive in order when it is back, whatever happened to the broker meanwhile.
async fn offline_messages_survive(how: Connect, end: impl AsyncFn(Broker)) {
    let gateway = gateway();
    let broker = gateway.start().await;
    let (mut subscriber, connected) = Device::connect(broker.mqtt(), how.clone()).await;
    assert_eq!(connected["session_present"], false);
    assert_eq!(subscriber.subscribe(&["away/#"], 2).await, [2]);
    let mut publisher = connect(&broker, Connect::v5("pub")).await;
    publisher.publish("away/0", "before", 1, false).await;
    assert_eq!(subscriber.message().await.text(), "before");
    // paho-mqtt shows a message before it acknowledges it; a round trip behind it shows that it has.
    subscriber.subscribe(&["away/#"], 2).await;
    subscriber.disconnect().await;
    for number in 0..300u16 {
        let qos = if number % 2 == 0 { 1 } else { 2 };
        publisher.publish("away/1", format!("{number}"), qos, false).await;
    }
    end(broker).await;
    let broker = gateway.start().await;
    let mut publisher = connect(&broker, Connect::v5("pub")).await;
    for number in 300..400 {
        publisher.publish("away/2", format!("{number}"), 1, false).await;
    }
    let (mut subscriber, connected) = Device::connect(broker.mqtt(), how).await;
    assert_eq!(connected["session_present"], true);
    // In order for each quality of service: paho-mqtt shows a QoS 2 message only once it is released.
    let received = subscriber.collect(400).await;
    let of = |qos: u8| texts(&received.iter().filter(|message| message.qos == qos).cloned().collect::<Vec<_>>());
    let expected = |odd: u32| (0..300u32).filter(move |number| number % 2 == odd).map(|number| number.to_string());
    assert_eq!(of(2), expected(1).collect::<Vec<_>>());
    assert_eq!(of(1), expected(0).chain((300..400).map(|number| number.to_string())).collect::<Vec<_>>());
    publisher.publish("away/3", "live", 1, false).await;
    assert_eq!(subscriber.message().await.text(), "live");
}

#[tokio::test]
async fn offline_messages_survive_a_restart_of_the_broker() {
    for how in versions("sub") {
        offline_messages_survive(how.persistent(), async |mut broker| assert!(broker.stop().success())).await;
    }
}

#[tokio::test]
async fn offline_messages_survive_a_kill_of_the_broker() {
    for how in versions("sub") {
        offline_messages_survive(how.persistent(), async |broker| broker.kill()).await;
    }
}

#[tokio::test]
async fn offline_messages_survive_where_no_configured_stream_captures_them() {
    let gateway = Gateway::new("gw-1").stream("telemetry", &["plant/#"]);
    let broker = gateway.start().await;
    let how = Connect::v5("sub").persistent();
    let mut subscriber = connect(&broker, how.clone()).await;
    subscriber.subscribe(&["commands/#"], 1).await;
    subscriber.disconnect().await;
    let mut publisher = connect(&broker, Connect::v5("pub")).await;
    for number in 0..20 {
        publisher.publish("commands/x", format!("{number}"), 1, false).await;
    }
    broker.kill();
    let broker = gateway.start().await;
    let mut subscriber = connect(&broker, how).await;
    assert_eq!(texts(&subscriber.collect(20).await), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_a_subscriber_did_not_acknowledge_is_sent_again_as_a_duplicate() {
    let gateway = gateway();
    let mut broker = gateway.start().await;
    for how in versions("sub") {
        let how = Connect { manual_ack: true, ..how.persistent() };
        let mut subscriber = connect(&broker, how.clone()).await;
        subscriber.subscribe(&["work/#"], 1).await;
        let mut publisher = connect(&broker, Connect::v4("pub")).await;
        for text in ["one", "two", "three"] {
            publisher.publish("work/x", text, 1, false).await;
        }
        let first = subscriber.collect(3).await;
        assert!(first.iter().all(|message| !message.dup));
        subscriber.acknowledge(&first[0]).await;
        // MQTT answers PUBACK with nothing; a round trip on the same connection shows that it has arrived.
        subscriber.subscribe(&["other"], 0).await;
        subscriber.vanish().await;
        let mut subscriber = connect(&broker, how.clone()).await;
        let again = subscriber.collect(2).await;
        assert_eq!(texts(&again), ["two", "three"]);
        assert!(again.iter().all(|message| message.dup));
        drop(subscriber);
        broker.kill();
        broker = gateway.start().await;
        let mut subscriber = connect(&broker, how).await;
        assert_eq!(texts(&subscriber.collect(2).await), ["two", "three"]);
    }
}

#[tokio::test]
async fn a_clean_start_forgets_the_session() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for how in versions("sub") {
        let mut subscriber = connect(&broker, how.clone().persistent()).await;
        subscriber.subscribe(&["x"], 1).await;
        subscriber.disconnect().await;
        let mut publisher = connect(&broker, Connect::v4("pub")).await;
        publisher.publish("x", "old", 1, false).await;
        let (mut subscriber, connected) = Device::connect(broker.mqtt(), how.clone()).await;
        assert_eq!(connected["session_present"], false);
        subscriber.subscribe(&["y"], 1).await;
        publisher.publish("x", "not subscribed", 1, false).await;
        publisher.publish("y", "new", 1, false).await;
        assert_eq!(subscriber.message().await.text(), "new");
        subscriber.disconnect().await;
        let (_, connected) = Device::connect(broker.mqtt(), how.persistent()).await;
        assert_eq!(connected["session_present"], false);
    }
}

#[tokio::test]
async fn a_client_id_is_taken_over_by_its_newest_connection() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for how in versions("same") {
        let mut first = connect(&broker, how.clone().persistent()).await;
        first.subscribe(&["to/same"], 1).await;
        let (mut second, connected) = Device::connect(broker.mqtt(), how.clone().persistent()).await;
        assert_eq!(connected["session_present"], true);
        let end = first.event("disconnected").await;
        if how.version == 5 {
            // Session taken over.
            assert_eq!(end["code"], 0x8e);
        }
        let mut publisher = connect(&broker, Connect::v4("pub")).await;
        publisher.publish("to/same", "x", 1, false).await;
        assert_eq!(second.message().await.text(), "x");
        second.disconnect().await;
    }
}

#[tokio::test]
async fn overlapping_subscriptions_deliver_at_the_highest_quality_of_service() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for how in versions("sub") {
        let mut subscriber = connect(&broker, how).await;
        subscriber.subscribe(&["a/+"], 0).await;
        subscriber.subscribe(&["a/#"], 2).await;
        subscriber.subscribe(&["+/b"], 1).await;
        // A client shows a message of QoS 2 when it is released, and one of lower QoS that comes behind it at once.
        subscriber.subscribe(&["end"], 2).await;
        let mut publisher = connect(&broker, Connect::v5("pub")).await;
        publisher.publish("a/b", "x", 2, false).await;
        publisher.publish("end", "end", 2, false).await;
        let mut copies = vec![subscriber.message().await];
        while copies.last().is_some_and(|message| message.topic != "end") {
            copies.push(subscriber.message().await);
        }
        copies.pop();
        // One for all of them, or one for each: the specification leaves that open.
        assert!((1..=3).contains(&copies.len()), "{copies:?}");
        assert_eq!(copies.iter().map(|message| message.qos).max(), Some(2));
    }
}

#[tokio::test]
async fn an_unsubscribed_filter_delivers_nothing_more() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for how in versions("sub") {
        let mut subscriber = connect(&broker, how).await;
        subscriber.subscribe(&["a", "b"], 1).await;
        subscriber.unsubscribe(&["a", "never"]).await;
        let mut publisher = connect(&broker, Connect::v4("pub")).await;
        publisher.publish("a", "no", 1, false).await;
        publisher.publish("b", "yes", 1, false).await;
        assert_eq!(subscriber.message().await.text(), "yes");
    }
}

#[tokio::test]
async fn properties_of_a_message_reach_live_and_offline_subscribers() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let how = Connect::v5("away").persistent();
    let mut away = connect(&broker, how.clone()).await;
    away.subscribe(&["p"], 1).await;
    away.disconnect().await;
    let mut live = connect(&broker, Connect::v5("live")).await;
    live.subscribe_with(json!({ "filters": ["p"], "qos": 1, "properties": { "SubscriptionIdentifier": 7 } })).await;
    let mut old = connect(&broker, Connect::v4("old")).await;
    old.subscribe(&["p"], 1).await;
    let properties = json!({
        "UserProperty": [["a", "1"], ["b", "2"], ["a", "3"]], "ContentType": "text/plain", "ResponseTopic": "r/t",
        "CorrelationData": "00ff10", "PayloadFormatIndicator": 1, "MessageExpiryInterval": 3600,
    });
    let mut publisher = connect(&broker, Connect::v5("pub")).await;
    publisher.publish_with("p", "text", 1, false, properties.clone()).await;
    let message = live.message().await;
    assert_eq!(message.properties["SubscriptionIdentifier"], json!([7]));
    assert_eq!(old.message().await.text(), "text");
    broker.kill();
    let broker = gateway.start().await;
    let mut away = connect(&broker, how).await;
    for message in [message, away.message().await] {
        for name in ["UserProperty", "ContentType", "ResponseTopic", "CorrelationData", "PayloadFormatIndicator"] {
            assert_eq!(message.properties[name], properties[name], "{name}");
        }
        let left = message.properties["MessageExpiryInterval"].as_u64();
        assert!(left.is_some_and(|left| (3_500..=3_600).contains(&left)), "{left:?}");
    }
}

#[tokio::test]
async fn the_command_line_tools_of_mosquitto_work_against_it() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let mut four = Subscriber::start(broker.mqtt(), &["-V", "mqttv311", "-t", "tool/#", "-q", "2"]);
    let mut five = Subscriber::start(broker.mqtt(), &["-V", "mqttv5", "-t", "tool/+", "-q", "1"]);
    for (version, qos) in [("mqttv311", "0"), ("mqttv311", "1"), ("mqttv5", "2")] {
        let arguments = ["-V", version, "-t", "tool/x", "-q", qos, "-m", "hello"];
        let _ = mosquitto::publish(broker.mqtt(), &arguments).success();
    }
    assert_eq!(four.messages(3), ["tool/x 0 0 hello", "tool/x 1 0 hello", "tool/x 2 0 hello"]);
    assert_eq!(five.messages(3), ["tool/x 0 0 hello", "tool/x 1 0 hello", "tool/x 1 0 hello"]);
}
