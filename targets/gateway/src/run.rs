//! `headwater run`: starts the parts in order, watches over them, ends them in order.
//!
//! Start: what can be refused is looked at before anything is touched (configuration, filesystem, ports); then the log,
//! the broker, the uplinks, HTTP. End, on SIGTERM or SIGINT: no new clients, appends and their acknowledgements are
//! finished, batches underway too, the log is closed with its cursors. All of it within [`STOP_LIMIT`]; a second signal
//! ends at once, which is safe at any moment. SIGHUP puts users, rights and certificates in force as their files are now, reads the rest of
//! the configuration again and says what a restart would change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use headwater_broker::auth::{Auth, AuthFiles};
use headwater_broker::clock::{Clock, SystemClock, TrustedClock};
use headwater_broker::config::{Config, Loaded};
use headwater_broker::log::{Log, LogConfig, OpenReport, StreamConfig};
use headwater_broker::router::internal_streams;
use headwater_broker::server::{Breather, Broker, probe};
use headwater_sync::Uplinks;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::Api;
use crate::cli::{LogFormat, RunArgs};
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::health::Health;
use crate::notify::Notify;
use crate::out::say;
use crate::{check, disk, http, logging, settings, summary};

/// From the signal to the end of the process. systemd and docker wait at least this long before they kill.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// The broker's share of it; uplinks take two seconds at most, and closing the log a sync or two.
const BROKER_STOP_LIMIT: Duration = Duration::from_secs(5);
/// The same after the log has failed: nothing that a connection waits for will come any more.
const BROKER_CUT_LIMIT: Duration = Duration::from_millis(500);
/// More workers than this only cost memory: the work is one sync after the other.
const MAX_WORKERS: usize = 4;
/// Our deepest futures need a small part of it, also unoptimised.
const STACK_BYTES: usize = 512 << 10;
/// Log reads for sessions, uplinks and pages; a thread that has nothing to do goes away.
const MAX_BLOCKING_THREADS: usize = 8;

/// Runs until a signal or a failure.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    logging::start(args.log_format, &args.log_level)?;
    let loaded = settings::load(&args.settings)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let breather = Breather::default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(STACK_BYTES)
        .thread_name("headwater")
        .on_thread_park({
            let breather = breather.clone();
            move || breather.breathe()
        })
        .enable_all()
        .build()
        .map_err(Failure::runtime)?;
    let result = runtime.block_on(serve(args, loaded, breather));
    // Whatever is left is a read of a page that nobody waits for.
    runtime.shutdown_background();
    result
}

async fn serve(args: &RunArgs, loaded: Loaded, breather: Breather) -> Result<(), Failure> {
    let Loaded { mut config, notes } = loaded;
    // From here on a signal ends in order: none is lost while the log opens.
    let mut signals = Signals::new()?;
    let notify = Notify::from_env();
    let budget = disk::budget(&config.disk, &config.gateway.data_dir)?;
    let auth = check::auth(&config)?;
    let as_configured = config.clone();
    let http = listen(&mut config).await?;
    for note in notes.iter().chain(&budget.lowered).chain(&check::unreadable_files(&config)) {
        warn!("{note}");
    }
    let Running { broker, gateway } = tokio::select! {
        running = start(&mut config, auth, budget.max_bytes, breather) => running?,
        name = signals.end() => {
            // Nothing was taken from anybody yet, and a log may be left at any moment.
            info!(signal = name, "stopped while starting");
            std::process::exit(0);
        }
    };
    let stop = watch::Sender::new(false);
    let pages = http.map(|listener| {
        let api = Arc::new(Api(Arc::clone(&gateway)));
        tokio::spawn(http::serve(listener, api, stop.subscribe()))
    });
    announce(args.log_format, &gateway.config, budget.max_bytes)?;
    gateway.health.set_ready(true);
    notify.ready();

    let end = tokio::select! {
        end = watch_over(&gateway, &mut signals, || reload(args, &as_configured, &broker)) => end,
        never = notify.keep_alive(&gateway.log) => match never {},
    };
    notify.stopping();
    gateway.health.set_ready(false);
    let patience = match end {
        End::Asked(_) => BROKER_STOP_LIMIT,
        End::LogFailed => BROKER_CUT_LIMIT,
    };
    tokio::select! {
        done = tokio::time::timeout(STOP_LIMIT, finish(broker, &gateway, patience)) => {
            if done.is_err() {
                abandon(&format!("not everything ended within {} s", STOP_LIMIT.as_secs()));
            }
        }
        name = signals.end() => abandon(&format!("{name} again: ended at once")),
    }
    stop.send_replace(true);
    if let Some(pages) = pages {
        // It has nothing to finish, and an answer underway has no one to wait for it.
        pages.abort();
    }
    match end {
        End::Asked(name) => {
            info!(signal = name, "stopped");
            Ok(())
        }
        End::LogFailed => {
            Err(Failure::runtime("a sync of the log failed: what was acknowledged is safe, but the disk needs a look"))
        }
    }
}

/// Binds what can be refused before anything is touched. The broker binds its listeners itself, once it has its log.
async fn listen(config: &mut Config) -> Result<Option<TcpListener>, Failure> {
    let taken = |what: &str, address: &dyn std::fmt::Display, error: &std::io::Error| {
        Failure::runtime(format!("cannot listen on {address} for {what}: {error}"))
    };
    for listener in &config.listeners {
        probe(&listener.bind).await.map_err(|e| taken("mqtt", &listener.bind, &e))?;
    }
    let Some(bind) = config.http.bind else { return Ok(None) };
    let listener = TcpListener::bind(bind).await.map_err(|e| taken("http", &bind, &e))?;
    config.http.bind = Some(listener.local_addr().map_err(|e| taken("http", &bind, &e))?);
    Ok(Some(listener))
}

struct Running {
    broker: Broker,
    gateway: Arc<Gateway>,
}

async fn start(config: &mut Config, auth: Auth, max_bytes: u64, breather: Breather) -> Result<Running, Failure> {
    let clock = clock(config);
    let log_config = log_config(config, max_bytes);
    let opened = tokio::task::spawn_blocking(move || Log::open(log_config)).await.map_err(Failure::runtime)?;
    let (log, report) = opened.map_err(Failure::runtime)?;
    tell(&report);
    let broker = Broker::start(config, auth, log.clone(), clock, breather).await.map_err(Failure::runtime)?;
    for (listener, address) in config.listeners.iter_mut().zip(broker.binds()) {
        listener.bind = address.clone();
    }
    // Uplinks end by their own `shutdown`, in its turn, so this never says stop.
    let (_never, stop) = watch::channel(false);
    let uplinks = Uplinks::start(&config.uplinks, &config.gateway.id, &log, &stop).map_err(Failure::runtime)?;
    let gateway = Gateway {
        config: config.clone(),
        configured_bytes: config.disk.max_bytes,
        started: Instant::now(),
        log,
        broker: broker.observer(),
        uplinks: Mutex::new(Some(uplinks)),
        health: Health::default(),
    };
    Ok(Running { broker, gateway: Arc::new(gateway) })
}

/// The machine's clocks, the wall clock trusted as configured.
fn clock(config: &Config) -> Arc<dyn Clock> {
    Arc::new(TrustedClock::new(Arc::new(SystemClock), config.clock.clone()))
}

/// How the log is opened.
pub(crate) fn log_config(config: &Config, max_bytes: u64) -> LogConfig {
    let configured = config.streams.iter().map(|stream| StreamConfig {
        name: stream.name.clone(),
        limits: stream.limits.clone(),
        storage: stream.storage,
    });
    LogConfig {
        dir: config.gateway.data_dir.clone(),
        max_bytes,
        min_free: config.disk.min_free,
        ack: config.durability.ack,
        max_delay: config.durability.max_delay,
        codec: config.disk.codec,
        streams: configured.chain(internal_streams()).collect(),
        clock: clock(config),
    }
}

/// What opening found. Damage is an error: data was lost, or a person is needed.
fn tell(report: &OpenReport) {
    info!(
        created = report.created,
        epochs = report.epochs,
        replayed = report.messages_replayed,
        disk_used_bytes = report.disk_used_bytes,
        "log opened"
    );
    if report.bytes_cut > 0 {
        info!(bytes = report.bytes_cut, "cut the end of an unfinished write; none of it was acknowledged");
    }
    for place in &report.damaged {
        error!(stream = place.stream, first = place.first.0, last = place.last.0, "messages are not readable");
    }
    if report.frames_lost > 0 || report.damaged_epochs > 0 {
        error!(frames = report.frames_lost, epochs = report.damaged_epochs, "parts of the log are damaged");
    }
    if let Some(place) = &report.quarantined {
        error!(moved_to = %place.display(), "epochs could not be opened and were set aside");
    }
}

/// Says what runs: on stdout for people, as log lines where those are read by machines.
fn announce(format: LogFormat, config: &Config, max_bytes: u64) -> Result<(), Failure> {
    let lines = summary::lines(config, max_bytes);
    match format {
        LogFormat::Text => say(format_args!("Headwater {}\n{}", env!("CARGO_PKG_VERSION"), summary::text(&lines))),
        LogFormat::Json => {
            info!(version = env!("CARGO_PKG_VERSION"), "started");
            for (name, fact) in lines {
                info!(name, fact, "configured");
            }
            Ok(())
        }
    }
}

/// Why the gateway stops.
enum End {
    /// A signal of that name.
    Asked(&'static str),
    /// Nothing can be made durable any more.
    LogFailed,
}

async fn watch_over(gateway: &Gateway, signals: &mut Signals, reload: impl Fn()) -> End {
    let mut mark = gateway.log.durable();
    loop {
        // All branches are safe to cancel: they only wait.
        tokio::select! {
            signal = signals.next() => match signal {
                Asked::End(name) => return End::Asked(name),
                Asked::Reload => reload(),
            },
            failed = mark.wait_for(|mark| mark.failed) => {
                drop(failed);
                error!("a sync of the log failed: nothing is acknowledged any more, stopping");
                return End::LogFailed;
            }
        }
    }
}

/// SIGHUP: puts users, rights and certificates in force as their files are now, and says what else a restart would change.
fn reload(args: &RunArgs, running: &Config, broker: &Broker) {
    match check::auth(running) {
        Ok(auth) if running.auth.files != AuthFiles::default() => {
            let revoked = broker.set_auth(auth);
            info!(disconnected = revoked, "users and rights were read again");
        }
        Ok(_) => {}
        Err(failure) => error!("users and rights stay as they were: {failure}"),
    }
    match broker.reload_certificates() {
        Ok(0) => {}
        Ok(listeners) => info!(listeners, "certificates were read again"),
        Err(error) => error!("certificates stay as they were: {error}"),
    }

    let loaded = match settings::load(&args.settings) {
        Ok(loaded) => loaded,
        Err(failure) => return error!("the configuration is not valid any more, nothing changes: {failure}"),
    };
    let changed = loaded.config.sections_that_differ(running);
    match changed.is_empty() {
        true => info!("the configuration is valid and has not changed"),
        false => warn!(
            sections = changed.join(" "),
            "the configuration is valid; these sections change with the next start only"
        ),
    }
}

async fn finish(broker: Broker, gateway: &Gateway, patience: Duration) {
    broker.shutdown(patience).await;
    let uplinks = gateway.uplinks.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(uplinks) = uplinks {
        uplinks.shutdown().await;
    }
    let log = gateway.log.clone();
    if tokio::task::spawn_blocking(move || log.close()).await.is_err() {
        error!("the log did not close in order");
    }
}

/// Ends the process without waiting for anything more, which is safe at any moment: what was acknowledged is on disk.
fn abandon(why: &str) -> ! {
    crate::report(&Failure::runtime(why));
    std::process::exit(1)
}

/// The signals that mean something to us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::runtime(format!("cannot listen for signals: {e}")));
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// The next of them. Safe to cancel.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next that asks to end; the others are ignored. Safe to cancel.
    async fn end(&mut self) -> &'static str {
        loop {
            if let Asked::End(name) = self.next().await {
                return name;
            }
        }
    }
}

/// What a signal asks for.
enum Asked {
    /// To end; the signal's name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}
