//! Topic names and topic filters that are valid by construction [MQTT-4.7].

use bytes::Bytes;

/// A valid topic name: 1-65,535 bytes of UTF-8 without NUL and without wildcards. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Bytes);

/// A valid topic filter, wildcards included.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Bytes);
