//! G1 for sessions: what was acknowledged to a publisher reaches every session that wants it, whatever is killed when.

use std::collections::BTreeSet;
use std::time::Duration;

use headwater_broker::mqtt::packet::*;
use headwater_tests::chance::Chance;

use crate::client::{Client, VERSIONS, ack, hello, publish, resume, text};
use crate::target::Target;

const ROUNDS: u32 = 15;

/// Publishes numbers from `next` on until the connection ends, each after the acknowledgement of the one before; those
/// acknowledged go to `acknowledged`.
async fn publish_numbers(
    target: &Target,
    version: Version,
    topic: &str,
    next: &mut u32,
    acknowledged: &mut BTreeSet<u32>,
) {
    let Some(mut client) = Client::try_connect(target, hello(version, "chaos-pub")).await else { return };
    loop {
        let number = *next;
        *next += 1;
        let qos = if number.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let id = client.fresh_id();
        let message = Publish { qos, packet_id: Some(id), ..publish(topic, &number.to_string()) };
        client.send_or_lose(Packet::Publish(message)).await;
        match client.recv_or_end().await {
            Some(Packet::PubAck(_)) => {}
            Some(Packet::PubRec(_)) => {
                acknowledged.insert(number);
                client.send_or_lose(Packet::PubRel(ack(id))).await;
                match client.recv_or_end().await {
                    Some(Packet::PubComp(_)) => {}
                    None => return,
                    other => panic!("expected PUBCOMP, got {other:?}"),
                }
            }
            None => return,
            other => panic!("expected an acknowledgement, got {other:?}"),
        }
        acknowledged.insert(number);
    }
}

/// Takes what comes until the connection ends or `last` came; now and then it leaves in the middle and comes back.
async fn take(target: &Target, version: Version, seen: &mut BTreeSet<u32>, last: Option<&str>, chance: &mut Chance) {
    loop {
        let Some(mut client) = Client::try_connect(target, resume(version, "chaos")).await else { return };
        assert!(client.connack.session_present, "the session was forgotten");
        for _ in 0..chance.below(60) {
            match client.recv_or_end().await {
                Some(Packet::Publish(message)) => {
                    if last == Some(text(&message)) {
                        return;
                    }
                    if let Ok(number) = text(&message).parse() {
                        seen.insert(number);
                    }
                    if let Some(id) = message.packet_id {
                        let answer = ack(id);
                        let exactly_once = message.qos == QoS::ExactlyOnce;
                        client
                            .send_or_lose(if exactly_once { Packet::PubRec(answer) } else { Packet::PubAck(answer) })
                            .await;
                    }
                }
                Some(Packet::PubRel(release)) => client.send_or_lose(Packet::PubComp(ack(release.packet_id))).await,
                Some(other) => panic!("got {other:?}"),
                None => return,
            }
        }
        client.vanish();
    }
}

#[tokio::test]
async fn every_acknowledged_message_reaches_its_session_across_kills() {
    let mut target = Target::start().await;
    let mut chance = Chance::new();
    for (version, topic) in VERSIONS.into_iter().zip(["stored/chaos", "chaos/internal"]) {
        let mut client = Client::connect(&target, resume(version, "chaos")).await;
        client.subscribe(topic, QoS::ExactlyOnce).await;
        client.goodbye().await;
        let (mut next, mut acknowledged, mut seen) = (0, BTreeSet::new(), BTreeSet::new());
        for _ in 0..ROUNDS {
            let moment = chance.moment(Duration::from_millis(400));
            tokio::join!(
                publish_numbers(&target, version, topic, &mut next, &mut acknowledged),
                take(&target, version, &mut seen, None, &mut chance),
                async {
                    tokio::time::sleep(moment).await;
                    target.kill();
                }
            );
            target.restart().await;
        }
        assert!(acknowledged.len() > 50, "only {} were acknowledged: nothing was tested", acknowledged.len());
        let mut publisher = Client::connect(&target, hello(version, "chaos-pub")).await;
        publisher.publish(Publish { qos: QoS::AtLeastOnce, ..publish(topic, "last") }).await;
        take(&target, version, &mut seen, Some("last"), &mut chance).await;
        let missing: Vec<_> = acknowledged.difference(&seen).collect();
        assert!(missing.is_empty(), "{version:?}: {} of {} never came: {missing:?}", missing.len(), acknowledged.len());
        let invented: Vec<_> = seen.iter().filter(|number| **number >= next).collect();
        assert!(invented.is_empty(), "{invented:?}");
        Client::connect(&target, hello(version, "chaos")).await.goodbye().await;
    }
}
