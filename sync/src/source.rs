//! Where a mirror's messages come from, and where its position is kept: the log, seen through a small opening so that the
//! shell can be tried without one.

use std::fmt;
use std::sync::Arc;

use headwater_broker::clock::WallTime;
use headwater_broker::log::{
    AppendError, Cursor, DurableMark, Entry as LogEntry, Item, Log, Seq, StoredMessage, StreamId, TableId,
};
use headwater_broker::mqtt::properties::decode_stored;
use headwater_broker::mqtt::topic::TopicName;
use headwater_broker::subject::append_subject;
use tokio::sync::watch;

use crate::batch::{Absence, Entry, Limits};
use crate::encode::Encoder;
use crate::forwarder::Held;

/// The table of the log that remembers which stream of the hub a cursor belongs to.
/// Key: the cursor's name; value: creation time of the hub's stream in the hub's words.
pub const HUB_STREAMS: TableId = TableId(32);

/// What remembering led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// It will reach the disk no later than any cursor saved from now on.
    Yes,
    /// Not now; try again soon.
    Busy,
    /// The log has failed.
    Failed(String),
}

/// A stream to be mirrored, and the mirror's position in it.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// What is held.
    fn held(&self) -> Held;
    /// Bytes of all messages held.
    fn held_bytes(&self) -> u64;
    /// Entries from `from` on, at least one if there is one, and where to go on. May block on the disk.
    ///
    /// # Errors
    /// The log could not be read, in words.
    fn read(&self, from: Seq, limits: Limits) -> Result<(Vec<Entry>, Seq), String>;
    /// When the first message at or behind `from` was stored. May block on the disk.
    fn time_of(&self, from: Seq) -> Option<WallTime>;
    /// The time now, on the same clock.
    fn now(&self) -> WallTime;
    /// Last sequence confirmed.
    fn floor(&self) -> Seq;
    /// Confirms.
    fn advance(&self, floor: Seq);
    /// Messages that were discarded unconfirmed.
    fn lost(&self) -> u64;
    /// Remembers the creation time of the hub's stream.
    fn remember(&self, created: &str) -> Remembered;
    /// What was remembered. May block on the disk.
    ///
    /// # Errors
    /// The log could not be read, in words.
    fn remembered(&self) -> Result<Option<String>, String>;
    /// Wakes when more is durable.
    fn durable(&self) -> watch::Receiver<DurableMark>;
}

/// A stream of the log.
#[derive(Debug)]
pub struct LogSource {
    log: Log,
    stream: StreamId,
    cursor: Cursor,
    cursor_name: String,
    encoder: Arc<Encoder>,
}

impl LogSource {
    /// The mirror `cursor_name` over `stream`.
    #[must_use]
    pub fn new(log: Log, stream: StreamId, cursor_name: String, encoder: Arc<Encoder>) -> Self {
        let cursor = log.cursor(&cursor_name, stream);
        Self { log, stream, cursor, cursor_name, encoder }
    }

    fn entry(&self, item: Item) -> Entry {
        match item {
            Item::Gap { first, last, reason } => Entry::Gap { first, last, reason: reason.into() },
            Item::Message(message) => {
                let seq = message.seq;
                let absent = |reason| Entry::Gap { first: seq, last: seq, reason };
                match self.encode(message) {
                    Ok(entry) => entry,
                    Err(reason) => absent(reason),
                }
            }
        }
    }

    fn encode(&self, message: StoredMessage) -> Result<Entry, Absence> {
        // Only valid topics are stored; what is not one was damaged.
        let topic = TopicName::new(message.subject).map_err(|_| Absence::Damage)?;
        let mut subject = String::with_capacity(topic.as_bytes().len() + 8);
        append_subject(&topic, &mut subject);
        let properties = if message.headers.is_empty() {
            None
        } else {
            Some(decode_stored(&message.headers).map_err(|_| Absence::Damage)?)
        };
        let time = self.log.time(message.stamp);
        let outgoing = self.encoder.message(message.seq, time, &subject, properties.as_ref(), message.payload);
        let outgoing = outgoing.ok_or(Absence::TooLarge)?;
        Ok(Entry::Message { seq: message.seq, outgoing })
    }
}

impl Source for LogSource {
    fn held(&self) -> Held {
        let state = self.log.state(self.stream);
        Held { first: state.first, last: state.last }
    }

    fn held_bytes(&self) -> u64 {
        self.log.state(self.stream).bytes
    }

    fn read(&self, from: Seq, limits: Limits) -> Result<(Vec<Entry>, Seq), String> {
        let batch = self.log.read(self.stream, from, limits.msgs, limits.bytes).map_err(|e| e.to_string())?;
        Ok((batch.items.into_iter().map(|item| self.entry(item)).collect(), batch.next))
    }

    fn time_of(&self, from: Seq) -> Option<WallTime> {
        // A gap may come first.
        let batch = self.log.read(self.stream, from, 2, 1).ok()?;
        batch.items.iter().find_map(|item| match item {
            Item::Message(message) => Some(self.log.time(message.stamp).wall),
            Item::Gap { .. } => None,
        })
    }

    fn now(&self) -> WallTime {
        self.log.now().wall
    }

    fn floor(&self) -> Seq {
        self.cursor.floor()
    }

    fn advance(&self, floor: Seq) {
        self.cursor.advance(floor);
    }

    fn lost(&self) -> u64 {
        self.cursor.lost()
    }

    fn remember(&self, created: &str) -> Remembered {
        let put = LogEntry::Put { table: HUB_STREAMS, key: self.cursor_name.as_bytes(), value: created.as_bytes() };
        match self.log.append(&[put]) {
            Ok(_) => Remembered::Yes,
            Err(AppendError::Busy) => Remembered::Busy,
            Err(e @ (AppendError::TooLarge { .. } | AppendError::Full { .. } | AppendError::Failed)) => {
                Remembered::Failed(e.to_string())
            }
        }
    }

    fn remembered(&self) -> Result<Option<String>, String> {
        let value = self.log.table_get(HUB_STREAMS, self.cursor_name.as_bytes()).map_err(|e| e.to_string())?;
        Ok(value.and_then(|value| String::from_utf8(value.to_vec()).ok()))
    }

    fn durable(&self) -> watch::Receiver<DurableMark> {
        self.log.durable()
    }
}
