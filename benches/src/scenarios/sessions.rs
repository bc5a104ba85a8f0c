//! Persistent sessions that are away while messages come, and then all return at once.

use std::io;
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Modes, Settings};
use headwater_benches::client::{Client, Session};
use headwater_benches::load::{Wire, Work, publish};
use headwater_benches::report::Section;
use headwater_benches::tally::Tally;

use super::clients::in_parallel;
use super::turns::{Column, Context, MIB, Telling, block_on, in_turns, tell};

/// What has not come for so long is lost.
const QUIET: Duration = Duration::from_secs(10);

/// N sessions x backlog.
pub(crate) fn offline(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 7] = [
        ("deliveries/s", 0),
        ("lost", 0),
        ("duplicates", 0),
        ("PSS MiB with the backlog", 1),
        ("PSS KiB per queued message", 3),
        ("CPU us/delivery", 2),
        ("peak RSS MiB", 1),
    ];
    let note = "100 persistent sessions subscribe to everything at QoS 1 and leave; 20 publishers send 5,000 messages of 200 B; then all \
        sessions return at once and take their 5,000 each. Deliveries per second from the first CONNECT to the last message, \
        256 handshakes at a time. Lost is what had not come after 10 s of silence, over all sessions. PSS per queued message: growth \
        of memory by the backlog, over messages times sessions.";
    let sessions = usize::try_from(context.size(100, 10)).map_err(io::Error::other)?;
    let backlog = context.size(5_000, 1_000);
    let measured = in_turns(context, context.kinds(Modes::All), &COLUMNS, |contender, round| {
        let broker = context.programs.start_bare(contender.kind, &round.dir, &Settings::default())?;
        let address = broker.mqtt;
        let away = |number: usize| format!("away-{number}");
        block_on(in_parallel(sessions, move |number| async move {
            let mut client = Client::connect(address, &away(number), Session::Kept).await?;
            client.subscribe("plant/#", 1).await?;
            client.disconnect().await
        }))?;
        let epoch = Instant::now();
        let work = Work { marked: Some(epoch), ..Work::closed(round.part(backlog, 200)) };
        let empty = broker.process.memory()?;
        let outcome = block_on(publish(Wire::Mqtt, address, work))?;
        let full = broker.process.memory()?;
        let before = broker.process.cpu()?;
        let each = u32::try_from(work.share()).map_err(io::Error::other)?;
        let begin = epoch.elapsed();
        // All at once: no more are away than may connect at a time, and each is read until it has everything.
        let taken = block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..sessions {
                tasks.spawn(async move {
                    let mut client = Client::connect(address, &away(number), Session::Kept).await?;
                    if !client.session_present {
                        return Err(io::Error::other("the broker has forgotten a session"));
                    }
                    let mut tally = Tally::new(work.publishers, each);
                    let taken = client.take(&mut tally, epoch, QUIET).await?;
                    Ok((tally, taken.last))
                });
            }
            let mut all = Vec::new();
            while let Some(one) = tasks.join_next().await {
                all.push(one.map_err(io::Error::other)??);
            }
            Ok(all)
        })?;
        let deliveries: u64 = taken.iter().map(|(tally, _)| tally.distinct()).sum();
        let end = taken.iter().map(|(_, last)| *last).max().unwrap_or_default();
        let after = broker.process.cpu()?;
        let queued = (outcome.messages * sessions as u64) as f64;
        Ok(vec![
            deliveries as f64 / end.saturating_sub(begin).as_secs_f64().max(1e-9),
            taken.iter().map(|(tally, _)| tally.lost()).sum::<u64>() as f64,
            taken.iter().map(|(tally, _)| tally.duplicates()).sum::<u64>() as f64,
            full.pss as f64 / MIB,
            (full.pss as f64 - empty.pss as f64) / 1024.0 / queued,
            after.saturating_sub(before).as_secs_f64() * 1e6 / deliveries.max(1) as f64,
            broker.process.memory()?.peak as f64 / MIB,
        ])
    })?;
    let main = Some((0, "deliveries per second"));
    Ok(tell(&Telling { title: "Offline sessions that return", note, variant: None, columns: &COLUMNS, main }, measured))
}
