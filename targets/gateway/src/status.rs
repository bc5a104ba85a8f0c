//! What the gateway says about itself: the types behind `/api/v1`, `/metrics` and the commands that show them.
//!
//! Names in here are an interface: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// `/api/v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) gateway: String,
    pub(crate) version: String,
    pub(crate) uptime_seconds: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) durability: Durability,
    pub(crate) disk: Disk,
    #[serde(default)]
    pub(crate) clock: Clock,
    pub(crate) clients: Clients,
    pub(crate) streams: Vec<Stream>,
    pub(crate) uplinks: Vec<Uplink>,
    /// Figures of the log that only grow.
    pub(crate) log: Vec<Counter>,
}

/// G1, as it is kept now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Durability {
    /// `synced` or `interval`.
    pub(crate) ack: String,
    /// With `interval`: milliseconds.
    pub(crate) interval_ms: Option<u64>,
    pub(crate) max_delay_ms: u64,
    /// A sync failed: nothing is acknowledged any more.
    pub(crate) failed: bool,
    /// How long the oldest append has waited for its sync; 0 if none waits.
    pub(crate) oldest_unsynced_ms: u64,
}

/// G2, as it is kept now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) data_dir: String,
    /// Allocated below the data directory.
    pub(crate) used_bytes: u64,
    /// The budget in force.
    pub(crate) max_bytes: u64,
    /// The budget that was configured; more than `max_bytes` if the filesystem is too small for it.
    pub(crate) configured_bytes: u64,
    pub(crate) min_free_bytes: u64,
    /// Appends are refused because the disk is full.
    pub(crate) full: bool,
    /// Messages found not readable since start.
    pub(crate) damaged_msgs: u64,
    /// Bytes that the log wrote into its files since install, by its own count.
    #[serde(default)]
    pub(crate) written_bytes: u64,
    /// Bytes of messages that it stored for that.
    #[serde(default)]
    pub(crate) written_payload_bytes: u64,
    /// The same in the last 24 hours, or since start.
    #[serde(default)]
    pub(crate) day_written_bytes: u64,
    #[serde(default)]
    pub(crate) day_payload_bytes: u64,
    /// What the last two cover.
    #[serde(default)]
    pub(crate) day_seconds: u64,
}

/// G7, as it is kept now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// The wall clock was right at some time since the machine started: messages stored since then have their right time.
    pub(crate) synced: bool,
    /// `daemon`, `always` or `never`.
    pub(crate) trust: String,
    /// The time now as messages get it: RFC 3339.
    pub(crate) now: String,
}

/// Clients and what became of their messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clients {
    pub(crate) connected: u64,
    pub(crate) max: u64,
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    pub(crate) subscriptions: u64,
    pub(crate) retained_msgs: u64,
    pub(crate) retained_bytes: u64,
    /// In the queues towards all clients.
    #[serde(default)]
    pub(crate) queued_bytes: u64,
    pub(crate) catching_up: u64,
    /// Whose passwords are not checked yet.
    #[serde(default)]
    pub(crate) waiting_for_password: u64,
    /// Figures that only grow: name and value.
    pub(crate) counters: Vec<Counter>,
}

/// A figure that only grows since start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counter {
    /// The metric's name without its prefix, such as `messages_received_total`.
    pub(crate) name: String,
    /// Tells several of one name apart: why, or of which kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<(Label, String)>,
    pub(crate) value: u64,
    /// What it counts.
    pub(crate) help: String,
}

/// What tells counters of one name apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Label {
    Qos,
    Reason,
}

impl Label {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Label::Qos => "qos",
            Label::Reason => "reason",
        }
    }
}

/// One stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stream {
    pub(crate) name: String,
    /// Its random identity.
    pub(crate) uid: String,
    /// False if it is left from an earlier configuration.
    pub(crate) configured: bool,
    pub(crate) topics: Vec<String>,
    pub(crate) exclude: Vec<String>,
    /// `file` or `memory`.
    pub(crate) storage: String,
    pub(crate) msgs: u64,
    /// Of topics, properties and payloads, before compression.
    pub(crate) bytes: u64,
    /// First sequence held; one past the last if the stream is empty.
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// Discarded by limits or the disk budget since the stream was made.
    pub(crate) discarded_msgs: u64,
    /// Not readable.
    pub(crate) damaged_msgs: u64,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_age_seconds: Option<u64>,
    pub(crate) max_msgs: Option<u64>,
}

/// One uplink.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Uplink {
    pub(crate) name: String,
    /// `connecting`, `up`, `waiting` (for the next attempt) or `stopped`.
    pub(crate) state: String,
    pub(crate) server: Option<String>,
    pub(crate) connects: u64,
    pub(crate) failed_connects: u64,
    pub(crate) backlog_msgs: u64,
    pub(crate) backlog_bytes: u64,
    pub(crate) oldest_unsent_age_seconds: Option<f64>,
    /// The last error of the link or of any mirror.
    pub(crate) last_error: Option<Trouble>,
    pub(crate) mirrors: Vec<Mirror>,
}

/// One stream mirrored by an uplink.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mirror {
    pub(crate) stream: String,
    pub(crate) into: String,
    /// `offline`, `asking`, `streaming` or `waiting` (the hub refuses).
    pub(crate) state: String,
    /// `exact`, `exact (single)` or `at least once + dedupe`, once the hub has told.
    pub(crate) promise: Option<String>,
    /// Something about the hub's copy that a person should look at.
    pub(crate) alarm: Option<String>,
    pub(crate) backlog_msgs: u64,
    pub(crate) backlog_bytes: u64,
    pub(crate) oldest_unsent_age_seconds: Option<f64>,
    pub(crate) confirmed_seq: u64,
    pub(crate) hub_seq: Option<u64>,
    /// G3: discarded before the hub confirmed them.
    pub(crate) lost_msgs: u64,
    pub(crate) sent_msgs: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) batches: u64,
    pub(crate) retries: u64,
    pub(crate) duplicates: u64,
    pub(crate) gaps: u64,
    pub(crate) set_aside: u64,
    pub(crate) skipped: u64,
    /// Refusals by kind.
    pub(crate) refusals: Vec<(String, u64)>,
    pub(crate) last_error: Option<Trouble>,
}

/// An error that was met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    /// For scripts.
    pub(crate) kind: String,
    /// For people.
    pub(crate) text: String,
    /// RFC 3339.
    pub(crate) at: String,
}

/// One client, connected or away: `/api/v1/clients`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) client_id: String,
    /// Where it is connected from; absent while it is away.
    pub(crate) peer: Option<String>,
    pub(crate) subscriptions: u64,
    pub(crate) queued_msgs: u64,
}

/// `/api/v1/streams/{name}/messages`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) stream: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) gaps: Vec<Gap>,
    /// Where the next page begins: its `from`.
    pub(crate) next: u64,
    /// The stream has more that was not looked at.
    #[serde(default)]
    pub(crate) more: bool,
    /// Blocks on disk that were looked into for this page, and those that hold nothing of the topic, as is known of them.
    #[serde(default)]
    pub(crate) blocks_read: u64,
    #[serde(default)]
    pub(crate) blocks_skipped: u64,
}

/// A stored message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) seq: u64,
    /// RFC 3339, corrected once the clock of its boot is known.
    pub(crate) time: String,
    /// What that time is worth: `synced` or `estimated`.
    #[serde(default)]
    pub(crate) clock: String,
    pub(crate) topic: String,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// The payload if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<String>,
    /// The payload, whatever it is.
    pub(crate) payload_base64: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) user_properties: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
}

/// Messages that retention took before an uplink had confirmed them, in one episode.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Loss {
    /// Counts the episodes since install.
    pub(crate) number: u64,
    pub(crate) stream: String,
    /// The uplink, as in its name for the log: `uplink/NAME`.
    pub(crate) reader: String,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) msgs: u64,
    pub(crate) bytes: u64,
    /// RFC 3339, of the first and the last message taken: when it was taken, not when it had come.
    pub(crate) since: String,
    pub(crate) until: String,
    /// `disk`, `max_bytes`, `max_msgs`, `max_age`, `max_msgs_per_subject` or `damage`.
    pub(crate) reason: String,
}

/// Sequences that are not there any more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// `retention`, `purge` or `damage`.
    pub(crate) reason: String,
}
