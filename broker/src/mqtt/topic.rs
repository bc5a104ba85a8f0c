//! Topic names and topic filters that are valid by construction (4.7).
//!
//! Both hold the bytes they were made from, so a name read off the wire shares the buffer of its packet. Code that keeps
//! a name or filter for longer than the packet calls [`TopicName::detached`] so that it does not keep that buffer alive.

use std::fmt;

use bytes::Bytes;

/// Longest topic name or filter, in bytes of UTF-8 [MQTT-4.7.3-3].
pub const MAX_TOPIC_BYTES: usize = 65_535;

/// Most levels of a topic name or filter. The specification sets no limit; ours bounds the depth of the subscription
/// trie and the work of one match. nats-server and common clients stay far below it.
pub const MAX_LEVELS: usize = 128;

/// Why a text is not a topic name or topic filter. Trying again cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// Zero bytes [MQTT-4.7.3-1].
    Empty,
    /// More than [`MAX_TOPIC_BYTES`] [MQTT-4.7.3-3].
    TooLong,
    /// More than [`MAX_LEVELS`] levels.
    TooDeep,
    /// Not UTF-8 [MQTT-1.5.4-1].
    NotUtf8,
    /// Contains U+0000 [MQTT-4.7.3-2].
    Nul,
    /// A topic name with `+` or `#` [MQTT-4.7.1-1].
    Wildcard,
    /// A filter whose `#` is not the last level alone [MQTT-4.7.1-1], or whose `+` shares its level [MQTT-4.7.1-2].
    MisplacedWildcard,
    /// `$share/` without a share name, or without a filter behind it [MQTT-4.8.2-1, MQTT-4.8.2-2].
    BadShare,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TopicError::Empty => "is empty",
            TopicError::TooLong => "is longer than 65,535 bytes",
            TopicError::TooDeep => "has more than 128 levels",
            TopicError::NotUtf8 => "is not UTF-8",
            TopicError::Nul => "contains a NUL character",
            TopicError::Wildcard => "contains a wildcard (`+` or `#`)",
            TopicError::MisplacedWildcard => {
                "has a misplaced wildcard: `+` and `#` stand alone in a level, `#` in the last"
            }
            TopicError::BadShare => "is not of the form `$share/NAME/FILTER`",
        })
    }
}

impl std::error::Error for TopicError {}

/// A valid topic name: 1-65,535 bytes of UTF-8 without NUL and without wildcards. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Bytes);

impl TopicName {
    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// What the text violates, as [`TopicError`] says.
    pub fn new(bytes: impl Into<Bytes>) -> Result<TopicName, TopicError> {
        let bytes = bytes.into();
        check_text(&bytes)?;
        let mut levels = 1;
        for byte in bytes.iter() {
            match byte {
                b'/' => levels += 1,
                b'+' | b'#' => return Err(TopicError::Wildcard),
                _ => {}
            }
        }
        if levels > MAX_LEVELS {
            return Err(TopicError::TooDeep);
        }
        Ok(TopicName(bytes))
    }

    /// The text. Checks the UTF-8 again (the crate forbids `unsafe`): for people, not for the hot path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The text as shared bytes; clone it to share them.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The levels, in order; a level may be empty.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        levels(&self.0)
    }

    /// Begins with `$`: not matched by a filter that begins with a wildcard [MQTT-4.7.2-1].
    #[must_use]
    pub fn is_dollar(&self) -> bool {
        self.0[0] == b'$'
    }

    /// A copy in a buffer of its own, for keeping.
    #[must_use]
    pub fn detached(&self) -> TopicName {
        TopicName(Bytes::copy_from_slice(&self.0))
    }
}

impl std::str::FromStr for TopicName {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<TopicName, TopicError> {
        TopicName::new(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A valid topic filter, wildcards included. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Bytes);

impl TopicFilter {
    /// Checks `bytes` and keeps them.
    ///
    /// # Errors
    /// What the text violates, as [`TopicError`] says.
    pub fn new(bytes: impl Into<Bytes>) -> Result<TopicFilter, TopicError> {
        let bytes = bytes.into();
        check_text(&bytes)?;
        let mut pattern = &bytes[..];
        if let Some(rest) = bytes.strip_prefix(SHARE) {
            let slash = rest.iter().position(|byte| *byte == b'/').ok_or(TopicError::BadShare)?;
            let (name, filter) = (&rest[..slash], &rest[slash + 1..]);
            if name.is_empty() || filter.is_empty() || name.iter().any(|byte| matches!(byte, b'+' | b'#')) {
                return Err(TopicError::BadShare);
            }
            pattern = filter;
        }
        let mut depth = 0;
        let mut after_hash = false;
        for level in levels(pattern) {
            depth += 1;
            if after_hash || (level.len() > 1 && level.iter().any(|byte| matches!(byte, b'+' | b'#'))) {
                return Err(TopicError::MisplacedWildcard);
            }
            after_hash = level == b"#";
        }
        if depth > MAX_LEVELS {
            return Err(TopicError::TooDeep);
        }
        Ok(TopicFilter(bytes))
    }

    /// The text. Checks the UTF-8 again (the crate forbids `unsafe`): for people, not for the hot path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        text(&self.0)
    }

    /// The text as shared bytes; clone it to share them. A share name is part of it.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The levels that topics are compared with, in order: without `$share/NAME/`.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        levels(self.pattern())
    }

    /// The filter of a shared subscription, `$share/NAME/FILTER` [MQTT-4.8.2-1].
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.0.starts_with(SHARE)
    }

    /// Has no `+` and no `#`.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.levels().any(|level| matches!(level, b"+" | b"#"))
    }

    /// Whether a message to `topic` is for this filter. `+` stands for one level, `#` for any number including none
    /// [MQTT-4.7.1-1], and neither for a first level that begins with `$` [MQTT-4.7.2-1].
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut names = topic.levels();
        let mut first = true;
        for level in self.levels() {
            let hidden = first && topic.is_dollar();
            first = false;
            match (level, names.next()) {
                (b"#", _) => return !hidden,
                (b"+", Some(_)) if !hidden => {}
                (literal, Some(name)) if literal == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether there is any topic that both filters match.
    #[must_use]
    pub fn overlaps(&self, other: &TopicFilter) -> bool {
        let (mut ours, mut theirs) = (self.levels(), other.levels());
        let mut first = true;
        loop {
            let pair = (ours.next(), theirs.next());
            // A wildcard in the first level cannot meet a literal that begins with `$`.
            let hidden = |level: &[u8]| first && level.starts_with(b"$");
            match pair {
                (None, None) => return true,
                (Some(b"#"), None) | (None, Some(b"#")) => return true,
                (Some(b"#"), Some(level)) | (Some(level), Some(b"#")) => return !hidden(level),
                (Some(b"+"), Some(level)) | (Some(level), Some(b"+")) if !hidden(level) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
            first = false;
        }
    }

    /// A copy in a buffer of its own, for keeping.
    #[must_use]
    pub fn detached(&self) -> TopicFilter {
        TopicFilter(Bytes::copy_from_slice(&self.0))
    }

    fn pattern(&self) -> &[u8] {
        match self.0.strip_prefix(SHARE) {
            Some(rest) => {
                let slash = rest.iter().position(|byte| *byte == b'/').expect("a share name is followed by `/`");
                &rest[slash + 1..]
            }
            None => &self.0,
        }
    }
}

impl std::str::FromStr for TopicFilter {
    type Err = TopicError;
    fn from_str(text: &str) -> Result<TopicFilter, TopicError> {
        TopicFilter::new(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

const SHARE: &[u8] = b"$share/";

fn levels(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'/')
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("checked when it was made")
}

fn check_text(bytes: &[u8]) -> Result<(), TopicError> {
    if bytes.is_empty() {
        return Err(TopicError::Empty);
    }
    if bytes.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong);
    }
    if bytes.contains(&0) {
        return Err(TopicError::Nul);
    }
    std::str::from_utf8(bytes).map_err(|_| TopicError::NotUtf8)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> TopicName {
        text.parse().expect(text)
    }

    fn filter(text: &str) -> TopicFilter {
        text.parse().expect(text)
    }

    /// [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3] [MQTT-1.5.4-1] [MQTT-4.7.1-1]
    #[test]
    fn names_that_the_specification_forbids_are_refused() {
        assert_eq!("".parse::<TopicName>(), Err(TopicError::Empty));
        assert_eq!("a\0b".parse::<TopicName>(), Err(TopicError::Nul));
        assert_eq!(TopicName::new(&b"a\xFF"[..]), Err(TopicError::NotUtf8));
        // A surrogate half, U+D800, as CESU-8 would write it.
        assert_eq!(TopicName::new(&b"\xED\xA0\x80"[..]), Err(TopicError::NotUtf8));
        assert_eq!("a/+".parse::<TopicName>(), Err(TopicError::Wildcard));
        assert_eq!("a#".parse::<TopicName>(), Err(TopicError::Wildcard));
        assert!("x".repeat(MAX_TOPIC_BYTES).parse::<TopicName>().is_ok());
        assert_eq!("x".repeat(MAX_TOPIC_BYTES + 1).parse::<TopicName>(), Err(TopicError::TooLong));
        assert!("/".repeat(MAX_LEVELS - 1).parse::<TopicName>().is_ok());
        assert_eq!("/".repeat(MAX_LEVELS).parse::<TopicName>(), Err(TopicError::TooDeep));
    }

    /// [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT-4.7.3-4]
    #[test]
    fn names_keep_spaces_case_empty_levels_and_the_byte_order_mark() {
        for text in ["/", "//", " ", "a b", "A", "/finance", "\u{FEFF}a", "$SYS/x", "a/ /b"] {
            assert_eq!(name(text).as_str(), text);
        }
        assert_ne!(name("ACCOUNTS"), name("Accounts"));
        assert_ne!(name("/finance"), name("finance"));
        assert_eq!(name("/a//b/").levels().collect::<Vec<_>>(), [&b""[..], b"a", b"", b"b", b""]);
    }

    /// [MQTT-4.7.1-1] [MQTT-4.7.1-2]
    #[test]
    fn wildcards_stand_alone_and_hash_stands_last() {
        for good in ["#", "+", "+/+", "/+", "+/", "a/#", "+/#", "a/+/b", "+/tennis/#", "/#", "//#"] {
            assert!(good.parse::<TopicFilter>().is_ok(), "{good}");
        }
        for bad in
            ["a#", "#/", "#/a", "a/#/b", "##", "a+", "+a", "++", "a/b+/c", "sport/tennis#", "sport/tennis/#/ranking"]
        {
            assert_eq!(bad.parse::<TopicFilter>(), Err(TopicError::MisplacedWildcard), "{bad}");
        }
        assert_eq!("".parse::<TopicFilter>(), Err(TopicError::Empty));
    }

    /// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    #[test]
    fn shared_filters_have_a_name_and_a_filter() {
        assert!(filter("$share/g/a/+").is_shared());
        assert!(filter("$share/g/a/+").matches(&name("a/b")));
        assert!(!filter("$share/g/a/+").matches(&name("$share/g/a/b")));
        assert!(!filter("$shared/g").is_shared());
        assert!(!filter("$share").is_shared());
        for bad in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a"] {
            assert_eq!(bad.parse::<TopicFilter>(), Err(TopicError::BadShare), "{bad}");
        }
        assert_eq!("$share/g/a#".parse::<TopicFilter>(), Err(TopicError::MisplacedWildcard));
    }

    /// The examples of section 4.7.1. [MQTT-4.7.1-1] [MQTT-4.7.1-2]
    #[test]
    fn the_examples_of_the_specification_match_as_it_says() {
        let cases = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "anything/at/all", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("+", "finance", true),
        ];
        for (pattern, topic, expected) in cases {
            assert_eq!(filter(pattern).matches(&name(topic)), expected, "{pattern} {topic}");
        }
    }

    /// [MQTT-4.7.2-1]
    #[test]
    fn a_leading_wildcard_does_not_see_dollar_topics() {
        let cases = [
            ("#", "$SYS/a", false),
            ("#", "$", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/#", "$SYS", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/+", "a/$x", true),
            ("a/#", "a/$x", true),
        ];
        for (pattern, topic, expected) in cases {
            assert_eq!(filter(pattern).matches(&name(topic)), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn overlap_is_told_from_disjoint() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/b/#", "a", false),
            ("#", "a", true),
            ("#", "$SYS/a", false),
            ("+/a", "$SYS/a", false),
            ("#", "$SYS/#", false),
            ("$SYS/#", "$SYS/+", true),
            ("a/#", "a/$x", true),
            ("+", "#", true),
            ("+/+", "+", false),
            ("/", "+/+", true),
        ];
        for (a, b, expected) in cases {
            assert_eq!(filter(a).overlaps(&filter(b)), expected, "{a} {b}");
            assert_eq!(filter(b).overlaps(&filter(a)), expected, "{b} {a}");
        }
    }

    /// Every filter of up to three levels over a small alphabet against every topic that could tell them apart.
    #[test]
    fn overlap_agrees_with_trying_every_topic() {
        let paths = |alphabet: &[&str]| {
            let mut paths: Vec<String> = alphabet.iter().map(|level| (*level).to_owned()).collect();
            for start in [0, alphabet.len()] {
                let join =
                    |path: &String| alphabet.iter().map(move |level| format!("{path}/{level}")).collect::<Vec<_>>();
                let longer: Vec<String> = paths[start..].iter().flat_map(join).collect();
                paths.extend(longer);
            }
            paths
        };
        let topics: Vec<TopicName> = paths(&["", "a", "$a"]).iter().filter_map(|text| text.parse().ok()).collect();
        let filters: Vec<TopicFilter> =
            paths(&["a", "$a", "+", "#"]).iter().filter_map(|text| text.parse().ok()).collect();
        for a in &filters {
            for b in &filters {
                let expected = topics.iter().any(|topic| a.matches(topic) && b.matches(topic));
                assert_eq!(a.overlaps(b), expected, "{a} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_kept_as_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(topic) = TopicName::new(bytes.clone()) {
                prop_assert_eq!(&topic.as_bytes()[..], &bytes[..]);
                prop_assert!(TopicFilter::new(bytes.clone()).map_or(true, |filter| filter.is_shared() || filter.matches(&topic)));
            }
            if let Ok(filter) = TopicFilter::new(bytes.clone()) {
                prop_assert_eq!(filter.as_str().as_bytes(), &bytes[..]);
                prop_assert!(filter.overlaps(&filter));
            }
        }
    }
}
