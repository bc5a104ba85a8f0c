//! Shared subscriptions (4.8.2).

use headwater_broker::mqtt::packet::*;

use crate::client::{Client, ack, hello, publish, resume, text};
use crate::target::Target;

async fn member(target: &Target, connect: Connect, filter: &str, qos: QoS) -> Client {
    let mut member = Client::connect(target, connect).await;
    member.subscribe(filter, qos).await;
    member
}

/// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[tokio::test]
async fn a_shared_filter_needs_a_name_and_a_filter() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "share-names")).await;
    for filter in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", "$share/g/a#"] {
        let answer = client.subscribe_with(filter, SubscriptionOptions::default(), None).await;
        assert_eq!(answer, ReasonCode::TopicFilterInvalid, "{filter}");
    }
    client.settled().await;
}

/// [MQTT-4.8.2-3]
#[tokio::test]
async fn each_member_gets_its_own_qos() {
    let target = Target::start().await;
    for granted in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let topic = format!("shared/qos/{granted:?}");
        // Whichever member gets a message, it comes at what that one was granted.
        let filter = format!("$share/g/{topic}");
        let mut one = member(&target, hello(Version::V5, "share-one"), &filter, granted).await;
        let mut publisher = Client::connect(&target, hello(Version::V5, "share-pub")).await;
        for sent in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish(Publish { qos: sent, ..publish(&topic, "x") }).await;
            assert_eq!(one.message().await.qos, sent.min(granted));
        }
        let mut two = member(&target, hello(Version::V5, "share-two"), &filter, QoS::AtMostOnce).await;
        one.goodbye().await;
        publisher.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, "x") }).await;
        assert_eq!(two.message().await.qos, QoS::AtMostOnce);
    }
}

/// [MQTT-4.8.2-4] [MQTT-4.8.2-5]: a QoS 2 message that was sent to a member is completed when it is back, and goes to
/// nobody when its session ends.
#[tokio::test]
async fn a_qos_2_message_in_flight_stays_with_its_member() {
    let target = Target::start().await;
    for back in [true, false] {
        let topic = format!("stored/share-{back}");
        let filter = format!("$share/g/{topic}");
        Client::connect(&target, hello(Version::V5, "share-first")).await.goodbye().await;
        let how = if back { resume(Version::V5, "share-first") } else { hello(Version::V5, "share-first") };
        let mut first = member(&target, how, &filter, QoS::ExactlyOnce).await;
        let mut publisher = Client::connect(&target, hello(Version::V5, "share-pub")).await;
        for payload in ["exact", "released"] {
            publisher.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, payload) }).await;
        }
        let ids = [first.unacknowledged().await, first.unacknowledged().await].map(|message| message.packet_id);
        let id = ids[1].expect("QoS 2");
        first.send(Packet::PubRec(ack(id))).await;
        assert!(matches!(first.recv().await, Packet::PubRel(_)));
        let mut second = member(&target, hello(Version::V5, "share-second"), &filter, QoS::ExactlyOnce).await;
        first.vanish();
        // The next member-wide message finds the second alone: the first is gone by then.
        let mut first = None;
        if back {
            let mut client = Client::connect(&target, resume(Version::V5, "share-first")).await;
            assert!(client.connack.session_present);
            let message = client.unacknowledged().await;
            assert_eq!((text(&message), message.packet_id, message.dup), ("exact", ids[0], true));
            match client.recv().await {
                Packet::PubRel(release) => assert_eq!(release.packet_id, id),
                other => panic!("expected PUBREL, got {other:?}"),
            }
            client.send(Packet::PubComp(ack(id))).await;
            client.acknowledge(&message).await;
            client.settled().await;
            client.unsubscribe(&filter).await;
            first = Some(client);
        } else {
            // A clean start: the session of before is over.
            Client::connect(&target, hello(Version::V5, "share-first")).await.goodbye().await;
        }
        publisher.publish(Publish { qos: QoS::ExactlyOnce, ..publish(&topic, "last") }).await;
        assert_eq!(second.until("last").await, [""; 0], "back: {back}");
        drop(first);
    }
}

/// [MQTT-4.8.2-6]: a member that refuses a message has it refused for all.
#[tokio::test]
async fn a_refused_message_goes_to_no_other_member() {
    let target = Target::start().await;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let topic = format!("stored/share-refused-{qos:?}");
        let filter = format!("$share/g/{topic}");
        let mut first = member(&target, hello(Version::V5, "share-refuses"), &filter, qos).await;
        let mut publisher = Client::connect(&target, hello(Version::V5, "share-pub")).await;
        publisher.publish(Publish { qos, ..publish(&topic, "no") }).await;
        let id = first.unacknowledged().await.packet_id.expect("QoS 1 or 2");
        let mut second = member(&target, hello(Version::V5, "share-other"), &filter, qos).await;
        let no = Ack { reason: ReasonCode::UnspecifiedError, ..ack(id) };
        first.send(if qos == QoS::AtLeastOnce { Packet::PubAck(no) } else { Packet::PubRec(no) }).await;
        first.settled().await;
        first.goodbye().await;
        publisher.publish(Publish { qos, ..publish(&topic, "last") }).await;
        assert_eq!(second.until("last").await, [""; 0]);
    }
}
