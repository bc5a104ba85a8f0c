//! `headwater-bench`: the figures of the README, each beside its peer in one run.

mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use headwater_benches::brokers::Programs;
use headwater_benches::machine;
use headwater_benches::report::Report;

/// How the brokers are set up, where a scenario does not say otherwise.
const SETTINGS: &str = "headwater: one stream for every topic, ack = synced, max_bytes = 1GiB. nats-server: one file stream, \
    sync_interval always or default. mosquitto: no persistence, no limit on queued or unacknowledged messages.";

/// Runs scenarios and writes a report: HTML, Markdown, JSON.
#[derive(Debug, Parser)]
struct Arguments {
    /// The release binary of Headwater.
    #[arg(long)]
    headwater: PathBuf,
    /// nats-server.
    #[arg(long)]
    nats_server: PathBuf,
    /// Mosquitto. Left out of the runs if it is not named.
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    /// Folder that the report is written to.
    #[arg(long, default_value = "target/bench-report")]
    report: PathBuf,
    /// Directory for the brokers' data: on the device that is to be measured.
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Runs of each broker; medians are printed with their range.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Messages of an ingest run; a twentieth of it where each is synced on its own.
    #[arg(long, default_value_t = 400_000)]
    messages: u64,
    /// Seconds of a run at a fixed rate.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Scenarios: ingest, paced, fan-out, wear, memory, backfill, restart. All if none is named.
    scenarios: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<()> {
    let programs = Programs {
        headwater: arguments.headwater.clone(),
        nats_server: arguments.nats_server.clone(),
        mosquitto: arguments.mosquitto.clone(),
    };
    std::fs::create_dir_all(&arguments.data)?;
    let data = arguments.data.canonicalize()?;
    let all = ["ingest", "paced", "fan-out", "wear", "memory", "backfill", "restart"];
    let chosen: Vec<&str> = match arguments.scenarios.as_slice() {
        [] => all.to_vec(),
        names => names.iter().map(String::as_str).collect(),
    };
    let mut facts = machine::facts(&data);
    facts.extend(programs.versions());
    facts.extend([
        ("settings of the brokers".to_owned(), SETTINGS.to_owned()),
        ("runs".to_owned(), arguments.runs.to_string()),
    ]);
    let mut report = Report::new("Headwater, measured beside its peers", facts);
    let runs = usize::from(arguments.runs);
    for name in chosen {
        let section = match name {
            "ingest" => scenarios::ingest(&programs, &data, runs, arguments.messages)?,
            "paced" => scenarios::paced(&programs, &data, runs, arguments.seconds)?,
            "fan-out" => scenarios::fan_out(&programs, &data, runs, arguments.messages)?,
            "wear" => scenarios::wear(&programs)?,
            "memory" => scenarios::memory(&programs, &data)?,
            "backfill" => scenarios::backfill(&programs, &data, runs)?,
            "restart" => scenarios::restart(&programs, &data, runs)?,
            other => {
                return Err(std::io::Error::other(format!("no scenario {other:?}; there are: {}", all.join(", "))));
            }
        };
        report.add(section);
        // A long run that fails in its last scenario keeps what it found before.
        report.save(&arguments.report)?;
    }
    Ok(())
}
