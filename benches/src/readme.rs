//! What the README says of speed and size, made from a report, so that no figure is typed by hand.
//!
//! A part of the README between two marks is replaced by [`block`]. The report it was made from is kept beside it in
//! `benches/measured`, with the drawings; a test holds that the README says what that report says.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::plot;
use crate::report::{Report, Section};

/// In front of the part that is replaced.
const BEGIN: &str = "<!-- measured: written by `benches/run readme` -->\n";
/// Behind it.
const END: &str = "<!-- measured: end -->\n";
/// Where the newest full report is kept.
const FOLDER: &str = "benches/measured";
/// The scenario with a page of its own.
const WEAR: &str = "Wear against max_delay";

/// Which way a figure is good.
#[derive(Clone, Copy)]
enum Good {
    High,
    Low,
}

/// One row of the comparison. `{}` in the label stands for the variant.
struct Row {
    label: &'static str,
    section: &'static str,
    /// Which of the section's variants, from the smallest; 0 where it has none.
    variant: usize,
    column: &'static str,
    good: Good,
}

const fn row(label: &'static str, section: &'static str, variant: usize, column: &'static str, good: Good) -> Row {
    Row { label, section, variant, column, good }
}

/// What is compared, whoever wins.
const ROWS: &[Row] = &[
    row("2,000 msgs/s stored: p99, ms", "Latency at a fixed rate", 0, "p99 ms", Good::Low),
    row("1,000 publishers, 10,000 msgs/s: p99, ms", "Fan-in", 0, "p99 ms", Good::Low),
    row("fan-out 4 to 4, QoS 1: deliveries/s", "Fan-out at QoS 1", 0, "deliveries/s", Good::High),
    row("fan-out 4 to 4, QoS 0, paced: CPU us per message", "Fan-out at QoS 0, paced", 0, "CPU us/msg", Good::Low),
    row("the same: messages lost", "Fan-out at QoS 0, paced", 0, "lost", Good::Low),
    row("{}, idle: context switches/s", "Idle clients", 0, "context switches/s", Good::Low),
    row("{}, idle: PSS, MiB", "Idle clients", 0, "PSS MiB", Good::Low),
    row("{}, idle: PSS, MiB", "Idle clients", 2, "PSS MiB", Good::Low),
    row("{}, idle: PSS, MiB", "Idle clients", 3, "PSS MiB", Good::Low),
    row("connect storm: all back after, ms", "Connect storm", 0, "back after ms", Good::Low),
    row(
        "connect storm: p99 of telemetry meanwhile, ms",
        "Connect storm",
        0,
        "telemetry p99 in the storm, ms",
        Good::Low,
    ),
    row("sessions that were away: deliveries/s", "Offline sessions that return", 0, "deliveries/s", Good::High),
    row(
        "the same: memory per queued message, KiB",
        "Offline sessions that return",
        0,
        "PSS KiB per queued message",
        Good::Low,
    ),
    row(
        "restart with a full store: first PUBACK after, ms",
        "Restart with a full store",
        0,
        "first acknowledgement after ms",
        Good::Low,
    ),
    row("the same: peak memory until then, MiB", "Restart with a full store", 0, "peak RSS MiB until then", Good::Low),
    row("backlog to a hub: msgs/s", "A backlog drained to a hub", 0, "msgs/s", Good::High),
    row(
        "the same: first message there after, ms",
        "A backlog drained to a hub",
        0,
        "back on the link after ms",
        Good::Low,
    ),
    row(
        "store of {}: highest on disk / configured",
        "Disk used against configured",
        0,
        "highest / configured",
        Good::Low,
    ),
];

/// One broker a column, each with the rows that may stand for it, the first that has the figure.
const BROKERS: &[(&str, &[&str])] = &[
    ("Headwater", &["headwater"]),
    ("nats-server", &["nats-server, default"]),
    ("Mosquitto", &["mosquitto", "mosquitto, persistence"]),
    ("rumqttd", &["rumqttd"]),
    ("NanoMQ", &["nanomq"]),
    ("FlashMQ", &["flashmq"]),
];

/// The part of the README, without its marks. What the report does not hold is left out.
#[must_use]
pub fn block(report: &Report) -> String {
    let mut text = String::new();
    let fact = |name: &str| report.fact(name).unwrap_or("unknown");
    let versions: Vec<&str> = ["headwater", "nats-server", "mosquitto", "rumqttd", "nanomq", "flashmq"]
        .iter()
        .filter_map(|name| report.fact(&format!("version of {name}")))
        .filter(|version| !version.starts_with("not found"))
        .collect();
    put(
        &mut text,
        &format!(
            "By `benches/run` on {}: {}, {}, {}; the load generator runs on the same processors. Versions: {}. Runs: {}; medians \
             (min-max), brokers in turn. Size: {}. Not yet measured: ARM, real SD cards.\n",
            fact("date"),
            fact("machine"),
            fact("kernel"),
            fact("filesystem of the data").split_whitespace().next().unwrap_or("unknown"),
            versions.join(", "),
            fact("runs"),
            fact("size"),
        ),
    );
    if let Some(remark) = report.fact("remark") {
        put(&mut text, &format!("\n**{remark}**\n"));
    }
    put(
        &mut text,
        "\nEvery table, with what each scenario does: [report.md](benches/measured/report.md); every value of every run: ",
    );
    put(&mut text, "[report.json](benches/measured/report.json).\n");
    report.section("Ingest").into_iter().for_each(|section| ingest(&mut text, section));
    compared(&mut text, report);
    report
        .section("Bytes written to the device per payload byte")
        .into_iter()
        .for_each(|section| wear(&mut text, section));
    own(&mut text, report);
    text
}

fn ingest(text: &mut String, section: &Section) {
    put(
        text,
        "\nIngest: 20 publishers, 200 B JSON telemetry, window 50 each. MQTT at QoS 1; nats-server by its own protocol with JetStream\n\
         acknowledgements.\n\n![messages per second](benches/measured/ingest.svg)\n\n",
    );
    table(
        text,
        &["broker", "an acknowledgement means", "msgs/s", "p99, ms", "CPU per message, us", "peak memory, MiB"],
    );
    let promise = |broker: &str| section.words(broker, "an acknowledgement means").unwrap_or_default().to_owned();
    for broker in section.names() {
        let figure =
            |column| section.figure(&broker, "", column).map_or_else(|| "failed".to_owned(), |cell| cell.shown());
        let cells = ["msgs/s", "p99 ms", "CPU us/msg", "peak RSS MiB"].map(figure);
        line(text, &[&[broker.clone(), promise(&broker)][..], &cells[..]].concat());
    }
}

fn compared(text: &mut String, report: &Report) {
    let there: Vec<_> = BROKERS
        .iter()
        .filter(|(_, names)| {
            report.section("Ingest").is_some_and(|ingest| ingest.names().any(|name| names.contains(&name.as_str())))
        })
        .collect();
    if there.is_empty() {
        return;
    }
    put(
        text,
        "\nEverything else, each broker as it is by default; the best of a row is bold, and it is not always Headwater:\n\n",
    );
    let titles: Vec<&str> = [""].into_iter().chain(there.iter().map(|(title, _)| *title)).collect();
    table(text, &titles);
    for row in ROWS {
        let Some(section) = report.section(row.section) else { continue };
        let variant = section.variants().get(row.variant).cloned().unwrap_or_default();
        let cells: Vec<_> = there
            .iter()
            .map(|(_, names)| names.iter().find_map(|name| section.figure(name, &variant, row.column)))
            .collect();
        let medians = cells.iter().flatten().filter_map(|cell| cell.median());
        let best = match row.good {
            Good::High => medians.fold(f64::NAN, f64::max),
            Good::Low => medians.fold(f64::NAN, f64::min),
        };
        let shown = cells.iter().map(|cell| match cell {
            Some(cell) if cell.median() == Some(best) => format!("**{}**", cell.shown_middle()),
            Some(cell) => cell.shown_middle(),
            None => String::new(),
        });
        let label = row.label.replace("{}", &variant);
        line(text, &[label].into_iter().chain(shown).collect::<Vec<_>>());
    }
}

fn wear(text: &mut String, section: &Section) {
    put(
        text,
        "\nBytes that reach the block device per payload byte (ext4 with default options, the device's own counters, everything\n\
         included; 64 MiB budget, `max_delay = \"2ms\"`). [What `max_delay` does to the life of a card](benches/measured/wear.md).\n\n",
    );
    let variants = section.variants();
    let titles: Vec<&str> = ["broker"].into_iter().chain(variants.iter().map(String::as_str)).collect();
    table(text, &titles);
    let mut told: Vec<String> = Vec::new();
    for broker in section.names() {
        if told.contains(&broker) {
            continue;
        }
        let figure = |variant: &String| {
            let cell = section.figure(&broker, variant, "device bytes / payload byte");
            cell.map_or_else(String::new, |cell| cell.shown_middle())
        };
        line(text, &[broker.clone()].into_iter().chain(variants.iter().map(figure)).collect::<Vec<_>>());
        told.push(broker);
    }
}

/// Headwater by itself.
fn own(text: &mut String, report: &Report) {
    let mut lines: Vec<[String; 2]> = Vec::new();
    if let Some(section) = report.section("Memory and idle") {
        for state in section.names() {
            let figure = |column| section.figure(&state, "", column).map(|cell| cell.shown());
            let (Some(rss), Some(own), Some(peak)) =
                (figure("RSS MiB"), figure("anonymous MiB"), figure("peak RSS MiB"))
            else {
                continue;
            };
            lines.push([
                format!("Memory, {state}"),
                format!("{rss} MiB, of which {own} MiB is not the program file; peak so far {peak} MiB"),
            ]);
        }
    }
    let mut add = |title: &str, what: &str, column: &str, unit: &str| {
        let Some(section) = report.section(title) else { return };
        let variants = section.variants();
        for variant in if variants.is_empty() { vec![String::new()] } else { variants } {
            let name = section.names().next().unwrap_or_default();
            let Some(cell) = section.figure(&name, &variant, column) else { continue };
            let label = if variant.is_empty() { what.to_owned() } else { format!("{what}: {variant}") };
            lines.push([label, format!("{}{unit}", cell.shown())]);
        }
    };
    add(
        "Footprint",
        "Peak memory, full load, subscribers and a session away, `disk.max_bytes`",
        "peak RSS MiB",
        " MiB",
    );
    add("Reading the log", "One message by its sequence, p99, meanwhile", "random read p99 us", " us");
    add("Reading the log", "Scan, messages per second, meanwhile", "scan, msgs/s", "");
    add("Backfill beside a bare program", "Backfill to one JetStream node, messages per second", "msgs/s", "");
    add(
        "Backfill beside a bare program",
        "The same as a share of what a bare async-nats program does",
        "ratio to the bare program",
        "",
    );
    if lines.is_empty() {
        return;
    }
    put(text, "\n| | |\n|---|---|\n");
    lines.iter().for_each(|cells| line(text, cells));
}

/// `readme` with [`block`] between its marks; `None` if they are not there.
#[must_use]
pub fn with_block(readme: &str, report: &Report) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{}{END}{after}", block(report)))
}

/// The page about the life of a card; `None` if that was not measured.
#[must_use]
pub fn wear_page(report: &Report) -> Option<String> {
    let section = report.section(WEAR)?;
    let mut page = format!(
        "# What `max_delay` does to a card\n\nA commit writes at least a page, however few messages are in it, and the filesystem's journal \
         with it. `durability.max_delay` lets a\ncommit wait for more messages: an acknowledgement comes that much later, and the card lives \
         longer. Written by `benches/run readme`\nfrom a run on {} ({}).\n\n",
        report.fact("date").unwrap_or("an unknown date"),
        report.fact("machine").unwrap_or("an unknown machine"),
    );
    for (number, title) in (1..=section.plots().len()).zip([WEAR, "Life of a card"]) {
        put(&mut page, &format!("![{title}]({})\n\n", plot::numbered(section.title(), number)));
    }
    let markdown = section.markdown();
    put(&mut page, markdown.split_once("\n\n").map_or("", |(_, rest)| rest));
    Some(page)
}

/// Brings the README in `root`, and what is kept in `benches/measured`, up to date with the report in `folder`.
///
/// # Errors
/// When there is no report, or the README has no place for it.
pub fn update(root: &Path, folder: &Path) -> io::Result<()> {
    let file = folder.join("report.json");
    let json = std::fs::read_to_string(&file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    let report = Report::from_json(&json)?;
    let readme = root.join("README.md");
    let text = with_block(&std::fs::read_to_string(&readme)?, &report)
        .ok_or_else(|| io::Error::other("README.md has not both marks of the part that is measured"))?;
    let kept = root.join(FOLDER);
    report.save(&kept)?;
    // The page is for looking at, and large: the Markdown says the same.
    std::fs::remove_file(kept.join("report.html"))?;
    if let Some(page) = wear_page(&report) {
        std::fs::write(kept.join("wear.md"), page)?;
    }
    std::fs::write(readme, text)
}

fn table(text: &mut String, titles: &[&str]) {
    put(text, &format!("| {} |\n|{}\n", titles.join(" | "), "---|".repeat(titles.len())));
}

fn line(text: &mut String, cells: &[String]) {
    put(text, &format!("| {} |\n", cells.join(" | ")));
}

fn put(text: &mut String, what: &str) {
    text.write_str(what).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Cell;

    #[test]
    fn the_readme_says_what_the_kept_report_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
        let json = std::fs::read_to_string(root.join(FOLDER).join("report.json")).expect("a report is kept");
        let report = Report::from_json(&json).expect("a report");
        let readme = std::fs::read_to_string(root.join("README.md")).expect("there is a README");
        let made = with_block(&readme, &report).expect("the README has both marks");
        assert!(made == readme, "run benches/run readme; the kept report gives:\n{}", block(&report));
        let page = std::fs::read_to_string(root.join(FOLDER).join("wear.md")).expect("the README names it");
        assert_eq!(wear_page(&report).as_ref(), Some(&page), "run benches/run readme");
    }

    #[test]
    fn the_best_of_a_row_is_bold_whoever_it_is() {
        let mut report = Report::new("t", Vec::new());
        for (title, column, ours, theirs) in [
            ("Ingest", "msgs/s", 2.0, 1.0),
            ("Fan-in", "p99 ms", 7.0, 3.0),
            ("Fan-out at QoS 1", "deliveries/s", 9.0, 4.0),
        ] {
            let mut section = Section::new(title, "", &["broker", column]);
            section.row(vec![Cell::text("headwater"), Cell::once(ours, 0)]);
            section.row(vec![Cell::text("mosquitto"), Cell::once(theirs, 0)]);
            report.add(section);
        }
        let text = block(&report);
        assert!(text.contains("p99, ms | 7 | **3** |") && text.contains("deliveries/s | **9** | 4 |"), "{text}");
        assert_eq!(text, block(&Report::from_json(&report.json().to_string()).expect("its own JSON")));
    }
}
