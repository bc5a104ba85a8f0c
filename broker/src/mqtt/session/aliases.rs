//! Topic aliases that a client uses towards us.

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
