//! Where to go on, decided from what the hub holds under our prefix and what we know ourselves. Nothing is guessed:
//! every case has a name, and each that is not the ordinary one is told to people.

use std::fmt;

use headwater_broker::log::{Seq, StreamUid};

use crate::hub::{Delivery, HubAnswer, HubSeq, Keeps};

/// What we know of our own stream.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Our stream's identity.
    pub uid: StreamUid,
    /// Last sequence that the hub ever confirmed to us, as far as our cursor remembers; 0 = none.
    pub floor: Seq,
    /// First sequence that we still hold.
    pub first: Seq,
    /// Last sequence that is durable here; 0 = none.
    pub last: Seq,
    /// When the hub's stream that `floor` belongs to was made; `None` before the first contact.
    pub created: Option<&'a str>,
    /// Messages that may be underway at once where the hub knows no fence.
    pub window: u64,
}

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Everything up to here is done; the next message to send is the one behind it.
    pub after: Seq,
    /// The hub's sequence that nothing of ours may have passed: the fence of the next batch.
    pub fence: HubSeq,
    /// What was found.
    pub finding: Finding,
}

/// What the comparison showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing was ever sent from here, nothing is there.
    FirstContact,
    /// The hub's last message is ours and we hold what comes behind it.
    Continued,
    /// The hub lacks messages that it had confirmed (restored, lost, or its newest were deleted): they are sent again.
    HubFellBack {
        /// Last sequence it still has.
        has: Seq,
        /// Last sequence it had confirmed.
        had: Seq,
    },
    /// The hub's stream is the same but holds nothing of ours any more: expired, consumed or purged. Not sent again.
    Expired,
    /// The hub's stream is another one than before and holds nothing of ours: everything still held is sent again.
    HubRecreated,
    /// The hub holds an older history under our prefix, of a stream identity that is gone: ours begins behind it.
    NewHistory {
        /// The identity found there.
        theirs: StreamUid,
    },
    /// The hub's last message is of another identity although ours was confirmed before: two gateways share one id.
    PrefixShared {
        /// The identity found there.
        theirs: StreamUid,
    },
    /// The hub's last message under our prefix carries no headers of ours: somebody else writes there.
    Foreign {
        /// Its subject.
        subject: String,
        /// Its sequence in the hub.
        hub_seq: HubSeq,
    },
    /// The hub has sequences of our identity that we never wrote, as after restoring an old backup of the data directory.
    HubAhead {
        /// Last sequence in the hub.
        hub: Seq,
        /// Last sequence here.
        here: Seq,
    },
}

impl Finding {
    /// A person should look at it.
    #[must_use]
    pub fn is_alarming(&self) -> bool {
        match self {
            Finding::FirstContact | Finding::Continued | Finding::Expired | Finding::NewHistory { .. } => false,
            Finding::HubFellBack { .. }
            | Finding::HubRecreated
            | Finding::PrefixShared { .. }
            | Finding::Foreign { .. }
            | Finding::HubAhead { .. } => true,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::FirstContact => write!(f, "nothing was sent before: starting with the first message held"),
            Finding::Continued => write!(f, "continuing behind the hub's last message of ours"),
            Finding::HubFellBack { has, had } => write!(
                f,
                "the hub's stream lost messages it had confirmed (it has {has}, it had {had}): sending them again as far as they are held"
            ),
            Finding::Expired => {
                write!(
                    f,
                    "the hub holds none of our messages any more (expired, consumed or purged): continuing behind the last confirmed one"
                )
            }
            Finding::HubRecreated => {
                write!(f, "the hub's stream was made again: sending everything that is still held")
            }
            Finding::NewHistory { theirs } => write!(
                f,
                "the hub holds an older history of stream id {theirs} under our prefix: a new history begins behind it"
            ),
            Finding::PrefixShared { theirs } => write!(
                f,
                "stream id {theirs} writes under our prefix as well: two gateways share one id, give each its own"
            ),
            Finding::Foreign { subject, hub_seq } => write!(
                f,
                "message {hub_seq} in the hub, subject \"{subject}\", lies under our prefix but is not ours: \
                 keep other publishers away from it; continuing behind the last confirmed message, which may repeat some"
            ),
            Finding::HubAhead { hub, here } => write!(
                f,
                "the hub has messages up to {hub} of this stream, but only {here} are known here (was an old backup restored?): \
                 messages with sequences up to {hub} are not sent, as the hub would have two of each; \
                 wipe the data directory to begin a new history"
            ),
        }
    }
}

/// Compares and decides.
#[must_use]
pub fn resume(known: &Known<'_>, answer: &HubAnswer) -> Resume {
    let same_stream = known.created.is_none_or(|created| created == answer.stream.created);
    let Some(last) = &answer.last else {
        let (after, finding) = if known.floor == Seq(0) {
            (Seq(0), Finding::FirstContact)
        } else if same_stream && (known.created.is_some() || answer.stream.last_seq > HubSeq(0)) {
            (known.floor, Finding::Expired)
        } else {
            // What was discarded here after the old hub stream had confirmed it is no loss: the new one begins with what is held.
            (Seq(known.first.0.saturating_sub(1)), Finding::HubRecreated)
        };
        return Resume { after, fence: HubSeq(0), finding };
    };
    let fence = last.hub_seq;
    let Some((uid, hub)) = last.origin else {
        let finding = Finding::Foreign { subject: last.subject.clone(), hub_seq: last.hub_seq };
        return Resume { after: known.floor, fence, finding };
    };
    if uid != known.uid {
        let finding = if known.floor == Seq(0) {
            Finding::NewHistory { theirs: uid }
        } else {
            Finding::PrefixShared { theirs: uid }
        };
        return Resume { after: known.floor, fence, finding };
    }
    if hub > known.last {
        return Resume { after: hub, fence, finding: Finding::HubAhead { hub, here: known.last } };
    }
    if hub < known.floor {
        // Where consumers take messages away, the last one left says nothing about what arrived.
        if answer.stream.keeps == Keeps::UntilConsumed && same_stream {
            return Resume { after: known.floor, fence, finding: Finding::Continued };
        }
        return Resume { after: hub, fence, finding: Finding::HubFellBack { has: hub, had: known.floor } };
    }
    let after = match answer.stream.delivery {
        Delivery::Atomic | Delivery::Single => hub,
        // Without a fence any of the messages that were underway may be missing below the last one that arrived.
        Delivery::Window => known.floor.max(Seq(hub.0.saturating_sub(known.window))),
    };
    Resume { after, fence, finding: Finding::Continued }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{HubStream, LastMessage};

    const UID: StreamUid = StreamUid(7);
    const OTHER: StreamUid = StreamUid(8);

    fn known(floor: u64, last: u64) -> Known<'static> {
        Known { uid: UID, floor: Seq(floor), first: Seq(1), last: Seq(last), created: Some("t1"), window: 100 }
    }

    fn answer(last: Option<(u64, Option<(StreamUid, u64)>)>) -> HubAnswer {
        HubAnswer {
            last: last.map(|(hub_seq, origin)| LastMessage {
                hub_seq: HubSeq(hub_seq),
                subject: "edge.gw.s.a".into(),
                origin: origin.map(|(uid, seq)| (uid, Seq(seq))),
            }),
            stream: HubStream {
                created: "t1".into(),
                last_seq: HubSeq(1000),
                delivery: Delivery::Atomic,
                keeps: Keeps::UntilLimits,
                max_msg_bytes: None,
            },
        }
    }

    fn check(known: &Known<'_>, answer: &HubAnswer, after: u64, fence: u64, finding: Finding) {
        assert_eq!(resume(known, answer), Resume { after: Seq(after), fence: HubSeq(fence), finding });
    }

    #[test]
    fn continues_behind_the_hub_also_where_the_cursor_lags() {
        check(&known(10, 50), &answer(Some((900, Some((UID, 10))))), 10, 900, Finding::Continued);
        check(&known(10, 50), &answer(Some((900, Some((UID, 40))))), 40, 900, Finding::Continued);
        check(&known(0, 50), &answer(Some((900, Some((UID, 50))))), 50, 900, Finding::Continued);
    }

    #[test]
    fn first_contact_starts_from_the_first() {
        check(&Known { created: None, ..known(0, 50) }, &answer(None), 0, 0, Finding::FirstContact);
    }

    #[test]
    fn expired_messages_are_not_sent_again() {
        check(&known(30, 50), &answer(None), 30, 0, Finding::Expired);
    }

    #[test]
    fn a_hub_stream_made_again_gets_everything_still_held() {
        let known = Known { first: Seq(21), ..known(30, 50) };
        let mut answer = answer(None);
        answer.stream.created = "t2".into();
        check(&known, &answer, 20, 0, Finding::HubRecreated);
    }

    #[test]
    fn without_a_remembered_creation_time_only_a_virgin_stream_counts_as_made_again() {
        let known = Known { created: None, ..known(30, 50) };
        let mut hub = answer(None);
        check(&known, &hub, 30, 0, Finding::Expired);
        hub.stream.last_seq = HubSeq(0);
        check(&known, &hub, 0, 0, Finding::HubRecreated);
    }

    #[test]
    fn a_wiped_gateway_begins_a_new_history_behind_the_old_one() {
        check(&known(0, 5), &answer(Some((900, Some((OTHER, 77))))), 0, 900, Finding::NewHistory { theirs: OTHER });
    }

    #[test]
    fn a_second_gateway_with_our_id_is_named() {
        check(&known(3, 5), &answer(Some((900, Some((OTHER, 77))))), 3, 900, Finding::PrefixShared { theirs: OTHER });
    }

    #[test]
    fn foreign_messages_under_the_prefix_are_named() {
        let finding = Finding::Foreign { subject: "edge.gw.s.a".into(), hub_seq: HubSeq(900) };
        check(&known(3, 5), &answer(Some((900, None))), 3, 900, finding);
    }

    #[test]
    fn sequences_that_the_hub_has_are_never_used_again() {
        let finding = Finding::HubAhead { hub: Seq(60), here: Seq(50) };
        check(&known(50, 50), &answer(Some((900, Some((UID, 60))))), 60, 900, finding);
    }

    #[test]
    fn a_hub_that_lost_its_tail_gets_it_again() {
        let finding = Finding::HubFellBack { has: Seq(20), had: Seq(40) };
        check(&known(40, 50), &answer(Some((900, Some((UID, 20))))), 20, 900, finding);
    }

    #[test]
    fn consumed_messages_are_not_mistaken_for_lost_ones() {
        let mut hub = answer(Some((900, Some((UID, 20)))));
        hub.stream.keeps = Keeps::UntilConsumed;
        check(&known(40, 50), &hub, 40, 900, Finding::Continued);
    }

    #[test]
    fn without_a_fence_the_last_window_is_repeated() {
        let mut hub = answer(Some((900, Some((UID, 400)))));
        hub.stream.delivery = Delivery::Window;
        check(&known(10, 500), &hub, 300, 900, Finding::Continued);
        check(&known(390, 500), &hub, 390, 900, Finding::Continued);
    }
}
