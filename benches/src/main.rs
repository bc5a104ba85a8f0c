//! `headwater-bench`: the figures of the README, each beside its peers in one run.

mod scenarios;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use headwater_benches::brokers::{Programs, SUMMARY};
use headwater_benches::machine;
use headwater_benches::process::raise_descriptors;
use headwater_benches::readme;
use headwater_benches::report::{Cell, Report, Section};

use scenarios::{ALL, Context, MINUTES, Scenario, say};

/// What the largest scenario needs: 20,000 clients, and some files beside.
const DESCRIPTORS: u64 = 65_536;

/// Runs scenarios and writes a report: HTML, Markdown, JSON, and each drawing as an SVG file.
#[derive(Debug, Parser)]
struct Arguments {
    /// The release binary of Headwater.
    #[arg(long, required_unless_present_any = ["list", "readme"])]
    headwater: Option<PathBuf>,
    /// nats-server.
    #[arg(long, required_unless_present_any = ["list", "readme"])]
    nats_server: Option<PathBuf>,
    /// Mosquitto. Left out of the runs if it is not named, like the three below.
    #[arg(long)]
    mosquitto: Option<PathBuf>,
    /// rumqttd.
    #[arg(long)]
    rumqttd: Option<PathBuf>,
    /// NanoMQ.
    #[arg(long)]
    nanomq: Option<PathBuf>,
    /// FlashMQ.
    #[arg(long)]
    flashmq: Option<PathBuf>,
    /// Folder that the report is written to.
    #[arg(long, default_value = "target/bench-report")]
    report: PathBuf,
    /// Directory for the brokers' data: on the device that is to be measured.
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Runs of each broker that count, after one that warms up; medians are printed with their range. Some scenarios make fewer, as
    /// the table of times at the end of the report says.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Minutes that all scenarios may take; each has its share. Runs that would take longer are left out, but every scenario makes one.
    #[arg(long, default_value_t = MINUTES, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// Keep what the report in the folder holds, and replace only what is measured now.
    #[arg(long)]
    add: bool,
    /// Measure nothing: bring the README of the repository in this directory up to date with the report.
    #[arg(long)]
    readme: bool,
    /// Factor for the sizes of every scenario (messages, clients, backlog, seconds): below 1 for a look, 1 for figures.
    #[arg(long, default_value_t = 1.0, value_parser = factor)]
    scale: f64,
    /// Words for the report: "preliminary, beside other work".
    #[arg(long)]
    remark: Option<String>,
    /// Print the names of the scenarios and stop.
    #[arg(long)]
    list: bool,
    /// Names of scenarios. All if none is named.
    scenarios: Vec<String>,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 100.0 => Ok(value),
        _ => Err("a number above 0 and up to 100 is expected".to_owned()),
    }
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
    let names = ALL.map(|scenario| scenario.name);
    if arguments.list {
        for name in names {
            #[expect(clippy::print_stdout)] // what was asked for
            {
                println!("{name}");
            }
        }
        return Ok(());
    }
    if arguments.readme {
        return readme::update(std::path::Path::new("."), &arguments.report);
    }
    let programs = Programs {
        // clap has seen to it that both are named.
        headwater: arguments.headwater.clone().unwrap_or_default(),
        nats_server: arguments.nats_server.clone().unwrap_or_default(),
        mosquitto: arguments.mosquitto.clone(),
        rumqttd: arguments.rumqttd.clone(),
        nanomq: arguments.nanomq.clone(),
        flashmq: arguments.flashmq.clone(),
    };
    let chosen: Vec<&Scenario> = if arguments.scenarios.is_empty() {
        ALL.iter().collect()
    } else {
        let found = |name: &String| {
            ALL.iter()
                .find(|scenario| scenario.name == name)
                .ok_or_else(|| std::io::Error::other(format!("no scenario {name:?}; there are: {}", names.join(", "))))
        };
        arguments.scenarios.iter().map(found).collect::<Result<_, _>>()?
    };
    let descriptors = raise_descriptors(DESCRIPTORS);
    if descriptors < DESCRIPTORS {
        eprintln!(
            "headwater-bench: only {descriptors} file descriptors may be open, {DESCRIPTORS} wanted: what does not fit is left out"
        );
    }
    std::fs::create_dir_all(&arguments.data)?;
    let data = arguments.data.canonicalize()?;
    let mut facts = machine::facts(&data);
    facts.extend(programs.versions());
    facts.extend([
        ("settings of the brokers".to_owned(), SUMMARY.to_owned()),
        (
            "runs".to_owned(),
            format!(
                "{} (fewer where the table of times says so), after a warm-up with a tenth of the work",
                arguments.runs
            ),
        ),
        ("size".to_owned(), format!("{} of the full run, {} minutes at most", arguments.scale, arguments.minutes)),
        ("file descriptors".to_owned(), descriptors.to_string()),
    ]);
    facts.extend(arguments.remark.clone().map(|remark| ("remark".to_owned(), remark)));
    let mut report = Report::new("Headwater, measured beside its peers", facts);
    if arguments.add {
        report.keep(Report::from_json(&std::fs::read_to_string(arguments.report.join("report.json"))?)?);
    }
    let began = Instant::now();
    let mut shares = Duration::ZERO;
    let mut times = Vec::new();
    for (number, scenario) in (1..).zip(&chosen) {
        // What one does not need, the next may use.
        shares += Duration::from_secs(u64::from(scenario.seconds)) * arguments.minutes / MINUTES;
        let context = Context {
            programs: &programs,
            data: &data,
            runs: usize::from(arguments.runs.min(scenario.runs)),
            until: began + shares,
            began,
            name: scenario.name,
            scale: arguments.scale,
            descriptors,
        };
        let share = shares.saturating_sub(began.elapsed());
        say(began, &format!("{}: {number} of {}, {} s at most", scenario.name, chosen.len(), share.as_secs()));
        let since = Instant::now();
        let done = (scenario.run)(&context).map_err(|error| {
            let hint = if scenario.root { " (this scenario needs root, for a loop device)" } else { "" };
            std::io::Error::other(format!("{}: {error}{hint}", scenario.name))
        });
        // A long run that fails in one scenario keeps what the others find.
        match done {
            Ok(sections) => sections.into_iter().for_each(|section| report.add(section)),
            Err(error) => {
                say(began, &error.to_string());
                report.fail(error.to_string());
            }
        }
        times.push((scenario.name, context.runs, since.elapsed()));
        report.close(told(&times));
        report.save(&arguments.report)?;
    }
    say(began, &format!("{} is written", arguments.report.join("report.html").display()));
    match report.failures().as_slice() {
        [] => Ok(()),
        failures => Err(std::io::Error::other(format!("{} failed: {}", failures.len(), failures.join("; ")))),
    }
}

/// How long each scenario took, and how many runs it was to make.
fn told(times: &[(&'static str, usize, Duration)]) -> Section {
    let note = "In the order in which they were run. A scenario ends before its runs are made where its share of the time is used up; \
        every table says how many it had.";
    let mut section = Section::new("Times", note, &["scenario", "runs at most", "took, s"]);
    for (name, runs, took) in times {
        section.row(vec![Cell::text(*name), Cell::text(runs.to_string()), Cell::once(took.as_secs_f64(), 0)]);
    }
    section
}
