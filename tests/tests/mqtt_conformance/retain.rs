//! Retained messages.

use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, hello, publish, resume, text};
use crate::target::Target;

fn retained(topic: &str, payload: &str) -> Publish {
    Publish { retain: true, qos: QoS::AtLeastOnce, ..publish(topic, payload) }
}

/// The messages that a new subscription brings, as payload and retain flag.
async fn brought(target: &Target, version: Version, filter: &str) -> Vec<(String, bool)> {
    let id = format!("brought-{}", filter.replace('/', "-"));
    let mut client = Client::connect(target, hello(version, &id)).await;
    client.subscribe(filter, QoS::ExactlyOnce).await;
    client.subscribe("retain/last", QoS::AtMostOnce).await;
    client.publish(publish("retain/last", "last")).await;
    let mut seen = Vec::new();
    loop {
        let message = client.message().await;
        if text(&message) == "last" {
            return seen;
        }
        seen.push((text(&message).to_owned(), message.retain));
    }
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT-3.3.1-8] [MQTT-3.3.1-9]: the last retained message of a topic goes
/// to new subscribers, with the flag set; an empty one removes it.
#[tokio::test]
async fn the_last_retained_message_goes_to_new_subscribers() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("retain/{version:?}");
        let mut client = Client::connect(&target, hello(version, "retain")).await;
        client.publish(retained(&topic, "first")).await;
        client.publish(Publish { qos: QoS::AtLeastOnce, ..publish(&topic, "not retained") }).await;
        assert_eq!(brought(&target, version, &topic).await, [("first".to_owned(), true)]);
        client.publish(retained(&topic, "second")).await;
        assert_eq!(brought(&target, version, &topic).await, [("second".to_owned(), true)]);
        client.publish(retained(&topic, "")).await;
        assert_eq!(brought(&target, version, &topic).await, []);
        // QoS 0 is retained as well.
        client.publish(Publish { qos: QoS::AtMostOnce, ..retained(&topic, "third") }).await;
        // A PINGRESP may overtake it; an acknowledgement of a later message of the same client does not.
        client.publish(Publish { qos: QoS::AtLeastOnce, ..publish("retain/behind", "acknowledged") }).await;
        assert_eq!(brought(&target, version, &topic).await, [("third".to_owned(), true)]);
        client.publish(retained(&topic, "")).await;
    }
}

/// [MQTT-3.3.1-12] (3.1.1: [MQTT-3.3.1-9]) [MQTT-3.3.1-13]: to those who had subscribed before, the flag is clear,
/// unless they want it as published.
#[tokio::test]
async fn a_live_message_has_no_retain_flag_unless_asked_for() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "as-published")).await;
    let keep = SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::default() };
    assert_eq!(client.subscribe_with("retain/as/published", keep, None).await, ReasonCode::Success);
    let mut other = Client::connect(&target, hello(Version::V5, "as-cleared")).await;
    other.subscribe("retain/as/published", QoS::AtMostOnce).await;
    for retain in [true, false] {
        client.publish(Publish { retain, ..publish("retain/as/published", "x") }).await;
        assert_eq!(client.message().await.retain, retain);
        assert!(!other.message().await.retain);
    }
    client.publish(retained("retain/as/published", "")).await;
}

/// [MQTT-3.3.1-10] [MQTT-3.3.1-11] [MQTT-3.8.4-4]: Retain Handling.
#[tokio::test]
async fn retain_handling_decides_what_a_subscription_brings() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "handling")).await;
    client.publish(retained("retain/handling", "kept")).await;
    client.subscribe("retain/last", QoS::AtMostOnce).await;
    let mut brings = async |retain_handling| {
        let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() };
        assert_eq!(client.subscribe_with("retain/handling", options, None).await, ReasonCode::Success);
        client.publish(publish("retain/last", "last")).await;
        client.until("last").await.len()
    };
    assert_eq!(brings(RetainHandling::DoNotSend).await, 0);
    assert_eq!(brings(RetainHandling::SendIfNew).await, 0, "the subscription exists");
    assert_eq!(brings(RetainHandling::Send).await, 1);
    assert_eq!(brings(RetainHandling::Send).await, 1, "each time");
    client.unsubscribe("retain/handling").await;
    let mut brings = async |retain_handling| {
        let options = SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() };
        assert_eq!(client.subscribe_with("retain/handling", options, None).await, ReasonCode::Success);
        client.publish(publish("retain/last", "last")).await;
        client.until("last").await.len()
    };
    assert_eq!(brings(RetainHandling::SendIfNew).await, 1, "now it is new");
    client.publish(retained("retain/handling", "")).await;
}

/// [MQTT-4.7.1-1] [MQTT-4.7.2-1]: a wildcard brings every retained message that it matches.
#[tokio::test]
async fn wildcards_bring_all_that_match() {
    let target = Target::start().await;
    for version in VERSIONS {
        let root = format!("retain/wild/{version:?}");
        let topics = ["", "/a", "/b", "/a/x", "/a/y", "/ab/x", "/c/"];
        let mut client = Client::connect(&target, hello(version, "retain-wild")).await;
        for topic in topics {
            client.publish(retained(&format!("{root}{topic}"), &format!("at {topic}"))).await;
        }
        for (filter, expected) in [
            ("/#", &["at ", "at /a", "at /a/x", "at /a/y", "at /ab/x", "at /b", "at /c/"][..]),
            ("/+", &["at /a", "at /b"]),
            ("/+/x", &["at /a/x", "at /ab/x"]),
            ("/a/#", &["at /a", "at /a/x", "at /a/y"]),
            ("/+/", &["at /c/"]),
            ("/d/#", &[]),
        ] {
            let mut seen = brought(&target, version, &format!("{root}{filter}")).await;
            seen.sort();
            let expected: Vec<_> = expected.iter().map(|payload| ((*payload).to_owned(), true)).collect();
            assert_eq!(seen, expected, "{filter}");
        }
        for topic in topics {
            client.publish(retained(&format!("{root}{topic}"), "")).await;
        }
    }
}

/// [MQTT-3.8.4-8]: retained messages come at the lower QoS too.
#[tokio::test]
async fn a_retained_message_comes_at_the_lower_qos() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("retain/qos/{version:?}");
        let mut client = Client::connect(&target, hello(version, "retain-qos")).await;
        client.publish(Publish { qos: QoS::ExactlyOnce, ..retained(&topic, "x") }).await;
        for granted in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut subscriber = Client::connect(&target, hello(version, "retain-qos-sub")).await;
            subscriber.subscribe(&topic, granted).await;
            assert_eq!(subscriber.message().await.qos, granted);
        }
        client.publish(retained(&topic, "")).await;
    }
}

/// 3.3.2.3.3 and G1: a retained message keeps its properties, and an acknowledged one survives a kill.
#[tokio::test]
async fn retained_messages_survive_a_kill_with_their_properties() {
    let mut target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "retain-kill")).await;
    let properties = PublishProperties {
        content_type: Some("text/plain".to_owned()),
        user: vec![("k".to_owned(), "v".to_owned())],
        ..PublishProperties::default()
    };
    let message = Publish { properties: Some(Box::new(properties.clone())), ..retained("retain/kill/a", "kept") };
    client.publish(message).await;
    client.publish(retained("retain/kill/b", "removed")).await;
    client.publish(retained("retain/kill/b", "")).await;
    target.kill_and_restart().await;
    assert_eq!(brought(&target, Version::V311, "retain/kill/#").await, [("kept".to_owned(), true)]);
    let mut client = Client::connect(&target, hello(Version::V5, "retain-kill")).await;
    client.subscribe("retain/kill/a", QoS::AtMostOnce).await;
    assert_eq!(client.message().await.properties.as_deref(), Some(&properties));
}

/// [MQTT-3.3.2-5]: a retained message that has expired is not sent any more.
#[tokio::test]
async fn a_retained_message_expires() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "retain-expiry")).await;
    let properties = PublishProperties { message_expiry: Some(2), ..PublishProperties::default() };
    client.publish(Publish { properties: Some(Box::new(properties)), ..retained("retain/expiry", "x") }).await;
    let since = std::time::Instant::now();
    while !brought(&target, Version::V5, "retain/expiry").await.is_empty() {
        assert!(since.elapsed() < headwater_tests::wait::PATIENCE, "it never expires");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(
        since.elapsed() > std::time::Duration::from_millis(900),
        "never earlier than it said: {:?}",
        since.elapsed()
    );
}

/// [MQTT-3.3.2-6]: a retained message says what is left of its expiry.
#[tokio::test]
async fn the_time_a_message_was_retained_is_taken_off_its_expiry() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "retain-left")).await;
    let properties = PublishProperties { message_expiry: Some(1_000), ..PublishProperties::default() };
    client.publish(Publish { properties: Some(Box::new(properties)), ..retained("retain/left", "x") }).await;
    // Time itself is what is tested here.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    client.subscribe("retain/left", QoS::AtMostOnce).await;
    let left = client.message().await.properties.and_then(|properties| properties.message_expiry);
    assert!(left.is_some_and(|seconds| (900..=999).contains(&seconds)), "{left:?}");
    client.publish(retained("retain/left", "")).await;
}

/// A subscription that brings more than fits a queue or a window brings all of it, once.
#[tokio::test]
async fn many_retained_messages_come_at_the_pace_of_the_client() {
    let target = Target::start_with("[mqtt]\nmax_queued_msgs = 10\n").await;
    for version in VERSIONS {
        let mut publisher = Client::connect(&target, hello(version, "many-pub")).await;
        for number in 0..500 {
            let message = publish(&format!("retain/many/{version:?}/{number:03}"), &number.to_string());
            publisher.publish(Publish { retain: true, qos: QoS::AtLeastOnce, ..message }).await;
        }
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut connect = hello(version, "many");
            if version == Version::V5 {
                connect.properties.receive_maximum = std::num::NonZeroU16::new(3);
            }
            let mut client = Client::connect(&target, connect).await;
            client.subscribe(&format!("retain/many/{version:?}/+"), qos).await;
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..500 {
                let message = client.message().await;
                assert!(message.retain);
                assert!(seen.insert(text(&message).to_owned()), "{message:?} came twice");
            }
            client.settled().await;
            assert_eq!(client.waiting(), 0);
        }
    }
}

/// [MQTT-3.3.1-6] (3.1.1: [MQTT-3.3.1-10]): the message that removes is a message.
#[tokio::test]
async fn an_empty_retained_message_reaches_those_who_subscribed() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("retain/removed/{version:?}");
        let mut client = Client::connect(&target, hello(version, "removed")).await;
        client.subscribe(&topic, QoS::AtLeastOnce).await;
        for payload in ["kept", "", ""] {
            client.publish(retained(&topic, payload)).await;
            let message = client.message().await;
            assert_eq!((text(&message), message.qos, message.retain), (payload, QoS::AtLeastOnce, false));
        }
        assert_eq!(brought(&target, version, &topic).await, []);
    }
}

/// 3.1.1: [MQTT-3.3.1-7]
#[tokio::test]
async fn a_retained_message_at_qos_0_replaces_what_was_retained() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("retain/replaced/{version:?}");
        let mut client = Client::connect(&target, hello(version, "replaced")).await;
        client.publish(Publish { qos: QoS::ExactlyOnce, ..retained(&topic, "old") }).await;
        client.publish(Publish { qos: QoS::AtMostOnce, ..retained(&topic, "new") }).await;
        // An acknowledgement of a later message of the same client does not overtake it.
        client.publish(Publish { qos: QoS::AtLeastOnce, ..publish("retain/behind", "x") }).await;
        assert_eq!(brought(&target, version, &topic).await, [("new".to_owned(), true)]);
        client.publish(retained(&topic, "")).await;
    }
}

/// 3.1.1: [MQTT-3.1.2-7]: they are no part of the session of who published them.
#[tokio::test]
async fn retained_messages_stay_when_a_session_ends() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("retain/stay/{version:?}");
        let mut client = Client::connect(&target, resume(version, "stay")).await;
        client.publish(retained(&topic, "kept")).await;
        client.goodbye().await;
        // A clean start, which leaves no session behind.
        Client::connect(&target, hello(version, "stay")).await.goodbye().await;
        assert_eq!(brought(&target, version, &topic).await, [("kept".to_owned(), true)]);
    }
}
