//! Starting with a full store: from the start of the process to the first acknowledgement.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Broker, Kind, Settings, metric};
use headwater_benches::client::{Client, Session};
use headwater_benches::device::allocated;
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::report::Section;

use super::turns::{Column, Contender, Context, MIB, Telling, block_on, in_turns, milliseconds, tell};

/// The store that is to be full.
const BYTES: u64 = 256 << 20;

/// Restart with a full store of 256 MiB.
pub(crate) fn restart(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 5] = [
        ("first acknowledgement after ms", 1),
        ("peak RSS MiB until then", 1),
        ("PSS MiB", 1),
        ("disk in use, MiB", 0),
        ("CPU ms", 0),
    ];
    let note = "From the start of the process to the first acknowledgement of a message, with a store of 256 MiB that was filled before. \
        headwater and nats-server were killed (SIGKILL). mosquitto would have lost everything since its last save: it was ended in order \
        (SIGTERM), with as much payload queued for a session that is away.";
    let kinds = [Kind::Headwater, Kind::NatsSyncAlways, Kind::NatsDefault, Kind::MosquittoPersistent];
    let there =
        kinds.into_iter().filter(|kind| *kind != Kind::MosquittoPersistent || context.programs.mosquitto.is_some());
    let stores = tempfile::tempdir_in(context.data)?;
    let settings = settings(context);
    let dir = |kind: Kind| stores.path().join(kind.to_string());
    let mut filled: Vec<Kind> = Vec::new();
    let measured = in_turns(context, there.map(Contender::of).collect(), &COLUMNS, |contender, _| {
        let (kind, dir) = (contender.kind, dir(contender.kind));
        if !filled.contains(&kind) {
            fill(context, kind, &dir, &settings)?;
            filled.push(kind);
        }
        let begin = Instant::now();
        let broker = context.programs.start_bare(kind, &dir, &settings)?;
        first_acknowledgement(&broker)?;
        let took = begin.elapsed();
        let memory = broker.process.memory()?;
        let values = vec![
            milliseconds(took),
            memory.peak as f64 / MIB,
            memory.pss as f64 / MIB,
            allocated(&dir)? as f64 / MIB,
            milliseconds(broker.process.cpu()?),
        ];
        end(broker)?;
        Ok(values)
    })?;
    let main = Some((0, "milliseconds to the first acknowledgement"));
    Ok(tell(&Telling { title: "Restart with a full store", note, variant: None, columns: &COLUMNS, main }, measured))
}

fn settings(context: &Context<'_>) -> Settings {
    let bytes = context.size(BYTES, 32 << 20);
    Settings { disk: bytes.to_string(), stream_bytes: Some(bytes), ..Settings::default() }
}

/// Fills the store of `kind` in `dir` and ends the broker as the scenario says.
fn fill(context: &Context<'_>, kind: Kind, dir: &Path, settings: &Settings) -> io::Result<()> {
    let budget: u64 = settings.disk.parse().map_err(io::Error::other)?;
    match kind {
        Kind::Headwater | Kind::HeadwaterInterval => {
            let broker = context.programs.start(kind, dir, settings)?;
            let full = 0.9 * budget as f64;
            let mut held = 0.0;
            while held < full {
                block_on(publish(Wire::Mqtt, broker.address, Work::closed(budget / 130 / 20 * 20)))?;
                let before = std::mem::replace(&mut held, metric(broker.http, "headwater_disk_used_bytes")?);
                if held < full && held <= before {
                    return Err(io::Error::other(format!(
                        "the log stays at {:.0} MiB and does not become full",
                        held / MIB
                    )));
                }
            }
            broker.process.kill();
        }
        Kind::NatsSyncAlways | Kind::NatsDefault => {
            // Without a sync for each: the files are the same, and 256 MiB would take an hour with it.
            let broker = context.programs.start(Kind::NatsDefault, dir, settings)?;
            block_on(publish(Wire::JetStream, broker.address, Work::closed(budget / 200 / 20 * 20)))?;
            broker.process.kill();
        }
        _ => {
            let broker = context.programs.start(kind, dir, settings)?;
            block_on(async {
                let mut away = Client::connect(broker.mqtt, "away", Session::Kept).await?;
                away.subscribe("plant/#", 1).await?;
                away.disconnect().await?;
                publish(Wire::Mqtt, broker.mqtt, Work::closed(budget / 200 / 20 * 20)).await
            })?;
            broker.process.terminate()?;
        }
    }
    Ok(())
}

fn end(broker: Broker) -> io::Result<()> {
    match broker.kind {
        Kind::MosquittoPersistent => broker.process.terminate(),
        _ => {
            broker.process.kill();
            Ok(())
        }
    }
}

/// Publishes one message until it is acknowledged: a broker may listen before its store is ready.
pub(crate) fn first_acknowledgement(broker: &Broker) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let work = Work { publishers: 1, ..Work::closed(1) };
        let answer = block_on(async {
            let patience = Duration::from_secs(10);
            let once = publish(broker.kind.wire(), broker.address, work);
            tokio::time::timeout(patience, once).await.map_err(io::Error::other)?
        });
        match answer {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}
