//! The bodies of the fuzz targets: for any bytes at all, [`TARGETS`] must return.
//!
//! * `tests/fuzz/run [TARGET] [SECONDS]` lets libFuzzer look for bytes that break one (nightly compiler; `targets/`).
//! * `tests/replay.rs` runs all of them over `corpus/`, with every test run on the stable compiler.
//!
//! A crash is mended with its input kept in the corpus, so that it is the regression test.

pub mod acl;
pub mod config;
pub mod decode;
mod input;
// The same comparison as in the broker's own tests of the wire, which make packets instead of bytes.
#[path = "../../../broker/tests/wire/judge.rs"]
mod judge;
pub mod jwt;
pub mod passwd;
pub mod session;
pub mod topic;

use headwater_broker::{log, server};

/// A body: panics if something does not hold.
pub type Check = fn(&[u8]);

/// Every target by its name, which is that of its folder in `corpus/` and of its file in `targets/fuzz_targets/`.
pub const TARGETS: [(&str, Check); 10] = [
    ("acl", acl::check),
    ("config", config::check),
    ("decode", decode::check),
    ("jwt", jwt::check),
    ("log", log::fuzzing::check),
    ("passwd", passwd::check),
    ("proxy", server::fuzzing::proxy),
    ("session", session::check),
    ("topic", topic::check),
    ("websocket", server::fuzzing::websocket),
];

/// Runs one target, as its file in `targets/` does.
///
/// # Panics
/// If something does not hold, or there is no such target.
pub fn run(target: &str, data: &[u8]) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of the table");
    check(data);
}
