//! Access control lists: what a file allows is what a plain reading of it allows.

use headwater_broker::auth::acl::{Acl, Use};
use headwater_broker::mqtt::topic::{TopicFilter, TopicName};

use crate::input::parts;
use crate::topic::plainly_matches;

/// A user name (none if empty), a client id, a topic, a topic filter and the file, with NUL between them.
pub fn check(data: &[u8]) {
    let [user, client_id, topic, filter, file] = parts::<5>(data);
    let user = Some(&*user).filter(|name| !name.is_empty());
    let acl = match Acl::parse(&file) {
        Ok(acl) => acl,
        Err(errors) => {
            let lines = file.lines().count();
            assert!(!errors.is_empty());
            assert!(errors.iter().all(|(line, what)| (1..=lines).contains(line) && !what.is_empty()), "{errors:?}");
            return;
        }
    };
    let (topic, filter) = (topic.parse::<TopicName>(), filter.parse::<TopicFilter>());
    let Ok(access) = acl.access(user, &client_id) else {
        let unsafe_name = |name: &str| name.is_empty() || name.contains(['+', '#', '/']) || name.len() > 1_000;
        assert!(unsafe_name(&client_id) || user.is_some_and(unsafe_name), "{user:?} {client_id}");
        return;
    };
    let Ok(topic) = topic else { return };
    for (what, read, write) in [(Use::Read, true, false), (Use::Write, false, true)] {
        let plain = plainly_may(&file, user, &client_id, topic.as_str(), read, write);
        assert_eq!(access.may(what, &topic), plain, "{what:?} {topic}");
    }
    if let Ok(filter) = filter
        && filter.matches(&topic)
        && access.may(Use::Read, &topic)
    {
        assert!(access.may_subscribe(&filter), "{topic} may be read, so {filter} may be subscribed to");
    }
}

/// As a person reads the file: the last `user` line counts, `deny` wins.
fn plainly_may(file: &str, user: Option<&str>, client_id: &str, topic: &str, read: bool, write: bool) -> bool {
    let (mut section, mut allowed) = (None, false);
    for line in file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if word == "user" {
            section = Some(rest);
            continue;
        }
        let (right, text) = match rest.split_once(char::is_whitespace) {
            Some((right @ ("read" | "write" | "readwrite" | "deny"), text)) => (right, text.trim()),
            _ => ("readwrite", rest),
        };
        let filter = match (word, user) {
            ("topic", _) if section == user => text.to_owned(),
            ("pattern", None) if text.contains("%u") => continue,
            ("pattern", _) => {
                text.split("%c").map(|t| t.replace("%u", user.unwrap_or_default())).collect::<Vec<_>>().join(client_id)
            }
            _ => continue,
        };
        // A shared filter stands for what it shares.
        let filter = match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
            Some((_, shared)) => shared,
            None => &filter,
        };
        let concerned =
            right == "deny" || right == "readwrite" || (right == "read" && read) || (right == "write" && write);
        if concerned && plainly_matches(filter, topic) {
            if right == "deny" {
                return false;
            }
            allowed = true;
        }
    }
    allowed
}
