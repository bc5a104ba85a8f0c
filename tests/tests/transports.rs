//! Listeners beside plain TCP: WebSocket with and without TLS, Unix sockets, and connections through a proxy that says for whom.

use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use headwater_tests::certificates::Authority;
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::port::Port;
use headwater_tests::wait::{PATIENCE, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// CONNECT of MQTT 3.1.1 with the client id `c`, and DISCONNECT.
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c";
const CONNACK: &[u8] = b"\x20\x02\0\0";
const DISCONNECT: &[u8] = b"\xe0\0";

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: gw\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// A gateway with a second listener on this port; `keys` follow its `bind`.
fn with_listener(port: &Port, kind: &str, keys: &str) -> Gateway {
    let listener = format!("[[listener]]\nkind = \"{kind}\"\nbind = \"{}\"\n{keys}\n", port.address());
    Gateway::new("gw-1").stream("s", &["#"]).with(&listener)
}

/// Messages of every QoS and of many frames' size, both ways, in both versions.
async fn messages_travel(broker: SocketAddr, over: &Value) {
    for connect in [Connect::v4, Connect::v5] {
        let how = |id: &str| Connect { over: over.clone(), ..connect(id) };
        let (mut subscriber, _) = Device::connect(broker, how("subscriber")).await;
        assert_eq!(subscriber.subscribe(&["t/#"], 2).await, [2]);
        let (mut publisher, _) = Device::connect(broker, how("publisher")).await;
        let big = "x".repeat(300_000);
        for qos in 0..=2 {
            assert_eq!(publisher.publish(&format!("t/{qos}"), &big, qos, false).await, 0);
            let message = subscriber.message().await;
            assert_eq!((message.topic, message.qos, message.payload.len()), (format!("t/{qos}"), qos, big.len()));
        }
        publisher.disconnect().await;
        subscriber.disconnect().await;
    }
}

async fn refused(broker: &Broker, reason: &str, count: f64) {
    until(PATIENCE, "the refusals to be counted", || async {
        let refused = broker.metrics().await.value("headwater_connections_refused_total", &[("reason", reason)]);
        if refused >= count { Ok(()) } else { Err(format!("{reason}: {refused}")) }
    })
    .await;
}

#[tokio::test]
async fn messages_travel_over_websockets() {
    let port = Port::lease();
    let gateway = with_listener(&port, "ws", "");
    let mut broker = gateway.start().await;
    messages_travel(port.address(), &json!({ "transport": "websockets", "path": "/mqtt" })).await;
    assert!(broker.stop().success());
}

#[tokio::test]
async fn messages_travel_over_secure_websockets() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let port = Port::lease();
    let keys = format!(
        "path = \"/\"\n[listener.tls]\ncert_file = {:?}\nkey_file = {:?}",
        own.cert.display().to_string(),
        own.key.display().to_string()
    );
    let gateway = with_listener(&port, "wss", &keys);
    let mut broker = gateway.start().await;
    let ca = authority.file().display().to_string();
    messages_travel(port.address(), &json!({ "transport": "websockets", "path": "/", "ca": ca })).await;
    assert!(broker.stop().success());
}

/// A frame of a client, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).expect("short");
    [&[first, 0x80 | len, 0, 0, 0, 0], payload].concat()
}

async fn raw(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    socket.write_all(bytes).await.expect("it reads");
    socket
}

async fn expect(socket: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut got)).await;
    read.expect("it answers").unwrap_or_else(|e| panic!("{e} after {got:?}"));
    assert_eq!(got, expected);
}

/// Everything until the broker closes.
async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    // A reset after the last byte is an end, too.
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut got)).await.expect("it closes");
    got
}

async fn opened(address: SocketAddr) -> TcpStream {
    let mut socket = raw(address, REQUEST.as_bytes()).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.expect("it answers"));
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    socket
}

/// [MQTT-6.0.0-1] [MQTT-6.0.0-2] [MQTT-6.0.0-3] [MQTT-6.0.0-4]
#[tokio::test]
async fn a_websocket_client_is_held_to_its_protocol() {
    let port = Port::lease();
    let gateway = with_listener(&port, "ws", "");
    let broker = gateway.start().await;
    // A packet in many frames, and two packets in one.
    let mut socket = opened(port.address()).await;
    for byte in CONNECT {
        socket.write_all(&frame(0x82, &[*byte])).await.expect("it reads");
    }
    expect(&mut socket, &[&[0x82, 4], CONNACK].concat()).await;
    socket.write_all(&frame(0x89, b"ping")).await.expect("it reads");
    expect(&mut socket, b"\x8a\x04ping").await;
    let pings = frame(0x82, &[0xc0, 0, 0xc0, 0]);
    socket.write_all(&pings).await.expect("it reads");
    expect(&mut socket, b"\x82\x04\xd0\0\xd0\0").await;
    socket.write_all(&frame(0x82, DISCONNECT)).await.expect("it reads");
    assert_eq!(rest(&mut socket).await, [0x88, 2, 0x03, 0xe8], "closed normally");

    // Text after a proper begin, and in its place.
    let mut socket = opened(port.address()).await;
    socket.write_all(&frame(0x82, CONNECT)).await.expect("it reads");
    expect(&mut socket, &[&[0x82, 4], CONNACK].concat()).await;
    socket.write_all(&frame(0x81, b"text")).await.expect("it reads");
    assert_eq!(rest(&mut socket).await, [0x88, 2, 0x03, 0xeb], "unsupported data");
    let mut socket = opened(port.address()).await;
    socket.write_all(&frame(0x81, CONNECT)).await.expect("it reads");
    assert_eq!(rest(&mut socket).await, [0x88, 2, 0x03, 0xeb]);
    refused(&broker, "websocket", 1.0).await;

    for (from, to, status) in [("Protocol: mqtt", "Protocol: chat", "400"), ("/mqtt", "/", "404")] {
        let mut socket = raw(port.address(), REQUEST.replace(from, to).as_bytes()).await;
        let answer = String::from_utf8_lossy(&rest(&mut socket).await).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    // MQTT without a WebSocket, and a WebSocket where there is none.
    assert!(rest(&mut raw(port.address(), CONNECT).await).await.starts_with(b"HTTP/1.1 400 "));
    assert!(rest(&mut raw(broker.mqtt(), REQUEST.as_bytes()).await).await.is_empty());
    refused(&broker, "websocket", 4.0).await;
}

#[tokio::test]
async fn messages_travel_over_a_unix_socket_whose_file_is_looked_after() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let path = gateway.dir().join("mqtt.sock");
    let file = path.display().to_string();
    let listener = format!("[[listener]]\nbind = \"unix:{file}\"\nsocket_mode = \"0600\"\n");
    let gateway = gateway.with(&listener);
    let broker = gateway.start().await;
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    messages_travel(broker.mqtt(), &json!({ "transport": "unix", "host": file })).await;
    // Another one may not have it.
    let other = Gateway::new("gw-2").stream("s", &["#"]).with(&listener);
    let finished = other.command(&["run"]);
    assert!(finished.code == Some(1) && finished.stderr.contains("another process listens on it"), "{finished:?}");
    // What a kill leaves is replaced, and an end in order leaves nothing.
    broker.kill();
    assert!(std::fs::metadata(&path).expect("it was left").file_type().is_socket());
    let mut broker = gateway.start().await;
    messages_travel(broker.mqtt(), &json!({ "transport": "unix", "host": file })).await;
    assert!(broker.stop().success());
    assert!(!path.exists());
    std::fs::write(&path, "precious").expect("it can be written");
    let finished = gateway.command(&["run"]);
    assert!(finished.code == Some(1) && finished.stderr.contains("a file that is no socket"), "{finished:?}");
    assert_eq!(std::fs::read(&path).expect("it is there"), b"precious");
}

#[tokio::test]
async fn behind_a_proxy_limits_and_logs_are_about_the_client() {
    let port = Port::lease();
    let mqtt = "anonymous = true\nproxy_protocol = true\n[mqtt]\nmax_connections_per_address = 1\n";
    let gateway = with_listener(&port, "mqtt", mqtt);
    let mut broker = gateway.start().await;
    let first = b"PROXY TCP4 198.51.100.1 192.0.2.9 40001 1883\r\n";
    let second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x02\xc0\x00\x02\x09\x9c\x42\x07\x5b";
    // Both come from here, and each is another client.
    let mut one = raw(port.address(), &[&first[..], CONNECT].concat()).await;
    expect(&mut one, CONNACK).await;
    let mut two = raw(port.address(), &second[..20]).await;
    two.write_all(&[&second[20..], &CONNECT[..14], b"d"].concat()).await.expect("it reads");
    expect(&mut two, CONNACK).await;
    let again = b"PROXY TCP4 198.51.100.1 192.0.2.9 40002 1883\r\n";
    assert!(rest(&mut raw(port.address(), &[&again[..], CONNECT].concat()).await).await.is_empty());
    refused(&broker, "address_full", 1.0).await;
    let clients = broker.page("/api/v1/clients").await.json().to_string();
    for peer in ["198.51.100.1:40001", "198.51.100.2:40002"] {
        assert!(clients.contains(peer), "{clients}");
    }
    assert!(broker.process().output().contains("peer=198.51.100.1:40002"));
    // Without a header nobody gets in.
    for bytes in [CONNECT, b"PROXY TCP9 a b c d\r\n"] {
        assert!(rest(&mut raw(port.address(), bytes).await).await.is_empty());
    }
    refused(&broker, "proxy_header", 2.0).await;
    assert_eq!(broker.process().output().matches("proxy_protocol has no proper header").count(), 1);
    broker.process().signal(Signal::TERM);
}
