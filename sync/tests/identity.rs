//! Every way to show a hub who we are, against a real nats-server. The keys and certificates in `identities/` were made for
//! these tests, open nothing else, and are valid until 2126.

mod common;

use std::path::PathBuf;

use common::{Hub, MemorySource, contents, run, seqs, stream_config, uplink_to};
use headwater_broker::config::{CreateStream, Uplink, UplinkAuth, UplinkTls};

const NKEY_SEED: &str = "SUAJL2HJDVCX627EKEWCN7VISHPPFKOPABCBU5CHZPV3UIVH7U77W5W43I";
const NKEY_PUBLIC: &str = "UBZO2TWQW7YBDQDSJ7CTFUOPXV3XUKZXEN62OMZXM53BKUTOWDH24BYR";

fn identity(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/identities").join(name)
}

/// Mirrors ten messages with this configuration, which has to make the stream itself.
async fn arrives(mut config: Uplink) {
    config.mirrors[0].create = Some(CreateStream { replicas: 1, max_bytes: None, max_age: None, subjects: Vec::new() });
    let source = MemorySource::new(1);
    source.append_numbered(1..=10);
    let running = run(&config, &source);
    running.caught_up().await;
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn by_token() {
    let hub = Hub::start_with("authorization { token: secret }").await;
    let mut config = uplink_to(&[hub.url()]);
    config.auth = UplinkAuth::Token("secret".into());
    arrives(config).await;
}

#[tokio::test]
async fn by_user_and_password_in_the_address() {
    let hub = Hub::start_with("authorization { user: gw, password: secret }").await;
    arrives(uplink_to(&[format!("nats://gw:secret@127.0.0.1:{}", hub.port)])).await;
}

#[tokio::test]
async fn by_nkey() {
    let hub = Hub::start_with(&format!("authorization {{ users: [ {{ nkey: {NKEY_PUBLIC} }} ] }}")).await;
    let mut config = uplink_to(&[hub.url()]);
    config.auth = UplinkAuth::Nkey(NKEY_SEED.into());
    arrives(config.clone()).await;
    config.auth = UplinkAuth::Nkey("SUAnonsense".into());
    let running = run(&config, &MemorySource::new(1));
    let text = running.link_troubled("bad-file").await;
    assert!(text.contains("nkey") && !text.contains("nonsense"), "{text}");
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn by_credentials_file() {
    let operator = std::fs::read_to_string(identity("operator.conf")).expect("the test's files are there");
    let hub = Hub::start_with(&operator).await;
    let mut config = uplink_to(&[hub.url()]);
    config.auth = UplinkAuth::CredentialsFile(identity("gateway.creds"));
    arrives(config.clone()).await;
    config.auth = UplinkAuth::CredentialsFile(identity("none.creds"));
    let running = run(&config, &MemorySource::new(1));
    let text = running.link_troubled("bad-file").await;
    assert!(text.contains("none.creds"), "{text}");
    running.uplinks.shutdown().await;
}

fn tls_hub() -> String {
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        identity("server.pem"),
        identity("server.key"),
        identity("ca.pem")
    )
}

fn tls() -> UplinkTls {
    UplinkTls {
        required: true,
        ca_file: Some(identity("ca.pem")),
        cert_file: Some(identity("client.pem")),
        key_file: Some(identity("client.key")),
    }
}

#[tokio::test]
async fn by_client_certificate() {
    let hub = Hub::start_with(&tls_hub()).await;
    let mut config = uplink_to(&[format!("tls://127.0.0.1:{}", hub.port)]);
    config.tls = tls();
    config.mirrors[0].create = Some(CreateStream { replicas: 1, max_bytes: None, max_age: None, subjects: Vec::new() });
    let source = MemorySource::new(1);
    source.append_numbered(1..=1500);
    let running = run(&config, &source);
    running.caught_up().await;
    let look = async_nats::ConnectOptions::new()
        .require_tls(true)
        .add_root_certificates(identity("ca.pem"))
        .add_client_certificate(identity("client.pem"), identity("client.key"));
    assert_eq!(seqs(&contents(&hub.client_with(look).await, "S").await), (1..=1500).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_tls_is_said() {
    let hub = Hub::start_with(&tls_hub()).await;
    let address = [format!("tls://127.0.0.1:{}", hub.port)];
    let cases: [(&str, UplinkTls, &str); 4] = [
        ("tls", UplinkTls { ca_file: Some(identity("other-ca.pem")), ..tls() }, "certificate"),
        ("tls", UplinkTls { cert_file: None, key_file: None, ..tls() }, "ertificate"),
        ("bad-file", UplinkTls { ca_file: Some(identity("none.pem")), ..tls() }, "none.pem"),
        ("bad-file", UplinkTls { key_file: None, ..tls() }, "tls.key_file"),
    ];
    for (kind, tls, word) in cases {
        let mut config = uplink_to(&address);
        config.tls = tls;
        let running = run(&config, &MemorySource::new(1));
        let text = running.link_troubled(kind).await;
        assert!(text.contains(word), "{text}");
        running.uplinks.shutdown().await;
    }
}

#[tokio::test]
async fn tls_that_the_hub_does_not_speak_is_not_done_without() {
    let hub = Hub::start().await;
    hub.make(stream_config("S")).await;
    let mut config = uplink_to(&[hub.url()]);
    config.tls = tls();
    let source = MemorySource::new(1);
    source.append_numbered(1..=10);
    let running = run(&config, &source);
    running.link_troubled("tls").await;
    assert_eq!(running.mirror().confirmed_seq, 0);
    running.uplinks.shutdown().await;
}
