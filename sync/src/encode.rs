//! A stored message as the hub gets it: subject and headers. Pure.
//!
//! | header | value |
//! |---|---|
//! | `Nats-Msg-Id` | `{gateway}/{stream}/{seq}@{stream id}` |
//! | `Headwater-Seq` | sequence in the gateway's stream |
//! | `Headwater-Time` | when the gateway stored it, RFC 3339 in UTC with nanoseconds |
//! | `Headwater-Clock` | what that time is worth: `synced`, from a clock that was right, or `estimated` |
//! | `Headwater-Stream-Id` | identity of the gateway's stream, 16 hexadecimal digits |
//! | `Content-Type` | MQTT 5 content type |
//! | `Mqtt-Response-Topic` | MQTT 5 response topic, as the MQTT topic it is |
//! | `Mqtt-Correlation-Data` | MQTT 5 correlation data, base64 |
//! | `Mqtt-Payload-Format` | `1` where the publisher said UTF-8 |
//! | `Mqtt-Message-Expiry` | MQTT 5 message expiry interval in seconds, as published |
//! | anything else | MQTT 5 user properties under their own names |
//!
//! A user property whose name is one of ours or the hub's (`Nats-*`, `Headwater-*`, `Mqtt-*`, `Content-Type`, in any case) is
//! sent as `Mqtt-User-{name}`: no device can set a header that the hub or a reader of the copy acts on. Bytes that a header
//! cannot hold are percent-encoded, so CR and LF never get through. QoS and retain say how a message travelled to the
//! gateway, not what it is; they are left out.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use headwater_broker::clock::{MessageTime, WallTime};
use headwater_broker::log::{Seq, StreamUid};
use headwater_broker::mqtt::packet::PublishProperties;

use crate::batch::Absence;

/// Sequence in the gateway's stream; the resume reads it back.
pub const SEQ: &str = "Headwater-Seq";
/// Identity of the gateway's stream; the resume reads it back.
pub const STREAM_ID: &str = "Headwater-Stream-Id";
/// For the hub's dedupe window.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
const TIME: &str = "Headwater-Time";
const CLOCK: &str = "Headwater-Clock";

/// Longest subject sent. A hub reads at most 4,096 bytes of a protocol line, which carries our reply inbox as well.
const MAX_SUBJECT_BYTES: usize = 3_000;

/// A header: name and value, both safe to write.
pub type Header = (Cow<'static, str>, String);

/// A message towards the hub, without what batches and fences add.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// What travels with it.
    pub headers: Vec<Header>,
    /// The message.
    pub payload: Bytes,
    size: usize,
}

impl Outgoing {
    /// Puts a message together and measures it.
    #[must_use]
    pub fn new(subject: String, headers: Vec<Header>, payload: Bytes) -> Self {
        const FRAME: usize = "NATS/1.0\r\n\r\n".len();
        let size =
            FRAME + headers.iter().map(|(n, v)| n.len() + v.len() + ": \r\n".len()).sum::<usize>() + payload.len();
        Self { subject, headers, payload, size }
    }

    /// Bytes of headers and payload as the hub counts them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }
}

/// Makes messages for one mirror.
#[derive(Clone, Debug)]
pub struct Encoder {
    prefix: String,
    name: String,
    uid: StreamUid,
}

impl Encoder {
    /// For the subject template of a mirror, e.g. `edge.{gateway}.{stream}.{subject}`.
    ///
    /// # Errors
    /// The template does not end in `.{subject}`, or what stands before it is not a plain subject: the operator's mistake, in words.
    pub fn new(template: &str, gateway: &str, stream: &str, uid: StreamUid) -> Result<Self, String> {
        let head = template.strip_suffix("{subject}").and_then(|head| head.strip_suffix('.'));
        let head = head.ok_or_else(|| format!("subject template \"{template}\" must end in \".{{subject}}\""))?;
        let head = head.replace("{gateway}", gateway).replace("{stream}", stream);
        let plain = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_graphic() && !b"*>{}".contains(&b));
        if !head.split('.').all(plain) {
            return Err(format!(
                "subject template \"{template}\" gives \"{head}\": before {{subject}} it must be plain tokens, {{gateway}} and {{stream}}"
            ));
        }
        if head.len() > MAX_SUBJECT_BYTES / 2 {
            return Err(format!("subject template \"{template}\" is too long"));
        }
        Ok(Self { prefix: format!("{head}."), name: format!("{gateway}/{stream}"), uid })
    }

    /// Everything of this mirror and nothing else: the fence's subject and the question where we stopped.
    #[must_use]
    pub fn filter(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// The subject that a stream of the hub needs for this template from any gateway.
    #[must_use]
    pub fn shared_subject(template: &str, stream: &str) -> String {
        template.replace("{gateway}", "*").replace("{stream}", stream).replace("{subject}", ">")
    }

    /// The message, or `None` if its subject is longer than a hub takes.
    #[must_use]
    pub fn message(
        &self,
        seq: Seq,
        time: MessageTime,
        subject: &str,
        properties: Option<&PublishProperties>,
        payload: Bytes,
    ) -> Option<Outgoing> {
        if self.prefix.len() + subject.len() > MAX_SUBJECT_BYTES {
            return None;
        }
        let mut headers = Vec::with_capacity(5 + properties.map_or(0, |p| 5 + p.user.len()));
        headers.push((Cow::Borrowed(MESSAGE_ID), format!("{}/{}@{}", self.name, seq, self.uid)));
        headers.push((Cow::Borrowed(SEQ), seq.to_string()));
        headers.push((Cow::Borrowed(TIME), rfc3339(time.wall)));
        headers.push((Cow::Borrowed(CLOCK), time.quality.as_str().to_owned()));
        headers.push((Cow::Borrowed(STREAM_ID), self.uid.to_string()));
        if let Some(properties) = properties {
            push_properties(&mut headers, properties);
        }
        Some(Outgoing::new([&self.prefix, subject].concat(), headers, payload))
    }

    /// The notice that `first..=last` will never come.
    #[must_use]
    pub fn gap(&self, first: Seq, last: Seq, reason: Absence) -> Outgoing {
        let headers = vec![
            (Cow::Borrowed(MESSAGE_ID), format!("{}/{}-{}@{}", self.name, first, last, self.uid)),
            (Cow::Borrowed(SEQ), last.to_string()),
            (Cow::Borrowed(STREAM_ID), self.uid.to_string()),
            (Cow::Borrowed("Headwater-Gap-First"), first.to_string()),
            (Cow::Borrowed("Headwater-Gap-Last"), last.to_string()),
            (Cow::Borrowed("Headwater-Gap-Reason"), reason.as_str().to_owned()),
        ];
        Outgoing::new([&self.prefix, "headwater_gap"].concat(), headers, Bytes::new())
    }
}

fn push_properties(headers: &mut Vec<Header>, properties: &PublishProperties) {
    let mut push = |name: &'static str, value: String| headers.push((Cow::Borrowed(name), value));
    if let Some(value) = &properties.content_type {
        push("Content-Type", header_value(value));
    }
    if let Some(value) = &properties.response_topic {
        push("Mqtt-Response-Topic", header_value(value.as_str()));
    }
    if let Some(value) = &properties.correlation_data {
        push("Mqtt-Correlation-Data", base64(value));
    }
    if properties.payload_format == Some(1) {
        push("Mqtt-Payload-Format", "1".to_owned());
    }
    if let Some(value) = properties.message_expiry {
        push("Mqtt-Message-Expiry", value.to_string());
    }
    for (name, value) in &properties.user {
        headers.push((Cow::Owned(user_header_name(name)), header_value(value)));
    }
}

fn user_header_name(name: &str) -> String {
    const RESERVED: [&str; 3] = ["nats-", "headwater-", "mqtt-"];
    let begins_with = |start: &str| name.get(..start.len()).is_some_and(|s| s.eq_ignore_ascii_case(start));
    let taken = name.is_empty() || name.eq_ignore_ascii_case("content-type") || RESERVED.into_iter().any(begins_with);
    let mut valid = String::with_capacity(name.len() + 10);
    if taken {
        valid.push_str("Mqtt-User-");
    }
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b':' {
            valid.push(char::from(byte));
        } else {
            push_percent(&mut valid, byte);
        }
    }
    valid
}

fn header_value(value: &str) -> String {
    if !value.contains(|c: char| c.is_ascii_control()) {
        return value.to_owned();
    }
    let mut valid = String::with_capacity(value.len() + 10);
    for c in value.chars() {
        match u8::try_from(c) {
            Ok(byte) if byte.is_ascii_control() => push_percent(&mut valid, byte),
            _ => valid.push(c),
        }
    }
    valid
}

fn push_percent(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

/// RFC 3339 in UTC with nanoseconds.
///
/// # Panics
/// Never: 64 bits of nanoseconds end in the year 2554.
#[must_use]
pub fn rfc3339(time: WallTime) -> String {
    let seconds = i64::try_from(time.0 / 1_000_000_000).expect("u64 nanoseconds are fewer than 2^35 seconds");
    let t = time::OffsetDateTime::from_unix_timestamp(seconds).expect("u64 nanoseconds end in the year 2554");
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        time.0 % 1_000_000_000
    )
}

/// The time that a text in RFC 3339 names, with any offset from UTC; what lies before 1970 counts as 1970. `None` if it is none.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<WallTime> {
    let time = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    Some(WallTime(u64::try_from(time.unix_timestamp_nanos().max(0)).unwrap_or(u64::MAX)))
}

/// Standard base64 with padding (RFC 4648): twenty lines instead of another crate.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(char::from(DIGITS[(group >> (18 - 6 * digit)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use headwater_broker::clock::ClockQuality;

    use super::*;

    const NEVER: MessageTime = MessageTime { wall: WallTime(0), quality: ClockQuality::Estimated };

    fn encoder() -> Encoder {
        Encoder::new("edge.{gateway}.{stream}.{subject}", "gw-1", "telemetry", StreamUid(0xabc))
            .expect("a valid template")
    }

    fn header<'a>(outgoing: &'a Outgoing, name: &str) -> Option<&'a str> {
        outgoing.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn a_message_says_where_it_comes_from() {
        let time = MessageTime { wall: WallTime(1_763_900_000_000_000_042), quality: ClockQuality::Synced };
        let m = encoder().message(Seq(7), time, "a.b", None, Bytes::from_static(b"21.5")).expect("a short subject");
        assert_eq!(m.subject, "edge.gw-1.telemetry.a.b");
        assert_eq!(header(&m, "Nats-Msg-Id"), Some("gw-1/telemetry/7@0000000000000abc"));
        assert_eq!(header(&m, "Headwater-Seq"), Some("7"));
        assert_eq!(header(&m, "Headwater-Time"), Some("2025-11-23T12:13:20.000000042Z"));
        assert_eq!(header(&m, "Headwater-Clock"), Some("synced"));
        assert_eq!(header(&m, "Headwater-Stream-Id"), Some("0000000000000abc"));
        assert_eq!(m.headers.len(), 5);
    }

    #[test]
    fn the_size_is_what_goes_over_the_wire() {
        let m = Outgoing::new("s".into(), vec![(Cow::Borrowed("A"), "bc".into())], Bytes::from_static(b"123"));
        assert_eq!(m.size(), b"NATS/1.0\r\nA: bc\r\n\r\n123".len());
    }

    #[test]
    fn all_times_can_be_written() {
        assert_eq!(rfc3339(WallTime(0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(WallTime(u64::MAX)), "2554-07-21T23:34:33.709551615Z");
    }

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        for time in [0, 1, 1_700_000_000_123_456_789, u64::MAX] {
            assert_eq!(parse_rfc3339(&rfc3339(WallTime(time))), Some(WallTime(time)));
        }
        let nanos = |seconds: u64| Some(WallTime(seconds * 1_000_000_000));
        assert_eq!(parse_rfc3339("1970-01-02T01:00:00+01:00"), nanos(86_400));
        assert_eq!(parse_rfc3339("1969-01-01T00:00:00Z"), nanos(0));
        for text in ["", "yesterday", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00"] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn properties_become_headers() {
        let properties = PublishProperties {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("application/json".into()),
            correlation_data: Some(Bytes::from_static(&[0, 255, 16, 8])),
            user: vec![("site".into(), "Köln".into()), ("site".into(), "2".into())],
            ..PublishProperties::default()
        };
        let m = encoder().message(Seq(1), NEVER, "a", Some(&properties), Bytes::new()).expect("a short subject");
        assert_eq!(header(&m, "Content-Type"), Some("application/json"));
        assert_eq!(header(&m, "Mqtt-Correlation-Data"), Some("AP8QCA=="));
        assert_eq!(header(&m, "Mqtt-Payload-Format"), Some("1"));
        assert_eq!(header(&m, "Mqtt-Message-Expiry"), Some("60"));
        let sites: Vec<_> = m.headers.iter().filter(|(n, _)| n == "site").map(|(_, v)| v.as_str()).collect();
        assert_eq!(sites, ["Köln", "2"]);
    }

    #[test]
    fn no_user_property_reaches_a_header_that_means_something() {
        for name in [
            "Nats-Msg-Id",
            "nats-rollup",
            "NATS-TTL",
            "Headwater-Seq",
            "headwater-x",
            "Mqtt-Response-Topic",
            "content-TYPE",
            "",
        ] {
            assert_eq!(user_header_name(name), format!("Mqtt-User-{name}"));
        }
        assert_eq!(user_header_name("Natsy"), "Natsy");
        assert_eq!(user_header_name("na\u{e9}ts-"), "na%C3%A9ts-");
    }

    #[test]
    fn no_user_property_writes_a_line_of_its_own() {
        assert_eq!(user_header_name("a\r\nNats-Rollup: all"), "a%0D%0ANats-Rollup%3A%20all");
        assert_eq!(header_value("x\r\nNats-Rollup: all\0"), "x%0D%0ANats-Rollup: all%00");
        assert_eq!(header_value("grün, 21 °C"), "grün, 21 °C");
    }

    #[test]
    fn a_gap_notice_carries_its_bounds_and_lets_a_resume_continue_behind_it() {
        let m = encoder().gap(Seq(3), Seq(9), Absence::Retention);
        assert_eq!(m.subject, "edge.gw-1.telemetry.headwater_gap");
        assert_eq!(header(&m, "Headwater-Gap-First"), Some("3"));
        assert_eq!(header(&m, "Headwater-Gap-Last"), Some("9"));
        assert_eq!(header(&m, "Headwater-Gap-Reason"), Some("retention"));
        assert_eq!(header(&m, "Headwater-Seq"), Some("9"));
        assert_eq!(header(&m, "Headwater-Stream-Id"), Some("0000000000000abc"));
        assert!(m.payload.is_empty());
    }

    #[test]
    fn a_subject_that_no_hub_reads_is_not_sent() {
        let long = "x".repeat(MAX_SUBJECT_BYTES);
        assert!(encoder().message(Seq(1), NEVER, &long, None, Bytes::new()).is_none());
    }

    #[test]
    fn templates_that_cannot_be_fenced_are_refused() {
        let new = |template: &str| Encoder::new(template, "gw", "s", StreamUid(1));
        for bad in [
            "",
            "{subject}",
            "edge.{gateway}",
            "edge.*.{subject}",
            "edge..{subject}",
            "edge.{site}.{subject}",
            "a b.{subject}",
        ] {
            assert!(new(bad).is_err(), "{bad}");
        }
        assert_eq!(new("plant7.{gateway}.{subject}").expect("a valid template").filter(), "plant7.gw.>");
    }

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
