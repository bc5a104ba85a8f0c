//! What a power cut may leave of a filesystem.
//!
//! * [`disk`]: files and folders with what is durable of them and what is not, and the cut. Pure: no I/O, no clock; the choices come
//!   from a seed.
//!
//! Left out: mounting it. Whoever does serves requests from a [`disk::Disk`], and goes on with what [`disk::Disk::cut`] returns.

pub mod disk;
