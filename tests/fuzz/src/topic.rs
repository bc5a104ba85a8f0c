//! Topics and filters: matching as the specification describes it, overlaps, and the mapping to subjects and back.

use headwater_broker::mqtt::topic::{TopicFilter, TopicName};
use headwater_broker::subject;

use crate::input::parts;

/// A filter, another one, and a topic, with NUL between them.
pub fn check(data: &[u8]) {
    let [one, other, topic] = parts::<3>(data);
    let (one, other) = (one.parse::<TopicFilter>(), other.parse::<TopicFilter>());
    if let (Ok(one), Ok(other)) = (&one, &other) {
        assert_eq!(one.overlaps(other), other.overlaps(one), "{one} {other}");
        assert!(one.overlaps(one));
    }
    let _subjects = one.as_ref().map(subject::filter_subjects); // only that it does not panic
    let Ok(topic) = topic.parse::<TopicName>() else {
        let _ = subject::topic(&topic); // the same
        return;
    };
    let mut mapped = String::new();
    subject::append_subject(&topic, &mut mapped);
    assert!(mapped.split('.').all(|token| !token.is_empty()), "{mapped}");
    assert!(!mapped.contains(['*', '>', ' ', '\t', '\r', '\n']), "{mapped}");
    assert_eq!(subject::topic(&mapped).as_ref(), Ok(&topic), "{mapped}");
    for filter in [&one, &other].into_iter().flatten().filter(|filter| !filter.is_shared()) {
        assert_eq!(filter.matches(&topic), plainly_matches(filter.as_str(), topic.as_str()), "{filter} {topic}");
    }
    if let (Ok(one), Ok(other)) = (&one, &other)
        && one.matches(&topic)
        && other.matches(&topic)
    {
        assert!(one.overlaps(other), "{one} and {other} both match {topic}");
    }
}

/// Section 4.7, without any thought of speed.
pub fn plainly_matches(filter: &str, topic: &str) -> bool {
    fn levels(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            (["+", filter @ ..], [_, topic @ ..]) => levels(filter, topic),
            ([level, filter @ ..], [name, topic @ ..]) => level == name && levels(filter, topic),
            ([], []) => true,
            _ => false,
        }
    }
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    levels(&filter, &topic)
}
