//! Uplinks of Headwater: mirror streams of the log to a central NATS JetStream cluster, exactly and in order.
//!
//! * [`uplink`]: all uplinks of a gateway; [`status`]: what they show. Where to begin reading.
//! * [`forwarder`]: one mirrored stream as a machine without I/O; why the copy is exact is argued there.
//! * [`resume`]: where to go on, decided from what the hub holds.
//! * [`batch`], [`encode`], [`backoff`], [`hub`], [`api`], `credentials`: its parts and words, pure as well.
//! * `runner`: the task of an uplink; [`source`]: the log, as a mirror sees it; [`jetstream`]: the connection, the only file that
//!   knows async-nats. What a hub's user must be allowed is listed there.

pub mod api;
pub mod backoff;
pub mod batch;
mod board;
mod credentials;
pub mod encode;
pub mod forwarder;
pub mod hub;
pub mod jetstream;
pub mod resume;
mod runner;
pub mod source;
pub mod status;
pub mod uplink;

pub use status::{LastError, MirrorStatus, TroubleCount, UplinkStatus};
pub use uplink::{StartError, Uplinks};
