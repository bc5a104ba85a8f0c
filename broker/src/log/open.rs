//! Opening: locks the directory, finds what the epochs hold, replays the frames behind them, and applies the configuration.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Condvar, Mutex};

use rustix::fs::FlockOperation;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::block::OpenBlock;
use super::cache::Cache;
use super::core::{Core, EpochCore};
use super::disk;
use super::drops::{DropNote, Drops};
use super::ends::{Ends, Note};
use super::frame::unpack;
use super::group::Span;
use super::held::{Piece, Source};
use super::layout::{
    INDEX_STREAM, INDEX_VERSION, LOSSES, META_VERSION, Meta, SNAPSHOT_VERSION, Snapshot, TABLE_BASE, TAG_PUT, decode,
    key,
};
use super::plan::{Sizes, effective_budget};
use super::pulse::Pulse;
use super::records::{FrameRecords, Record};
use super::shared::{Content, Shared};
use super::staging::{self, Found, SlotId, Staging, scan};
use super::store::{self, Salvaged, Store, StoreError};
use super::stream::{Seq, StreamId};
use super::tables::{Live, Place};
use super::tail::Stage;
use super::wear::Meter;
use super::{DamagedPlace, DurableMark, LogConfig, OpenError, OpenReport, Ticket};
use super::{format, quarantine};

/// Opens everything but the threads.
pub(super) fn open(config: LogConfig, sizes: Sizes) -> Result<(Shared, OpenReport), OpenError> {
    check(&config)?;
    let dir = config.dir.clone();
    make_folder(&dir).map_err(|e| not_writable(&dir, &e))?;
    let lock = lock(&dir)?;
    let mut report = OpenReport::default();
    let (seed, found) = format::open(&dir)?;
    report.created = found == format::Found::Nothing;
    report.format_damaged = matches!(found, format::Found::Restored | format::Found::Lost);
    // IMPORTANT: before anything else is made. After a kill FORMAT may have its name in the kernel's memory only, and a power cut that
    // takes it and leaves what came later leaves a directory that nobody can read.
    File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|e| not_writable(&dir, &e))?;
    let mut core = Core::new(sizes, seed);

    let (store, lost_behind) = open_store(&dir, &mut report)?;
    let cannot_open = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull => OpenError::DiskFull { dir: dir.clone() },
        _ => not_writable(&dir, &e),
    };
    let (drops, dropped) = Drops::open(&dir, seed).map_err(cannot_open)?;
    load_epochs(&store, dropped.as_ref(), &lost_behind, &mut core, &mut report)
        .map_err(|e| OpenError::Storage(e.to_string()))?;

    if found == format::Found::Lost {
        // No sequence may come twice, and who had them must be told that they are gone.
        for (id, end) in staging::unchecked_ends(&dir).map_err(cannot_open)? {
            if let Some(stream) = core.streams.get_mut(id as usize) {
                stream.next = stream.next.max(end);
            }
        }
    }
    let staging = Staging::open(&dir, sizes.slot_bytes, room(&config).map_err(cannot_open)?).map_err(cannot_open)?;
    core.sizes = sizes.with_slots(staging.slot_bytes());
    let (ends, note) = Ends::open(&dir, seed).map_err(cannot_open)?;
    replay(&staging, note.group, &mut core, &mut report).map_err(|e| OpenError::Storage(e.to_string()))?;
    apply_note(&note, &mut core, &mut report);
    if let Some(dropped) = dropped {
        core.apply_drop(dropped);
    }
    for slot in [SlotId::A, SlotId::B] {
        if core.tail.slot(slot).used <= staging.slot_bytes() {
            staging.shorten(slot).map_err(cannot_open)?;
        }
    }

    let id = config.clock.boot_id().map_or(0, |id| xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), seed) | 1);
    report.boot = core.boots.begin(id, &config.clock.read());
    core.metas.extend(core.boots.record().map(Meta::Boot));

    let saved: Vec<u64> = core.streams.iter().map(|s| s.held.known_first).collect();
    // An epoch or the last note may remember sequences that were durable in a frame that is now damaged, with no frame behind it that
    // shows the hole.
    let reached: Vec<(u64, u64)> = core.streams.iter().map(|s| (s.durable_next.max(s.held.first), s.next)).collect();
    // An epoch is written only once there is a frame behind it: where there is none, frames are missing that no number tells of.
    if found == format::Found::Lost || anything_lost(&report) || report.frames_replayed == 0 {
        for (id, (found, known)) in (0u32..).zip(reached).filter(|(_, (found, known))| found < known) {
            note_damage(&mut core, id, found, known - 1, &mut report);
        }
    }
    for stream in &mut core.streams {
        stream.held.settle_known();
        stream.next = stream.next.max(stream.durable_next);
        stream.durable_next = stream.next;
        if stream.held.msgs == 0 {
            stream.held.first = stream.held.first.max(stream.next);
        }
    }
    charge_dropped(&mut core, &saved);
    for stream in &config.streams {
        if core.streams.len() >= super::core::MAX_STREAMS && !core.names.contains_key(&stream.name) {
            return Err(OpenError::Config(format!(
                "stream \"{}\": more than {} streams were ever made in this data directory",
                stream.name,
                super::core::MAX_STREAMS
            )));
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| OpenError::Storage(e.to_string()))?;
        core.configure(stream.clone(), || u64::from_le_bytes(random));
    }
    core.must_commit = !core.metas.is_empty();
    core.counters.disk_used = disk::allocated(&dir, None).map_err(|e| not_writable(&dir, &e))?;
    report.epochs = core.epochs.len() as u64;
    report.disk_used_bytes = core.counters.disk_used;

    let mut meter = Meter::new(note.wear, config.clock.monotonic());
    if report.created {
        meter.add(config.clock.monotonic(), 2 * staging.slot_bytes(), 0);
    }
    let shared = Shared {
        core: Mutex::new(core),
        writer_wake: Condvar::new(),
        sealer_wake: Condvar::new(),
        room: Notify::new(),
        mark: watch::Sender::new(DurableMark { ticket: Ticket(0), failed: false }),
        pulse: Pulse::default(),
        store,
        staging,
        ends,
        drops,
        cache: Mutex::new(Cache::default()),
        wear: Mutex::new(meter),
        clock: config.clock,
        dir,
        max_bytes: config.max_bytes,
        min_free: config.min_free,
        ack: config.ack,
        max_delay: config.max_delay,
        codec: config.codec,
        seed,
        _lock: lock,
    };
    settle(&shared, &saved);
    Ok((shared, report))
}

/// Opens the epochs. If they do not open as they are, what is whole of them is opened, and the rest is set aside; then also the epochs
/// behind which one is lost (0: before the first).
fn open_store(dir: &Path, report: &mut OpenReport) -> Result<(Store, Vec<u32>), OpenError> {
    let (path, salvage) = (dir.join("store"), dir.join("store.salvaged"));
    let storage = |error: StoreError| match error {
        StoreError::Full => OpenError::DiskFull { dir: dir.to_owned() },
        other => OpenError::Storage(other.to_string()),
    };
    // The last start ended between the two renames below.
    if !path.exists() && salvage.exists() {
        fs::rename(&salvage, &path).map_err(|e| not_writable(dir, &e))?;
    }
    let what = match Store::open(&path) {
        Ok(store) => return Ok((store, Vec::new())),
        Err(StoreError::Damaged(what)) => what,
        Err(error) => return Err(storage(error)),
    };
    let salvaged = match store::salvage(&path, &salvage) {
        Err(StoreError::Full) => return Err(storage(StoreError::Full)),
        // Such as a filesystem without links: then there is a new store, and all of the old one is set aside.
        Err(error) => {
            error!(%error, "nothing of the epochs could be kept");
            fs::remove_dir_all(&salvage).map_err(|e| not_writable(dir, &e))?;
            Store::open(&salvage).map_err(storage)?;
            Salvaged::default()
        }
        Ok(salvaged) => salvaged,
    };
    let aside = quarantine::set_aside(dir, &path).map_err(|e| not_writable(dir, &e))?;
    fs::rename(&salvage, &path).and_then(|()| File::open(dir)?.sync_all()).map_err(|e| not_writable(dir, &e))?;
    store::give_up_links(&aside, &path).map_err(|e| not_writable(dir, &e))?;
    let (kept, lost) = (salvaged.kept, salvaged.lost_behind.len());
    error!(what, kept, lost, moved_to = %aside.display(), "the epochs could not be opened; what is whole of them was kept, the rest was set aside");
    report.quarantined = Some(aside);
    Store::open(&path).map(|store| (store, salvaged.lost_behind)).map_err(storage)
}

/// Makes the data directory, and those above it that are missing, so that a power cut does not take their names.
fn make_folder(dir: &Path) -> io::Result<()> {
    let above = match dir.parent() {
        Some(above) if above == Path::new("") => Path::new("."),
        Some(above) => above,
        None => return Ok(()),
    };
    if !dir.is_dir() {
        if !above.is_dir() {
            make_folder(above)?;
        }
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    } else if dir.join("FORMAT").exists() {
        return Ok(());
    }
    // Also where it exists and is empty: who made it may not have come this far. What we may not read was not made by us.
    match File::open(above) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        above => above?.sync_all(),
    }
}

fn check(config: &LogConfig) -> Result<(), OpenError> {
    for (at, stream) in config.streams.iter().enumerate() {
        let name = &stream.name;
        let rest = name.strip_prefix('$').unwrap_or(name);
        let good = (1..=64).contains(&name.len())
            && !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !good {
            return Err(OpenError::Config(format!(
                "stream name \"{name}\": 1 to 64 characters of A-Z a-z 0-9 _ - are allowed"
            )));
        }
        if config.streams[..at].iter().any(|s| s.name == *name) {
            return Err(OpenError::Config(format!("stream \"{name}\" is configured twice")));
        }
    }
    Ok(())
}

/// Bytes that the log may take beyond what it has.
fn room(config: &LogConfig) -> io::Result<u64> {
    let used = disk::allocated(&config.dir, None)?;
    let available = disk::available(&config.dir)?;
    Ok(effective_budget(config.max_bytes, used, available, config.min_free).saturating_sub(used))
}

pub(super) fn not_writable(dir: &Path, error: &io::Error) -> OpenError {
    OpenError::NotWritable { dir: dir.to_owned(), error: error.to_string() }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("LOCK");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open.map_err(|e| not_writable(dir, &e))?;
    take_lock(&mut file, dir, FlockOperation::NonBlockingLockExclusive)?;
    let pid = std::process::id();
    match file.set_len(0).and_then(|()| writeln!(file, "{pid}")) {
        // The number is for people only: a full disk must not keep the log, which makes room, from opening.
        Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(not_writable(dir, &error)),
        _ => Ok(file),
    }
}

/// Locks the open `LOCK` of a directory for as long as the file lives, without waiting.
pub(super) fn take_lock(file: &mut File, dir: &Path, how: FlockOperation) -> Result<(), OpenError> {
    match rustix::fs::flock(&*file, how) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Only to name the other process.
            let _unreadable = file.read_to_string(&mut text);
            Err(OpenError::Locked { dir: dir.to_owned(), pid: text.trim().parse().ok() })
        }
        Err(error) => Err(not_writable(dir, &error.into())),
    }
}

/// Takes over the index of every epoch, and the newest snapshot.
fn load_epochs(
    store: &Store,
    dropped: Option<&DropNote>,
    lost_behind: &[u32],
    core: &mut Core,
    report: &mut OpenReport,
) -> Result<(), StoreError> {
    let epochs = store.epochs()?;
    for &(number, _) in epochs.iter().rev() {
        // Should the newest not be readable, an older one knows all but the latest streams.
        match store.value(&key(number, INDEX_STREAM, 1)) {
            Ok(Some(value)) => {
                if let Some((snapshot, rest)) = decode::<Snapshot>(SNAPSHOT_VERSION, &value) {
                    core.apply_snapshot(snapshot, rest);
                    break;
                }
            }
            Ok(None) | Err(StoreError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        warn!(epoch = number, "the state saved in an epoch cannot be read");
    }
    report.damaged_epochs += lost_behind.len() as u64;
    let mut holes = vec![lost_behind.contains(&0); core.streams.len()];
    let from_first = lost_behind.contains(&0);
    for (number, disk_bytes) in epochs {
        if lost_behind.contains(&(core.next_epoch - 1)) {
            holes.fill(true);
        }
        core.next_epoch = number + 1;
        let index = match store.value(&key(number, INDEX_STREAM, 0)) {
            Ok(value) => value.and_then(|v| decode(INDEX_VERSION, &v).map(|(index, _)| index)),
            Err(StoreError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let index: Option<super::layout::EpochIndex> = index;
        let table_records = index.as_ref().map_or(1, |i| i.tables.iter().map(|t| t.records).sum());
        let last_group = index.as_ref().map_or(0, |i| i.last_group);
        if dropped.is_some_and(|d| (d.epoch, d.last_group) == (number, last_group)) {
            core.condemned = Some(number);
            continue;
        }
        core.epochs.push_back(EpochCore { number, disk_bytes, last_group, table_records });
        let Some(index) = index else {
            error!(epoch = number, "the index of an epoch cannot be read; what it holds is reported as damaged");
            report.damaged_epochs += 1;
            holes.fill(true);
            continue;
        };
        core.last_sealed_group = core.last_sealed_group.max(index.last_group);
        for entry in &index.streams {
            let Some(stream) = core.streams.get_mut(entry.id as usize) else { continue };
            let expected = stream.durable_next.max(stream.held.first);
            if std::mem::take(&mut holes[entry.id as usize])
                && entry.first > expected
                && (from_first || stream.durable_next > 1)
            {
                note_damage(core, entry.id, expected, entry.first - 1, report);
            }
            let Some(stream) = core.streams.get_mut(entry.id as usize) else { continue };
            let source = Source::Epoch(number);
            stream.held.supersede(entry.first);
            stream.held.add(Piece {
                source,
                first: entry.first,
                last: entry.last,
                msgs: entry.msgs,
                bytes: entry.bytes,
            });
            stream.durable_next = stream.durable_next.max(entry.last + 1);
        }
        for table in &index.tables {
            let mut first = 0;
            for step in &table.blocks {
                first += step;
                load_table_block(store, core, number, table.table, first)?;
            }
        }
    }
    core.next_group = core.last_sealed_group + 1;
    Ok(())
}

fn load_table_block(store: &Store, core: &mut Core, epoch: u32, table: u8, first: u64) -> Result<(), StoreError> {
    let value = match store.value(&key(epoch, TABLE_BASE + u32::from(table), first)) {
        Ok(value) => value.and_then(|v| OpenBlock::open(first, &v)),
        Err(StoreError::Damaged(_)) => None,
        Err(error) => return Err(error),
    };
    let Some(block) = value else {
        error!(epoch, table, "a block of table records cannot be read; older values of its keys show instead");
        return Ok(());
    };
    for record in block.messages().map_while(Result::ok) {
        let hash = core.hash(record.subject);
        let place = Place::Epoch { epoch, ordinal: u32::try_from(record.seq).unwrap_or(u32::MAX) };
        let bytes = u32::try_from(record.bytes()).unwrap_or(u32::MAX);
        core.tables.set(table, hash, (record.tag == TAG_PUT).then_some(Live { place, bytes }));
        if table == LOSSES {
            core.losses.restore_value(record.payload);
        }
    }
    Ok(())
}

/// Whether groups or epochs are missing so far that nobody dropped. If not, messages that are missing were discarded: what dropped them may
/// be said nowhere any more but by the epochs that are there, or only in a frame that is still to be replayed.
fn anything_lost(report: &OpenReport) -> bool {
    report.frames_lost > 0 || report.damaged_epochs > 0 || report.quarantined.is_some()
}

fn note_damage(core: &mut Core, id: u32, first: u64, last: u64, report: &mut OpenReport) {
    let stream = core.stream_mut(StreamId(id));
    if !stream.note_damage(first, last) {
        return;
    }
    error!(stream = stream.name, first, last, "messages are damaged; readers get a gap");
    report.damaged.push(DamagedPlace { stream: stream.name.clone(), first: Seq(first), last: Seq(last) });
    core.counters.damaged_msgs += last - first + 1;
    core.metas.push_back(Meta::Damage { stream: id, first, last });
}

/// Applies the frames that no epoch contains. Of the groups up to `durable`, those that were written are known to be on disk.
fn replay(staging: &Staging, durable: u64, core: &mut Core, report: &mut OpenReport) -> io::Result<()> {
    let slots = [(SlotId::A, staging.read(SlotId::A)?), (SlotId::B, staging.read(SlotId::B)?)];
    let after = core.last_sealed_group;
    let mut scans: Vec<(SlotId, super::staging::Scan<'_>)> =
        slots.iter().map(|(slot, bytes)| (*slot, scan(bytes, core.seed, after))).collect();
    scans.sort_by_key(|(_, scan)| scan.frames.last().map_or(0, |f| f.header.group));
    let mut raw = Vec::new();
    let newest = scans.last().map(|(slot, _)| *slot);
    for (slot, scan) in &scans {
        report.bytes_cut += scan.cut_bytes;
        let Some(last) = scan.frames.last() else { continue };
        let tail = core.tail.slot_mut(*slot);
        tail.stage = if newest == Some(*slot) { Stage::Active } else { Stage::Sealed };
        tail.generation = last.header.generation;
        core.next_generation = core.next_generation.max(last.header.generation + 1);
        for frame in &scan.frames {
            replay_frame(core, *slot, frame, &mut raw, report);
        }
        // Where the next frame goes; damaged places before it stay as they are.
        core.tail.slot_mut(*slot).used = last.end;
        core.next_group = core.next_group.max(last.header.group + 1);
        if last.header.group <= durable {
            continue;
        }
        // IMPORTANT: before anyone is shown them. What was read may be in the kernel's memory only: its writer was killed before the
        // sync, or the sync failed, after which the kernel takes it for written and a sync alone does nothing. Who was shown a message
        // that a power cut then takes back would later see another one under its number.
        let bytes = &slots[slot.index()].1;
        staging.write_again(*slot, &bytes[..usize::try_from(last.end).unwrap_or(bytes.len())])?;
    }
    if report.frames_replayed > 0 {
        info!(frames = report.frames_replayed, bytes_cut = report.bytes_cut, "replayed the staging log");
    }
    Ok(())
}

fn replay_frame(core: &mut Core, slot: SlotId, frame: &Found<'_>, raw: &mut Vec<u8>, report: &mut OpenReport) {
    let header = frame.header;
    if header.group < core.next_group || !unpack(header.codec, frame.body, header.raw_len, raw) {
        return;
    }
    report.frames_replayed += 1;
    report.frames_lost += header.group - core.next_group;
    core.next_group = header.group + 1;
    core.boots.seen(header.boot, header.base_at);
    core.tail.push(slot, header, frame.body, 0);
    let mut spans: Vec<Span> = Vec::new();
    for (index, record) in (0u32..).zip(FrameRecords::new(raw).map_while(Result::ok)) {
        match record {
            Record::Message { stream, message } => {
                let bytes = message.bytes();
                match spans.iter_mut().find(|s| s.stream == stream) {
                    Some(span) => {
                        span.last = message.seq;
                        span.msgs += 1;
                        span.bytes += bytes;
                    }
                    None => spans.push(Span { stream, first: message.seq, last: message.seq, msgs: 1, bytes }),
                }
            }
            Record::Put { table, key, value } => {
                let hash = core.hash(key);
                let bytes = u32::try_from(key.len() + value.len()).unwrap_or(u32::MAX);
                let place = Place::Tail { group: header.group, index };
                core.tables.set(table, hash, Some(Live { place, bytes }));
                if table == LOSSES {
                    core.losses.restore_value(value);
                }
                core.tail.slot_mut(slot).table_records += 1;
            }
            Record::Delete { table, key } => {
                let hash = core.hash(key);
                core.tables.set(table, hash, None);
                core.tail.slot_mut(slot).table_records += 1;
            }
            Record::Meta(bytes) => match decode::<Meta>(META_VERSION, bytes) {
                Some((meta, rest)) => core.apply(meta, rest),
                None => warn!(group = header.group, "a record of the log's own state cannot be read"),
            },
        }
    }
    for span in spans {
        replay_span(core, header.group, &span, report);
    }
}

fn replay_span(core: &mut Core, group: u64, span: &Span, report: &mut OpenReport) {
    let Some(stream) = core.streams.get(span.stream as usize) else {
        error!(stream = span.stream, first = span.first, last = span.last, "messages of a stream whose name is lost");
        return;
    };
    if span.first < stream.durable_next {
        return;
    }
    let expected = stream.durable_next.max(stream.held.first);
    if span.first > expected && anything_lost(report) {
        note_damage(core, span.stream, expected, span.first - 1, report);
    }
    report.messages_replayed += span.msgs;
    let stream = core.stream_mut(StreamId(span.stream));
    let source = Source::Frame(group);
    stream.held.add(Piece { source, first: span.first, last: span.last, msgs: span.msgs, bytes: span.bytes });
    stream.durable_next = span.last + 1;
}

/// What was durable when that was last noted, and is not found, is damaged.
fn apply_note(note: &Note, core: &mut Core, report: &mut OpenReport) {
    if note.group >= core.next_group {
        // Groups of epochs that cannot be read were no frames any more.
        if report.quarantined.is_none() && report.damaged_epochs == 0 {
            report.frames_lost += note.group + 1 - core.next_group;
        }
        core.next_group = note.group + 1;
    }
    for &(id, end) in &note.ends {
        match core.streams.get_mut(id as usize) {
            Some(stream) => stream.next = stream.next.max(end),
            None => error!(stream = id, end, "messages of a stream whose name is lost"),
        }
    }
}

/// Epochs that were dropped after the state was last saved: what they held is lost for cursors that had not confirmed it.
fn charge_dropped(core: &mut Core, saved: &[u64]) {
    let firsts: Vec<u64> = core.streams.iter().map(|s| s.state().first.0).collect();
    let damage: Vec<Vec<(u64, u64)>> = core.streams.iter().map(|s| s.damage.clone()).collect();
    for cursor in core.cursors.iter_mut().flatten() {
        let at = cursor.stream.0 as usize;
        let from = saved[at].max(cursor.floor + 1);
        let gone: u64 = damage[at].iter().map(|d| (d.1.min(firsts[at] - 1) + 1).saturating_sub(d.0.max(from))).sum();
        let lost = firsts[at].saturating_sub(from).saturating_sub(gone);
        if lost > 0 {
            cursor.lost += lost;
            cursor.dirty = true;
        }
    }
}

/// Exact counts, limits and subjects: what must be read from blocks for that is read here.
fn settle(shared: &Shared, saved: &[u64]) {
    let count = shared.lock().streams.len();
    for at in 0..count {
        let id = StreamId(u32::try_from(at).unwrap_or(u32::MAX));
        let discarded = {
            let core = shared.lock();
            let held = &core.stream(id).held;
            (held.discarded_msgs, held.discarded_bytes)
        };
        // The first piece may begin before what was saved as the first message held: those are gone, and were counted.
        let begins = shared.lock().stream_mut(id).held.reopen_first();
        let first = saved.get(at).copied().unwrap_or(0);
        if begins.is_some_and(|begins| begins < first) {
            shared.trim(id, first);
        }
        if shared.lock().stream(id).held.subjects.is_some() {
            note_subjects(shared, id);
        }
        {
            let mut core = shared.lock();
            let held = &mut core.stream_mut(id).held;
            (held.discarded_msgs, held.discarded_bytes) = discarded;
            drop(held.take_losses());
        }
        shared.enforce(id);
    }
}

/// Reads a whole stream to learn the last messages of every subject.
fn note_subjects(shared: &Shared, id: StreamId) {
    let pieces: Vec<Piece> = shared.lock().stream(id).held.pieces().copied().collect();
    for piece in pieces {
        let mut at = piece.first;
        while at <= piece.last {
            let mut notes = Vec::new();
            let mut note = |seq: u64, subject: &[u8], bytes: u64| {
                let hash = xxhash_rust::xxh3::xxh3_128_with_seed(subject, shared.seed);
                notes.push((hash, seq, u32::try_from(bytes).unwrap_or(u32::MAX)));
            };
            let end = match shared.content(piece.source, id.0, at, piece.last) {
                Ok(None) => piece.last + 1,
                Err(unreadable) => unreadable.end,
                Ok(Some(Content::Block(block))) => {
                    for m in block.messages().map_while(Result::ok).filter(|m| m.seq >= at) {
                        note(m.seq, m.subject, m.bytes());
                    }
                    match piece.source {
                        Source::Epoch(epoch) if block.last_seq < at => {
                            shared.behind_block(epoch, id.0, at).unwrap_or(piece.last + 1)
                        }
                        _ => block.last_seq + 1,
                    }
                }
                Ok(Some(Content::Frame { body, .. })) => {
                    for record in FrameRecords::new(&body).map_while(Result::ok) {
                        match record {
                            Record::Message { stream, message } if stream == id.0 => {
                                note(message.seq, message.subject, message.bytes());
                            }
                            _ => {}
                        }
                    }
                    piece.last + 1
                }
            };
            let mut core = shared.lock();
            let held = &mut core.stream_mut(id).held;
            for (hash, seq, bytes) in notes {
                if seq >= held.first {
                    held.note_subject(hash, seq, bytes);
                }
            }
            at = end.max(at + 1);
        }
    }
    shared.cache().clear();
}
