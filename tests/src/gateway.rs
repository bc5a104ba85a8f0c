//! A gateway under test: its configuration, data directory and ports, and the real binary that runs with them.
//!
//! [`Gateway`] is what stays (the box), [`Broker`] is one run of the binary on it (dropping it kills the process).
//! A gateway may be started again after a kill: same data, same ports, perhaps another configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::metrics::Metrics;
use crate::port::Port;
use crate::process::{Finished, Process, provided, run};
use crate::wait::{PATIENCE, until};

/// What SIGTERM promises.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A gateway box.
#[derive(Debug)]
pub struct Gateway {
    id: String,
    dir: TempDir,
    data: Option<PathBuf>,
    mqtt: Port,
    http: Port,
    disk: String,
    listener: &'static str,
    /// A configuration of the repository that takes the place of the sections a gateway has by itself.
    profile: Option<String>,
    sections: Vec<String>,
}

impl Gateway {
    /// A gateway of that id with an empty disk and 64 MiB of it to use, and no stream or uplink yet.
    ///
    /// # Panics
    /// If no temporary directory can be made.
    #[must_use]
    pub fn new(id: &str) -> Gateway {
        Gateway {
            id: id.to_owned(),
            dir: tempfile::Builder::new().prefix("headwater-").tempdir().expect("a temporary directory can be made"),
            data: None,
            mqtt: Port::lease(),
            http: Port::lease(),
            disk: "max_bytes = \"64MiB\"\nmin_free = \"1MiB\"\n".to_owned(),
            listener: "mqtt",
            profile: None,
            sections: Vec::new(),
        }
    }

    /// The listener speaks TLS, with these keys of `[listener.tls]` and whatever sections follow them.
    #[must_use]
    pub fn tls(mut self, keys: &str) -> Gateway {
        self.listener = "mqtts";
        self.with(&format!("[listener.tls]\n{keys}"))
    }

    /// Keeps the data in this directory, which lies elsewhere.
    pub fn move_data(&mut self, dir: &Path) {
        self.data = Some(dir.to_owned());
    }

    /// Replaces the section `[disk]`.
    #[must_use]
    pub fn disk(mut self, keys: &str) -> Gateway {
        self.disk = keys.to_owned();
        self
    }

    /// Runs with a file of `configs/`, with only the data directory and the address for devices replaced.
    ///
    /// # Panics
    /// If there is no such file.
    #[must_use]
    pub fn profile(mut self, file: &str) -> Gateway {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.profile = Some(text);
        self
    }

    /// Appends TOML to the configuration: whole sections such as `[[stream]]`.
    #[must_use]
    pub fn with(mut self, sections: &str) -> Gateway {
        self.sections.push(sections.to_owned());
        self
    }

    /// A stream of that name for these topic filters, bounded by the disk only.
    #[must_use]
    pub fn stream(self, name: &str, topics: &[&str]) -> Gateway {
        self.with(&format!("[[stream]]\nname = \"{name}\"\ntopics = {topics:?}\n"))
    }

    /// An uplink `hub` to these servers with short delays; `mirrors` are pairs of our stream and the hub's.
    #[must_use]
    pub fn uplink(self, servers: &[String], mirrors: &[(&str, &str)]) -> Gateway {
        let mut text = format!(
            "[[uplink]]\nname = \"hub\"\nkind = \"jetstream\"\nservers = {servers:?}\nack_timeout = \"2s\"\nmax_backoff = \"500ms\"\n"
        );
        for (stream, into) in mirrors {
            text += &format!("[[uplink.mirror]]\nstream = \"{stream}\"\ninto = \"{into}\"\n");
        }
        self.with(&text)
    }

    /// Forgets every section added so far, for a start with another configuration on the same data.
    pub fn clear_sections(&mut self) {
        self.sections.clear();
    }

    /// The id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A directory of our own beside the data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    /// The configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("headwater.toml")
    }

    /// Where devices connect.
    #[must_use]
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt.address()
    }

    /// Where status is read.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http.address()
    }

    /// The configuration as it would be written now.
    #[must_use]
    pub fn config(&self) -> String {
        let mut text = match &self.profile {
            Some(profile) => self.profile_here(profile),
            None => self.ordinary(),
        };
        for section in &self.sections {
            text += "\n";
            text += section;
        }
        text
    }

    fn profile_here(&self, profile: &str) -> String {
        let data_dir = format!("id = {:?}\ndata_dir = {:?}", self.id, self.data_dir().display().to_string());
        let bind = format!("bind = \"{}\"", self.mqtt());
        let mut text = profile.to_owned();
        for (shipped, ours) in [("data_dir = \"/var/lib/headwater\"", data_dir), ("bind = \"127.0.0.1:1883\"", bind)] {
            assert_eq!(text.matches(shipped).count(), 1, "{shipped} in {profile}");
            text = text.replace(shipped, &ours);
        }
        text + &format!("\n[http]\nbind = \"{}\"\n", self.http())
    }

    fn ordinary(&self) -> String {
        format!(
            "[gateway]\nid = {:?}\ndata_dir = {:?}\n\n[disk]\n{}\n[http]\nbind = \"{}\"\n\n[[listener]]\nkind = \"{}\"\nbind = \"{}\"\n",
            self.id,
            self.data_dir().display().to_string(),
            self.disk,
            self.http(),
            self.listener,
            self.mqtt()
        )
    }

    /// Writes the configuration file, without starting anything.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_config(&self) -> PathBuf {
        let path = self.config_file();
        std::fs::write(&path, self.config()).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Starts the binary and waits until it is ready for devices.
    ///
    /// # Panics
    /// If it ends or is not ready in time.
    pub async fn start(&self) -> Broker {
        let mut broker = self.launch();
        broker.ready().await;
        broker
    }

    /// Starts the binary and does not wait.
    #[must_use]
    pub fn launch(&self) -> Broker {
        self.launch_by(Command::new(binary()))
    }

    /// Starts the binary under a shell line that ends in `exec "$@"`, and does not wait.
    #[must_use]
    pub fn launch_under(&self, line: &str) -> Broker {
        let mut command = Command::new("sh");
        command.arg("-c").arg(line).arg("sh").arg(binary());
        self.launch_by(command)
    }

    /// Starts the binary with these environment variables and does not wait.
    #[must_use]
    pub fn launch_in(&self, environment: &[(&str, &str)]) -> Broker {
        let mut command = Command::new(binary());
        command.envs(environment.iter().copied());
        self.launch_by(command)
    }

    fn launch_by(&self, mut command: Command) -> Broker {
        let config = self.write_config();
        command.current_dir(self.dir()).arg("run").arg("--config").arg(config);
        let process = Process::start(format!("headwater {}", self.id), &mut command, self.dir().join("log"));
        Broker { process, mqtt: self.mqtt(), http: self.http() }
    }

    /// As [`Gateway::start`], the data directory on a filesystem of its own with room for so many MiB: a tmpfs that only the
    /// process sees. For others its root is [`Broker::own_filesystem`].
    ///
    /// # Panics
    /// As [`Gateway::start`]; also where user namespaces are switched off.
    pub async fn start_on_own_filesystem(&self, mebibytes: u32) -> Broker {
        let config = self.write_config();
        let data = self.data_dir();
        std::fs::create_dir_all(&data).unwrap_or_else(|e| panic!("cannot make {}: {e}", data.display()));
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        command.arg("mount -t tmpfs -o size=$1m none \"$2\" && exec \"$3\" run --config \"$4\"");
        command.arg("sh").arg(mebibytes.to_string()).arg(data).arg(binary()).arg(config);
        command.current_dir(self.dir());
        let process = Process::start(format!("headwater {}", self.id), &mut command, self.dir().join("log"));
        let mut broker = Broker { process, mqtt: self.mqtt(), http: self.http() };
        broker.ready().await;
        broker
    }

    /// Runs the binary with `arguments` and this gateway's configuration file (`--config` is added), to its end.
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let config = self.write_config();
        let config = config.to_string_lossy();
        let mut all = arguments.to_vec();
        all.extend(["--config", &config]);
        headwater(&all)
    }
}

/// The binary under test.
#[must_use]
pub fn binary() -> PathBuf {
    provided("HEADWATER_BIN")
}

/// Runs the binary with just these arguments, to its end.
#[track_caller]
pub fn headwater(arguments: &[&str]) -> Finished {
    run(binary(), arguments, PATIENCE)
}

/// Waits until `/readyz` of the binary says yes.
///
/// # Panics
/// If the process ends or takes too long.
pub async fn ready(process: &mut Process, http: SocketAddr) {
    until(PATIENCE, "a broker that is ready", || {
        let ended = process.ended();
        let output = ended.map(|_| process.output());
        async move {
            if let (Some(status), Some(output)) = (ended, output) {
                panic!("headwater ended ({status}) before it was ready:\n{output}");
            }
            match http::get(http, "/readyz").await? {
                Answer { code: 200, .. } => Ok(()),
                answer => Err(format!("{} {}", answer.code, answer.text())),
            }
        }
    })
    .await;
}

/// A message as the gateway's log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Its sequence.
    pub seq: u64,
    /// The topic it was published to.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Sequences that are not there any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// Why.
    pub reason: String,
}

/// A part of a stream.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Messages, in order.
    pub messages: Vec<Logged>,
    /// What is missing between them.
    pub gaps: Vec<Gap>,
    /// Where the next part begins.
    pub next: u64,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name}: {value}"))
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name}: {value}"))
}

fn logged(message: &Value) -> Logged {
    let payload = base64(text(message, "payload_base64"));
    Logged { seq: number(message, "seq"), topic: text(message, "topic").to_owned(), payload }
}

fn gap(gap: &Value) -> Gap {
    Gap { first: number(gap, "first"), last: number(gap, "last"), reason: text(gap, "reason").to_owned() }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |digit: u8| match digit {
        b'A'..=b'Z' => u32::from(digit - b'A'),
        b'a'..=b'z' => u32::from(digit - b'a') + 26,
        b'0'..=b'9' => u32::from(digit - b'0') + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("not base64: {text:?}"),
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = four.iter().fold(0, |bits, &digit| (bits << 6) | value(digit)) << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}

/// One run of the binary.
#[derive(Debug)]
pub struct Broker {
    process: Process,
    mqtt: SocketAddr,
    http: SocketAddr,
}

impl Broker {
    /// The data directory as others see it that was started with [`Gateway::start_on_own_filesystem`].
    #[must_use]
    pub fn own_filesystem(&self, gateway: &Gateway) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.pid()));
        root.join(gateway.data_dir().strip_prefix("/").expect("temporary directories have absolute paths"))
    }

    /// Where devices connect.
    #[must_use]
    pub fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// Where status is read.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The process, for signals and its output.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it is ready for devices.
    pub async fn ready(&mut self) {
        ready(&mut self.process, self.http).await;
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// SIGTERM; the exit status of an end within the promised time.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.stop(STOP_LIMIT)
    }

    /// Asks for a page.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn page(&self, path: &str) -> Answer {
        http::get(self.http, path).await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// `/api/v1/status`.
    pub async fn status(&self) -> Value {
        self.page("/api/v1/status").await.json()
    }

    /// Messages of a stream from sequence `from` on, at most `limit`, as `/api/v1/streams/{name}/messages` shows them.
    ///
    /// # Panics
    /// If the page is not what it should be.
    pub async fn messages(&self, stream: &str, from: u64, limit: usize) -> Page {
        let path = format!("/api/v1/streams/{stream}/messages?from={from}&limit={limit}");
        let page = self.page(&path).await.json();
        let list = |name: &str| page[name].as_array().unwrap_or_else(|| panic!("no {name}: {page}"));
        Page {
            messages: list("messages").iter().map(logged).collect(),
            gaps: list("gaps").iter().map(gap).collect(),
            next: number(&page, "next"),
        }
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> Metrics {
        let page = self.page("/metrics").await;
        assert_eq!(page.code, 200, "{}", page.text());
        Metrics::parse(&page.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba")] {
            assert_eq!(base64(text), bytes.as_bytes());
        }
        assert_eq!(base64("+/8="), [0xfb, 0xff]);
    }
}
