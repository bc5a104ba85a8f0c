//! A real nats-server on loopback, a source in memory, and the few words in which tests speak to both.

#![allow(dead_code)] // every test file uses its own part of it

pub(crate) mod proxy;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use headwater_broker::clock::{ClockQuality, MessageTime, WallTime};
use headwater_broker::config::{Mirror, Uplink, UplinkAuth, UplinkTls};
use headwater_broker::log::{DurableMark, Seq, StreamUid, Ticket};
use headwater_sync::batch::{Absence, Entry, Limits};
use headwater_sync::encode::Encoder;
use headwater_sync::forwarder::Held;
use headwater_sync::jetstream::Destination;
use headwater_sync::source::{Remembered, Source};
use headwater_sync::uplink::Leg;
use headwater_sync::{MirrorStatus, Uplinks};
use tokio::sync::watch;

/// How long anything may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A nats-server that ends with the test.
pub(crate) struct Hub {
    server: Child,
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    binary: PathBuf,
}

impl Hub {
    pub(crate) async fn start() -> Hub {
        Hub::start_with("").await
    }

    /// `extra` is appended to the server's configuration.
    pub(crate) async fn start_with(extra: &str) -> Hub {
        let binary = std::env::var_os("HEADWATER_NATS_SERVER").map(PathBuf::from).expect(
            "set HEADWATER_NATS_SERVER to a nats-server binary (tests/run installs one): these tests need a real hub",
        );
        Hub::start_binary(&binary, extra).await
    }

    pub(crate) async fn start_binary(binary: &Path, extra: &str) -> Hub {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // The hub picks its own port the first time: two tests that look for a free one may find the same.
        write_config(dir.path(), "-1", extra);
        let server = Hub::spawn(binary, dir.path());
        let mut hub = Hub { server, dir, port: 0, binary: binary.to_owned() };
        hub.port = until("the hub says its port", async || {
            let mut files = std::fs::read_dir(hub.dir.path()).ok()?.filter_map(Result::ok).map(|entry| entry.path());
            let ports = files.find(|path| path.extension().is_some_and(|extension| extension == "ports"))?;
            let text = std::fs::read_to_string(ports).ok()?;
            let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
            ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
        })
        .await;
        write_config(hub.dir.path(), &hub.port.to_string(), extra);
        hub.listening().await;
        hub
    }

    fn spawn(binary: &Path, dir: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("hub.log")).expect("a log file");
        Command::new(binary)
            .arg("-c")
            .arg(dir.join("hub.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the nats-server starts")
    }

    async fn listening(&self) {
        until("the hub listens", async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill().expect("the server was running");
        self.server.wait().expect("a killed child can be waited for");
    }

    pub(crate) async fn restart(&mut self) {
        self.server = Hub::spawn(&self.binary, self.dir.path());
        self.listening().await;
    }

    /// A client of its own, for looking at the hub.
    pub(crate) async fn client(&self) -> jetstream::Context {
        self.client_with(async_nats::ConnectOptions::new()).await
    }

    pub(crate) async fn client_with(&self, options: async_nats::ConnectOptions) -> jetstream::Context {
        jetstream::new(options.connect(self.url()).await.expect("the hub accepts the test's client"))
    }

    pub(crate) async fn make_stream(&self, name: &str) -> jetstream::Context {
        self.make(stream_config(name)).await
    }

    pub(crate) async fn make(&self, config: jetstream::stream::Config) -> jetstream::Context {
        let js = self.client().await;
        js.create_stream(config).await.expect("the hub makes a stream");
        js
    }
}

fn write_config(dir: &Path, port: &str, extra: &str) {
    let config = format!(
        "port: {port}\nhost: 127.0.0.1\nserver_name: hub\nports_file_dir: {dir:?}\njetstream: {{ store_dir: {:?} }}\n{extra}\n",
        dir.join("js"),
    );
    std::fs::write(dir.join("hub.conf"), config).expect("the temporary directory is writable");
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Already dead is fine.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

pub(crate) fn stream_config(name: &str) -> jetstream::stream::Config {
    jetstream::stream::Config {
        name: name.to_owned(),
        subjects: vec!["edge.*.s.>".to_owned()],
        allow_atomic_publish: true,
        ..Default::default()
    }
}

/// Waits for something to come true.
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A copy in the hub, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    pub(crate) uid: String,
    pub(crate) gap: Option<(u64, u64, String)>,
    pub(crate) payload: Bytes,
}

/// Everything a stream of the hub holds.
pub(crate) async fn contents(js: &jetstream::Context, stream: &str) -> Vec<Copy> {
    let mut stream = js.get_stream(stream).await.expect("the stream exists");
    let state = stream.info().await.expect("the stream can be asked").state.clone();
    let mut all = Vec::new();
    if state.messages == 0 {
        return all;
    }
    for sequence in state.first_sequence..=state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        let header = |name: &str| message.headers.get(name).map(|v| v.as_str().to_owned());
        let number = |name: &str| header(name).and_then(|v| v.parse().ok());
        all.push(Copy {
            subject: message.subject.to_string(),
            seq: number("Headwater-Seq").unwrap_or(0),
            uid: header("Headwater-Stream-Id").unwrap_or_default(),
            gap: number("Headwater-Gap-First")
                .zip(number("Headwater-Gap-Last"))
                .zip(header("Headwater-Gap-Reason"))
                .map(|((first, last), reason)| (first, last, reason)),
            payload: message.payload.clone(),
        });
    }
    all
}

pub(crate) fn seqs(copies: &[Copy]) -> Vec<u64> {
    copies.iter().map(|c| c.seq).collect()
}

/// A stream in memory that can be filled, trimmed and forgotten by hand.
#[derive(Debug)]
pub(crate) struct MemorySource {
    state: Mutex<State>,
    durable: watch::Sender<DurableMark>,
    encoder: Arc<Encoder>,
}

#[derive(Debug, Default)]
struct State {
    first: u64,
    messages: Vec<(u64, Bytes)>,
    last: u64,
    floor: u64,
    created: Option<String>,
}

pub(crate) const GATEWAY: &str = "gw";

impl MemorySource {
    pub(crate) fn new(uid: u64) -> Arc<MemorySource> {
        let encoder =
            Encoder::new("edge.{gateway}.{stream}.{subject}", GATEWAY, "s", StreamUid(uid)).expect("a valid template");
        Arc::new(MemorySource {
            state: Mutex::new(State { first: 1, ..State::default() }),
            durable: watch::Sender::new(DurableMark { ticket: Ticket(0), failed: false }),
            encoder: Arc::new(encoder),
        })
    }

    pub(crate) fn append(&self, payload: impl Into<Bytes>) {
        let mut state = self.state.lock().expect("not poisoned");
        state.last += 1;
        let last = state.last;
        state.messages.push((last, payload.into()));
        drop(state);
        self.durable.send_modify(|mark| mark.ticket.0 += 1);
    }

    pub(crate) fn append_numbered(&self, range: std::ops::RangeInclusive<u64>) {
        range.for_each(|n| self.append(format!("message {n}")));
    }

    /// Discards everything before `first`.
    pub(crate) fn trim(&self, first: u64) {
        let mut state = self.state.lock().expect("not poisoned");
        state.first = first;
        state.messages.retain(|(seq, _)| *seq >= first);
    }

    /// What a process that starts after a power cut may know: an older cursor.
    pub(crate) fn set_floor(&self, floor: u64) {
        self.state.lock().expect("not poisoned").floor = floor;
    }

    pub(crate) fn uid(&self) -> String {
        let m = self.encoder.gap(Seq(1), Seq(1), Absence::Purge);
        m.headers.iter().find(|(n, _)| n == "Headwater-Stream-Id").map(|(_, v)| v.clone()).expect("always there")
    }
}

fn time(nanoseconds: u64) -> MessageTime {
    MessageTime { wall: WallTime(nanoseconds), quality: ClockQuality::Synced }
}

impl Source for MemorySource {
    fn held(&self) -> Held {
        let state = self.state.lock().expect("not poisoned");
        Held { first: Seq(state.first), last: Seq(state.last) }
    }

    fn held_bytes(&self) -> u64 {
        self.state.lock().expect("not poisoned").messages.iter().map(|(_, p)| p.len() as u64).sum()
    }

    fn read(&self, from: Seq, limits: Limits) -> Result<(Vec<Entry>, Seq), String> {
        let state = self.state.lock().expect("not poisoned");
        let mut entries = Vec::new();
        let (mut next, mut bytes) = (from.0, 0);
        if next < state.first {
            entries.push(Entry::Gap { first: Seq(next), last: Seq(state.first - 1), reason: Absence::Retention });
            next = state.first;
        }
        let begin = usize::try_from(next - state.first).expect("small");
        for (seq, payload) in state.messages.iter().skip(begin) {
            if !entries.is_empty() && (entries.len() >= limits.msgs || bytes >= limits.bytes) {
                break;
            }
            bytes += payload.len();
            next = seq + 1;
            let subject = format!("t.{}", seq % 3);
            let message = self.encoder.message(Seq(*seq), time(*seq), &subject, None, payload.clone());
            entries.push(Entry::Message { seq: Seq(*seq), outgoing: message.expect("a short subject") });
        }
        Ok((entries, Seq(next)))
    }

    fn time_of(&self, from: Seq) -> Option<WallTime> {
        Some(WallTime(from.0))
    }

    fn now(&self) -> WallTime {
        WallTime(self.state.lock().expect("not poisoned").last)
    }

    fn floor(&self) -> Seq {
        Seq(self.state.lock().expect("not poisoned").floor)
    }

    fn advance(&self, floor: Seq) {
        let mut state = self.state.lock().expect("not poisoned");
        assert!(floor.0 <= state.last, "the cursor may not pass the log");
        state.floor = state.floor.max(floor.0);
    }

    fn lost(&self) -> u64 {
        0
    }

    fn remember(&self, created: &str) -> Remembered {
        self.state.lock().expect("not poisoned").created = Some(created.to_owned());
        Remembered::Yes
    }

    fn remembered(&self) -> Result<Option<String>, String> {
        Ok(self.state.lock().expect("not poisoned").created.clone())
    }

    fn durable(&self) -> watch::Receiver<DurableMark> {
        self.durable.subscribe()
    }
}

pub(crate) fn uplink_to(servers: &[String]) -> Uplink {
    Uplink {
        name: "hub".into(),
        servers: servers.to_vec(),
        auth: UplinkAuth::Anonymous,
        tls: UplinkTls::default(),
        mirrors: vec![Mirror {
            stream: "s".into(),
            into: "S".into(),
            subject: "edge.{gateway}.{stream}.{subject}".into(),
            create: None,
        }],
        batch_msgs: 1_000,
        batch_bytes: 1 << 20,
        batch_delay: Duration::from_millis(20),
        ack_timeout: Duration::from_secs(2),
        max_backoff: Duration::from_millis(500),
    }
}

/// A running uplink over one source in memory.
pub(crate) struct Running {
    pub(crate) uplinks: Uplinks,
    pub(crate) source: Arc<MemorySource>,
    _shutdown: watch::Sender<bool>,
}

pub(crate) fn run(config: &Uplink, source: &Arc<MemorySource>) -> Running {
    let mirror = &config.mirrors[0];
    let create = mirror.create.clone().map(|c| (c, vec![Encoder::shared_subject(&mirror.subject, &mirror.stream)]));
    let leg = Leg {
        stream: mirror.stream.clone(),
        uid: StreamUid(u64::from_str_radix(&source.uid(), 16).expect("hexadecimal digits")),
        encoder: Arc::clone(&source.encoder),
        destination: Destination { stream: mirror.into.clone(), filter: source.encoder.filter(), create },
        source: Arc::clone(source) as Arc<dyn Source>,
    };
    let (shutdown, stop) = watch::channel(false);
    let mut uplinks = Uplinks::none();
    uplinks.add(config, GATEWAY, vec![leg], stop);
    Running { uplinks, source: Arc::clone(source), _shutdown: shutdown }
}

impl Running {
    pub(crate) fn mirror(&self) -> MirrorStatus {
        self.uplinks.status().remove(0).mirrors.remove(0)
    }

    /// Waits until the hub confirmed everything.
    pub(crate) async fn caught_up(&self) -> MirrorStatus {
        let last = self.source.held().last.0;
        until(&format!("confirmed up to {last}: {:?}", self.uplinks.status()), async || {
            Some(self.mirror()).filter(|m| m.confirmed_seq >= last && m.state == "streaming")
        })
        .await
    }

    pub(crate) async fn troubled(&self, kind: &str) -> String {
        until(&format!("trouble {kind}: {:?}", self.uplinks.status()), async || {
            let error = self.mirror().last_error?;
            (error.kind == kind).then_some(error.text)
        })
        .await
    }

    pub(crate) async fn link_troubled(&self, kind: &str) -> String {
        until(&format!("link trouble {kind}: {:?}", self.uplinks.status()), async || {
            let error = self.uplinks.status().remove(0).last_error?;
            (error.kind == kind).then_some(error.text)
        })
        .await
    }
}
