//! `headwater-bench`: the figures of the README, each beside its peer in one run.

mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use headwater_benches::brokers::Programs;
use headwater_benches::report::Report;

/// Runs scenarios and writes a Markdown report.
#[derive(Debug, Parser)]
struct Arguments {
    /// The release binary of Headwater.
    #[arg(long)]
    headwater: PathBuf,
    /// nats-server.
    #[arg(long)]
    nats_server: PathBuf,
    /// Where the report is written.
    #[arg(long, default_value = "target/bench-report/main-job.md")]
    report: PathBuf,
    /// Directory for the brokers' data: on the device that is to be measured.
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Runs of each broker; medians are printed with their range.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Scenarios: ingest, wear, memory, backfill, restart. All if none is named.
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
    let programs = Programs { headwater: arguments.headwater.clone(), nats_server: arguments.nats_server.clone() };
    std::fs::create_dir_all(&arguments.data)?;
    let data = arguments.data.canonicalize()?;
    let all = ["ingest", "wear", "memory", "backfill", "restart"];
    let chosen: Vec<&str> = match arguments.scenarios.as_slice() {
        [] => all.to_vec(),
        names => names.iter().map(String::as_str).collect(),
    };
    let mut report = Report::new("Headwater: the main job, measured");
    for name in chosen {
        match name {
            "ingest" => scenarios::ingest(&programs, &data, arguments.runs, &mut report)?,
            "wear" => scenarios::wear(&programs, &mut report)?,
            "memory" => scenarios::memory(&programs, &data, &mut report)?,
            "backfill" => scenarios::backfill(&programs, &data, arguments.runs, &mut report)?,
            "restart" => scenarios::restart(&programs, &data, arguments.runs, &mut report)?,
            other => {
                return Err(std::io::Error::other(format!("no scenario {other:?}; there are: {}", all.join(", "))));
            }
        }
        report.save(&arguments.report)?;
    }
    Ok(())
}
