//! Shared subscriptions: `$share/NAME/FILTER`, each message to one member (MQTT 5, 4.8.2).
//!
//! A group hands a message to the connected member with the fewest messages queued and in flight, while it is published. When
//! nobody can take it, the group becomes a reader of the log: a cursor from that message on, however many follow. One task of
//! the server reads for all groups, whenever a member has room.
//!
//! What a member got and did not acknowledge goes back to the group when its connection ends, and to another member: messages
//! that were still queued, and those of QoS 1 in flight (4.8.2 allows it). A member that unsubscribes gives back only what was still
//! queued, and goes on with what is in flight [MQTT-3.10.4-3]; it is in its own record from then on. Those of QoS 2 in flight stay with the session
//! [MQTT-4.8.2-4], and end with it [MQTT-4.8.2-5]. So that messages can move, all with QoS > 0 that match a group are stored.
//!
//! A group with a member whose session is kept has a record in table 20: where a reader must begin so that it meets everything
//! that was not acknowledged. It is written with the SUBSCRIBE, when a member leaves, and about once in a second with traffic.
//! After a kill of the broker a group may repeat what was acknowledged since; it loses nothing.
//!
//! Bounds: a group is a subscription of somebody; what goes back to groups is at most what queues and windows held, 16 bytes each.
//! Handing out looks at every member of the group.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::catch_up::TAG_COPY;
use super::outbox::Pushed;
use super::queues::Room;
use super::record::{ShareRecord, encode, qos_of};
use super::sessions::by_number;
use super::streams::{Positions, StreamIndex};
use super::tables::SHARES;
use super::trie::SubscriptionTrie;
use super::{Router, SessionKey, Store};
use crate::auth::acl::Use;
use crate::log::{AppendError, Entry, Item, ReadBatch, Seq, StoredMessage, StreamId};
use crate::mqtt::packet::{QoS, SubscriptionOptions};
use crate::mqtt::session::{Delivery, InFlight, Message, Origin, ShareId, Stage};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Shares {
    groups: BTreeMap<ShareId, Group>,
    by_filter: HashMap<TopicFilter, ShareId>,
    trie: SubscriptionTrie<ShareId, ()>,
    members: HashMap<SessionKey, MemberOf>,
    /// Groups with something to read in the log.
    behind: BTreeSet<ShareId>,
    last_id: u32,
    /// The group that was read for last: others come first.
    last_read: Option<ShareId>,
    /// The task that reads has something to look at.
    wake: bool,
    /// Positions have changed since they were saved.
    changed: bool,
    /// Kept between calls.
    found: Vec<ShareId>,
}

#[derive(Debug)]
struct Group {
    filter: TopicFilter,
    members: Vec<Member>,
    /// Who is asked first among equals.
    turn: usize,
    /// Set while the group reads the log: everything below was handed out.
    cursor: Option<Positions>,
    /// Taken back from members that left.
    returned: BTreeSet<(StreamIndex, Seq)>,
    /// Of QoS 2, begun before a restart with this session, which goes on with it.
    begun: BTreeMap<(StreamIndex, Seq), SessionKey>,
    /// As it is on disk.
    saved: Option<Positions>,
}

#[derive(Debug)]
struct Member {
    key: SessionKey,
    options: SubscriptionOptions,
    id: Option<u32>,
}

/// What a session has of its groups.
#[derive(Debug, Default)]
struct MemberOf {
    groups: Vec<ShareId>,
    /// In flight, when its connection last asked for messages.
    in_flight: usize,
    held: Vec<(ShareId, StreamIndex, Seq)>,
}

/// A read that a group waits for: give what is there to [`Router::share_page`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareRead {
    id: ShareId,
    stream: StreamIndex,
    /// What was taken back, rather than what nobody had yet.
    again: bool,
    /// The stream to read.
    pub stream_id: StreamId,
    /// From here.
    pub from: Seq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// A member has it, or nobody who is connected may read it.
    Done,
    /// Connected members are all busy.
    NoRoom,
    /// No member is connected.
    NobodyThere,
}

impl Shares {
    /// The groups that a message to this topic is for, and whether it must be stored, so that it can move between members.
    pub(super) fn store(&self, topic: &TopicName) -> (usize, bool) {
        let (mut count, mut wanted) = (0, false);
        if !self.groups.is_empty() {
            self.trie.matches(topic, &mut |id, ()| {
                count += 1;
                wanted |= self.groups[&id].wants_acknowledged();
            });
        }
        (count, wanted)
    }

    /// Queues have become shorter: who could give nothing to anybody may try again.
    pub(super) fn room_again(&mut self) {
        self.wake |= !self.behind.is_empty();
    }

    /// Adds a member to the filter's group, or changes what it asked for.
    pub(super) fn join(
        &mut self,
        filter: &TopicFilter,
        key: SessionKey,
        options: SubscriptionOptions,
        id: Option<u32>,
    ) -> ShareId {
        let share = *self.by_filter.entry(filter.clone()).or_insert_with(|| {
            self.last_id += 1;
            let share = ShareId(NonZeroU32::new(self.last_id).unwrap_or(NonZeroU32::MIN));
            self.trie.insert(filter, share, ());
            let group = Group {
                filter: filter.clone(),
                members: Vec::new(),
                turn: 0,
                cursor: None,
                returned: BTreeSet::new(),
                begun: BTreeMap::new(),
                saved: None,
            };
            self.groups.insert(share, group);
            share
        });
        if let Some(group) = self.groups.get_mut(&share) {
            group.members.retain(|m| m.key != key);
            group.members.push(Member { key, options, id });
        }
        let member = self.members.entry(key).or_default();
        if !member.groups.contains(&share) {
            member.groups.push(share);
        }
        self.wake |= self.behind.contains(&share);
        share
    }

    /// Ends a membership. Returns how many messages nobody gets any more, and whether the group has a record to delete.
    pub(super) fn leave(&mut self, filter: &TopicFilter, key: SessionKey) -> (usize, bool) {
        let Some(&share) = self.by_filter.get(filter) else { return (0, false) };
        if let Some(member) = self.members.get_mut(&key) {
            member.groups.retain(|g| *g != share);
            // What it has of the group in flight stays known: should it come back to the group, the group answers for it again.
            if member.groups.is_empty() && member.held.is_empty() {
                self.members.remove(&key);
            }
        }
        let Some(group) = self.groups.get_mut(&share) else { return (0, false) };
        group.members.retain(|m| m.key != key);
        self.changed = true;
        self.wake = true;
        if !group.members.is_empty() {
            return (0, false);
        }
        let (lost, saved) = (group.returned.len(), group.saved.is_some());
        self.groups.remove(&share);
        self.by_filter.remove(filter);
        self.trie.remove(filter, share);
        self.behind.remove(&share);
        (lost, saved)
    }

    /// Where the group of a restored filter goes on; `false`: there is none.
    pub(super) fn resume(&mut self, filter: &TopicFilter, at: Positions, tails: &Positions) -> bool {
        let Some(share) = self.by_filter.get(filter) else { return false };
        let Some(group) = self.groups.get_mut(share) else { return false };
        group.saved = Some(at.clone());
        if at != *tails {
            group.cursor = Some(at);
            self.behind.insert(*share);
            self.wake = true;
        }
        true
    }

    /// A message of QoS 2 that the session was being sent when the broker ended: the session goes on with it.
    pub(super) fn begun(&mut self, share: ShareId, stream: StreamIndex, seq: Seq, key: SessionKey) {
        if let Some(group) = self.groups.get_mut(&share) {
            group.begun.insert((stream, seq), key);
        }
    }

    /// Whether the group answers for what the session has of it in flight.
    pub(super) fn is_member(&self, key: SessionKey, share: ShareId) -> bool {
        self.members.get(&key).is_some_and(|member| member.groups.contains(&share))
    }

    /// The group of this filter, if others than this session are in it.
    fn of_others(&self, filter: &TopicFilter, key: SessionKey) -> Option<ShareId> {
        let share = *self.by_filter.get(filter)?;
        self.groups[&share].members.iter().any(|m| m.key != key).then_some(share)
    }
}

impl Group {
    fn wants_acknowledged(&self) -> bool {
        self.members.iter().any(|m| m.options.qos > QoS::AtMostOnce)
    }
}

impl Router {
    /// Gives a message to one member of each group that it is for. `true` if there was a group.
    pub(super) fn fan_out_shared(
        &mut self,
        topic: &TopicName,
        qos: QoS,
        place: Option<(StreamIndex, Seq)>,
        message: &mut impl FnMut() -> Arc<Message>,
    ) -> bool {
        if self.shares.groups.is_empty() {
            return false;
        }
        let mut found = std::mem::take(&mut self.shares.found);
        let Shares { trie, .. } = &self.shares;
        trie.matches(topic, &mut |id, ()| found.push(id));
        let any = !found.is_empty();
        for id in found.drain(..) {
            let group = &self.shares.groups[&id];
            let acknowledged = qos > QoS::AtMostOnce && group.wants_acknowledged();
            let stored = place.filter(|_| acknowledged);
            if stored.is_some() && group.cursor.is_some() {
                // Behind what is being read.
                continue;
            }
            match (self.hand_out(id, &message(), place), stored) {
                (Handed::Done, _) | (Handed::NobodyThere, None) => {}
                (Handed::NoRoom | Handed::NobodyThere, Some((stream, seq))) => {
                    let mut from = self.streams.tails();
                    from[stream] = seq;
                    if let Some(group) = self.shares.groups.get_mut(&id) {
                        group.cursor = Some(from);
                    }
                    self.shares.behind.insert(id);
                    self.shares_changed();
                }
                (Handed::NoRoom, None) if !acknowledged => self.counters.dropped_queue_full += 1,
                (Handed::NoRoom, None) => self.counters.dropped_unstored += 1,
            }
        }
        self.shares.found = found;
        any
    }

    /// To the least loaded member, in turn among equals.
    fn hand_out(&mut self, id: ShareId, message: &Arc<Message>, place: Option<(StreamIndex, Seq)>) -> Handed {
        let Some(group) = self.shares.groups.get_mut(&id) else { return Handed::Done };
        let count = group.members.len();
        let (mut there, mut allowed, mut full) = (false, false, false);
        let mut best: Option<(usize, usize, usize)> = None;
        for (index, member) in group.members.iter().enumerate() {
            let Some(slot) = self.slots.get(member.key.0 as usize).and_then(Option::as_ref) else { continue };
            let Some(outbox) = slot.outbox() else { continue };
            there = true;
            if !slot.may(Use::Read, &message.topic) {
                continue;
            }
            allowed = true;
            if !outbox.is_live() {
                continue;
            }
            match self.queues.room(outbox, message, 1) {
                Room::Yes => {}
                Room::NotInQueue => continue,
                Room::NotInTotal => {
                    full = true;
                    continue;
                }
            }
            let in_flight = self.shares.members.get(&member.key).map_or(0, |m| m.in_flight);
            let distance = (index + count - group.turn % count) % count;
            let candidate = (outbox.len() + in_flight, distance, index);
            best = Some(best.map_or(candidate, |best| best.min(candidate)));
        }
        let Some((.., index)) = best else {
            if full {
                self.queues.refused();
            }
            return match (there, allowed) {
                (false, _) => Handed::NobodyThere,
                (true, false) => Handed::Done,
                (true, true) => Handed::NoRoom,
            };
        };
        group.turn = index + 1;
        let member = &group.members[index];
        let key = member.key;
        let delivery = Delivery {
            message: Arc::clone(message),
            qos: message.qos.min(member.options.qos),
            retain: member.options.retain_as_published && message.retain,
            subscription_ids: member.id.into_iter().collect(),
            origin: place.map(|(stream, seq)| Origin { stream: self.streams[stream].id.0, seq: seq.0 }),
            share: Some(id),
        };
        let Some(outbox) = self.slots[key.0 as usize].as_mut().and_then(super::sessions::Slot::outbox_mut) else {
            return Handed::NobodyThere;
        };
        let Pushed::Queued { wake } = outbox.push(delivery, place, &mut self.queues, &self.streams) else {
            debug_assert!(false, "a live queue with room takes it");
            return Handed::NoRoom;
        };
        if wake {
            self.woken.push(key);
        }
        self.shares_changed();
        Handed::Done
    }

    fn shares_changed(&mut self) {
        self.shares.wake |= !std::mem::replace(&mut self.shares.changed, true);
    }

    /// What a connection has in flight, with what it has just pulled.
    pub fn note_in_flight(&mut self, key: SessionKey, in_flight: &VecDeque<InFlight>, pulled: &[Delivery]) {
        let Some(member) = self.shares.members.get_mut(&key) else { return };
        let before = member.held.len();
        let pulled = pulled.iter().filter(|d| d.qos > QoS::AtMostOnce);
        let all = in_flight.iter().map(|e| (e.share, e.origin)).chain(pulled.map(|d| (d.share, d.origin)));
        member.held.clear();
        member.in_flight = 0;
        for (share, origin) in all {
            member.in_flight += 1;
            if let (Some(share), Some(origin)) = (share, origin)
                && let Some(stream) = self.streams.by_id(origin.stream)
            {
                member.held.push((share, stream, Seq(origin.seq)));
            }
        }
        let changed = before != member.held.len();
        self.shares.wake |= member.groups.iter().any(|g| self.shares.behind.contains(g));
        if member.groups.is_empty() && member.held.is_empty() {
            self.shares.members.remove(&key);
        }
        if changed {
            self.shares_changed();
        }
    }

    /// The connection of a member ends: what it has not acknowledged goes back. But a session that is kept and has left the group
    /// goes on with what it had begun [MQTT-3.10.4-3].
    pub(super) fn take_back(&mut self, key: SessionKey, persists: bool, in_flight: &mut VecDeque<InFlight>) {
        if let Some(member) = self.shares.members.get_mut(&key) {
            *member = MemberOf { groups: std::mem::take(&mut member.groups), ..MemberOf::default() };
            if member.groups.is_empty() {
                self.shares.members.remove(&key);
            }
        }
        let queued =
            self.slots.get_mut(key.0 as usize).and_then(Option::as_mut).and_then(super::sessions::Slot::outbox_mut);
        let queued = queued.map_or_else(Vec::new, |outbox| outbox.take_out(&mut self.queues, |d| d.share.is_some()));
        for delivery in queued {
            let origin = delivery.origin.filter(|_| delivery.qos > QoS::AtMostOnce);
            if !delivery.share.zip(origin).is_some_and(|(share, origin)| self.give_back(share, origin)) {
                self.counters.dropped_disconnected += 1;
            }
        }
        in_flight.retain_mut(|entry| {
            let Some(share) = entry.share.take() else { return true };
            let moves = entry.stage == Stage::AwaitsAck && (!persists || self.shares.is_member(key, share));
            !(moves && entry.origin.is_some_and(|origin| self.give_back(share, origin)))
        });
    }

    /// `false`: the group is gone.
    fn give_back(&mut self, share: ShareId, origin: Origin) -> bool {
        let Some(stream) = self.streams.by_id(origin.stream) else { return false };
        let Some(group) = self.shares.groups.get_mut(&share) else { return false };
        group.returned.insert((stream, Seq(origin.seq)));
        self.counters.shared_moved += 1;
        self.shares.behind.insert(share);
        self.shares.wake = true;
        self.shares_changed();
        true
    }

    /// A member leaves its group for others, which get what it was not sent yet.
    pub(super) fn return_queued(&mut self, filter: &TopicFilter, key: SessionKey) {
        let Some(share) = self.shares.of_others(filter, key) else { return };
        let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else { return };
        let Some(outbox) = slot.outbox_mut() else { return };
        let can_move = |d: &Delivery| d.share == Some(share) && d.qos > QoS::AtMostOnce && d.origin.is_some();
        for origin in outbox.take_out(&mut self.queues, can_move).into_iter().filter_map(|d| d.origin) {
            self.give_back(share, origin);
        }
    }

    pub(super) fn leave_group(&mut self, filter: &TopicFilter, key: SessionKey) {
        let (lost, saved) = self.shares.leave(filter, key);
        self.counters.dropped_disconnected += lost as u64;
        if saved {
            self.deletes.push((SHARES, filter.as_bytes().to_vec()));
        }
    }

    /// Whether the task that reads for groups should look.
    pub fn take_share_wake(&mut self) -> bool {
        std::mem::take(&mut self.shares.wake)
    }

    /// The next read for a group that is behind and has a member with room.
    pub fn share_read(&mut self) -> Option<ShareRead> {
        let tails = self.streams.tails();
        let last = self.shares.last_read;
        let (first, then): (Vec<ShareId>, Vec<ShareId>) = self.shares.behind.iter().partition(|&&id| Some(id) > last);
        for id in first.into_iter().chain(then) {
            let Some(group) = self.shares.groups.get_mut(&id) else { continue };
            let ready = |m: &Member| {
                let slot = self.slots.get(m.key.0 as usize).and_then(Option::as_ref);
                let room = |o| self.queues.room_behind(o, 1, self.queues.bytes(), 1) == Room::Yes;
                slot.and_then(|s| s.outbox()).is_some_and(|o| o.is_live() && room(o))
            };
            if !group.members.iter().any(ready) {
                continue;
            }
            let at = |(stream, from): (StreamIndex, Seq), again| {
                Some(ShareRead { id, stream, again, stream_id: self.streams[stream].id, from })
            };
            self.shares.last_read = Some(id);
            if let Some(returned) = group.returned.first() {
                return at(*returned, true);
            }
            if let Some(cursor) = &mut group.cursor {
                for (index, stream) in self.streams.iter() {
                    let concerns = stream.topics.is_empty() || stream.topics.iter().any(|t| t.overlaps(&group.filter));
                    if cursor[index] < tails[index] {
                        if concerns {
                            return at((index, cursor[index]), false);
                        }
                        cursor[index] = tails[index];
                    }
                }
            }
            group.cursor = None;
            group.begun.clear();
            self.shares.behind.remove(&id);
            self.shares_changed();
        }
        None
    }

    /// Hands out what was read. `false`: nothing moved on; look again when more is durable, or a member has room.
    pub fn share_page(&mut self, read: &ShareRead, batch: ReadBatch) -> bool {
        let ShareRead { id, stream, again, .. } = *read;
        let mut moved = false;
        let mut end = batch.next;
        for item in batch.items {
            match item {
                Item::Gap { first, last, .. } if !again => {
                    self.counters.lost_to_retention += last.0 + 1 - first.0.max(read.from.0);
                }
                // Which of those taken back lie in it is seen below.
                Item::Gap { .. } => {}
                Item::Message(stored) => {
                    let seq = stored.seq;
                    let wanted = |g: &Group| !again || g.returned.contains(&(stream, seq));
                    if self.shares.groups.get(&id).is_some_and(wanted) && !self.offer(id, stream, stored) {
                        end = seq;
                        break;
                    }
                    if let Some(group) = self.shares.groups.get_mut(&id) {
                        moved |= group.returned.remove(&(stream, seq)) || !again;
                    }
                }
            }
        }
        self.shares_changed();
        let Some(group) = self.shares.groups.get_mut(&id) else { return true };
        if again {
            // What is still there below the end was not in the log any more.
            let gone: Vec<_> = group.returned.range((stream, read.from)..(stream, end)).copied().collect();
            moved |= !gone.is_empty();
            self.counters.lost_to_retention += gone.len() as u64;
            gone.iter().for_each(|lost| {
                group.returned.remove(lost);
            });
        } else if let Some(cursor) = &mut group.cursor
            && cursor[stream] < end
        {
            cursor[stream] = end;
            moved = true;
        }
        moved
    }

    /// `false`: nobody can take it now.
    fn offer(&mut self, id: ShareId, stream: StreamIndex, stored: StoredMessage) -> bool {
        let seq = stored.seq;
        if qos_of(stored.tag) == QoS::AtMostOnce || stored.tag & TAG_COPY != 0 {
            return true;
        }
        let Ok(topic) = TopicName::new(stored.subject.clone()) else {
            self.counters.bad_records += 1;
            return true;
        };
        let Some(group) = self.shares.groups.get(&id) else { return true };
        if !group.filter.matches(&topic) {
            return true;
        }
        // A session with a subscription of its own to the topic may have had it from that.
        if let Some(key) = group.begun.get(&(stream, seq))
            && self.slot(*key).is_some_and(|s| !s.subscriptions.filters().any(|f| !f.is_shared() && f.matches(&topic)))
        {
            return true;
        }
        let Some(message) = self.message_of(stored) else { return true };
        self.hand_out(id, &message, Some((stream, seq))) == Handed::Done
    }

    /// Where each group that is kept would have to begin again.
    fn share_floors(&self, only: Option<SessionKey>) -> BTreeMap<ShareId, Positions> {
        let mut floors = BTreeMap::new();
        for (&id, group) in &self.shares.groups {
            let wanted = only.is_none_or(|key| group.members.iter().any(|m| m.key == key));
            let kept = |m: &Member| self.slot(m.key).is_some_and(|s| s.expiry.persists());
            if wanted && group.members.iter().any(kept) {
                let mut at = group.cursor.clone().unwrap_or_else(|| self.streams.tails());
                for &(stream, seq) in &group.returned {
                    at[stream] = at[stream].min(seq);
                }
                floors.insert(id, at);
            }
        }
        let mut lower = |share: ShareId, stream: StreamIndex, seq: Seq| {
            if let Some(at) = floors.get_mut(&share) {
                at[stream] = at[stream].min(seq);
            }
        };
        for (&key, member) in &self.shares.members {
            member.held.iter().for_each(|&(share, stream, seq)| lower(share, stream, seq));
            let Some(outbox) = self.slot(key).and_then(super::sessions::Slot::outbox) else { continue };
            for (share, origin) in outbox.shared() {
                if let Some(stream) = self.streams.by_id(origin.stream) {
                    lower(share, stream, Seq(origin.seq));
                }
            }
        }
        floors
    }

    /// The records of a session's groups, to be saved with its SUBSCRIBE: filter and value.
    pub(super) fn share_records(&self, key: SessionKey) -> Vec<(ShareId, Positions, TopicFilter, Vec<u8>)> {
        if !self.shares.members.contains_key(&key) {
            return Vec::new();
        }
        self.share_values(self.share_floors(Some(key)))
    }

    fn share_values(&self, floors: BTreeMap<ShareId, Positions>) -> Vec<(ShareId, Positions, TopicFilter, Vec<u8>)> {
        let mut values = Vec::new();
        for (id, at) in floors {
            let group = &self.shares.groups[&id];
            if group.saved.as_ref() != Some(&at) {
                let record = encode(&ShareRecord { positions: by_number(&at, &self.streams) });
                values.push((id, at, group.filter.clone(), record));
            }
        }
        values
    }

    pub(super) fn shares_saved(&mut self, records: Vec<(ShareId, Positions, TopicFilter, Vec<u8>)>) {
        for (id, at, ..) in records {
            if let Some(group) = self.shares.groups.get_mut(&id) {
                group.saved = Some(at);
            }
        }
    }

    /// Whether [`Router::save_shares`] has something to do.
    #[must_use]
    pub fn shares_unsaved(&self) -> bool {
        self.shares.changed
    }

    /// Saves how far groups with kept members have come.
    ///
    /// # Errors
    /// As [`Store::append`]; call again then.
    pub fn save_shares(&mut self, store: &impl Store) -> Result<(), AppendError> {
        if !self.shares.changed {
            return Ok(());
        }
        self.flush_deletes(store)?;
        let mut records = self.share_values(self.share_floors(None));
        while !records.is_empty() {
            let part: Vec<_> = records.drain(..records.len().min(64)).collect();
            let entries: Vec<Entry<'_>> = part
                .iter()
                .map(|(.., filter, value)| Entry::Put { table: SHARES, key: filter.as_bytes(), value })
                .collect();
            store.append(&entries)?;
            self.shares_saved(part);
        }
        self.shares.changed = false;
        Ok(())
    }

    /// Groups of shared subscriptions.
    #[must_use]
    pub fn share_groups(&self) -> usize {
        self.shares.groups.len()
    }
}
