//! Measures the log by itself: `log_figures DIR BUDGET_MIB MESSAGES PER_SYNC [zstd|lz4]`. Prints what it measured, one figure a line.
//!
//! The messages are telemetry-like JSON of about 190 bytes from 24 devices in 4 streams. Device bytes are read from
//! `/sys/class/block/NAME/stat` if `LOG_DEVICE=NAME` is set, say a loop device that holds nothing but `DIR`.

#![allow(clippy::print_stdout)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_broker::clock::SystemClock;
use headwater_broker::log::{
    AckPolicy, AppendError, BlockCodec, Entry, Item, Log, LogConfig, NewMessage, Seq, Storage, StreamConfig,
    StreamLimits,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, budget, messages, per_sync, codec @ ..] = &arguments[..] else {
        println!("log_figures DIR BUDGET_MIB MESSAGES PER_SYNC [zstd|lz4]");
        return;
    };
    let number = |text: &String| text.parse::<u64>().expect("a number");
    let config = LogConfig {
        dir: PathBuf::from(dir),
        max_bytes: number(budget) << 20,
        min_free: 0,
        ack: AckPolicy::Synced,
        max_delay: Duration::ZERO,
        codec: if codec.first().is_some_and(|c| c == "lz4") { BlockCodec::Lz4 } else { BlockCodec::Zstd },
        streams: (0..4)
            .map(|n| StreamConfig { name: format!("s{n}"), limits: StreamLimits::default(), storage: Storage::File })
            .collect(),
        clock: Arc::new(SystemClock),
    };
    let start = Instant::now();
    let (log, report) = Log::open(config).expect("opens");
    println!(
        "open_ms {:.1} epochs {} frames_replayed {}",
        start.elapsed().as_secs_f64() * 1e3,
        report.epochs,
        report.frames_replayed
    );
    // Nanoseconds that the main thread was on a processor: tells its work from waiting for a busy machine.
    let on_cpu = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    println!("cpu_ns_until_open {}", on_cpu.split(' ').next().unwrap_or_default());
    println!("rss_kib_after_open {}", status("VmRSS"));
    if number(messages) > 0 {
        write(&log, number(messages), number(per_sync));
    }
    read(&log);
    println!("rss_kib {} peak_kib {}", status("VmRSS"), status("VmHWM"));
    println!("{:?}", log.stats());
}

fn write(log: &Log, messages: u64, per_sync: u64) {
    let ids: Vec<_> = (0..4).map(|n| log.stream(&format!("s{n}")).expect("configured")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut mark = log.durable();
    let (start, cpu, device) = (Instant::now(), cpu_seconds(), device_bytes());
    let (mut sent, mut payload_bytes) = (0u64, 0u64);
    let mut text = String::new();
    while sent < messages {
        let mut ticket = None;
        for _ in 0..per_sync {
            use std::fmt::Write as _;
            let n = sent.wrapping_mul(2_654_435_761);
            text.clear();
            write!(
                text,
                r#"{{"device":"dev-{:02}","seq":{sent},"temperature":{}.{:02},"humidity":{}.{},"pressure":{},"battery":{}.{:02},"rssi":-{},"state":"running","uptime":{},"errors":{}}}"#,
                sent % 24, 18 + n % 9, n % 97, 40 + n % 23, n % 10, 98_000 + n % 3_001, 3, n % 83, 40 + n % 51, sent * 7, n % 3
            )
            .expect("a string takes it");
            payload_bytes += text.len() as u64;
            let message = NewMessage {
                stream: ids[usize::try_from(sent % 4).expect("small")],
                subject: b"factory/1/telemetry",
                headers: &[],
                payload: text.as_bytes(),
                tag: 1,
            };
            loop {
                match log.append(&[Entry::Message(message)]) {
                    Ok(appended) => break ticket = Some(appended.ticket),
                    Err(AppendError::Busy) => runtime.block_on(log.room()),
                    Err(other) => panic!("{other}"),
                }
            }
            sent += 1;
        }
        while ticket.is_some_and(|t| mark.borrow_and_update().ticket < t) {
            runtime.block_on(mark.changed()).expect("the log lives");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("msgs_per_s {:.0}", sent as f64 / seconds);
    println!("cpu_us_per_msg {:.2}", (cpu_seconds() - cpu) * 1e6 / sent as f64);
    println!("payload_bytes_per_msg {:.1}", payload_bytes as f64 / sent as f64);
    if let (Some(before), Some(after)) = (device, device_bytes()) {
        println!("device_bytes_per_payload_byte {:.3}", (after - before) as f64 / payload_bytes as f64);
    }
    println!("commits {} rss_kib_after_load {}", log.stats().commits, status("VmRSS"));
}

fn read(log: &Log) {
    let (start, mut messages, mut bytes) = (Instant::now(), 0u64, 0u64);
    for stream in log.streams() {
        let mut at = Seq(0);
        loop {
            let batch = log.read(stream.id, at, 500, 256 << 10).expect("readable");
            if batch.items.is_empty() {
                break;
            }
            at = batch.next;
            for item in &batch.items {
                if let Item::Message(message) = item {
                    messages += 1;
                    bytes += message.payload.len() as u64;
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "scan_msgs_per_s {:.0} mib_per_s {:.0} held {messages}",
        messages as f64 / seconds,
        bytes as f64 / seconds / 1048576.0
    );
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.split(' ').skip(13).take(2).filter_map(|f| f.parse().ok()).collect();
    // Clock ticks are a hundredth of a second on every Linux we know.
    fields.iter().sum::<f64>() / 100.0
}

fn status(field: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.map_or_else(|| "unknown".into(), |l| l.trim().trim_end_matches(" kB").to_owned())
}

fn device_bytes() -> Option<u64> {
    let name = std::env::var("LOG_DEVICE").ok()?;
    // Before: what the filesystem still holds back counts too.
    rustix::fs::sync();
    let stat = std::fs::read_to_string(format!("/sys/class/block/{name}/stat")).ok()?;
    stat.split_whitespace().nth(6)?.parse::<u64>().ok().map(|sectors| sectors * 512)
}
