//! One publisher to many subscribers: at QoS 0 at a fixed rate, at QoS 1 as fast as it goes. What is lost is counted.

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Modes, Settings};
use headwater_benches::client::{Client, Session, Taken};
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::process::own_cpu;
use headwater_benches::report::Section;
use headwater_benches::tally::Tally;

use super::turns::{
    Column, Contender, Context, PROCESS, Round, Telling, apart, block_on, in_turns, joined, milliseconds, process, tell,
};

/// What each subscriber got.
type Received = Vec<(Tally, Taken)>;

const PUBLISHERS: usize = 4;
const SUBSCRIBERS: usize = 4;
/// What has not come for so long after the last message is lost.
const QUIET: Duration = Duration::from_secs(5);

const COLUMNS: [Column; 6] = [
    ("deliveries/s", 0),
    ("p50 ms", 2),
    ("p99 ms", 2),
    ("lost", 0),
    ("duplicates", 0),
    ("generator CPU us/delivery", 2),
];

/// 4 publishers x 10,000 messages per second to 4 subscribers of everything.
pub(crate) fn qos_0(context: &Context<'_>) -> io::Result<Section> {
    let note = "4 publishers of 10,000 messages per second each, 100 B, for 5 s, to 4 subscribers of everything, QoS 0, open loop. \
        Latencies are end to end, from when a message was due; lost is over all subscribers. CPU and memory are the broker's, per \
        message published; generator CPU is that of the program that measures. Headwater stores every message.";
    let seconds = context.size(5, 1);
    let columns = [&COLUMNS[..], &PROCESS].concat();
    let measured = in_turns(context, context.kinds(Modes::Default), &columns, |contender, round| {
        let messages = round.part(40_000 * seconds, 4_000);
        let work =
            Work { publishers: PUBLISHERS, qos: 0, payload_bytes: 100, rate: Some(40_000), ..Work::closed(messages) };
        run(context, contender, round, work)
    })?;
    let main = Some((6, "broker CPU, us per message published"));
    Ok(tell(&Telling { title: "Fan-out at QoS 0, paced", note, variant: None, columns: &columns, main }, measured))
}

/// 4 publishers to 4 subscribers of everything, as fast as acknowledgements allow.
pub(crate) fn qos_1(context: &Context<'_>) -> io::Result<Section> {
    let note = "4 publishers, 200 B JSON, window of 50 each, to 4 subscribers of everything, QoS 1 on both sides, unpaced, 100,000 \
        messages (a twentieth where each is synced). Lost is what had not come after 5 s of silence, over all subscribers. Latencies \
        are end to end, from when a message was sent. Headwater also stores every message.";
    let messages = context.size(100_000, 4_000);
    let columns = [&COLUMNS[..], &PROCESS].concat();
    let measured = in_turns(context, context.kinds(Modes::All), &columns, |contender, round| {
        let messages = if contender.kind.syncs_each() { messages.div_ceil(20) } else { messages };
        let work = Work { publishers: PUBLISHERS, ..Work::closed(round.part(messages, 400)) };
        run(context, contender, round, work)
    })?;
    let main = Some((0, "deliveries per second"));
    Ok(tell(&Telling { title: "Fan-out at QoS 1", note, variant: None, columns: &columns, main }, measured))
}

fn run(context: &Context<'_>, contender: &Contender, round: &Round, work: Work) -> io::Result<Vec<f64>> {
    let broker = context.programs.start_bare(contender.kind, &round.dir, &Settings::default())?;
    let epoch = Instant::now();
    let work = Work { marked: Some(epoch), ..work };
    let subscribers = subscribe(broker.mqtt, work, epoch)?;
    let before = broker.process.cpu()?;
    let own = own_cpu()?;
    let begin = epoch.elapsed();
    let outcome = block_on(publish(Wire::Mqtt, broker.mqtt, work))?;
    let taken = joined(subscribers)?;
    let end = taken.iter().map(|(_, taken)| taken.last).max().unwrap_or_default();
    let deliveries: u64 = taken.iter().map(|(tally, _)| tally.distinct()).sum();
    let mut latency = taken[0].0.latency().clone();
    taken[1..].iter().for_each(|(tally, _)| latency.merge(tally.latency()));
    let mut values = vec![
        deliveries as f64 / end.saturating_sub(begin).as_secs_f64().max(1e-9),
        milliseconds(latency.quantile(0.5)),
        milliseconds(latency.quantile(0.99)),
        taken.iter().map(|(tally, _)| tally.lost()).sum::<u64>() as f64,
        taken.iter().map(|(tally, _)| tally.duplicates()).sum::<u64>() as f64,
        (own_cpu()? - own).as_secs_f64() * 1e6 / deliveries.max(1) as f64,
    ];
    values.extend(process(&broker, before, outcome.messages)?);
    Ok(values)
}

/// Subscribers in a thread of their own; returns once all are subscribed.
fn subscribe(address: SocketAddr, work: Work, epoch: Instant) -> io::Result<JoinHandle<io::Result<Received>>> {
    let (ready, subscribed) = mpsc::channel();
    let each = u32::try_from(work.share()).map_err(io::Error::other)?;
    let thread = apart(async move {
        let mut takers = tokio::task::JoinSet::new();
        for number in 0..SUBSCRIBERS {
            let mut client = Client::connect(address, &format!("subscriber-{number}"), Session::Clean).await?;
            client.subscribe("plant/#", work.qos).await?;
            takers.spawn(async move {
                let mut tally = Tally::new(work.publishers, each);
                let taken = client.take(&mut tally, epoch, QUIET).await?;
                Ok::<_, io::Error>((tally, taken))
            });
        }
        // Nobody listens only if the run has failed already.
        let _ = ready.send(());
        let mut all = Vec::new();
        while let Some(one) = takers.join_next().await {
            all.push(one.map_err(io::Error::other)??);
        }
        Ok(all)
    });
    match subscribed.recv() {
        Ok(()) => Ok(thread),
        Err(_) => Err(joined(thread).err().unwrap_or_else(|| io::Error::other("no subscriber was subscribed"))),
    }
}
