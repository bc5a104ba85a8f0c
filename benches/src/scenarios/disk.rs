//! What lands on the disk: how much of it, against what was configured, and how many bytes wear the card.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use headwater_benches::brokers::{Broker, Kind, Settings, metric};
use headwater_benches::device::{LoopDevice, allocated};
use headwater_benches::load::{Work, publish};
use headwater_benches::plot::{self, Curve};
use headwater_benches::report::{Cell, Section};

use super::turns::{Column, Contender, Context, MIB, Telling, apart, block_on, in_turns, joined, tell};

/// The highest that a store becomes while much more is written than it may hold.
pub(crate) fn used(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 3] = [("highest / configured", 3), ("highest, MiB", 1), ("at the end, MiB", 1)];
    let note = "About three times as much as the store may hold, as each stores it. Allocated bytes of everything in the broker's directory, looked at \
        every 20 ms. Configured: headwater's disk.max_bytes, max_bytes of nats-server's stream. mosquitto and rumqttd have no bound for \
        what is on disk.";
    let kinds = [Kind::Headwater, Kind::NatsDefault].map(Contender::of);
    let sizes = [64, 256].map(|mib| context.size(mib, 32));
    let measured = in_turns(context, Contender::sized(&kinds, &sizes, "MiB"), &COLUMNS, |contender, round| {
        let budget = contender.size << 20;
        let settings = Settings { disk: budget.to_string(), stream_bytes: Some(budget), ..Settings::default() };
        let broker = context.programs.start(contender.kind, &round.dir, &settings)?;
        // Headwater stores about 30 bytes of each, nats-server all 200 and its headers.
        let messages = 3 * budget / if contender.kind == Kind::Headwater { 25 } else { 200 };
        let data = round.dir.join(if contender.kind == Kind::Headwater { "data" } else { "nats" });
        let (highest, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let watch = {
            let (highest, stop, data) = (Arc::clone(&highest), Arc::clone(&stop), data.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    highest.fetch_max(allocated(&data).unwrap_or(0), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        };
        let done = block_on(publish(contender.kind.wire(), broker.address, Work::closed(round.part(messages, 4_000))));
        stop.store(true, Ordering::Relaxed);
        watch.join().map_err(|_| io::Error::other("the thread that looks at the disk panicked"))?;
        done?;
        let highest = highest.load(Ordering::Relaxed) as f64;
        Ok(vec![highest / budget as f64, highest / MIB, allocated(&data)? as f64 / MIB])
    })?;
    let main = Some((0, "highest / configured"));
    let variant = Some("configured");
    Ok(tell(&Telling { title: "Disk used against configured", note, variant, columns: &COLUMNS, main }, measured))
}

/// Bytes that reach the block device per payload byte, on ext4 with default options on a loop device.
pub(crate) fn wear(context: &Context<'_>) -> io::Result<Section> {
    const COLUMNS: [Column; 2] = [("device bytes / payload byte", 2), ("messages per sync", 1)];
    let note = "ext4 on a loop device, by the device's own counters, everything included. 64 MiB budget, max_delay 2 ms. Publishers send \
        so many messages, wait for all acknowledgements, send the next. Messages per sync as achieved; 1 for sync always, unknown (0) for \
        nats-server's default.";
    let memory = Path::new("/dev/shm");
    let row = |kind, group: u64| Contender { kind, variant: format!("{group} at once"), size: group };
    let mut contenders: Vec<Contender> = [1, 16, 64, 256].map(|group| row(Kind::Headwater, group)).to_vec();
    contenders.extend([row(Kind::HeadwaterInterval, 64), row(Kind::NatsSyncAlways, 64), row(Kind::NatsDefault, 64)]);
    let measured = in_turns(context, contenders, &COLUMNS, |contender, round| {
        // A group of 256 comes from four publishers: one alone is held back at its receive maximum of 100.
        let (publishers, window) = if contender.size > 64 { (4, contender.size / 4) } else { (1, contender.size) };
        let full = match (contender.kind, contender.size) {
            (Kind::NatsSyncAlways, _) | (_, 1) => 10_000,
            (_, 16) => 100_000,
            _ => 600_000,
        };
        let messages = round.part(context.size(full, 2_000), 400);
        let dir = tempfile::tempdir_in(memory)?;
        let device = LoopDevice::make(&dir.path().join("image"), &dir.path().join("mount"), 2 << 30)?;
        let settings = Settings { disk: "64MiB".into(), max_delay: "2ms".into(), ..Settings::default() };
        let broker = context.programs.start(contender.kind, device.path(), &settings)?;
        // The first messages fill preallocated files and epochs: wear is measured in steady state.
        let warm_up = Work { publishers, window, lockstep: true, ..Work::closed(messages / 2) };
        block_on(publish(contender.kind.wire(), broker.address, warm_up))?;
        let (written, commits) = (device.written()?, commits(&broker)?);
        block_on(publish(contender.kind.wire(), broker.address, Work { messages, ..warm_up }))?;
        let payload = (messages * warm_up.payload_bytes as u64) as f64;
        let values = vec![
            (device.written()? - written) as f64 / payload,
            match contender.kind {
                Kind::Headwater | Kind::HeadwaterInterval => {
                    messages as f64 / (self::commits(&broker)? - commits).max(1.0)
                }
                Kind::NatsSyncAlways => 1.0,
                _ => 0.0,
            },
        ];
        broker.process.kill();
        Ok(values)
    })?;
    let main = Some((0, "device bytes per payload byte"));
    let curves: Vec<Curve> =
        super::clients::growth_curves(&measured, 0).into_iter().filter(|curve| curve.points.len() > 1).collect();
    let title = "Bytes written to the device per payload byte";
    let mut section =
        tell(&Telling { title, note, variant: Some("wanted per sync"), columns: &COLUMNS, main }, measured);
    section.plot(plot::curves(
        "Wear against the size of a group",
        "messages per sync wanted",
        "device bytes / payload byte",
        &curves,
    ));
    Ok(section)
}

fn commits(broker: &Broker) -> io::Result<f64> {
    if broker.kind.is_headwater() { metric(broker.http, "headwater_log_commits_total") } else { Ok(0.0) }
}

/// What a card is rated for here, in terabytes written.
const CARD_TBW: f64 = 20.0;
/// What a commit may wait for more messages, in milliseconds.
const DELAYS: [u32; 4] = [0, 20, 100, 1_000];

/// What `max_delay` does to a card: bytes per payload byte at some rates, and how long a card lives with them.
pub(crate) fn wear_curve(context: &Context<'_>) -> io::Result<Section> {
    let seconds = context.size(60, 5);
    let note = format!(
        "Headwater with a budget of 64 MiB on ext4 on a loop device, by the device's own counters, everything included. 20 publishers \
         send 200 B each at a steady rate for {seconds} s, after as much payload as the store holds; the delays of one rate are measured at \
         the same time, each on a device of its own. What is sealed into epochs comes in steps of minutes at low rates: it is taken out of \
         what was measured and put back as the share that it has in the long run, measured while the store was filled. Life: a card rated \
         for {CARD_TBW} TB written, nothing else on it; twice the rating is twice the life. A card writes more than it is given, by a \
         factor that its maker does not tell."
    );
    let columns = [
        "max_delay",
        "msgs/s",
        "device bytes / payload byte",
        "messages per sync",
        "GB per day",
        "years of a 20 TBW card",
    ];
    let mut section = Section::new("Wear against max_delay", &note, &columns);
    let mut lives: Vec<Curve> = Vec::new();
    let mut wears: Vec<Curve> = Vec::new();
    for rate in [10_u32, 100, 1_000] {
        let mut worn = Vec::new();
        for delay in DELAYS {
            worn.push(Worn::filled(context, delay, context.size(2_700_000, 100_000))?);
        }
        let work = Work::paced(rate, seconds);
        let flowing: Vec<_> =
            worn.iter().map(|worn| apart(publish(worn.broker.kind.wire(), worn.broker.address, work))).collect();
        for thread in flowing {
            joined(thread)?;
        }
        context.say(&format!("{rate} messages per second"));
        let label = format!("{rate} msg/s");
        let (mut life, mut wear) = (Curve { label: label.clone(), points: vec![] }, Curve { label, points: vec![] });
        for worn in worn {
            let (ratio, per_sync) = worn.since_filled(work)?;
            let per_day = ratio * f64::from(rate) * work.payload_bytes as f64 * 86_400.0 / 1e9;
            let years = CARD_TBW * 1_000.0 / per_day / 365.25;
            section.row(vec![
                Cell::text(format!("{} ms", worn.delay)),
                Cell::text(rate.to_string()),
                Cell::once(ratio, 2),
                Cell::once(per_sync, 1),
                Cell::once(per_day, 3),
                Cell::once(years, 1),
            ]);
            // An axis of logarithms has no place for nothing: a delay of 0 is drawn at the millisecond of a sync.
            let delay = f64::from(worn.delay.max(1));
            wear.points.push((delay, ratio));
            life.points.push((delay, years));
        }
        wears.push(wear);
        lives.push(life);
    }
    let across = "max_delay, ms (0 is drawn at 1)";
    section.plot(plot::curves("Wear against max_delay", across, "device bytes / payload byte", &wears));
    section.plot(plot::curves("Life of a card rated for 20 TB written", across, "years", &lives));
    Ok(section)
}

/// A full store on a device of its own. The broker ends before the device is unmounted: fields are dropped in their order.
struct Worn {
    broker: Broker,
    delay: u32,
    written: u64,
    commits: f64,
    sealed: f64,
    /// Bytes that sealing writes per payload byte in the long run.
    share: f64,
    device: LoopDevice,
    _image: tempfile::TempDir,
}

impl Worn {
    fn filled(context: &Context<'_>, delay: u32, messages: u64) -> io::Result<Self> {
        let image = tempfile::tempdir_in(Path::new("/dev/shm"))?;
        let device = LoopDevice::make(&image.path().join("image"), &image.path().join("mount"), 1 << 30)?;
        let settings = Settings { disk: "64MiB".into(), ..Settings::default() };
        // Without a delay: publishers that wait for their acknowledgements would take an hour with one of a second.
        let filling = context.programs.start(Kind::Headwater, device.path(), &settings)?;
        let fill = Work::closed(messages);
        block_on(publish(filling.kind.wire(), filling.address, fill))?;
        let share = sealed(&filling)? / (fill.messages * fill.payload_bytes as u64) as f64;
        filling.process.terminate()?;
        let settings = Settings { max_delay: format!("{delay}ms"), ..settings };
        let broker = context.programs.start(Kind::Headwater, device.path(), &settings)?;
        let sealed = sealed(&broker)?;
        let (written, commits) = (device.written()?, commits(&broker)?);
        Ok(Self { broker, delay, written, commits, sealed, share, device, _image: image })
    }

    /// Bytes on the device per payload byte, and messages per sync.
    fn since_filled(&self, work: Work) -> io::Result<(f64, f64)> {
        let payload = work.messages as f64 * work.payload_bytes as f64;
        let unsealed = (self.device.written()? - self.written) as f64 - (sealed(&self.broker)? - self.sealed);
        let per_sync = work.messages as f64 / (commits(&self.broker)? - self.commits).max(1.0);
        Ok((unsealed.max(0.0) / payload + self.share, per_sync))
    }
}

fn sealed(broker: &Broker) -> io::Result<f64> {
    metric(broker.http, "headwater_log_ingested_bytes_total")
}
