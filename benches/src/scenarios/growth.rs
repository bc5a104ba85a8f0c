//! The same work at 1x, 4x and 16x of one thing: what it costs, and the exponent of the power law that fits.

use std::io;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Bridge, Kind, Modes, Settings, free_address};
use headwater_benches::client::{Client, Session};
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::plot::{self, exponent};
use headwater_benches::report::{Cell, Section};

use super::clients::{connect, growth_curves, in_parallel};
use super::restart;
use super::turns::{
    Column, Contender, Context, MIB, Measured, PROCESS, Round, Telling, block_on, in_turns, process, tell,
};

/// Sizes relative to the smallest.
const STEPS: [u64; 3] = [1, 4, 16];

/// All dimensions, a table each, and the exponents of all together.
pub(crate) fn growth(context: &Context<'_>) -> io::Result<Vec<Section>> {
    let note = "cost = a x size^b, least squares over the logarithms of the medians above. 0: the size costs nothing; 1: twice the size, twice \
        the cost.";
    let mut exponents = Section::new("Growth: fitted exponents", note, &["what grows", "cost", "broker", "exponent b"]);
    let peers = context.kinds(Modes::Default);
    let ours = vec![Contender::of(Kind::Headwater)];
    let mut sections = Vec::new();
    let mut add = |dimension: &Dimension<'_>, contenders: &[Contender], run: &mut Run<'_>| -> io::Result<()> {
        let sizes = STEPS.map(|step| dimension.smallest * step);
        let contenders = Contender::sized(contenders, &sizes, dimension.what);
        let measured = in_turns(context, contenders, dimension.columns, run)?;
        for column in dimension.costs {
            for curve in growth_curves(&measured, *column) {
                if let Some(exponent) = exponent(&curve.points) {
                    let cost = dimension.columns[*column].0;
                    exponents.row(vec![
                        Cell::text(dimension.what),
                        Cell::text(cost),
                        Cell::text(curve.label),
                        Cell::once(exponent, 2),
                    ]);
                }
            }
        }
        sections.push(told(dimension, measured));
        Ok(())
    };

    let ingest = Work::closed(context.size(400_000, 8_000));
    add(
        &Dimension {
            what: "streams",
            note: "Ingest as in its table, the topics spread over so many streams.",
            smallest: 1,
            columns: &PROCESS,
            costs: &[0, 3],
        },
        &ours,
        &mut |contender, round| {
            let streams = usize::try_from(contender.size).map_err(io::Error::other)?;
            load(context, contender, round, &Settings { streams, ..Settings::default() }, ingest)
        },
    )?;
    add(
        &Dimension {
            what: "topics",
            note: "Ingest as in its table, each publisher sending to its topics in turn: so many in all.",
            smallest: 1_000,
            columns: &PROCESS,
            costs: &[0, 3],
        },
        &peers,
        &mut |contender, round| {
            let topics = usize::try_from(contender.size / 20).map_err(io::Error::other)?;
            load(context, contender, round, &Settings::default(), Work { topics, ..ingest })
        },
    )?;
    add(
        &Dimension {
            what: "subscriptions",
            note: "Ingest by MQTT with so many subscriptions of other topics held by 100 clients. A tenth of the messages: what is told is \
                the cost of finding that nobody wants them.",
            smallest: 1_000,
            columns: &PROCESS,
            costs: &[0, 2],
        },
        &peers,
        &mut |contender, round| {
            subscriptions(context, contender, round, Work { messages: ingest.messages / 10, ..ingest })
        },
    )?;
    add(
        &Dimension {
            what: "MiB of backlog",
            note: "So much payload behind an uplink that reaches nobody, then a kill and a restart.",
            smallest: context.size(64, 4),
            columns: &[("first acknowledgement after ms", 1), ("PSS MiB", 1), ("peak RSS MiB", 1)],
            costs: &[0, 1],
        },
        &ours,
        &mut |contender, round| backlog(context, contender, round),
    )?;
    add(
        &Dimension {
            what: "idle clients",
            note: "20 publishers, 2,000 messages per second in all for 5 s, beside so many connected clients that do nothing.",
            smallest: context.size(500, 20),
            columns: &PROCESS,
            costs: &[0, 2],
        },
        &peers,
        &mut |contender, round| beside_idle(context, contender, round),
    )?;
    sections.push(exponents);
    Ok(sections)
}

type Run<'a> = dyn FnMut(&Contender, &Round) -> io::Result<Vec<f64>> + 'a;

struct Dimension<'a> {
    what: &'static str,
    note: &'a str,
    smallest: u64,
    columns: &'a [Column],
    /// Columns that an exponent is fitted to.
    costs: &'a [usize],
}

fn told(dimension: &Dimension<'_>, measured: Vec<Measured>) -> Section {
    let title = format!("Growth: {}", dimension.what);
    let first = dimension.costs[0];
    let mut curves = growth_curves(&measured, first);
    for curve in &mut curves {
        if let Some(exponent) = exponent(&curve.points) {
            curve.label = format!("{} ({exponent:.2})", curve.label);
        }
    }
    let telling =
        Telling { title: &title, note: dimension.note, variant: Some("size"), columns: dimension.columns, main: None };
    let mut section = tell(&telling, measured);
    section.plot(plot::curves(&title, dimension.what, dimension.columns[first].0, &curves));
    section
}

fn load(
    context: &Context<'_>,
    contender: &Contender,
    round: &Round,
    settings: &Settings,
    work: Work,
) -> io::Result<Vec<f64>> {
    let broker = context.programs.start(contender.kind, &round.dir, settings)?;
    let before = broker.process.cpu()?;
    let work = Work { messages: round.part(work.messages, 400), ..work };
    let outcome = block_on(publish(contender.kind.wire(), broker.address, work))?;
    Ok(process(&broker, before, outcome.messages)?.to_vec())
}

fn subscriptions(context: &Context<'_>, contender: &Contender, round: &Round, work: Work) -> io::Result<Vec<f64>> {
    const HOLDERS: u64 = 100;
    let broker = context.programs.start_bare(contender.kind, &round.dir, &Settings::default())?;
    let address = broker.mqtt;
    let each = contender.size / HOLDERS;
    let holders = usize::try_from(HOLDERS).expect("a hundred");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let held = runtime.block_on(in_parallel(holders, move |number| async move {
        let mut client = Client::connect(address, &format!("holder-{number}"), Session::Clean).await?;
        for filter in 0..each {
            // At QoS 0: nats-server refuses a client's third at QoS 1, as its max_ack_pending counts for each.
            client.subscribe(&format!("device/{number}-{filter}/command"), 0).await?;
        }
        Ok(client)
    }))?;
    let before = broker.process.cpu()?;
    let work = Work { messages: round.part(work.messages, 400), ..work };
    let outcome = block_on(publish(Wire::Mqtt, address, work))?;
    let values = process(&broker, before, outcome.messages)?;
    drop(held);
    Ok(values.to_vec())
}

fn backlog(context: &Context<'_>, contender: &Contender, round: &Round) -> io::Result<Vec<f64>> {
    let bridge = Some(Bridge { to: free_address()?, is_hub: false });
    let settings = Settings { disk: "2GiB".into(), bridge, ..Settings::default() };
    let broker = context.programs.start(contender.kind, &round.dir, &settings)?;
    let messages = round.part((contender.size << 20) / 200, 4_000);
    block_on(publish(Wire::Mqtt, broker.address, Work::closed(messages)))?;
    broker.process.kill();
    let begin = Instant::now();
    let broker = context.programs.start(contender.kind, &round.dir, &settings)?;
    restart::first_acknowledgement(&broker)?;
    let took = begin.elapsed();
    let memory = broker.process.memory()?;
    Ok(vec![took.as_secs_f64() * 1e3, memory.pss as f64 / MIB, memory.peak as f64 / MIB])
}

fn beside_idle(context: &Context<'_>, contender: &Contender, round: &Round) -> io::Result<Vec<f64>> {
    let clients = usize::try_from(contender.size).map_err(io::Error::other)?;
    let settings = Settings { clients: clients + 100, ..Settings::default() };
    let broker = context.programs.start_bare(contender.kind, &round.dir, &settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let idle = runtime.block_on(connect(broker.mqtt, "idle", 0..clients))?;
    // What connecting leaves to do is not part of it.
    std::thread::sleep(Duration::from_secs(1));
    let before = broker.process.cpu()?;
    let work = Work::paced(2_000, context.size(5, 1));
    let outcome =
        block_on(publish(Wire::Mqtt, broker.mqtt, Work { messages: round.part(work.messages, 400), ..work }))?;
    let values = process(&broker, before, outcome.messages)?;
    drop(idle);
    Ok(values.to_vec())
}
