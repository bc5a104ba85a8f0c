//! What the black-box tests share: the binary under test, a real hub, real devices, and a link that can be disturbed.
//!
//! * [`gateway`]: the binary `headwater` with its configuration, data directory and ports.
//! * [`process`], [`port`], [`wait`], [`http`], [`metrics`]: children that are always reaped, ports that nobody else
//!   takes, conditions with a deadline.
//! * [`payload`], [`chance`]: messages that prove who sent them, and random choices that can be repeated.
//!
//! Functions here panic with a text that says what was expected: they are only ever called from tests. They never
//! sleep for a while and hope; they wait for a condition, with a deadline.

pub mod chance;
pub mod gateway;
pub mod http;
pub mod metrics;
pub mod payload;
pub mod port;
pub mod process;
pub mod wait;
