//! `$SYS/...`: figures of the broker for those who subscribe to them. They are in no stream and not among the retained messages;
//! the server makes them, and only while somebody wants them.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Router, SessionKey};
use crate::auth::acl::Use;
use crate::clock::Monotonic;
use crate::mqtt::packet::{Publish, QoS};
use crate::mqtt::session::{Delivery, Message, QueueCount};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Who wants figures.
#[derive(Debug, Default)]
pub(super) struct SysSubscribers {
    subscriptions: usize,
    /// Subscribed since the last look, with the subscription identifier: to be sent what there is, as with retained messages. At most
    /// as many as there are subscriptions.
    new: HashMap<(SessionKey, TopicFilter), Option<u32>>,
    wake: bool,
}

impl SysSubscribers {
    pub(super) fn add(&mut self) {
        self.subscriptions += 1;
        self.wake = true;
    }

    pub(super) fn remove(&mut self, filter: &TopicFilter, key: SessionKey) {
        if is_sys(filter.levels().next()) {
            self.subscriptions = self.subscriptions.saturating_sub(1);
            self.new.remove(&(key, filter.clone()));
        }
    }

    pub(super) fn wants_all(&mut self, filter: &TopicFilter, key: SessionKey, id: Option<u32>) {
        self.new.insert((key, filter.clone()), id);
        self.wake = true;
    }
}

/// Whether a topic or filter with this first level is about the broker.
pub(super) fn is_sys(first: Option<&[u8]>) -> bool {
    first == Some(b"$SYS")
}

impl Router {
    /// Whether the filter is for figures, and there are any.
    pub(super) fn wants_sys(&self, filter: &TopicFilter) -> bool {
        self.limits.sys && is_sys(filter.levels().next())
    }

    /// Counts a new subscription, if it is one to figures.
    pub(super) fn note_sys(&mut self, filter: &TopicFilter) {
        if self.wants_sys(filter) {
            self.sys.add();
        }
    }

    /// Whether somebody subscribes to figures.
    #[must_use]
    pub fn sys_wanted(&self) -> bool {
        self.sys.subscriptions > 0
    }

    /// Whether the task that makes them should look.
    pub fn take_sys_wake(&mut self) -> bool {
        std::mem::take(&mut self.sys.wake)
    }

    /// Sends all figures to those who have subscribed since the last call, marked as retained.
    pub fn send_sys(&mut self, now: Monotonic, figures: &[(TopicName, String)]) {
        for ((key, filter), id) in std::mem::take(&mut self.sys.new) {
            for (topic, text) in figures.iter().filter(|(topic, _)| filter.matches(topic)) {
                let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else { break };
                if !slot.may(Use::Read, topic) {
                    continue;
                }
                let Some(outbox) = slot.outbox_mut() else { break };
                let delivery = Delivery {
                    message: Arc::new(Message {
                        topic: topic.clone(),
                        payload: bytes::Bytes::copy_from_slice(text.as_bytes()),
                        qos: QoS::AtMostOnce,
                        retain: true,
                        properties: None,
                        received: now,
                        queues: QueueCount::default(),
                    }),
                    qos: QoS::AtMostOnce,
                    retain: true,
                    subscription_ids: id.into_iter().collect(),
                    origin: None,
                    share: None,
                };
                match outbox.push(delivery, None, &mut self.queues, &self.streams) {
                    super::outbox::Pushed::Queued { wake: true } => self.woken.push(key),
                    super::outbox::Pushed::Queued { wake: false } => {}
                    super::outbox::Pushed::LeftToLog { .. } | super::outbox::Pushed::Dropped => {
                        self.counters.dropped_queue_full += 1;
                    }
                }
            }
        }
    }

    /// Publishes a figure to those who subscribe to it.
    pub fn publish_sys(&mut self, now: Monotonic, topic: &TopicName, text: &str) {
        let publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: true,
            topic: Some(topic.clone()),
            packet_id: None,
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: None,
            payload: bytes::Bytes::copy_from_slice(text.as_bytes()),
        };
        self.fan_out(now, &publish, None, super::Publisher::Broker, false);
    }
}
