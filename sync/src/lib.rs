//! Uplinks of Headwater: mirror streams of the log to a central NATS JetStream cluster, exactly and in order.
//!
//! * [`forwarder`]: one mirrored stream as a machine without I/O; why the copy is exact is argued there.
//! * [`resume`]: where to go on, decided from what the hub holds.
//! * [`batch`], [`encode`], [`backoff`], [`hub`]: its parts and words.

pub mod api;
pub mod backoff;
pub mod batch;
pub mod encode;
pub mod forwarder;
pub mod hub;
pub mod jetstream;
pub mod resume;
pub mod source;
pub mod status;
pub mod uplink;

pub use status::{LastError, MirrorStatus, TroubleCount, UplinkStatus};
pub use uplink::{StartError, Uplinks};
