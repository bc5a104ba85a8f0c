//! The shell around the forwarders: one task per uplink, one connection, one forwarder per mirror. It decides nothing but
//! which server to try next; it carries inputs and outputs and keeps the figures.
//!
//! In memory per mirror: one batch underway and one being prepared, each at most `batch_bytes` and one message.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use headwater_broker::clock::{Clock, Monotonic, SystemClock, WallTime};
use headwater_broker::config::{self, Uplink};
use headwater_broker::log::{DurableMark, Log, Seq, StreamUid};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, error, info, warn};

use crate::backoff::{Backoff, Jitter};
use crate::batch::Limits;
use crate::encode::{Encoder, rfc3339};
use crate::forwarder::{Counters, Doing, Forwarder, Input, News, Now, Output, Settings};
use crate::hub::{Delivery, Trouble};
use crate::jetstream::{Connection, Destination, LinkTrouble, Target};
use crate::source::{LogSource, Remembered, Source};
use crate::status::{LastError, MirrorStatus, TroubleCount, UplinkStatus};

/// How often a busy log is asked again, and figures that nobody announces are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// What a batch underway may still take at shutdown. Nothing is lost if it takes longer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// All uplinks of the gateway.
#[derive(Debug)]
pub struct Uplinks {
    stop: watch::Sender<bool>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    board: Arc<Board>,
    task: JoinHandle<()>,
}

/// Why the uplinks did not start: the operator's mistake, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError(pub String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for StartError {}

/// One mirror to be run: what it reads and where it sends.
#[derive(Debug)]
pub struct Leg {
    /// Our stream's name.
    pub stream: String,
    /// Its identity.
    pub uid: StreamUid,
    /// Makes its messages.
    pub encoder: Arc<Encoder>,
    /// Where to.
    pub destination: Destination,
    /// What it reads.
    pub source: Arc<dyn Source>,
}

impl Uplinks {
    /// Starts a task per uplink on the current runtime; with none configured, nothing runs. They end when `shutdown`
    /// becomes true or [`Uplinks::shutdown`] is called.
    ///
    /// # Errors
    /// A mirror names a stream that does not exist, or its subject template is not valid.
    pub fn start(
        config: &[Uplink],
        gateway: &str,
        log: &Log,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<Uplinks, StartError> {
        let mut uplinks = Uplinks { stop: watch::Sender::new(false), running: Vec::new() };
        for uplink in config {
            let legs = legs(uplink, gateway, log)?;
            uplinks.add(uplink, gateway, legs, shutdown.clone());
        }
        Ok(uplinks)
    }

    /// Starts one uplink over mirrors of any source.
    pub fn add(&mut self, uplink: &Uplink, gateway: &str, legs: Vec<Leg>, shutdown: watch::Receiver<bool>) {
        let board = Arc::new(Board::new(uplink, &legs));
        let runner = Runner::new(uplink, gateway, legs, Arc::clone(&board));
        let task = tokio::spawn(runner.run(stopping(shutdown, self.stop.subscribe())));
        self.running.push(Running { board, task });
    }

    /// No uplinks.
    #[must_use]
    pub fn none() -> Uplinks {
        Uplinks { stop: watch::Sender::new(false), running: Vec::new() }
    }

    /// What they are doing; cheap, never waits for the disk or the network.
    #[must_use]
    pub fn status(&self) -> Vec<UplinkStatus> {
        self.running.iter().map(|running| running.board.status()).collect()
    }

    /// Lets batches underway finish, for at most two seconds, and ends the tasks.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        for running in self.running {
            if let Err(e) = running.task.await {
                error!(error = %e, "an uplink's task did not end in order");
            }
        }
    }
}

async fn stopping(mut outer: watch::Receiver<bool>, mut own: watch::Receiver<bool>) {
    // A sender that is gone cannot ask for anything any more; the other one still can.
    let outer = async {
        if outer.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let own = async {
        // Our own sender lives as long as `Uplinks`; without it nobody wants us to run.
        let _ = own.wait_for(|stop| *stop).await;
    };
    tokio::select! {
        () = outer => {}
        () = own => {}
    }
}

fn legs(uplink: &Uplink, gateway: &str, log: &Log) -> Result<Vec<Leg>, StartError> {
    let mut legs = Vec::with_capacity(uplink.mirrors.len());
    for mirror in &uplink.mirrors {
        let refuse = |text: String| StartError(format!("uplink \"{}\": {text}", uplink.name));
        let stream = log.stream(&mirror.stream).ok_or_else(|| refuse(format!("no stream \"{}\"", mirror.stream)))?;
        let uid = log.stream_uid(stream);
        let encoder = Encoder::new(&mirror.subject, gateway, &mirror.stream, uid).map_err(refuse)?;
        let encoder = Arc::new(encoder);
        let create = mirror.create.clone().map(|create| {
            // Every gateway writes into the one stream, and so does every mirror of ours that names it.
            let same = uplink.mirrors.iter().filter(|other| other.into == mirror.into);
            let mut subjects: Vec<_> = same.flat_map(subjects_of).collect();
            subjects.sort();
            subjects.dedup();
            (create, subjects)
        });
        let destination = Destination { stream: mirror.into.clone(), filter: encoder.filter(), create };
        let cursor = format!("uplink/{}/{}/{}", uplink.name, mirror.into, mirror.stream);
        let source = Arc::new(LogSource::new(log.clone(), stream, cursor, Arc::clone(&encoder)));
        legs.push(Leg { stream: mirror.stream.clone(), uid, encoder, destination, source });
    }
    Ok(legs)
}

/// The subjects that the hub's stream must take for this mirror.
fn subjects_of(mirror: &config::Mirror) -> Vec<String> {
    match &mirror.create {
        Some(create) if !create.subjects.is_empty() => create.subjects.clone(),
        _ => vec![Encoder::shared_subject(&mirror.subject, &mirror.stream)],
    }
}

/// What the task writes down for those who ask.
#[derive(Debug)]
struct Board {
    link: Mutex<UplinkStatus>,
    mirrors: Vec<(Arc<dyn Source>, Mutex<Shown>)>,
}

#[derive(Debug, Default)]
struct Shown {
    status: MirrorStatus,
    oldest: Option<(Seq, WallTime)>,
}

impl Board {
    fn new(uplink: &Uplink, legs: &[Leg]) -> Self {
        let link = UplinkStatus { name: uplink.name.clone(), state: "connecting", ..UplinkStatus::default() };
        let mirrors = legs.iter().map(|leg| {
            let status = MirrorStatus {
                stream: leg.stream.clone(),
                into: leg.destination.stream.clone(),
                state: "offline",
                confirmed_seq: leg.source.floor().0,
                ..MirrorStatus::default()
            };
            (Arc::clone(&leg.source), Mutex::new(Shown { status, oldest: None }))
        });
        Self { link: Mutex::new(link), mirrors: mirrors.collect() }
    }

    fn link(&self, change: impl FnOnce(&mut UplinkStatus)) {
        change(&mut self.link.lock().expect("no holder of this lock panics"));
    }

    fn mirror(&self, index: usize, change: impl FnOnce(&mut Shown)) {
        change(&mut self.mirrors[index].1.lock().expect("no holder of this lock panics"));
    }

    fn status(&self) -> UplinkStatus {
        let mut status = self.link.lock().expect("no holder of this lock panics").clone();
        let mirrors = self.mirrors.iter().map(|(source, shown)| {
            let shown = shown.lock().expect("no holder of this lock panics");
            let mut status = shown.status.clone();
            let held = source.held();
            status.backlog_msgs = held.last.0.saturating_sub(status.confirmed_seq);
            let msgs = (held.last.0 + 1).saturating_sub(held.first.0);
            let bytes = u128::from(source.held_bytes()) * u128::from(status.backlog_msgs.min(msgs));
            status.backlog_bytes = u64::try_from(bytes / u128::from(msgs.max(1))).unwrap_or(u64::MAX);
            status.lost_msgs = source.lost();
            status.oldest_unsent_age = shown
                .oldest
                .filter(|(seq, _)| status.backlog_msgs > 0 && seq.0 > status.confirmed_seq)
                .map(|(_, stored)| Duration::from_nanos(SystemClock.wall().0.saturating_sub(stored.0)));
            status
        });
        status.mirrors = mirrors.collect();
        status
    }
}

struct Runner {
    name: String,
    servers: Vec<String>,
    next_server: usize,
    target: Target,
    backoff: Backoff,
    random: u64,
    ack_timeout: Duration,
    board: Arc<Board>,
    legs: Vec<Leg>,
    settings: Settings,
    mirrors: Vec<Mirror>,
    /// Questions and batches; abandoned with their connection.
    asked: JoinSet<(usize, Input)>,
    /// Reads of the log, which cannot be abandoned: at most one given up and one current per mirror.
    reads: JoinSet<(usize, Input)>,
    ages: JoinSet<(usize, Option<(Seq, WallTime)>)>,
    /// Since when a request was not answered in time, until the link was judged for it.
    suspected: Option<Monotonic>,
}

struct Mirror {
    forwarder: Forwarder,
    outputs: VecDeque<Output>,
    durable: watch::Receiver<DurableMark>,
    told_delivery: Option<Delivery>,
    troubles: Vec<TroubleCount>,
    skipped: u64,
}

/// Why the inner loop ended.
enum End {
    Stop,
    Link(LinkTrouble),
}

impl Runner {
    fn new(uplink: &Uplink, gateway: &str, legs: Vec<Leg>, board: Arc<Board>) -> Self {
        let bytes = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let settings = Settings {
            // The hub takes 1,000 at most.
            batch: Limits { msgs: bytes(uplink.batch_msgs).clamp(1, 1_000), bytes: bytes(uplink.batch_bytes).max(1) },
            batch_delay: uplink.batch_delay,
            ack_timeout: uplink.ack_timeout,
            max_backoff: uplink.max_backoff,
        };
        let target = Target {
            auth: uplink.auth.clone(),
            tls: uplink.tls.clone(),
            gateway: gateway.to_owned(),
            timeout: uplink.ack_timeout,
        };
        // Any seed will do where there is no entropy: it only spreads pauses.
        let random = getrandom::u64().unwrap_or(0x9e37_79b9_7f4a_7c15) | 1;
        Self {
            name: uplink.name.clone(),
            servers: uplink.servers.clone(),
            next_server: usize::try_from(random % uplink.servers.len().max(1) as u64).unwrap_or(0),
            target,
            backoff: Backoff::new(uplink.max_backoff),
            random,
            ack_timeout: uplink.ack_timeout,
            board,
            legs,
            settings,
            mirrors: Vec::new(),
            asked: JoinSet::new(),
            reads: JoinSet::new(),
            ages: JoinSet::new(),
            suspected: None,
        }
    }

    async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = Box::pin(stop.fuse());
        info!(uplink = self.name, mirrors = self.legs.len(), "uplink started");
        if self.legs.is_empty() {
            warn!(uplink = self.name, "uplink mirrors no stream");
        } else if self.recall(&mut stop).await {
            loop {
                let Some(connection) = self.connect(&mut stop).await else { break };
                let server = connection.server().to_owned();
                info!(uplink = self.name, server, "uplink connected");
                self.board.link(|link| {
                    link.state = "up";
                    link.server = Some(server.clone());
                    link.connects += 1;
                });
                let end = self.serve(&connection, &mut stop).await;
                self.asked.abort_all();
                while self.asked.join_next().await.is_some() {}
                for index in 0..self.mirrors.len() {
                    self.input(index, Input::LinkDown, None);
                    // What still waits behind a busy log belongs to the link that is gone, but for our position.
                    self.mirrors[index].outputs.retain(|output| {
                        matches!(output, Output::Remember { .. } | Output::Advance { .. } | Output::Tell(_))
                    });
                }
                match end {
                    End::Stop => break,
                    End::Link(trouble) => {
                        warn!(uplink = self.name, server, error = %trouble, "uplink lost its link");
                        self.board.link(|link| {
                            link.server = None;
                            link.last_error = Some(last_error(trouble.kind(), &trouble));
                        });
                        if !self.pause(&mut stop).await {
                            break;
                        }
                    }
                }
            }
        }
        self.board.link(|link| {
            link.state = "stopped";
            link.server = None;
        });
        info!(uplink = self.name, "uplink stopped");
    }

    fn now(&mut self) -> Now {
        // xorshift64 (Marsaglia 2003): enough to spread pauses.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let jitter = u32::try_from(self.random >> 32).expect("the upper half of 64 bits");
        Now { at: SystemClock.monotonic(), jitter: Jitter(jitter) }
    }

    /// Makes the forwarders from what the log remembers. False: stop.
    async fn recall(&mut self, stop: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        let mut index = 0;
        while index < self.legs.len() {
            let source = Arc::clone(&self.legs[index].source);
            let remembered = tokio::task::spawn_blocking(move || source.remembered()).await;
            let trouble = match remembered {
                Ok(Ok(created)) => {
                    let leg = &self.legs[index];
                    self.mirrors.push(Mirror {
                        forwarder: Forwarder::new(
                            self.settings,
                            Arc::clone(&leg.encoder),
                            leg.uid,
                            leg.source.floor(),
                            created,
                            leg.source.held(),
                        ),
                        outputs: VecDeque::new(),
                        durable: leg.source.durable(),
                        told_delivery: None,
                        troubles: Vec::new(),
                        skipped: 0,
                    });
                    index += 1;
                    continue;
                }
                Ok(Err(text)) => Trouble::LogUnreadable(text),
                Err(e) => Trouble::LogUnreadable(e.to_string()),
            };
            error!(uplink = self.name, stream = self.legs[index].stream, error = %trouble, "uplink cannot read the log");
            self.board.mirror(index, |shown| {
                shown.status.state = "waiting";
                shown.status.last_error = Some(last_error(trouble.kind(), &trouble));
            });
            if !self.pause(stop).await {
                return false;
            }
        }
        self.backoff.reset();
        true
    }

    /// Tries one server after the other until there is a link. `None`: stop.
    async fn connect(&mut self, stop: &mut (impl Future<Output = ()> + Unpin)) -> Option<Connection> {
        let mut told = None;
        let mut tried = 0;
        loop {
            let index = self.next_server % self.servers.len().max(1);
            let server = self.servers.get(index).cloned().unwrap_or_default();
            self.next_server = index + 1;
            self.board.link(|link| link.state = "connecting");
            let opened = tokio::select! {
                opened = Connection::open(&server, &self.target) => opened,
                () = &mut *stop => return None,
            };
            let trouble = match opened {
                Ok(connection) => return Some(connection),
                Err(trouble) => trouble,
            };
            if told != Some(trouble.kind()) {
                told = Some(trouble.kind());
                warn!(uplink = self.name, error = %trouble, "uplink has no link, trying again");
            } else {
                debug!(uplink = self.name, error = %trouble, "uplink has no link, trying again");
            }
            self.board.link(|link| {
                link.failed_connects += 1;
                link.last_error = Some(last_error(trouble.kind(), &trouble));
            });
            tried += 1;
            if tried % self.servers.len().max(1) == 0 && !self.pause(stop).await {
                return None;
            }
        }
    }

    /// Waits before the next attempt. False: stop.
    async fn pause(&mut self, stop: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        let jitter = self.now().jitter;
        let pause = self.backoff.pause(jitter);
        self.board.link(|link| link.state = "waiting");
        let mut ages = tokio::time::interval(HOUSEKEEPING);
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                () = &mut *stop => return false,
                _ = ages.tick() => self.look_for_oldest(),
                Some(Ok((index, oldest))) = self.ages.join_next() => self.board.mirror(index, |shown| shown.oldest = oldest),
            }
        }
    }

    /// Carries inputs and outputs while the link lives.
    async fn serve(&mut self, connection: &Connection, stop: &mut (impl Future<Output = ()> + Unpin)) -> End {
        let mut heard = (connection.heard_bytes(), SystemClock.monotonic());
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        let lost = connection.lost();
        tokio::pin!(lost);
        for index in 0..self.mirrors.len() {
            self.mirrors[index].durable.mark_unchanged();
            let held = self.legs[index].source.held();
            self.input(index, Input::Held(held), Some(connection));
            self.input(index, Input::LinkUp { max_payload: connection.max_payload() }, Some(connection));
        }
        loop {
            let deadline = self.mirrors.iter().filter_map(|m| m.forwarder.deadline()).min();
            let until_deadline = deadline.map(|at| at.since(SystemClock.monotonic()));
            let event = {
                let durable = self.mirrors.iter_mut().map(|m| Box::pin(m.durable.changed()));
                let durable = async {
                    // A log that is gone says nothing any more; the link's end or the shutdown comes next.
                    match select_all(durable).await {
                        (Ok(()), index, _) => index,
                        (Err(_), ..) => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = &mut *stop => return self.last_words().await,
                    trouble = &mut lost => return End::Link(trouble),
                    Some(done) = self.asked.join_next() => Event::Done(done.ok()),
                    Some(done) = self.reads.join_next() => Event::Done(done.ok()),
                    Some(Ok((index, oldest))) = self.ages.join_next() => {
                        self.board.mirror(index, |shown| shown.oldest = oldest);
                        continue;
                    }
                    index = durable => Event::Durable(index),
                    () = wait(until_deadline) => Event::Deadline,
                    _ = housekeeping.tick() => Event::Housekeeping,
                }
            };
            let bytes = connection.heard_bytes();
            if bytes != heard.0 {
                heard = (bytes, SystemClock.monotonic());
            }
            match event {
                Event::Done(Some((index, input))) => {
                    if matches!(input, Input::Answered { answer: Ok(_), .. }) {
                        self.backoff.reset();
                    }
                    self.input(index, input, Some(connection));
                }
                // A task that panicked shows as silence; it cannot be told which mirror's it was.
                Event::Done(None) => error!(uplink = self.name, "a task of an uplink failed"),
                Event::Durable(index) => {
                    let held = self.legs[index].source.held();
                    self.input(index, Input::Held(held), Some(connection));
                }
                Event::Deadline => (0..self.mirrors.len()).for_each(|i| self.input(i, Input::Tick, Some(connection))),
                Event::Housekeeping => {
                    self.look_for_oldest();
                    (0..self.mirrors.len()).for_each(|i| self.carry_out(i, Some(connection)));
                }
            }
            if let Some(since) = self.suspected.take()
                && heard.1 < since
            {
                return End::Link(LinkTrouble::TimedOut(connection.server().to_owned()));
            }
        }
    }

    /// Lets what is underway be answered, and starts nothing.
    async fn last_words(&mut self) -> End {
        let answered = async {
            while let Some(done) = self.asked.join_next().await {
                let Ok((index, input)) = done else { continue };
                let now = Now { at: SystemClock.monotonic(), jitter: Jitter::default() };
                let mirror = &mut self.mirrors[index];
                mirror.forwarder.handle(now, input);
                while let Some(output) = mirror.forwarder.poll() {
                    if let Output::Advance { floor } = output {
                        self.legs[index].source.advance(floor);
                    }
                }
            }
        };
        // Whatever was not answered in time, the hub will tell at the next start.
        let _ = tokio::time::timeout(LAST_WORDS, answered).await;
        End::Stop
    }

    fn input(&mut self, index: usize, input: Input, connection: Option<&Connection>) {
        let now = self.now();
        let trouble = match &input {
            Input::Answered { answer: Err(trouble), .. } | Input::Sent { result: Err(trouble), .. } => {
                Some(trouble.clone())
            }
            _ => None,
        };
        if let Some(trouble) = trouble {
            self.count(index, &trouble);
        }
        self.mirrors[index].forwarder.handle(now, input);
        self.carry_out(index, connection);
    }

    fn count(&mut self, index: usize, trouble: &Trouble) {
        let troubles = &mut self.mirrors[index].troubles;
        let kind = trouble.kind();
        match troubles.iter_mut().find(|count| count.kind == kind) {
            Some(count) => count.count += 1,
            // As many entries as there are kinds of trouble.
            None => troubles.push(TroubleCount { kind, count: 1 }),
        }
        let shown = last_error(kind, trouble);
        let troubles = troubles.clone();
        self.board.mirror(index, |board| {
            board.status.last_error = Some(shown);
            board.status.troubles = troubles;
        });
    }

    fn carry_out(&mut self, index: usize, connection: Option<&Connection>) {
        while let Some(output) = self.mirrors[index].forwarder.poll() {
            self.mirrors[index].outputs.push_back(output);
        }
        while let Some(output) = self.mirrors[index].outputs.pop_front() {
            match output {
                Output::Remember { created } => match self.legs[index].source.remember(&created) {
                    Remembered::Yes => {}
                    Remembered::Busy => {
                        // IMPORTANT: nothing may overtake it; housekeeping tries again.
                        self.mirrors[index].outputs.push_front(Output::Remember { created });
                        break;
                    }
                    Remembered::Failed(text) => {
                        error!(uplink = self.name, error = text, "the log has failed");
                        self.mirrors[index].outputs.push_front(Output::Remember { created });
                        break;
                    }
                },
                Output::Advance { floor } => self.legs[index].source.advance(floor),
                Output::Suspect { since } => {
                    self.count(index, &Trouble::Silent);
                    // Judged by the loop, which knows whether the link is as silent.
                    self.suspected = Some(self.suspected.map_or(since, |earlier| earlier.min(since)));
                }
                Output::Tell(news) => self.tell(index, &news),
                Output::Ask { id } => {
                    if let Some(connection) = connection.cloned() {
                        let to = self.legs[index].destination.clone();
                        let limit = self.ack_timeout * 2;
                        self.asked.spawn(async move {
                            let answer = overdue(limit, connection.ask(&to)).await;
                            (index, Input::Answered { id, answer })
                        });
                    }
                }
                Output::Send { id, batch } => {
                    if let Some(connection) = connection.cloned() {
                        let to = self.legs[index].destination.clone();
                        let limit = self.ack_timeout * 2;
                        self.asked.spawn(async move {
                            let result = overdue(limit, connection.send(&to, batch)).await;
                            (index, Input::Sent { id, result })
                        });
                    }
                }
                Output::Read { id, from, limits } => {
                    let source = Arc::clone(&self.legs[index].source);
                    self.reads.spawn_blocking(move || (index, Input::Read { id, result: source.read(from, limits) }));
                }
            }
        }
        self.show(index);
    }

    fn show(&mut self, index: usize) {
        let mirror = &self.mirrors[index];
        let forwarder = &mirror.forwarder;
        let state = match forwarder.doing() {
            Doing::Offline => "offline",
            Doing::Asking => "asking",
            Doing::Streaming => "streaming",
            Doing::Waiting(_) => "waiting",
        };
        let alarm = forwarder.finding().filter(|finding| finding.is_alarming()).map(ToString::to_string);
        self.board.mirror(index, |shown| {
            let status = &mut shown.status;
            status.state = state;
            status.alarm = alarm;
            status.confirmed_seq = forwarder.confirmed().0;
            status.hub_seq = forwarder.hub_seq().map(|seq| seq.0).or(status.hub_seq);
            status.promise = forwarder.delivery().map(Delivery::promise).or(status.promise);
            status.counters = forwarder.counters();
        });
        let Counters { skipped, .. } = forwarder.counters();
        if skipped > mirror.skipped {
            if mirror.skipped == 0 {
                let stream = &self.legs[index].stream;
                error!(uplink = self.name, stream, "messages are not mirrored: the hub has their sequences already");
            }
            self.mirrors[index].skipped = skipped;
        }
    }

    fn tell(&mut self, index: usize, news: &News) {
        let (uplink, stream) = (self.name.as_str(), self.legs[index].stream.as_str());
        match news {
            News::Resumed { finding, next, delivery } => {
                let promise = delivery.promise();
                if finding.is_alarming() {
                    warn!(uplink, stream, %next, promise, "{finding}");
                } else {
                    info!(uplink, stream, %next, promise, "{finding}");
                }
                if self.mirrors[index].told_delivery != Some(*delivery) {
                    self.mirrors[index].told_delivery = Some(*delivery);
                    match delivery {
                        Delivery::Atomic => {}
                        Delivery::Single => warn!(
                            uplink,
                            stream,
                            promise,
                            "the hub's stream does not allow atomic batches: one message per round trip; \
                             set allow_atomic on it (nats-server 2.12 or newer) for full speed"
                        ),
                        Delivery::Window => warn!(
                            uplink,
                            stream,
                            promise,
                            "this hub cannot fence messages: after a failure some may arrive twice or out of order \
                             beyond its dedupe window; nats-server 2.12 or newer makes the copy exact"
                        ),
                    }
                }
            }
            News::Troubled(trouble) => {
                warn!(uplink, stream, error = %trouble, "the hub does not take messages, trying again")
            }
            News::Recovered => info!(uplink, stream, "the hub takes messages again"),
            News::Gap { first, last, reason } => {
                warn!(uplink, stream, %first, %last, reason = reason.as_str(), "the hub was told that messages will not come");
            }
        }
    }

    /// Looks up when the oldest unsent messages were stored, where that is not known yet.
    fn look_for_oldest(&mut self) {
        if !self.ages.is_empty() {
            return;
        }
        for (index, leg) in self.legs.iter().enumerate() {
            let next = self.mirrors.get(index).map_or(leg.source.floor(), |m| m.forwarder.confirmed()).next();
            let mut known = false;
            self.board.mirror(index, |shown| known = shown.oldest.is_some_and(|(seq, _)| seq == next));
            if known || leg.source.held().last < next {
                continue;
            }
            let source = Arc::clone(&leg.source);
            self.ages.spawn_blocking(move || (index, source.time_of(next).map(|time| (next, time))));
        }
    }
}

enum Event {
    Done(Option<(usize, Input)>),
    Durable(usize),
    Deadline,
    Housekeeping,
}

async fn wait(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// The forwarder gives up earlier; this only ends what is then still waiting.
async fn overdue<T>(limit: Duration, request: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(limit, request).await.unwrap_or(Err(Trouble::Silent))
}

fn last_error(kind: &'static str, text: &dyn std::fmt::Display) -> LastError {
    LastError { kind, text: text.to_string(), at: rfc3339(SystemClock.wall()) }
}
