//! Stored ingest at QoS 1: as fast as it goes, and at a fixed rate.

use std::io;

use headwater_benches::brokers::{Kind, Modes, Settings};
use headwater_benches::client::{Client, Session};
use headwater_benches::load::{Outcome, Work, publish};
use headwater_benches::report::Section;

use super::turns::{
    Column, Contender, Context, PROCESS, Round, Telling, block_on, in_turns, milliseconds, process, tell,
};

/// 20 publishers, QoS 1, 200 B JSON, window 50, every message stored.
pub(crate) fn ingest(context: &Context<'_>) -> io::Result<Section> {
    let note = "20 publishers, 200 B JSON, window of 50 each, closed loop, 400,000 messages (a twentieth where each is synced). \
        Headwater and nats-server store every message, nats-server by its own protocol with JetStream acknowledgements, the others by \
        MQTT QoS 1. Nobody subscribes, so mosquitto keeps nothing; in its persistence row a session that is away wants all of it.";
    let columns = columns(&[("msgs/s", 0), ("p50 ms", 2), ("p99 ms", 2), ("p99.9 ms", 2)]);
    let messages = context.size(400_000, 4_000);
    let measured = in_turns(context, context.kinds(Modes::All), &columns, |contender, round| {
        let messages = if contender.kind.syncs_each() { messages.div_ceil(20) } else { messages };
        run(context, contender, round, Work::closed(round.part(messages, 400)))
    })?;
    let main = Some((0, "messages per second"));
    Ok(tell(&Telling { title: "Ingest", note, variant: None, columns: &columns, main }, measured))
}

/// The same messages at a modest fixed rate: latency from when each was due.
pub(crate) fn paced(context: &Context<'_>) -> io::Result<Section> {
    let note = "20 publishers, 200 B JSON, 2,000 messages per second in all for 5 s, open loop: a latency counts from when the \
        message was due, so a stall counts for every message behind it. A window of 1,000 per publisher. Look at msgs/s first: \
        who does not keep up has latencies that grow with the length of the run.";
    let columns = columns(&[("p99 ms", 2), ("p50 ms", 2), ("p99.9 ms", 2), ("msgs/s", 0)]);
    let seconds = context.size(5, 1);
    let measured = in_turns(context, context.kinds(Modes::All), &columns, |contender, round| {
        let work = Work::paced(2_000, seconds);
        let mut values = run(context, contender, round, Work { messages: round.part(work.messages, 400), ..work })?;
        values.swap(0, 2);
        values.swap(2, 3);
        Ok(values)
    })?;
    let main = Some((0, "99th percentile, milliseconds"));
    Ok(tell(&Telling { title: "Latency at a fixed rate", note, variant: None, columns: &columns, main }, measured))
}

fn columns(first: &[Column]) -> Vec<Column> {
    [first, &PROCESS].concat()
}

/// Rate, p50, p99, p99.9, and the process.
fn run(context: &Context<'_>, contender: &Contender, round: &Round, work: Work) -> io::Result<Vec<f64>> {
    let broker = context.programs.start(contender.kind, &round.dir, &Settings::default())?;
    if contender.kind == Kind::MosquittoPersistent {
        block_on(async {
            let mut away = Client::connect(broker.mqtt, "away", Session::Kept).await?;
            away.subscribe("plant/#", 1).await?;
            away.disconnect().await
        })?;
    }
    let before = broker.process.cpu()?;
    let Outcome { took, messages, latency } = block_on(publish(contender.kind.wire(), broker.address, work))?;
    let mut values = vec![messages as f64 / took.as_secs_f64()];
    values.extend([0.5, 0.99, 0.999].map(|share| milliseconds(latency.quantile(share))));
    values.extend(process(&broker, before, messages)?);
    Ok(values)
}
