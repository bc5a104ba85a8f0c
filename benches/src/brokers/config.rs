//! The configuration file of each broker. Pure text: what it says here is what the report says of the settings.
//!
//! Limits that would end a run early (connections, queued and unacknowledged messages) are lifted for everybody; what is not named
//! here is the broker's default.

use core::net::SocketAddr;
use std::fmt::Write as _;
use std::path::Path;

use super::Kind;

/// What scenarios vary.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Headwater's `disk.max_bytes`.
    pub disk: String,
    /// Headwater's `durability.max_delay`.
    pub max_delay: String,
    /// Headwater's streams, the lines of the plant spread over them; 1 is one stream for every topic.
    pub streams: usize,
    /// Clients that must find room.
    pub clients: usize,
    /// Largest size of nats-server's stream; `None` for no limit.
    pub stream_bytes: Option<u64>,
    /// Where the backlog goes: the hub of the same make.
    pub bridge: Option<Bridge>,
    /// Listen here and nowhere else, as a hub must whose address is known before it is there.
    pub address: Option<SocketAddr>,
}

/// A hub to send everything to.
#[derive(Clone, Copy, Debug)]
pub struct Bridge {
    /// Where it listens: NATS for Headwater, a leaf node port for nats-server, MQTT for Mosquitto.
    pub to: SocketAddr,
    /// For nats-server: this is the hub, and `to` is where it takes leaf nodes.
    pub is_hub: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            disk: "1GiB".to_owned(),
            max_delay: "0ms".to_owned(),
            streams: 1,
            clients: 0,
            stream_bytes: None,
            bridge: None,
            address: None,
        }
    }
}

/// Where a broker listens.
pub(super) struct Addresses {
    pub(super) address: SocketAddr,
    pub(super) mqtt: SocketAddr,
    pub(super) http: SocketAddr,
}

/// How the brokers are set up, for the report.
pub const SUMMARY: &str = "headwater: one stream for every topic, max_bytes = 1GiB, where a scenario does not say otherwise. \
    nats-server: one file stream for its own protocol, max_ack_pending 32,767 for MQTT (the most it takes where a filter ends in #). mosquitto: no limit on queued or \
    unacknowledged messages, saves every 30 min in the persistence rows. rumqttd: as its own example, 20,000 connections, \
    payloads up to 1 MiB. The rest as by default.";

/// Lines of the plant that streams are made for.
const LINES: usize = 32;

/// Name and text of the configuration file.
pub(super) fn file(kind: Kind, dir: &Path, settings: &Settings, at: &Addresses) -> (&'static str, String) {
    match kind {
        Kind::Headwater => ("headwater.toml", headwater(dir, settings, at, "synced")),
        Kind::HeadwaterInterval => ("headwater.toml", headwater(dir, settings, at, "interval")),
        Kind::NatsSyncAlways => ("nats.conf", nats_server(dir, settings, at, "sync_interval: always")),
        Kind::NatsDefault => ("nats.conf", nats_server(dir, settings, at, "")),
        Kind::Mosquitto => ("mosquitto.conf", mosquitto(dir, settings, at, false)),
        Kind::MosquittoPersistent => ("mosquitto.conf", mosquitto(dir, settings, at, true)),
        Kind::Rumqttd => ("rumqttd.toml", rumqttd(at)),
        Kind::NanoMq => ("nanomq.conf", nanomq(at)),
        Kind::FlashMq => ("flashmq.conf", flashmq(dir, at)),
    }
}

fn headwater(dir: &Path, settings: &Settings, at: &Addresses, ack: &str) -> String {
    let mut text = format!(
        "[gateway]\nid = \"bench\"\ndata_dir = {:?}\n[disk]\nmax_bytes = \"{}\"\nmin_free = \"0\"\n\
         [durability]\nack = \"{ack}\"\nmax_delay = \"{}\"\n[http]\nbind = \"{}\"\n\
         [[listener]]\nkind = \"mqtt\"\nbind = \"{}\"\n",
        dir.join("data"),
        settings.disk,
        settings.max_delay,
        at.http,
        at.mqtt
    );
    // The default stands where it is enough: a larger table would cost memory that other figures count.
    if settings.clients > 9_000 {
        let most = settings.clients + 1_000;
        put(&mut text, format_args!("[mqtt]\nmax_connections = {most}\nmax_sessions = {most}\n"));
    }
    if settings.streams <= 1 {
        text.push_str("[[stream]]\nname = \"default\"\ntopics = [\"#\"]\n");
    } else {
        for stream in 0..settings.streams {
            let lines: Vec<String> =
                (stream..LINES).step_by(settings.streams).map(|line| format!("\"plant/line-{line:02}/#\"")).collect();
            put(&mut text, format_args!("[[stream]]\nname = \"s{stream}\"\ntopics = [{}]\n", lines.join(", ")));
        }
    }
    if let Some(bridge) = settings.bridge {
        put(
            &mut text,
            format_args!(
                "[[uplink]]\nname = \"hub\"\nkind = \"jetstream\"\nservers = [\"nats://{}\"]\n\
                 [[uplink.mirror]]\nstream = \"default\"\ninto = \"BENCH\"\ncreate = {{ replicas = 1 }}\n",
                bridge.to
            ),
        );
    }
    text
}

fn nats_server(dir: &Path, settings: &Settings, at: &Addresses, sync: &str) -> String {
    let (name, domain, leaf) = match settings.bridge {
        None => ("bench", String::new(), String::new()),
        Some(Bridge { to, is_hub: true }) => {
            ("hub", "domain: hub,".to_owned(), format!("leafnodes {{ listen: \"{to}\" }}\n"))
        }
        Some(Bridge { to, is_hub: false }) => (
            "edge",
            "domain: edge,".to_owned(),
            format!("leafnodes {{ reconnect: \"1s\", remotes: [{{ url: \"nats://{to}\" }}] }}\n"),
        ),
    };
    format!(
        "server_name: {name}\nlisten: \"{}\"\njetstream {{ store_dir: {:?}, {domain} max_mem: 1G, max_file: 40G, {sync} }}\n\
         mqtt {{ listen: \"{}\", max_ack_pending: 32767 }}\n{leaf}",
        at.address,
        dir.join("nats"),
        at.mqtt
    )
}

fn mosquitto(dir: &Path, settings: &Settings, at: &Addresses, persistence: bool) -> String {
    let mut text = format!(
        "listener {} {}\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_type error\n\
         persistence {persistence}\npersistence_location {}/\n",
        at.mqtt.port(),
        at.mqtt.ip(),
        dir.display()
    );
    // As root it would become another user, who cannot write into our directory.
    text.push_str("user root\n");
    if let Some(bridge) = settings.bridge.filter(|bridge| !bridge.is_hub) {
        put(
            &mut text,
            format_args!(
                "connection hub\naddress {}\ntopic # out 1\ncleansession false\nrestart_timeout 1\nnotifications false\n",
                bridge.to
            ),
        );
    }
    text
}

fn rumqttd(at: &Addresses) -> String {
    format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\nmax_segment_count = 10\n\
         [v4.1]\nname = \"v4-1\"\nlisten = \"{}\"\nnext_connection_delay_ms = 0\n\
         [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\nmax_inflight_count = 100\n\
         dynamic_filters = true\n",
        at.mqtt
    )
}

fn nanomq(at: &Addresses) -> String {
    format!(
        "mqtt {{\n  max_packet_size = 1MB\n  max_mqueue_len = 65535\n}}\nlisteners.tcp {{\n  bind = \"{}\"\n}}\n\
         log {{\n  to = [console]\n  level = error\n}}\nauth {{\n  allow_anonymous = true\n  no_match = allow\n  deny_action = ignore\n}}\n",
        at.mqtt
    )
}

fn flashmq(dir: &Path, at: &Addresses) -> String {
    format!(
        "allow_anonymous true\nquiet true\nstorage_dir {}\nlisten {{\n  protocol mqtt\n  inet_protocol ip4\n  inet4_bind_address {}\n  port {}\n}}\n",
        dir.display(),
        at.mqtt.ip(),
        at.mqtt.port()
    )
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_the_lines_of_the_plant_without_overlap() {
        let address: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let at = Addresses { address, mqtt: address, http: address };
        let settings = Settings { streams: 16, ..Settings::default() };
        let (_, text) = file(Kind::Headwater, Path::new("d"), &settings, &at);
        assert_eq!(text.matches("[[stream]]").count(), 16);
        for line in 0..LINES {
            assert_eq!(text.matches(&format!("line-{line:02}/#")).count(), 1, "{text}");
        }
    }
}
