//! The scenarios: what is run, and what is told of it. A file each; how brokers take turns is in `turns.rs`.

mod clients;
mod disk;
mod drain;
mod fan_out;
mod footprint;
mod growth;
mod ingest;
mod log;
mod restart;
mod sessions;
mod turns;

use std::io;

use headwater_benches::report::Section;

pub(crate) use turns::Context;

/// A scenario by name.
pub(crate) struct Scenario {
    /// On the command line.
    pub(crate) name: &'static str,
    /// Needs root, for a loop device.
    pub(crate) root: bool,
    pub(crate) run: fn(&Context<'_>) -> io::Result<Vec<Section>>,
}

macro_rules! scenario {
    ($name:literal, $run:path) => {
        Scenario { name: $name, root: false, run: |context| $run(context).map(|section| vec![section]) }
    };
    ($name:literal, $run:path, root) => {
        Scenario { name: $name, root: true, run: |context| $run(context).map(|section| vec![section]) }
    };
}

/// All, in the order in which they are run.
pub(crate) const ALL: [Scenario; 18] = [
    scenario!("ingest", ingest::ingest),
    scenario!("paced", ingest::paced),
    scenario!("fan-out-0", fan_out::qos_0),
    scenario!("fan-out", fan_out::qos_1),
    scenario!("fan-in", clients::fan_in),
    scenario!("idle", clients::idle),
    scenario!("storm", clients::storm),
    scenario!("offline", sessions::offline),
    scenario!("backfill", drain::backfill),
    scenario!("restart", restart::restart),
    scenario!("disk", disk::used),
    scenario!("wear", disk::wear, root),
    scenario!("wear-curve", disk::wear_curve, root),
    scenario!("memory", footprint::memory),
    scenario!("footprint", footprint::footprint),
    scenario!("reads", footprint::reads),
    scenario!("drain", drain::drain),
    Scenario { name: "growth", root: false, run: growth::growth },
];
