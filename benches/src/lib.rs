//! Side-by-side runs: load, brokers as child processes, and what the kernel says about them.
//!
//! Nothing here asserts a time. Every figure is measured in the run that prints it, beside a peer where there is one.

pub mod brokers;
pub mod client;
pub mod device;
pub mod histogram;
pub mod hub;
pub mod load;
pub mod machine;
pub mod paced;
pub mod packet;
pub mod payload;
pub mod plot;
pub mod process;
pub mod readme;
pub mod report;
pub mod store;
pub mod tally;
