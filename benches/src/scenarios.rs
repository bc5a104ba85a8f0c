//! The scenarios of the main job: ingest as fast as it goes and at a fixed rate, fan-out, wear, memory, backfill, restart.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Broker, Kind, Programs, Settings, free_address, metric};
use headwater_benches::device::LoopDevice;
use headwater_benches::hub::{Hub, prepare};
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::payload::{Numbers, PAYLOAD_BYTES, telemetry, topic};
use headwater_benches::plot;
use headwater_benches::report::{Cell, Runs, Section};
use headwater_benches::subscribe::Subscriber;

const MIB: f64 = 1024.0 * 1024.0;

/// 20 publishers, QoS 1, 200 B JSON, window 50, every message stored. `messages` for a broker that does not sync each one.
pub(crate) fn ingest(programs: &Programs, data: &Path, runs: usize, messages: u64) -> io::Result<Section> {
    let note = "20 publishers, 200 B JSON, window of 50 each, closed loop. Brokers take turns after a round of warm-up; \
        median (min-max). Headwater and Mosquitto by MQTT QoS 1, nats-server by its own protocol with JetStream \
        acknowledgements. Headwater and nats-server store every message.";
    let columns = [
        "broker",
        "an acknowledgement means",
        "msgs/s",
        "ratio to headwater",
        "p50 ms",
        "p99 ms",
        "CPU us/msg",
        "peak RSS MiB",
    ];
    let mut section = Section::new("Ingest", note, &columns);
    let contenders: Vec<(Kind, Work)> = contenders(programs)
        .into_iter()
        .map(|kind| (kind, Work::closed(if kind == Kind::NatsSyncAlways { messages.div_ceil(20) } else { messages })))
        .collect();
    let measured = in_turns(programs, data, runs, &contenders)?;
    let bars: Vec<_> = measured.iter().map(|(kind, figures)| figures.rate.bar(&kind.to_string())).collect();
    section.plot(plot::bars("Ingest", "messages per second", &bars));
    let ours = measured[0].1.rate.median();
    for (kind, figures) in measured {
        let ratio = figures.rate.median() / ours;
        section.row(vec![
            Cell::text(kind.to_string()),
            Cell::text(kind.promise()),
            Cell::Figure(figures.rate, 0),
            Cell::once(ratio, 3),
            Cell::Figure(figures.median_ms, 2),
            Cell::Figure(figures.high_ms, 2),
            Cell::Figure(figures.cpu_us, 2),
            Cell::Figure(figures.peak_mib, 1),
        ]);
    }
    Ok(section)
}

/// The same messages at a modest fixed rate: latency from when each was due.
pub(crate) fn paced(programs: &Programs, data: &Path, runs: usize, seconds: u64) -> io::Result<Section> {
    const RATE: u32 = 2_000;
    let note = "20 publishers, 200 B JSON, 2,000 messages per second in all, open loop: a latency counts from when the message \
        was due, so a stall counts for every message behind it. A window of 1,000 per publisher.";
    let columns = ["broker", "an acknowledgement means", "msgs/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU us/msg"];
    let mut section = Section::new("Latency at a fixed rate", note, &columns);
    let messages = u64::from(RATE) * seconds;
    let work = Work { publishers: 20, messages, window: 1_000, lockstep: false, rate: Some(RATE) };
    let contenders: Vec<(Kind, Work)> = contenders(programs).into_iter().map(|kind| (kind, work)).collect();
    let measured = in_turns(programs, data, runs, &contenders)?;
    let bars: Vec<_> = measured.iter().map(|(kind, figures)| figures.high_ms.bar(&kind.to_string())).collect();
    section.plot(plot::bars("Latency at a fixed rate, 99th percentile", "milliseconds", &bars));
    for (kind, figures) in measured {
        section.row(vec![
            Cell::text(kind.to_string()),
            Cell::text(kind.promise()),
            Cell::Figure(figures.rate, 0),
            Cell::Figure(figures.median_ms, 2),
            Cell::Figure(figures.high_ms, 2),
            Cell::Figure(figures.highest_ms, 2),
            Cell::Figure(figures.cpu_us, 1),
        ]);
    }
    Ok(section)
}

/// 4 publishers to 4 subscribers of everything, QoS 1 on both sides: all of it must arrive.
pub(crate) fn fan_out(programs: &Programs, data: &Path, runs: usize, messages: u64) -> io::Result<Section> {
    const SUBSCRIBERS: usize = 4;
    let note = "4 publishers, 200 B JSON, window of 50 each, to 4 subscribers of everything, QoS 1 on both sides, unpaced; a run \
        in which a message is missing fails. Headwater also stores every message.";
    let columns = ["broker", "an acknowledgement means", "deliveries/s", "ratio to headwater", "CPU us/delivery"];
    let mut section = Section::new("Fan-out at QoS 1", note, &columns);
    let kinds: Vec<Kind> = contenders(programs).into_iter().filter(|kind| kind.wire() == Wire::Mqtt).collect();
    let work = Work { publishers: 4, ..Work::closed(messages / 4 * 4) };
    let deliveries = work.messages as f64 * SUBSCRIBERS as f64;
    let mut measured: Vec<(Kind, Runs, Runs)> =
        kinds.into_iter().map(|kind| (kind, Runs::default(), Runs::default())).collect();
    // the first round warms up and is not counted
    for round in 0..=runs {
        for (kind, rate, cpu) in &mut measured {
            let dir = tempfile::tempdir_in(data)?;
            let broker = start(programs, *kind, dir.path())?;
            let before = broker.process.cpu()?;
            let took = block_on(async {
                let mut takers = tokio::task::JoinSet::new();
                for number in 0..SUBSCRIBERS {
                    takers.spawn(Subscriber::connect(broker.address, number).await?.take(work.messages));
                }
                let begin = Instant::now();
                publish(Wire::Mqtt, broker.address, work).await?;
                let mut last = begin;
                while let Some(taken) = takers.join_next().await {
                    last = last.max(taken.map_err(io::Error::other)??);
                }
                Ok(last - begin)
            })
            .map_err(|error| io::Error::new(error.kind(), format!("{kind}: {error}")))?;
            if round > 0 {
                rate.push(deliveries / took.as_secs_f64());
                cpu.push((broker.process.cpu()? - before).as_secs_f64() * 1e6 / deliveries);
            }
        }
    }
    let bars: Vec<_> = measured.iter().map(|(kind, rate, _)| rate.bar(&kind.to_string())).collect();
    section.plot(plot::bars("Fan-out at QoS 1", "deliveries per second", &bars));
    let ours = measured[0].1.median();
    for (kind, rate, cpu) in measured {
        let promise = match kind {
            Kind::Mosquitto => "received; held in memory for the subscribers",
            Kind::Headwater | Kind::NatsSyncAlways | Kind::NatsDefault => kind.promise(),
        };
        let ratio = Cell::once(rate.median() / ours, 3);
        section.row(vec![
            Cell::text(kind.to_string()),
            Cell::text(promise),
            Cell::Figure(rate, 0),
            ratio,
            Cell::Figure(cpu, 2),
        ]);
    }
    Ok(section)
}

/// Headwater first: the others are told as ratios to it.
fn contenders(programs: &Programs) -> Vec<Kind> {
    let mut kinds = vec![Kind::Headwater, Kind::NatsSyncAlways, Kind::NatsDefault];
    kinds.extend(programs.mosquitto.is_some().then_some(Kind::Mosquitto));
    kinds
}

/// What is measured of one broker over the runs.
#[derive(Debug, Default)]
struct Figures {
    rate: Runs,
    median_ms: Runs,
    high_ms: Runs,
    highest_ms: Runs,
    cpu_us: Runs,
    peak_mib: Runs,
}

/// Every contender once per round, each time with an empty store; the first round warms up and is not counted.
fn in_turns(
    programs: &Programs,
    data: &Path,
    runs: usize,
    contenders: &[(Kind, Work)],
) -> io::Result<Vec<(Kind, Figures)>> {
    let mut measured: Vec<(Kind, Figures)> = contenders.iter().map(|(kind, _)| (*kind, Figures::default())).collect();
    for round in 0..=runs {
        for ((kind, work), (_, figures)) in contenders.iter().zip(&mut measured) {
            let dir = tempfile::tempdir_in(data)?;
            let broker = start(programs, *kind, dir.path())?;
            let before = broker.process.cpu()?;
            let outcome = block_on(publish(kind.wire(), broker.address, *work))?;
            let used = broker.process.cpu()? - before;
            if round > 0 {
                let quantile_ms = |share| outcome.latency.quantile(share).as_secs_f64() * 1e3;
                figures.rate.push(outcome.latency.total() as f64 / outcome.took.as_secs_f64());
                figures.median_ms.push(quantile_ms(0.5));
                figures.high_ms.push(quantile_ms(0.99));
                figures.highest_ms.push(quantile_ms(0.999));
                figures.cpu_us.push(used.as_secs_f64() * 1e6 / outcome.latency.total() as f64);
                figures.peak_mib.push(broker.process.memory()?.peak as f64 / MIB);
            }
        }
    }
    Ok(measured)
}

fn start(programs: &Programs, kind: Kind, dir: &Path) -> io::Result<Broker> {
    match kind {
        Kind::Headwater => programs.headwater(dir, &Settings::default()),
        Kind::Mosquitto => programs.mosquitto(dir),
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
pub(crate) fn wear(programs: &Programs) -> io::Result<Section> {
    let note = "ext4 on a loop device, by the device's own counters. 64 MiB budget, max_delay 2 ms. Publishers send so many \
        messages, wait for all acknowledgements, send the next: messages per sync as achieved.";
    let columns = ["broker", "wanted per sync", "messages per sync", "device bytes / payload byte"];
    let mut section = Section::new("Bytes written to the device per payload byte", note, &columns);
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
            Kind::NatsSyncAlways | Kind::NatsDefault | Kind::Mosquitto => start(programs, kind, device.path())?,
        };
        // the first messages fill preallocated files and epochs: wear is measured in steady state
        let warm_up = Work { publishers, messages: messages / 2, window, lockstep: true, rate: None };
        block_on(publish(kind.wire(), broker.address, warm_up))?;
        let written = device.written()?;
        let commits = commits(&broker, kind)?;
        let work = Work { messages, ..warm_up };
        block_on(publish(kind.wire(), broker.address, work))?;
        let bytes = device.written()? - written;
        let per_sync = match kind {
            Kind::Headwater => messages as f64 / (self::commits(&broker, kind)? - commits),
            Kind::NatsSyncAlways | Kind::NatsDefault | Kind::Mosquitto => 1.0,
        };
        let payload = messages * PAYLOAD_BYTES as u64;
        section.row(vec![
            Cell::text(kind.to_string()),
            Cell::text(group.to_string()),
            Cell::once(per_sync, 1),
            Cell::once(bytes as f64 / payload as f64, 2),
        ]);
        broker.process.kill();
    }
    Ok(section)
}

fn commits(broker: &Broker, kind: Kind) -> io::Result<f64> {
    match kind {
        Kind::Headwater => metric(broker.http, "headwater_log_commits_total"),
        Kind::NatsSyncAlways | Kind::NatsDefault | Kind::Mosquitto => Ok(0.0),
    }
}

/// Resident memory: idle, and with a backlog of 1 GiB under load.
pub(crate) fn memory(programs: &Programs, data: &Path) -> io::Result<Section> {
    let columns = ["state", "RSS MiB", "PSS MiB", "peak RSS MiB", "context switches/s"];
    let note = "Of the whole process, with an uplink to an address where nobody listens.";
    let mut section = Section::new("Memory", note, &columns);
    let dir = tempfile::tempdir_in(data)?;
    // an uplink to an address where nobody listens: the backlog is real, and so is the reader that waits
    let uplink = Some(format!("nats://{}", free_address()?));
    let settings = Settings { disk: "1100MiB", max_delay: "0ms", uplink };
    let broker = programs.headwater(dir.path(), &settings)?;
    let idle = Instant::now();
    let switches = broker.process.context_switches()?;
    std::thread::sleep(Duration::from_secs(5));
    let per_second = broker.process.context_switches_since(&switches)? as f64 / idle.elapsed().as_secs_f64();
    row(&mut section, "idle, no client, just started", &broker, Cell::once(per_second, 1))?;
    // 1 GiB of payload, then the same load again on top of the backlog
    let work = Work::closed(5_400_000);
    block_on(publish(Wire::Mqtt, broker.address, work))?;
    row(&mut section, "after 1 GiB of payload (peak: under load)", &broker, Cell::text(""))?;
    block_on(publish(Wire::Mqtt, broker.address, Work { messages: 1_000_000, ..work }))?;
    row(&mut section, "with the backlog, after 200 MB more", &broker, Cell::text(""))?;
    std::thread::sleep(Duration::from_secs(5));
    row(&mut section, "idle with the backlog", &broker, Cell::text(""))?;
    Ok(section)
}

fn row(section: &mut Section, state: &str, broker: &Broker, switches: Cell) -> io::Result<()> {
    let memory = broker.process.memory()?;
    let mib = |bytes: u64| Cell::once(bytes as f64 / MIB, 1);
    section.row(vec![Cell::text(state), mib(memory.rss), mib(memory.pss), mib(memory.peak), switches]);
    Ok(())
}

/// A backlog drained to a single JetStream node, beside a bare program that sends the same batches from memory.
pub(crate) fn backfill(programs: &Programs, data: &Path, runs: usize) -> io::Result<Section> {
    let note = "400,000 messages to one local JetStream node. The ratio is taken run by run.";
    let mut section = Section::new("Backfill", note, &["sender", "msgs/s", "ratio to the bare program"]);
    let count = 400_000_u64;
    let (mut uplink, mut bare, mut ratio) = (Runs::default(), Runs::default(), Runs::default());
    for _ in 0..runs {
        let dir = tempfile::tempdir_in(data)?;
        let hub_address = free_address()?;
        let url = format!("nats://{hub_address}");
        let settings = Settings { uplink: Some(url.clone()), ..Settings::default() };
        let broker = programs.headwater(dir.path(), &settings)?;
        let work = Work::closed(count);
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
    let bars = [uplink.bar("headwater, from its log"), bare.bar("bare program, from memory")];
    section.plot(plot::bars("Backfill", "messages per second", &bars));
    section.row(vec![Cell::text("headwater, from its log"), Cell::Figure(uplink, 0), Cell::Figure(ratio, 2)]);
    let bare = Cell::Figure(bare, 0);
    section.row(vec![Cell::text("bare async-nats program, from memory"), bare, Cell::once(1.0, 2)]);
    Ok(section)
}

/// Restart with a full 256 MiB log after a kill: from the start of the process to the first PUBACK.
pub(crate) fn restart(programs: &Programs, data: &Path, runs: usize) -> io::Result<Section> {
    let dir = tempfile::tempdir_in(data)?;
    let settings = Settings { disk: "256MiB", ..Settings::default() };
    let broker = programs.headwater(dir.path(), &settings)?;
    let full = 0.9 * 256.0 * MIB;
    let mut held = 0.0;
    while held < full {
        let work = Work::closed(2_000_000);
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
    let note = "From the start of the process to the first PUBACK, with a 256 MiB budget filled before the kill.";
    let columns = ["disk in use, MiB", "first PUBACK, ms", "peak RSS until then, MiB"];
    let mut section = Section::new("Restart with a full log after SIGKILL", note, &columns);
    section.row(vec![Cell::once(held / MIB, 0), Cell::Figure(first, 1), Cell::Figure(rss, 1)]);
    Ok(section)
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
