//! Whether a copy is exact: what was acknowledged, what the gateway's log holds, and what the hub holds, compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt;
use serde_json::Value;

use crate::gateway::{Broker, Gateway, Logged, Page};
use crate::hex::unhex;
use crate::hub::Hub;
use crate::payload::Mark;
use crate::process::{provided, run};
use crate::wait::until;

/// How long a mirror may need once nothing stands in its way, on a busy machine.
pub const MIRROR_PATIENCE: Duration = Duration::from_secs(60);

/// A message in a stream of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubMessage {
    /// The hub's own sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers, sorted by name.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl HubMessage {
    /// The one value of a header.
    ///
    /// # Panics
    /// If it is missing or there are several.
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let values: Vec<&str> = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        assert_eq!(values.len(), 1, "header {name} of {self:?}");
        values[0]
    }

    /// The header `Headwater-Seq`.
    ///
    /// # Panics
    /// If it is missing or no number.
    #[must_use]
    #[track_caller]
    pub fn seq(&self) -> u64 {
        self.header("Headwater-Seq").parse().unwrap_or_else(|e| panic!("Headwater-Seq of {self:?}: {e}"))
    }

    /// Whether it announces a gap instead of carrying a message.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        self.subject.ends_with(".headwater_gap")
    }
}

/// Reads everything that a stream of the hub holds, in its order.
pub async fn dump(hub: &Hub, stream: &str) -> Vec<HubMessage> {
    let jetstream = hub.jetstream();
    until(MIRROR_PATIENCE, &format!("everything in the hub's stream {stream}"), || async {
        let stream = jetstream.get_stream(stream).await.map_err(|e| e.to_string())?;
        let state = stream.cached_info().state.clone();
        let mut messages = Vec::new();
        if state.messages == 0 {
            return Ok(messages);
        }
        let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..pull::OrderedConfig::default() };
        let consumer = stream.create_consumer(config).await.map_err(|e| e.to_string())?;
        let mut reader = consumer.messages().await.map_err(|e| e.to_string())?;
        while let Some(message) = reader.next().await {
            let message = message.map_err(|e| e.to_string())?;
            let sequence = message.info().map_err(|e| e.to_string())?.stream_sequence;
            let mut headers = Vec::new();
            for (name, values) in message.headers.iter().flat_map(async_nats::HeaderMap::iter) {
                headers.extend(values.iter().map(|value| (name.to_string(), value.to_string())));
            }
            headers.sort();
            messages.push(HubMessage {
                sequence,
                subject: message.subject.to_string(),
                headers,
                payload: message.payload.to_vec(),
            });
            if sequence >= state.last_sequence {
                break;
            }
        }
        let read = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        if read == state.messages { Ok(messages) } else { Err(format!("{read} of {} messages", state.messages)) }
    })
    .await
}

/// The same by another client, nats-py: what `dump` shows is not one library's view.
///
/// # Panics
/// If the script fails or prints something else.
#[must_use]
pub fn dump_by_nats_py(hub: &Hub, stream: &str) -> Vec<HubMessage> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/hub_dump.py");
    let arguments = ["-B", &script.display().to_string(), &hub.urls()[0], stream];
    let lines = run(provided("HEADWATER_PYTHON"), arguments, MIRROR_PATIENCE).success();
    let message = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON: {e}: {line}"));
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text: {line}")).to_owned();
        let headers = value["headers"].as_array().into_iter().flatten();
        HubMessage {
            sequence: value["sequence"].as_u64().unwrap_or_else(|| panic!("no sequence: {line}")),
            subject: text(&value["subject"]),
            headers: headers.map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
            payload: unhex(&text(&value["payload"])),
        }
    };
    lines.lines().map(message).collect()
}

/// Waits until the hub's stream holds the message with this sequence of ours, and reads it all.
///
/// Reading goes on until then: a duplicate or a wrong message shows in what is returned, not here.
pub async fn dump_through(hub: &Hub, stream: &str, prefix: &str, seq: u64) -> Vec<HubMessage> {
    let jetstream = hub.jetstream();
    let subject = format!("{prefix}.>");
    until(MIRROR_PATIENCE, &format!("sequence {seq} in the hub's stream {stream}"), || async {
        let stream = jetstream.get_stream(stream).await.map_err(|e| e.to_string())?;
        let last = stream.get_last_raw_message_by_subject(&subject).await.map_err(|e| e.to_string())?;
        let reached = last.headers.get("Headwater-Seq").and_then(|value| value.as_str().parse::<u64>().ok());
        if reached.is_some_and(|reached| reached >= seq) { Ok(()) } else { Err(format!("at {reached:?}")) }
    })
    .await;
    dump(hub, stream).await
}

/// Demands that the hub's copy is the gateway's log: nothing missing, nothing twice, in order, byte for byte, with the
/// headers that the mirror promises. `log` must be everything from its first message on.
///
/// # Panics
/// At the first difference.
#[track_caller]
pub fn assert_exact(gateway: &str, stream: &str, log: &[Logged], copy: &[HubMessage]) {
    let prefix = format!("edge.{gateway}.{stream}.");
    let ours: Vec<&HubMessage> = copy.iter().filter(|message| message.subject.starts_with(&prefix)).collect();
    let seqs = |of: &mut dyn Iterator<Item = u64>| of.collect::<Vec<u64>>();
    assert_eq!(
        runs(&seqs(&mut ours.iter().map(|message| message.seq()))),
        runs(&seqs(&mut log.iter().map(|message| message.seq))),
        "sequences in the hub (left) and in the log (right), as runs"
    );
    let identity = ours.first().map(|message| message.header("Headwater-Stream-Id").to_owned());
    for (message, logged) in ours.iter().zip(log) {
        assert_eq!(message.subject, format!("{prefix}{}", subject_of(&logged.topic)), "sequence {}", logged.seq);
        assert_eq!(message.payload, logged.payload, "payload of sequence {}", logged.seq);
        let id = message.header("Headwater-Stream-Id");
        assert_eq!(Some(id), identity.as_deref(), "stream id of sequence {}", logged.seq);
        assert_eq!(message.header("Nats-Msg-Id"), format!("{gateway}/{stream}/{}@{id}", logged.seq));
        let time = message.header("Headwater-Time");
        assert!(time.len() >= 20 && time.contains('T') && time.ends_with('Z'), "not RFC 3339: {time}");
        let clock = message.header("Headwater-Clock");
        assert!(["synced", "estimated"].contains(&clock), "of sequence {}: {clock}", logged.seq);
    }
}

/// The subject of an ordinary topic; the tests that look at odd ones say what they expect.
fn subject_of(topic: &str) -> String {
    assert!(
        !topic.contains(['.', ' ', '*', '>', '+', '#', '%']) && !topic.starts_with('/') && !topic.ends_with('/'),
        "not an ordinary topic: {topic:?}"
    );
    topic.replace('/', ".")
}

/// Rising numbers as runs, so that a difference in thousands of them can be read.
fn runs(numbers: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    runs
}

/// Numbers of the messages that were acknowledged, by publisher.
pub type Acknowledged = BTreeMap<String, Vec<u64>>;

/// Demands that a log holds every acknowledged message, intact, each publisher's in the order it sent them and none
/// twice. Messages that were sent and not acknowledged may be there too.
///
/// # Panics
/// At the first loss, damage, repetition or wrong order.
#[track_caller]
pub fn assert_holds(acknowledged: &Acknowledged, payloads: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    let mut held: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (at, payload) in payloads.into_iter().enumerate() {
        let mark = Mark::of(payload.as_ref()).unwrap_or_else(|e| panic!("message {at} of the log: {e}"));
        let numbers = held.entry(mark.publisher.clone()).or_default();
        if let Some(&last) = numbers.last() {
            assert!(last < mark.number, "message {at} of the log is {mark:?}, behind number {last}");
        }
        numbers.push(mark.number);
    }
    for (publisher, numbers) in acknowledged {
        let held = held.get(publisher).map(Vec::as_slice).unwrap_or_default();
        let lost: Vec<u64> = numbers.iter().copied().filter(|number| held.binary_search(number).is_err()).collect();
        assert!(lost.is_empty(), "acknowledged and lost, of {publisher}: {:?} (held: {:?})", runs(&lost), runs(held));
    }
}

/// Waits until the hub has everything that a stream of the gateway holds, and demands that the copy is exact.
/// The devices must be quiet. Yields the log.
pub async fn settle(gateway: &Gateway, broker: &Broker, stream: &str, hub: &Hub, into: &str) -> Vec<Logged> {
    let log = log_of(broker, stream).await;
    let last = log.last().unwrap_or_else(|| panic!("the stream {stream} is empty")).seq;
    let copy = dump_through(hub, into, &format!("edge.{}.{stream}", gateway.id()), last).await;
    assert_exact(gateway.id(), stream, &log, &copy);
    log
}

/// Reads everything that a stream of the gateway holds, over HTTP.
pub async fn log_of(broker: &Broker, stream: &str) -> Vec<Logged> {
    log_from(broker, stream, 1).await
}

/// Reads everything from sequence `from` on.
pub async fn log_from(broker: &Broker, stream: &str, from: u64) -> Vec<Logged> {
    whole(broker, stream, from).await.messages
}

/// Reads everything from sequence `from` on, and what is missing.
///
/// # Panics
/// If a page is not what it should be.
pub async fn whole(broker: &Broker, stream: &str, from: u64) -> Page {
    const PAGE: usize = 500;
    let mut whole = Page { next: from, ..Page::default() };
    loop {
        let page = broker.messages(stream, whole.next, PAGE).await;
        whole.messages.extend(page.messages);
        whole.gaps.extend(page.gaps);
        if page.next == whole.next {
            return whole;
        }
        whole.next = page.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(numbers: &[u64]) -> Vec<Vec<u8>> {
        numbers.iter().map(|&number| Mark { publisher: "p".into(), number }.payload()).collect()
    }

    fn acknowledged(numbers: &[u64]) -> Acknowledged {
        [("p".to_owned(), numbers.to_vec())].into()
    }

    #[test]
    fn unacknowledged_extras_are_fine() {
        assert_holds(&acknowledged(&[1, 3]), payloads(&[1, 2, 3, 4]));
    }

    #[test]
    #[should_panic(expected = "acknowledged and lost, of p: [(2, 2)]")]
    fn a_lost_message_is_noticed() {
        assert_holds(&acknowledged(&[1, 2, 3]), payloads(&[1, 3]));
    }

    #[test]
    #[should_panic(expected = "behind number 1")]
    fn a_repeated_message_is_noticed() {
        assert_holds(&acknowledged(&[1]), payloads(&[1, 1]));
    }

    #[test]
    #[should_panic(expected = "behind number 2")]
    fn a_wrong_order_is_noticed() {
        assert_holds(&acknowledged(&[1, 2]), payloads(&[2, 1]));
    }

    fn hub_message(seq: u64) -> HubMessage {
        let headers = [
            ("Headwater-Seq", seq.to_string()),
            ("Headwater-Stream-Id", "00ff".into()),
            ("Headwater-Clock", "estimated".to_owned()),
            ("Headwater-Time", "2026-01-01T00:00:00.000000000Z".into()),
            ("Nats-Msg-Id", format!("g/s/{seq}@00ff")),
        ];
        HubMessage {
            sequence: seq,
            subject: "edge.g.s.a.b".into(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            payload: seq.to_string().into_bytes(),
        }
    }

    fn logged(seq: u64) -> Logged {
        Logged { seq, topic: "a/b".into(), payload: seq.to_string().into_bytes() }
    }

    #[test]
    fn an_exact_copy_is_one() {
        assert_exact("g", "s", &[logged(1), logged(2)], &[hub_message(1), hub_message(2)]);
    }

    #[test]
    #[should_panic(expected = "sequences in the hub")]
    fn a_duplicate_in_the_hub_is_noticed() {
        assert_exact("g", "s", &[logged(1), logged(2)], &[hub_message(1), hub_message(1), hub_message(2)]);
    }

    #[test]
    #[should_panic(expected = "payload of sequence 2")]
    fn a_damaged_payload_in_the_hub_is_noticed() {
        let damaged = HubMessage { payload: b"x".to_vec(), ..hub_message(2) };
        assert_exact("g", "s", &[logged(1), logged(2)], &[hub_message(1), damaged]);
    }
}
