//! All uplinks of a gateway: made from the configuration, started, asked, ended.

use std::sync::Arc;

use headwater_broker::config::{Mirror, Uplink};
use headwater_broker::log::{Log, StreamUid};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::board::Board;
use crate::encode::Encoder;
use crate::jetstream::Destination;
use crate::runner::Runner;
use crate::source::{LogSource, Source};
use crate::status::UplinkStatus;

/// Names of cursors that are ours begin with it.
const CURSOR_PREFIX: &str = "uplink/";

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
        let wanted: Vec<String> = config.iter().flat_map(|u| u.mirrors.iter().map(|m| cursor_name(u, m))).collect();
        for (name, stream) in log.cursors() {
            // A mirror that is no longer configured needs nothing: what is discarded is no loss of it.
            if name.starts_with(CURSOR_PREFIX) && !wanted.contains(&name) {
                info!(cursor = name, "the position of a mirror that is no longer configured is forgotten");
                log.remove_cursor(&name, stream);
            }
        }
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

    /// Looks up in the log what [`Uplinks::status`] shows of the oldest unsent messages. Nobody does so unasked: an idle
    /// gateway does not wake for figures.
    pub fn look(&self) -> impl Future<Output = ()> + Send + use<> {
        let boards: Vec<_> = self.running.iter().map(|running| Arc::clone(&running.board)).collect();
        async move {
            let looked = tokio::task::spawn_blocking(move || boards.iter().for_each(|board| board.look()));
            if let Err(e) = looked.await {
                error!(error = %e, "looking for the oldest unsent messages failed");
            }
        }
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

/// Under this name the log knows how far a mirror has come.
fn cursor_name(uplink: &Uplink, mirror: &Mirror) -> String {
    format!("{CURSOR_PREFIX}{}/{}/{}", uplink.name, mirror.into, mirror.stream)
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
        let cursor = cursor_name(uplink, mirror);
        let source = Arc::new(LogSource::new(log.clone(), stream, cursor, Arc::clone(&encoder)));
        legs.push(Leg { stream: mirror.stream.clone(), uid, encoder, destination, source });
    }
    Ok(legs)
}

/// The subjects that the hub's stream must take for this mirror.
fn subjects_of(mirror: &Mirror) -> Vec<String> {
    match &mirror.create {
        Some(create) if !create.subjects.is_empty() => create.subjects.clone(),
        _ => vec![Encoder::shared_subject(&mirror.subject, &mirror.stream)],
    }
}
