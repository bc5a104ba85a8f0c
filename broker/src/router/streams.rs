//! Which stream captures a topic, and where each stream stands.

use crate::log::{Seq, StreamId};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Index of a stream in the [`Streams`] table; valid as long as the router lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamIndex(pub usize);

/// A stream as the router sees it.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Its number in the log.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// Captured; empty for the internal stream.
    pub topics: Vec<TopicFilter>,
    /// Not captured.
    pub exclude: Vec<TopicFilter>,
    /// At most the sequence that the next message gets. Exact once the router has appended one.
    pub next: Seq,
}

impl Capture {
    fn captures(&self, topic: &TopicName) -> bool {
        self.topics.iter().any(|f| f.matches(topic)) && !self.exclude.iter().any(|f| f.matches(topic))
    }
}

/// All streams, the internal one last. Fixed after start, as many as are configured plus one.
#[derive(Debug)]
pub struct Streams {
    table: Vec<Capture>,
}

impl Streams {
    /// `internal` takes what no stream captures and a session needs.
    #[must_use]
    pub fn new(configured: Vec<Capture>, internal: Capture) -> Self {
        let mut table = configured;
        table.push(internal);
        Self { table }
    }

    pub(super) fn internal(&self) -> StreamIndex {
        StreamIndex(self.table.len() - 1)
    }

    pub(super) fn find(&self, topic: &TopicName) -> Option<StreamIndex> {
        self.table.iter().position(|s| s.captures(topic)).map(StreamIndex)
    }

    pub(super) fn by_id(&self, id: u32) -> Option<StreamIndex> {
        self.table.iter().position(|s| s.id.0 == id).map(StreamIndex)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StreamIndex, &Capture)> {
        self.table.iter().enumerate().map(|(i, s)| (StreamIndex(i), s))
    }

    /// Where every stream's next message will be, or a little before.
    pub(super) fn tails(&self) -> Positions {
        Positions(self.table.iter().map(|s| s.next).collect())
    }
}

impl std::ops::Index<StreamIndex> for Streams {
    type Output = Capture;
    fn index(&self, index: StreamIndex) -> &Capture {
        &self.table[index.0]
    }
}

impl std::ops::IndexMut<StreamIndex> for Streams {
    fn index_mut(&mut self, index: StreamIndex) -> &mut Capture {
        &mut self.table[index.0]
    }
}

/// The next sequence to look at, per stream. 8 bytes per stream and session that is not live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positions(pub(super) Vec<Seq>);

impl std::ops::Index<StreamIndex> for Positions {
    type Output = Seq;
    fn index(&self, index: StreamIndex) -> &Seq {
        &self.0[index.0]
    }
}

impl std::ops::IndexMut<StreamIndex> for Positions {
    fn index_mut(&mut self, index: StreamIndex) -> &mut Seq {
        &mut self.0[index.0]
    }
}
