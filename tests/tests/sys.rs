//! `$SYS/broker/`: Mosquitto's names, for those who ask.

use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};

async fn connect(broker: &Broker, how: Connect) -> Device {
    Device::connect(broker.mqtt(), how).await.0
}

#[tokio::test]
async fn figures_come_at_once_and_when_they_change_and_are_stored_nowhere() {
    let gateway = Gateway::new("gw-1").stream("all", &["#"]).with("[mqtt]\nsys_interval = \"1s\"\n");
    let broker = gateway.start().await;
    let mut watcher = connect(&broker, Connect::v5("watcher")).await;
    watcher.subscribe(&["$SYS/broker/clients/+", "$SYS/broker/version"], 1).await;
    let mut all = connect(&broker, Connect::v4("all")).await;
    all.subscribe(&["#", "+/broker/uptime"], 1).await;
    let mut version = String::new();
    let mut connected = String::new();
    while connected != "1" && connected != "2" || version.is_empty() {
        let message = watcher.message().await;
        // What there is when a client subscribes comes as retained messages do.
        match message.topic.as_str() {
            "$SYS/broker/version" => {
                assert!(message.retain);
                version = message.text();
            }
            "$SYS/broker/clients/connected" => connected = message.text(),
            _ => {}
        }
    }
    assert!(version.starts_with("headwater "), "{version}");
    // A change is published.
    let mut third = connect(&broker, Connect::v5("third")).await;
    loop {
        let message = watcher.message().await;
        if message.topic == "$SYS/broker/clients/connected" && message.text() == "3" {
            assert!(!message.retain);
            break;
        }
    }
    // Nobody may speak for the broker.
    assert_eq!(third.publish("$SYS/broker/version", "mine", 1, true).await, 0x87);
    third.publish("last", "last", 1, false).await;
    // No wildcard in the first level sees it, and no stream has it.
    assert_eq!(all.message().await.topic, "last");
    let stored = broker.messages("all", 1, 100).await.messages;
    assert_eq!(format!("{stored:?}").matches("SYS").count(), 0, "{stored:?}");
    let mut late = connect(&broker, Connect::v5("late")).await;
    late.subscribe(&["$SYS/broker/#"], 0).await;
    let mut names = Vec::new();
    while !names.iter().any(|n: &String| n == "$SYS/broker/load/bytes/sent/15min") {
        let message = late.message().await;
        assert!(message.topic != "$SYS/broker/version" || message.text() == version);
        // A change may be published before what there was at the SUBSCRIBE.
        if message.retain {
            names.push(message.topic);
        }
    }
    for name in ["uptime", "clients/total", "clients/maximum", "messages/sent", "retained messages/count"] {
        assert!(names.iter().any(|n| n == &format!("$SYS/broker/{name}")), "{name}: {names:?}");
    }
}

#[tokio::test]
async fn an_interval_of_0_means_that_there_are_no_figures() {
    let gateway = Gateway::new("gw-1").stream("all", &["#"]).with("[mqtt]\nsys_interval = \"0s\"\n");
    let broker = gateway.start().await;
    let mut watcher = connect(&broker, Connect::v5("watcher")).await;
    watcher.subscribe(&["$SYS/#", "last"], 1).await;
    watcher.publish("last", "last", 1, false).await;
    assert_eq!(watcher.message().await.topic, "last");
}
