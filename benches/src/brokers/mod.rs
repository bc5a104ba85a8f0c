//! The brokers under test: which there are, and how each is started in a directory of its own. Their settings are in `config.rs`.

mod config;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub use config::{Bridge, SUMMARY, Settings};

use crate::hub::Hub;
use crate::load::Wire;
use crate::machine::first_line;
use crate::process::Process;

/// A broker in one of its modes of durability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Headwater with `ack = "synced"`.
    Headwater,
    /// Headwater with `ack = "interval"` of a second.
    HeadwaterInterval,
    /// nats-server, file stream, `sync_interval: always`.
    NatsSyncAlways,
    /// nats-server, file stream, default sync interval (two minutes).
    NatsDefault,
    /// Mosquitto without persistence.
    Mosquitto,
    /// Mosquitto with `persistence true` and its default of a save every 30 minutes.
    MosquittoPersistent,
    /// rumqttd, its log in memory.
    Rumqttd,
    /// NanoMQ, nothing persistent.
    NanoMq,
    /// FlashMQ with its default storage of sessions and retained messages.
    FlashMq,
}

/// Which modes of a broker a scenario compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// Each mode of durability that a broker has.
    All,
    /// Only the one that it has by default.
    Default,
}

const KINDS: [Kind; 9] = [
    Kind::Headwater,
    Kind::HeadwaterInterval,
    Kind::NatsSyncAlways,
    Kind::NatsDefault,
    Kind::Mosquitto,
    Kind::MosquittoPersistent,
    Kind::Rumqttd,
    Kind::NanoMq,
    Kind::FlashMq,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Headwater => "headwater",
            Kind::HeadwaterInterval => "headwater, interval",
            Kind::NatsSyncAlways => "nats-server, sync always",
            Kind::NatsDefault => "nats-server, default",
            Kind::Mosquitto => "mosquitto",
            Kind::MosquittoPersistent => "mosquitto, persistence",
            Kind::Rumqttd => "rumqttd",
            Kind::NanoMq => "nanomq",
            Kind::FlashMq => "flashmq",
        })
    }
}

impl Kind {
    /// What an acknowledgement of this broker means.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Kind::Headwater | Kind::NatsSyncAlways => "on disk (synced)",
            Kind::HeadwaterInterval => "in memory, synced every second",
            Kind::NatsDefault => "in the page cache, synced every 2 min",
            Kind::Mosquitto => "received; kept in memory while a session wants it",
            Kind::MosquittoPersistent => "received; kept in memory while a session wants it, saved every 30 min",
            Kind::Rumqttd => "received; kept in memory, the newest 1,000 MiB of a filter",
            Kind::NanoMq | Kind::FlashMq => "received; kept in memory while a session wants it",
        }
    }

    /// The protocol with which it stores best: nats-server has one of its own.
    #[must_use]
    pub fn wire(self) -> Wire {
        match self {
            Kind::NatsSyncAlways | Kind::NatsDefault => Wire::JetStream,
            Kind::Headwater
            | Kind::HeadwaterInterval
            | Kind::Mosquitto
            | Kind::MosquittoPersistent
            | Kind::Rumqttd
            | Kind::NanoMq
            | Kind::FlashMq => Wire::Mqtt,
        }
    }

    /// Syncs each message, or each that a client waits for: given less of the work, as it takes its time.
    #[must_use]
    pub fn syncs_each(self) -> bool {
        self == Kind::NatsSyncAlways
    }

    /// It is one of Headwater's modes, with Headwater's metrics.
    #[must_use]
    pub fn is_headwater(self) -> bool {
        matches!(self, Kind::Headwater | Kind::HeadwaterInterval)
    }

    fn is_default_mode(self) -> bool {
        !matches!(self, Kind::HeadwaterInterval | Kind::NatsSyncAlways | Kind::MosquittoPersistent)
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The release binary of Headwater.
    pub headwater: PathBuf,
    /// nats-server.
    pub nats_server: PathBuf,
    /// Mosquitto, where there is one.
    pub mosquitto: Option<PathBuf>,
    /// rumqttd, where there is one.
    pub rumqttd: Option<PathBuf>,
    /// NanoMQ, where there is one.
    pub nanomq: Option<PathBuf>,
    /// FlashMQ, where there is one.
    pub flashmq: Option<PathBuf>,
}

/// A started broker.
#[derive(Debug)]
pub struct Broker {
    /// What it is.
    pub kind: Kind,
    /// Its process.
    pub process: Process,
    /// Where [`Kind::wire`] is spoken.
    pub address: SocketAddr,
    /// Where MQTT is spoken.
    pub mqtt: SocketAddr,
    /// Headwater's HTTP address; the same as `address` for others.
    pub http: SocketAddr,
}

impl Programs {
    /// Name and version of each program as it says itself, and which peers are missing.
    #[must_use]
    pub fn versions(&self) -> Vec<(String, String)> {
        let ask = |name: &str, program: Option<&PathBuf>, flag: &str| {
            let version = program.map_or_else(
                || "not found: left out of every table".to_owned(),
                |program| first_line(&[&program.to_string_lossy(), flag]),
            );
            (format!("version of {name}"), version)
        };
        vec![
            ask("headwater", Some(&self.headwater), "--version"),
            ask("nats-server", Some(&self.nats_server), "--version"),
            ask("mosquitto", self.mosquitto.as_ref(), "-h"),
            // It has no flag for it; the file name is all there is.
            (
                "version of rumqttd".to_owned(),
                match &self.rumqttd {
                    Some(_) => "rumqttd 0.20.0 if benches/run installed it".to_owned(),
                    None => "not found: left out of every table".to_owned(),
                },
            ),
            ask("nanomq", self.nanomq.as_ref(), "--version"),
            ask("flashmq", self.flashmq.as_ref(), "--version"),
        ]
    }

    /// The brokers that are there, Headwater first: the others are told as ratios to it.
    #[must_use]
    pub fn kinds(&self, modes: Modes) -> Vec<Kind> {
        let wanted = |kind: &Kind| modes == Modes::All || kind.is_default_mode();
        KINDS.into_iter().filter(wanted).filter(|kind| self.program(*kind).is_some()).collect()
    }

    fn program(&self, kind: Kind) -> Option<&Path> {
        match kind {
            Kind::Headwater | Kind::HeadwaterInterval => Some(&self.headwater),
            Kind::NatsSyncAlways | Kind::NatsDefault => Some(&self.nats_server),
            Kind::Mosquitto | Kind::MosquittoPersistent => self.mosquitto.as_deref(),
            Kind::Rumqttd => self.rumqttd.as_deref(),
            Kind::NanoMq => self.nanomq.as_deref(),
            Kind::FlashMq => self.flashmq.as_deref(),
        }
    }

    /// Starts `kind` in `dir` (made if it is missing, its data kept if not) and waits until it accepts clients. nats-server is given a
    /// stream `BENCH` for what the publishers of the bench send.
    ///
    /// # Errors
    /// When the program is not there, or does not come up within two minutes; the text names its log.
    pub fn start(&self, kind: Kind, dir: &Path, settings: &Settings) -> io::Result<Broker> {
        let broker = self.start_bare(kind, dir, settings)?;
        if kind.wire() == Wire::JetStream {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let hub = Hub::connect(&format!("nats://{}", broker.address), Duration::from_secs(10)).await?;
                hub.make_stream("BENCH", "plant.>", settings.stream_bytes).await
            })?;
        }
        Ok(broker)
    }

    /// Starts `kind` as [`Programs::start`] does, but makes no stream.
    ///
    /// # Errors
    /// When the program is not there, or does not come up within two minutes; the text names its log.
    pub fn start_bare(&self, kind: Kind, dir: &Path, settings: &Settings) -> io::Result<Broker> {
        let program = self.program(kind).ok_or_else(|| io::Error::other(format!("no {kind} was named")))?;
        let program = program.to_owned();
        std::fs::create_dir_all(dir)?;
        let address = settings.address.map_or_else(free_address, Ok)?;
        let mqtt = if kind.wire() == Wire::Mqtt { address } else { free_address()? };
        let http = if kind.is_headwater() { free_address()? } else { address };
        let (name, text) = config::file(kind, dir, settings, &config::Addresses { address, mqtt, http });
        let file = dir.join(name);
        std::fs::write(&file, text)?;
        let log = dir.join(format!("{name}.log"));
        let file = file.to_string_lossy();
        let arguments: Vec<&str> = match kind {
            Kind::Headwater | Kind::HeadwaterInterval => vec!["run", "-c", &file],
            Kind::NatsSyncAlways | Kind::NatsDefault | Kind::Mosquitto | Kind::MosquittoPersistent => vec!["-c", &file],
            Kind::Rumqttd => vec!["--quiet", "--config", &file],
            Kind::NanoMq => vec!["start", "--conf", &file],
            Kind::FlashMq => vec!["--config-file", &file],
        };
        let process = Process::start(&program, &arguments, &log)?;
        let mut broker = Broker { kind, process, address, mqtt, http };
        for address in [address, mqtt] {
            wait_for(address, &mut broker.process, &log)?;
        }
        Ok(broker)
    }
}

/// An address on loopback that nobody listens on now. Below the ports that the kernel gives to outgoing connections: one of those may be taken again
/// before the broker is there, or be connected to itself by who waits for the broker, which looks like a broker that resets.
///
/// # Errors
/// No port is free.
pub fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two benches that were started after each other look in different places.
    let start = (std::process::id().wrapping_mul(977) % 9_000) as u16;
    for _ in 0..9_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 9_000) % 9_000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr();
        }
    }
    Err(io::Error::other("no port from 20000 to 29000 is free"))
}

fn wait_for(address: SocketAddr, process: &mut Process, log: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while TcpStream::connect(address).is_err() {
        let ended = process.has_ended()?;
        if ended || Instant::now() > deadline {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let last = said.lines().last().unwrap_or("nothing");
            let why = if ended { "it has ended" } else { "nothing listens" };
            return Err(io::Error::other(format!("{address}: {why}; the last that it said: {last}")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The sum over all label sets of one of Headwater's metrics, 0 if it is not there.
///
/// # Errors
/// When Headwater does not answer.
pub fn metric(http: SocketAddr, name: &str) -> io::Result<f64> {
    let mut stream = TcpStream::connect(http)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{')))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum())
}
