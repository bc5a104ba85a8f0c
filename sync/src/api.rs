//! JetStream's answers and requests as JSON, turned into the words of [`crate::hub`]. Pure; a hub's bytes can at most give an error.

use std::time::Duration;

use headwater_broker::config::CreateStream;
use headwater_broker::log::{Seq, StreamUid};
use serde::{Deserialize, Serialize};

use crate::encode::{SEQ, STREAM_ID};
use crate::hub::{Committed, Delivery, HubSeq, HubStream, Keeps, LastMessage, Trouble};

/// The API level from which servers know a fence over a prefix (nats-server 2.11).
const LEVEL_WITH_PREFIX_FENCE: u32 = 1;

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl ApiError {
    /// What an error means, for any request that concerns `stream`.
    fn trouble(self, stream: &str) -> Trouble {
        match self.err_code {
            10071 | 10164 => Trouble::FenceMoved,
            10201 => Trouble::Duplicate,
            10174 => Trouble::AtomicOff,
            10177 => Trouble::IdsRefused,
            10176 => Trouble::Abandoned(self.description),
            10054 => Trouble::TooLarge,
            10059 => Trouble::StreamMissing(stream.to_owned()),
            // Account and server resources, the stream's limits, and a stream that was sealed.
            10002 | 10023 | 10028 | 10047 | 10077 | 10109 => Trouble::Full(self.description),
            code => Trouble::Other(format!("the hub says: {} (code {code})", self.description)),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &str) -> Result<T, Trouble> {
    serde_json::from_slice(bytes)
        .map_err(|e| Trouble::Other(format!("the hub's answer to {what} is not understood: {e}")))
}

/// The acknowledgement of a publish, or of a batch of `expected` messages.
///
/// # Errors
/// The hub refused; or another stream than `stream` has taken the messages.
pub fn publish_ack(bytes: &[u8], stream: &str, expected: Option<usize>) -> Result<Committed, Trouble> {
    #[derive(Deserialize)]
    struct Ack {
        error: Option<ApiError>,
        #[serde(default)]
        stream: String,
        #[serde(default)]
        seq: u64,
        #[serde(default)]
        duplicate: bool,
        count: Option<usize>,
    }
    let ack: Ack = parse(bytes, "a publish")?;
    if let Some(error) = ack.error {
        return Err(error.trouble(stream));
    }
    if ack.stream != stream {
        return Err(Trouble::Other(format!(
            "stream \"{}\" of the hub takes our subjects, not \"{stream}\": correct the subjects of these streams",
            ack.stream
        )));
    }
    if expected.is_some() && ack.count != expected {
        return Err(Trouble::Abandoned(format!("{:?} of {expected:?} messages acknowledged", ack.count)));
    }
    Ok(Committed { last: HubSeq(ack.seq), duplicate: ack.duplicate })
}

/// Request for the last message under a prefix.
#[must_use]
pub fn last_message_request(filter: &str) -> String {
    serde_json::json!({ "last_by_subj": filter }).to_string()
}

/// The answer to it; `None` if there is no message.
///
/// # Errors
/// The hub refused, or the answer is not understood.
pub fn last_message(bytes: &[u8], stream: &str) -> Result<Option<LastMessage>, Trouble> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<ApiError>,
        message: Option<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        subject: String,
        seq: u64,
        hdrs: Option<String>,
    }
    let answer: Answer = parse(bytes, "STREAM.MSG.GET")?;
    match (answer.error, answer.message) {
        (Some(error), _) if error.err_code == 10037 => Ok(None),
        (Some(error), _) => Err(error.trouble(stream)),
        (None, None) => Err(Trouble::Other("the hub's answer to STREAM.MSG.GET holds no message".into())),
        (None, Some(message)) => Ok(Some(LastMessage {
            hub_seq: HubSeq(message.seq),
            origin: message.hdrs.and_then(|hdrs| origin(&decode_base64(&hdrs)?)),
            subject: message.subject,
        })),
    }
}

fn origin(headers: &[u8]) -> Option<(StreamUid, Seq)> {
    let text = std::str::from_utf8(headers).ok()?;
    let header =
        |name: &str| text.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let uid = u64::from_str_radix(header(STREAM_ID)?, 16).ok()?;
    let seq = header(SEQ)?.parse().ok()?;
    Some((StreamUid(uid), Seq(seq)))
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut group, mut bits) = (0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(group >> bits & 0xff).expect("masked to eight bits"));
        }
    }
    Some(bytes)
}

/// The answer to STREAM.INFO and STREAM.CREATE, for a mirror that publishes below `filter`.
///
/// # Errors
/// The hub refused; or the stream does not take what we would publish.
pub fn stream(bytes: &[u8], name: &str, filter: &str) -> Result<HubStream, Trouble> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<ApiError>,
        config: Option<Config>,
        #[serde(default)]
        created: String,
        state: Option<State>,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        subjects: Vec<String>,
        #[serde(default)]
        retention: String,
        #[serde(default)]
        allow_atomic: bool,
        #[serde(default)]
        max_msg_size: i64,
        #[serde(default)]
        metadata: std::collections::HashMap<String, String>,
    }
    #[derive(Deserialize)]
    struct State {
        last_seq: u64,
    }
    let answer: Answer = parse(bytes, "STREAM.INFO")?;
    if let Some(error) = answer.error {
        return Err(error.trouble(name));
    }
    let (Some(config), Some(state)) = (answer.config, answer.state) else {
        return Err(Trouble::Other("the hub's answer to STREAM.INFO holds no configuration".into()));
    };
    if !config.subjects.iter().any(|subject| covers(subject, filter)) {
        return Err(Trouble::Other(format!(
            "stream \"{name}\" of the hub does not take \"{filter}\": add it to the stream's subjects (it has {:?})",
            config.subjects
        )));
    }
    let level = config.metadata.get("_nats.level").and_then(|level| level.parse().ok()).unwrap_or(0u32);
    let delivery = if config.allow_atomic {
        Delivery::Atomic
    } else if level >= LEVEL_WITH_PREFIX_FENCE {
        Delivery::Single
    } else {
        Delivery::Window
    };
    Ok(HubStream {
        created: answer.created,
        last_seq: HubSeq(state.last_seq),
        delivery,
        keeps: if config.retention == "limits" { Keeps::UntilLimits } else { Keeps::UntilConsumed },
        max_msg_bytes: usize::try_from(config.max_msg_size).ok().filter(|bytes| *bytes > 0),
    })
}

/// Every subject that matches `inner` matches `outer`; both may hold wildcards.
fn covers(outer: &str, inner: &str) -> bool {
    let mut inner = inner.split('.');
    for token in outer.split('.') {
        match (token, inner.next()) {
            (">", Some(_)) => return true,
            (_, None | Some(">")) => return false,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            (_, Some(_)) => return false,
        }
    }
    inner.next().is_none()
}

/// Request that makes the hub's stream.
#[must_use]
pub fn create_request(name: &str, subjects: &[String], create: &CreateStream) -> String {
    #[derive(Serialize)]
    struct Request<'a> {
        name: &'a str,
        subjects: &'a [String],
        retention: &'a str,
        storage: &'a str,
        discard: &'a str,
        num_replicas: u8,
        max_bytes: i64,
        /// Nanoseconds; 0 = no limit.
        max_age: i64,
        allow_atomic: bool,
        description: &'a str,
    }
    let request = Request {
        name,
        subjects,
        retention: "limits",
        storage: "file",
        discard: "old",
        num_replicas: create.replicas,
        max_bytes: create.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_age: create.max_age.map_or(0, nanoseconds),
        allow_atomic: true,
        description: "made by a Headwater gateway",
    };
    serde_json::to_string(&request).expect("strings and numbers always become JSON")
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The answer to STREAM.CREATE: made, or there already because another gateway was faster.
///
/// # Errors
/// The hub refused.
pub fn created(bytes: &[u8]) -> Result<(), Trouble> {
    #[derive(Deserialize)]
    struct Answer {
        error: Option<ApiError>,
    }
    match parse::<Answer>(bytes, "STREAM.CREATE")?.error {
        None => Ok(()),
        // "stream name already in use with a different configuration": it exists, which is what was wanted.
        Some(error) if error.err_code == 10058 => Ok(()),
        Some(error) => Err(Trouble::NotCreated(format!("{} (code {})", error.description, error.err_code))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_as_servers_write_them() {
        let ack = |json: &str, expected| publish_ack(json.as_bytes(), "S", expected);
        let committed = |seq, duplicate| Ok(Committed { last: HubSeq(seq), duplicate });
        assert_eq!(ack(r#"{"stream":"S","seq":3,"batch":"b1","count":3}"#, Some(3)), committed(3, false));
        assert_eq!(ack(r#"{"stream":"S", "seq":1012,"duplicate": true}"#, None), committed(1012, true));
        let error = |code: u32, text: &str| {
            format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"{text}"}},"stream":"S","seq":0}}"#)
        };
        assert_eq!(ack(&error(10071, "wrong last sequence: 6"), Some(3)), Err(Trouble::FenceMoved));
        assert_eq!(ack(&error(10164, "wrong last sequence"), None), Err(Trouble::FenceMoved));
        assert_eq!(
            ack(&error(10201, "atomic publish batch contains duplicate message id"), Some(2)),
            Err(Trouble::Duplicate)
        );
        assert_eq!(ack(&error(10054, "message size exceeds maximum allowed"), None), Err(Trouble::TooLarge));
        assert_eq!(
            ack(&error(10077, "maximum bytes exceeded"), None),
            Err(Trouble::Full("maximum bytes exceeded".into()))
        );
    }

    #[test]
    fn a_batch_that_was_taken_for_single_messages_is_not_believed() {
        // A server that does not know batches acknowledges the last message alone.
        assert!(publish_ack(br#"{"stream":"S","seq":3}"#, "S", Some(3)).is_err());
        assert!(publish_ack(br#"{"stream":"S","seq":3,"batch":"b","count":2}"#, "S", Some(3)).is_err());
    }

    #[test]
    fn another_stream_that_takes_our_subjects_is_named() {
        let Err(Trouble::Other(text)) = publish_ack(br#"{"stream":"T","seq":3}"#, "S", None) else {
            panic!("an acknowledgement of another stream passed");
        };
        assert!(text.contains("\"T\"") && text.contains("\"S\""));
    }

    #[test]
    fn the_last_message_says_where_we_stopped() {
        let hdrs = "TkFUUy8xLjANCkhlYWR3YXRlci1TZXE6IDQyDQpIZWFkd2F0ZXItU3RyZWFtLUlkOiAwMDAwMDAwMDAwMDAwYWJjDQoNCg==";
        let json =
            format!(r#"{{"message":{{"subject":"edge.gw.s.a","seq":6,"hdrs":"{hdrs}","data":"Mw==","time":"x"}}}}"#);
        let last = last_message(json.as_bytes(), "S").expect("a good answer").expect("a message");
        assert_eq!((last.hub_seq, last.origin), (HubSeq(6), Some((StreamUid(0xabc), Seq(42)))));
        let none = br#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#;
        assert_eq!(last_message(none, "S"), Ok(None));
        let missing = br#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
        assert_eq!(last_message(missing, "S"), Err(Trouble::StreamMissing("S".into())));
    }

    #[test]
    fn a_message_without_our_headers_is_not_ours() {
        for hdrs in ["", "!!!", "TkFUUy8xLjANCg=="] {
            let json = format!(r#"{{"message":{{"subject":"edge.gw.s.a","seq":6,"hdrs":"{hdrs}"}}}}"#);
            let last = last_message(json.as_bytes(), "S").expect("a good answer").expect("a message");
            assert_eq!(last.origin, None);
        }
    }

    #[test]
    fn what_a_stream_can_do_decides_the_delivery() {
        let info = |config: &str| {
            let json = format!(
                r#"{{"config":{{"subjects":["edge.*.s.>"],"retention":"limits",{config}}},"created":"t","state":{{"last_seq":9}}}}"#
            );
            stream(json.as_bytes(), "S", "edge.gw.s.>").expect("a good answer")
        };
        let atomic = info(r#""allow_atomic":true,"metadata":{"_nats.level":"2"},"max_msg_size":-1"#);
        assert_eq!((atomic.delivery, atomic.max_msg_bytes, atomic.last_seq), (Delivery::Atomic, None, HubSeq(9)));
        assert_eq!(info(r#""metadata":{"_nats.level":"1"},"max_msg_size":100"#).delivery, Delivery::Single);
        assert_eq!(info(r#""max_msg_size":100"#).delivery, Delivery::Window);
        assert_eq!(info(r#""max_msg_size":100"#).max_msg_bytes, Some(100));
    }

    #[test]
    fn a_stream_that_does_not_take_our_subjects_is_named() {
        let json = br#"{"config":{"subjects":["other.>"],"retention":"limits"},"created":"t","state":{"last_seq":9}}"#;
        assert!(matches!(stream(json, "S", "edge.gw.s.>"), Err(Trouble::Other(text)) if text.contains("edge.gw.s.>")));
    }

    #[test]
    fn subjects_cover_subjects() {
        for (outer, inner, yes) in [
            ("edge.>", "edge.gw.s.>", true),
            (">", "edge.gw.s.>", true),
            ("edge.*.s.>", "edge.gw.s.>", true),
            ("edge.gw.s.>", "edge.gw.s.>", true),
            ("edge.*.t.>", "edge.gw.s.>", false),
            ("edge.gw.s.a", "edge.gw.s.>", false),
            ("edge.gw.s.*", "edge.gw.s.>", false),
            ("edge.gw.s.a.>", "edge.gw.s.>", false),
        ] {
            assert_eq!(covers(outer, inner), yes, "{outer} {inner}");
        }
    }

    #[test]
    fn a_stream_is_made_for_atomic_batches() {
        let create =
            CreateStream { replicas: 3, max_bytes: None, max_age: Some(Duration::from_secs(1)), subjects: Vec::new() };
        let request: serde_json::Value =
            serde_json::from_str(&create_request("S", &["edge.*.s.>".into()], &create)).expect("JSON");
        assert_eq!(request["allow_atomic"], true);
        assert_eq!(request["num_replicas"], 3);
        assert_eq!(request["max_bytes"], -1);
        assert_eq!(request["max_age"], 1_000_000_000);
    }

    #[test]
    fn a_stream_that_is_there_already_will_do() {
        let exists = br#"{"error":{"code":400,"err_code":10058,"description":"stream name already in use"}}"#;
        assert_eq!(created(exists), Ok(()));
        let overlap =
            br#"{"error":{"code":400,"err_code":10065,"description":"subjects overlap with an existing stream"}}"#;
        assert!(matches!(created(overlap), Err(Trouble::NotCreated(_))));
    }
}
