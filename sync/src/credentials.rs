//! A credentials file as `nsc` writes it: the JWT of a user and the seed that signs for it, each between two lines of dashes.
//!
//! It is read here and not by async-nats, which would do so by a regular expression: without that one call the binary has no
//! engine for regular expressions in it.

use std::fmt;

use nkeys::KeyPair;

/// Who we are to a hub, and the key that proves it.
pub(crate) struct Credentials {
    jwt: String,
    key: KeyPair,
}

/// What is wrong with a credentials file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CredentialsError {
    /// There is no first value between lines of dashes.
    NoJwt,
    /// There is no second one.
    NoSeed,
    /// The second one is not the seed of a key; the text says why, and shows nothing of it.
    BadSeed(String),
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialsError::NoJwt => f.write_str("expected a user JWT on a line between two lines of dashes"),
            CredentialsError::NoSeed => {
                f.write_str("expected an nkey seed on a line between two lines of dashes, after the user JWT")
            }
            CredentialsError::BadSeed(why) => write!(f, "the nkey seed is not valid: {why}"),
        }
    }
}

impl std::error::Error for CredentialsError {}

impl Credentials {
    /// Reads the text of a credentials file.
    ///
    /// # Errors
    /// What is missing or not valid; only another file can help.
    pub(crate) fn parse(text: &str) -> Result<Credentials, CredentialsError> {
        let mut lines = text.lines().map(str::trim_end);
        let jwt = framed(&mut lines).ok_or(CredentialsError::NoJwt)?.to_owned();
        let seed = framed(&mut lines).ok_or(CredentialsError::NoSeed)?;
        let key = KeyPair::from_seed(seed).map_err(|e| CredentialsError::BadSeed(e.to_string()))?;
        Ok(Credentials { jwt, key })
    }

    /// The user's JWT.
    pub(crate) fn jwt(&self) -> &str {
        &self.jwt
    }

    /// The answer to a server's challenge.
    ///
    /// # Errors
    /// The key cannot sign, which a key made from a seed always can.
    pub(crate) fn sign(&self, nonce: &[u8]) -> Result<Vec<u8>, nkeys::error::Error> {
        self.key.sign(nonce)
    }
}

/// The next line that stands between two lines of dashes. What else is in the file is for people.
fn framed<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (mut before, mut value) = ("", "");
    for line in lines {
        if is_rule(before) && is_value(value) && is_rule(line) {
            return Some(value);
        }
        (before, value) = (value, line);
    }
    None
}

/// `-----BEGIN NATS USER JWT-----` and `------END NATS USER JWT------`, or just dashes.
fn is_rule(line: &str) -> bool {
    line.len() >= 6 && line.starts_with("---") && line.ends_with("---")
}

fn is_value(line: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.=".contains(&byte);
    !line.is_empty() && !is_rule(line) && line.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJ0eXAiOiJqd3QiLCJhbGciOiJlZDI1NTE5.eyJ-_0.sig=";

    fn seed() -> String {
        KeyPair::new_user().seed().expect("it was made with one")
    }

    fn file(seed: &str) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\nNKEY Seed printed below can be used to sign.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    #[test]
    fn a_file_of_nsc_gives_jwt_and_key_with_any_line_ends_and_without_the_last() {
        let seed = seed();
        let text = file(&seed);
        for text in
            [text.clone(), text.replace('\n', "\r\n"), text.trim_end().to_owned(), format!("# ours\n{text}\nend\n")]
        {
            let read = Credentials::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(read.jwt(), JWT);
            let signature = read.sign(b"nonce").expect("a key from a seed signs");
            let key = KeyPair::from_seed(&seed).expect("it is one");
            key.verify(b"nonce", &signature).expect("the key of the seed has signed");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_and_no_seed_is_shown() {
        let seed = seed();
        let parse = |text: &str| Credentials::parse(text).err();
        assert_eq!(parse(""), Some(CredentialsError::NoJwt));
        assert_eq!(parse(&seed), Some(CredentialsError::NoJwt));
        let text = file(&seed);
        let (jwt_only, _) = text.split_once("****").expect("it has that line");
        assert_eq!(parse(jwt_only), Some(CredentialsError::NoSeed));
        // A line of dashes belongs to one value only.
        assert_eq!(parse(&format!("---a---\n{JWT}\n---b---\n{seed}\n---c---\n")), Some(CredentialsError::NoSeed));
        let wrong = seed.replace(&seed[10..14], "ABCD");
        let error = parse(&file(&wrong)).expect("its checksum is wrong");
        assert!(matches!(error, CredentialsError::BadSeed(_)), "{error}");
        assert!(!error.to_string().contains(&wrong[..10]), "{error}");
    }
}
