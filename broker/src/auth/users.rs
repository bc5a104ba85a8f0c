//! Users and their passwords, in the format of Mosquitto's `password_file`: a line per user, `name:hash`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::secret::{Digest, Digester, Secret};

/// Everybody who has a password.
#[derive(Debug)]
pub struct Users {
    by_name: HashMap<String, User>,
    /// Takes as long as a true one: who asks for unknown names learns nothing from the time of the answer.
    stand_in: Secret,
    digester: Digester,
}

#[derive(Debug)]
struct User {
    secret: Secret,
    /// Of the password that was right the last time, so that a storm of reconnecting devices costs no hash each.
    proved: Mutex<Option<Digest>>,
}

impl Users {
    /// Reads a file.
    ///
    /// # Errors
    /// Every line that is not understood, with its number. A hash is never shown.
    pub fn parse(text: &str) -> Result<Users, Vec<(usize, String)>> {
        let mut errors = Vec::new();
        let mut by_name: HashMap<String, User> = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((name, hash)) = line.split_once(':').filter(|(name, _)| !name.is_empty()) else {
                errors.push((number, "expected NAME:HASH, as `headwater passwd` writes it".to_owned()));
                continue;
            };
            match Secret::parse(hash) {
                Ok(secret) => {
                    if by_name.insert(name.to_owned(), User { secret, proved: Mutex::new(None) }).is_some() {
                        errors.push((number, format!("user \"{name}\" has a line already")));
                    }
                }
                Err(what) => errors.push((number, format!("user \"{name}\": {what}"))),
            }
        }
        // The costliest kind that is in use, so that no known name takes longer.
        let stand_in = by_name.values().map(|user| &user.secret).max_by_key(|secret| secret.cost());
        let stand_in = stand_in.cloned().unwrap_or_else(Secret::of_nobody);
        if errors.is_empty() { Ok(Users { by_name, stand_in, digester: Digester::new() }) } else { Err(errors) }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Nobody has a password.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether this very password was right before; cheap.
    #[must_use]
    pub fn is_proved(&self, name: &str, password: &[u8]) -> bool {
        let Some(user) = self.by_name.get(name) else { return false };
        let proved = *user.proved.lock().unwrap_or_else(PoisonError::into_inner);
        proved.is_some_and(|digest| self.digester.is_of(&digest, password))
    }

    /// Whether the password is right. Slow on purpose, tens of milliseconds, and takes the memory that the hash asks for.
    #[must_use]
    pub fn verify(&self, name: &str, password: &[u8]) -> bool {
        let Some(user) = self.by_name.get(name) else {
            // The answer does not matter, the time does.
            let _ = self.stand_in.verify(password);
            return false;
        };
        let right = user.secret.verify(password);
        if right {
            let digest = self.digester.digest(password);
            *user.proved.lock().unwrap_or_else(PoisonError::into_inner) = digest;
        }
        right
    }

    /// Whether a user is there with the same password as in `before`.
    #[must_use]
    pub fn keeps(&self, name: &str, before: Option<&Users>) -> bool {
        let old = before.and_then(|users| users.by_name.get(name));
        self.by_name.get(name).is_some_and(|user| old.is_none_or(|old| old.secret == user.secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `mosquitto_passwd` 2.0.11: the password of `pump` is `secret`.
    const FROM_MOSQUITTO: &str = include_str!("fixtures/mosquitto_passwd");

    #[test]
    fn a_password_of_mosquitto_is_known_and_a_wrong_one_is_not() {
        let users = Users::parse(FROM_MOSQUITTO).expect("a proper file");
        assert!(!users.is_proved("pump", b"secret"));
        assert!(users.verify("pump", b"secret"));
        assert!(users.is_proved("pump", b"secret"), "the second time costs nothing");
        assert!(!users.is_proved("pump", b"wrong") && !users.verify("pump", b"wrong"));
        assert!(!users.verify("nobody", b"secret") && !users.is_proved("nobody", b"secret"));
    }

    #[test]
    fn our_own_hashes_are_read_back() {
        let secret = Secret::hash(b"open sesame").expect("there is randomness");
        let users = Users::parse(&format!("# people\n\nann:{secret}\n")).expect("a proper file");
        assert!(users.verify("ann", b"open sesame") && !users.verify("ann", b""));
        assert_eq!(users.len(), 1);
        let changed = Users::parse(&format!("ann:{}\n", Secret::hash(b"other").expect("randomness"))).expect("proper");
        assert!(users.keeps("ann", None) && !users.keeps("bob", None) && !changed.keeps("ann", Some(&users)));
    }

    #[test]
    fn what_is_not_understood_is_named_without_the_hash() {
        let text = "ann\n:$7$x\nbob:plain text\ncarl:$7$101$!!$!!\n";
        let errors = Users::parse(text).expect_err("nothing of this is right");
        assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(!format!("{errors:?}").contains("plain text"));
        let twice = format!("{FROM_MOSQUITTO}{FROM_MOSQUITTO}");
        assert!(Users::parse(&twice).is_err_and(|errors| errors[0].1.contains("already")));
    }
}
