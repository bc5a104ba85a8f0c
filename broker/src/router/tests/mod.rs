//! The router against a log that is a list. Clauses are of MQTT 5.0.

mod live_switch;
mod publish;
mod queues;
mod sessions;
mod shared;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::log::{Item, ReadBatch, Seq, StoredMessage, StreamId, TableId, Ticket};
use crate::mqtt::packet::{Publish, QoS, ReasonCode, Subscribe, SubscriptionOptions, Version};
use crate::mqtt::session::{Answer, AnswerResult, Negotiated, SessionExpiry, SessionState};

pub(super) const NOW: Monotonic = Monotonic(5_000_000_000_000);
pub(super) const BOOT: u32 = 3;

/// Streams: 1 captures `a/#`, 2 captures `b/#`, 9 is the internal one; `n/#` is captured by none.
#[derive(Debug, Default)]
pub(super) struct FakeLog {
    /// Stream number and message, in order of appending.
    pub(super) messages: RefCell<Vec<(u32, StoredMessage)>>,
    pub(super) tables: RefCell<BTreeMap<(u8, Vec<u8>), Bytes>>,
    /// What kinds of entries each group had.
    pub(super) groups: RefCell<Vec<String>>,
    /// How many of `messages` are durable.
    pub(super) durable: Cell<usize>,
    pub(super) refuse: RefCell<Option<AppendError>>,
    /// Groups that nobody waits for.
    pub(super) unawaited: Cell<usize>,
}

impl Store for FakeLog {
    fn append(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        if let Some(error) = self.refuse.borrow().clone() {
            return Err(error);
        }
        let mut messages = self.messages.borrow_mut();
        let mut last_seq = None;
        let mut kinds = String::new();
        for entry in group {
            match *entry {
                Entry::Message(new) => {
                    let seq = Seq(messages.iter().filter(|(s, _)| *s == new.stream.0).count() as u64 + 1);
                    last_seq = Some(seq);
                    kinds.push('m');
                    messages.push((
                        new.stream.0,
                        StoredMessage {
                            seq,
                            stamp: Stamp { boot: BOOT, at: NOW },
                            subject: Bytes::copy_from_slice(new.subject),
                            headers: Bytes::copy_from_slice(new.headers),
                            payload: Bytes::copy_from_slice(new.payload),
                            tag: new.tag,
                        },
                    ));
                }
                Entry::Put { table, key, value } => {
                    kinds.push_str(&format!("p{}", table.0));
                    self.tables.borrow_mut().insert((table.0, key.to_vec()), Bytes::copy_from_slice(value));
                }
                Entry::Delete { table, key } => {
                    kinds.push_str(&format!("d{}", table.0));
                    self.tables.borrow_mut().remove(&(table.0, key.to_vec()));
                }
            }
        }
        let mut groups = self.groups.borrow_mut();
        groups.push(kinds);
        Ok(Appended { ticket: Ticket(groups.len() as u64), last_seq })
    }

    fn append_unawaited(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        let appended = self.append(group)?;
        self.unawaited.set(self.unawaited.get() + 1);
        Ok(appended)
    }
}

impl FakeLog {
    pub(super) fn sync(&self) {
        self.durable.set(self.messages.borrow().len());
    }

    pub(super) fn read(&self, stream: StreamId, from: Seq, max: usize) -> ReadBatch {
        let messages = self.messages.borrow();
        let found: Vec<StoredMessage> = messages[..self.durable.get()]
            .iter()
            .filter(|(s, m)| *s == stream.0 && m.seq >= from)
            .map(|(_, m)| m.clone())
            .take(max)
            .collect();
        let next = found.last().map_or(from, |m| m.seq.next());
        ReadBatch { items: found.into_iter().map(Item::Message).collect(), next }
    }

    pub(super) fn has(&self, table: TableId, key: &[u8]) -> bool {
        self.tables.borrow().contains_key(&(table.0, key.to_vec()))
    }

    fn next(&self, stream: u32) -> Seq {
        Seq(self.messages.borrow().iter().filter(|(s, _)| *s == stream).count() as u64 + 1)
    }
}

pub(super) fn limits() -> RouterLimits {
    RouterLimits {
        max_sessions: 4,
        max_subscriptions: 3,
        queue: QueueLimits { max_msgs: 3, max_bytes: 10_000, max_bytes_total: 100_000 },
        max_retained_msgs: 3,
        max_retained_bytes: 10_000,
        sys: true,
    }
}

pub(super) fn restored(log: &FakeLog, now: Monotonic) -> (Router, RestoreReport) {
    restored_with(limits(), log, now)
}

pub(super) fn restored_with(limits: RouterLimits, log: &FakeLog, now: Monotonic) -> (Router, RestoreReport) {
    let capture = |id: u32, filter: Option<&str>| Capture {
        id: StreamId(id),
        name: format!("s{id}"),
        topics: filter.map(|f| f.parse().expect("valid")).into_iter().collect(),
        exclude: Vec::new(),
        next: log.next(id),
    };
    let streams = Streams::new(vec![capture(1, Some("a/#")), capture(2, Some("b/#"))], capture(9, None));
    let mut restorer = Restorer::new(Router::new(limits, streams, BOOT), now, |stamp| now.since(stamp.at));
    for table in Restorer::TABLES {
        for ((number, key), value) in log.tables.borrow().iter() {
            if *number == table.0 {
                restorer.entry(table, key, value);
            }
        }
    }
    restorer.finish()
}

pub(super) fn router() -> (Router, FakeLog) {
    let log = FakeLog::default();
    (restored(&log, NOW).0, log)
}

pub(super) fn agreed(client_id: &str, expiry: u32, clean_start: bool) -> Negotiated {
    Negotiated {
        version: Version::V5,
        client_id: client_id.to_owned(),
        user: None,
        assigned: false,
        clean_start,
        keep_alive: 0,
        server_keep_alive: None,
        expiry: SessionExpiry(expiry),
        asked_expiry: None,
        window: 10,
        max_packet_bytes: None,
        topic_alias_maximum: 0,
        problem_information: true,
        response_information: None,
        will: None,
    }
}

pub(super) fn attach(router: &mut Router, client_id: &str, expiry: u32) -> SessionKey {
    router.attach(&agreed(client_id, expiry, false)).expect("there is room").key
}

pub(super) fn filter(filter: &str, qos: QoS) -> Subscribe {
    subscribe_packet(filter, SubscriptionOptions { qos, ..SubscriptionOptions::default() }, None)
}

pub(super) fn subscribe_packet(filter: &str, options: SubscriptionOptions, id: Option<u32>) -> Subscribe {
    Subscribe {
        packet_id: crate::mqtt::packet::PacketId(std::num::NonZeroU16::MIN),
        subscription_id: id,
        user: Vec::new(),
        filters: vec![(filter.parse().map_err(|_| filter.to_owned()), options)],
    }
}

pub(super) fn subscribe(router: &mut Router, key: SessionKey, f: &str, qos: QoS) -> (ReasonCode, Vec<Replay>) {
    let mut replays = Vec::new();
    let reasons = router.subscribe(key, filter(f, qos), &mut replays);
    (reasons[0], replays)
}

pub(super) fn msg(topic: &str, payload: &str, qos: QoS) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic.parse().expect("valid")),
        packet_id: (qos > QoS::AtMostOnce).then_some(crate::mqtt::packet::PacketId(std::num::NonZeroU16::MIN)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub(super) fn publish(router: &mut Router, log: &FakeLog, publish: Publish) -> Vec<Answer> {
    publish_as(router, log, Publisher::Will, &[publish])
}

pub(super) fn publish_as(router: &mut Router, log: &FakeLog, publisher: Publisher, batch: &[Publish]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let routed = router.publish(NOW, log, publisher, batch, &mut answers);
    assert_eq!((routed.done, routed.stopped), (batch.len(), None));
    answers
}

pub(super) fn pull(router: &mut Router, key: SessionKey) -> Vec<Delivery> {
    let mut out = Vec::new();
    while router.pull(key, 1000, 100_000, &mut out) == Pull::More {}
    out
}

pub(super) fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8_lossy(&d.message.payload).into_owned()).collect()
}

pub(super) fn leaving(expiry: u32) -> Leaving<'static> {
    Leaving {
        state: SessionState::default(),
        reading: None,
        replays: Vec::new(),
        expiry: SessionExpiry(expiry),
        will: None,
    }
}

pub(super) fn reason(answer: &Answer) -> ReasonCode {
    match &answer.result {
        AnswerResult::One(reason, _) => *reason,
        AnswerResult::Each(_) => panic!("of a publish"),
    }
}
