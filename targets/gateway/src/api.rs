//! The pages: what is asked for, and what is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::clock::WallTime;
use headwater_broker::config::Span;
use headwater_broker::log::{GapReason, Item, Order, Query, Seq, StoredMessage, SubjectFilter};
use headwater_broker::mqtt::properties::decode_stored;
use headwater_broker::subject;
use headwater_sync::encode::{parse_rfc3339, rfc3339};
use serde::Serialize;

use crate::base64;
use crate::gateway::Gateway;
use crate::health::{alive, warning};
use crate::http::{Answer, Handler, Request};
use crate::metrics;
use crate::status::{Gap, Message, Page};

/// Messages of a page if the request does not say.
const DEFAULT_PAGE_MSGS: usize = 100;
/// Most messages of a page.
const MAX_PAGE_MSGS: usize = 1_000;
/// About as many bytes of messages in a page: read at once, and shown in up to six times as many bytes of JSON.
const MAX_PAGE_BYTES: usize = 256 << 10;

const INDEX: &str = "Headwater\n\n/healthz\n/readyz\n/metrics\n/api/v1/status\n/api/v1/clients\n/api/v1/streams\n\
                     /api/v1/streams/NAME\n/api/v1/streams/NAME/messages?from=SEQ&limit=N&order=asc|desc&topic=FILTER|subject=FILTER&since=TIME\n/api/v1/losses\n/api/v1/uplinks\n";

/// Answers for a gateway.
#[derive(Debug)]
pub(crate) struct Api(pub(crate) Arc<Gateway>);

impl Handler for Api {
    async fn answer(&self, request: Request) -> Answer {
        let gateway = &self.0;
        match request.path.as_str() {
            "/" => text(200, INDEX),
            "/healthz" => {
                let log = gateway.log.stats();
                health(&alive(&log), warning(&log))
            }
            "/readyz" => {
                let log = gateway.log.stats();
                health(&gateway.health.ready(&log), warning(&log))
            }
            "/metrics" => {
                gateway.look().await;
                Answer {
                    code: 200,
                    content_type: metrics::CONTENT_TYPE,
                    body: metrics::render(&gateway.status()).into_bytes(),
                }
            }
            "/api/v1/status" => {
                gateway.look().await;
                json(&gateway.status())
            }
            "/api/v1/clients" => json(&gateway.client_list()),
            "/api/v1/streams" => json(&gateway.streams()),
            "/api/v1/losses" => json(&gateway.losses()),
            "/api/v1/uplinks" => {
                gateway.look().await;
                json(&gateway.uplinks())
            }
            path => match path.strip_prefix("/api/v1/streams/") {
                Some(rest) => self.stream(rest, &request).await,
                None => text(404, "there is no such page; / lists them\n"),
            },
        }
    }
}

impl Api {
    async fn stream(&self, rest: &str, request: &Request) -> Answer {
        let (name, page) = rest.split_once('/').unwrap_or((rest, ""));
        let name = unescaped(name);
        let Some(stream) = self.0.stream(&name) else {
            return text(404, &format!("there is no stream \"{name}\"\n"));
        };
        match page {
            "" => json(&stream),
            "messages" if !self.may_read(request.peer) => {
                text(403, "messages are shown to this machine only: http.remote_messages = true changes that\n")
            }
            "messages" => match Asked::parse(&request.query) {
                Ok(asked) => self.messages(name, asked).await,
                Err(why) => text(400, &why),
            },
            _ => text(404, "there is no such page; / lists them\n"),
        }
    }

    fn may_read(&self, peer: SocketAddr) -> bool {
        self.0.config.http.remote_messages || peer.ip().to_canonical().is_loopback()
    }

    async fn messages(&self, name: String, asked: Asked) -> Answer {
        let gateway = Arc::clone(&self.0);
        // Reads the disk, which may take its time.
        let read = tokio::task::spawn_blocking(move || read(&gateway, name, asked));
        match read.await {
            Ok(Ok(page)) => json(&page),
            Ok(Err(why)) => text(500, &format!("{why}\n")),
            Err(_) => text(500, "reading failed\n"),
        }
    }
}

fn read(gateway: &Gateway, name: String, asked: Asked) -> Result<Page, String> {
    let log = &gateway.log;
    let id = log.stream(&name).ok_or_else(|| format!("there is no stream \"{name}\""))?;
    let since = match asked.since {
        Some(Since::Time(time)) => Some(time),
        Some(Since::Ago(span)) => {
            let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
            Some(WallTime(log.now().wall.0.saturating_sub(nanos)))
        }
        None => None,
    };
    let mut query = Query {
        filter: asked.filter,
        order: asked.order,
        max_msgs: asked.limit,
        max_bytes: MAX_PAGE_BYTES,
        ..Query::default()
    };
    match asked.order {
        Order::Forward => query.first = asked.from,
        Order::Backward => query.last = Some(asked.from).filter(|from| *from > Seq(0)),
    }
    if let Some(since) = since {
        let first = log.first_at(id, since).map_err(|e| e.to_string())?;
        query.first = query.first.max(first.unwrap_or_else(|| log.state(id).last.next()));
    }
    let found = log.page(id, &query).map_err(|e| e.to_string())?;
    let mut page = Page {
        stream: name,
        next: found.next.0,
        more: found.more,
        blocks_read: found.blocks_read,
        blocks_skipped: found.blocks_skipped,
        ..Page::default()
    };
    for item in found.items {
        match item {
            Item::Message(message) => page.messages.push(shown(gateway, &message)),
            Item::Gap { first, last, reason } => {
                let reason = match reason {
                    GapReason::Retention => "retention",
                    GapReason::Purge => "purge",
                    GapReason::Damage => "damage",
                };
                page.gaps.push(Gap { first: first.0, last: last.0, reason: reason.to_owned() });
            }
        }
    }
    Ok(page)
}

fn shown(gateway: &Gateway, message: &StoredMessage) -> Message {
    // Properties that cannot be read are left out; the message itself is intact.
    let properties = decode_stored(&message.headers).unwrap_or_default();
    let user = properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let time = gateway.log.time(message.stamp);
    Message {
        seq: message.seq.0,
        time: rfc3339(time.wall),
        clock: time.quality.as_str().to_owned(),
        topic: String::from_utf8_lossy(&message.subject).into_owned(),
        // The router keeps QoS in bits 0 and 1 of the tag, and retain in bit 2.
        qos: message.tag & 0b11,
        retain: message.tag & 0b100 != 0,
        payload: std::str::from_utf8(&message.payload).ok().map(str::to_owned),
        payload_base64: base64::encode(&message.payload),
        user_properties: user.collect(),
        content_type: properties.content_type.as_ref().map(ToString::to_string),
    }
}

/// Which messages are asked for.
#[derive(Clone, Debug, PartialEq)]
struct Asked {
    /// The first, or with the newest first the last; 0 for the one at that end.
    from: Seq,
    limit: usize,
    filter: Option<SubjectFilter>,
    since: Option<Since>,
    order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Since {
    Time(WallTime),
    Ago(Duration),
}

impl Asked {
    fn parse(query: &str) -> Result<Asked, String> {
        let mut asked =
            Asked { from: Seq(0), limit: DEFAULT_PAGE_MSGS, filter: None, since: None, order: Order::Forward };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = unescaped(value);
            let wrong = |expected: &str| format!("{name}: expected {expected}, found \"{value}\"\n");
            let number = || wrong("a whole number");
            let filter = match name {
                "from" => {
                    asked.from = Seq(value.parse().map_err(|_| number())?);
                    continue;
                }
                "limit" => {
                    asked.limit = value.parse().map_err(|_| number())?;
                    continue;
                }
                "order" => {
                    asked.order = match value.as_str() {
                        "asc" => Order::Forward,
                        "desc" => Order::Backward,
                        _ => return Err(wrong("asc or desc")),
                    };
                    continue;
                }
                "since" => {
                    let ago = || Span::parse(&value).ok().map(|span| Since::Ago(span.0));
                    let since = parse_rfc3339(&value).map(Since::Time).or_else(ago);
                    let expected = "a time such as 2026-05-01T12:00:00Z, or how long ago, such as 10m";
                    asked.since = Some(since.ok_or_else(|| wrong(expected))?);
                    continue;
                }
                "topic" => SubjectFilter::new(value.clone()).map_err(|why| why.to_string()),
                "subject" => subject::filter(&value)
                    .map_err(|why| format!("it {why}"))
                    .and_then(|filter| SubjectFilter::new(filter.as_bytes().clone()).map_err(|why| why.to_string())),
                _ => {
                    let known = "from, limit, topic, subject, since or order";
                    return Err(format!("unknown parameter \"{name}\": expected {known}\n"));
                }
            };
            if asked.filter.is_some() {
                return Err("topic and subject: only one of them can be asked for, and once\n".to_owned());
            }
            asked.filter = Some(filter.map_err(|why| format!("{name} \"{value}\": {why}\n"))?);
        }
        asked.limit = asked.limit.clamp(1, MAX_PAGE_MSGS);
        Ok(asked)
    }
}

fn health(result: &Result<(), String>, warning: Option<&str>) -> Answer {
    match result {
        Ok(()) => text(200, &warning.map_or("ok\n".to_owned(), |warning| format!("ok\nwarning: {warning}\n"))),
        Err(why) => text(503, &format!("{why}\n")),
    }
}

fn text(code: u16, text: &str) -> Answer {
    Answer { code, content_type: "text/plain; charset=utf-8", body: text.as_bytes().to_vec() }
}

fn json<T: Serialize>(value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            Answer { code: 200, content_type: "application/json", body }
        }
        Err(e) => text(500, &format!("{e}\n")),
    }
}

/// A part of a path or query with its `%` sequences resolved; a broken one stays as it is. A `+` is a `+`: topics have them.
fn unescaped(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|_| byte == b'%').and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_bounded_and_what_is_wrong_is_named() {
        let plain = Asked { from: Seq(0), limit: 100, filter: None, since: None, order: Order::Forward };
        assert_eq!(Asked::parse(""), Ok(plain.clone()));
        let asked = Asked::parse("from=7&limit=9999999&order=desc&since=10m&topic=a/%2B/%23");
        let filter = SubjectFilter::new("a/+/#").ok();
        let since = Some(Since::Ago(Duration::from_secs(600)));
        assert_eq!(asked, Ok(Asked { from: Seq(7), limit: 1_000, filter, since, order: Order::Backward }));
        let asked = Asked::parse("subject=a.*.b&since=1970-01-01T00:00:05Z");
        let filter = SubjectFilter::new("a/+/b").ok();
        assert_eq!(asked, Ok(Asked { filter, since: Some(Since::Time(WallTime(5_000_000_000))), ..plain }));
        for (query, part) in [
            ("from=-1", "from: expected a whole number"),
            ("limit=", "limit: expected a whole number"),
            ("form=1", "unknown parameter \"form\""),
            ("order=up", "order: expected asc or desc"),
            ("since=yesterday", "since: expected a time"),
            ("since=-5m", "since: expected a time"),
            ("topic=a%23", "topic \"a#\": a + must be a level of its own"),
            ("topic=", "topic \"\": a filter cannot be empty"),
            ("subject=a..b", "subject \"a..b\": it is empty"),
            ("subject=a.>.b", "subject \"a.>.b\": it has a misplaced wildcard"),
            ("topic=a&subject=a", "only one of them"),
        ] {
            assert!(Asked::parse(query).is_err_and(|why| why.contains(part)), "{query}: {:?}", Asked::parse(query));
        }
    }

    #[test]
    fn paths_are_unescaped_once() {
        assert_eq!(unescaped("a%20b"), "a b");
        assert_eq!(unescaped("%2541"), "%41");
        assert_eq!(unescaped("%zz%4"), "%zz%4");
    }
}
