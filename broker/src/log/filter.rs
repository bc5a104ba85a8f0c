//! Filters over subjects. Pure.
//!
//! A subject is levels between `/`. In a filter a level `+` stands for one level, and `#`, which must be the last, for any number of
//! them including none. Neither sees a first level that begins with `$`. That is what MQTT says of its filters; `tests/filters.rs` holds
//! the two together, as this module knows nothing of that one.

use std::fmt;

use bytes::Bytes;

const ONE: &[u8] = b"+";
const REST: &[u8] = b"#";

/// Beginnings of a subject are looked at down to this level, so that a subject of thousands of levels costs no more than others.
const MAX_LEVELS: usize = 16;

/// A valid filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectFilter {
    text: Bytes,
    /// Length of the levels in front of the first wildcard, as far as a subject can begin with them.
    literal: usize,
    exact: bool,
}

/// Why a text is no filter: the operator's to solve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// It is empty.
    Empty,
    /// It is longer than any subject: 65,535 bytes.
    TooLong,
    /// A `#` is not the last level, or a wildcard shares its level.
    MisplacedWildcard,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FilterError::Empty => "a filter cannot be empty",
            FilterError::TooLong => "a filter is at most 65,535 bytes long",
            FilterError::MisplacedWildcard => "a + must be a level of its own, and a # the last one",
        })
    }
}

impl std::error::Error for FilterError {}

impl SubjectFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn new(text: impl Into<Bytes>) -> Result<SubjectFilter, FilterError> {
        let text: Bytes = text.into();
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > usize::from(u16::MAX) {
            return Err(FilterError::TooLong);
        }
        let (mut ended, mut literal, mut exact, mut at) = (false, 0, true, 0);
        for (depth, level) in levels(&text).enumerate() {
            if ended || (level.len() > 1 && level.iter().any(|byte| matches!(byte, b'+' | b'#'))) {
                return Err(FilterError::MisplacedWildcard);
            }
            ended = level == REST;
            exact &= !ended && level != ONE;
            at += level.len();
            if exact && depth < MAX_LEVELS {
                literal = at;
            }
            at += 1;
        }
        if exact {
            literal = text.len();
        }
        Ok(SubjectFilter { text, literal, exact })
    }

    /// Whether it takes a subject.
    #[must_use]
    pub fn matches(&self, subject: &[u8]) -> bool {
        if self.exact {
            return self.text == subject;
        }
        let mut names = levels(subject);
        let mut hidden = subject.starts_with(b"$");
        for level in levels(&self.text) {
            match (level, names.next()) {
                (REST, _) => return !hidden,
                (ONE, Some(_)) if !hidden => {}
                (literal, Some(name)) if literal != ONE && literal == name => {}
                _ => return false,
            }
            hidden = false;
        }
        names.next().is_none()
    }

    /// One of [`beginnings`] of every subject that it takes; `None` where it begins with a wildcard.
    pub(super) fn beginning(&self) -> Option<&[u8]> {
        let begins = self.exact || (self.literal > 0 || self.text.starts_with(b"/"));
        begins.then(|| &self.text[..self.literal])
    }
}

impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text))
    }
}

fn levels(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    subject.split(|byte| *byte == b'/')
}

/// What a subject begins with: its first level, its first two, and so on down to [`MAX_LEVELS`]; the last one is all of it.
pub(super) fn beginnings(subject: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = (0..subject.len()).filter(|at| subject[*at] == b'/');
    ends.take(MAX_LEVELS).chain([subject.len()]).map(|end| &subject[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> SubjectFilter {
        SubjectFilter::new(text.to_owned()).expect(text)
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let refused = |text: &str| SubjectFilter::new(text.to_owned()).expect_err(text);
        assert_eq!(refused(""), FilterError::Empty);
        assert_eq!(refused(&"a".repeat(65_536)), FilterError::TooLong);
        for text in ["a/#/b", "#/", "a+", "+a/b", "a/b#", "++", "##"] {
            assert_eq!(refused(text), FilterError::MisplacedWildcard, "{text}");
        }
    }

    #[test]
    fn the_beginning_is_what_stands_before_the_first_wildcard() {
        let beginning = |text: &str| filter(text).beginning().map(|b| String::from_utf8_lossy(b).into_owned());
        for (text, expected) in [
            ("a/b/c", Some("a/b/c")),
            ("a/b/#", Some("a/b")),
            ("a/+/c", Some("a")),
            ("/+/c", Some("")),
            ("a//+", Some("a/")),
            ("/", Some("/")),
            ("+/a", None),
            ("#", None),
        ] {
            assert_eq!(beginning(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn beginnings_end_with_levels() {
        let all = |text: &'static str| beginnings(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(all("a/bc/d"), [&b"a"[..], b"a/bc", b"a/bc/d"]);
        assert_eq!(all("/a"), [&b""[..], b"/a"]);
        assert_eq!(all(""), [&b""[..]]);
        let deep = "a/".repeat(40);
        assert_eq!(beginnings(deep.as_bytes()).count(), MAX_LEVELS + 1);
        assert_eq!(filter(&deep).beginning(), Some(deep.as_bytes()));
        let (all, some) = (filter(&format!("{deep}#")), filter(&format!("{}+", "a/".repeat(20))));
        assert!(beginnings(deep.as_bytes()).any(|b| Some(b) == all.beginning()));
        assert_eq!(all.beginning(), some.beginning());
    }

    fn part(wild: bool) -> impl Strategy<Value = String> {
        let level = prop::sample::select(&["", "a", "b", "$", "+", "#"][..if wild { 6 } else { 4 }]);
        prop::collection::vec(level, 1..5).prop_map(|levels| levels.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// What skipping rests on.
        #[test]
        fn a_subject_that_is_taken_begins_as_the_filter_does(text in part(true), subject in part(false)) {
            let Ok(filter) = SubjectFilter::new(text) else { return Ok(()) };
            let subject = subject.as_bytes();
            if let Some(beginning) = filter.beginning() && filter.matches(subject) {
                prop_assert!(beginnings(subject).any(|begins| begins == beginning));
            }
        }
    }
}
