//! Retention classes: which streams may share an epoch, and what goes first when the disk is full. Pure.
//!
//! An epoch is dropped as a whole, so what must stay and what may go must not lie in one. A slot is sealed as one epoch per class that has
//! messages in it; with no `priority`, `reserve` or `discard = "new"` configured there is one class, and one epoch. What an epoch is worth
//! follows from the streams in it and the configuration of today, never from what was configured when it was written.

use std::collections::HashMap;

use super::core::Core;
use super::held::Source;
use super::plan::{EpochFacts, Rank};
use super::stream::{Discard, Priority, StreamLimits};

/// Streams of one class share epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Streams of a priority.
    Shared(u8),
    /// All streams with `discard = "new"` and without a reserve.
    Kept,
    /// A stream with a reserve of its own.
    Own(u32),
}

impl Class {
    /// The class of a stream; one that is no longer configured has no limits.
    pub(super) fn of(id: u32, limits: Option<&StreamLimits>) -> Class {
        match limits {
            Some(limits) if limits.reserve.is_some() => Class::Own(id),
            Some(limits) if limits.discard == Discard::New => Class::Kept,
            Some(limits) => Class::Shared(limits.priority.0),
            None => Class::Shared(Priority::default().0),
        }
    }
}

/// Retention classes in use at most: each that has messages in a slot costs an epoch of its own, which is some 270 KB of writes.
pub const MAX_CLASSES: usize = 8;

/// How many classes streams with these limits make.
#[must_use]
pub fn retention_classes<'a>(streams: impl Iterator<Item = &'a StreamLimits>) -> usize {
    let classes = (0..).zip(streams).map(|(id, limits)| Class::of(id, Some(limits)));
    classes.collect::<std::collections::BTreeSet<_>>().len()
}

/// What is known of every epoch, in order of age.
pub(super) fn facts(core: &Core) -> Vec<EpochFacts> {
    let mut facts: Vec<EpochFacts> = core
        .epochs
        .iter()
        .map(|e| EpochFacts {
            number: e.number,
            disk_bytes: e.disk_bytes,
            protected: false,
            tables: e.table_records > 0,
            rank: Rank::Spent,
        })
        .collect();
    // How far all readers of a stream have confirmed it. A stream without readers is nowhere else: it is wanted.
    let mut confirmed: HashMap<u32, u64> = HashMap::new();
    for cursor in core.cursors.iter().flatten() {
        let floor = confirmed.entry(cursor.stream.0).or_insert(cursor.floor);
        *floor = cursor.floor.min(*floor);
    }
    let mut live = vec![false; facts.len()];
    for (id, stream) in (0u32..).zip(&core.streams) {
        let limits = stream.limits();
        let wanted = Rank::Wanted(limits.map_or(Priority::default(), |l| l.priority).0);
        let floor = confirmed.get(&id).copied().unwrap_or(0);
        let kept = limits.is_some_and(|l| l.discard == Discard::New);
        let reserve = limits.and_then(|l| l.reserve);
        let mut reserved = Vec::new();
        for piece in stream.held.pieces().filter(|p| p.msgs > 0) {
            let Source::Epoch(number) = piece.source else { continue };
            let Ok(at) = facts.binary_search_by_key(&number, |f| f.number) else { continue };
            live[at] = true;
            let fact = &mut facts[at];
            fact.protected |= kept;
            fact.rank = fact.rank.max(if piece.last <= floor { Rank::Spent } else { wanted });
            if reserve.is_some() {
                reserved.push(at);
            }
        }
        let total: u64 = reserved.iter().map(|at| facts[*at].disk_bytes).sum();
        for at in reserved {
            facts[at].protected |= total - facts[at].disk_bytes < reserve.unwrap_or(0);
        }
    }
    // What holds table records only is carried on and frees little: its turn comes by age, among what is wanted most. Were it taken for
    // spent, making room would carry the same records round and round.
    let most = facts.iter().filter(|f| !f.protected).map(|f| f.rank).max().unwrap_or(Rank::Spent);
    for (fact, live) in facts.iter_mut().zip(live) {
        if fact.tables && !live {
            fact.rank = most;
        }
    }
    // The newest epoch says where the log continues.
    if let Some(newest) = facts.last_mut() {
        newest.protected = true;
    }
    facts
}
