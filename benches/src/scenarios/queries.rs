//! Looking for a subject in a large stream: what is read for it, and how long it takes.

use std::io;
use std::time::Instant;

use headwater_benches::payload::{Numbers, telemetry, topic};
use headwater_benches::report::{Cell, Section};
use headwater_benches::store::Store;
use headwater_broker::log::{AckPolicy, Item, Order, Page, Query, SubjectFilter, Ticket};

use super::Context;

/// One message of a page's thousand in so many of a full run.
const MESSAGES: u64 = 5_370_000;
const FOUND: u64 = 1_000;
const DEVICES: usize = 20;

/// The messages of a rare subject, out of 1 GiB.
pub(crate) fn queries(context: &Context<'_>) -> io::Result<Section> {
    let columns = ["asked for", "messages found", "blocks read", "blocks there", "ms"];
    let note = "The log as a library: 1 GiB of telemetry of 20 devices at 200 B, among them, evenly, 1,000 messages of an alarm. Each row looks \
        through all of the stream in pages of 1,000 messages, after it was done once before: what it reads is in the page cache. A filter that begins with a wildcard \
        is answered by reading everything: what the signatures of blocks save is the difference. Asked: the page of a rare subject without reading all of it.";
    let mut section = Section::new("Looking for a rare subject", note, &columns);
    let dir = tempfile::tempdir_in(context.data)?;
    let store = Store::open(dir.path(), context.size(2 << 30, 128 << 20), AckPolicy::Synced)?;
    let messages = context.size(MESSAGES, 50_000);
    fill(&store, messages)?;
    let last = store.log.state(store.stream).last;
    for (name, filter, order) in [
        ("the subject", "plant/alarm/press-7", Order::Forward),
        ("the subject, newest first", "plant/alarm/press-7", Order::Backward),
        ("all that begins so", "plant/alarm/#", Order::Forward),
        ("one that is not there", "plant/none/#", Order::Forward),
        ("by a wildcard at the front: everything is read", "+/alarm/press-7", Order::Forward),
    ] {
        let filter = SubjectFilter::new(filter).map_err(io::Error::other)?;
        let query = Query { filter: Some(filter), order, last: Some(last), ..Query::default() };
        let _first_time = all(&store, query.clone())?;
        let begin = Instant::now();
        let found = all(&store, query)?;
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        let whole = |value: u64| Cell::once(value as f64, 0);
        let there = found.blocks_read + found.blocks_skipped;
        let count = whole(found.items.len() as u64);
        section.row(vec![Cell::text(name), count, whole(found.blocks_read), whole(there), Cell::once(ms, 0)]);
    }
    Ok(section)
}

fn fill(store: &Store, messages: u64) -> io::Result<()> {
    let (mut writer, mut numbers) = (store.writer()?, Numbers::new(7));
    let payloads: Vec<Vec<u8>> = (0..512).map(|count| telemetry(&mut numbers, 1, count)).collect();
    let topics: Vec<String> = (0..DEVICES).map(|device| topic(device, 0)).collect();
    let every = (messages / FOUND).max(1);
    let mut ticket = Ticket(0);
    for ((count, payload), topic) in (1..=messages).zip(payloads.iter().cycle()).zip(topics.iter().cycle()) {
        let topic = if count % every == 0 { "plant/alarm/press-7" } else { topic };
        ticket = writer.append(topic, payload)?;
    }
    writer.wait(ticket)
}

/// As many pages as the stream takes.
fn all(store: &Store, mut query: Query) -> io::Result<Page> {
    query.max_msgs = usize::try_from(FOUND).map_err(io::Error::other)?;
    let mut all = Page::default();
    loop {
        let page = store.log.page(store.stream, &query).map_err(io::Error::other)?;
        all.items.extend(page.items.into_iter().filter(|item| matches!(item, Item::Message(_))));
        all.blocks_read += page.blocks_read;
        all.blocks_skipped += page.blocks_skipped;
        if !page.more {
            return Ok(all);
        }
        match query.order {
            Order::Forward => query.first = page.next,
            Order::Backward => query.last = Some(page.next),
        }
    }
}
