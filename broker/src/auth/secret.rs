//! Password hashes: argon2id as we write them, and PBKDF2 with SHA-512 as Mosquitto does. The only file that knows the libraries.

use std::fmt;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::{hmac, pbkdf2};

/// 7 MiB and 5 passes: one of the settings that OWASP's password storage cheat sheet (2024) holds equal to its 19 MiB and 2 passes. A
/// gateway has less memory than time.
const MEMORY_KIB: u32 = 7168;
const PASSES: u32 = 5;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// What a file may ask for: more would let one line of it take the gateway's memory or its processor.
const MAX_MEMORY_KIB: u32 = 64 << 10;
const MAX_PASSES: u32 = 64;
const MAX_ITERATIONS: u32 = 10_000_000;

/// The hash of a password, with everything that is needed to check one against it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    kind: Kind,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32 },
    Pbkdf2Sha512 { iterations: NonZeroU32 },
}

/// Why no hash could be made: the system gives no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the system gives no random numbers")
    }
}

impl std::error::Error for NoRandomness {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Display for Secret {
    /// As it stands in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Argon2id { memory_kib, passes, lanes } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.hash));
                write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
            }
            Kind::Pbkdf2Sha512 { iterations } => {
                write!(f, "$7${iterations}${}${}", STANDARD.encode(&self.salt), STANDARD.encode(&self.hash))
            }
        }
    }
}

impl Secret {
    /// Hashes a password with argon2id and a new salt.
    ///
    /// # Errors
    /// See [`NoRandomness`].
    pub fn hash(password: &[u8]) -> Result<Secret, NoRandomness> {
        let mut salt = vec![0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|_| NoRandomness)?;
        let kind = Kind::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1 };
        let mut secret = Secret { kind, salt, hash: vec![0; HASH_BYTES] };
        secret.hash = secret.computed(password);
        Ok(secret)
    }

    /// That nobody's password fits, at the cost of our own.
    pub(super) fn of_nobody() -> Secret {
        let kind = Kind::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1 };
        Secret { kind, salt: vec![0; SALT_BYTES], hash: vec![0; HASH_BYTES] }
    }

    /// Reads what stands behind the name in a file: `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH` or `$7$ITERATIONS$SALT$HASH`.
    ///
    /// # Errors
    /// What is wrong, without any part of the hash.
    pub fn parse(text: &str) -> Result<Secret, String> {
        let fields: Vec<&str> = text.split('$').collect();
        match fields[..] {
            ["", "argon2id", "v=19", parameters, salt, hash] => {
                let kind = argon2id(parameters)?;
                Secret { kind, salt: no_pad(salt)?, hash: no_pad(hash)? }.checked()
            }
            ["", "7", iterations, salt, hash] => {
                let iterations = iterations.parse().ok().filter(|n: &NonZeroU32| n.get() <= MAX_ITERATIONS);
                let iterations = iterations.ok_or(format!("expected 1 to {MAX_ITERATIONS} iterations"))?;
                Secret { kind: Kind::Pbkdf2Sha512 { iterations }, salt: padded(salt)?, hash: padded(hash)? }.checked()
            }
            ["", "6", ..] => Err("this kind of hash ($6$) is too weak; set the password again".to_owned()),
            _ => Err("expected a hash that begins with $argon2id$v=19$ or $7$".to_owned()),
        }
    }

    fn checked(self) -> Result<Secret, String> {
        if self.salt.len() < 8 || !(16..=128).contains(&self.hash.len()) {
            return Err("the salt or the hash has an unlikely length".to_owned());
        }
        Ok(self)
    }

    /// Whether this is the password. Takes as long whatever it is.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Argon2id { .. } => {
                let computed = self.computed(password);
                // Not told by the time it takes how much of it was right.
                !computed.is_empty() && computed.iter().zip(&self.hash).fold(0, |bits, (a, b)| bits | (a ^ b)) == 0
            }
            Kind::Pbkdf2Sha512 { iterations } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &self.salt, password, &self.hash).is_ok()
            }
        }
    }

    /// About how long it takes, to compare two.
    pub(super) fn cost(&self) -> u64 {
        match self.kind {
            // A pass over a KiB and an iteration are of one order; what is compared is mostly of one kind.
            Kind::Argon2id { memory_kib, passes, .. } => u64::from(memory_kib) * u64::from(passes),
            Kind::Pbkdf2Sha512 { iterations } => u64::from(iterations.get()),
        }
    }

    /// Empty where argon2 does not take the parameters, which fits no hash.
    fn computed(&self, password: &[u8]) -> Vec<u8> {
        let mut out = vec![0; self.hash.len()];
        let Kind::Argon2id { memory_kib, passes, lanes } = self.kind else { return Vec::new() };
        let Ok(parameters) = Params::new(memory_kib, passes, lanes, Some(out.len())) else { return Vec::new() };
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
        if argon2.hash_password_into(password, &self.salt, &mut out).is_err() {
            return Vec::new();
        }
        out
    }
}

fn argon2id(parameters: &str) -> Result<Kind, String> {
    let wrong = || format!("expected m=KIB,t=PASSES,p=LANES up to m={MAX_MEMORY_KIB},t={MAX_PASSES},p=4");
    let mut values = [0; 3];
    let mut fields = parameters.split(',');
    for (value, name) in values.iter_mut().zip(["m=", "t=", "p="]) {
        let field = fields.next().and_then(|field| field.strip_prefix(name)).ok_or_else(wrong)?;
        *value = field.parse().map_err(|_| wrong())?;
    }
    let [memory_kib, passes, lanes] = values;
    let fits = (1..=4).contains(&lanes)
        && (8 * lanes..=MAX_MEMORY_KIB).contains(&memory_kib)
        && (1..=MAX_PASSES).contains(&passes);
    match fields.next().is_none() && fits {
        true => Ok(Kind::Argon2id { memory_kib, passes, lanes }),
        false => Err(wrong()),
    }
}

fn no_pad(text: &str) -> Result<Vec<u8>, String> {
    STANDARD_NO_PAD.decode(text).map_err(|_| "the salt or the hash is no base64".to_owned())
}

fn padded(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|_| "the salt or the hash is no base64".to_owned())
}

/// A fingerprint of a password that is worth nothing outside of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest(hmac::Tag);

/// Makes [`Digest`]s, with a key that lives as long as the process.
pub(super) struct Digester(Option<hmac::Key>);

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digester")
    }
}

impl Digester {
    pub(super) fn new() -> Digester {
        let mut key = [0; 32];
        // Without randomness nothing is remembered, and every password is hashed.
        Digester(getrandom::fill(&mut key).is_ok().then(|| hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    pub(super) fn digest(&self, password: &[u8]) -> Option<Digest> {
        self.0.as_ref().map(|key| Digest(hmac::sign(key, password)))
    }

    pub(super) fn is_of(&self, digest: &Digest, password: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|key| hmac::verify(key, password, digest.0.as_ref()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argon2id_hash_of_the_reference_program_is_known() {
        // Of the test vectors of the reference implementation: "password", "somesalt", 2 passes over 2^16 KiB, one lane.
        let text = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let secret = Secret::parse(text).expect("a proper hash");
        assert!(secret.verify(b"password") && !secret.verify(b"Password"));
        assert_eq!(secret.to_string(), text);
    }

    #[test]
    fn what_would_take_the_gateways_memory_is_refused() {
        for text in [
            "$argon2id$v=19$m=9999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=9999,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2,p=4294967295$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$",
            "$7$0$c29tZXNhbHQ=$c29tZXNhbHQ=",
            "$7$99999999$c29tZXNhbHQ=$c29tZXNhbHQ=",
            "$6$salt$hash",
            "password",
        ] {
            assert!(Secret::parse(text).is_err(), "{text}");
        }
    }
}
