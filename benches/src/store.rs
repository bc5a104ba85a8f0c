//! A log with one stream, as a library: what measures the log by itself appends to this.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::clock::SystemClock;
use headwater_broker::log::{
    AckPolicy, AppendError, BlockCodec, DurableMark, Entry, Log, LogConfig, NewMessage, Storage, StreamConfig,
    StreamId, StreamLimits, Ticket,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// An open log, with zstd and without `max_delay`.
pub struct Store {
    /// The log.
    pub log: Log,
    /// Its stream.
    pub stream: StreamId,
}

impl Store {
    /// Opens a log in `dir`.
    ///
    /// # Errors
    /// It does not open.
    pub fn open(dir: &Path, max_bytes: u64, ack: AckPolicy) -> io::Result<Self> {
        let stream = StreamConfig { name: "s".into(), limits: StreamLimits::default(), storage: Storage::File };
        let config = LogConfig {
            dir: dir.to_owned(),
            max_bytes,
            min_free: 0,
            ack,
            max_delay: Duration::ZERO,
            codec: BlockCodec::Zstd,
            streams: vec![stream],
            clock: Arc::new(SystemClock),
        };
        let (log, _) = Log::open(config).map_err(io::Error::other)?;
        let stream = log.stream("s").ok_or_else(|| io::Error::other("the configured stream is missing"))?;
        Ok(Self { log, stream })
    }

    /// Something to append with, for one thread.
    ///
    /// # Errors
    /// There is no runtime to be had.
    pub fn writer(&self) -> io::Result<Writer> {
        let runtime = Builder::new_current_thread().build()?;
        Ok(Writer { log: self.log.clone(), stream: self.stream, mark: self.log.durable(), runtime })
    }
}

/// Appends to a [`Store`].
pub struct Writer {
    log: Log,
    stream: StreamId,
    mark: watch::Receiver<DurableMark>,
    runtime: Runtime,
}

impl Writer {
    /// Appends a message, once there is room.
    ///
    /// # Errors
    /// The log refuses it.
    pub fn append(&self, subject: &str, payload: &[u8]) -> io::Result<Ticket> {
        let message = NewMessage { stream: self.stream, subject: subject.as_bytes(), headers: &[], payload, tag: 1 };
        loop {
            match self.log.append(&[Entry::Message(message)]) {
                Ok(appended) => return Ok(appended.ticket),
                Err(AppendError::Busy) => self.runtime.block_on(self.log.room()),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Waits until the group is durable.
    ///
    /// # Errors
    /// The log is gone.
    pub fn wait(&mut self, ticket: Ticket) -> io::Result<()> {
        while self.mark.borrow_and_update().ticket < ticket {
            self.runtime.block_on(self.mark.changed()).map_err(io::Error::other)?;
        }
        Ok(())
    }
}
