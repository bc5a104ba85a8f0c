//! What the black-box tests share: the binary under test, a real hub, real devices, and a link that can be disturbed.
//!
//! * [`gateway`]: the binary `headwater` with its configuration, data directory and ports.
//! * [`process`], [`port`], [`wait`]: children that are always reaped, ports that nobody else takes, conditions with a
//!   deadline. [`http`], [`metrics`], [`hex`]: what pages and scripts say.
//! * [`hub`], [`proxy`]: real nats-servers, and the link to them.
//! * [`publisher`], [`traffic`], [`device`], [`mosquitto`]: devices by rumqttc, paho-mqtt and Mosquitto's tools; [`flood`]: by hand, at
//!   full speed.
//! * [`copy`], [`snapshot`]: whether what arrived is exactly what was acknowledged, and whether nothing was touched.
//! * [`sampler`]: what a data directory takes, at every moment.
//! * [`powercut`]: what a power cut may leave of a filesystem.
//! * [`payload`], [`chance`]: messages that prove who sent them, and random choices that can be repeated.
//!
//! Functions here panic with a text that says what was expected: they are only ever called from tests. They never
//! sleep for a while and hope; they wait for a condition, with a deadline.

pub mod certificates;
pub mod chance;
pub mod copy;
pub mod device;
pub mod flood;
pub mod gateway;
pub mod hex;
pub mod http;
pub mod hub;
pub mod metrics;
pub mod mosquitto;
pub mod payload;
pub mod port;
pub mod powercut;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod sampler;
pub mod snapshot;
pub mod traffic;
pub mod wait;
