//! MQTT 3.1.1 and 5.0 without I/O and without a clock: packets, their wire format, topics, and the session machine.

pub mod codec;
pub mod packet;
pub mod properties;
pub mod session;
pub mod topic;
