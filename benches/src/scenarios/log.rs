//! The log as a library: filled, written beside, read.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headwater_benches::histogram::Histogram;
use headwater_benches::paced::Pace;
use headwater_benches::payload::{Numbers, telemetry, topic};
use headwater_benches::store::{Store, Writer};
use headwater_broker::log::{AckPolicy, Item, Seq};

/// An open log with one stream.
pub(crate) struct Bench {
    store: Store,
    ring: Arc<Vec<Vec<u8>>>,
}

/// How fast a scan was.
pub(crate) struct Scan {
    pub(crate) per_second: f64,
    pub(crate) bytes_per_second: f64,
}

impl Bench {
    /// Opens a log in `dir` and appends `messages`.
    pub(crate) fn fill(dir: &Path, max_bytes: u64, messages: u64) -> io::Result<Self> {
        let store = Store::open(dir, max_bytes, AckPolicy::Synced)?;
        let mut numbers = Numbers::new(7);
        let ring = Arc::new((0..512).map(|count| telemetry(&mut numbers, 1, count)).collect());
        let bench = Self { store, ring };
        bench.work()?.run(&AtomicBool::new(false), messages, None)?;
        Ok(bench)
    }

    fn work(&self) -> io::Result<Appending> {
        Ok(Appending { writer: self.store.writer()?, ring: Arc::clone(&self.ring), topic: topic(1, 0) })
    }

    /// Appends in a thread until `stop` is set, at most so many per second; gives how many.
    pub(crate) fn write_until(&self, stop: &Arc<AtomicBool>, per_second: u64) -> JoinHandle<io::Result<u64>> {
        let (work, stop) = (self.work(), Arc::clone(stop));
        let pace = u32::try_from(per_second).ok().map(Pace::per_second);
        std::thread::spawn(move || work?.run(&stop, u64::MAX, pace))
    }

    /// Reads `count` single messages anywhere in the stream.
    pub(crate) fn random(&self, count: u64) -> io::Result<Histogram> {
        let (mut numbers, mut latency) = (Numbers::new(3), Histogram::default());
        for _ in 0..count {
            let state = self.store.log.state(self.store.stream);
            let seq = Seq(state.first.0 + numbers.draw() % (state.last.0 - state.first.0 + 1));
            let begin = Instant::now();
            let batch = self.store.log.read(self.store.stream, seq, 1, 1).map_err(io::Error::other)?;
            latency.record(begin.elapsed(), 1);
            // The oldest may be dropped between the look and the read.
            if batch.items.is_empty() {
                return Err(io::Error::other(format!("nothing to read at sequence {}", seq.0)));
            }
        }
        Ok(latency)
    }

    /// Closes it in order and opens it again: how long opening takes.
    pub(crate) fn open_again(self, dir: &Path, max_bytes: u64) -> io::Result<Duration> {
        self.store.log.close();
        drop(self);
        let begin = Instant::now();
        let _again = Store::open(dir, max_bytes, AckPolicy::Synced)?;
        Ok(begin.elapsed())
    }

    /// Reads everything from the oldest to what is the newest when it begins.
    pub(crate) fn scan(&self) -> io::Result<Scan> {
        let state = self.store.log.state(self.store.stream);
        let (begin, mut at, mut messages, mut bytes) = (Instant::now(), state.first, 0_u64, 0_usize);
        while at <= state.last {
            let batch = self.store.log.read(self.store.stream, at, 500, 256 << 10).map_err(io::Error::other)?;
            if batch.items.is_empty() {
                break;
            }
            at = batch.next;
            for item in &batch.items {
                if let Item::Message(message) = item {
                    messages += 1;
                    bytes += message.payload.len();
                }
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Scan { per_second: messages as f64 / seconds, bytes_per_second: bytes as f64 / seconds })
    }
}

struct Appending {
    writer: Writer,
    ring: Arc<Vec<Vec<u8>>>,
    topic: String,
}

impl Appending {
    fn run(&self, stop: &AtomicBool, messages: u64, pace: Option<Pace>) -> io::Result<u64> {
        let start = Instant::now();
        for (count, payload) in (0..messages).zip(self.ring.iter().cycle()) {
            if stop.load(Ordering::Relaxed) {
                return Ok(count);
            }
            if let Some(pace) = pace {
                std::thread::sleep(pace.due(count).saturating_sub(start.elapsed()));
            }
            self.writer.append(&self.topic, payload)?;
        }
        Ok(messages)
    }
}
