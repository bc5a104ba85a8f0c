//! Open loop: messages are due at a rate, evenly over all publishers, and are sent when they are due, by a thread of their own.
//!
//! A latency counts from when a message was due, so that a stall is not hidden by a publisher that waited for it (coordinated
//! omission). The thread sleeps between messages with the kernel's precision of some 50 us; the timer of an event loop would add
//! up to a millisecond to every latency.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the sender sleeps where a socket or a window is full.
const PAUSE: Duration = Duration::from_micros(100);
/// Nothing can be sent for this long: the broker has stopped taking messages.
const PATIENCE: Duration = Duration::from_secs(60);

/// When message `count` of all publishers together is due, after the start.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    between_nanos: u64,
}

impl Pace {
    /// So many messages per second, at least one.
    #[must_use]
    pub fn per_second(rate: u32) -> Self {
        Self { between_nanos: 1_000_000_000 / u64::from(rate.max(1)) }
    }

    /// When message `count` is due.
    #[must_use]
    pub fn due(self, count: u64) -> Duration {
        Duration::from_nanos(self.between_nanos.saturating_mul(count))
    }

    /// Messages that are due by `elapsed`.
    #[must_use]
    pub fn due_by(self, elapsed: Duration) -> u64 {
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX) / self.between_nanos + 1
    }
}

/// A connected publisher whose socket does not block.
#[derive(Debug)]
pub struct Lane {
    /// Its socket.
    pub stream: TcpStream,
    /// Messages that were acknowledged, kept by who reads them. `None` at QoS 0.
    pub acknowledged: Option<std::sync::Arc<AtomicU64>>,
}

/// What is sent, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// When each is due.
    pub pace: Pace,
    /// Messages in all; message `n` goes to lane `n % lanes`.
    pub messages: u64,
    /// Unacknowledged messages per lane.
    pub window: u64,
}

/// Sends all messages, each when it is due after `start`, or as soon after as the sockets and windows allow. `fill` appends the packet
/// of message `count` of lane `lane`. Ends early, without an error, once `stop` is set.
///
/// # Errors
/// When a socket breaks, or the broker takes nothing for a minute.
pub fn send(
    lanes: &mut [Lane],
    sending: Sending,
    start: Instant,
    stop: &AtomicBool,
    mut fill: impl FnMut(&mut Vec<u8>, usize, u64),
) -> io::Result<u64> {
    let width = lanes.len() as u64;
    let mut out: Vec<Vec<u8>> = vec![Vec::new(); lanes.len()];
    let mut sent = 0;
    while sent < sending.messages && !stop.load(Ordering::Relaxed) {
        let due = sending.pace.due_by(start.elapsed()).min(sending.messages);
        // What became due meanwhile goes out in one write per publisher, as from a device that was held up. Bounded, so that the
        // windows are looked at now and then.
        let until = due.min(sent + 64 * width);
        while sent < until {
            let lane = usize::try_from(sent % width).expect("an index of lanes");
            fill(&mut out[lane], lane, sent / width);
            sent += 1;
        }
        for (lane, out) in lanes.iter_mut().zip(&mut out).filter(|(_, out)| !out.is_empty()) {
            write(&mut lane.stream, out)?;
        }
        wait_for_windows(lanes, sending.window, sent / width)?;
        let next = sending.pace.due(sent);
        let now = start.elapsed();
        if next > now {
            std::thread::sleep(next - now);
        }
    }
    Ok(sent)
}

fn write(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    let mut at = 0;
    let mut blocked: Option<Instant> = None;
    while at < out.len() {
        match stream.write(&out[at..]) {
            Ok(bytes) => (at, blocked) = (at + bytes, None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if blocked.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(io::Error::other(format!("the broker takes nothing for {PATIENCE:?}")));
                }
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    out.clear();
    Ok(())
}

fn wait_for_windows(lanes: &[Lane], window: u64, sent_each: u64) -> io::Result<()> {
    let since = Instant::now();
    for acknowledged in lanes.iter().filter_map(|lane| lane.acknowledged.as_ref()) {
        while sent_each.saturating_sub(acknowledged.load(Ordering::Relaxed)) >= window {
            if since.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("the broker acknowledges nothing for {PATIENCE:?}")));
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn every_message_has_its_time() {
        let pace = Pace::per_second(4);
        assert_eq!([0, 1, 8].map(|count| pace.due(count).as_millis()), [0, 250, 2_000]);
        assert_eq!([0, 249, 250, 2_000].map(|ms| pace.due_by(Duration::from_millis(ms))), [1, 1, 2, 9]);
    }

    #[test]
    fn all_messages_are_sent_in_turn_and_not_before_they_are_due() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut ends = Vec::new();
        let mut lanes = Vec::new();
        for _ in 0..2 {
            let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
            stream.set_nonblocking(true).expect("possible");
            ends.push(listener.accept().expect("connected").0);
            lanes.push(Lane { stream, acknowledged: None });
        }
        let start = Instant::now();
        let sending = Sending { pace: Pace::per_second(1_000), messages: 21, window: 1 };
        let never = AtomicBool::new(false);
        let fill = |out: &mut Vec<u8>, lane: usize, count: u64| {
            out.extend([u8::try_from(lane).expect("two lanes"), u8::try_from(count).expect("few")]);
        };
        assert_eq!(send(&mut lanes, sending, start, &never, fill).expect("sent"), 21);
        assert!(start.elapsed() >= Duration::from_millis(20));
        drop(lanes);
        for (lane, mut end) in (0_u8..).zip(ends) {
            let mut got = Vec::new();
            end.read_to_end(&mut got).expect("readable");
            let wanted: Vec<u8> = (0..(11 - lane)).flat_map(|n| [lane, n]).collect();
            assert_eq!(got, wanted);
        }
    }
}
