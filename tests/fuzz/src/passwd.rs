//! Password files: lines are named where they are wrong, hashes never, and what was read is written as it was meant.

use headwater_broker::auth::secret::Secret;
use headwater_broker::auth::users::Users;

/// Stands in no message of ours.
const MARK: char = '\u{1F511}';

/// The whole file.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().count();
    match Users::parse(&text) {
        Ok(users) => {
            assert!(users.len() <= lines);
            assert!(!users.is_proved("pump", b"secret"), "nothing was proved yet");
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for (line, what) in errors {
                assert!((1..=lines).contains(&line) && !what.is_empty(), "{line}: {what}");
            }
        }
    }
    for (name, hash) in text.lines().filter_map(|line| line.trim_end().split_once(':')) {
        secret(hash);
        if !name.contains(MARK) {
            let errors = Users::parse(&format!("{name}:{hash}{MARK}")).err().unwrap_or_default();
            assert!(errors.iter().all(|(_, what)| !what.contains(MARK)), "{errors:?}");
        }
    }
}

fn secret(hash: &str) {
    let Ok(secret) = Secret::parse(hash) else { return };
    let written = secret.to_string();
    assert_eq!(Secret::parse(&written).as_ref(), Ok(&secret), "{written}");
    // Whether a password fits is asked only where that costs little.
    let cheap = match written.split('$').collect::<Vec<_>>()[..] {
        [_, "argon2id", _, costs, ..] => ["m=8,t=1,p=1", "m=16,t=1,p=2", "m=32,t=2,p=4"].contains(&costs),
        [_, "7", iterations, ..] => iterations.len() < 3,
        _ => false,
    };
    if cheap {
        assert!(!secret.verify(b"no one has this password") || !secret.verify(b"nor this one"));
    }
}
