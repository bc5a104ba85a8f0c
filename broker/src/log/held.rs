//! What a stream holds: pieces of it in epochs and frames, what its limits discard, and what that means for cursors. Pure: what must be
//! read to decide is asked for with [`Held::wanted`] and given with [`Held::learn`].

use std::collections::VecDeque;
use std::ops::Range;

use super::record::{LossReason, Stamp};
use super::stream::{Discard, StreamLimits};
use super::subjects::Subjects;

/// Where a piece lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In an epoch.
    Epoch(u32),
    /// In the frame of a group.
    Frame(u64),
}

/// A run of a stream in one epoch or one frame. Counts are of live messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) source: Source,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) msgs: u64,
    pub(super) bytes: u64,
}

/// What limits must know of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) bytes: u64,
    pub(super) stamp: Stamp,
    /// Hash of the subject; only where subjects are limited.
    pub(super) subject: u128,
}

/// Messages discarded in one go; `first..=last` holds `msgs` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) msgs: u64,
    pub(super) bytes: u64,
    pub(super) reason: LossReason,
}

/// Something to read before the limits can be applied further: the messages of `source` from `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) source: Source,
    pub(super) from: u64,
}

/// The durable content of a stream.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// First sequence held.
    pub(super) first: u64,
    pub(super) msgs: u64,
    pub(super) bytes: u64,
    pub(super) discarded_msgs: u64,
    pub(super) discarded_bytes: u64,
    /// While opening: `first` as it was last saved.
    pub(super) known_first: u64,
    /// In order of sequence, without overlap.
    pieces: VecDeque<Piece>,
    /// The first messages held, without holes up to `heads_end`.
    heads: VecDeque<Head>,
    heads_end: u64,
    pub(super) subjects: Option<Subjects>,
    /// What was discarded since the last call of [`Held::take_losses`].
    losses: Vec<Loss>,
}

impl Held {
    pub(super) fn new(first: u64) -> Held {
        Held { first, ..Held::default() }
    }

    /// New messages became durable.
    pub(super) fn add(&mut self, piece: Piece) {
        if self.pieces.is_empty() && self.msgs == 0 {
            self.first = self.first.max(piece.first);
        }
        self.msgs += piece.msgs;
        self.bytes += piece.bytes;
        self.pieces.push_back(piece);
    }

    pub(super) fn pieces(&self) -> impl DoubleEndedIterator<Item = &Piece> {
        self.pieces.iter()
    }

    /// The first piece that ends at or behind `seq`.
    pub(super) fn piece_at(&self, seq: u64) -> Option<Piece> {
        self.pieces.get(self.pieces.partition_point(|p| p.last < seq)).copied()
    }

    /// The piece that holds `seq`, or the hole around it.
    pub(super) fn around(&self, seq: u64) -> Result<Piece, Range<u64>> {
        let at = self.pieces.partition_point(|p| p.last < seq);
        match self.pieces.get(at) {
            Some(piece) if piece.first <= seq => Ok(*piece),
            next => {
                let before = at.checked_sub(1).and_then(|at| self.pieces.get(at));
                Err(before.map_or(0, |p| p.last + 1)..next.map_or(u64::MAX, |p| p.first))
            }
        }
    }

    /// The frames up to `group`, and what an earlier epoch held just before them, became `epoch`.
    pub(super) fn sealed(&mut self, epoch: u32, last_group: u64, absorbed: Option<u32>) {
        let joins = |p: &Piece| match p.source {
            Source::Frame(group) => group <= last_group,
            Source::Epoch(number) => absorbed == Some(number),
        };
        let Some(at) = self.pieces.iter().position(joins) else { return };
        let mut merged = Piece { source: Source::Epoch(epoch), msgs: 0, bytes: 0, ..self.pieces[at] };
        let end = self.pieces.iter().skip(at).position(|p| !joins(p)).map_or(self.pieces.len(), |n| at + n);
        for piece in self.pieces.range(at..end) {
            merged.last = piece.last;
            merged.msgs += piece.msgs;
            merged.bytes += piece.bytes;
        }
        self.pieces[at] = merged;
        self.pieces.drain(at + 1..end);
    }

    /// What lies in this epoch.
    pub(super) fn piece_in(&self, epoch: u32) -> Option<&Piece> {
        self.pieces.iter().rev().find(|p| p.source == Source::Epoch(epoch))
    }

    /// While opening: a newer epoch holds what an older one had held from `first` on, too. The process ended before that went.
    pub(super) fn supersede(&mut self, first: u64) {
        while let Some(piece) = self.pieces.pop_back_if(|p| p.first >= first) {
            self.msgs = self.msgs.saturating_sub(piece.msgs);
            self.bytes = self.bytes.saturating_sub(piece.bytes);
        }
    }

    /// The epoch is dropped: its messages are discarded. False if it held none of this stream.
    pub(super) fn drop_epoch(&mut self, epoch: u32) -> bool {
        let found = self.pieces.iter().position(|p| p.source == Source::Epoch(epoch));
        let Some(piece) = found.and_then(|at| self.pieces.remove(at)) else { return false };
        self.discard_rest(&piece, Some(LossReason::Disk));
        self.heads.retain(|h| h.seq > piece.last || h.seq < piece.first);
        self.settle_first(Some(LossReason::Disk));
        true
    }

    /// Notes the subject of a message just added; the one that it pushes out is discarded.
    pub(super) fn note_subject(&mut self, subject: u128, seq: u64, bytes: u32) {
        let first = self.first;
        if let Some((out, bytes)) = self.subjects.as_mut().and_then(|s| s.push(subject, seq, bytes, first)) {
            self.discard_one(out, u64::from(bytes));
        }
    }

    fn discard_one(&mut self, seq: u64, bytes: u64) {
        let at = self.pieces.partition_point(|p| p.last < seq);
        let Some(piece) = self.pieces.get_mut(at).filter(|p| p.first <= seq && p.msgs > 0) else { return };
        piece.msgs -= 1;
        piece.bytes = piece.bytes.saturating_sub(bytes);
        if let Ok(at) = self.heads.binary_search_by_key(&seq, |h| h.seq) {
            self.heads.remove(at);
        }
        let reason = Some(LossReason::MaxMsgsPerSubject);
        self.count(seq, seq, 1, bytes, reason);
        if seq == self.first {
            self.first += 1;
        }
        self.settle_first(reason);
    }

    /// Takes messages off the counts. Without a reason somebody wanted it so, or it was counted before: no loss.
    fn count(&mut self, first: u64, last: u64, msgs: u64, bytes: u64, reason: Option<LossReason>) {
        self.msgs = self.msgs.saturating_sub(msgs);
        self.bytes = self.bytes.saturating_sub(bytes);
        let Some(reason) = reason else { return };
        self.discarded_msgs += msgs;
        self.discarded_bytes += bytes;
        match self.losses.last_mut() {
            Some(loss) if loss.last + 1 == first && loss.reason == reason => {
                loss.last = last;
                loss.msgs += msgs;
                loss.bytes += bytes;
            }
            _ => self.losses.push(Loss { first, last, msgs, bytes, reason }),
        }
    }

    fn discard_rest(&mut self, piece: &Piece, reason: Option<LossReason>) {
        if piece.msgs > 0 {
            self.count(piece.first.max(self.first).min(piece.last), piece.last, piece.msgs, piece.bytes, reason);
        }
        // In the middle, the hole shows by itself.
        if self.pieces.front().is_none_or(|p| p.first > piece.last) {
            self.first = self.first.max(piece.last + 1);
        }
    }

    /// Moves `first` over what is known to be gone.
    fn settle_first(&mut self, reason: Option<LossReason>) {
        while self.pieces.front().is_some_and(|p| p.msgs == 0 || p.last < self.first) {
            if let Some(piece) = self.pieces.pop_front() {
                self.discard_rest(&piece, reason);
            }
        }
        while self.heads.front().is_some_and(|h| h.seq < self.first) {
            self.heads.pop_front();
        }
        if let Some(piece) = self.pieces.front() {
            self.first = self.first.max(piece.first);
        }
        if let Some(head) = self.heads.front() {
            self.first = self.first.max(head.seq);
        }
    }

    /// What must be learned before the first message is known; `None` if it is, or if there is none.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        if !self.heads.is_empty() {
            return None;
        }
        let from = self.first.max(self.heads_end);
        let piece = self.piece_at(from)?;
        Some(Wanted { source: piece.source, from: from.max(piece.first) })
    }

    /// The messages in `wanted.from..end` are these. Ignored if the stream has moved on.
    pub(super) fn learn(&mut self, wanted: Wanted, heads: impl IntoIterator<Item = Head>, end: u64) {
        if self.wanted() != Some(wanted) {
            return;
        }
        let live = |h: &Head| h.seq >= self.first && self.subjects.as_ref().is_none_or(|s| s.is_live(h.subject, h.seq));
        self.heads = heads.into_iter().filter(live).collect();
        self.heads_end = end.max(wanted.from + 1);
        if self.heads.is_empty() && self.piece_at(wanted.from).is_some_and(|p| p.last < self.heads_end) {
            // Nothing of the piece could be read: what it was counted for is gone.
            self.first = self.first.max(self.heads_end);
        }
        self.settle_first(Some(LossReason::Damage));
    }

    /// Discards the first message, which must be known.
    fn pop(&mut self, reason: Option<LossReason>) {
        let Some(head) = self.heads.pop_front() else { return };
        if let Some(piece) = self.pieces.front_mut().filter(|p| p.msgs > 0) {
            piece.msgs -= 1;
            piece.bytes = piece.bytes.saturating_sub(head.bytes);
        }
        self.count(head.seq, head.seq, 1, head.bytes, reason);
        self.first = head.seq + 1;
        self.settle_first(reason);
    }

    /// Applies the limits as far as is known. True if more must be learned first.
    pub(super) fn enforce(&mut self, limits: &StreamLimits, expired: impl Fn(Stamp) -> bool) -> bool {
        let max_msgs = limits.max_msgs.unwrap_or(u64::MAX);
        let max_bytes = limits.max_bytes.unwrap_or(u64::MAX);
        loop {
            let old = limits.discard == Discard::Old;
            let over = old && (self.msgs > max_msgs || self.bytes > max_bytes);
            let reason = Some(match over {
                true if self.msgs > max_msgs => LossReason::MaxMsgs,
                true => LossReason::MaxBytes,
                false => LossReason::MaxAge,
            });
            if over && let Some(piece) = self.pieces.front().copied() {
                // A piece that must go as a whole need not be read.
                if self.msgs - piece.msgs >= max_msgs || self.bytes - piece.bytes >= max_bytes {
                    self.pieces.pop_front();
                    self.discard_rest(&piece, reason);
                    self.settle_first(reason);
                    continue;
                }
            }
            if self.msgs == 0 || !(over || limits.max_age.is_some()) {
                return false;
            }
            let Some(head) = self.heads.front() else { return self.wanted().is_some() };
            if over || expired(head.stamp) {
                self.pop(reason);
            } else {
                return false;
            }
        }
    }

    /// Removes everything before `end` as far as is known, which is no loss. True if more must be learned first.
    pub(super) fn trim(&mut self, end: u64) -> bool {
        while let Some(piece) = self.pieces.front().copied().filter(|p| p.last < end) {
            self.pieces.pop_front();
            self.discard_rest(&piece, None);
            self.settle_first(None);
        }
        while self.heads.front().is_some_and(|h| h.seq < end) {
            self.pop(None);
        }
        if self.first >= end {
            return false;
        }
        if self.pieces.front().is_none_or(|p| p.first >= end) || self.heads_end >= end {
            self.first = end;
            self.settle_first(None);
            return false;
        }
        self.wanted().is_some()
    }

    /// The stamp of the first message, if known.
    pub(super) fn first_stamp(&self) -> Option<Stamp> {
        self.heads.front().map(|h| h.stamp)
    }

    /// What was discarded since the last call.
    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    pub(super) fn has_losses(&self) -> bool {
        !self.losses.is_empty()
    }
}

impl Held {
    /// The stream is known to begin at `first`, from what was saved: nothing is counted as discarded now.
    pub(super) fn trim_known(&mut self, first: u64) {
        self.known_first = self.known_first.max(first);
        self.first = self.first.max(first);
    }

    /// After everything saved was added: pieces before `first` are gone, and what of them was counted.
    pub(super) fn settle_known(&mut self) {
        while self.pieces.front().is_some_and(|p| p.last < self.first) {
            if let Some(piece) = self.pieces.pop_front() {
                self.msgs = self.msgs.saturating_sub(piece.msgs);
                self.bytes = self.bytes.saturating_sub(piece.bytes);
            }
        }
        if let Some(piece) = self.pieces.front() {
            self.first = self.first.max(piece.first);
        }
    }
}

impl Held {
    /// Begins where the first piece begins, so that the messages before the true `first` can be looked at and taken off the counts.
    pub(super) fn reopen_first(&mut self) -> Option<u64> {
        let piece = self.pieces.front()?;
        self.first = self.first.min(piece.first);
        Some(piece.first)
    }
}
