//! Clients that mean harm: the broker stays up, its memory within a bound, and another client is served all the while (G5, G8).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::wait::{PATIENCE, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

const MIB: f64 = 1_048_576.0;

/// What a process may grow by under any of these floods. A generous bound on what the limits below allow: it tells growth with the
/// flood from growth to a limit.
const MAY_GROW: f64 = 48.0 * MIB;

/// No answer may take longer. Nobody who waits for a PUBACK on a loaded machine with a slow disk does so for longer.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);

/// `mqtt` are further keys of `[mqtt]`.
fn gateway(mqtt: &str) -> Gateway {
    let mqtt = format!("[mqtt]\nmax_packet_bytes = \"256KiB\"\nmax_queued_bytes = \"256KiB\"\n{mqtt}");
    Gateway::new("gw-1").stream("s", &["#"]).with(&mqtt)
}

/// A client that publishes while a flood goes on, and how long its longest wait for a PUBACK was.
struct Witness {
    over: Arc<AtomicBool>,
    task: JoinHandle<(u64, Duration)>,
}

impl Witness {
    async fn start(broker: &Broker) -> Witness {
        let (mut device, _) = Device::connect(broker.mqtt(), Connect::v5("witness")).await;
        let over = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let over = Arc::clone(&over);
            async move {
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    assert_eq!(device.publish("witness", "here", 1, false).await, 0);
                    longest = longest.max(begun.elapsed());
                    count += 1;
                }
                (count, longest)
            }
        });
        Witness { over, task }
    }

    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let (count, longest) = self.task.await.expect("the witness was served");
        assert!(count > 0 && longest < LONGEST_ANSWER, "{count} acknowledged, the slowest after {longest:?}");
    }
}

async fn resident(broker: &Broker) -> f64 {
    broker.metrics().await.value("headwater_resident_bytes", &[])
}

async fn refused(broker: &Broker, reason: &str) -> f64 {
    broker.metrics().await.value("headwater_connections_refused_total", &[("reason", reason)])
}

async fn assert_bounded(broker: &Broker, before: f64) {
    let now = resident(broker).await;
    assert!(now - before < MAY_GROW, "{:.1} MiB, {:.1} before", now / MIB, before / MIB);
}

async fn open(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

/// CONNECT of MQTT 3.1.1.
fn connect(id: &str) -> Vec<u8> {
    let len = u8::try_from(id.len()).expect("short");
    [&[0x10, 12 + len][..], b"\0\x04MQTT\x04\x02\0\0\0", &[len], id.as_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_lorises_give_their_places_to_clients() {
    let gateway = gateway("max_connections = 300\nconnect_timeout = \"60s\"\n");
    let broker = gateway.start().await;
    let before = resident(&broker).await;
    let witness = Witness::start(&broker).await;
    // Each begins a CONNECT and goes on byte by byte, and whoever is thrown out comes again.
    let over = Arc::new(AtomicBool::new(false));
    let mut lorises = JoinSet::new();
    for n in 0..400 {
        let (over, address) = (Arc::clone(&over), broker.mqtt());
        lorises.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let mut socket = open(address).await;
                for byte in &connect(&format!("loris-{n:0>100}"))[..100] {
                    // Thrown out, mostly.
                    if over.load(Ordering::Relaxed) || socket.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    until(PATIENCE, "all places to be taken", || async {
        let full = refused(&broker, "too_many_connections").await;
        if full > 0.0 { Ok(()) } else { Err(full.to_string()) }
    })
    .await;
    // A client that tries as clients do gets in again and again.
    for _ in 0..5 {
        let mut tries = 0;
        loop {
            let mut socket = open(broker.mqtt()).await;
            let mut answer = [0; 4];
            let sent = socket.write_all(&connect("honest")).await;
            if sent.is_ok() && socket.read_exact(&mut answer).await.is_ok() {
                assert_eq!(answer, [0x20, 2, 0, 0]);
                break;
            }
            tries += 1;
            assert!(tries < 200, "kept out");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // The client may have got the place that it had given back itself, so that few had to go by then: those who come again see to more.
    until(PATIENCE, "silent connections to be displaced", || async {
        let displaced = refused(&broker, "displaced").await;
        if displaced >= 5.0 { Ok(()) } else { Err(displaced.to_string()) }
    })
    .await;
    assert_bounded(&broker, before).await;
    witness.end().await;
    over.store(true, Ordering::Relaxed);
    while lorises.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_hold_no_more_than_their_buffers() {
    let gateway = gateway("");
    let broker = gateway.start().await;
    let before = resident(&broker).await;
    let witness = Witness::start(&broker).await;
    // Each subscribes and asks for more answers than it will ever take.
    let mut deaf = Vec::new();
    for n in 0..20 {
        let mut socket = open(broker.mqtt()).await;
        let subscribe = b"\x82\x0a\0\x01\0\x05big/#\0";
        socket.write_all(&[&connect(&format!("deaf-{n}"))[..], subscribe].concat()).await.expect("it reads");
        deaf.push(socket);
    }
    let (mut publisher, _) = Device::connect(broker.mqtt(), Connect::v5("publisher")).await;
    let payloads = vec![vec![b'x'; 100_000]; 40];
    for _ in 0..4 {
        publisher.publish_all("big/x", &payloads, 1).await;
    }
    // PINGREQs without end, until the broker does not take any more.
    let pings = [0xc0, 0].repeat(8192);
    for socket in &mut deaf {
        while let Ok(sent) = tokio::time::timeout(Duration::from_millis(20), socket.write_all(&pings)).await {
            if sent.is_err() {
                break;
            }
        }
    }
    until(PATIENCE, "messages to be dropped for the deaf", || async {
        let dropped = broker.metrics().await.value("headwater_messages_dropped_total", &[("reason", "queue_full")]);
        if dropped > 0.0 { Ok(()) } else { Err(dropped.to_string()) }
    })
    .await;
    // 20 clients with a queue of 256 KiB and a write buffer of that size each, at most.
    assert_bounded(&broker, before).await;
    witness.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connects_a_second_leave_room_for_the_others() {
    let gateway = gateway("max_connections = 2_000\n");
    let broker = gateway.start().await;
    let before = resident(&broker).await;
    let witness = Witness::start(&broker).await;
    // As fast as this machine makes them, from many at once, at least 20,000 in all.
    let begun = Instant::now();
    let mut flood = JoinSet::new();
    for n in 0..40 {
        let address = broker.mqtt();
        flood.spawn(async move {
            for m in 0..500 {
                let mut socket = open(address).await;
                if m % 2 == 0 {
                    // Refused or thrown out, it may be.
                    let _ = socket.write_all(&connect(&format!("flood-{n}-{m}"))).await;
                    let mut answer = [0; 4];
                    let _ = socket.read_exact(&mut answer).await;
                }
                // Closed by a reset, so that no port is kept for a minute.
                socket.set_zero_linger().expect("a socket has that option");
            }
        });
    }
    while let Some(done) = flood.join_next().await {
        done.expect("the flood itself does not fail");
    }
    let rate = 20_000.0 / begun.elapsed().as_secs_f64();
    eprintln!("{rate:.0} connects per second");
    assert_bounded(&broker, before).await;
    witness.end().await;
    until(PATIENCE, "the flood to be forgotten", || async {
        let left = broker.status().await["clients"]["connections"].as_u64();
        if left <= Some(1) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    assert!(broker.metrics().await.value("headwater_connections_accepted_total", &[]) > 1_000.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announced_lengths_take_no_memory_and_too_large_ones_are_refused() {
    let gateway = gateway("");
    let broker = gateway.start().await;
    let before = resident(&broker).await;
    let witness = Witness::start(&broker).await;
    // The largest that there is, before and after a CONNECT.
    for begin in [Vec::new(), connect("giant")] {
        let mut socket = open(broker.mqtt()).await;
        let head = if begin.is_empty() { 0x10 } else { 0x30 };
        socket.write_all(&[&begin[..], &[head, 0xff, 0xff, 0xff, 0x7f]].concat()).await.expect("it reads");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it closes");
        assert_eq!(answer.len(), if begin.is_empty() { 0 } else { 4 }, "{answer:?}");
    }
    // Just within the limit, announced by many and sent by nobody.
    let mut waiting = Vec::new();
    for n in 0..1_000 {
        let mut socket = open(broker.mqtt()).await;
        let announced = [&connect(&format!("giant-{n}"))[..], &[0x30, 0xff, 0xff, 0x0f, 0]].concat();
        socket.write_all(&announced).await.expect("it reads");
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.expect("it answers");
        waiting.push(socket);
    }
    // 250 MiB, if they were believed.
    assert_bounded(&broker, before).await;
    witness.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_wrong_passwords_keeps_nobody_out_and_takes_no_memory() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let passwd = gateway.dir().join("passwd");
    let made = headwater_tests::process::run(
        "mosquitto_passwd",
        ["-b", "-c", &passwd.display().to_string(), "ann", "a"],
        PATIENCE,
    );
    let _ = made.success();
    let gateway =
        gateway.with(&format!("[auth]\npassword_file = {:?}\nmax_waiting = 10\n", passwd.display().to_string()));
    let broker = gateway.start().await;
    // Proved once, so that it is let in without a hash from then on.
    let (mut ann, _) = Device::connect(broker.mqtt(), Connect::v5("ann").user("ann", "a")).await;
    ann.disconnect().await;
    let before = resident(&broker).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut flood = JoinSet::new();
    for n in 0..100 {
        let (over, address) = (Arc::clone(&over), broker.mqtt());
        flood.spawn(async move {
            let mut codes = [0_u64; 256];
            while !over.load(Ordering::Relaxed) {
                let mut socket = open(address).await;
                let names = format!("\0\x04f{n:03}\0\x03ann\0\x05wrong");
                let begin = b"\0\x04MQTT\x04\xc2\0\0";
                let len = u8::try_from(begin.len() + names.len()).expect("short");
                let packet = [&[0x10, len], &begin[..], names.as_bytes()].concat();
                let _ = socket.write_all(&packet).await;
                let mut answer = [0; 4];
                if socket.read_exact(&mut answer).await.is_ok() {
                    codes[usize::from(answer[3])] += 1;
                }
                socket.set_zero_linger().expect("a socket has that option");
            }
            codes
        });
    }
    until(PATIENCE, "clients to be told that it is busy", || async {
        let busy = refused(&broker, "busy").await;
        if busy > 100.0 { Ok(()) } else { Err(busy.to_string()) }
    })
    .await;
    let (mut ann, _) = Device::connect(broker.mqtt(), Connect::v5("ann").user("ann", "a")).await;
    assert_eq!(ann.publish("t", "1", 1, false).await, 0);
    let metrics = broker.metrics().await;
    assert!(metrics.value("headwater_clients_waiting_for_password", &[]) <= 10.0);
    assert_bounded(&broker, before).await;
    over.store(true, Ordering::Relaxed);
    let mut codes = [0; 256];
    while let Some(done) = flood.join_next().await {
        for (sum, count) in codes.iter_mut().zip(done.expect("the flood itself does not fail")) {
            *sum += count;
        }
    }
    // Server unavailable and bad user name or password of 3.1.1, and nothing else.
    assert!(codes[3] > 0 && codes[4] > 0 && codes.iter().sum::<u64>() == codes[3] + codes[4], "{:?}", &codes[..6]);
}
