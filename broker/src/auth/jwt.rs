//! JSON Web Tokens as passwords (RFC 7519): signed by RS256, ES256 or EdDSA, checked against the keys of one file.
//!
//! The key says which algorithm it is for; what the token says must agree with that. `iss`, `aud`, `sub` and `exp` are required, `nbf` is
//! looked at. `sub` is the user name. An `acl` claim, as EMQX reads it, takes the place of the access control list:
//! `{"pub": [FILTER, ...], "sub": [...], "all": [...]}`, with `${username}` and `${clientid}`.
//!
//! Signatures are ring's; the rest is little enough to be written here. No I/O and no clock.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

use crate::clock::{RELEASED, WallTime};

/// Longest token: MQTT allows 64 KiB, and an access list of some length fits here.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Most keys of a file: the issuer's current ones and those before.
const MAX_KEYS: usize = 32;

/// How tokens are checked; `[auth.jwt]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtConfig {
    /// A JSON Web Key Set, or a public key in PEM.
    pub key_file: PathBuf,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or hold.
    pub audience: String,
    /// By how much clocks may differ.
    pub leeway: Duration,
    /// Let in whoever has a proper token while our clock is not set, so that nobody can tell whether it has expired.
    pub without_clock: bool,
}

/// Checks tokens.
#[derive(Debug)]
pub struct Jwt {
    config: JwtConfig,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    kind: KeyKind,
}

enum KeyKind {
    Rs256 {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The same as one structure, as PEM has it.
    Rs256Der(Vec<u8>),
    Es256(Vec<u8>),
    EdDsa(Vec<u8>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.kind.algorithm()).finish()
    }
}

impl KeyKind {
    fn algorithm(&self) -> &'static str {
        match self {
            KeyKind::Rs256 { .. } | KeyKind::Rs256Der(_) => "RS256",
            KeyKind::Es256(_) => "ES256",
            KeyKind::EdDsa(_) => "EdDSA",
        }
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let rsa = &signature::RSA_PKCS1_2048_8192_SHA256;
        match self {
            KeyKind::Rs256 { n, e } => RsaPublicKeyComponents { n, e }.verify(rsa, message, signature),
            KeyKind::Rs256Der(key) => UnparsedPublicKey::new(rsa, key).verify(message, signature),
            KeyKind::Es256(key) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            KeyKind::EdDsa(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
        }
        .is_ok()
    }
}

/// Why a token is not taken: its bearer's or the issuer's matter, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtError {
    /// No token, or one with something in it that we do not understand.
    Malformed,
    /// No key of ours has signed it.
    Signature,
    /// Of another issuer.
    Issuer,
    /// For another audience.
    Audience,
    /// Its time has passed.
    Expired,
    /// Its time has not come.
    NotYet,
    /// Our clock is not set, so that nobody can tell whether it has expired.
    NoClock,
}

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JwtError::Malformed => "the token is malformed, or lacks one of iss, aud, sub and exp",
            JwtError::Signature => "no key of auth.jwt.key_file has signed the token",
            JwtError::Issuer => "the token is of another issuer than auth.jwt.issuer",
            JwtError::Audience => "the token is for another audience than auth.jwt.audience",
            JwtError::Expired => "the token has expired",
            JwtError::NotYet => "the token is not valid yet",
            JwtError::NoClock => "this machine's clock is not set: nobody can tell whether the token has expired",
        })
    }
}

/// What a proper token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// `sub`: the user name.
    pub subject: String,
    /// How long it is still valid; `None`: the clock is not set.
    pub remaining: Option<Duration>,
    /// Filters of the `acl` claim; `None`: it has none.
    pub grants: Option<Grants>,
}

/// What a token allows, with `%u` and `%c` for the client's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Topics to publish to.
    pub write: Vec<String>,
    /// Topics to subscribe to.
    pub read: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood, RFC 7515 4.1.11: we know none.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: OneOrMore,
    sub: String,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    acl: Option<Acl>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Acl {
    #[serde(rename = "pub")]
    write: Vec<String>,
    #[serde(rename = "sub")]
    read: Vec<String>,
    all: Vec<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<JsonKey>,
}

/// RFC 7517, 7518 6 and 8037.
#[derive(Deserialize)]
struct JsonKey {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

impl Jwt {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(config: JwtConfig, text: &str) -> Result<Jwt, String> {
        let keys = if text.trim_start().starts_with('{') { key_set(text)? } else { vec![pem(text)?] };
        match keys.len() {
            0 => Err("holds no key for RS256, ES256 or EdDSA".to_owned()),
            1..=MAX_KEYS => Ok(Jwt { config, keys }),
            many => Err(format!("holds {many} keys, expected at most {MAX_KEYS}")),
        }
    }

    /// Whether a password is meant as a token: three parts, the first of which begins as a JSON object does.
    #[must_use]
    pub fn looks_like_one(password: &[u8]) -> bool {
        password.starts_with(b"eyJ") && password.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// Checks a token.
    ///
    /// # Errors
    /// See [`JwtError`].
    pub fn verify(&self, token: &[u8], now: WallTime) -> Result<Token, JwtError> {
        let text = std::str::from_utf8(token).map_err(|_| JwtError::Malformed)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        if text.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::Malformed);
        }
        let header: Header = parsed(header)?;
        if header.crit.is_some() {
            return Err(JwtError::Malformed);
        }
        let signature = decoded(signature)?;
        let known = self.keys.iter().any(|key| {
            let named = header.kid.is_none() || key.id.is_none() || key.id == header.kid;
            named && key.kind.algorithm() == header.alg && key.kind.signed(signed.as_bytes(), &signature)
        });
        if !known {
            return Err(JwtError::Signature);
        }
        // IMPORTANT: nothing in the claims is looked at before somebody we trust has signed them.
        let claims: Claims = parsed(claims)?;
        if claims.iss != self.config.issuer {
            return Err(JwtError::Issuer);
        }
        let meant = match &claims.aud {
            OneOrMore::One(one) => *one == self.config.audience,
            OneOrMore::More(more) => more.contains(&self.config.audience),
        };
        if !meant {
            return Err(JwtError::Audience);
        }
        if claims.sub.is_empty() {
            return Err(JwtError::Malformed);
        }
        let remaining = self.remaining(&claims, now)?;
        Ok(Token { subject: claims.sub, remaining, grants: claims.acl.as_ref().map(grants) })
    }

    fn remaining(&self, claims: &Claims, now: WallTime) -> Result<Option<Duration>, JwtError> {
        if now < RELEASED {
            return if self.config.without_clock { Ok(None) } else { Err(JwtError::NoClock) };
        }
        let now = Duration::from_nanos(now.0);
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|_| JwtError::Malformed);
        if let Some(begins) = claims.nbf
            && time(begins)? > now.saturating_add(self.config.leeway)
        {
            return Err(JwtError::NotYet);
        }
        let ends = time(claims.exp)?.saturating_add(self.config.leeway);
        match ends.checked_sub(now) {
            Some(remaining) if !remaining.is_zero() => Ok(Some(remaining)),
            _ => Err(JwtError::Expired),
        }
    }
}

fn grants(acl: &Acl) -> Grants {
    let pattern = |text: &String| text.replace("${username}", "%u").replace("${clientid}", "%c");
    Grants {
        write: acl.write.iter().chain(&acl.all).map(pattern).collect(),
        read: acl.read.iter().chain(&acl.all).map(pattern).collect(),
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Malformed)
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, JwtError> {
    serde_json::from_slice(&decoded(text)?).map_err(|_| JwtError::Malformed)
}

fn key_set(text: &str) -> Result<Vec<Key>, String> {
    let set: KeySet = serde_json::from_str(text).map_err(|e| format!("is no JSON Web Key Set: {e}"))?;
    let mut keys = Vec::new();
    for (number, key) in set.keys.into_iter().enumerate() {
        // Keys for other purposes and algorithms may stand beside ours (RFC 7517 5).
        if key.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            continue;
        }
        let part = |name: &str, text: &str| {
            let part = URL_SAFE_NO_PAD.decode(text).ok().filter(|part| !part.is_empty());
            part.ok_or_else(|| format!("keys[{number}]: expected base64url in `{name}`"))
        };
        let kind = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => KeyKind::Rs256 { n: part("n", &key.n)?, e: part("e", &key.e)? },
            ("EC", Some("P-256")) => KeyKind::Es256([&[4][..], &part("x", &key.x)?, &part("y", &key.y)?].concat()),
            ("OKP", Some("Ed25519")) => KeyKind::EdDsa(part("x", &key.x)?),
            _ => continue,
        };
        if key.alg.is_none_or(|alg| alg == kind.algorithm()) {
            keys.push(Key { id: key.kid, kind });
        }
    }
    Ok(keys)
}

/// A `SubjectPublicKeyInfo` (RFC 5280) of one of the three kinds, told by how it begins.
fn pem(text: &str) -> Result<Key, String> {
    const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    const P256: &[u8] =
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03";
    let body = text.split_once("-----BEGIN PUBLIC KEY-----").and_then(|(_, rest)| rest.split_once("-----END"));
    let (body, _) = body.ok_or("expected a JSON Web Key Set, or PEM with a PUBLIC KEY")?;
    let der = STANDARD.decode(body.split_whitespace().collect::<String>()).map_err(|_| "the PEM holds no base64")?;
    let kind = if let Some(key) = der.strip_prefix(ED25519) {
        KeyKind::EdDsa(key.to_vec())
    } else if let Some(key) = der.strip_prefix(P256) {
        KeyKind::Es256(key.to_vec())
    } else if let Some(at) = der.windows(RSA.len()).position(|window| window == RSA).filter(|at| *at <= 4) {
        // A bit string: its length, in the form for long ones, and the number of unused bits.
        let rest = &der[at + RSA.len()..];
        let skip = match rest.first() {
            Some(0x82) => 4,
            Some(0x81) => 3,
            _ => return Err("the RSA key is too short".to_owned()),
        };
        KeyKind::Rs256Der(rest.get(skip..).unwrap_or_default().to_vec())
    } else {
        return Err("expected an RSA, P-256 or Ed25519 key".to_owned());
    };
    Ok(Key { id: None, kind })
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> WallTime {
        WallTime(seconds * 1_000_000_000)
    }

    fn config() -> JwtConfig {
        JwtConfig {
            key_file: "keys".into(),
            issuer: "https://issuer".to_owned(),
            audience: "headwater".to_owned(),
            leeway: Duration::from_secs(60),
            without_clock: false,
        }
    }

    fn encoded(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    struct Issuer(Ed25519KeyPair);

    impl Issuer {
        fn new() -> Issuer {
            let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("there is randomness");
            Issuer(Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("just made"))
        }

        fn keys(&self) -> String {
            let x = encoded(self.0.public_key());
            format!(
                r#"{{"keys": [{{"kty": "oct", "k": "x"}}, {{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "{x}"}}]}}"#
            )
        }

        fn signed(&self, header: &str, claims: &str) -> Vec<u8> {
            let text = format!("{}.{}", encoded(header), encoded(claims));
            let signature = encoded(self.0.sign(text.as_bytes()));
            format!("{text}.{signature}").into_bytes()
        }

        fn token(&self, claims: &str) -> Vec<u8> {
            self.signed(r#"{"alg":"EdDSA"}"#, claims)
        }
    }

    const CLAIMS: &str = r#"{"iss":"https://issuer","aud":["other","headwater"],"sub":"pump","exp":1800000100}"#;

    #[test]
    fn a_proper_token_says_who_and_for_how_long() {
        let issuer = Issuer::new();
        let jwt = Jwt::new(config(), &issuer.keys()).expect("proper keys");
        let token = jwt.verify(&issuer.token(CLAIMS), at(NOW)).expect("proper");
        assert_eq!(
            token,
            Token { subject: "pump".to_owned(), remaining: Some(Duration::from_secs(160)), grants: None }
        );
        let acl = CLAIMS.replace('}', r#","acl":{"pub":["a/${username}"],"all":["b/${clientid}/#"]}}"#);
        let grants = jwt.verify(&issuer.token(&acl), at(NOW)).expect("proper").grants.expect("given");
        assert_eq!(
            (grants.write.as_slice(), grants.read.as_slice()),
            (&["a/%u".to_owned(), "b/%c/#".to_owned()][..], &["b/%c/#".to_owned()][..])
        );
        assert!(Jwt::looks_like_one(&issuer.token(CLAIMS)) && !Jwt::looks_like_one(b"secret.with.dots"));
    }

    #[test]
    fn whatever_is_not_as_it_should_be_is_refused_by_name() {
        let issuer = Issuer::new();
        let jwt = Jwt::new(config(), &issuer.keys()).expect("proper keys");
        for (from, to, error) in [
            ("https://issuer", "https://other", JwtError::Issuer),
            ("headwater", "elsewhere", JwtError::Audience),
            ("1800000100", "1799999940", JwtError::Expired),
            ("1800000100", "1800000100,\"nbf\":1800000061", JwtError::NotYet),
            ("1800000100", "-5", JwtError::Malformed),
            ("\"sub\":\"pump\",", "", JwtError::Malformed),
            ("\"pump\"", "\"\"", JwtError::Malformed),
            (",\"exp\":1800000100", "", JwtError::Malformed),
            ("1800000100", "1800000100,\"acl\":{\"deny\":[]}", JwtError::Malformed),
        ] {
            let claims = CLAIMS.replace(from, to);
            assert_eq!(jwt.verify(&issuer.token(&claims), at(NOW)), Err(error), "{claims}");
        }
        for (header, error) in [
            (r#"{"alg":"none"}"#, JwtError::Signature),
            (r#"{"alg":"HS256"}"#, JwtError::Signature),
            (r#"{"alg":"ES256"}"#, JwtError::Signature),
            (r#"{"alg":"EdDSA","kid":"another"}"#, JwtError::Signature),
            (r#"{"alg":"EdDSA","crit":["exp"]}"#, JwtError::Malformed),
            (r#"{"kid":"k"}"#, JwtError::Malformed),
        ] {
            assert_eq!(jwt.verify(&issuer.signed(header, CLAIMS), at(NOW)), Err(error), "{header}");
        }
        assert_eq!(jwt.verify(&Issuer::new().token(CLAIMS), at(NOW)), Err(JwtError::Signature));
        let mut changed = issuer.token(CLAIMS);
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        assert!(jwt.verify(&changed, at(NOW)).is_err());
        for garbage in [&b""[..], b"eyJ..", b"a.b", b"\xff.\xff.\xff"] {
            assert_eq!(jwt.verify(garbage, at(NOW)), Err(JwtError::Malformed));
        }
    }

    #[test]
    fn without_a_clock_nobody_can_tell_and_the_operator_decides() {
        let issuer = Issuer::new();
        let jwt = Jwt::new(config(), &issuer.keys()).expect("proper keys");
        assert_eq!(jwt.verify(&issuer.token(CLAIMS), at(1_000)), Err(JwtError::NoClock));
        let config = JwtConfig { without_clock: true, ..config() };
        let jwt = Jwt::new(config, &issuer.keys()).expect("proper keys");
        assert_eq!(jwt.verify(&issuer.token(CLAIMS), at(1_000)).expect("let in").remaining, None);
        assert_eq!(jwt.verify(&issuer.token(CLAIMS), at(NOW + 200)), Err(JwtError::Expired), "but not with one");
    }

    #[test]
    fn an_elliptic_curve_key_in_pem_works() {
        let random = SystemRandom::new();
        let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("there is randomness");
        let pair = EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).expect("just made");
        let prefix =
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
        let der = [&prefix[..], pair.public_key().as_ref()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
        let jwt = Jwt::new(config(), &pem).expect("a proper key");
        let text = format!("{}.{}", encoded(r#"{"alg":"ES256","kid":"any"}"#), encoded(CLAIMS));
        let signature = pair.sign(&random, text.as_bytes()).expect("there is randomness");
        assert!(jwt.verify(format!("{text}.{}", encoded(signature)).as_bytes(), at(NOW)).is_ok());
    }

    /// RFC 7515, A.2: the key and the signature of its example, whose claims are not ours.
    #[test]
    fn the_rsa_example_of_the_rfc_is_known_by_its_signature() {
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs\
                 D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdV\
                 MTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
                 .cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQj\
                 bKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6Bf\
                 I7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let keys = format!(r#"{{"keys": [{{"kty": "RSA", "n": "{n}", "e": "AQAB"}}]}}"#);
        let jwt = Jwt::new(config(), &keys).expect("proper keys");
        assert_eq!(jwt.verify(token.as_bytes(), at(NOW)), Err(JwtError::Malformed), "it has neither aud nor sub");
        let other = token.replace("eyJpc3MiOiJqb2UiLA0KICJleHA", "eyJpc3MiOiJqb2YiLA0KICJleHA");
        assert_eq!(jwt.verify(other.as_bytes(), at(NOW)), Err(JwtError::Signature));
    }

    #[test]
    fn a_key_file_that_cannot_be_used_says_why() {
        for (text, says) in [
            ("", "expected a JSON Web Key Set, or PEM"),
            ("{}", "missing field `keys`"),
            (r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#, "holds no key for"),
            (r#"{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}"#, "keys[0]: expected base64url in `n`"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "expected an RSA, P-256 or Ed25519 key"),
        ] {
            let error = Jwt::new(config(), text).expect_err("it cannot be used");
            assert!(error.contains(says), "{error}");
        }
    }
}
