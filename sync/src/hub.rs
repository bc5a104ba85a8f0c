//! What a hub is to the rest of this crate: the words it answers with. No client library is named here.

use std::fmt;

use headwater_broker::log::{Seq, StreamUid};

/// A sequence in the hub's stream, which other gateways write to as well. 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HubSeq(pub u64);

impl fmt::Display for HubSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How messages can be handed over, given what the hub's stream is able to do; best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Fenced atomic batches (nats-server 2.12, stream with `allow_atomic`): exact and fast.
    Atomic,
    /// Fenced publishes, one at a time (nats-server 2.11, or a stream without `allow_atomic`): exact, one message per round trip.
    Single,
    /// A window of publishes with message ids (older servers, which do not know the fence): repeated after any failure,
    /// exact only within the hub's dedupe window.
    Window,
}

impl Delivery {
    /// What may be promised, as shown in status.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Delivery::Atomic => "exact",
            Delivery::Single => "exact (single)",
            Delivery::Window => "at least once + dedupe",
        }
    }
}

/// When the hub's stream lets go of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Until a limit is reached: what we see there is what it has.
    UntilLimits,
    /// Until consumers took it (`workqueue`, `interest`): a missing message may simply have been taken.
    UntilConsumed,
}

/// The hub's stream as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubStream {
    /// When it was made, in the hub's words; two streams of the same name differ here.
    pub created: String,
    /// Its last sequence, whoever wrote it.
    pub last_seq: HubSeq,
    /// What it is able to do.
    pub delivery: Delivery,
    /// When it lets go of messages.
    pub keeps: Keeps,
    /// Largest message, headers included, if the stream limits it.
    pub max_msg_bytes: Option<usize>,
}

/// The last message that the hub holds under our prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastMessage {
    /// Its sequence in the hub.
    pub hub_seq: HubSeq,
    /// Its subject.
    pub subject: String,
    /// Stream identity and sequence from its headers; `None` if somebody else wrote it.
    pub origin: Option<(StreamUid, Seq)>,
}

/// The hub's answer to "where did we stop?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubAnswer {
    /// The last message under our prefix. Asked before `stream`, so that "none" belongs to a stream at most as new as `stream`.
    pub last: Option<LastMessage>,
    /// The stream.
    pub stream: HubStream,
}

/// The hub has stored a whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Sequence of its last message in the hub.
    pub last: HubSeq,
    /// The hub had it already (single publishes only); `last` is then where, and the fence has not moved.
    pub duplicate: bool,
}

/// Why the hub did not do what we asked. Sorted by what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    // Asking the hub where we stopped settles these.
    /// Something of ours (or of another under our prefix) came in between: 10071, 10164.
    FenceMoved,
    /// A message id is known already: 10201.
    Duplicate,
    /// The batch was given up, by timeout or because a part was lost: 10176, 10178 and similar.
    Abandoned(String),
    /// The stream does not accept atomic batches any more: 10174.
    AtomicOff,
    /// This server does not accept message ids within batches (nats-server 2.12.0): 10177.
    IdsRefused,
    /// A message exceeds what the stream or server takes: 10054.
    TooLarge,
    /// No answer in time.
    Silent,

    // A person has to do something at the hub; we try again meanwhile.
    /// The stream does not exist and is not to be made: 10059.
    StreamMissing(String),
    /// Nothing listens on our subject or on the JetStream API.
    NoResponders(String),
    /// The user may not publish to this subject.
    NoPermission(String),
    /// The stream or account is full, or refuses new messages.
    Full(String),
    /// The stream could not be made.
    NotCreated(String),
    /// Anything else, in the hub's words.
    Other(String),

    // Ours.
    /// The log could not be read.
    LogUnreadable(String),
}

impl Trouble {
    /// Asking the hub again is the remedy, at once the first time.
    #[must_use]
    pub fn is_doubt(&self) -> bool {
        match self {
            Trouble::FenceMoved
            | Trouble::Duplicate
            | Trouble::Abandoned(_)
            | Trouble::AtomicOff
            | Trouble::IdsRefused
            | Trouble::TooLarge => true,
            Trouble::Silent
            | Trouble::StreamMissing(_)
            | Trouble::NoResponders(_)
            | Trouble::NoPermission(_)
            | Trouble::Full(_)
            | Trouble::NotCreated(_)
            | Trouble::Other(_)
            | Trouble::LogUnreadable(_) => false,
        }
    }

    /// Short name for counters and status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Trouble::FenceMoved => "fence-moved",
            Trouble::Duplicate => "duplicate",
            Trouble::Abandoned(_) => "batch-abandoned",
            Trouble::AtomicOff => "atomic-off",
            Trouble::IdsRefused => "ids-refused",
            Trouble::TooLarge => "too-large",
            Trouble::Silent => "silent",
            Trouble::StreamMissing(_) => "stream-missing",
            Trouble::NoResponders(_) => "no-responders",
            Trouble::NoPermission(_) => "no-permission",
            Trouble::Full(_) => "stream-full",
            Trouble::NotCreated(_) => "not-created",
            Trouble::Other(_) => "other",
            Trouble::LogUnreadable(_) => "log-unreadable",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::FenceMoved => {
                write!(f, "another message was stored under our subject prefix since we last knew; asking the hub")
            }
            Trouble::Duplicate => write!(f, "the hub knows a message of this batch already; asking the hub"),
            Trouble::Abandoned(text) => write!(f, "the hub gave up the batch ({text}); asking the hub"),
            Trouble::AtomicOff => write!(f, "the hub's stream does not accept atomic batches"),
            Trouble::IdsRefused => write!(f, "the hub accepts no message ids within atomic batches; going on without"),
            Trouble::TooLarge => write!(f, "a message exceeds what the hub accepts; finding and setting it aside"),
            Trouble::Silent => write!(f, "no answer from the hub in time"),
            Trouble::StreamMissing(stream) => write!(
                f,
                "stream \"{stream}\" does not exist in the hub: create it there, or set `create = {{ replicas = 3 }}` for this mirror"
            ),
            Trouble::NoResponders(subject) => write!(
                f,
                "nobody in the hub answers on \"{subject}\": is JetStream enabled for this account, and does the stream take this subject?"
            ),
            Trouble::NoPermission(subject) => {
                write!(f, "the hub's user may not publish to \"{subject}\": allow it in the hub's permissions")
            }
            Trouble::Full(text) => write!(
                f,
                "the hub's stream refuses new messages ({text}): raise its limits, or let it discard old ones"
            ),
            Trouble::NotCreated(text) => write!(f, "the hub's stream could not be created: {text}"),
            Trouble::Other(text) => write!(f, "{text}"),
            Trouble::LogUnreadable(text) => write!(f, "the log could not be read: {text}"),
        }
    }
}
