//! What a power cut may leave of a filesystem.
//!
//! * [`disk`]: files and folders with what is durable of them and what is not, and the cut. Pure: no I/O, no clock; the choices come
//!   from a seed. [`pages`] is the content of its files.
//! * [`rig`]: mounts such disks, so that the log and the binary can run on them.

pub mod disk;
pub mod pages;
pub mod rig;
