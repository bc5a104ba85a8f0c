//! Listeners that speak TLS, towards Mosquitto's tools: certificates of both sides, names from them, revocation, reload.

use std::net::SocketAddr;
use std::path::Path;

use headwater_tests::certificates::{Authority, Files};
use headwater_tests::gateway::{Broker, Gateway, headwater};
use headwater_tests::mosquitto::{self, Subscriber};
use headwater_tests::port::Port;
use headwater_tests::process::Finished;
use headwater_tests::wait::{PATIENCE, until};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A gateway whose only listener speaks TLS, with further keys for `[listener.tls]`.
fn gateway(name: &str, own: &Files, keys: &str) -> Gateway {
    let tls = format!("cert_file = {:?}\nkey_file = {:?}\n{keys}", text(&own.cert), text(&own.key));
    Gateway::new(name).stream("s", &["#"]).tls(&tls)
}

/// A message `1` to `a/b`, unless `more` begins with another message or topic.
fn publish(broker: &Broker, authority: &Authority, client: Option<&Files>, more: &[&str]) -> Finished {
    let mut arguments = vec!["-q".to_owned(), "1".to_owned(), "--cafile".to_owned(), text(&authority.file())];
    for (flag, value) in [("-t", "a/b"), ("-m", "1")] {
        if more.first() != Some(&flag) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    if let Some(files) = client {
        arguments.extend(["--cert".to_owned(), text(&files.cert), "--key".to_owned(), text(&files.key)]);
    }
    arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    mosquitto::publish(broker.mqtt(), &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test]
async fn messages_of_any_size_travel_over_tls_both_ways() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let gateway = gateway("gw-1", &own, "");
    let mut broker = gateway.start().await;
    let ca = text(&authority.file());
    let mut subscriber = Subscriber::start(broker.mqtt(), &["-t", "a/b", "-q", "1", "--cafile", &ca]);
    for version in ["tlsv1.2", "tlsv1.3"] {
        assert_eq!(publish(&broker, &authority, None, &["--tls-version", version]).code, Some(0));
    }
    let big = "x".repeat(100_000);
    assert_eq!(publish(&broker, &authority, None, &["-m", &big, "-V", "5"]).code, Some(0));
    let got = subscriber.messages(3);
    assert_eq!(got[0], "a/b 1 0 1");
    assert_eq!(got[2].len(), "a/b 1 0 ".len() + 100_000);
    // Who does not speak it is refused, and does no harm.
    assert_ne!(mosquitto::publish(broker.mqtt(), &["-t", "a", "-m", "plain"]).code, Some(0));
    until(PATIENCE, "the refusal to be counted", || async {
        let refused = broker.metrics().await.value("headwater_connections_refused_total", &[("reason", "tls")]);
        if refused >= 1.0 { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
    assert!(broker.stop().success());
}

/// A proxy in front of the broker that says for whom it connects, in version 2 of the PROXY protocol with an extension, and passes on the
/// rest as it comes. Its clients are told apart by port numbers from 40,001 on.
async fn in_front_of(broker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        for port in 40_001_u16.. {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut server = TcpStream::connect(broker).await.expect("the broker listens");
            let addresses = [198, 51, 100, 7, 192, 0, 2, 9];
            let ports = [port.to_be_bytes(), 8883_u16.to_be_bytes()].concat();
            // The name that the client asked for (PP2_TYPE_AUTHORITY), as a proxy that looks into TLS would say it.
            let extension = b"\x02\0\x02gw";
            let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11"[..], &addresses, &ports, extension].concat();
            server.write_all(&header).await.expect("the broker reads");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_tls_begins_after_the_header() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let port = Port::lease();
    let listener = format!(
        "[[listener]]\nkind = \"mqtts\"\nbind = \"{}\"\nanonymous = true\nproxy_protocol = true\n\
         [listener.tls]\ncert_file = {:?}\nkey_file = {:?}\n",
        port.address(),
        text(&own.cert),
        text(&own.key)
    );
    let gateway = gateway("gw-1", &own, "").with(&listener);
    let broker = gateway.start().await;
    // The tools block this thread; what stands between runs on others.
    let proxy = in_front_of(port.address()).await;
    let ca = text(&authority.file());
    let mut subscriber = Subscriber::start(proxy, &["-i", "behind", "-t", "a/b", "-q", "1", "--cafile", &ca]);
    let big = "x".repeat(100_000);
    assert_eq!(mosquitto::publish(proxy, &["-t", "a/b", "-m", &big, "-q", "1", "--cafile", &ca]).code, Some(0));
    assert_eq!(subscriber.messages(1)[0].len(), "a/b 1 0 ".len() + big.len());
    let clients = broker.page("/api/v1/clients").await.json().to_string();
    assert!(clients.contains("198.51.100.7:40001"), "{clients}");
    // Without a header, TLS is none; and a header is none where TLS is expected.
    for (address, reason) in [(port.address(), "proxy_header"), (in_front_of(broker.mqtt()).await, "tls")] {
        assert_ne!(mosquitto::publish(address, &["-t", "a", "-m", "x", "--cafile", &ca]).code, Some(0));
        until(PATIENCE, "the refusal to be counted", || async {
            let count = broker.metrics().await.value("headwater_connections_refused_total", &[("reason", reason)]);
            if count >= 1.0 { Ok(()) } else { Err(format!("{reason}: {count}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_shows_who_it_is_by_its_certificate() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let (pump, revoked) = (authority.issue("pump", "pump"), authority.issue("revoked", "pump"));
    let stranger_dir = tempfile::tempdir().expect("a temporary directory");
    let stranger = Authority::new(stranger_dir.path()).issue("stranger", "pump");
    let acl = dir.path().join("acl");
    std::fs::write(&acl, "user pump\ntopic write a/b\nuser pump.example\ntopic write a/b\n")
        .expect("it can be written");
    for from in ["cn", "san"] {
        let keys = format!(
            "ca_file = {:?}\ncrl_file = {:?}\nclient_certificates = \"required\"\nuser_name_from = \"{from}\"\n\n[auth]\nacl_file = {:?}\n",
            text(&authority.file()),
            text(&authority.revoke(&[&revoked])),
            text(&acl)
        );
        let gateway = gateway("gw-1", &own, &keys);
        let broker = gateway.start().await;
        assert_eq!(publish(&broker, &authority, Some(&pump), &[]).code, Some(0));
        let stored = broker.messages("s", 1, 10).await.messages.len();
        assert_eq!(stored, 1, "the rights are those of the name in the certificate ({from})");
        for refused in [None, Some(&revoked), Some(&stranger)] {
            assert_ne!(publish(&broker, &authority, refused, &[]).code, Some(0), "{from}: {refused:?}");
        }
        // Not allowed to write there: acknowledged, as 3.1.1 has no other answer, and not stored.
        assert_eq!(publish(&broker, &authority, Some(&pump), &["-t", "other"]).code, Some(0));
        assert_eq!(broker.messages("s", 1, 10).await.messages.len(), 1);
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_over_without_dropping_anybody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let gateway = gateway("gw-1", &own, "");
    let mut broker = gateway.start().await;
    let ca = text(&authority.file());
    let mut subscriber = Subscriber::start(broker.mqtt(), &["-t", "a/b", "--cafile", &ca]);
    // Another authority: who trusts only the old one is refused from now on.
    let new_dir = tempfile::tempdir().expect("a temporary directory");
    let mut other = Authority::new(new_dir.path());
    let fresh = other.issue("fresh", "broker");
    for (from, to) in [(&fresh.cert, &own.cert), (&fresh.key, &own.key)] {
        std::fs::copy(from, to).expect("it can be copied");
    }
    broker.process().signal(Signal::HUP);
    until(PATIENCE, "the certificates to be read again", || {
        let output = broker.process().output();
        async move { if output.contains("certificates were read again") { Ok(()) } else { Err(output) } }
    })
    .await;
    assert_eq!(publish(&broker, &other, None, &[]).code, Some(0));
    assert_ne!(publish(&broker, &authority, None, &[]).code, Some(0));
    assert_eq!(subscriber.messages(1), ["a/b 0 0 1"], "who was there stays");
}

#[tokio::test]
async fn a_certificate_without_a_usable_name_lets_nobody_in() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let nameless = authority.issue("nameless", "");
    let keys = format!(
        "ca_file = {:?}\nclient_certificates = \"required\"\nuser_name_from = \"cn\"\n",
        text(&authority.file())
    );
    let gateway = gateway("gw-1", &own, &keys);
    let mut broker = gateway.start().await;
    let refused = publish(&broker, &authority, Some(&nameless), &[]);
    assert!(refused.code != Some(0) && refused.stderr.contains("not authorised"), "{refused:?}");
    assert!(broker.process().output().contains("holds no name of the kind"));
    assert!(broker.messages("s", 1, 10).await.messages.is_empty());
}

#[tokio::test]
async fn a_list_of_revoked_certificates_past_its_next_update_lets_nobody_in_unless_told_so() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let (pump, revoked) = (authority.issue("pump", "pump"), authority.issue("revoked", "pump"));
    let list = text(&authority.revoke_until(&[&revoked], 2021));
    for (may_be_expired, expected) in [(false, false), (true, true)] {
        let keys = format!(
            "ca_file = {:?}\ncrl_file = {list:?}\nclient_certificates = \"required\"\ncrl_may_be_expired = {may_be_expired}\n",
            text(&authority.file()),
        );
        let gateway = gateway("gw-1", &own, &keys);
        let mut broker = gateway.start().await;
        assert_eq!(publish(&broker, &authority, Some(&pump), &[]).code == Some(0), expected);
        assert_ne!(publish(&broker, &authority, Some(&revoked), &[]).code, Some(0));
        if !may_be_expired {
            until(PATIENCE, "the refusals to be counted", || async {
                let reason = [("reason", "revocation_list_expired")];
                let refused = broker.metrics().await.value("headwater_connections_refused_total", &reason);
                if refused >= 2.0 { Ok(()) } else { Err(refused.to_string()) }
            })
            .await;
            assert_eq!(broker.process().output().matches("crl_file is past its next update").count(), 1);
        }
    }
}

#[tokio::test]
async fn certificates_of_all_listeners_are_taken_over_or_none() {
    let (dir, new_dir) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let mut authority = Authority::new(dir.path());
    let (own, second) = (authority.issue("own", "broker"), authority.issue("second", "broker"));
    let port = Port::lease();
    let listener = format!(
        "[[listener]]\nkind = \"mqtts\"\nbind = \"{}\"\n[listener.tls]\ncert_file = {:?}\nkey_file = {:?}\n",
        port.address(),
        text(&second.cert),
        text(&second.key)
    );
    let gateway = gateway("gw-1", &own, "").with(&listener);
    let mut broker = gateway.start().await;
    let fresh = Authority::new(new_dir.path()).issue("fresh", "broker");
    for (from, to) in [(&fresh.cert, &own.cert), (&fresh.key, &own.key)] {
        std::fs::copy(from, to).expect("it can be copied");
    }
    std::fs::write(&second.cert, "broken").expect("it can be written");
    broker.process().signal(Signal::HUP);
    until(PATIENCE, "the certificates to be refused", || {
        let output = broker.process().output();
        async move { if output.contains("certificates stay as they were") { Ok(()) } else { Err(output) } }
    })
    .await;
    assert_eq!(publish(&broker, &authority, None, &[]).code, Some(0), "the first listener keeps what it had");
}

#[test]
fn files_that_cannot_be_used_are_named_by_check() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut authority = Authority::new(dir.path());
    let own = authority.issue("own", "broker");
    let swapped = authority.issue("other", "broker");
    let refused = |gateway: &Gateway, words: &str| {
        let finished = headwater(&["check", "--config", &text(&gateway.write_config())]);
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    };
    std::fs::write(&swapped.cert, "no certificate").expect("it can be written");
    refused(&gateway("gw-1", &swapped, ""), "listener.tls.cert_file");
    std::fs::copy(&own.cert, &swapped.cert).expect("it can be copied");
    refused(&gateway("gw-1", &swapped, ""), "listener.tls.cert_file");
    refused(&gateway("gw-1", &own, "client_certificates = \"required\"\n"), "needs `ca_file`");
    std::fs::remove_file(&own.key).expect("it is there");
    refused(&gateway("gw-1", &own, ""), "listener.tls.key_file");
}
