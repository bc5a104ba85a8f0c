//! The hub's side of a backfill: how full its stream is, and the bare program that Headwater's uplink is measured against.

use std::io;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};

/// A client of the hub.
#[derive(Debug)]
pub struct Hub {
    context: jetstream::Context,
    client: async_nats::Client,
}

/// A message ready to be sent, with the headers that an uplink adds.
#[derive(Clone, Debug)]
pub struct Prepared {
    subject: String,
    headers: HeaderMap,
    payload: Vec<u8>,
}

/// How a backlog arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Messages per second.
    pub rate: f64,
    /// When the first were seen.
    pub first: Instant,
    /// What had not come when patience was over.
    pub missing: u64,
}

impl Hub {
    /// Connects, trying until `patience` is over.
    ///
    /// # Errors
    /// When the hub cannot be reached in time.
    pub async fn connect(url: &str, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            match async_nats::connect(url).await {
                Ok(client) => {
                    let mut context = jetstream::new(client.clone());
                    context.set_timeout(Duration::from_secs(30));
                    return Ok(Self { context, client });
                }
                Err(error) if Instant::now() > deadline => return Err(io::Error::other(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Makes a file stream over `subjects` that takes atomic batches, of at most `max_bytes`; it is no error if it is there already.
    ///
    /// # Errors
    /// What the hub answers.
    pub async fn make_stream(&self, name: &str, subjects: &str, max_bytes: Option<u64>) -> io::Result<()> {
        self.make(stream::Config {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            max_bytes: max_bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(-1),
            allow_atomic_publish: true,
            ..Default::default()
        })
        .await
    }

    /// Makes a file stream that copies the stream of the same name in `domain`, reached through a leaf node.
    ///
    /// # Errors
    /// What the hub answers.
    pub async fn make_mirror(&self, name: &str, domain: &str) -> io::Result<()> {
        let there = stream::External { api_prefix: format!("$JS.{domain}.API"), delivery_prefix: None };
        let origin = stream::Source { name: name.to_owned(), external: Some(there), ..Default::default() };
        self.make(stream::Config { name: name.to_owned(), mirror: Some(origin), ..Default::default() }).await
    }

    async fn make(&self, config: stream::Config) -> io::Result<()> {
        self.context.create_stream(config).await.map_err(io::Error::other)?;
        Ok(())
    }

    /// Messages in a stream; 0 while there is no such stream.
    pub async fn messages(&self, name: &str) -> u64 {
        match self.context.get_stream(name).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        }
    }

    /// Waits until the stream holds `count` messages; the rate is from the first that were seen in it to the last: how fast the
    /// connection came about is not part of it. Gives up when `patience` is over, and tells what is missing.
    ///
    /// # Errors
    /// When nothing at all came by then.
    pub async fn drain(&self, name: &str, count: u64, patience: Duration) -> io::Result<Arrival> {
        let start = Instant::now();
        let deadline = start + patience;
        let mut began: Option<(Instant, u64)> = None;
        loop {
            let held = self.messages(name).await;
            let now = Instant::now();
            if held >= count {
                // So little that all was there at the first look: counted from when looking began.
                let (first, at) = began.unwrap_or((start, 0));
                return Ok(Arrival { rate: (held - at) as f64 / (now - first).as_secs_f64(), first, missing: 0 });
            }
            if held > 0 && began.is_none() {
                began = Some((now, held));
            }
            if now > deadline {
                let late = || io::Error::other(format!("nothing reached the hub within {} s", patience.as_secs()));
                let (first, at) = began.ok_or_else(late)?;
                let rate = (held - at) as f64 / (now - first).as_secs_f64();
                return Ok(Arrival { rate, first, missing: count - held });
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends `messages` in atomic batches of `batch`, one outstanding, the next prepared meanwhile; nothing else.
    /// Returns messages per second.
    ///
    /// # Errors
    /// What the hub answers.
    pub async fn send_batches(&self, messages: &[Prepared], batch: usize) -> io::Result<f64> {
        let start = Instant::now();
        for (number, chunk) in messages.chunks(batch).enumerate() {
            let id = format!("bench-{number}");
            let (last, rest) = chunk.split_last().ok_or_else(|| io::Error::other("an empty batch"))?;
            for (index, message) in rest.iter().enumerate() {
                let mut headers = message.headers.clone();
                headers.insert("Nats-Batch-Id", id.as_str());
                headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
                self.client
                    .publish_with_headers(message.subject.clone(), headers, message.payload.clone().into())
                    .await
                    .map_err(io::Error::other)?;
            }
            let mut headers = last.headers.clone();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", chunk.len().to_string());
            headers.insert("Nats-Batch-Commit", "1");
            let answer = self
                .client
                .request_with_headers(last.subject.clone(), headers, last.payload.clone().into())
                .await
                .map_err(io::Error::other)?;
            if answer.payload.windows(7).any(|part| part == b"\"error\"") {
                return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(&answer.payload))));
            }
        }
        Ok(messages.len() as f64 / start.elapsed().as_secs_f64())
    }
}

/// What an uplink would send for these payloads: the same subjects, headers and sizes.
#[must_use]
pub fn prepare(payloads: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<Prepared> {
    payloads
        .enumerate()
        .map(|(index, (topic, payload))| {
            let seq = index + 1;
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("bench/default/{seq}@0123456789abcdef"));
            headers.insert("Headwater-Seq", seq.to_string());
            headers.insert("Headwater-Time", "2026-11-23T12:00:00.000000000Z");
            headers.insert("Headwater-Stream-Id", "0123456789abcdef");
            Prepared { subject: format!("edge.bench.default.{}", topic.replace('/', ".")), headers, payload }
        })
        .collect()
}
