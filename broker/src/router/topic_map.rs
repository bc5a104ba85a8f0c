//! Values by topic, found by filter: the index of retained messages.
//!
//! A sorted map in which `/` sorts before every other byte, so that a topic is followed by all that lies below it. A
//! filter is looked up by skipping: where a topic cannot match, the search goes on at the next one that could. A filter
//! without wildcards costs one lookup, a literal beginning narrows the search to its subtree, and a `+` costs two
//! lookups per different level that it meets.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::mqtt::topic::{TopicFilter, TopicName};

/// Values by topic name.
#[derive(Clone, Debug)]
pub struct TopicMap<V> {
    /// Keys are topics with NUL, which no topic contains, in place of `/`.
    values: BTreeMap<Box<[u8]>, V>,
}

impl<V> Default for TopicMap<V> {
    fn default() -> Self {
        TopicMap { values: BTreeMap::new() }
    }
}

impl<V> TopicMap<V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        TopicMap::default()
    }

    /// Topics held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Holds no topic.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Sets the value of `topic`; gives the one before. The topic is copied.
    pub fn insert(&mut self, topic: &TopicName, value: V) -> Option<V> {
        self.values.insert(key(topic.as_bytes()).into_boxed_slice(), value)
    }

    /// Removes `topic`; gives its value.
    pub fn remove(&mut self, topic: &TopicName) -> Option<V> {
        self.values.remove(&key(topic.as_bytes())[..])
    }

    /// The value of `topic`.
    #[must_use]
    pub fn get(&self, topic: &TopicName) -> Option<&V> {
        self.values.get(&key(topic.as_bytes())[..])
    }

    /// Visits every topic that `filter` matches, in the order of the map.
    pub fn matching(&self, filter: &TopicFilter, visit: &mut impl FnMut(&TopicName, &V)) {
        let mut from = Vec::new();
        'search: loop {
            for (key, value) in self.values.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded)) {
                match compare(filter, key) {
                    Verdict::Match => visit(&topic(key), value),
                    Verdict::Seek(next) => {
                        from = next;
                        continue 'search;
                    }
                    Verdict::End => return,
                }
            }
            return;
        }
    }

    /// Visits every topic, in the order of the map.
    pub fn for_each(&self, visit: &mut impl FnMut(&TopicName, &V)) {
        self.values.iter().for_each(|(key, value)| visit(&topic(key), value));
    }
}

const SEPARATOR: u8 = 0;
/// The first byte that can follow a level and does not end it.
const AFTER_SEPARATOR: u8 = 1;

fn key(topic: &[u8]) -> Vec<u8> {
    topic.iter().map(|byte| if *byte == b'/' { SEPARATOR } else { *byte }).collect()
}

fn topic(key: &[u8]) -> TopicName {
    let text: Bytes = key.iter().map(|byte| if *byte == SEPARATOR { b'/' } else { *byte }).collect();
    TopicName::new(text).expect("keys are made of topic names")
}

/// What a key tells about the search.
enum Verdict {
    Match,
    /// No match, and none before this key either. Always behind the key that was looked at.
    Seek(Vec<u8>),
    /// No match, and none to come.
    End,
}

fn compare(filter: &TopicFilter, key: &[u8]) -> Verdict {
    let mut levels = key.split(|byte| *byte == SEPARATOR);
    // Bytes of the levels that matched, with the separator behind each.
    let mut matched = 0;
    for pattern in filter.levels() {
        let wildcard = matches!(pattern, b"+" | b"#");
        if wildcard && matched == 0 && key.first() == Some(&b'$') {
            // Leading wildcards do not see these [MQTT-4.7.2-1].
            return Verdict::Seek(vec![b'$' + 1]);
        }
        if pattern == b"#" {
            return Verdict::Match;
        }
        let Some(level) = levels.next() else {
            // The topic ends too early; what lies below it comes next.
            let literal = if wildcard { &[][..] } else { pattern };
            return Verdict::Seek([key, &[SEPARATOR], literal].concat());
        };
        if !wildcard && level < pattern {
            return Verdict::Seek([&key[..matched], pattern].concat());
        }
        if !wildcard && level > pattern {
            return behind(key, matched);
        }
        matched += level.len() + 1;
    }
    match levels.next() {
        None => Verdict::Match,
        // The topic is deeper than the filter, and so is all that lies beside it.
        Some(_) => behind(key, matched),
    }
}

/// On behind everything below the levels that end at `matched`.
fn behind(key: &[u8], matched: usize) -> Verdict {
    match matched.checked_sub(1) {
        Some(end) => Verdict::Seek([&key[..end], &[AFTER_SEPARATOR]].concat()),
        None => Verdict::End,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn map(topics: &[&str]) -> TopicMap<()> {
        let mut map = TopicMap::new();
        topics.iter().for_each(|text| {
            map.insert(&text.parse().expect(text), ());
        });
        map
    }

    fn matching(map: &TopicMap<()>, filter: &str) -> Vec<String> {
        let mut found = Vec::new();
        map.matching(&filter.parse().expect(filter), &mut |topic, ()| found.push(topic.to_string()));
        found
    }

    #[test]
    fn a_topic_is_followed_by_what_lies_below_it() {
        let map = map(&["ab", "a b", "a/b", "a", "a/", "a!"]);
        assert_eq!(matching(&map, "#"), ["a", "a/", "a/b", "a b", "a!", "ab"]);
        assert_eq!(matching(&map, "a/#"), ["a", "a/", "a/b"]);
        assert_eq!(matching(&map, "+"), ["a", "a b", "a!", "ab"]);
        assert_eq!(matching(&map, "a/b"), ["a/b"]);
        assert_eq!(matching(&map, "c"), [""; 0]);
    }

    /// [MQTT-4.7.2-1]
    #[test]
    fn leading_wildcards_do_not_see_dollar_topics() {
        let map = map(&["!", "$SYS/a", "$", "%"]);
        assert_eq!(matching(&map, "#"), ["!", "%"]);
        assert_eq!(matching(&map, "+/a"), [""; 0]);
        assert_eq!(matching(&map, "$SYS/+"), ["$SYS/a"]);
    }

    #[test]
    fn values_are_replaced_and_removed() {
        let mut map = TopicMap::new();
        let topic: TopicName = "a/b".parse().expect("valid");
        assert_eq!(map.insert(&topic, 1), None);
        assert_eq!(map.insert(&topic, 2), Some(1));
        assert_eq!((map.get(&topic), map.len()), (Some(&2), 1));
        assert_eq!(map.remove(&topic), Some(2));
        assert!(map.is_empty());
    }

    /// The price of a `+` before a literal is per branch, not per topic.
    #[test]
    fn a_wildcard_skips_what_cannot_match() {
        let mut map = TopicMap::new();
        for device in 0..20 {
            for channel in 0..100 {
                map.insert(&format!("d{device}/c{channel:02}").parse().expect("valid"), ());
            }
        }
        let filter: TopicFilter = "+/c50".parse().expect("valid");
        let mut looked_at = 0;
        let mut from = Vec::new();
        'search: loop {
            for key in map.values.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded)).map(|(key, ())| key)
            {
                looked_at += 1;
                if let Verdict::Seek(next) = compare(&filter, key) {
                    assert!(next[..] > key[..]);
                    from = next;
                    continue 'search;
                }
            }
            break;
        }
        assert!(looked_at <= 3 * 20, "{looked_at} of 2,000");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_map_agrees_with_asking_every_topic(
            topics in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["", "a", "b", "ab", " ", "$a"]), 1..5), 0..30),
            filter in prop::collection::vec(prop::sample::select(vec!["", "a", "b", "ab", "$a", "+", "#"]), 1..5)
                .prop_filter_map("not a filter", |levels| levels.join("/").parse::<TopicFilter>().ok()),
            removed in 0..10_usize,
        ) {
            let mut map = TopicMap::new();
            let mut model = BTreeMap::new();
            for (index, levels) in topics.iter().enumerate() {
                if let Ok(topic) = levels.join("/").parse::<TopicName>() {
                    prop_assert_eq!(map.insert(&topic, index), model.insert(topic, index));
                }
            }
            for topic in model.keys().take(removed).cloned().collect::<Vec<_>>() {
                prop_assert_eq!(map.remove(&topic), model.remove(&topic));
            }
            let mut found = BTreeMap::new();
            map.matching(&filter, &mut |topic, value| assert!(found.insert(topic.clone(), *value).is_none()));
            model.retain(|topic, _| filter.matches(topic));
            prop_assert_eq!(found, model);
        }
    }
}
