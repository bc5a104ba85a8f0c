//! Many clients: fan-in from a thousand, thousands that are idle, thousands that connect at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Modes, Settings};
use headwater_benches::client::{Client, Session};
use headwater_benches::load::{Wire, Work, publish, publish_until};
use headwater_benches::plot::{self, Curve};
use headwater_benches::report::{Runs, Section};

use super::turns::{
    Column, Contender, Context, MIB, Measured, PROCESS, Telling, apart, block_on, in_turns, joined, milliseconds,
    process, tell,
};

/// Connections that are being made at once: more would only queue in the kernel.
const AT_ONCE: usize = 256;

/// 1,000 publishers of one message each per 100 ms.
pub(crate) fn fan_in(context: &Context<'_>) -> io::Result<Section> {
    let note = "1,000 clients, each publishing a message of 200 B at QoS 1 every 100 ms (10,000 per second in all) for 10 s, open loop. \
        By MQTT for every broker; nats-server stores in the stream of its MQTT.";
    let clients = usize::try_from(context.size(1_000, 50)).map_err(io::Error::other)?;
    let rate = u32::try_from(clients * 10).map_err(io::Error::other)?;
    let seconds = context.size(10, 1);
    let columns = [&[("p99 ms", 2), ("p50 ms", 2), ("msgs/s", 0)][..], &PROCESS].concat();
    let measured = in_turns(context, context.kinds(Modes::All), &columns, |contender, round| {
        let broker = context.programs.start_bare(contender.kind, &round.dir, &Settings::default())?;
        let messages = round.part(u64::from(rate) * seconds, clients as u64);
        // A window of ten: devices that wait for their acknowledgements.
        let work = Work { publishers: clients, messages, window: 10, ..Work::paced(rate, seconds) };
        let before = broker.process.cpu()?;
        let outcome = block_on(publish(Wire::Mqtt, broker.mqtt, work))?;
        let mut values = vec![
            milliseconds(outcome.latency.quantile(0.99)),
            milliseconds(outcome.latency.quantile(0.5)),
            outcome.messages as f64 / outcome.took.as_secs_f64(),
        ];
        values.extend(process(&broker, before, outcome.messages)?);
        Ok(values)
    })?;
    let main = Some((0, "99th percentile, milliseconds"));
    Ok(tell(&Telling { title: "Fan-in", note, variant: None, columns: &columns, main }, measured))
}

/// Memory of clients that wait for a command that does not come, how often the broker wakes up for them, and what they cost others.
pub(crate) fn idle(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 7] = [
        ("PSS MiB", 1),
        ("PSS bytes per client", 0),
        ("RSS MiB", 1),
        ("context switches/s", 2),
        ("connected per second", 0),
        ("telemetry p99 before, ms", 2),
        ("telemetry p99 beside them, ms", 2),
    ];
    let mut note = "Clients with a clean session, one subscription at QoS 1 and a keep alive of ten minutes that do nothing more; figures \
        over 5 s, taken 2 s after the last SUBACK. PSS per client is against the same process before. Then 20 publishers send 1,000 \
        messages per second in all (QoS 1, open loop) for 3 s beside them; before: the same without them, in front of all else. The goals \
        for Headwater are at most 1,800 bytes per client at 5,000 and below 2 context switches per second."
        .to_owned();
    let mut sizes = [0, 1_000, 5_000, 20_000].map(|size| context.size(size, size.min(20))).to_vec();
    // The generator has as many sockets as the broker; both have some files beside them.
    let most = context.descriptors.saturating_sub(200);
    if sizes.iter().any(|size| *size > most) {
        note += &format!(" The limit on file descriptors, {}, makes {most} the most here.", context.descriptors);
        sizes.iter_mut().for_each(|size| *size = most.min(*size));
        sizes.dedup();
    }
    let contenders = Contender::sized(&context.kinds(Modes::Default), &sizes, "clients");
    let measured = in_turns(context, contenders, &COLUMNS, |contender, round| {
        let count = if round.share < 1.0 { contender.size / 10 } else { contender.size };
        let clients = usize::try_from(count).map_err(io::Error::other)?;
        let telemetry = Work::paced(1_000, 3);
        let telemetry = Work { messages: round.part(telemetry.messages, 200), ..telemetry };
        let settings = Settings { clients: clients + telemetry.publishers, ..Settings::default() };
        let broker = context.programs.start_bare(contender.kind, &round.dir, &settings)?;
        let alone = block_on(publish(Wire::Mqtt, broker.mqtt, telemetry))?;
        let before = broker.process.memory()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let begin = Instant::now();
        let connected = runtime.block_on(connect_and_subscribe(broker.mqtt, "idle", clients))?;
        let took = begin.elapsed();
        let (settle, watch) = if round.share < 1.0 { (100, 100) } else { (2_000, 5_000) };
        std::thread::sleep(Duration::from_millis(settle));
        let switches = broker.process.switches_per_second(Duration::from_millis(watch))?;
        let memory = broker.process.memory()?;
        let beside = block_on(publish(Wire::Mqtt, broker.mqtt, telemetry))?;
        drop(connected);
        let each = (memory.pss as f64 - before.pss as f64) / clients.max(1) as f64;
        Ok(vec![
            memory.pss as f64 / MIB,
            if clients == 0 { 0.0 } else { each },
            memory.rss as f64 / MIB,
            switches,
            clients as f64 / took.as_secs_f64(),
            milliseconds(alone.latency.quantile(0.99)),
            milliseconds(beside.latency.quantile(0.99)),
        ])
    })?;
    let drawing = growth_curves(&measured, 0);
    let variant = Some("clients");
    let mut section = tell(
        &Telling { title: "Idle clients", note: &note, variant, columns: &COLUMNS, main: Some((0, "PSS, MiB")) },
        measured,
    );
    section.plot(plot::curves("Memory of idle clients", "clients", "PSS, MiB", &drawing));
    Ok(section)
}

/// Median of `column` against size, one curve a broker.
pub(crate) fn growth_curves(measured: &[Measured], column: usize) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for one in measured {
        let Some(median) = one.runs(column).map(Runs::median) else { continue };
        let (label, point) = (one.contender.kind.to_string(), (one.contender.size as f64, median));
        match curves.iter_mut().find(|curve| curve.label == label) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { label, points: vec![point] }),
        }
    }
    curves
}

/// 5,000 clients lose their link and come back at once, while telemetry flows.
pub(crate) fn storm(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 5] = [
        ("back after ms", 0),
        ("telemetry p99 before, ms", 2),
        ("telemetry p99 in the storm, ms", 2),
        ("telemetry longest in the storm, ms", 1),
        ("peak RSS MiB", 1),
    ];
    let clients = usize::try_from(context.size(5_000, 50)).map_err(io::Error::other)?;
    let note = "5,000 clients with a subscription each are cut off and all connect and subscribe again at once, 256 handshakes at a time, \
        while 20 publishers send 2,000 messages per second in all (QoS 1, open loop, a thread of its own). Before: 3 s without a storm. \
        Handshakes and telemetry share two processors with the broker, the same for all.";
    let telemetry = Work::paced(2_000, 3);
    let measured = in_turns(context, context.kinds(Modes::Default), &COLUMNS, |contender, round| {
        let clients = usize::try_from(round.part(clients as u64, 20)).map_err(io::Error::other)?;
        let settings = Settings { clients: clients + 100, ..Settings::default() };
        let broker = context.programs.start_bare(contender.kind, &round.dir, &settings)?;
        let address = broker.mqtt;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connected = runtime.block_on(connect_and_subscribe(address, "storm", clients))?;
        let messages = round.part(telemetry.messages, 200);
        let calm = joined(apart(publish(Wire::Mqtt, address, Work { messages, ..telemetry })))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flowing = {
            let stop = Arc::clone(&stop);
            // Longer than any storm: it is stopped when the storm is over.
            let work = Work { messages: u64::from(u32::MAX), ..telemetry };
            apart(async move { publish_until(Wire::Mqtt, address, work, &stop).await })
        };
        std::thread::sleep(Duration::from_millis(200));
        drop(connected);
        let begin = Instant::now();
        let back = runtime.block_on(connect_and_subscribe(address, "storm", clients));
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        let stormy = joined(flowing)?;
        let values = vec![
            milliseconds(took),
            milliseconds(calm.latency.quantile(0.99)),
            milliseconds(stormy.latency.quantile(0.99)),
            milliseconds(stormy.latency.quantile(1.0)),
            broker.process.memory()?.peak as f64 / MIB,
        ];
        drop(back?);
        Ok(values)
    })?;
    let main = Some((0, "milliseconds until all are back"));
    Ok(tell(&Telling { title: "Connect storm", note, variant: None, columns: &COLUMNS, main }, measured))
}

async fn connect_and_subscribe(address: SocketAddr, name: &'static str, clients: usize) -> io::Result<Vec<Client>> {
    in_parallel(clients, move |number| async move {
        let mut client = Client::connect(address, &format!("{name}-{number}"), Session::Clean).await?;
        client.subscribe(&format!("device/{name}-{number}/command"), 1).await?;
        Ok(client)
    })
    .await
}

/// Connects clean sessions `name-N` for the numbers.
pub(crate) async fn connect(
    address: SocketAddr,
    name: &str,
    numbers: std::ops::Range<usize>,
) -> io::Result<Vec<Client>> {
    let name = name.to_owned();
    let first = numbers.start;
    in_parallel(numbers.len(), move |number| {
        let id = format!("{name}-{}", first + number);
        async move { Client::connect(address, &id, Session::Clean).await }
    })
    .await
}

/// Does `one` for each number below `count`, [`AT_ONCE`] at a time, in no promised order.
pub(crate) async fn in_parallel<T, F>(count: usize, mut one: impl FnMut(usize) -> F) -> io::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut tasks = tokio::task::JoinSet::new();
    let mut done = Vec::with_capacity(count);
    for number in 0..count {
        if tasks.len() >= AT_ONCE
            && let Some(finished) = tasks.join_next().await
        {
            done.push(finished.map_err(io::Error::other)??);
        }
        tasks.spawn(one(number));
    }
    while let Some(finished) = tasks.join_next().await {
        done.push(finished.map_err(io::Error::other)??);
    }
    Ok(done)
}
