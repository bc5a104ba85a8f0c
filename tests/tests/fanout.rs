//! Fan-out with back-pressure: nothing of QoS 1 is dropped however fast it comes, and each publisher's order holds.
//!
//! `HEADWATER_FANOUT_MSGS` sets the number of messages per publisher.

use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::Gateway;
use headwater_tests::mosquitto::{Subscriber, publish_lines};

/// Four publishers as fast as they can to four subscribers with QoS 1. Queues hold 500 messages: most come from the log.
#[tokio::test]
async fn four_publishers_to_four_subscribers_arrive_complete_and_in_order() {
    let each: usize = std::env::var("HEADWATER_FANOUT_MSGS").map_or(10_000, |n| n.parse().expect("a number"));
    let gateway = Gateway::new("gw-1").stream("s", &["fan/#"]);
    let broker = gateway.start().await;
    let address = broker.mqtt();
    let names = ["0", "1", "2", "3"];
    let mut subscribers = names.map(|name| Subscriber::start(address, &["-i", name, "-q", "1", "-t", "fan/#"]));
    std::thread::scope(|scope| {
        for name in names {
            scope.spawn(move || {
                let lines: Vec<String> = (0..each).map(|n| format!("{name}.{n}")).collect();
                publish_lines(address, &format!("fan/{name}"), &lines);
            });
        }
    });
    for subscriber in &mut subscribers {
        let messages = subscriber.messages(names.len() * each);
        for name in names {
            let prefix = format!("fan/{name} 1 0 {name}.");
            let of_one =
                messages.iter().filter_map(|m| m.strip_prefix(&prefix)).map(|n| n.parse::<usize>().expect("a number"));
            assert!(of_one.eq(0..each), "publisher {name}: not complete, in order and once");
        }
        assert_eq!(messages.len(), names.len() * each);
    }
    let dropped = broker.metrics().await;
    for reason in ["unstored", "queue_full"] {
        let count = dropped.value("headwater_messages_dropped_total", &[("reason", reason)]);
        assert!(count < 0.5, "{reason}: {count}");
    }
}

/// 4.6: order holds across connections of a kept session, which is away while most of it is published.
#[tokio::test]
async fn order_holds_across_the_connections_of_a_kept_session() {
    let gateway = Gateway::new("gw-1").stream("s", &["fan/#"]);
    let broker = gateway.start().await;
    // What this test has not seen is not acknowledged.
    let how = || Connect { manual_ack: true, ..Connect::v5("kept").persistent() };
    let mut device = Device::connect(broker.mqtt(), how()).await.0;
    device.subscribe(&["fan/#"], 1).await;
    let mut publisher = Device::connect(broker.mqtt(), Connect::v5("p")).await.0;
    let mut seen: Vec<usize> = Vec::new();
    for round in 0..4 {
        let lines: Vec<Vec<u8>> = (0..250).map(|n| format!("{}", round * 250 + n).into_bytes()).collect();
        publisher.publish_all("fan/x", &lines, 1).await;
        while seen.last().is_none_or(|last| *last < round * 250 + 100) {
            seen.push(number(&mut device).await);
        }
        // In the middle of it.
        device.vanish().await;
        device = Device::connect(broker.mqtt(), how()).await.0;
    }
    while seen.last() != Some(&999) {
        seen.push(number(&mut device).await);
    }
    // What was not acknowledged before a connection was lost comes again, in its order (4.6): runs that begin again, without a hole.
    assert!(seen.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{seen:?}");
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.into_iter().eq(0..1000));
}

async fn number(device: &mut Device) -> usize {
    let message = device.message().await;
    device.acknowledge(&message).await;
    message.text().parse().expect("a number")
}
