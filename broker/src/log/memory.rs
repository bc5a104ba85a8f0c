//! Streams with `storage = "memory"`: a ring of messages, gone at restart. Pure.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::held::Loss;
use super::record::{LossReason, NewMessage, Stamp, StoredMessage};
use super::stream::{Discard, Seq, StreamLimits, StreamState};

/// What a memory stream holds at most if its configuration does not say.
pub(super) const DEFAULT_MAX_BYTES: u64 = 16 << 20;

/// Counted per message on top of its bytes, so that tiny messages do not take memory without limit.
const OVERHEAD_BYTES: u64 = std::mem::size_of::<StoredMessage>() as u64;

/// The messages of a memory stream.
#[derive(Debug)]
pub(super) struct Ring {
    limits: StreamLimits,
    list: VecDeque<StoredMessage>,
    per_subject: HashMap<Bytes, u32>,
    bytes: u64,
    next: u64,
    pub(super) discarded_msgs: u64,
}

impl Ring {
    pub(super) fn new(limits: StreamLimits, next: u64) -> Ring {
        Ring { limits, list: VecDeque::new(), per_subject: HashMap::new(), bytes: 0, next, discarded_msgs: 0 }
    }

    /// The limit that a message of `bytes` would exceed in a `discard = "new"` stream.
    pub(super) fn refuses(&self, bytes: u64) -> Option<&'static str> {
        if self.limits.discard == Discard::Old {
            return None;
        }
        let msgs = self.list.len() as u64 + 1;
        if self.limits.max_msgs.is_some_and(|max| msgs > max) {
            Some("max_msgs")
        } else if self.bytes + bytes > self.max_bytes() || self.memory() + bytes > 2 * self.max_bytes() {
            Some("max_bytes")
        } else {
            None
        }
    }

    fn max_bytes(&self) -> u64 {
        self.limits.max_bytes.unwrap_or(DEFAULT_MAX_BYTES)
    }

    /// Bytes of memory taken; bounded by twice `max_bytes`.
    fn memory(&self) -> u64 {
        self.bytes + self.list.len() as u64 * OVERHEAD_BYTES
    }

    /// Appends; limits are applied by [`Ring::enforce`].
    pub(super) fn push(&mut self, stamp: Stamp, message: &NewMessage<'_>) -> u64 {
        let seq = self.next;
        self.next += 1;
        let NewMessage { subject, headers, payload, tag, .. } = *message;
        let stored = StoredMessage::copied(Seq(seq), stamp, subject, headers, payload, tag);
        self.bytes += size(&stored);
        if self.limits.max_msgs_per_subject.is_some() {
            // A copy, so that the key does not keep the payload alive.
            *self.per_subject.entry(Bytes::copy_from_slice(&stored.subject)).or_default() += 1;
        }
        self.list.push_back(stored);
        seq
    }

    /// Takes the last message back: its group was refused.
    pub(super) fn unpush(&mut self) {
        if let Some(stored) = self.list.pop_back() {
            self.forget(&stored);
            self.next -= 1;
        }
    }

    fn forget(&mut self, stored: &StoredMessage) {
        self.bytes -= size(stored);
        if let Some(count) = self.per_subject.get_mut(&stored.subject) {
            *count -= 1;
            if *count == 0 {
                self.per_subject.remove(&stored.subject);
            }
        }
    }

    /// Applies the limits; returns what was discarded.
    pub(super) fn enforce(&mut self, expired: impl Fn(Stamp) -> bool) -> Vec<Loss> {
        let mut lost: Vec<Loss> = Vec::new();
        if let Some(max) = self.limits.max_msgs_per_subject
            && let Some(subject) = self.list.back().map(|m| m.subject.clone())
        {
            while self.per_subject.get(&subject).is_some_and(|&count| count > max) {
                let Some(at) = self.list.iter().position(|m| m.subject == subject) else { break };
                if let Some(stored) = self.list.remove(at) {
                    self.lose(&stored, LossReason::MaxMsgsPerSubject, &mut lost);
                }
            }
        }
        while let Some(first) = self.list.front() {
            let reason = if self.limits.max_msgs.is_some_and(|max| self.list.len() as u64 > max) {
                LossReason::MaxMsgs
            } else if self.bytes > self.max_bytes() || self.memory() > 2 * self.max_bytes() {
                LossReason::MaxBytes
            } else if expired(first.stamp) {
                LossReason::MaxAge
            } else {
                break;
            };
            if let Some(stored) = self.list.pop_front() {
                self.lose(&stored, reason, &mut lost);
            }
        }
        lost
    }

    fn lose(&mut self, stored: &StoredMessage, reason: LossReason, lost: &mut Vec<Loss>) {
        self.forget(stored);
        self.discarded_msgs += 1;
        let (seq, bytes) = (stored.seq.0, size(stored));
        match lost.last_mut() {
            Some(loss) if loss.last + 1 == seq && loss.reason == reason => {
                loss.last = seq;
                loss.msgs += 1;
                loss.bytes += bytes;
            }
            _ => lost.push(Loss { first: seq, last: seq, msgs: 1, bytes, reason }),
        }
    }

    /// Removes every message before `end`.
    pub(super) fn trim(&mut self, end: u64) {
        while self.list.front().is_some_and(|m| m.seq.0 < end) {
            if let Some(stored) = self.list.pop_front() {
                self.forget(&stored);
            }
        }
    }

    pub(super) fn state(&self) -> StreamState {
        StreamState {
            first: self.list.front().map_or(Seq(self.next), |m| m.seq),
            last: Seq(self.next - 1),
            msgs: self.list.len() as u64,
            bytes: self.bytes,
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn first_stamp(&self) -> Option<Stamp> {
        self.list.front().map(|m| m.stamp)
    }

    /// Messages with these sequences.
    pub(super) fn within(&self, range: &Range<u64>) -> impl DoubleEndedIterator<Item = &StoredMessage> {
        let at = |seq: u64| self.list.partition_point(|m| m.seq.0 < seq);
        self.list.range(at(range.start)..at(range.end.max(range.start)))
    }

    /// Messages from `from` on.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = &StoredMessage> {
        self.list.range(self.list.partition_point(|m| m.seq.0 < from)..)
    }
}

fn size(stored: &StoredMessage) -> u64 {
    (stored.subject.len() + stored.headers.len() + stored.payload.len()) as u64
}
