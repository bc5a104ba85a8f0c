//! What goes into the forwarder and what comes out of it.

use std::time::Duration;

use headwater_broker::clock::Monotonic;
use headwater_broker::log::Seq;

use crate::backoff::Jitter;
use crate::batch::{Absence, Entry, Limits};
use crate::encode::Outgoing;
use crate::hub::{Committed, Delivery, HubAnswer, HubSeq, Trouble};
use crate::resume::Finding;

/// What the operator chose.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Largest batch.
    pub batch: Limits,
    /// How long a message may wait for company.
    pub batch_delay: Duration,
    /// After this an unanswered question or batch is in doubt.
    pub ack_timeout: Duration,
    /// Longest pause between attempts.
    pub max_backoff: Duration,
}

/// When something happens; the machine's only source of time and chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Time that never jumps.
    pub at: Monotonic,
    /// For spreading pauses.
    pub jitter: Jitter,
}

/// Tells an answer to a request that still counts from one that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What we hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// First sequence held.
    pub first: Seq,
    /// Last durable sequence; 0 before the first message.
    pub last: Seq,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The link to the hub is up.
    LinkUp {
        /// Largest message that the server takes, headers included.
        max_payload: usize,
    },
    /// The link is gone. What was underway may still arrive.
    LinkDown,
    /// More is durable (or was discarded).
    Held(Held),
    /// The hub's answer to [`Output::Ask`].
    Answered {
        /// Of the question.
        id: RequestId,
        /// The answer.
        answer: Result<HubAnswer, Trouble>,
    },
    /// What became of [`Output::Send`].
    Sent {
        /// Of the batch.
        id: RequestId,
        /// The hub's word.
        result: Result<Committed, Trouble>,
    },
    /// What [`Output::Read`] found.
    Read {
        /// Of the request.
        id: RequestId,
        /// Entries in order, and the sequence to read from next.
        result: Result<(Vec<Entry>, Seq), String>,
    },
    /// The deadline passed.
    Tick,
}

/// What to do.
#[derive(Debug)]
pub enum Output {
    /// Ask the hub for the last message under our prefix and for its stream.
    Ask {
        /// Comes back with the answer.
        id: RequestId,
    },
    /// Hand a batch over.
    Send {
        /// Comes back with the result.
        id: RequestId,
        /// What.
        batch: Batch,
    },
    /// Read the log.
    Read {
        /// Comes back with the entries.
        id: RequestId,
        /// First sequence wanted.
        from: Seq,
        /// How much.
        limits: Limits,
    },
    /// Remember, durably before or with any later cursor, which stream of the hub we write to.
    Remember {
        /// When it was made, in the hub's words.
        created: String,
    },
    /// The hub has everything up to here.
    Advance {
        /// The new floor of our cursor.
        floor: Seq,
    },
    /// Nothing came back since then: if the link as a whole is as silent, it is dead and must be made anew.
    Suspect {
        /// When the unanswered request was made.
        since: Monotonic,
    },
    /// Something to tell people.
    Tell(News),
}

/// A batch to hand over.
#[derive(Clone, Debug)]
pub struct Batch {
    /// How. [`Delivery::Atomic`] with one message is a fenced publish: cheaper, and as exact.
    pub delivery: Delivery,
    /// The hub's sequence that must still be the last under our prefix.
    pub fence: HubSeq,
    /// In order; never empty.
    pub messages: Vec<Outgoing>,
    /// Message ids are accepted within batches.
    pub with_ids: bool,
}

/// Something for people, at most once per episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The hub said where to go on.
    Resumed {
        /// What was found.
        finding: Finding,
        /// The next sequence.
        next: Seq,
        /// How messages are handed over.
        delivery: Delivery,
    },
    /// The hub does not take our messages.
    Troubled(Trouble),
    /// It does again.
    Recovered,
    /// The hub was told that messages will not come.
    Gap {
        /// First missing sequence.
        first: Seq,
        /// Last missing sequence.
        last: Seq,
        /// Why.
        reason: Absence,
    },
}

/// What the mirror is doing, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// There is no link.
    Offline,
    /// The hub was asked where we stopped.
    Asking,
    /// Messages go through, or there are none.
    Streaming,
    /// The hub (or our log) refused; we try again.
    Waiting(Trouble),
}

/// Figures since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Messages the hub confirmed, gap notices included.
    pub sent_msgs: u64,
    /// Bytes of their headers and payloads.
    pub sent_bytes: u64,
    /// Batches the hub confirmed.
    pub batches: u64,
    /// Batches and questions that had to be repeated.
    pub retries: u64,
    /// Messages that the hub had already when they were sent.
    pub duplicates: u64,
    /// Messages too large for the hub, replaced by a gap notice.
    pub set_aside: u64,
    /// The last of them; 0 = none.
    pub last_set_aside: u64,
    /// Gap notices confirmed.
    pub gaps: u64,
    /// Messages not sent because the hub has their sequences already with other contents (see [`Finding::HubAhead`]).
    pub skipped: u64,
    /// Answers to questions that were given up.
    pub late_answers: u64,
}
