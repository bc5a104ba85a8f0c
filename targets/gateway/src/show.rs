//! Status for people: short, aligned, the trouble in plain sight.

use crate::out::{bytes, columns, count, seconds};
use crate::status::{Disk, Loss, Message, Mirror, Status, Stream, Uplink};

/// `headwater status`.
pub(crate) fn status(status: &Status) -> String {
    let mut rows = vec![
        row(
            "gateway",
            format!("{}, Headwater {}, up {}", status.gateway, status.version, seconds(status.uptime_seconds)),
        ),
        row("acks", acks(status)),
        row("disk", disk(status)),
        row("clock", clock(status)),
        row("written", written(&status.disk)),
        row("memory", bytes(status.resident_bytes)),
        row("clients", clients(status)),
    ];
    if status.uplinks.is_empty() {
        rows.push(row("uplinks", "none".to_owned()));
    }
    let mut text = columns(&rows, &[]);
    text += "\n";
    text += &streams(&status.streams);
    if !status.uplinks.is_empty() {
        text += "\n";
        text += &uplinks(&status.uplinks);
    }
    text
}

fn row(name: &str, fact: String) -> Vec<String> {
    vec![name.to_owned(), fact]
}

fn acks(status: &Status) -> String {
    let durability = &status.durability;
    if durability.failed {
        return "NONE: a sync of the log failed, the broker must be restarted".to_owned();
    }
    let delay = match durability.max_delay_ms {
        0 => String::new(),
        ms => format!(", a sync waits up to {ms} ms"),
    };
    match durability.interval_ms {
        None => format!("after the message is on disk{delay}"),
        Some(ms) => format!("BEFORE the message is on disk, which happens every {ms} ms (ack = \"interval\"){delay}"),
    }
}

fn disk(status: &Status) -> String {
    let disk = &status.disk;
    let mut text = format!("{} of {} in {}", bytes(disk.used_bytes), bytes(disk.max_bytes), disk.data_dir);
    if disk.max_bytes < disk.configured_bytes {
        text += &format!(" (the filesystem is too small for the configured {})", bytes(disk.configured_bytes));
    }
    if disk.full {
        text += ", FULL";
    }
    if disk.damaged_msgs > 0 {
        text += &format!(", {} messages DAMAGED", count(disk.damaged_msgs));
    }
    text
}

fn clock(status: &Status) -> String {
    let clock = &status.clock;
    match (clock.synced, clock.trust.as_str()) {
        (true, _) => "right, and times of messages with it".to_owned(),
        (false, "never") => "not trusted: times of messages are estimates".to_owned(),
        (false, _) => "NOT YET right since the machine started: times of messages are estimates until it is".to_owned(),
    }
}

/// What the flash has to take, and for how much of what is stored.
fn written(disk: &Disk) -> String {
    let per_byte = |written: u64, payload: u64| match payload {
        0 => String::new(),
        // Hundredths, without floating point.
        _ => {
            let hundredths = u128::from(written) * 100 / u128::from(payload);
            format!(" ({}.{:02} per byte stored)", hundredths / 100, hundredths % 100)
        }
    };
    format!(
        "{}{} since install, {}{} in the last {}",
        bytes(disk.written_bytes),
        per_byte(disk.written_bytes, disk.written_payload_bytes),
        bytes(disk.day_written_bytes),
        per_byte(disk.day_written_bytes, disk.day_payload_bytes),
        seconds(disk.day_seconds)
    )
}

fn clients(status: &Status) -> String {
    let clients = &status.clients;
    let mut text = format!(
        "{} connected (at most {}), {} sessions, {} subscriptions",
        count(clients.connected),
        count(clients.max),
        count(clients.sessions),
        count(clients.subscriptions)
    );
    if clients.catching_up > 0 {
        text += &format!(", {} catching up from the log", count(clients.catching_up));
    }
    text
}

/// `headwater stream ls`.
pub(crate) fn streams(streams: &[Stream]) -> String {
    let mut rows = vec![["stream", "messages", "bytes", "first", "last", "topics"].map(str::to_owned).to_vec()];
    rows.extend(streams.iter().map(|stream| {
        let first = if stream.msgs == 0 { "-".to_owned() } else { stream.first_seq.to_string() };
        let last = if stream.last_seq == 0 { "-".to_owned() } else { stream.last_seq.to_string() };
        vec![stream.name.clone(), count(stream.msgs), bytes(stream.bytes), first, last, captured(stream)]
    }));
    columns(&rows, &[1, 2, 3, 4])
}

fn captured(stream: &Stream) -> String {
    match (stream.configured, stream.exclude.is_empty()) {
        (false, _) => "(not configured any more)".to_owned(),
        (true, true) => stream.topics.join(" "),
        (true, false) => format!("{}, without {}", stream.topics.join(" "), stream.exclude.join(" ")),
    }
}

/// `headwater stream info`.
pub(crate) fn stream(stream: &Stream) -> String {
    let limit = |limit: Option<String>| limit.unwrap_or_else(|| "the disk".to_owned());
    let mut rows =
        vec![row("stream", stream.name.clone()), row("identity", stream.uid.clone()), row("topics", captured(stream))];
    let mut kept = limit(stream.max_bytes.map(bytes));
    kept += &stream.max_age_seconds.map(|age| format!(", {}", seconds(age))).unwrap_or_default();
    kept += &stream.max_msgs.map(|msgs| format!(", {} messages", count(msgs))).unwrap_or_default();
    rows.extend([
        row("storage", stream.storage.clone()),
        row("limit", kept),
        row("messages", count(stream.msgs)),
        row("bytes", bytes(stream.bytes)),
        row("first", stream.first_seq.to_string()),
        row("last", stream.last_seq.to_string()),
        row("discarded", count(stream.discarded_msgs)),
        row("damaged", count(stream.damaged_msgs)),
    ]);
    columns(&rows, &[])
}

/// `headwater stream losses`.
pub(crate) fn losses(losses: &[Loss]) -> String {
    if losses.is_empty() {
        return "no losses: retention discarded nothing that an uplink had not confirmed\n".to_owned();
    }
    let head = ["stream", "reader", "messages", "bytes", "first", "last", "reason", "since", "until"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for loss in losses {
        rows.push(vec![
            loss.stream.clone(),
            loss.reader.clone(),
            count(loss.msgs),
            bytes(loss.bytes),
            loss.first_seq.to_string(),
            loss.last_seq.to_string(),
            loss.reason.clone(),
            loss.since.clone(),
            loss.until.clone(),
        ]);
    }
    columns(&rows, &[2, 3, 4, 5])
}

/// `headwater uplink ls`.
pub(crate) fn uplinks(uplinks: &[Uplink]) -> String {
    if uplinks.is_empty() {
        return "no uplinks: add one with --uplink nats://HOST:4222, or [[uplink]] in a file\n".to_owned();
    }
    let mut rows = vec![
        ["uplink", "state", "mirror", "backlog", "bytes", "oldest", "confirmed", "lost", "promise"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for uplink in uplinks {
        for mirror in &uplink.mirrors {
            rows.push(vec![
                uplink.name.clone(),
                state(uplink, mirror),
                format!("{} -> {}", mirror.stream, mirror.into),
                count(mirror.backlog_msgs),
                bytes(mirror.backlog_bytes),
                mirror.oldest_unsent_age_seconds.map_or_else(|| "-".to_owned(), age),
                mirror.confirmed_seq.to_string(),
                count(mirror.lost_msgs),
                mirror.promise.clone().unwrap_or_else(|| "?".to_owned()),
            ]);
        }
    }
    let mut text = columns(&rows, &[3, 4, 5, 6, 7]);
    for uplink in uplinks {
        for mirror in &uplink.mirrors {
            if let Some(alarm) = &mirror.alarm {
                text += &format!("{}: {}: ALARM: {alarm}\n", uplink.name, mirror.stream);
            }
            if mirror.set_aside > 0 {
                let (name, stream, n) = (&uplink.name, &mirror.stream, count(mirror.set_aside));
                text += &format!("{name}: {stream}: {n} messages were too large for the hub and are only here\n");
            }
        }
        if let Some(error) = &uplink.last_error {
            text += &format!("{}: last error, {}: {}\n", uplink.name, error.at, error.text);
        }
    }
    text
}

/// The link's state, or the mirror's where the link is up.
fn state(uplink: &Uplink, mirror: &Mirror) -> String {
    match uplink.state.as_str() {
        "up" => format!("up, {}", mirror.state),
        other => other.to_owned(),
    }
}

fn age(age: f64) -> String {
    // An age is not negative, and parts of a second matter to nobody here.
    seconds(std::time::Duration::try_from_secs_f64(age).map_or(0, |age| age.as_secs()))
}

/// One message on one line, its payload at the end. `~` in front of its time says that it is an estimate.
pub(crate) fn message(message: &Message) -> String {
    let retain = if message.retain { " retain" } else { "" };
    let payload = match &message.payload {
        Some(text) => text.clone(),
        None => format!("base64:{}", message.payload_base64),
    };
    let estimated = if message.clock == "estimated" { "~" } else { "" };
    format!("{} {estimated}{} {} qos {}{retain}: {payload}", message.seq, message.time, message.topic, message.qos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Clients, Clock, Disk, Durability, Trouble};

    fn example() -> Status {
        Status {
            gateway: "gw-1".to_owned(),
            version: "0.1.0".to_owned(),
            uptime_seconds: 4_000,
            resident_bytes: 7 << 20,
            durability: Durability { ack: "synced".to_owned(), ..Durability::default() },
            disk: Disk {
                data_dir: "/d".to_owned(),
                used_bytes: 5 << 20,
                max_bytes: 1 << 30,
                configured_bytes: 1 << 30,
                written_bytes: 3 << 30,
                written_payload_bytes: 4 << 30,
                day_written_bytes: 2 << 20,
                day_seconds: 86_000,
                ..Disk::default()
            },
            clock: Clock::default(),
            clients: Clients { connected: 2, max: 10_000, sessions: 3, subscriptions: 4, ..Clients::default() },
            streams: vec![Stream {
                name: "telemetry".to_owned(),
                msgs: 1_500,
                bytes: 300_000,
                first_seq: 1,
                last_seq: 1_500,
                topics: vec!["t/#".to_owned()],
                configured: true,
                ..Stream::default()
            }],
            uplinks: vec![Uplink {
                name: "hub".to_owned(),
                state: "waiting".to_owned(),
                last_error: Some(Trouble {
                    kind: "connect".to_owned(),
                    text: "connection refused".to_owned(),
                    at: "2026-01-01T00:00:00Z".to_owned(),
                }),
                mirrors: vec![Mirror {
                    stream: "telemetry".to_owned(),
                    into: "T".to_owned(),
                    backlog_msgs: 700,
                    backlog_bytes: 140_000,
                    oldest_unsent_age_seconds: Some(75.5),
                    confirmed_seq: 800,
                    ..Mirror::default()
                }],
                ..Uplink::default()
            }],
            log: Vec::new(),
        }
    }

    #[test]
    fn status_shows_what_a_person_asks_for() {
        let text = status(&example());
        for part in [
            "gw-1",
            "up 1h 6m",
            "after the message is on disk",
            "3 GiB (0.75 per byte stored) since install, 2 MiB in the last 23h 53m",
            "5 MiB of 1 GiB",
            "2 connected",
            "telemetry     1,500",
            "waiting",
            "telemetry -> T",
            "700",
            "136.7 KiB",
            "1m 15s",
            "connection refused",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    }

    #[test]
    fn what_is_wrong_is_in_capitals() {
        let mut example = example();
        example.durability.interval_ms = Some(500);
        example.disk.full = true;
        let text = status(&example);
        assert!(
            text.contains("BEFORE the message is on disk, which happens every 500 ms") && text.contains("FULL"),
            "{text}"
        );
        assert!(text.contains("NOT YET right"), "{text}");
        example.clock.synced = true;
        assert!(!status(&example).contains("NOT YET"));
        example.durability.failed = true;
        assert!(status(&example).contains("NONE: a sync of the log failed"));
    }
}
