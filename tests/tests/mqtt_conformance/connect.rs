//! CONNECT, CONNACK, DISCONNECT, keep alive, take-over.

use std::time::{Duration, Instant};

use headwater_broker::mqtt::packet::*;

use crate::client::{Client, VERSIONS, disconnect, hello, publish, publish_at, resume, text};
use crate::target::Target;

async fn refused(target: &Target, connect: Connect) -> (ReasonCode, bool) {
    let mut client = Client::open(target, connect.version).await;
    client.send(Packet::Connect(Box::new(connect))).await;
    match client.recv().await {
        Packet::ConnAck(connack) => {
            assert_eq!(client.closed().await, None, "nothing follows a refusal");
            (connack.reason, connack.session_present)
        }
        other => panic!("expected CONNACK, got {other:?}"),
    }
}

/// [MQTT-3.2.0-1] [MQTT-3.1.4-5]: CONNACK comes first, and packets sent behind CONNECT without waiting are handled.
#[tokio::test]
async fn connack_comes_first_and_clients_need_not_wait_for_it() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::open(&target, version).await;
        let mut bytes = bytes::BytesMut::new();
        let filter = "connect/pipelined".parse().map_err(|_| String::new());
        let packet_id = PacketId::new(9).expect("from 1");
        let filters = vec![(filter, SubscriptionOptions::default())];
        for packet in [
            Packet::Connect(Box::new(hello(version, "pipelined"))),
            Packet::Subscribe(Subscribe { packet_id, subscription_id: None, user: Vec::new(), filters }),
            Packet::Publish(publish("connect/pipelined", "at once")),
            Packet::PingReq,
        ] {
            headwater_broker::mqtt::codec::encode(&packet, version, &mut bytes).expect("a valid packet");
        }
        client.send_bytes(&bytes).await;
        client.accepted().await;
        // In whatever order: SUBACK may wait for the disk.
        let mut seen = [false; 3];
        while seen != [true; 3] {
            match client.recv().await {
                Packet::SubAck(suback) if suback.packet_id == packet_id => seen[0] = true,
                Packet::Publish(message) if text(&message) == "at once" => seen[1] = true,
                Packet::PingResp => seen[2] = true,
                other => panic!("got {other:?}"),
            }
        }
    }
}

/// [MQTT-3.1.2-2] of both; 3.1.1 wants the return code 1 of a CONNACK that it can read.
#[tokio::test]
async fn unknown_protocol_versions_are_refused() {
    let target = Target::start().await;
    for connect in [
        &b"\0\x06MQIsdp\x04\x02\0\x3C\0\x01a"[..],
        b"\0\x04MQTT\x03\x02\0\x3C\0\x01a",
        b"\0\x04MQTT\x06\x02\0\x3C\0\0\x01a",
    ] {
        let mut client = Client::open(&target, Version::V311).await;
        client.send_bytes(&[&[0x10, u8::try_from(connect.len()).expect("short")], connect].concat()).await;
        // A server may answer in its own words (5.0) or close without a word; ours answers all in words that old
        // clients understand.
        match client.recv().await {
            Packet::ConnAck(connack) => assert_eq!(connack.reason, ReasonCode::UnsupportedProtocolVersion),
            other => panic!("expected CONNACK, got {other:?}"),
        }
        assert_eq!(client.closed().await, None);
    }
}

/// [MQTT-3.1.0-1]
#[tokio::test]
async fn a_first_packet_other_than_connect_ends_the_connection() {
    let target = Target::start().await;
    for bytes in [&b"\xC0\0"[..], b"\x30\x03\0\x01t", b"\xE0\0", b"\x40\x02\0\x01", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::open(&target, Version::V311).await;
        client.send_to_be_refused(bytes).await;
        assert_eq!(client.closed().await, None);
    }
}

/// [MQTT-3.1.0-2]
#[tokio::test]
async fn a_second_connect_ends_the_connection() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, hello(version, "twice")).await;
        client.send(Packet::Connect(Box::new(hello(version, "twice")))).await;
        let reason = client.closed().await;
        assert_eq!(reason, Some(ReasonCode::ProtocolError).filter(|_| version == Version::V5));
    }
}

/// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[tokio::test]
async fn a_client_without_an_id_gets_one() {
    let target = Target::start().await;
    let nameless = || Connect { client_id: String::new(), ..hello(Version::V5, "") };
    let one = Client::connect(&target, nameless()).await;
    let two = Client::connect(&target, nameless()).await;
    let ids = [&one, &two].map(|client| client.connack.properties.assigned_client_id.clone().expect("an id"));
    assert_ne!(ids[0], ids[1]);
    assert!(!ids[0].is_empty());
    let mut old = Client::connect(&target, Connect { client_id: String::new(), ..hello(Version::V311, "") }).await;
    old.settled().await;
    // The first was not thrown out by the second.
    let mut one = one;
    one.settled().await;
}

/// MQTT 3.1: `MQIsdp`. Its CONNACK has no session present, and what it sends again carries DUP outside of PUBLISH too.
#[tokio::test]
async fn a_client_of_mqtt_3_1_keeps_its_session_and_may_repeat_itself() {
    let target = Target::start().await;
    let mut old = Client::connect(&target, resume(Version::V31, "mqisdp")).await;
    // SUBSCRIBE with DUP to "mqisdp/a" at QoS 1, packet id 1.
    old.send_bytes(b"\x8A\x0D\0\x01\0\x08mqisdp/a\x01").await;
    match old.recv().await {
        Packet::SubAck(suback) => assert_eq!(suback.reasons, [ReasonCode::GrantedQoS1]),
        other => panic!("expected SUBACK, got {other:?}"),
    }
    drop(old);
    let mut publisher = Client::connect(&target, hello(Version::V5, "mqisdp-publisher")).await;
    publisher.publish(publish_at(QoS::AtLeastOnce, 1, "mqisdp/a", "meanwhile")).await;
    let mut old = Client::connect(&target, resume(Version::V31, "mqisdp")).await;
    assert!(!old.connack.session_present, "the byte is reserved in 3.1");
    match old.recv().await {
        Packet::Publish(message) => assert_eq!(text(&message), "meanwhile"),
        other => panic!("expected the message, got {other:?}"),
    }
    let nameless = Connect { client_id: String::new(), ..hello(Version::V31, "") };
    assert_eq!(refused(&target, nameless).await, (ReasonCode::ClientIdNotValid, false));
}

/// 3.1.1: [MQTT-3.1.3-8] [MQTT-3.2.2-4]
#[tokio::test]
async fn an_old_client_without_an_id_cannot_keep_a_session() {
    let target = Target::start().await;
    let connect = Connect { client_id: String::new(), clean_start: false, ..hello(Version::V311, "") };
    assert_eq!(refused(&target, connect).await, (ReasonCode::ClientIdNotValid, false));
}

/// [MQTT-3.1.4-3]: the older connection ends, with Session taken over on MQTT 5.
#[tokio::test]
async fn a_client_id_is_taken_over() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut old = Client::connect(&target, hello(version, "taken")).await;
        let mut new = Client::connect(&target, hello(version, "taken")).await;
        let reason = old.closed().await;
        assert_eq!(reason, Some(ReasonCode::SessionTakenOver).filter(|_| version == Version::V5));
        new.settled().await;
    }
}

/// A session goes over with its client id, subscriptions included [MQTT-3.1.2-5].
#[tokio::test]
async fn a_session_is_taken_over_with_its_subscriptions() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut old = Client::connect(&target, resume(version, "taken-session")).await;
        let topic = format!("connect/taken/{version:?}");
        old.subscribe(&topic, QoS::AtLeastOnce).await;
        let mut new = Client::connect(&target, resume(version, "taken-session")).await;
        assert!(new.connack.session_present);
        old.closed().await;
        new.publish(publish(&topic, "still mine")).await;
        assert_eq!(text(&new.message().await), "still mine");
        new.goodbye().await;
        Client::connect(&target, hello(version, "taken-session")).await.goodbye().await;
    }
}

/// [MQTT-3.1.2-22] (3.1.1: [MQTT-3.1.2-24]): after one and a half times the keep alive without a packet the
/// connection ends.
#[tokio::test]
async fn a_silent_client_is_disconnected() {
    let target = Target::start().await;
    for version in VERSIONS {
        let mut client = Client::connect(&target, Connect { keep_alive: 1, ..hello(version, "silent") }).await;
        let since = Instant::now();
        let reason = client.closed().await;
        assert_eq!(reason, Some(ReasonCode::KeepAliveTimeout).filter(|_| version == Version::V5));
        let silent = since.elapsed();
        assert!(silent > Duration::from_millis(1_400), "{silent:?}");
    }
}

/// [MQTT-3.12.4-1]: any packet counts as a sign of life.
#[tokio::test]
async fn a_client_that_pings_stays() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, Connect { keep_alive: 2, ..hello(Version::V311, "pinging") }).await;
    let since = Instant::now();
    // Time itself is what is tested here: two and a half keep alives.
    while since.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.settled().await;
    }
}

/// [MQTT-3.1.2-4] [MQTT-3.1.2-5] [MQTT-3.1.2-6] [MQTT-3.2.2-2] [MQTT-3.2.2-3]
#[tokio::test]
async fn session_present_tells_whether_there_was_a_session() {
    let target = Target::start().await;
    for version in VERSIONS {
        let present = async |connect: Connect| {
            let client = Client::connect(&target, connect).await;
            let present = client.connack.session_present;
            client.goodbye().await;
            present
        };
        // Whatever an earlier run left.
        present(hello(version, "present")).await;
        assert!(!present(resume(version, "present")).await, "there was none");
        assert!(present(resume(version, "present")).await, "there was one");
        assert!(!present(hello(version, "present")).await, "a clean start discards it");
        assert!(!present(resume(version, "present")).await, "and it is gone");
        present(hello(version, "present")).await;
    }
}

/// [MQTT-3.1.2-23] and 3.1.2.11.2: without a session expiry the session ends with the connection.
#[tokio::test]
async fn a_session_without_expiry_ends_with_its_connection() {
    let target = Target::start().await;
    let plain = || Connect { clean_start: false, ..hello(Version::V5, "brief") };
    Client::connect(&target, hello(Version::V5, "brief")).await.goodbye().await;
    Client::connect(&target, plain()).await.goodbye().await;
    let again = Client::connect(&target, plain()).await;
    assert!(!again.connack.session_present);
}

/// 3.14.2.2.2: DISCONNECT can change the session expiry, but not from nothing.
#[tokio::test]
async fn disconnect_can_shorten_a_session_but_not_make_one() {
    let target = Target::start().await;
    let with_expiry = |seconds| match disconnect(ReasonCode::Success) {
        Packet::Disconnect(packet) => Packet::Disconnect(Disconnect { session_expiry: Some(seconds), ..packet }),
        other => other,
    };
    let mut client = Client::connect(&target, resume(Version::V5, "shortened")).await;
    client.send(with_expiry(0)).await;
    assert_eq!(client.closed().await, None);
    let mut client = Client::connect(&target, Connect { clean_start: false, ..hello(Version::V5, "shortened") }).await;
    assert!(!client.connack.session_present);
    client.send(with_expiry(60)).await;
    assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
}

/// [MQTT-3.14.4-1] [MQTT-3.14.4-2]: the broker closes after DISCONNECT, and nothing behind it counts.
#[tokio::test]
async fn nothing_counts_behind_disconnect() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("connect/behind/{version:?}");
        let mut subscriber = Client::connect(&target, hello(version, "behind-sub")).await;
        subscriber.subscribe(&topic, QoS::AtMostOnce).await;
        let mut client = Client::connect(&target, hello(version, "behind")).await;
        let mut bytes = bytes::BytesMut::new();
        for packet in [disconnect(ReasonCode::Success), Packet::Publish(publish(&topic, "ghost"))] {
            headwater_broker::mqtt::codec::encode(&packet, version, &mut bytes).expect("a valid packet");
        }
        client.send_bytes(&bytes).await;
        assert_eq!(client.closed().await, None);
        subscriber.publish(publish(&topic, "last")).await;
        assert_eq!(subscriber.until("last").await, [""; 0]);
    }
}

/// [MQTT-4.12.0-1]: an authentication method that the broker does not know.
#[tokio::test]
async fn an_unknown_authentication_method_is_refused() {
    let target = Target::start().await;
    let mut connect = hello(Version::V5, "enhanced");
    connect.properties.authentication_method = Some("UNHEARD-OF".to_owned());
    assert_eq!(refused(&target, connect).await, (ReasonCode::BadAuthenticationMethod, false));
}

/// [MQTT-4.12.0-6]: AUTH on a connection that was made without a method.
#[tokio::test]
async fn auth_without_an_authentication_method_ends_the_connection() {
    let target = Target::start().await;
    let mut client = Client::connect(&target, hello(Version::V5, "auth")).await;
    let method = Some("UNHEARD-OF".to_owned());
    let reason = ReasonCode::ReAuthenticate;
    client.send(Packet::Auth(Auth { reason, method, data: None, reason_string: None, user: Vec::new() })).await;
    assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
}

/// 3.2.2.3: what CONNACK announces is what the broker does; nothing in it contradicts the specification.
#[tokio::test]
async fn connack_announces_what_the_broker_can() {
    let target = Target::start().await;
    let client = Client::connect(&target, hello(Version::V5, "announced")).await;
    let properties = &client.connack.properties;
    assert_eq!(properties.maximum_qos, None, "QoS 2 is there, and is said by leaving this out");
    assert_ne!(properties.retain_available, Some(false));
    assert_ne!(properties.wildcard_subscription_available, Some(false));
    assert_ne!(properties.subscription_id_available, Some(false));
    assert_eq!(properties.assigned_client_id, None, "the client came with an id");
    assert!(properties.maximum_packet_size.is_some(), "the broker has a limit, and says so");
    assert!(properties.receive_maximum.is_some(), "the broker has a limit, and says so");
}

/// [MQTT-3.1.3-5]
#[tokio::test]
async fn client_ids_of_letters_and_digits_are_taken() {
    let target = Target::start().await;
    let alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let ids = [&alphabet[..1], &alphabet[..23], &alphabet[20..43], &alphabet[39..]];
    for version in [Version::V31, Version::V311, Version::V5] {
        for id in ids {
            let mut client = Client::connect(&target, Connect { client_id: id.to_owned(), ..hello(version, "") }).await;
            assert_eq!(client.connack.properties.assigned_client_id, None);
            client.settled().await;
            client.goodbye().await;
        }
    }
}

/// [MQTT-3.1.3-7]: what was assigned is a client id like any other: its session is found by it.
#[tokio::test]
async fn an_assigned_client_id_is_a_client_id() {
    let target = Target::start().await;
    let connect = Connect { client_id: String::new(), ..resume(Version::V5, "") };
    let client = Client::connect(&target, connect).await;
    assert!(!client.connack.session_present);
    let client_id = client.connack.properties.assigned_client_id.clone().expect("an id");
    client.goodbye().await;
    let client = Client::connect(&target, Connect { client_id, ..resume(Version::V5, "") }).await;
    assert!(client.connack.session_present);
    assert_eq!(client.connack.properties.assigned_client_id, None);
}

/// 3.1.1: [MQTT-3.1.3-6]
#[tokio::test]
async fn clients_of_3_1_1_without_an_id_do_not_meet() {
    let target = Target::start().await;
    let nameless = || Connect { client_id: String::new(), ..hello(Version::V311, "") };
    let mut one = Client::connect(&target, nameless()).await;
    one.subscribe("connect/nameless", QoS::AtLeastOnce).await;
    let mut two = Client::connect(&target, nameless()).await;
    assert!(!two.connack.session_present);
    two.publish(publish("connect/nameless", "from two")).await;
    assert_eq!(text(&one.message().await), "from two");
    two.settled().await;
    assert_eq!(two.waiting(), 0, "it has no subscription of the other");
}

/// [MQTT-3.1.3-8] (3.1.1: [MQTT-3.1.3-9]): an id that a rule about ids cannot be asked with.
#[tokio::test]
async fn a_client_id_that_is_refused_is_told_so() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "topic readwrite #\npattern readwrite own/%c/#\n").expect("a file can be written");
    let target = Target::start_with(&format!("[auth]\nacl_file = {:?}\n", acl.display().to_string())).await;
    for version in VERSIONS {
        let connect = Connect { client_id: "a/+".to_owned(), ..hello(version, "") };
        assert_eq!(refused(&target, connect).await, (ReasonCode::ClientIdNotValid, false));
        Client::connect(&target, hello(version, "plain")).await.goodbye().await;
    }
}

/// [MQTT-3.1.4-6] (3.1.1: [MQTT-3.1.4-5])
#[tokio::test]
async fn nothing_counts_behind_a_refused_connect() {
    let target = Target::start().await;
    for version in VERSIONS {
        let topic = format!("connect/refused/{version:?}");
        let mut witness = Client::connect(&target, hello(version, "refused-witness")).await;
        witness.subscribe(&topic, QoS::AtMostOnce).await;
        let mut connect = hello(version, "refused");
        if version == Version::V5 {
            connect.properties.authentication_method = Some("UNHEARD-OF".to_owned());
        } else {
            (connect.client_id, connect.clean_start) = (String::new(), false);
        }
        let mut client = Client::open(&target, version).await;
        let mut bytes = bytes::BytesMut::new();
        for packet in [
            Packet::Connect(Box::new(connect)),
            Packet::Publish(publish(&topic, "ghost")),
            Packet::Publish(Publish { retain: true, ..publish(&topic, "ghost") }),
            Packet::PingReq,
        ] {
            headwater_broker::mqtt::codec::encode(&packet, version, &mut bytes).expect("a valid packet");
        }
        client.send_to_be_refused(&bytes).await;
        assert!(client.refused_or_closed().await.is_none_or(ReasonCode::is_failure));
        witness.publish(publish(&topic, "last")).await;
        assert_eq!(witness.until("last").await, [""; 0]);
    }
}

/// [MQTT-3.1.2-28] [MQTT-4.12.0-6]
#[tokio::test]
async fn connack_says_nothing_that_was_not_asked_for() {
    let target = Target::start().await;
    for asked in [None, Some(false)] {
        let mut connect = hello(Version::V5, "not-asked");
        connect.properties.request_response_information = asked;
        let client = Client::connect(&target, connect).await;
        let properties = &client.connack.properties;
        assert_eq!(properties.response_information, None);
        assert_eq!((&properties.authentication_method, &properties.authentication_data), (&None, &None));
        client.goodbye().await;
    }
}

/// [MQTT-3.1.3-1]: bytes written by hand, so that no encoder of ours can make the same mistake.
#[tokio::test]
async fn the_fields_of_connect_are_found_in_their_order() {
    let target = Target::start().await;
    for (version, head, properties) in [
        (Version::V311, &b"\0\x04MQTT\x04\xC6\0\x3C"[..], &b""[..]),
        // Receive Maximum 9; content type "t" of the will.
        (Version::V5, b"\0\x04MQTT\x05\xC6\0\x3C\x03\x21\0\x09", b"\x04\x03\0\x01t"),
    ] {
        let mut witness = Client::connect(&target, hello(version, "order-witness")).await;
        witness.subscribe("connect/topic", QoS::AtMostOnce).await;
        let body = [
            head,
            b"\0\x0Cconnect/name",
            properties,
            b"\0\x0Dconnect/topic\0\x0Dthe-testament\0\x04user\0\x08password".as_slice(),
        ];
        let body = body.concat();
        let mut client = Client::open(&target, version).await;
        client.send_bytes(&[&[0x10, u8::try_from(body.len()).expect("short")], &body[..]].concat()).await;
        client.accepted().await;
        client.vanish();
        let will = witness.message().await;
        assert_eq!(text(&will), "the-testament");
        let content_type = will.properties.and_then(|properties| properties.content_type);
        assert_eq!(content_type.as_deref(), Some("t").filter(|_| version == Version::V5));
    }
}
