//! What can be asked of a stream, and the plan of an answer: which part of it comes next. Pure; `page.rs` reads.

use std::ops::Range;

use super::filter::SubjectFilter;
use super::record::Item;
use super::signature::{Signatures, Wanted};
use super::stream::Seq;

/// In which order messages come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    #[default]
    Forward,
    /// The newest first.
    Backward,
}

/// A part of a stream: the messages of `first..=last` that the filter takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// All messages, if none.
    pub filter: Option<SubjectFilter>,
    /// `Seq(0)` for the first that there is.
    pub first: Seq,
    /// The last that is durable, if none.
    pub last: Option<Seq>,
    /// In which order.
    pub order: Order,
    /// Items of an answer.
    pub max_msgs: usize,
    /// About so many bytes of subjects, headers and payloads in an answer; at least one message if there is one.
    pub max_bytes: usize,
    /// Blocks and frames unpacked for an answer, which bounds its time: each takes about as long as reading 24 KiB.
    pub max_reads: usize,
}

impl Default for Query {
    fn default() -> Query {
        Query {
            filter: None,
            first: Seq(0),
            last: None,
            order: Order::Forward,
            max_msgs: 100,
            max_bytes: 256 << 10,
            max_reads: 4096,
        }
    }
}

/// An answer to a [`Query`].
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In the order that was asked for. With a filter, gaps are only what cannot be read and might be among what was asked for; without
    /// one they are everything that is missing, and count as messages do.
    pub items: Vec<Item>,
    /// Where to go on: the next `first`, or if backward the next `last`, which is 0 behind the first.
    pub next: Seq,
    /// There is more of what was asked for to be looked at.
    pub more: bool,
    /// Blocks of epochs that were looked into.
    pub blocks_read: u64,
    /// Blocks of epochs that hold nothing for the filter, as their signatures say.
    pub blocks_skipped: u64,
}

/// The sequences still to be accounted for, and from which end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    left: Range<u64>,
    order: Order,
}

impl Ahead {
    pub(super) fn new(left: Range<u64>, order: Order) -> Ahead {
        Ahead { left, order }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// The next sequence.
    pub(super) fn at(&self) -> u64 {
        match self.order {
            Order::Forward => self.left.start,
            Order::Backward => self.left.end.saturating_sub(1),
        }
    }

    pub(super) fn holds(&self, seq: u64) -> bool {
        self.left.contains(&seq)
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    pub(super) fn all(&self) -> Range<u64> {
        self.left.clone()
    }

    /// Moves behind the far end of `run`; returns what that passes.
    pub(super) fn pass(&mut self, run: &Range<u64>) -> Range<u64> {
        let Range { start, end } = self.left.clone();
        match self.order {
            Order::Forward => {
                self.left.start = run.end.clamp(start, end.max(start));
                start..self.left.start
            }
            Order::Backward => {
                self.left.end = run.start.clamp(start.min(end), end);
                self.left.end..end
            }
        }
    }

    /// Moves right before `seq`; returns what that passes.
    pub(super) fn reach(&mut self, seq: u64) -> Range<u64> {
        match self.order {
            Order::Forward => self.pass(&(0..seq)),
            Order::Backward => self.pass(&(seq + 1..u64::MAX)),
        }
    }

    /// In this order.
    pub(super) fn arrange<T>(&self, list: &mut [T]) {
        if self.order == Order::Backward {
            list.reverse();
        }
    }

    /// Passes blocks of the piece `first..end` that hold nothing of what is wanted, up to one that may, or to the end of the piece. Returns how many.
    pub(super) fn skip(&mut self, signatures: &Signatures, wanted: Wanted, piece: &Range<u64>) -> u64 {
        let blocks = &signatures.blocks;
        let mut skipped = 0;
        while !self.is_done() && piece.contains(&self.at()) {
            let next = blocks.partition_point(|block| block.0 <= self.at());
            let end = blocks.get(next).map_or(piece.end, |block| block.0);
            let block = next.checked_sub(1).map(|at| &blocks[at]);
            if block.is_some_and(|(_, signature)| wanted.may_be_in(signature)) {
                break;
            }
            skipped += u64::from(block.is_some());
            self.pass(&(block.map_or(piece.start, |block| block.0)..end));
        }
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::signature::Signer;

    fn signatures(blocks: &[(u64, &str)]) -> (Signatures, Wanted) {
        let mut signer = Signer::new(1, 5);
        for (first, subject) in blocks {
            signer.add(subject.as_bytes());
            signer.end_block(*first);
        }
        let filter = SubjectFilter::new("rare/#").expect("a filter");
        (signer.finish(), Wanted::of(&filter, 5).expect("begins with a literal"))
    }

    #[test]
    fn blocks_that_hold_nothing_are_passed_in_both_orders() {
        let (list, wanted) = signatures(&[(10, "a"), (20, "b"), (35, "rare/x"), (40, "c"), (50, "d")]);
        let mut ahead = Ahead::new(5..100, Order::Forward);
        // In front of the first block there is nothing.
        assert_eq!((ahead.skip(&list, wanted, &(5..60)), ahead.at()), (2, 35));
        ahead.pass(&(35..40));
        assert_eq!((ahead.skip(&list, wanted, &(5..60)), ahead.at()), (2, 60));
        let mut ahead = Ahead::new(5..60, Order::Backward);
        assert_eq!((ahead.skip(&list, wanted, &(5..60)), ahead.at()), (2, 39));
        ahead.pass(&(35..40));
        assert_eq!((ahead.skip(&list, wanted, &(5..60)), ahead.is_done()), (2, true));
    }

    #[test]
    fn what_is_passed_is_what_lay_between() {
        let mut ahead = Ahead::new(5..20, Order::Forward);
        assert_eq!(ahead.reach(8), 5..8);
        assert_eq!(ahead.pass(&(8..9)), 8..9);
        assert_eq!(ahead.pass(&(3..7)), 9..9);
        assert_eq!(ahead.pass(&(10..100)), 9..20);
        assert!(ahead.is_done());
        let mut ahead = Ahead::new(5..20, Order::Backward);
        assert_eq!((ahead.at(), ahead.reach(17)), (19, 18..20));
        assert_eq!(ahead.pass(&(17..18)), 17..18);
        assert_eq!(ahead.pass(&(18..30)), 17..17);
        assert_eq!(ahead.pass(&(0..9)), 5..17);
        assert!(ahead.is_done());
        // Asked for from behind the end.
        let mut ahead = Ahead::new(9..u64::from(4_u8), Order::Forward);
        assert!(ahead.is_done() && ahead.pass(&(0..20)).is_empty());
        assert_eq!(ahead.at(), 9);
    }
}
