//! What a configuration does, in a few lines: for `check` and for the start.

use std::path::Path;

use headwater_broker::config::{Config, CreateStream, Listener, Mirror, Uplink};
use headwater_broker::log::{AckPolicy, Discard, Priority, Storage};

use headwater_sync::encode::Encoder;

use crate::out::{bytes, columns, seconds};

/// One line per fact: its name and the fact.
pub(crate) fn lines(config: &Config, max_bytes: u64) -> Vec<(&'static str, String)> {
    let mut lines = vec![("gateway", config.gateway.id.clone())];
    lines.extend(config.listeners.iter().map(|listener| ("listens", listens(listener))));
    lines.push(match config.http.bind {
        Some(bind) => ("status", format!("http://{bind} (headwater status, /metrics, /healthz)")),
        None => ("status", "off".to_owned()),
    });
    lines.push(("stores", format!("in {}, at most {} of disk", absolute(&config.gateway.data_dir), bytes(max_bytes))));
    for stream in &config.streams {
        let mut text = format!("{} <- {}", stream.name, join(&stream.topics));
        if !stream.exclude.is_empty() {
            text += &format!(", without {}", join(&stream.exclude));
        }
        lines.push(("stream", text + &limits(stream)));
    }
    lines.push(("acks", acks(config)));
    match config.uplinks.is_empty() {
        true => {
            lines.push(("uplink", "none; add one with --uplink nats://HOST:4222, or [[uplink]] in a file".to_owned()))
        }
        false => lines.extend(config.uplinks.iter().flat_map(uplink).map(|text| ("uplink", text))),
    }
    lines
}

fn listens(listener: &Listener) -> String {
    let who = match (listener.kind.requires_certificate(), listener.anonymous) {
        (true, true) => "clients with a certificate",
        (true, false) => "users with a certificate",
        (false, true) => "everybody",
        (false, false) => "users",
    };
    let kind = listener.kind.name();
    let path = listener.kind.websocket().map(|websocket| websocket.path.as_str()).unwrap_or_default();
    let proxy = if listener.proxy_protocol { ", behind a proxy" } else { "" };
    format!("{kind} on {}{path}, to {who}{proxy}", listener.bind)
}

/// The lines as text, in two columns.
pub(crate) fn text(lines: &[(&'static str, String)]) -> String {
    let rows: Vec<_> = lines.iter().map(|(name, fact)| vec![format!("  {name}"), fact.clone()]).collect();
    columns(&rows, &[])
}

/// When publishers are acknowledged. G1 is relaxed only in plain sight.
pub(crate) fn acks(config: &Config) -> String {
    let delay = config.durability.max_delay;
    let waits = if delay.is_zero() { String::new() } else { format!(", a sync waits up to {} ms", delay.as_millis()) };
    match config.durability.ack {
        AckPolicy::Synced => format!("after the message is on disk{waits}"),
        AckPolicy::Interval(interval) => format!(
            "BEFORE the message is on disk (ack = \"interval\"): a power cut loses up to {} ms of acknowledged messages{waits}",
            interval.as_millis()
        ),
    }
}

pub(crate) fn absolute(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn limits(stream: &headwater_broker::config::Stream) -> String {
    let limits = &stream.limits;
    let mut parts = Vec::new();
    if stream.storage == Storage::Memory {
        parts.push("in memory only".to_owned());
    }
    parts.extend(limits.max_bytes.map(|max| format!("at most {}", bytes(max))));
    parts.extend(limits.max_age.map(|max| format!("for {}", seconds(max.as_secs()))));
    parts.extend(limits.max_msgs.map(|max| format!("{max} messages")));
    parts.extend(limits.max_msgs_per_subject.map(|max| format!("{max} per topic")));
    parts.extend(limits.max_msg_bytes.map(|max| format!("each up to {}", bytes(u64::from(max)))));
    if limits.discard == Discard::New {
        parts.push("refuses when full".to_owned());
    }
    parts.extend(limits.reserve.map(|reserve| format!("{} reserved", bytes(reserve))));
    if limits.priority != Priority::default() {
        parts.push(format!("priority {}", limits.priority.0));
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn uplink(uplink: &Uplink) -> Vec<String> {
    let servers = uplink.servers.join(" ");
    let line = |mirror: &Mirror| {
        let made = mirror.create.as_ref().map(|create| made(create, mirror)).unwrap_or_default();
        format!("{}: {} -> {} at {servers}{made}", uplink.name, mirror.stream, mirror.into)
    };
    uplink.mirrors.iter().map(line).collect()
}

fn made(create: &CreateStream, mirror: &Mirror) -> String {
    let subjects = match create.subjects.is_empty() {
        true => Encoder::shared_subject(&mirror.subject, &mirror.stream),
        false => create.subjects.join(" "),
    };
    let copies = if create.replicas == 1 { "1 replica".to_owned() } else { format!("{} replicas", create.replicas) };
    format!(" (made there if missing: {subjects}, {copies})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(file: &str) -> String {
        let loaded = headwater_broker::config::load("f", file, &[], "box").unwrap_or_else(|errors| panic!("{errors}"));
        text(&lines(&loaded.config, loaded.config.disk.max_bytes))
    }

    #[test]
    fn the_start_lines_say_where_and_how_much() {
        let text = text_of("");
        for part in [
            "127.0.0.1:1883",
            "127.0.0.1:8222",
            "headwater-data",
            "1 GiB",
            "default <- #",
            "after the message is on disk",
            "--uplink",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_relaxed_promise_is_shown() {
        let text = text_of("[durability]\nack = \"interval\"\ninterval = \"250ms\"\n");
        assert!(text.contains("BEFORE the message is on disk") && text.contains("250 ms"), "{text}");
    }
}
