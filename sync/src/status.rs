//! What people and metrics get to see of uplinks.

use std::time::Duration;

use serde::Serialize;

use crate::forwarder::Counters;

/// One uplink.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkStatus {
    /// Its name in the configuration.
    pub name: String,
    /// `connecting`, `up`, `waiting` (for the next attempt) or `stopped`.
    pub state: &'static str,
    /// Host and port of the server connected to.
    pub server: Option<String>,
    /// Links made since start.
    pub connects: u64,
    /// Attempts to connect that failed, since start.
    pub failed_connects: u64,
    /// The last reason why there was no link.
    pub last_error: Option<LastError>,
    /// Its mirrors.
    pub mirrors: Vec<MirrorStatus>,
}

/// One mirrored stream.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MirrorStatus {
    /// Our stream.
    pub stream: String,
    /// The hub's stream.
    pub into: String,
    /// `offline`, `asking`, `streaming` or `waiting` (the hub refuses; see `last_error`).
    pub state: &'static str,
    /// `exact`, `exact (single)` or `at least once + dedupe`, once the hub has told what it can do.
    pub promise: Option<&'static str>,
    /// Something about the hub's copy that a person should look at.
    pub alarm: Option<String>,
    /// Messages that the hub does not have yet.
    pub backlog_msgs: u64,
    /// Their bytes, estimated from the mean size of those held.
    pub backlog_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_unsent_age: Option<Duration>,
    /// Last sequence of ours that the hub confirmed.
    pub confirmed_seq: u64,
    /// Its sequence there.
    pub hub_seq: Option<u64>,
    /// Messages discarded by retention before the hub confirmed them.
    pub lost_msgs: u64,
    /// Figures since start.
    #[serde(flatten)]
    pub counters: Counters,
    /// Refusals since start, by kind; kinds that never occurred are left out.
    pub troubles: Vec<TroubleCount>,
    /// The last refusal.
    pub last_error: Option<LastError>,
}

/// How often a kind of refusal was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TroubleCount {
    /// As in [`crate::hub::Trouble::kind`].
    pub kind: &'static str,
    /// Times.
    pub count: u64,
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// For metrics and scripts.
    pub kind: &'static str,
    /// For people: what, and what to do.
    pub text: String,
    /// When, RFC 3339.
    pub at: String,
}
