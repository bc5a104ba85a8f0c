//! `[[stream]]`: names, limits, and that no topic belongs to two streams.

use super::Stream;
use super::key::Key;
use super::raw::{RawDiscard, RawStorage, RawStream};
use super::resolve::Check;
use super::size::{KIB, MIB, Size};
use super::span::Span;
use crate::log::{Discard, MAX_CLASSES, Priority, Storage, StreamLimits, retention_classes};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// The stream that exists when none is configured; it captures every topic.
const DEFAULT_STREAM: &str = "default";
/// Smallest limit of a stream: a handful of ordinary messages.
const MIN_STREAM_BYTES: Size = Size(64 * KIB);
/// Largest stream kept in memory: gateways are small, and memory is what a typing error would take from them.
const MAX_MEMORY_BYTES: Size = Size(256 * MIB);
/// What no stream can reserve: room for the log itself, and for the newest messages of everybody else.
const UNRESERVED_PERCENT: u64 = 25;
const UNRESERVED_BYTES: u64 = 16 * MIB;
/// Longest `max_age`; the parser of times allows no more either.
const MAX_AGE: Span = Span::ms(10 * 366 * 86_400_000);

pub(super) fn resolve(raw: &[Key<RawStream>], disk_bytes: u64, check: &mut Check<'_>) -> Vec<Stream> {
    if raw.is_empty() {
        let everything: TopicFilter = "#".parse().expect("`#` is a filter");
        return vec![Stream {
            name: DEFAULT_STREAM.to_owned(),
            topics: vec![everything],
            exclude: Vec::new(),
            limits: StreamLimits::default(),
            storage: Storage::File,
        }];
    }
    let most = disk_bytes.saturating_sub(UNRESERVED_BYTES.max(disk_bytes / 100 * UNRESERVED_PERCENT));
    let mut streams: Vec<Stream> = Vec::with_capacity(raw.len());
    for entry in raw {
        let stream = stream(entry, check);
        if let Some(other) = streams.iter().find(|other| !stream.name.is_empty() && other.name == stream.name) {
            check.error(entry.value.name.node, format!("there is another stream \"{}\"", other.name));
        }
        for other in &streams {
            if let Some((index, topic)) = common_topic(&stream, other) {
                let node = entry.value.topics.get(index).and_then(|key| key.node);
                check.error(
                    node,
                    format!(
                        "streams \"{}\" and \"{}\" would both capture \"{topic}\": a topic belongs to one stream; \
                         `exclude = [...]` in one of them keeps them apart",
                        other.name, stream.name
                    ),
                );
            }
        }
        let (before, added) = (reserved(&streams), stream.limits.reserve.unwrap_or(0));
        // Said once, at the first stream that is too much.
        if before <= most && before + added > most {
            check.error(
                entry.value.reserve.node,
                format!(
                    "streams reserve {} together: at most {} of disk.max_bytes can be reserved",
                    Size(before + added),
                    Size(most)
                ),
            );
        }
        streams.push(stream);
    }
    let classes = retention_classes(streams.iter().filter(|s| s.storage == Storage::File).map(|s| &s.limits));
    if classes > MAX_CLASSES {
        let node = raw.last().and_then(|entry| entry.node);
        check.error(
            node,
            format!(
                "streams have {classes} retention classes: at most {MAX_CLASSES} are possible. Streams of one priority are one class, all \
                 with discard = \"new\" are one, and each with a reserve is one"
            ),
        );
    }
    streams
}

fn reserved(streams: &[Stream]) -> u64 {
    streams.iter().filter_map(|stream| stream.limits.reserve).sum()
}

fn stream(entry: &Key<RawStream>, check: &mut Check<'_>) -> Stream {
    let raw = &entry.value;
    if raw.name.value.is_none() {
        check.error(entry.node, "missing key `name`: expected 1 to 64 characters of A-Z a-z 0-9 _ -");
    }
    let name = raw.name.value.clone().unwrap_or_default();
    check.demand(&raw.name, raw.name.value.is_none() || is_stream_name(&name), |_| {
        format!("expected 1 to 64 characters of A-Z a-z 0-9 _ -, found \"{name}\"")
    });
    if raw.topics.is_empty() {
        check.error(
            entry.node,
            "missing key `topics`: expected a list of topic filters such as [\"factory/+/telemetry/#\"]",
        );
    }
    let at_least = |key: &Key<Option<u64>>| key.value.is_none_or(|value| value > 0);
    check.demand(&raw.max_msgs, at_least(&raw.max_msgs), |_| "expected at least 1, found 0".to_owned());
    check.demand(&raw.max_msgs_per_subject, raw.max_msgs_per_subject.value != Some(0), |_| {
        "expected at least 1, found 0".to_owned()
    });
    check.demand(&raw.max_bytes, raw.max_bytes.value.is_none_or(|size| size >= MIN_STREAM_BYTES), |_| {
        format!("expected at least {MIN_STREAM_BYTES}")
    });
    check.demand(&raw.max_age, raw.max_age.value.is_none_or(|age| age > Span::ms(0) && age <= MAX_AGE), |_| {
        format!("expected more than 0 and at most {MAX_AGE}")
    });
    let fits = raw.max_msg_bytes.value.is_none_or(|size| size.0 > 0 && size.0 <= u64::from(u32::MAX));
    check.demand(&raw.max_msg_bytes, fits, |_| "expected at least 1 byte and less than 4GiB".to_owned());
    let storage = match raw.storage.value {
        RawStorage::File => Storage::File,
        RawStorage::Memory => Storage::Memory,
    };
    if storage == Storage::Memory {
        // G5: memory is bounded by what the operator wrote, never by what devices send.
        let bounded = raw.max_bytes.value.is_some_and(|size| size <= MAX_MEMORY_BYTES);
        check.demand(&raw.storage, bounded, |_| {
            format!("a stream in memory needs `max_bytes`, at most {MAX_MEMORY_BYTES}")
        });
    }
    check.demand(&raw.priority, raw.priority.value.0 <= Priority::MAX, |value| {
        format!("expected 0 to {}, found {}", Priority::MAX, value.0)
    });
    check.demand(&raw.reserve, raw.reserve.value.is_none_or(|size| size >= MIN_STREAM_BYTES), |_| {
        format!("expected at least {MIN_STREAM_BYTES}")
    });
    check.demand(&raw.reserve, raw.reserve.value.is_none() || storage == Storage::File, |_| {
        "a stream in memory takes no disk that could be reserved".to_owned()
    });
    let mut filters = |keys: &[Key<String>]| keys.iter().filter_map(|key| filter(key, check)).collect();
    Stream {
        name,
        topics: filters(&raw.topics),
        exclude: filters(&raw.exclude),
        limits: StreamLimits {
            max_bytes: raw.max_bytes.value.map(|size| size.0),
            max_age: raw.max_age.value.map(|age| age.0),
            max_msgs: raw.max_msgs.value,
            max_msgs_per_subject: raw.max_msgs_per_subject.value,
            max_msg_bytes: raw.max_msg_bytes.value.and_then(|size| u32::try_from(size.0).ok()),
            discard: match raw.discard {
                RawDiscard::Old => Discard::Old,
                RawDiscard::New => Discard::New,
            },
            reserve: raw.reserve.value.map(|size| size.0),
            priority: Priority(raw.priority.value.0),
        },
        storage,
    }
}

pub(super) fn is_stream_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

fn filter(key: &Key<String>, check: &mut Check<'_>) -> Option<TopicFilter> {
    match key.value.parse::<TopicFilter>() {
        Ok(filter) if filter.is_shared() => {
            check.error(key.node, format!("\"{filter}\" is a shared subscription: a stream captures plain filters"));
            None
        }
        Ok(filter) => Some(filter),
        Err(reason) => {
            check.error(key.node, format!("topic filter \"{}\" {reason}", key.value));
            None
        }
    }
}

/// A topic that both streams would capture, and which of `a`'s filters does.
///
/// The common part of two filters is itself one filter. If any topic of it escapes the excluded ones, then so does the
/// one made of it by putting a name nobody uses for every wildcard: an exclusion that holds back that name is a
/// wildcard there, and holds back every other name too. Only the depth behind `#` must be tried, up to where no
/// exclusion can tell levels apart any more.
fn common_topic(a: &Stream, b: &Stream) -> Option<(usize, TopicName)> {
    let excluded = || a.exclude.iter().chain(&b.exclude);
    let deepest = excluded().map(|filter| filter.levels().count()).max().unwrap_or(0) + 1;
    for (index, ours) in a.topics.iter().enumerate() {
        for theirs in &b.topics {
            let Some(common) = intersection(ours, theirs) else { continue };
            let topics = witnesses(&common, deepest);
            let mut free = topics.into_iter().filter(|topic| !excluded().any(|filter| filter.matches(topic)));
            if let Some(topic) = free.next() {
                return Some((index, topic));
            }
        }
    }
    None
}

/// The filter that matches just the topics that both match.
fn intersection(a: &TopicFilter, b: &TopicFilter) -> Option<Vec<Vec<u8>>> {
    if !a.overlaps(b) {
        return None;
    }
    let (a, b): (Vec<&[u8]>, Vec<&[u8]>) = (a.levels().collect(), b.levels().collect());
    let mut common = Vec::new();
    for index in 0.. {
        let (ours, theirs) = (a.get(index).copied(), b.get(index).copied());
        let (level, rest) = match (ours, theirs) {
            (None, _) | (_, None) => break,
            (Some(b"#"), _) => (None, &b),
            (_, Some(b"#")) => (None, &a),
            (Some(b"+"), Some(other)) => (Some(other), &a),
            (Some(other), Some(_)) => (Some(other), &a),
        };
        match level {
            Some(level) => common.push(level.to_vec()),
            None => {
                common.extend(rest[index..].iter().map(|level| level.to_vec()));
                break;
            }
        }
    }
    Some(common)
}

/// Topics that stand for all that the filter matches: unused names for wildcards, `#` as 0 to `deepest` levels.
fn witnesses(filter: &[Vec<u8>], deepest: usize) -> Vec<TopicName> {
    // A name that a real configuration hardly has; it also tells the reader of an error that any name would do.
    const ANY: &[u8] = b"...";
    let name = |level: &Vec<u8>| if level == b"+" { ANY.to_vec() } else { level.clone() };
    let open_end = filter.last().is_some_and(|level| level == b"#");
    let fixed: Vec<Vec<u8>> = filter.iter().filter(|level| *level != b"#").map(name).collect();
    let depths = if open_end { 0..=deepest.max(1) } else { 0..=0 };
    let topic = |depth| {
        let mut levels = fixed.clone();
        levels.extend(std::iter::repeat_n(ANY.to_vec(), depth));
        TopicName::new(levels.join(&b'/')).ok()
    };
    depths.filter_map(topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capturing(topics: &[&str], exclude: &[&str]) -> Stream {
        let filters = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a filter")).collect();
        Stream {
            name: "s".to_owned(),
            topics: filters(topics),
            exclude: filters(exclude),
            limits: StreamLimits::default(),
            storage: Storage::File,
        }
    }

    fn common(a: (&[&str], &[&str]), b: (&[&str], &[&str])) -> Option<String> {
        common_topic(&capturing(a.0, a.1), &capturing(b.0, b.1)).map(|(_, topic)| topic.to_string())
    }

    #[test]
    fn overlap_is_found_whatever_the_wildcards() {
        assert_eq!(common((&["a/+/c"], &[]), (&["a/b/#"], &[])), Some("a/b/c".to_owned()));
        assert_eq!(common((&["x", "a/#"], &[]), (&["+"], &[])), Some("x".to_owned()));
        assert_eq!(common((&["a/#"], &[]), (&["a"], &[])), Some("a".to_owned()));
        assert_eq!(common((&["a/+"], &[]), (&["b/+"], &[])), None);
        assert_eq!(common((&["#"], &[]), (&["$SYS/#"], &[])), None);
    }

    #[test]
    fn exclusions_keep_streams_apart_if_they_cover_everything() {
        assert_eq!(common((&["#"], &["a/#"]), (&["a/#"], &[])), None);
        assert_eq!(common((&["#"], &["a/b"]), (&["a/+"], &[])), Some("a/...".to_owned()));
        // `a/+/#` leaves out `a` itself.
        assert_eq!(common((&["#"], &["a/+/#"]), (&["a/#"], &[])), Some("a".to_owned()));
        assert_eq!(common((&["#"], &["a/+/#", "a"]), (&["a/#"], &[])), None);
        assert_eq!(common((&["#"], &["a", "a/+", "a/+/+"]), (&["a/#"], &[])), Some("a/.../.../...".to_owned()));
    }

    fn filter_text() -> impl Strategy<Value = String> {
        let level = prop_oneof![Just("a"), Just("b"), Just("+")];
        (prop::collection::vec(level, 0..3), any::<bool>()).prop_map(|(mut levels, open)| {
            if open || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_small_topic(
            a in prop::collection::vec(filter_text(), 1..3), not_a in prop::collection::vec(filter_text(), 0..3),
            b in prop::collection::vec(filter_text(), 1..3), not_b in prop::collection::vec(filter_text(), 0..3),
        ) {
            let texts = |v: &[String]| v.iter().map(|text| text.parse().expect("a filter")).collect();
            let build = |topics: &[String], exclude: &[String]| {
                Stream { topics: texts(topics), exclude: texts(exclude), ..capturing(&["x"], &[]) }
            };
            let (a, b) = (build(&a, &not_a), build(&b, &not_b));
            let captures = |stream: &Stream, topic: &TopicName| {
                stream.topics.iter().any(|f| f.matches(topic)) && !stream.exclude.iter().any(|f| f.matches(topic))
            };
            // Filters above have at most 3 levels, so 4 levels of 3 names show every difference there is.
            let names = ["a", "b", "c"];
            let mut topics: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut last = topics.clone();
            for _ in 1..4 {
                last = last.iter().flat_map(|t| names.iter().map(move |name| format!("{t}/{name}"))).collect();
                topics.extend(last.iter().cloned());
            }
            let tried = topics.iter().any(|topic| {
                let topic = topic.parse().expect("a topic");
                captures(&a, &topic) && captures(&b, &topic)
            });
            let found = common_topic(&a, &b);
            prop_assert_eq!(found.is_some(), tried, "{:?}", found);
            if let Some((_, topic)) = found {
                prop_assert!(captures(&a, &topic) && captures(&b, &topic));
            }
        }
    }
}
