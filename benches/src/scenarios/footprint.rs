//! Headwater's own bounds: resident memory of the whole process under everything at once, and with a backlog.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Bridge, Broker, Kind, Settings, free_address, metric};
use headwater_benches::client::{Client, Session};
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::report::{Cell, Section};
use headwater_benches::tally::Tally;

use super::turns::{Column, Contender, Context, MIB, Telling, apart, block_on, in_turns, joined, milliseconds, tell};

/// Highest resident memory with a budget of 64 MiB and of 1 GiB, everything at once.
pub(crate) fn footprint(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 7] = [
        ("peak RSS MiB", 1),
        ("asked at most, MiB", 0),
        ("anonymous MiB at the end", 1),
        ("program file MiB at the end", 1),
        ("msgs/s", 0),
        ("deliveries/s", 0),
        ("disk in use, MiB", 0),
    ];
    let note = "The whole process under full load: 20 publishers (200 B, QoS 1, window 50, unpaced) fill the store, then send 2,000,000 \
        messages more that four live subscribers take at QoS 1, a session is away, an uplink retries an address where \
        nobody listens. Peak: VmHWM, pages of the program file included.";
    let contenders: Vec<Contender> = [(64_u64, "64 MiB"), (1_024, "1 GiB")]
        .map(|(size, name)| Contender { kind: Kind::Headwater, variant: name.to_owned(), size })
        .to_vec();
    let measured = in_turns(context, contenders, &COLUMNS, |contender, round| {
        let budget = contender.size << 20;
        let bridge = Some(Bridge { to: free_address()?, is_hub: false });
        let settings = Settings { disk: budget.to_string(), bridge, ..Settings::default() };
        let broker = context.programs.start(Kind::Headwater, &round.dir, &settings)?;
        // About 30 bytes of a message are stored: so many fill the store and turn it over.
        block_on(publish(Wire::Mqtt, broker.mqtt, Work::closed(round.part(context.size(budget / 25, 20_000), 4_000))))?;
        let messages = context.size(2_000_000, 20_000);
        let epoch = Instant::now();
        let work = Work { marked: Some(epoch), ..Work::closed(round.part(messages, 4_000)) };
        let each = u32::try_from(work.share()).map_err(io::Error::other)?;
        let address = broker.mqtt;
        block_on(async {
            let mut away = Client::connect(address, "away", Session::Kept).await?;
            away.subscribe("plant/#", 1).await?;
            away.disconnect().await
        })?;
        let (ready, subscribed) = std::sync::mpsc::channel();
        let subscribers = apart(async move {
            let mut takers = tokio::task::JoinSet::new();
            for number in 0..4 {
                let mut client = Client::connect(address, &format!("live-{number}"), Session::Clean).await?;
                client.subscribe("plant/#", 1).await?;
                takers.spawn(async move {
                    let mut tally = Tally::new(work.publishers, each);
                    // Slower than the store turns over, some lose messages to retention: that is no failure here.
                    client.take(&mut tally, epoch, Duration::from_secs(3)).await?;
                    Ok::<_, io::Error>(tally.distinct())
                });
            }
            // Nobody listens only if the run has failed already.
            let _ = ready.send(());
            let mut all = 0;
            while let Some(one) = takers.join_next().await {
                all += one.map_err(io::Error::other)??;
            }
            Ok(all)
        });
        // An error of the subscribers is told when they are joined.
        let _ = subscribed.recv();
        let outcome = block_on(publish(Wire::Mqtt, address, work))?;
        let deliveries = joined(subscribers)?;
        let took = epoch.elapsed().as_secs_f64();
        let memory = broker.process.memory()?;
        Ok(vec![
            memory.peak as f64 / MIB,
            if contender.size < 1_024 { 10.0 } else { 16.0 },
            memory.anonymous as f64 / MIB,
            (memory.rss - memory.anonymous) as f64 / MIB,
            outcome.messages as f64 / outcome.took.as_secs_f64(),
            deliveries as f64 / took,
            metric(broker.http, "headwater_disk_used_bytes")? / MIB,
        ])
    })?;
    let variant = Some("disk.max_bytes");
    Ok(tell(
        &Telling { title: "Footprint", note, variant, columns: &COLUMNS, main: Some((0, "peak RSS, MiB")) },
        measured,
    ))
}

/// Resident memory: idle, and with a backlog of 1 GiB under load.
pub(crate) fn memory(context: &Context<'_>) -> io::Result<Section> {
    let columns = ["state", "RSS MiB", "PSS MiB", "anonymous MiB", "peak RSS MiB", "context switches/s"];
    let note = "headwater, the whole process, with an uplink to an address where nobody listens: it tries again and again. The goal is below \
        2 context switches per second without traffic; the uplink's attempts are part of it.";
    let mut section = Section::new("Memory and idle", note, &columns);
    let dir = tempfile::tempdir_in(context.data)?;
    // No client and no uplink: what nothing costs.
    let bare = context.programs.start(Kind::Headwater, &dir.path().join("bare"), &Settings::default())?;
    std::thread::sleep(Duration::from_secs(2));
    let switches = bare.process.switches_per_second(Duration::from_secs(10))?;
    row(&mut section, "idle, no client, no uplink", &bare, Cell::once(switches, 2))?;
    bare.process.kill();
    let bridge = Some(Bridge { to: free_address()?, is_hub: false });
    let settings = Settings { disk: "1100MiB".into(), bridge, ..Settings::default() };
    let broker = context.programs.start(Kind::Headwater, dir.path(), &settings)?;
    std::thread::sleep(Duration::from_secs(2));
    let switches = broker.process.switches_per_second(Duration::from_secs(10))?;
    row(&mut section, "idle, no client, just started", &broker, Cell::once(switches, 2))?;
    // 1 GiB of payload, then the same load again on top of the backlog.
    let work = Work::closed(context.size(5_400_000, 50_000));
    block_on(publish(Wire::Mqtt, broker.address, work))?;
    row(&mut section, "after 1 GiB of payload (peak: under load)", &broker, Cell::text(""))?;
    block_on(publish(Wire::Mqtt, broker.address, Work { messages: context.size(1_000_000, 20_000), ..work }))?;
    row(&mut section, "with the backlog, after 200 MB more", &broker, Cell::text(""))?;
    std::thread::sleep(Duration::from_secs(5));
    let switches = broker.process.switches_per_second(Duration::from_secs(10))?;
    row(&mut section, "idle with the backlog", &broker, Cell::once(switches, 2))?;
    Ok(section)
}

fn row(section: &mut Section, state: &str, broker: &Broker, switches: Cell) -> io::Result<()> {
    let memory = broker.process.memory()?;
    let mib = |bytes: u64| Cell::once(bytes as f64 / MIB, 1);
    let state = Cell::text(state);
    section.row(vec![state, mib(memory.rss), mib(memory.pss), mib(memory.anonymous), mib(memory.peak), switches]);
    Ok(())
}

/// The log by itself, read while it is written: single messages by sequence, and scans.
pub(crate) fn reads(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 6] = [
        ("random read p50 us", 1),
        ("random read p99 us", 1),
        ("scan, msgs/s", 0),
        ("scan, MiB/s", 0),
        ("appended meanwhile, msgs/s", 0),
        ("opened again in ms", 1),
    ];
    let note = "The log as a library, 200 B of telemetry, 256 MiB budget, full. Random: one message by its sequence anywhere in the stream, \
        one after another. Scan: from the oldest to the newest, 500 messages or 256 KiB a read. While writing: a thread appends as fast as \
        the log takes it. Opened again: after it was closed in order. Asked: below 200 us for a random read, above 2,000,000 msgs/s for a scan, both while writing.";
    let contenders: Vec<Contender> =
        [(0_u64, "nothing else"), (20_000, "20,000 msgs/s written"), (u64::MAX, "written unpaced")]
            .map(|(size, name)| Contender { kind: Kind::Headwater, variant: name.to_owned(), size })
            .to_vec();
    let budget = context.size(256, 32) << 20;
    let measured = in_turns(context, contenders, &COLUMNS, |contender, round| {
        let bench = super::log::Bench::fill(&round.dir, budget, round.part(budget / 25, 20_000))?;
        let stop = Arc::new(AtomicBool::new(false));
        let writer = (contender.size > 0).then(|| bench.write_until(&stop, contender.size));
        let begin = Instant::now();
        let random = bench.random(round.part(5_000, 100))?;
        let scan = bench.scan()?;
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        let written = writer.map_or(Ok(0), joined)?;
        let opened = milliseconds(bench.open_again(&round.dir, budget)?);
        let us = |share: f64| random.quantile(share).as_secs_f64() * 1e6;
        let appended = written as f64 / took.as_secs_f64();
        Ok(vec![us(0.5), us(0.99), scan.per_second, scan.bytes_per_second / MIB, appended, opened])
    })?;
    let variant = Some("meanwhile");
    Ok(tell(
        &Telling {
            title: "Reading the log",
            note,
            variant,
            columns: &COLUMNS,
            main: Some((2, "scanned messages per second")),
        },
        measured,
    ))
}
