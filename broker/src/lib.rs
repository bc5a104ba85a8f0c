//! The broker of Headwater: MQTT on one side, a durable stream log on the other.
//!
//! * [`mqtt`]: the wire format and the session, both without I/O or clock.
//! * [`log`]: the log that every stored message goes through; it knows nothing of MQTT.
//! * [`router`]: who gets a message: the subscription trie, sessions, retained messages.
//! * [`server`]: listeners and connections, thin shells around the above.
//! * [`config`]: the configuration file, resolved once into types.
//! * [`subject`]: MQTT topics as NATS subjects.
//! * [`clock`]: the only source of time.

pub mod auth;
pub mod clock;
pub mod config;
pub mod log;
pub mod mqtt;
mod queue;
pub mod router;
pub mod server;
pub mod subject;
