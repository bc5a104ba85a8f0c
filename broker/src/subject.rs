//! MQTT topics as NATS subjects and back, as nats-server maps them, so that an MQTT client of either sees the same names.
//!
//! A subject is a list of tokens between dots, and no token may be empty. So each level of a topic becomes a token:
//!
//! | in a topic | in the subject | |
//! |---|---|---|
//! | `/` between levels | `.` | |
//! | an empty level | `/` | `/a` is `/.a`, `a/` is `a./`, `a//b` is `a./.b` |
//! | `.` | `//` | |
//! | space, U+0001-U+001F, U+007F, `*`, `>` | `%20`, `%01`, ..., `%2A`, `%3E` | nats-server refuses some of these; a gateway must not lose the message |
//! | `%` | `%25` where it would be read as one of these escapes (or as itself), else `%` | `50%` stays `50%`, `a%20` is `a%2520` |
//! | `+`, `#` as a level of a filter | `*`, `>` | |
//!
//! The mapping of topics can be reversed: [`topic`] of [`append_subject`] is the topic, for every topic. A subject can be
//! up to three times as long as its topic.

use crate::mqtt::topic::{TopicError, TopicFilter, TopicName};

/// Appends the subject of `topic` to `out`. It is valid for publishing: no empty token, no wildcard, no white space.
pub fn append_subject(topic: &TopicName, out: &mut String) {
    append_levels(topic.as_str(), out);
}

/// The subjects whose messages are those of `filter`: one, or two where the filter ends in `/#`, because `a/#` stands
/// for `a` as well, and `a.>` does not. A share name is not part of them.
///
/// That a leading wildcard does not see topics that begin with `$` [MQTT-4.7.2-1] cannot be said in a subject: who
/// subscribes in NATS leaves those out himself.
#[must_use]
pub fn filter_subjects(filter: &TopicFilter) -> Vec<String> {
    let mut subject = String::with_capacity(filter.as_bytes().len());
    let mut subjects = Vec::with_capacity(2);
    for level in filter.levels() {
        let parent = subject.len();
        if parent > 0 {
            subject.push('.');
        }
        match level {
            b"+" => subject.push('*'),
            b"#" => {
                if parent > 0 {
                    subjects.push(subject[..parent].to_owned());
                }
                subject.push('>');
            }
            level => append_level(std::str::from_utf8(level).expect("levels of a filter are UTF-8"), &mut subject),
        }
    }
    subjects.push(subject);
    subjects
}

/// The topic of a subject. A `/` that stands for nothing is left out, as nats-server does.
///
/// # Errors
/// The subject has no topic: it holds a `+` or `#`, or is empty, too long or too deep.
pub fn topic(subject: &str) -> Result<TopicName, TopicError> {
    let mut out = Vec::with_capacity(subject.len());
    for (index, token) in subject.split('.').enumerate() {
        if index > 0 {
            out.push(b'/');
        }
        append_token(token, &mut out);
    }
    TopicName::new(out)
}

/// The filter that takes the topics of the subjects that a subject with wildcards takes: `*` is `+`, and a `>` at the end is `+/#`, as it
/// stands for one token at least. Topics that begin with `$` a leading wildcard does not see [MQTT-4.7.2-1].
///
/// # Errors
/// A token is empty, a wildcard shares its token, `>` is not the last one, or the filter is too long or too deep.
pub fn filter(subject: &str) -> Result<TopicFilter, TopicError> {
    let mut out = Vec::with_capacity(subject.len());
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Err(TopicError::Empty),
            "*" => out.push(b'+'),
            ">" if tokens.peek().is_none() => out.extend_from_slice(b"+/#"),
            token if token.contains(['*', '>', '+', '#']) => return Err(TopicError::MisplacedWildcard),
            token => append_token(token, &mut out),
        }
        if tokens.peek().is_some() {
            out.push(b'/');
        }
    }
    TopicFilter::new(out)
}

fn append_token(token: &str, out: &mut Vec<u8>) {
    let mut rest = token.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'/' => {
                if let Some(behind) = rest.strip_prefix(b"/") {
                    out.push(b'.');
                    rest = behind;
                }
            }
            b'%' => match escaped(rest) {
                Some(byte) => {
                    out.push(byte);
                    rest = &rest[2..];
                }
                None => out.push(b'%'),
            },
            byte => out.push(*byte),
        }
    }
}

fn append_levels(text: &str, out: &mut String) {
    for (index, level) in text.split('/').enumerate() {
        if index > 0 {
            out.push('.');
        }
        append_level(level, out);
    }
}

fn append_level(level: &str, out: &mut String) {
    if level.is_empty() {
        out.push('/');
    }
    let mut plain = 0;
    for (index, byte) in level.bytes().enumerate() {
        let escape = match byte {
            b'.' => false,
            b'%' => escaped(&level.as_bytes()[index + 1..]).is_some(),
            byte => is_escaped(byte),
        };
        if !escape && byte != b'.' {
            continue;
        }
        // All that is replaced is ASCII, so the text may be cut there.
        out.push_str(&level[plain..index]);
        plain = index + 1;
        if escape {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 0x0F)]));
        } else {
            out.push_str("//");
        }
    }
    out.push_str(&level[plain..]);
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Cannot stand in a subject for itself.
fn is_escaped(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b' ' | b'*' | b'>')
}

/// What the two digits behind a `%` stand for, if they are an escape of ours.
fn escaped(behind: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| HEX.iter().position(|hex| hex == byte);
    let byte = u8::try_from(digit(behind.first()?)? * 16 + digit(behind.get(1)?)?).ok()?;
    (is_escaped(byte) || byte == b'%').then_some(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subject(text: &str) -> String {
        let mut out = String::new();
        append_subject(&text.parse().expect(text), &mut out);
        out
    }

    /// Valid for publishing in nats-server: tokens, none empty, no wildcard token, nothing that ends a protocol field.
    fn assert_publishable(subject: &str) {
        for token in subject.split('.') {
            assert!(!token.is_empty(), "{subject:?}");
            assert!(
                !token.bytes().any(|byte| byte <= b' ' || byte == 0x7F || byte == b'*' || byte == b'>'),
                "{subject:?}"
            );
        }
    }

    /// Pairs that nats-server's own tests name.
    #[test]
    fn topics_map_as_in_nats_server() {
        for (topic_text, expected) in [
            ("/", "/./"),
            ("//", "/././"),
            ("foo", "foo"),
            ("/foo", "/.foo"),
            ("//foo", "/./.foo"),
            ("///foo//", "/././.foo././"),
            ("//.foo.//", "/././/foo//././"),
            ("foo/bar", "foo.bar"),
            ("/foo/bar/", "/.foo.bar./"),
            ("bar/", "bar./"),
            ("bar///", "bar./././"),
            ("foo//bar", "foo./.bar"),
            ("foo////bar", "foo./././.bar"),
            (".", "//"),
            ("..", "////"),
            ("./", "//./"),
            (".//.", "//././/"),
            ("././/.", "//.//././/"),
            (".foo.", "//foo//"),
            ("foo../bar/", "foo////.bar./"),
        ] {
            assert_eq!(subject(topic_text), expected, "{topic_text}");
            assert_eq!(topic(expected).map(|topic| topic.to_string()), Ok(topic_text.to_owned()));
        }
    }

    #[test]
    fn what_a_subject_cannot_hold_is_escaped() {
        for (topic_text, expected) in [
            ("a b", "a%20b"),
            ("a\tb\u{7F}", "a%09b%7F"),
            ("a/*/>", "a.%2A.%3E"),
            ("50%", "50%"),
            ("%%20", "%%2520"),
            ("%25", "%2525"),
            ("%2", "%2"),
            ("%2 0", "%2%200"),
            ("%zz/%2a", "%zz.%2a"),
            ("größe/日本", "größe.日本"),
        ] {
            assert_eq!(subject(topic_text), expected, "{topic_text}");
            assert_eq!(topic(expected).map(|topic| topic.to_string()), Ok(topic_text.to_owned()));
        }
    }

    #[test]
    fn filters_map_to_subjects_with_wildcards() {
        let subjects = |text: &str| filter_subjects(&text.parse().expect(text));
        assert_eq!(subjects("a/+/b"), ["a.*.b"]);
        assert_eq!(subjects("#"), [">"]);
        assert_eq!(subjects("a/#"), ["a", "a.>"]);
        assert_eq!(subjects("/#"), ["/", "/.>"]);
        assert_eq!(subjects("+/#"), ["*", "*.>"]);
        assert_eq!(subjects("a//+"), ["a./.*"]);
        assert_eq!(subjects("a.b/*"), ["a//b.%2A"]);
        assert_eq!(subjects("$share/g/a/+"), ["a.*"]);
    }

    #[test]
    fn subjects_with_wildcards_map_to_filters() {
        for (text, expected) in [
            ("a.*.b", "a/+/b"),
            (">", "+/#"),
            ("a.>", "a/+/#"),
            ("/.*", "/+"),
            ("a./", "a/"),
            ("a//b.c", "a.b/c"),
            ("a%20b.%2A", "a b/*"),
        ] {
            assert_eq!(filter(text).map(|filter| filter.as_str().to_owned()), Ok(expected.to_owned()), "{text}");
        }
        for (text, error) in [
            ("", TopicError::Empty),
            ("a..b", TopicError::Empty),
            ("a.", TopicError::Empty),
            ("a.>.b", TopicError::MisplacedWildcard),
            ("a*", TopicError::MisplacedWildcard),
            ("a.#", TopicError::MisplacedWildcard),
            ("+", TopicError::MisplacedWildcard),
        ] {
            assert_eq!(filter(text).map(|_| ()), Err(error), "{text}");
        }
    }

    #[test]
    fn subjects_without_a_topic_are_refused() {
        assert_eq!(topic("a.+"), Err(TopicError::Wildcard));
        assert_eq!(topic(""), Err(TopicError::Empty));
        assert_eq!(topic("a/b").map(|topic| topic.to_string()), Ok("ab".to_owned()));
    }

    fn topics() -> impl Strategy<Value = TopicName> {
        let chars = prop_oneof![
            6 => prop::sample::select("/.%*> 2025AEa\u{1}\u{7F}".chars().collect::<Vec<_>>()),
            1 => any::<char>(),
        ];
        prop::collection::vec(chars, 1..24)
            .prop_map(String::from_iter)
            .prop_filter_map("not a topic", |text| text.parse::<TopicName>().ok())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn every_topic_comes_back_from_its_subject(name in topics()) {
            let subject = subject(name.as_str());
            assert_publishable(&subject);
            prop_assert!(subject.len() <= 3 * name.as_bytes().len());
            prop_assert_eq!(topic(&subject), Ok(name));
        }

        /// A filter in MQTT and its subjects in NATS take the same topics.
        #[test]
        fn filters_and_their_subjects_agree(
            levels in prop::collection::vec(prop::sample::select(vec!["", "a", ".", "+", "*"]), 1..4),
            hash in any::<bool>(),
            name in prop::collection::vec(prop::sample::select(vec!["", "a", ".", "*", "%2A"]), 1..5),
        ) {
            let filter = levels.join("/") + if hash { "/#" } else { "" };
            let (Ok(filter), Ok(name)) = (filter.parse::<TopicFilter>(), name.join("/").parse::<TopicName>()) else {
                return Ok(());
            };
            let subject = subject(name.as_str());
            let taken = filter_subjects(&filter).iter().any(|pattern| nats_matches(pattern, &subject));
            prop_assert_eq!(taken, filter.matches(&name));
        }

        #[test]
        fn a_subject_with_wildcards_takes_what_its_filter_takes(
            tokens in prop::collection::vec(prop::sample::select(vec!["/", "a", "//", "*", "%2A"]), 1..4),
            rest in any::<bool>(),
            name in prop::collection::vec(prop::sample::select(vec!["", "a", ".", "*"]), 1..5),
        ) {
            let pattern = tokens.join(".") + if rest { ".>" } else { "" };
            // `/` alone stands for an empty topic, which is none.
            let (Ok(filter), Ok(name)) = (filter(&pattern), name.join("/").parse::<TopicName>()) else {
                prop_assert!(pattern == "/" || name.concat().is_empty());
                return Ok(());
            };
            prop_assert_eq!(filter.matches(&name), nats_matches(&pattern, &subject(name.as_str())));
        }

        #[test]
        fn no_subject_panics(subject in ".{0,16}") {
            let _ = topic(&subject); // only that it does not panic
            let _ = filter(&subject); // the same
        }
    }

    fn nats_matches(pattern: &str, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for part in pattern.split('.') {
            match (part, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (part, Some(token)) if part == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}
