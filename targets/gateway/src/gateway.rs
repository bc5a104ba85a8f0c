//! The running parts together, and what they say about themselves.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use headwater_broker::clock::{ClockQuality, ClockTrust};
use headwater_broker::config::{self, Config};
use headwater_broker::log::{AckPolicy, Log, LogStats, LossEntry, Storage, StreamInfo};
use headwater_broker::server::{BrokerStats, ClientInfo, Observer, Refused};
use headwater_sync::encode::rfc3339;
use headwater_sync::{LastError, MirrorStatus, UplinkStatus, Uplinks};

use crate::health::Health;
use crate::status::{
    Client, Clients, Clock, Counter, Disk, Durability, Label, Loss, Mirror, Status, Stream, Trouble, Uplink,
};

/// Most clients that are listed.
pub(crate) const MAX_CLIENTS_LISTED: usize = 1_000;

/// A page does not wait longer for figures that must be read from the log.
const LOOK_LIMIT: Duration = Duration::from_millis(300);

/// What the HTTP pages look at.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) config: Config,
    /// The budget that was configured; the one in force is the log's.
    pub(crate) configured_bytes: u64,
    pub(crate) started: Instant,
    pub(crate) log: Log,
    pub(crate) broker: Observer,
    /// `None` once they were told to end.
    pub(crate) uplinks: Mutex<Option<Uplinks>>,
    pub(crate) health: Health,
}

impl Gateway {
    /// Looks up what [`Gateway::status`] cannot know without the disk; a disk that hangs is not waited for.
    pub(crate) async fn look(&self) {
        let look = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Uplinks::look);
        if let Some(look) = look {
            // What comes too late is shown the next time.
            let _late = tokio::time::timeout(LOOK_LIMIT, look).await;
        }
    }

    /// Everything, now. Cheap: never waits for the disk or the network.
    pub(crate) fn status(&self) -> Status {
        let log = self.log.stats();
        Status {
            gateway: self.config.gateway.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            resident_bytes: resident_bytes(),
            durability: self.durability(&log),
            disk: self.disk(&log),
            clock: self.clock(),
            clients: self.clients(&self.broker.stats()),
            streams: self.streams(),
            uplinks: self.uplinks(),
            log: log_counters(&log),
        }
    }

    /// Streams that hold messages of clients, those of an earlier configuration included.
    pub(crate) fn streams(&self) -> Vec<Stream> {
        let streams = self.log.streams();
        streams.iter().filter(|stream| !stream.name.starts_with('$')).map(|stream| self.stream_of(stream)).collect()
    }

    /// The stream of that name, also one of the broker's own.
    pub(crate) fn stream(&self, name: &str) -> Option<Stream> {
        self.log.streams().iter().find(|stream| stream.name == name).map(|stream| self.stream_of(stream))
    }

    pub(crate) fn uplinks(&self) -> Vec<Uplink> {
        let uplinks = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        uplinks.iter().flat_map(Uplinks::status).map(uplink_of).collect()
    }

    /// The ledger of losses, oldest first.
    pub(crate) fn losses(&self) -> Vec<Loss> {
        let time = |stamp| rfc3339(self.log.time(stamp).wall);
        let loss = |entry: LossEntry| Loss {
            number: entry.number,
            stream: entry.stream,
            reader: entry.reader,
            first_seq: entry.first.0,
            last_seq: entry.last.0,
            msgs: entry.msgs,
            bytes: entry.bytes,
            since: time(entry.since),
            until: time(entry.until),
            reason: entry.reason.as_str().to_owned(),
        };
        self.log.losses().into_iter().map(loss).collect()
    }

    pub(crate) fn client_list(&self) -> Vec<Client> {
        let client = |info: ClientInfo| Client {
            client_id: info.client_id,
            peer: info.peer.map(|peer| peer.to_string()),
            subscriptions: info.subscriptions as u64,
            queued_msgs: info.queued as u64,
        };
        self.broker.clients(MAX_CLIENTS_LISTED).into_iter().map(client).collect()
    }

    fn durability(&self, log: &LogStats) -> Durability {
        let (ack, interval_ms) = match self.config.durability.ack {
            AckPolicy::Synced => ("synced", None),
            AckPolicy::Interval(interval) => ("interval", Some(milliseconds(interval))),
        };
        Durability {
            ack: ack.to_owned(),
            interval_ms,
            max_delay_ms: milliseconds(self.config.durability.max_delay),
            failed: log.failed,
            oldest_unsynced_ms: milliseconds(log.oldest_unsynced),
        }
    }

    fn disk(&self, log: &LogStats) -> Disk {
        Disk {
            data_dir: crate::summary::absolute(&self.config.gateway.data_dir),
            used_bytes: log.disk_used_bytes,
            max_bytes: log.disk_max_bytes,
            configured_bytes: self.configured_bytes,
            min_free_bytes: self.config.disk.min_free,
            full: log.disk_full,
            damaged_msgs: log.damaged_msgs,
            written_bytes: log.wear.written_bytes,
            written_payload_bytes: log.wear.payload_bytes,
            day_written_bytes: log.wear.day_written_bytes,
            day_payload_bytes: log.wear.day_payload_bytes,
            day_seconds: log.wear.day.as_secs(),
        }
    }

    fn clock(&self) -> Clock {
        let now = self.log.now();
        let trust = match self.config.clock {
            ClockTrust::Daemon { .. } => "daemon",
            ClockTrust::Always => "always",
            ClockTrust::Never => "never",
        };
        Clock { synced: now.quality == ClockQuality::Synced, trust: trust.to_owned(), now: rfc3339(now.wall) }
    }

    fn clients(&self, broker: &BrokerStats) -> Clients {
        Clients {
            connected: broker.clients,
            max: u64::from(self.config.mqtt.max_connections),
            connections: broker.connections,
            sessions: broker.sessions,
            subscriptions: broker.subscriptions,
            retained_msgs: broker.retained_msgs,
            retained_bytes: broker.retained_bytes,
            queued_bytes: broker.queued_bytes,
            catching_up: broker.catch_up_readers,
            waiting_for_password: broker.waiting_for_hash,
            counters: client_counters(broker),
        }
    }

    fn stream_of(&self, info: &StreamInfo) -> Stream {
        let configured: Option<&config::Stream> = self.config.streams.iter().find(|stream| stream.name == info.name);
        let texts =
            |filters: &[headwater_broker::mqtt::topic::TopicFilter]| filters.iter().map(ToString::to_string).collect();
        let limits = info.config.as_ref().map(|config| config.limits.clone()).unwrap_or_default();
        let storage = match info.config.as_ref().map(|config| config.storage) {
            Some(Storage::Memory) => "memory",
            Some(Storage::File) | None => "file",
        };
        Stream {
            name: info.name.clone(),
            uid: info.uid.to_string(),
            configured: info.config.is_some(),
            topics: configured.map(|stream| texts(&stream.topics)).unwrap_or_default(),
            exclude: configured.map(|stream| texts(&stream.exclude)).unwrap_or_default(),
            storage: storage.to_owned(),
            msgs: info.state.msgs,
            bytes: info.state.bytes,
            first_seq: info.state.first.0,
            last_seq: info.state.last.0,
            discarded_msgs: info.discarded_msgs,
            damaged_msgs: info.damaged_msgs,
            max_bytes: limits.max_bytes,
            max_age_seconds: limits.max_age.map(|age| age.as_secs()),
            max_msgs: limits.max_msgs,
        }
    }
}

fn uplink_of(status: UplinkStatus) -> Uplink {
    let mirrors: Vec<Mirror> = status.mirrors.into_iter().map(mirror_of).collect();
    let troubles = mirrors.iter().filter_map(|mirror| mirror.last_error.clone());
    let ages = mirrors.iter().filter_map(|mirror| mirror.oldest_unsent_age_seconds);
    Uplink {
        name: status.name,
        state: status.state.to_owned(),
        server: status.server,
        connects: status.connects,
        failed_connects: status.failed_connects,
        backlog_msgs: mirrors.iter().map(|mirror| mirror.backlog_msgs).sum(),
        backlog_bytes: mirrors.iter().map(|mirror| mirror.backlog_bytes).sum(),
        oldest_unsent_age_seconds: ages.reduce(f64::max),
        // RFC 3339 in UTC with a fixed number of digits sorts by time.
        last_error: status.last_error.map(trouble_of).into_iter().chain(troubles).max_by(|a, b| a.at.cmp(&b.at)),
        mirrors,
    }
}

fn mirror_of(status: MirrorStatus) -> Mirror {
    let counters = status.counters;
    Mirror {
        stream: status.stream,
        into: status.into,
        state: status.state.to_owned(),
        promise: status.promise.map(str::to_owned),
        alarm: status.alarm,
        backlog_msgs: status.backlog_msgs,
        backlog_bytes: status.backlog_bytes,
        oldest_unsent_age_seconds: status.oldest_unsent_age.map(|age| age.as_secs_f64()),
        confirmed_seq: status.confirmed_seq,
        hub_seq: status.hub_seq,
        lost_msgs: status.lost_msgs,
        sent_msgs: counters.sent_msgs,
        sent_bytes: counters.sent_bytes,
        batches: counters.batches,
        retries: counters.retries,
        duplicates: counters.duplicates,
        gaps: counters.gaps,
        set_aside: counters.set_aside,
        skipped: counters.skipped,
        refusals: status.troubles.iter().map(|trouble| (trouble.kind.to_owned(), trouble.count)).collect(),
        last_error: status.last_error.map(trouble_of),
    }
}

fn trouble_of(error: LastError) -> Trouble {
    Trouble { kind: error.kind.to_owned(), text: error.text, at: error.at }
}

fn counter(name: &str, label: Option<(Label, &str)>, value: u64, help: &str) -> Counter {
    let label = label.map(|(label, value)| (label, value.to_owned()));
    Counter { name: name.to_owned(), label, value, help: help.to_owned() }
}

fn log_counters(log: &LogStats) -> Vec<Counter> {
    [
        ("log_commits_total", log.commits, "Group commits, one sync each."),
        ("log_staged_bytes_total", log.staged_bytes, "Bytes of frames written to the staging log."),
        ("log_ingested_bytes_total", log.ingested_bytes, "Bytes of blocks and indexes written into epochs."),
        ("log_appended_messages_total", log.appended_msgs, "Messages appended."),
        ("log_appended_bytes_total", log.appended_bytes, "Bytes of topics, properties and payloads appended."),
        ("log_epochs_written_total", log.epochs_written, "Epochs written."),
        ("log_epochs_dropped_total", log.epochs_dropped, "Epochs dropped to make room."),
        ("log_busy_total", log.busy, "Appends that had to wait for the group being collected."),
        ("log_refused_total", log.refused, "Appends that a full stream or table refused."),
        ("log_slot_waits_total", log.slot_waits, "Times that the writer waited for an epoch to be written."),
    ]
    .map(|(name, value, help)| counter(name, None, value, help))
    .to_vec()
}

fn client_counters(broker: &BrokerStats) -> Vec<Counter> {
    let router = &broker.router;
    let by_qos = |name: &'static str, values: &[u64; 3], help: &'static str| {
        let qos = ["0", "1", "2"].iter().zip(*values);
        qos.map(|(qos, value)| counter(name, Some((Label::Qos, qos)), value, help)).collect::<Vec<_>>()
    };
    let mut counters = vec![
        counter("connections_accepted_total", None, broker.accepted, "Connections accepted."),
        counter(
            "addresses_forgotten_total",
            None,
            broker.addresses_forgotten,
            "Addresses whose rate was forgotten before its time.",
        ),
        counter("accept_errors_total", None, broker.accept_errors, "Failed accept calls."),
        counter("received_bytes_total", None, broker.bytes_in, "Bytes read from clients."),
        counter("sent_bytes_total", None, broker.bytes_out, "Bytes written to clients."),
        counter("redelivered_total", None, broker.redelivered, "Messages sent again after a reconnect."),
        counter("keep_alive_timeouts_total", None, broker.keep_alive_timeouts, "Clients cut off for silence."),
        counter("protocol_errors_total", None, broker.protocol_errors, "Clients cut off for what they sent."),
        counter(
            "subscriptions_refused_total",
            None,
            router.denied_subscribe,
            "Subscriptions to what their clients may not read.",
        ),
        counter("retained_refused_total", None, router.retained_refused, "Messages not retained for want of room."),
        counter(
            "shared_moved_total",
            None,
            router.shared_moved,
            "Messages of shared subscriptions that went to another member.",
        ),
        counter("queue_overflows_total", None, router.queue_overflows, "Queues that overflowed to the log."),
        counter(
            "queues_full_total",
            None,
            broker.queues_full,
            "Messages that the bound of all queues together kept out of queues with room.",
        ),
        counter(
            "sessions_of_others_total",
            None,
            router.sessions_of_others,
            "Kept sessions that ended because another user came with their client id.",
        ),
        counter("sessions_expired_total", None, router.sessions_expired, "Sessions that expired."),
        counter(
            "session_lost_total",
            None,
            router.lost_to_retention,
            "Messages discarded before a session was sent them.",
        ),
        counter(
            "bad_records_total",
            None,
            router.bad_records,
            "Records of sessions that could not be read or written.",
        ),
    ];
    counters.extend(by_qos("messages_received_total", &router.messages_in, "Messages taken from clients."));
    counters.extend(by_qos(
        "messages_sent_total",
        &broker.messages_out,
        "Messages sent to clients, repetitions included.",
    ));
    let refused = Refused::ALL.iter().zip(broker.refused);
    counters.extend(refused.map(|((_, reason), value)| {
        counter("connections_refused_total", Some((Label::Reason, reason)), value, "Connections not taken.")
    }));
    for (reason, value) in [
        ("full", router.refused_full),
        ("too_large", router.refused_too_large),
        ("not_authorized", router.denied_publish),
    ] {
        counters.push(counter(
            "messages_refused_total",
            Some((Label::Reason, reason)),
            value,
            "Messages not taken from clients.",
        ));
    }
    for (reason, value) in [
        ("queue_full", router.dropped_queue_full),
        ("unstored", router.dropped_unstored),
        ("expired", router.dropped_expired),
        ("disconnected", router.dropped_disconnected),
        ("no_local", router.no_local_overflows),
        ("too_large_for_client", broker.dropped_too_large_for_client),
    ] {
        counters.push(counter(
            "messages_dropped_total",
            Some((Label::Reason, reason)),
            value,
            "Messages not delivered to a client.",
        ));
    }
    counters
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Resident memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")).and_then(|number| number.trim().parse().ok());
    kilobytes.unwrap_or(0_u64) * 1024
}
