//! A backlog that goes to a hub when the hub comes back: each broker's own way, and Headwater's beside a bare program.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Bridge, Broker, Kind, Settings, free_address};
use headwater_benches::client::{Client, Session};
use headwater_benches::hub::{Hub, prepare};
use headwater_benches::load::{Work, publish};
use headwater_benches::payload::{Numbers, telemetry, topic};
use headwater_benches::plot;
use headwater_benches::report::{Cell, Runs, Section};
use headwater_benches::tally::Tally;

use super::turns::{Column, Contender, Context, MIB, Round, Telling, block_on, in_turns, tell};

/// The longest that a backlog may take to arrive.
const PATIENCE: Duration = Duration::from_secs(240);

/// A backlog of 1 GiB from a broker to a hub of its kind.
pub(crate) fn drain(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 6] = [
        ("msgs/s", 0),
        ("CPU us/msg", 2),
        ("PSS MiB with the backlog", 1),
        ("peak RSS MiB", 1),
        ("back on the link after ms", 0),
        ("missing at the end", 0),
    ];
    let note = "1 GiB of payload (200 B each) is published while the hub is down; then the hub comes up on the same machine. Headwater: \
        uplink to nats-server. nats-server: leaf node, the hub's stream mirrors that of the edge. mosquitto: bridge at QoS 1 to a second \
        mosquitto, where a persistent session takes what comes. The rate is from the first message in the hub to the last; CPU is that of \
        the edge while it drains. It is watched for 240 s at most: what is missing then is told.";
    let programs = context.programs;
    let kinds = [Kind::Headwater, Kind::NatsDefault, Kind::Mosquitto];
    let there = kinds.into_iter().filter(|kind| *kind != Kind::Mosquitto || programs.mosquitto.is_some());
    let messages = context.size((1 << 30) / 200, 20_000);
    let measured = in_turns(context, there.map(Contender::of).collect(), &COLUMNS, |contender, round| {
        let messages = round.part(messages, 4_000) / 20 * 20;
        match contender.kind {
            Kind::Headwater => through_uplink(context, round, messages),
            Kind::NatsDefault => through_leaf(context, round, messages),
            _ => through_bridge(context, round, messages),
        }
    })?;
    let main = Some((0, "messages per second into the hub"));
    Ok(tell(&Telling { title: "A backlog drained to a hub", note, variant: None, columns: &COLUMNS, main }, measured))
}

/// What is told of the edge: memory with the backlog, and the time that it took to drain.
struct Edge {
    broker: Broker,
    backlog_pss: u64,
    before: Duration,
    hub_up: Instant,
}

impl Edge {
    fn filled(broker: Broker, work: Work) -> io::Result<Self> {
        block_on(publish(broker.kind.wire(), broker.address, work))?;
        let backlog_pss = broker.process.memory()?.pss;
        let before = broker.process.cpu()?;
        Ok(Self { broker, backlog_pss, before, hub_up: Instant::now() })
    }

    fn figures(&self, rate: f64, first: Duration, arrived: u64, lost: u64) -> io::Result<Vec<f64>> {
        let cpu = self.broker.process.cpu()?.saturating_sub(self.before);
        Ok(vec![
            rate,
            cpu.as_secs_f64() * 1e6 / arrived as f64,
            self.backlog_pss as f64 / MIB,
            self.broker.process.memory()?.peak as f64 / MIB,
            first.as_secs_f64() * 1e3,
            lost as f64,
        ])
    }
}

fn through_uplink(context: &Context<'_>, round: &Round, messages: u64) -> io::Result<Vec<f64>> {
    let to = free_address()?;
    let bridge = Some(Bridge { to, is_hub: false });
    // Everything must find room: what is measured is the way to the hub.
    let settings = Settings { disk: "4GiB".to_owned(), bridge, ..Settings::default() };
    let edge = context.programs.start_bare(Kind::Headwater, &round.dir.join("edge"), &settings)?;
    let mut edge = Edge::filled(edge, Work::closed(messages))?;
    let hub = Settings { address: Some(to), ..Settings::default() };
    let _hub = context.programs.start_bare(Kind::NatsDefault, &round.dir.join("hub"), &hub)?;
    edge.hub_up = Instant::now();
    arrive(to, messages, &edge)
}

fn through_leaf(context: &Context<'_>, round: &Round, messages: u64) -> io::Result<Vec<f64>> {
    let (address, to) = (free_address()?, free_address()?);
    let hub = Settings { address: Some(address), bridge: Some(Bridge { to, is_hub: true }), ..Settings::default() };
    let dir = round.dir.join("hub");
    let first = context.programs.start_bare(Kind::NatsDefault, &dir, &hub)?;
    block_on(async {
        Hub::connect(&format!("nats://{address}"), Duration::from_secs(10)).await?.make_mirror("BENCH", "edge").await
    })?;
    first.process.terminate()?;
    let settings = Settings { bridge: Some(Bridge { to, is_hub: false }), ..Settings::default() };
    let edge = context.programs.start(Kind::NatsDefault, &round.dir.join("edge"), &settings)?;
    let mut edge = Edge::filled(edge, Work::closed(messages))?;
    let _hub = context.programs.start_bare(Kind::NatsDefault, &dir, &hub)?;
    edge.hub_up = Instant::now();
    arrive(address, messages, &edge)
}

fn through_bridge(context: &Context<'_>, round: &Round, messages: u64) -> io::Result<Vec<f64>> {
    let to = free_address()?;
    let hub = Settings { address: Some(to), ..Settings::default() };
    let dir = round.dir.join("hub");
    // The session must be there before the first message comes: made now, and kept over the restart of the hub.
    let first = context.programs.start_bare(Kind::MosquittoPersistent, &dir, &hub)?;
    block_on(async {
        let mut sink = Client::connect(to, "sink", Session::Kept).await?;
        sink.subscribe("plant/#", 1).await?;
        sink.disconnect().await
    })?;
    first.process.terminate()?;
    let settings = Settings { bridge: Some(Bridge { to, is_hub: false }), ..Settings::default() };
    let edge = context.programs.start_bare(Kind::Mosquitto, &round.dir.join("edge"), &settings)?;
    let epoch = Instant::now();
    let work = Work { marked: Some(epoch), ..Work::closed(messages) };
    let mut edge = Edge::filled(edge, work)?;
    let _hub = context.programs.start_bare(Kind::MosquittoPersistent, &dir, &hub)?;
    edge.hub_up = Instant::now();
    let each = u32::try_from(work.share()).map_err(io::Error::other)?;
    let (tally, taken) = block_on(async {
        let mut sink = Client::connect(to, "sink", Session::Kept).await?;
        let mut tally = Tally::new(work.publishers, each);
        let taken =
            sink.take_until(&mut tally, epoch, Duration::from_secs(30), Some(Instant::now() + PATIENCE)).await?;
        Ok((tally, taken))
    })?;
    let rate = tally.distinct() as f64 / (taken.last - taken.first).as_secs_f64().max(1e-9);
    let first = (epoch + taken.first).saturating_duration_since(edge.hub_up);
    if tally.distinct() == 0 {
        return Err(io::Error::other("nothing reached the hub within 30 s"));
    }
    edge.figures(rate, first, tally.distinct(), tally.lost())
}

/// Waits until the hub's stream holds `messages`, or until it was patient enough.
fn arrive(hub: SocketAddr, messages: u64, edge: &Edge) -> io::Result<Vec<f64>> {
    let arrival = block_on(async {
        let hub = Hub::connect(&format!("nats://{hub}"), Duration::from_secs(10)).await?;
        hub.drain("BENCH", messages, PATIENCE).await
    })?;
    edge.figures(
        arrival.rate,
        arrival.first.saturating_duration_since(edge.hub_up),
        messages - arrival.missing,
        arrival.missing,
    )
}

/// A backlog drained to a single JetStream node, beside a bare program that sends the same batches from memory.
pub(crate) fn backfill(context: &Context<'_>) -> io::Result<Section> {
    let note = "400,000 messages to one local JetStream node, after a round of warm-up. The ratio is taken run by run.";
    let mut section =
        Section::new("Backfill beside a bare program", note, &["sender", "msgs/s", "ratio to the bare program"]);
    let count = context.size(400_000, 10_000);
    let (mut uplink, mut bare, mut ratio) = (Runs::default(), Runs::default(), Runs::default());
    let mut last = Duration::ZERO;
    for round in 0..=context.runs {
        let begin = Instant::now();
        if round > 1 && !context.has_time_for(last) {
            context.say(&format!("no time for more than {} of {} runs", round - 1, context.runs));
            break;
        }
        let count = if round == 0 { (count / 10).max(10_000) } else { count } / 20 * 20;
        let dir = tempfile::tempdir_in(context.data)?;
        let drained = through_uplink(context, &Round { dir: dir.path().to_owned(), share: 1.0 }, count)?;
        let ours = drained[0];
        let dir = tempfile::tempdir_in(context.data)?;
        let server = context.programs.start_bare(Kind::NatsDefault, dir.path(), &Settings::default())?;
        let mut numbers = Numbers::new(0);
        let messages = prepare((0..count).map(|seq| {
            let publisher = usize::try_from(seq % 20).expect("below 20");
            (topic(publisher, 0), telemetry(&mut numbers, publisher, seq))
        }));
        let theirs = block_on(async {
            let hub = Hub::connect(&format!("nats://{}", server.address), Duration::from_secs(10)).await?;
            hub.make_stream("BENCH", "edge.>", None).await?;
            hub.send_batches(&messages, 1_000).await
        })?;
        if round > 0 {
            uplink.push(ours);
            bare.push(theirs);
            ratio.push(ours / theirs);
        }
        last = begin.elapsed();
        context.say(&format!("round {round} of {}: {:.1} s", context.runs, last.as_secs_f64()));
    }
    let bars = [uplink.bar("headwater, from its log"), bare.bar("bare program, from memory")];
    section.plot(plot::bars("Backfill", "messages per second", &bars));
    section.row(vec![Cell::text("headwater, from its log"), Cell::Figure(uplink, 0), Cell::Figure(ratio, 2)]);
    let bare = Cell::Figure(bare, 0);
    section.row(vec![Cell::text("bare async-nats program, from memory"), bare, Cell::once(1.0, 2)]);
    Ok(section)
}
