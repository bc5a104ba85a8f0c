//! Topic aliases: those that a client uses towards us, and ours towards a client that allows them.

use std::num::NonZeroU16;

use crate::mqtt::packet::ReasonCode;
use crate::mqtt::topic::TopicName;

/// Aliases offered in CONNACK: enough for a device with a fixed set of topics. A client that uses them all costs at most
/// 16 topics of 65,535 bytes; the table itself is made with the first alias.
pub const TOPIC_ALIAS_MAXIMUM: u16 = 16;

/// The alias table of one connection.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    table: Option<Box<heapless::Vec<Option<TopicName>, { TOPIC_ALIAS_MAXIMUM as usize }>>>,
}

impl Aliases {
    /// The topic that a PUBLISH means, from its topic and its alias.
    ///
    /// # Errors
    /// An alias above the maximum [MQTT-3.3.2-9], or neither topic nor a known alias [MQTT-3.3.2-8].
    pub(super) fn resolve(
        &mut self,
        topic: Option<TopicName>,
        alias: Option<NonZeroU16>,
    ) -> Result<TopicName, ReasonCode> {
        let Some(alias) = alias else { return topic.ok_or(ReasonCode::ProtocolError) };
        if alias.get() > TOPIC_ALIAS_MAXIMUM {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let slot = usize::from(alias.get() - 1);
        match topic {
            Some(topic) => {
                let table = self.table.get_or_insert_with(|| {
                    let mut table = Box::new(heapless::Vec::new());
                    // Cannot fail: the length is the capacity.
                    let _ = table.resize(usize::from(TOPIC_ALIAS_MAXIMUM), None);
                    table
                });
                if table[slot].as_ref() != Some(&topic) {
                    // A copy of its own: the topic shares the read buffer, which must not live as long as the alias.
                    table[slot] = Some(topic.detached());
                }
                Ok(topic)
            }
            None => self.table.as_ref().and_then(|table| table[slot].clone()).ok_or(ReasonCode::ProtocolError),
        }
    }
}

/// Aliases that we use towards one client, at most. A client with them all in use costs the table of 1.3 KiB and 32 topics.
const OWN_ALIASES: usize = 32;

/// A topic that was not sent for so many messages gives its alias to another one.
const STALE_AFTER: u32 = 1024;

/// Bytes that an alias takes in a PUBLISH: a topic must be longer to be worth one.
const ALIAS_BYTES: usize = 3;

/// How a topic is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Its number [MQTT-3.3.2-12].
    pub number: NonZeroU16,
    /// The client knows what it stands for: it goes in place of the topic. Otherwise it goes with the topic, and is known from then on.
    pub known: bool,
}

/// Our aliases towards a client that allows them; no table before the first message.
///
/// Topics get aliases as they come. When all are given away they stay where they are, but for one that was not used for 1,024 messages.
/// Replacing the least recently used one at once would be worse than no alias wherever more topics than aliases take turns, as
/// telemetry does: each message would then carry its topic and a new alias.
#[derive(Debug, Default)]
pub(super) struct OwnAliases {
    table: Option<Box<heapless::Vec<Own, OWN_ALIASES>>>,
    /// Messages that asked for an alias; may wrap.
    count: u32,
    max: u16,
}

#[derive(Debug)]
struct Own {
    topic: TopicName,
    used: u32,
}

impl OwnAliases {
    /// `max` is the client's Topic Alias Maximum [MQTT-3.1.2-26] [MQTT-3.1.2-27].
    pub(super) fn new(max: u16) -> Self {
        Self { max, ..Self::default() }
    }

    /// How to send this topic; `None`: by itself. Tell with [`Self::sent`] when an alias that is not known has left.
    pub(super) fn find(&mut self, topic: &TopicName) -> Option<Alias> {
        if topic.as_bytes().len() <= ALIAS_BYTES {
            return None;
        }
        self.count = self.count.wrapping_add(1);
        let table = self.table.get_or_insert_default();
        if let Some(index) = table.iter().position(|own| own.topic == *topic) {
            table[index].used = self.count;
            return Some(Alias { number: number(index)?, known: true });
        }
        let unused = |own: &Own| self.count.wrapping_sub(own.used);
        let index = if table.len() < OWN_ALIASES.min(usize::from(self.max)) {
            table.len()
        } else {
            let (index, oldest) = table.iter().enumerate().max_by_key(|(_, own)| unused(own))?;
            (unused(oldest) > STALE_AFTER).then_some(index)?
        };
        Some(Alias { number: number(index)?, known: false })
    }

    /// A PUBLISH with the topic and this alias is on its way.
    pub(super) fn sent(&mut self, alias: Alias, topic: &TopicName) {
        let Some(table) = self.table.as_mut().filter(|_| !alias.known) else { return };
        // A copy of its own: a topic that was read from the log shares its block.
        let own = Own { topic: topic.detached(), used: self.count };
        match table.get_mut(usize::from(alias.number.get() - 1)) {
            Some(place) => *place = own,
            // Not full, or it would have been replaced.
            None => drop(table.push(own)),
        }
    }
}

fn number(index: usize) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::try_from(index + 1).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: usize) -> TopicName {
        format!("plant/{n}").parse().expect("valid")
    }

    /// What is sent: the alias, and whether the topic goes with it.
    fn send(aliases: &mut OwnAliases, n: usize) -> Option<(u16, bool)> {
        let alias = aliases.find(&topic(n))?;
        aliases.sent(alias, &topic(n));
        Some((alias.number.get(), !alias.known))
    }

    /// [MQTT-3.1.2-26] [MQTT-3.1.2-27]
    #[test]
    fn a_client_gets_as_many_aliases_as_it_allows() {
        let mut aliases = OwnAliases::new(2);
        let sent: Vec<_> = [1, 1, 2, 3, 2, 1, 3].map(|n| send(&mut aliases, n)).into();
        let expected =
            [Some((1, true)), Some((1, false)), Some((2, true)), None, Some((2, false)), Some((1, false)), None];
        assert_eq!(sent, expected);
        let mut aliases = OwnAliases::new(u16::MAX);
        let given = (0..100).filter(|n| send(&mut aliases, *n).is_some()).count();
        assert_eq!(given, OWN_ALIASES);
        assert!(aliases.find(&"abc".parse().expect("valid")).is_none(), "no shorter with an alias");
    }

    #[test]
    fn more_topics_than_aliases_in_turn_keep_what_they_have() {
        let mut aliases = OwnAliases::new(4);
        let known = (0..1000).filter(|n| matches!(send(&mut aliases, n % 8), Some((_, false)))).count();
        assert_eq!(known, 500 - 4);
    }

    #[test]
    fn topics_that_come_no_more_make_room() {
        let mut aliases = OwnAliases::new(4);
        for n in 0..4 {
            send(&mut aliases, n);
        }
        let known = (0..10_000).filter(|n| matches!(send(&mut aliases, 10 + n % 4), Some((_, false)))).count();
        assert!(known > 10_000 - STALE_AFTER as usize - 10, "{known}");
    }

    /// One that did not leave, because the client takes no packet of that size, is not known.
    #[test]
    fn an_alias_counts_from_its_first_packet_on() {
        let mut aliases = OwnAliases::new(4);
        for _ in 0..2 {
            assert_eq!(aliases.find(&topic(1)), NonZeroU16::new(1).map(|number| Alias { number, known: false }));
        }
        assert_eq!(send(&mut aliases, 2), Some((1, true)));
    }
}
