//! `/metrics`: the status in the Prometheus text format (version 0.0.4).

use crate::status::{Counter, Mirror, Status, Stream, Uplink};

/// What a page of metrics is sent as.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// The page.
pub(crate) fn render(status: &Status) -> String {
    let mut page = Page::default();
    let labels = vec![("version", status.version.clone()), ("gateway", status.gateway.clone())];
    page.family("info", "gauge", "Always 1; its labels say what runs.", [(labels, 1.0)]);
    page.one("uptime_seconds", "gauge", "Seconds since start.", status.uptime_seconds);
    page.one("resident_bytes", "gauge", "Resident memory of the process.", status.resident_bytes);
    log(status, &mut page);
    clients(status, &mut page);
    streams(&status.streams, &mut page);
    uplinks(&status.uplinks, &mut page);
    mirrors(&status.uplinks, &mut page);
    page.text
}

fn log(status: &Status, page: &mut Page) {
    let (durability, disk) = (&status.durability, &status.disk);
    let relaxed = u64::from(durability.ack != "synced");
    page.one("ack_relaxed", "gauge", "1 if messages are acknowledged before they are on disk.", relaxed);
    page.one(
        "log_failed",
        "gauge",
        "1 if a sync failed and nothing is acknowledged any more.",
        u64::from(durability.failed),
    );
    page.one(
        "oldest_unsynced_milliseconds",
        "gauge",
        "How long the oldest append has waited for its sync.",
        durability.oldest_unsynced_ms,
    );
    page.one("disk_used_bytes", "gauge", "Allocated below the data directory.", disk.used_bytes);
    page.one("disk_max_bytes", "gauge", "Never exceeded by disk_used_bytes.", disk.max_bytes);
    page.one("disk_full", "gauge", "1 if appends are refused because the disk is full.", u64::from(disk.full));
    let synced = u64::from(status.clock.synced);
    page.one("clock_synced", "gauge", "1 once the wall clock was right since the machine started.", synced);
    page.one("damaged_messages", "gauge", "Messages found not readable since start.", disk.damaged_msgs);
    for (name, kind, help, value) in [
        (
            "disk_written_bytes_total",
            "counter",
            "Bytes that the log wrote into its files since install, by its own count.",
            disk.written_bytes,
        ),
        (
            "disk_written_payload_bytes_total",
            "counter",
            "Bytes of topics, properties and payloads that it stored for that.",
            disk.written_payload_bytes,
        ),
        (
            "disk_day_written_bytes",
            "gauge",
            "Bytes written in the last 24 hours, or since start.",
            disk.day_written_bytes,
        ),
        (
            "disk_day_payload_bytes",
            "gauge",
            "Bytes of topics, properties and payloads stored in the last 24 hours, or since start.",
            disk.day_payload_bytes,
        ),
    ] {
        page.one(name, kind, help, value);
    }
    counters(&status.log, page);
}

fn clients(status: &Status, page: &mut Page) {
    let clients = &status.clients;
    page.one("clients", "gauge", "Clients connected.", clients.connected);
    page.one("clients_max", "gauge", "Connections allowed.", clients.max);
    page.one("connections", "gauge", "Connections, those without a CONNECT yet included.", clients.connections);
    page.one("sessions", "gauge", "Sessions, connected or not.", clients.sessions);
    page.one("subscriptions", "gauge", "Subscriptions of all sessions.", clients.subscriptions);
    page.one("retained_messages", "gauge", "Retained messages.", clients.retained_msgs);
    page.one("retained_bytes", "gauge", "Bytes of retained messages.", clients.retained_bytes);
    page.one("queued_bytes", "gauge", "Bytes in the queues towards all clients.", clients.queued_bytes);
    page.one("clients_catching_up", "gauge", "Clients that read from the log now.", clients.catching_up);
    page.one(
        "clients_waiting_for_password",
        "gauge",
        "Clients whose passwords are not checked yet.",
        clients.waiting_for_password,
    );
    counters(&clients.counters, page);
}

fn counters(counters: &[Counter], page: &mut Page) {
    // Those of one name stand together: the format wants it.
    let mut counters: Vec<_> = counters.iter().collect();
    counters.sort_by(|a, b| a.name.cmp(&b.name));
    for same in counters.chunk_by(|a, b| a.name == b.name) {
        let sample = |counter: &&Counter| (labels_of(counter), precise(counter.value));
        page.family(&same[0].name, "counter", &same[0].help, same.iter().map(sample));
    }
}

fn labels_of(counter: &Counter) -> Labels {
    counter.label.iter().map(|(label, value)| (label.name(), value.clone())).collect()
}

fn streams(streams: &[Stream], page: &mut Page) {
    let mut each = |name, kind, help, figure: fn(&Stream) -> u64| {
        let sample = |stream: &Stream| (vec![("stream", stream.name.clone())], precise(figure(stream)));
        page.family(name, kind, help, streams.iter().map(sample));
    };
    each("stream_messages", "gauge", "Messages held.", |stream| stream.msgs);
    each("stream_bytes", "gauge", "Topics, properties and payloads held, before compression.", |stream| stream.bytes);
    each("stream_first_sequence", "gauge", "First sequence held.", |stream| stream.first_seq);
    each("stream_last_sequence", "counter", "Last sequence that is durable.", |stream| stream.last_seq);
    each("stream_discarded_total", "counter", "Messages that limits or the disk discarded.", |s| s.discarded_msgs);
    each("stream_damaged_messages", "gauge", "Messages that are not readable.", |stream| stream.damaged_msgs);
}

fn uplinks(uplinks: &[Uplink], page: &mut Page) {
    let mut each = |name, kind, help, figure: fn(&Uplink) -> u64| {
        let sample = |uplink: &Uplink| (vec![("uplink", uplink.name.clone())], precise(figure(uplink)));
        page.family(name, kind, help, uplinks.iter().map(sample));
    };
    each("uplink_up", "gauge", "1 while there is a link.", |uplink| u64::from(uplink.state == "up"));
    each("uplink_connects_total", "counter", "Links made.", |uplink| uplink.connects);
    each("uplink_failed_connects_total", "counter", "Attempts to connect that failed.", |uplink| {
        uplink.failed_connects
    });
}

fn mirrors(uplinks: &[Uplink], page: &mut Page) {
    let all: Vec<(&Uplink, &Mirror)> =
        uplinks.iter().flat_map(|uplink| uplink.mirrors.iter().map(move |mirror| (uplink, mirror))).collect();
    let labels = |uplink: &Uplink, mirror: &Mirror| -> Labels {
        vec![("uplink", uplink.name.clone()), ("stream", mirror.stream.clone())]
    };
    let mut each = |name, kind, help, figure: fn(&Mirror) -> u64| {
        let sample = |(uplink, mirror): &(&Uplink, &Mirror)| (labels(uplink, mirror), precise(figure(mirror)));
        page.family(name, kind, help, all.iter().map(sample));
    };
    each("uplink_backlog_messages", "gauge", "Messages that the hub does not have yet.", |m| m.backlog_msgs);
    each("uplink_backlog_bytes", "gauge", "Their bytes, estimated.", |m| m.backlog_bytes);
    each("uplink_confirmed_sequence", "counter", "Last sequence that the hub confirmed.", |m| m.confirmed_seq);
    each("uplink_lost_messages_total", "counter", "Messages discarded before the hub confirmed them.", |m| m.lost_msgs);
    each("uplink_sent_messages_total", "counter", "Messages that the hub confirmed.", |m| m.sent_msgs);
    each("uplink_sent_bytes_total", "counter", "Bytes of their headers and payloads.", |m| m.sent_bytes);
    each("uplink_batches_total", "counter", "Batches that the hub confirmed.", |m| m.batches);
    each("uplink_retries_total", "counter", "Batches and questions that were repeated.", |m| m.retries);
    each("uplink_duplicates_total", "counter", "Messages that the hub had already.", |m| m.duplicates);
    each("uplink_gaps_total", "counter", "Gap notices that the hub confirmed.", |m| m.gaps);
    each("uplink_set_aside_total", "counter", "Messages too large for the hub.", |m| m.set_aside);
    each("uplink_skipped_total", "counter", "Messages whose sequences the hub has otherwise.", |m| m.skipped);
    each("uplink_alarm", "gauge", "1 if a person should look at the hub's copy.", |m| u64::from(m.alarm.is_some()));
    let age = |(uplink, mirror): &(&Uplink, &Mirror)| {
        (labels(uplink, mirror), mirror.oldest_unsent_age_seconds.unwrap_or(0.0))
    };
    let help = "Age of the oldest message that the hub does not have; 0 if it has all.";
    page.family("uplink_oldest_unsent_seconds", "gauge", help, all.iter().map(age));
    let refusals = all.iter().flat_map(|(uplink, mirror)| {
        mirror.refusals.iter().map(|(kind, count)| {
            let mut labels = labels(uplink, mirror);
            labels.push(("kind", kind.clone()));
            (labels, precise(*count))
        })
    });
    page.family("uplink_refusals_total", "counter", "Refusals of the hub, by kind.", refusals);
}

/// Prometheus knows floating point only; counts beyond 2^53 lose their last digits there, which no rate notices.
#[allow(clippy::cast_precision_loss)]
fn precise(count: u64) -> f64 {
    count as f64
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help, [(Vec::new(), precise(value))]);
    }

    /// A metric with its samples; without samples it is left out.
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (Labels, f64)>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_some() {
            self.text += &format!("# HELP headwater_{name} {help}\n# TYPE headwater_{name} {kind}\n");
        }
        for (labels, value) in samples {
            let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            self.text += &format!("headwater_{name}{labels} {value}\n");
        }
    }
}

/// As label values must be escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_stands_under_its_own_help_and_type() {
        let mirror =
            Mirror { stream: "s".to_owned(), refusals: vec![("no_stream".to_owned(), 2)], ..Mirror::default() };
        let counter = |value: &str, count| Counter {
            name: "refused_total".to_owned(),
            label: Some((crate::status::Label::Reason, value.to_owned())),
            value: count,
            help: "Refusals.".to_owned(),
        };
        let status = Status {
            gateway: "a \"b\"".to_owned(),
            streams: vec![Stream { name: "s".to_owned(), msgs: 3, ..Stream::default() }],
            uplinks: vec![Uplink { name: "hub".to_owned(), mirrors: vec![mirror], ..Uplink::default() }],
            clients: crate::status::Clients { counters: vec![counter("x", 1), counter("y", 2)], ..Default::default() },
            ..Status::default()
        };
        let page = render(&status);
        let mut family = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap_or_default().to_owned();
                assert!(seen.insert(family.clone()), "{family} comes twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next();
                assert_eq!(name, Some(family.as_str()), "{line}");
            }
        }
        assert!(page.contains("headwater_stream_messages{stream=\"s\"} 3\n"), "{page}");
        assert!(page.contains("headwater_uplink_refusals_total{uplink=\"hub\",stream=\"s\",kind=\"no_stream\"} 2\n"));
        assert!(page.contains("headwater_refused_total{reason=\"x\"} 1\nheadwater_refused_total{reason=\"y\"} 2\n"));
        assert!(page.contains("gateway=\"a \\\"b\\\"\"}"), "{page}");
    }

    #[test]
    fn every_counter_is_called_so() {
        for line in render(&Status::default()).lines().filter(|line| line.starts_with("# TYPE ")) {
            let (name, kind) = line.rsplit_once(' ').unwrap_or_default();
            assert!(!name.ends_with("_total") || kind == "counter", "{line}");
        }
    }
}
