//! Tokens in place of passwords.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;
use crate::auth::AuthFiles;
use crate::auth::jwt::JwtConfig;

struct Issuer(Ed25519KeyPair);

impl Issuer {
    /// With its keys in that file.
    fn new(file: &Path) -> Issuer {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("there is randomness");
        let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("just made");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let keys = format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}]}}"#);
        std::fs::write(file, keys).expect("it can be written");
        Issuer(pair)
    }

    /// Valid from now on for so many seconds; `more` are further claims.
    fn token(&self, seconds: u64, more: &str) -> Vec<u8> {
        let ends = SystemClock.wall().0 / 1_000_000_000 + seconds;
        let claims = format!(r#"{{"iss":"i","aud":"a","sub":"pump","exp":{ends}{more}}}"#);
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#), URL_SAFE_NO_PAD.encode(claims));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(text.as_bytes()))).into_bytes()
    }
}

fn with_token(id: &str, token: Vec<u8>) -> Connect {
    Connect { username: Some("whatever".to_owned()), password: Some(token.into()), ..connect(id, Version::V5, true) }
}

async fn answer(running: &Running, how: Connect) -> (Client, ReasonCode) {
    let mut client = running.connect(how).await;
    match client.receive().await {
        Some(Packet::ConnAck(ack)) => (client, ack.reason),
        other => panic!("{other:?}"),
    }
}

async fn started(dir: &Path) -> (Running, Issuer) {
    let (keys, acl) = (dir.join("keys"), dir.join("acl"));
    let issuer = Issuer::new(&keys);
    std::fs::write(&acl, "user pump\ntopic write file/#\n").expect("it can be written");
    let jwt = JwtConfig {
        key_file: keys,
        issuer: "i".to_owned(),
        audience: "a".to_owned(),
        leeway: Duration::ZERO,
        without_clock: false,
    };
    let files = AuthFiles { password_file: None, acl_file: Some(acl), jwt: Some(jwt) };
    let mut config = config(&dir.join("data"));
    config.listeners[0].anonymous = false;
    let running = start(&config).await;
    running.broker.set_auth(Auth::load(&files).expect("proper files"));
    (running, issuer)
}

#[tokio::test]
async fn a_token_says_who_its_bearer_is_and_what_it_may_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let (running, issuer) = started(dir.path()).await;
    let (mut client, reason) = answer(&running, with_token("c", issuer.token(600, ""))).await;
    assert_eq!(reason, ReasonCode::Success);
    for (topic, expected) in [("file/x", ReasonCode::Success), ("other", ReasonCode::NotAuthorized)] {
        client.publish(topic, "1", QoS::AtLeastOnce, 1).await;
        assert!(matches!(client.receive().await, Some(Packet::PubAck(ack)) if ack.reason == expected), "{topic}");
    }
    // Its own rights take the place of those of the file, and a reload does not take them away.
    let acl = r#","acl":{"pub":["own/${username}/${clientid}"]}"#;
    let (mut client, reason) = answer(&running, with_token("d", issuer.token(600, acl))).await;
    assert_eq!(reason, ReasonCode::Success);
    running.broker.set_auth(Auth::default());
    for (topic, expected) in [("own/pump/d", ReasonCode::Success), ("file/x", ReasonCode::NotAuthorized)] {
        client.publish(topic, "1", QoS::AtLeastOnce, 1).await;
        assert!(matches!(client.receive().await, Some(Packet::PubAck(ack)) if ack.reason == expected), "{topic}");
    }
    running.stop().await;
}

#[tokio::test]
async fn who_has_no_proper_token_stays_out_and_whose_token_expires_has_to_leave() {
    let dir = tempfile::tempdir().expect("a directory");
    let (running, issuer) = started(dir.path()).await;
    let stranger = Issuer::new(&dir.path().join("other"));
    let (_, reason) = answer(&running, with_token("c", stranger.token(600, ""))).await;
    assert_eq!(reason, ReasonCode::BadUserNameOrPassword);
    let (_, reason) = answer(&running, with_token("c", b"no token".to_vec())).await;
    assert_eq!(reason, ReasonCode::NotAuthorized, "a name that nothing shows");
    let (mut client, reason) = answer(&running, with_token("c", issuer.token(2, ""))).await;
    assert_eq!(reason, ReasonCode::Success);
    assert!(matches!(client.receive().await, Some(Packet::Disconnect(d)) if d.reason == ReasonCode::NotAuthorized));
    assert_eq!(client.receive().await, None);
    running.stop().await;
}
