//! Tokens and key files. A fuzzer cannot sign, so that what stands behind the signature is signed here.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headwater_broker::auth::acl::Access;
use headwater_broker::auth::jwt::{Jwt, JwtConfig};
use headwater_broker::clock::WallTime;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::input::parts;

/// In 2027, in seconds.
const NOW: u64 = 1_800_000_000;

fn config() -> JwtConfig {
    JwtConfig {
        key_file: "keys.json".into(),
        issuer: "issuer".to_owned(),
        audience: "gateway".to_owned(),
        leeway: Duration::from_secs(60),
        without_clock: false,
    }
}

/// By the first byte: a key file; a token; or a header and claims, with NUL between them, that get a proper signature.
pub fn check(data: &[u8]) {
    let Some((mode, bytes)) = data.split_first() else { return };
    let now = WallTime(NOW * 1_000_000_000);
    if mode % 3 == 0 {
        if let Err(what) = Jwt::new(config(), &String::from_utf8_lossy(bytes)) {
            assert!(!what.is_empty());
        }
        return;
    }
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any 32 bytes are a seed");
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let keys = format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "{x}"}}]}}"#);
    let jwt = Jwt::new(config(), &keys).expect("a proper key");
    if mode % 3 == 1 {
        let _ = Jwt::looks_like_one(bytes); // only that it does not panic
        assert!(jwt.verify(bytes, now).is_err(), "nobody has signed it");
        return;
    }
    let [header, claims] = parts::<2>(bytes);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())));
    let Ok(token) = jwt.verify(token.as_bytes(), now) else { return };
    assert!(!token.subject.is_empty());
    assert!(token.remaining.is_some_and(|left| !left.is_zero()), "the clock is set");
    if let Some(grants) = token.grants {
        let _ = Access::of(&grants.write, &grants.read, &token.subject, "client"); // only that it does not panic
    }
}
