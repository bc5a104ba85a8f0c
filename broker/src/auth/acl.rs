//! Access control lists in the format of Mosquitto's `acl_file`. Pure.
//!
//! ```text
//! # before the first user: anonymous clients
//! topic read weather/#
//! user pump
//! topic write plant/pump/#
//! topic deny plant/pump/secret
//! # every client, with its user name and client id
//! pattern readwrite devices/%u/%c/#
//! ```
//!
//! What no rule allows is refused, and a `deny` that matches wins over every other rule, wherever it stands. (In Mosquitto a `topic` that
//! allows wins over a `pattern` that denies.) Reading is checked when a client subscribes, as far as that can be told from the
//! filter, and again for each message: live, retained, or from the log.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::mqtt::topic::{TopicFilter, TopicName};

/// What a client wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Get its messages.
    Read,
    /// Publish to it.
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Right {
    allow: bool,
    read: bool,
    write: bool,
}

impl Right {
    fn of(word: &str) -> Option<Right> {
        let (allow, read, write) = match word {
            "read" => (true, true, false),
            "write" => (true, false, true),
            "readwrite" => (true, true, true),
            "deny" => (false, true, true),
            _ => return None,
        };
        Some(Right { allow, read, write })
    }

    fn concerns(self, what: Use) -> bool {
        match what {
            Use::Read => self.read,
            Use::Write => self.write,
        }
    }
}

#[derive(Clone, Debug)]
struct Rule {
    right: Right,
    filter: TopicFilter,
}

/// A rule whose filter takes in the client's names.
#[derive(Clone, Debug)]
struct Pattern {
    right: Right,
    text: String,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct Acl {
    anonymous: Arc<[Rule]>,
    users: HashMap<String, Arc<[Rule]>>,
    patterns: Vec<Pattern>,
}

/// What one client may do: the rules of its user, shared by all of its clients, and the patterns with its names in them.
#[derive(Clone, Debug)]
pub struct Access {
    rules: Arc<[Rule]>,
    patterns: Box<[Rule]>,
}

/// A name that a pattern would take in holds a wildcard, a separator or nothing, and could widen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsafeName;

impl fmt::Display for UnsafeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the user name or client id holds a character that access patterns cannot take in: one of + # /")
    }
}

impl std::error::Error for UnsafeName {}

impl Acl {
    /// Reads a file.
    ///
    /// # Errors
    /// Every line that is not understood, with its number.
    pub fn parse(text: &str) -> Result<Acl, Vec<(usize, String)>> {
        let mut errors = Vec::new();
        let mut acl = Acl::default();
        let mut anonymous = Vec::new();
        let mut users: HashMap<String, Vec<Rule>> = HashMap::new();
        let mut user: Option<String> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "user" if rest.is_empty() => errors.push((number, "expected a name behind `user`".to_owned())),
                "user" => {
                    users.entry(rest.to_owned()).or_default();
                    user = Some(rest.to_owned());
                }
                "topic" => match right(rest).and_then(|(right, text)| Ok(Rule { right, filter: filter(text)? })) {
                    Ok(rule) => match &user {
                        Some(user) => users.entry(user.clone()).or_default().push(rule),
                        None => anonymous.push(rule),
                    },
                    Err(what) => errors.push((number, what)),
                },
                "pattern" => match right(rest).and_then(|(right, text)| {
                    // Names are put in later; any word shows whether the rest is a filter.
                    filter(&text.replace("%c", "c").replace("%u", "u"))?;
                    Ok(Pattern { right, text: text.to_owned() })
                }) {
                    Ok(pattern) => acl.patterns.push(pattern),
                    Err(what) => errors.push((number, what)),
                },
                _ => errors.push((number, format!("expected `user`, `topic` or `pattern`, found \"{word}\""))),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        acl.anonymous = anonymous.into();
        acl.users = users.into_iter().map(|(name, rules)| (name, rules.into())).collect();
        Ok(acl)
    }

    /// What a client may do; `username` is `None` for an anonymous one.
    ///
    /// # Errors
    /// See [`UnsafeName`].
    pub fn access(&self, username: Option<&str>, client_id: &str) -> Result<Access, UnsafeName> {
        let rules = match username {
            None => Arc::clone(&self.anonymous),
            Some(name) => self.users.get(name).cloned().unwrap_or_default(),
        };
        let mut patterns = Vec::new();
        for pattern in &self.patterns {
            // Without a name there is nothing that the pattern could mean.
            let Some(text) = filled(&pattern.text, username, client_id)? else { continue };
            let filter = TopicFilter::new(text).map_err(|_| UnsafeName)?;
            patterns.push(Rule { right: pattern.right, filter });
        }
        Ok(Access { rules, patterns: patterns.into() })
    }
}

fn right(text: &str) -> Result<(Right, &str), String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match Right::of(word) {
        Some(right) if !rest.trim().is_empty() => Ok((right, rest.trim())),
        Some(_) => Err(format!("expected a topic filter behind `{word}`")),
        None if text.is_empty() => Err("expected a topic filter".to_owned()),
        None => Ok((Right { allow: true, read: true, write: true }, text)),
    }
}

fn filter(text: &str) -> Result<TopicFilter, String> {
    text.parse::<TopicFilter>().map_err(|e| format!("\"{text}\" is no topic filter: {e}"))
}

/// The pattern with the client's names in it; `None` if it takes in a user name and there is none. In one pass: what a name holds is a name,
/// also where it reads `%c`.
///
/// # Errors
/// A name that cannot be one level of a topic.
pub(crate) fn filled(pattern: &str, username: Option<&str>, client_id: &str) -> Result<Option<String>, UnsafeName> {
    let mut text = String::with_capacity(pattern.len() + client_id.len());
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        let (before, found) = rest.split_at(at);
        text.push_str(before);
        let name = match found.as_bytes().get(1) {
            Some(b'u') => match username {
                Some(name) => plain(name)?,
                None => return Ok(None),
            },
            Some(b'c') => plain(client_id)?,
            _ => {
                text.push('%');
                rest = &found[1..];
                continue;
            }
        };
        text.push_str(name);
        rest = &found[2..];
    }
    text.push_str(rest);
    Ok(Some(text))
}

fn plain(name: &str) -> Result<&str, UnsafeName> {
    if name.is_empty() || name.contains(['+', '#', '/']) { Err(UnsafeName) } else { Ok(name) }
}

impl Access {
    /// Just what these filters say, with `%u` and `%c` for the client's names.
    ///
    /// # Errors
    /// A filter that is none, or see [`UnsafeName`].
    pub fn of(write: &[String], read: &[String], username: &str, client_id: &str) -> Result<Access, UnsafeName> {
        let rule = |right: Right, text: &String| {
            let text = filled(text, Some(username), client_id)?.unwrap_or_default();
            Ok(Rule { right, filter: TopicFilter::new(text).map_err(|_| UnsafeName)? })
        };
        let writes = Right { allow: true, read: false, write: true };
        let reads = Right { allow: true, read: true, write: false };
        let patterns = write.iter().map(|text| rule(writes, text)).chain(read.iter().map(|text| rule(reads, text)));
        Ok(Access { rules: Arc::default(), patterns: patterns.collect::<Result<_, UnsafeName>>()? })
    }

    /// Whether the client may do this with the topic.
    #[must_use]
    pub fn may(&self, what: Use, topic: &TopicName) -> bool {
        let mut allowed = false;
        for rule in self.rules(what).filter(|rule| rule.filter.matches(topic)) {
            if !rule.right.allow {
                return false;
            }
            allowed = true;
        }
        allowed
    }

    /// Whether a subscription can bring the client anything: a rule lets it read some topic of the filter, and none denies all of them.
    #[must_use]
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        let mut allowed = false;
        for rule in self.rules(Use::Read) {
            if rule.right.allow {
                allowed |= rule.filter.overlaps(filter);
            } else if covers(&rule.filter, filter) {
                return false;
            }
        }
        allowed
    }

    fn rules(&self, what: Use) -> impl Iterator<Item = &Rule> {
        self.rules.iter().chain(&self.patterns).filter(move |rule| rule.right.concerns(what))
    }
}

/// Whether every topic that `inner` matches is matched by `outer`.
fn covers(outer: &TopicFilter, inner: &TopicFilter) -> bool {
    let mut inner_levels = inner.levels();
    let mut first = true;
    for level in outer.levels() {
        let found = inner_levels.next();
        // A wildcard on the first level sees no topic that begins with `$` [MQTT-4.7.2-1].
        let hidden = std::mem::take(&mut first) && found.is_some_and(|level| level.starts_with(b"$"));
        match (level, found) {
            (b"#", _) => return !hidden,
            (_, None) => return false,
            (b"+", Some(found)) if found == b"#" || hidden => return false,
            (b"+", Some(_)) => {}
            (level, Some(found)) if level != found => return false,
            (_, Some(_)) => {}
        }
    }
    inner_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "\
# anonymous
topic read weather/#

user pump
topic write plant/pump/#
topic deny plant/pump/secret/#
topic plant/shared with space
user watcher
topic read #
pattern readwrite devices/%u/%c/#
pattern write status/%c
";

    fn access(username: Option<&str>, client_id: &str) -> Access {
        Acl::parse(FILE).expect("a proper file").access(username, client_id).expect("plain names")
    }

    fn topic(text: &str) -> TopicName {
        text.parse().expect("a proper topic")
    }

    fn may(access: &Access, what: Use, text: &str) -> bool {
        access.may(what, &topic(text))
    }

    #[test]
    fn a_client_may_do_what_its_rules_allow_and_nothing_else() {
        let pump = access(Some("pump"), "p1");
        assert!(may(&pump, Use::Write, "plant/pump/speed"));
        assert!(!may(&pump, Use::Read, "plant/pump/speed"));
        assert!(!may(&pump, Use::Write, "plant/pump/secret/key"), "a denial wins");
        assert!(may(&pump, Use::Read, "plant/shared with space") && may(&pump, Use::Write, "plant/shared with space"));
        assert!(!may(&pump, Use::Read, "weather/now"), "what anonymous clients may is theirs");
        let stranger = access(None, "x");
        assert!(may(&stranger, Use::Read, "weather/now") && !may(&stranger, Use::Write, "weather/now"));
        assert!(!may(&access(Some("unheard of"), "x"), Use::Read, "weather/now"));
        assert!(!may(&access(Some("watcher"), "x"), Use::Read, "$SYS/broker/uptime"), "# does not see $ topics");
    }

    #[test]
    fn patterns_take_in_the_names_of_the_client() {
        let pump = access(Some("pump"), "p1");
        assert!(may(&pump, Use::Write, "devices/pump/p1/x") && may(&pump, Use::Read, "devices/pump/p1"));
        assert!(!may(&pump, Use::Write, "devices/pump/p2/x") && !may(&pump, Use::Write, "devices/watcher/p1/x"));
        assert!(may(&access(None, "a"), Use::Write, "status/a"), "no user name is needed where none is taken in");
        let acl = Acl::parse(FILE).expect("a proper file");
        for (user, client) in [("pump", "#"), ("pump", "+"), ("+", "a"), ("a/b", "c"), ("pump", "")] {
            assert_eq!(acl.access(Some(user), client).err(), Some(UnsafeName), "{user} {client}");
        }
        assert!(may(&access(Some("%c"), "p1"), Use::Write, "devices/%c/p1/x"), "a name is not looked into");
        assert!(!may(&access(Some("%c"), "p1"), Use::Write, "devices/p1/p1/x"));
        assert!(
            may(&access(Some("a"), "%u"), Use::Write, "devices/a/%u")
                && may(&access(None, "50%"), Use::Write, "status/50%")
        );
        let percent =
            Acl::parse("pattern read 100%/%x/%%c/%").expect("a proper file").access(None, "d").expect("plain");
        assert!(may(&percent, Use::Read, "100%/%x/%d/%"), "what is no place for a name stays");
        let plain = Acl::parse("topic read #").expect("a proper file");
        assert!(plain.access(Some("a+b"), "#").is_ok(), "nothing takes them in");
    }

    #[test]
    fn a_subscription_is_refused_when_it_can_bring_nothing() {
        let pump = access(Some("pump"), "p1");
        let may = |text: &str| pump.may_subscribe(&text.parse().expect("a proper filter"));
        assert!(may("devices/pump/+/temp") && may("devices/#") && may("#"));
        assert!(!may("plant/pump/speed") && !may("weather/#") && !may("plant/pump/secret/a"));
        let reader = Acl::parse("topic read #\ntopic deny secret/#").expect("proper").access(None, "x").expect("plain");
        let may = |text: &str| reader.may_subscribe(&text.parse().expect("a proper filter"));
        assert!(may("#") && may("secre/+") && !may("secret/#") && !may("secret/+/x") && !may("secret"));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        let errors = Acl::parse("usr a\ntopic\ntopic read\ntopic read a/#/b\nuser\npattern write %c/#/x\n")
            .expect_err("nothing of this is right");
        let lines: Vec<usize> = errors.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6], "{errors:?}");
        assert!(errors[0].1.contains("found \"usr\""), "{errors:?}");
    }

    proptest! {
        #[test]
        fn a_filter_that_covers_another_matches_what_that_matches(
            outer in "[ab+]{1}(/[ab+]){0,2}(/#)?", inner in "[ab+]{1}(/[ab+]){0,2}(/#)?", text in "[ab](/[ab]){0,3}",
        ) {
            let (outer, inner): (TopicFilter, TopicFilter) =
                (outer.parse().expect("proper"), inner.parse().expect("proper"));
            if covers(&outer, &inner) && inner.matches(&topic(&text)) {
                prop_assert!(outer.matches(&topic(&text)));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Acl::parse(&text);
        }
    }
}
