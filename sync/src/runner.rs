//! The task of one uplink: keeps a connection, carries inputs and outputs of its forwarders, tells people. It decides nothing
//! but which server to try next.
//!
//! In memory per mirror: one batch underway and one being prepared, each at most `batch_bytes` and one message.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::select_all;
use headwater_broker::clock::{Clock, Monotonic, SystemClock};
use headwater_broker::config::Uplink;
use headwater_broker::log::DurableMark;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, info, warn};

use crate::backoff::{Backoff, Jitter};
use crate::batch::Limits;
use crate::board::{Board, last_error};
use crate::forwarder::{Counters, Doing, Forwarder, Input, News, Now, Output, Settings};
use crate::hub::{Delivery, Trouble};
use crate::jetstream::{Connection, LinkTrouble, Target};
use crate::source::Remembered;
use crate::status::TroubleCount;
use crate::uplink::Leg;

/// How often a busy log is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// What a batch underway may still take at shutdown. Nothing is lost if it takes longer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// See the module's text.
pub(crate) struct Runner {
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
    /// Ready to run.
    pub(crate) fn new(uplink: &Uplink, gateway: &str, legs: Vec<Leg>, board: Arc<Board>) -> Self {
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
            suspected: None,
        }
    }

    /// Runs until `stop` resolves.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
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
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = &mut *stop => false,
        }
    }

    /// Carries inputs and outputs while the link lives.
    async fn serve(&mut self, connection: &Connection, stop: &mut (impl Future<Output = ()> + Unpin)) -> End {
        let mut heard = (connection.heard_bytes(), SystemClock.monotonic());
        let mut ask_again: Option<Instant> = None;
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
            let log_was_busy = self.mirrors.iter().any(|mirror| !mirror.outputs.is_empty());
            ask_again = log_was_busy.then(|| ask_again.unwrap_or_else(|| Instant::now() + ASK_AGAIN));
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
                    index = durable => Event::Durable(index),
                    () = wait(until_deadline) => Event::Deadline,
                    () = wait(ask_again.map(|at| at.saturating_duration_since(Instant::now()))) => Event::AskAgain,
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
                Event::AskAgain => {
                    ask_again = None;
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
            // Silence was counted when the forwarder lost patience.
            Input::Answered { answer: Err(Trouble::Silent), .. } | Input::Sent { result: Err(Trouble::Silent), .. } => {
                None
            }
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
                        // IMPORTANT: nothing may overtake it; the loop asks again.
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
}

enum Event {
    Done(Option<(usize, Input)>),
    Durable(usize),
    Deadline,
    AskAgain,
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
