//! A client of one connection: connects, subscribes, takes packets. MQTT 3.1.1, no client library.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::packet::{self, Frame};
use crate::tally::{Mark, Tally};

/// How long a broker may take to answer CONNECT or SUBSCRIBE.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connected client.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    rest: Vec<u8>,
    /// The broker still had a session of this client.
    pub session_present: bool,
}

/// When the first and the last message came; zero if none did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// The first.
    pub first: Duration,
    /// The last.
    pub last: Duration,
}

/// How a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Clean: ends with the connection.
    Clean,
    /// Kept by the broker while the client is away.
    Kept,
}

impl Client {
    /// Connects and waits for the CONNACK.
    ///
    /// # Errors
    /// When the broker refuses the client or does not answer within a minute.
    pub async fn connect(address: SocketAddr, id: &str, session: Session) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, rest: Vec::new(), session_present: false };
        let mut out = Vec::new();
        packet::connect(&mut out, id, session == Session::Clean);
        client.stream.write_all(&out).await?;
        let answer = client.next_frame(|frame| match (frame.first, frame.body) {
            (0x20, [flags, 0]) => Ok(flags & 1 == 1),
            _ => Err(frame.unexpected("CONNACK that accepts")),
        });
        client.session_present = patient(answer, "CONNACK").await?;
        Ok(client)
    }

    /// Subscribes to one filter and waits for the SUBACK. What is delivered before it is an error: subscribe before publishing.
    ///
    /// # Errors
    /// When the broker does not grant the QoS.
    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut out = Vec::new();
        packet::subscribe(&mut out, 1, filter, qos);
        self.stream.write_all(&out).await?;
        let answer = self.next_frame(|frame| match (frame.first, frame.body) {
            (0x90, [0, 1, granted]) if *granted == qos => Ok(()),
            _ => Err(frame.unexpected("SUBACK that grants the QoS")),
        });
        patient(answer, "SUBACK").await
    }

    /// Takes (and at QoS 1 acknowledges) messages until `tally` is complete or nothing came for `quiet`; returns when the first and
    /// the last one came, counted from `epoch` like the marks of the messages.
    ///
    /// # Errors
    /// When the broker closes, or sends what is no message of the run.
    pub async fn take(&mut self, tally: &mut Tally, epoch: Instant, quiet: Duration) -> io::Result<Taken> {
        self.take_until(tally, epoch, quiet, None).await
    }

    /// As [`Client::take`], but not longer than `until`.
    ///
    /// # Errors
    /// When the broker closes, or sends what is no message of the run.
    pub async fn take_until(
        &mut self,
        tally: &mut Tally,
        epoch: Instant,
        quiet: Duration,
        until: Option<Instant>,
    ) -> io::Result<Taken> {
        let mut taken = Taken::default();
        let mut input = vec![0; 64 * 1024];
        let mut out = Vec::new();
        loop {
            let mut used = 0;
            out.clear();
            let now = epoch.elapsed();
            while let Some((frame, bytes)) = packet::frame(&self.rest[used..])? {
                used += bytes;
                let delivery = frame.delivery()?;
                let mark = Mark::of(delivery.payload).ok_or_else(|| frame.unexpected("message of the run"))?;
                if !tally.take(mark, now) {
                    return Err(frame.unexpected("message of the run"));
                }
                if let Some(id) = delivery.packet_id {
                    out.extend_from_slice(&[0x40, 2, id[0], id[1]]);
                }
                if taken.first.is_zero() {
                    taken.first = now;
                }
                taken.last = now;
            }
            self.rest.drain(..used);
            if !out.is_empty() {
                self.stream.write_all(&out).await?;
            }
            if tally.is_complete() || until.is_some_and(|until| Instant::now() > until) {
                return Ok(taken);
            }
            let Ok(read) = tokio::time::timeout(quiet, self.stream.read(&mut input)).await else { return Ok(taken) };
            let read = read?;
            if read == 0 {
                let (got, lost) = (tally.distinct(), tally.lost());
                return Err(io::Error::other(format!("closed by the broker after {got} messages, {lost} missing")));
            }
            self.rest.extend_from_slice(&input[..read]);
        }
    }

    /// Says DISCONNECT and closes.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub async fn disconnect(mut self) -> io::Result<()> {
        self.stream.write_all(&[0xe0, 0]).await?;
        self.stream.shutdown().await
    }

    /// Gives up the socket; what was read beyond the last packet is lost, so only before anything is delivered.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    async fn next_frame<T>(&mut self, read: impl Fn(Frame<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            if let Some((frame, bytes)) = packet::frame(&self.rest)? {
                let value = read(frame)?;
                self.rest.drain(..bytes);
                // An idle client holds no buffer: the bench keeps thousands of them.
                if self.rest.is_empty() {
                    self.rest = Vec::new();
                }
                return Ok(value);
            }
            if self.stream.read_buf(&mut self.rest).await? == 0 {
                return Err(io::Error::other("closed by the broker while it was to answer"));
            }
        }
    }
}

async fn patient<T>(answer: impl Future<Output = io::Result<T>>, what: &str) -> io::Result<T> {
    let timeout = |_| io::Error::other(format!("no {what} within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, answer).await.map_err(timeout)?
}
