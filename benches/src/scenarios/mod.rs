//! The scenarios: what is run, and what is told of it. A file each; how brokers take turns is in `turns.rs`.

mod clients;
mod disk;
mod drain;
mod fan_out;
mod footprint;
mod growth;
mod ingest;
mod log;
mod queries;
mod restart;
mod sessions;
mod turns;

use std::io;

use headwater_benches::report::Section;

pub(crate) use turns::{Context, say};

/// A scenario by name.
pub(crate) struct Scenario {
    /// On the command line.
    pub(crate) name: &'static str,
    /// Needs root, for a loop device.
    pub(crate) root: bool,
    /// At most so many runs that count, however many are asked for: what hardly varies, or takes long, is run less often.
    pub(crate) runs: u16,
    /// Its share of the time, in seconds of a run of [`MINUTES`].
    pub(crate) seconds: u32,
    pub(crate) run: fn(&Context<'_>) -> io::Result<Vec<Section>>,
}

/// How long all scenarios together take by default: [`Scenario::seconds`] add up to it.
pub(crate) const MINUTES: u32 = 45;

macro_rules! scenario {
    ($name:literal, $run:path, $runs:literal, $seconds:literal) => {
        scenario!($name, $run, $runs, $seconds, false)
    };
    ($name:literal, $run:path, $runs:literal, $seconds:literal, root) => {
        scenario!($name, $run, $runs, $seconds, true)
    };
    ($name:literal, $run:path, $runs:literal, $seconds:literal, $root:literal) => {
        Scenario {
            name: $name,
            root: $root,
            runs: $runs,
            seconds: $seconds,
            run: |context| $run(context).map(|section| vec![section]),
        }
    };
}

/// All, in the order in which they are run: what the README tells first.
pub(crate) const ALL: [Scenario; 19] = [
    scenario!("ingest", ingest::ingest, 100, 120),
    scenario!("paced", ingest::paced, 5, 200),
    scenario!("fan-out-0", fan_out::qos_0, 5, 100),
    scenario!("fan-out", fan_out::qos_1, 5, 150),
    scenario!("fan-in", clients::fan_in, 3, 140),
    scenario!("idle", clients::idle, 2, 300),
    scenario!("storm", clients::storm, 5, 120),
    scenario!("offline", sessions::offline, 3, 150),
    scenario!("backfill", drain::backfill, 5, 60),
    scenario!("restart", restart::restart, 5, 90),
    scenario!("disk", disk::used, 2, 80),
    scenario!("wear", disk::wear, 1, 120, root),
    scenario!("wear-curve", disk::wear_curve, 1, 240, root),
    scenario!("memory", footprint::memory, 1, 60),
    scenario!("footprint", footprint::footprint, 2, 120),
    scenario!("reads", footprint::reads, 3, 80),
    scenario!("queries", queries::queries, 1, 60),
    scenario!("drain", drain::drain, 1, 260),
    Scenario { name: "growth", root: false, runs: 2, seconds: 250, run: growth::growth },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_the_time_add_up_to_all_of_it() {
        let sum: u32 = ALL.iter().map(|scenario| scenario.seconds).sum();
        assert_eq!(sum, MINUTES * 60);
    }
}
