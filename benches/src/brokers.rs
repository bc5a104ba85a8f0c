//! The brokers under test: how each is configured and started, each in a directory of its own.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crate::load::Wire;
use crate::machine::first_line;
use crate::process::Process;

/// A broker and the promise behind its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Headwater with `ack = "synced"`.
    Headwater,
    /// nats-server, file stream, `sync_interval: always`.
    NatsSyncAlways,
    /// nats-server, file stream, default sync interval (two minutes).
    NatsDefault,
    /// Mosquitto without persistence: there is no subscriber, so nothing is kept.
    Mosquitto,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Headwater => "headwater",
            Kind::NatsSyncAlways => "nats-server, sync always",
            Kind::NatsDefault => "nats-server, default",
            Kind::Mosquitto => "mosquitto",
        })
    }
}

impl Kind {
    /// What an acknowledgement of this broker means.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Kind::Headwater | Kind::NatsSyncAlways => "on disk (synced)",
            Kind::NatsDefault => "in the page cache, synced every 2 min",
            Kind::Mosquitto => "received; not stored, as nobody subscribes",
        }
    }

    /// The protocol it is driven with.
    #[must_use]
    pub fn wire(self) -> Wire {
        match self {
            Kind::Headwater | Kind::Mosquitto => Wire::Mqtt,
            Kind::NatsSyncAlways | Kind::NatsDefault => Wire::JetStream,
        }
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
}

/// A started broker.
#[derive(Debug)]
pub struct Broker {
    /// Its process.
    pub process: Process,
    /// Where devices connect.
    pub address: SocketAddr,
    /// Headwater's HTTP address.
    pub http: SocketAddr,
}

/// Settings of a Headwater run that scenarios vary.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `disk.max_bytes`.
    pub disk: &'static str,
    /// `durability.max_delay`.
    pub max_delay: &'static str,
    /// NATS URL of the hub to mirror to.
    pub uplink: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { disk: "1GiB", max_delay: "0ms", uplink: None }
    }
}

impl Programs {
    /// Name and version of each program, as it says itself.
    #[must_use]
    pub fn versions(&self) -> Vec<(String, String)> {
        let ask = |name: &str, program: &Path, flag: &str| {
            (format!("version of {name}"), first_line(&[&program.to_string_lossy(), flag]))
        };
        let mut versions =
            vec![ask("headwater", &self.headwater, "--version"), ask("nats-server", &self.nats_server, "--version")];
        versions.extend(self.mosquitto.as_ref().map(|program| ask("mosquitto", program, "-h")));
        versions
    }

    /// Starts Headwater in `dir` and waits until it accepts clients.
    ///
    /// # Errors
    /// When it does not come up within 30 s; the text names its log.
    pub fn headwater(&self, dir: &Path, settings: &Settings) -> io::Result<Broker> {
        let (address, http) = (free_address()?, free_address()?);
        let uplink = settings.uplink.as_ref().map_or_else(String::new, |url| {
            format!(
                "[[uplink]]\nname = \"hub\"\nkind = \"jetstream\"\nservers = [\"{url}\"]\n[[uplink.mirror]]\nstream = \"default\"\ninto = \"BENCH\"\ncreate = {{ replicas = 1 }}\n"
            )
        });
        let config = format!(
            "[gateway]\nid = \"bench\"\ndata_dir = {data:?}\n[disk]\nmax_bytes = \"{disk}\"\nmin_free = \"0\"\n[durability]\nmax_delay = \"{delay}\"\n[http]\nbind = \"{http}\"\n[[listener]]\nkind = \"mqtt\"\nbind = \"{address}\"\n[[stream]]\nname = \"default\"\ntopics = [\"#\"]\n{uplink}",
            data = dir.join("data"),
            disk = settings.disk,
            delay = settings.max_delay,
        );
        let file = dir.join("headwater.toml");
        std::fs::write(&file, config)?;
        let log = dir.join("headwater.log");
        let process = Process::start(&self.headwater, &["run", "-c", &file.to_string_lossy()], &log)?;
        wait_for(address, &log)?;
        Ok(Broker { process, address, http })
    }

    /// Starts Mosquitto in `dir`: anonymous, without persistence, its limits on queued and unacknowledged messages lifted.
    ///
    /// # Errors
    /// When there is no Mosquitto, or it does not come up within 30 s; the text names its log.
    pub fn mosquitto(&self, dir: &Path) -> io::Result<Broker> {
        let program = self.mosquitto.as_ref().ok_or_else(|| io::Error::other("no mosquitto was named"))?;
        let address = free_address()?;
        let config = format!(
            "listener {} {}\nallow_anonymous true\npersistence false\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_type error\n",
            address.port(),
            address.ip()
        );
        let file = dir.join("mosquitto.conf");
        std::fs::write(&file, config)?;
        let log = dir.join("mosquitto.log");
        let process = Process::start(program, &["-c", &file.to_string_lossy()], &log)?;
        wait_for(address, &log)?;
        Ok(Broker { process, address, http: address })
    }

    /// Starts a single nats-server with JetStream in `dir`, listening on `address`.
    ///
    /// # Errors
    /// When it does not come up within 30 s; the text names its log.
    pub fn nats_server(&self, dir: &Path, address: SocketAddr, sync_always: bool) -> io::Result<Broker> {
        let sync = if sync_always { "sync_interval: always" } else { "" };
        let config = format!(
            "server_name: bench\nlisten: {address}\njetstream {{ store_dir: {store:?}, max_mem: 1G, max_file: 20G, {sync} }}\n",
            store = dir.join("nats"),
        );
        let file = dir.join("nats.conf");
        std::fs::write(&file, config)?;
        let log = dir.join("nats.log");
        let process = Process::start(&self.nats_server, &["-c", &file.to_string_lossy()], &log)?;
        wait_for(address, &log)?;
        Ok(Broker { process, address, http: address })
    }
}

/// An address on loopback that nobody listens on now. Below the ports that the kernel gives to outgoing connections: one of those may be taken again
/// before the broker is there, or be connected to itself by who waits for the broker, which looks like a broker that resets.
///
/// # Errors
/// No port is free.
pub fn free_address() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 9_000) as u16;
    for _ in 0..9_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 9_000) % 9_000;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener.local_addr();
        }
    }
    Err(io::Error::other("no port from 20000 to 29000 is free"))
}

fn wait_for(address: SocketAddr, log: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("nothing listens on {address}; see {}", log.display())));
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
