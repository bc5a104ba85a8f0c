//! The scenarios of the main job: durable ingest, wear, memory, backfill, restart.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Broker, Kind, Programs, Settings, free_address, metric};
use headwater_benches::device::LoopDevice;
use headwater_benches::hub::{Hub, prepare};
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::payload::{Numbers, PAYLOAD_BYTES, telemetry, topic};
use headwater_benches::report::{Report, Runs};

const MIB: f64 = 1024.0 * 1024.0;

/// 20 publishers, QoS 1, 200 B JSON, window 50, every message stored.
pub(crate) fn ingest(programs: &Programs, data: &Path, runs: usize, report: &mut Report) -> io::Result<()> {
    report.line("\n## Durable ingest: 20 publishers, 200 B JSON, window 50 each, every message stored\n");
    report.line("Brokers take turns; median (min-max). Headwater by MQTT QoS 1, nats-server by its own protocol with JetStream acknowledgements.\n");
    let kinds = [(Kind::Headwater, 400_000), (Kind::NatsSyncAlways, 20_000), (Kind::NatsDefault, 400_000)];
    let mut rates = [Runs::default(), Runs::default(), Runs::default()];
    let mut cpu = [Runs::default(), Runs::default(), Runs::default()];
    let mut peaks = [Runs::default(), Runs::default(), Runs::default()];
    // the first round warms up and is not counted
    for round in 0..=runs {
        for (index, (kind, messages)) in kinds.into_iter().enumerate() {
            let dir = tempfile::tempdir_in(data)?;
            let broker = start(programs, kind, dir.path())?;
            let work = Work { publishers: 20, messages, window: 50, lockstep: false };
            let before = broker.process.cpu()?;
            let took = block_on(publish(kind.wire(), broker.address, work))?;
            let used = broker.process.cpu()? - before;
            if round > 0 {
                rates[index].push(messages as f64 / took.as_secs_f64());
                cpu[index].push(used.as_secs_f64() * 1e6 / messages as f64);
                peaks[index].push(broker.process.memory()?.peak as f64 / MIB);
            }
        }
    }
    report.line("| broker | an acknowledgement means | msgs/s | ratio to headwater | CPU us/msg | peak RSS MiB |");
    report.line("|---|---|---|---|---|---|");
    for (index, (kind, _)) in kinds.into_iter().enumerate() {
        report.line(&format!(
            "| {kind} | {} | {} | {:.3} | {} | {} |",
            kind.promise(),
            rates[index].text(0),
            rates[index].median() / rates[0].median(),
            cpu[index].text(2),
            peaks[index].text(1)
        ));
    }
    Ok(())
}

fn start(programs: &Programs, kind: Kind, dir: &Path) -> io::Result<Broker> {
    match kind {
        Kind::Headwater => programs.headwater(dir, &Settings::default()),
        Kind::NatsSyncAlways | Kind::NatsDefault => {
            let broker = programs.nats_server(dir, free_address()?, kind == Kind::NatsSyncAlways)?;
            block_on(async {
                let hub = Hub::connect(&format!("nats://{}", broker.address), Duration::from_secs(10)).await?;
                hub.make_stream("BENCH", "plant.>").await
            })?;
            Ok(broker)
        }
    }
}

/// Bytes that reach the block device per payload byte, on ext4 with default options on a loop device.
pub(crate) fn wear(programs: &Programs, report: &mut Report) -> io::Result<()> {
    report.line("\n## Bytes written to the device per payload byte (ext4 on a loop device, device counters)\n");
    report.line("64 MiB budget, max_delay 2 ms. Publishers send so many messages, wait for all acknowledgements, send the next: messages per sync as achieved.\n");
    report.line("| broker | wanted per sync | messages per sync | device bytes / payload byte |");
    report.line("|---|---|---|---|");
    let memory = Path::new("/dev/shm");
    // A group of 256 comes from four publishers: one alone is held back at its receive maximum of 100.
    for (kind, publishers, window, messages) in [
        (Kind::Headwater, 1, 1, 20_000),
        (Kind::Headwater, 1, 16, 200_000),
        (Kind::Headwater, 1, 64, 600_000),
        (Kind::Headwater, 4, 64, 600_000),
        (Kind::NatsSyncAlways, 1, 64, 20_000),
    ] {
        let group = publishers as u64 * window;
        let dir = tempfile::tempdir_in(memory)?;
        let device = LoopDevice::make(&dir.path().join("image"), &dir.path().join("mount"), 2 << 30)?;
        let broker = match kind {
            // a burst of a publisher is one group: it waits for the burst to be read
            Kind::Headwater => {
                programs.headwater(device.path(), &Settings { disk: "64MiB", max_delay: "2ms", uplink: None })?
            }
            Kind::NatsSyncAlways | Kind::NatsDefault => start(programs, kind, device.path())?,
        };
        // the first messages fill preallocated files and epochs: wear is measured in steady state
        let warm_up = Work { publishers, messages: messages / 2, window, lockstep: true };
        block_on(publish(kind.wire(), broker.address, warm_up))?;
        let written = device.written()?;
        let commits = commits(&broker, kind)?;
        let work = Work { messages, ..warm_up };
        block_on(publish(kind.wire(), broker.address, work))?;
        let bytes = device.written()? - written;
        let per_sync = match kind {
            Kind::Headwater => messages as f64 / (self::commits(&broker, kind)? - commits),
            Kind::NatsSyncAlways | Kind::NatsDefault => 1.0,
        };
        let payload = messages * PAYLOAD_BYTES as u64;
        report.line(&format!("| {kind} | {group} | {per_sync:.1} | {:.2} |", bytes as f64 / payload as f64));
        broker.process.kill();
    }
    Ok(())
}

fn commits(broker: &Broker, kind: Kind) -> io::Result<f64> {
    match kind {
        Kind::Headwater => metric(broker.http, "headwater_log_commits_total"),
        Kind::NatsSyncAlways | Kind::NatsDefault => Ok(0.0),
    }
}

/// Resident memory: idle, and with a backlog of 1 GiB under load.
pub(crate) fn memory(programs: &Programs, data: &Path, report: &mut Report) -> io::Result<()> {
    report.line("\n## Resident memory of the whole process\n");
    report.line("| state | RSS MiB | PSS MiB | peak RSS MiB |");
    report.line("|---|---|---|---|");
    let dir = tempfile::tempdir_in(data)?;
    // an uplink to an address where nobody listens: the backlog is real, and so is the reader that waits
    let uplink = Some(format!("nats://{}", free_address()?));
    let settings = Settings { disk: "1100MiB", max_delay: "0ms", uplink };
    let broker = programs.headwater(dir.path(), &settings)?;
    let idle = Instant::now();
    let switches = broker.process.context_switches()?;
    std::thread::sleep(Duration::from_secs(5));
    let per_second = broker.process.context_switches_since(&switches)? as f64 / idle.elapsed().as_secs_f64();
    row(report, "idle, no client, just started", &broker)?;
    // 1 GiB of payload, then the same load again on top of the backlog
    let work = Work { publishers: 20, messages: 5_400_000, window: 50, lockstep: false };
    block_on(publish(Wire::Mqtt, broker.address, work))?;
    row(report, "after 1 GiB of payload (peak: under load)", &broker)?;
    block_on(publish(Wire::Mqtt, broker.address, Work { messages: 1_000_000, ..work }))?;
    row(report, "with the backlog, after 200 MB more", &broker)?;
    std::thread::sleep(Duration::from_secs(5));
    row(report, "idle with the backlog", &broker)?;
    report.line(&format!("\nContext switches per second when idle (uplink down, retrying): {per_second:.1}"));
    Ok(())
}

fn row(report: &mut Report, state: &str, broker: &Broker) -> io::Result<()> {
    let memory = broker.process.memory()?;
    report.line(&format!(
        "| {state} | {:.1} | {:.1} | {:.1} |",
        memory.rss as f64 / MIB,
        memory.pss as f64 / MIB,
        memory.peak as f64 / MIB
    ));
    Ok(())
}

/// A backlog drained to a single JetStream node, beside a bare program that sends the same batches from memory.
pub(crate) fn backfill(programs: &Programs, data: &Path, runs: usize, report: &mut Report) -> io::Result<()> {
    report.line("\n## Backfill to one local JetStream node, messages per second\n");
    let count = 400_000_u64;
    let (mut uplink, mut bare, mut ratio) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..runs {
        let dir = tempfile::tempdir_in(data)?;
        let hub_address = free_address()?;
        let url = format!("nats://{hub_address}");
        let settings = Settings { uplink: Some(url.clone()), ..Settings::default() };
        let broker = programs.headwater(dir.path(), &settings)?;
        let work = Work { publishers: 20, messages: count, window: 50, lockstep: false };
        block_on(publish(Wire::Mqtt, broker.address, work))?;
        let server = programs.nats_server(dir.path(), hub_address, false)?;
        let ours = block_on(async {
            let hub = Hub::connect(&url, Duration::from_secs(10)).await?;
            hub.drain_rate("BENCH", count, Duration::from_secs(180)).await
        })?;
        broker.process.kill();
        server.process.kill();

        let dir = tempfile::tempdir_in(data)?;
        let hub_address = free_address()?;
        let server = programs.nats_server(dir.path(), hub_address, false)?;
        let mut numbers = Numbers::new(0);
        let messages = prepare((0..count).map(|seq| {
            let publisher = usize::try_from(seq % 20).expect("below 20");
            (topic(publisher), telemetry(&mut numbers, publisher, seq))
        }));
        let theirs = block_on(async {
            let hub = Hub::connect(&format!("nats://{hub_address}"), Duration::from_secs(10)).await?;
            hub.make_stream("BENCH", "edge.>").await?;
            hub.send_batches(&messages, 1_000).await
        })?;
        server.process.kill();
        uplink.push(ours);
        bare.push(theirs);
        ratio.push(ours / theirs);
    }
    report.line("| sender | msgs/s | ratio, run by run |");
    report.line("|---|---|---|");
    report.line(&format!("| headwater, from its log | {} | {} |", uplink.text(0), ratio.text(2)));
    report.line(&format!("| bare async-nats program, from memory | {} | 1 |", bare.text(0)));
    Ok(())
}

/// Restart with a full 256 MiB log after a kill: from the start of the process to the first PUBACK.
pub(crate) fn restart(programs: &Programs, data: &Path, runs: usize, report: &mut Report) -> io::Result<()> {
    report.line("\n## Restart with a full 256 MiB log after SIGKILL\n");
    let dir = tempfile::tempdir_in(data)?;
    let settings = Settings { disk: "256MiB", ..Settings::default() };
    let broker = programs.headwater(dir.path(), &settings)?;
    let full = 0.9 * 256.0 * MIB;
    let mut held = 0.0;
    while held < full {
        let work = Work { publishers: 20, messages: 2_000_000, window: 50, lockstep: false };
        block_on(publish(Wire::Mqtt, broker.address, work))?;
        let before = std::mem::replace(&mut held, metric(broker.http, "headwater_disk_used_bytes")?);
        if held < full && held <= before {
            return Err(io::Error::other(format!("the log stays at {:.0} MiB and does not become full", held / MIB)));
        }
    }
    broker.process.kill();
    let (mut first, mut rss) = (Runs::default(), Runs::default());
    for _ in 0..runs {
        let begin = Instant::now();
        let broker = programs.headwater(dir.path(), &settings)?;
        first_puback(&broker)?;
        first.push(begin.elapsed().as_secs_f64() * 1e3);
        rss.push(broker.process.memory()?.peak as f64 / MIB);
        broker.process.kill();
    }
    report.line(&format!("Disk in use before the kill: {:.0} MiB\n", held / MIB));
    report.line("| first PUBACK, ms | peak RSS until then, MiB |");
    report.line("|---|---|");
    report.line(&format!("| {} | {} |", first.text(1), rss.text(1)));
    Ok(())
}

fn first_puback(broker: &Broker) -> io::Result<()> {
    let mut stream = TcpStream::connect(broker.address)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05first")?;
    stream.read_exact(&mut [0; 4])?;
    stream.write_all(b"\x32\x09\x00\x03a/b\x00\x01hi")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if answer != [0x40, 2, 0, 1] {
        return Err(io::Error::other(format!("PUBACK expected, got {answer:02x?}")));
    }
    Ok(())
}

fn block_on<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
