//! `headwater bench disk`: how long the device of the data directory takes for a sync, and what that means for `max_delay`.
//!
//! It does what the log does: overwrites in place a file that was allocated before, and syncs its data. The file is small, and gone
//! when this ends. The broker must not run meanwhile: what lies in the data directory is its to count.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater_broker::log::{OpenError, ensure_closed};
use serde::Serialize;

use crate::cli::StoreArgs;
use crate::failure::Failure;
use crate::out::{bytes, columns, say};
use crate::{disk, settings};

const FILE_BYTES: u64 = 4 << 20;
const SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];
/// Enough for a 99th percentile, unless the device is so slow that nobody would wait for it.
const SYNCS: usize = 300;
const LIMIT: Duration = Duration::from_secs(15);
/// A commit of one message rewrites at least a page.
const PAGE_BYTES: f64 = 4096.0;
/// Delays that people choose between, milliseconds.
const DELAYS: [u64; 6] = [0, 2, 5, 20, 100, 500];

/// Sync times of one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Latency {
    bytes: usize,
    syncs: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Latency {
    fn of(bytes: usize, mut took: Vec<Duration>) -> Latency {
        took.sort_unstable();
        let at = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1)));
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Latency { bytes, syncs: took.len(), p50_ms: ms(at(50)), p99_ms: ms(at(99)), max_ms: ms(took.last()) }
    }
}

/// What a delay would mean.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Choice {
    max_delay_ms: u64,
    /// From arrival to acknowledgement, of a message that comes alone: half of them wait less.
    typical_ack_ms: f64,
    /// At 10 and 100 messages a second, evenly spread: bytes that commits rewrite in a day, at least.
    bytes_a_day_at_10: f64,
    bytes_a_day_at_100: f64,
}

#[derive(Clone, Debug, Serialize)]
struct Report {
    directory: String,
    latencies: Vec<Latency>,
    choices: Vec<Choice>,
    proposed_max_delay_ms: u64,
}

/// A device that syncs in a moment is not helped by waiting; for others, waiting as long as a sync takes about halves the commits of a
/// busy gateway and at most doubles what a device waits for its acknowledgement. The next larger of the delays that people use.
fn proposed(p50_ms: f64) -> u64 {
    if p50_ms < 1.0 {
        return 0;
    }
    DELAYS.into_iter().find(|&delay| delay as f64 >= p50_ms).unwrap_or(DELAYS[DELAYS.len() - 1])
}

fn choice(delay: u64, p50_ms: f64) -> Choice {
    let between_commits_ms = delay as f64 + p50_ms;
    let bytes_a_day = |rate: f64| rate.min(1e3 / between_commits_ms) * PAGE_BYTES * 86_400.0;
    Choice {
        max_delay_ms: delay,
        typical_ack_ms: between_commits_ms,
        bytes_a_day_at_10: bytes_a_day(10.0),
        bytes_a_day_at_100: bytes_a_day(100.0),
    }
}

pub(crate) fn disk(args: &StoreArgs) -> Result<(), Failure> {
    let config = settings::load(&args.settings())?.config;
    let data_dir = &config.gateway.data_dir;
    match ensure_closed(data_dir) {
        Ok(()) | Err(OpenError::NotALog { .. }) => {}
        Err(error) => return Err(Failure::runtime(error)),
    }
    let directory = disk::existing(data_dir);
    let free = disk::available(&directory)?;
    if free < config.disk.min_free + FILE_BYTES {
        return Err(Failure::runtime(format!(
            "{}: {} are free, {} and disk.min_free ({}) are needed",
            directory.display(),
            bytes(free),
            bytes(FILE_BYTES),
            bytes(config.disk.min_free)
        )));
    }
    let failed = |e: std::io::Error| Failure::runtime(format!("{}: {e}", directory.display()));
    let scratch = Scratch::make(&directory).map_err(failed)?;
    let took = scratch.syncs().map_err(failed)?;
    let latencies: Vec<_> = SIZES.into_iter().zip(took).map(|(size, took)| Latency::of(size, took)).collect();
    let p50_ms = latencies[0].p50_ms;
    let report = Report {
        directory: directory.display().to_string(),
        choices: DELAYS.into_iter().map(|delay| choice(delay, p50_ms)).collect(),
        latencies,
        proposed_max_delay_ms: proposed(p50_ms),
    };
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(Failure::runtime)?;
        return say(format_args!("{json}\n"));
    }
    say(format_args!("{}", text(&report)))
}

fn text(report: &Report) -> String {
    let head = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut latencies = vec![head(&["write and sync of", "syncs", "p50", "p99", "longest"])];
    for one in &report.latencies {
        let ms = |value: f64| format!("{value:.2} ms");
        latencies.push(vec![
            bytes(one.bytes as u64),
            one.syncs.to_string(),
            ms(one.p50_ms),
            ms(one.p99_ms),
            ms(one.max_ms),
        ]);
    }
    let mut choices =
        vec![head(&["max_delay", "a lone message's ack", "rewritten a day at 10 msgs/s", "at 100 msgs/s"])];
    for one in &report.choices {
        let day = |value: f64| format!("{:.2} GB", value / 1e9);
        choices.push(vec![
            format!("{} ms", one.max_delay_ms),
            format!("{:.1} ms", one.typical_ack_ms),
            day(one.bytes_a_day_at_10),
            day(one.bytes_a_day_at_100),
        ]);
    }
    format!(
        "{}\n\n{}\n{}\nproposed: max_delay = \"{}ms\" in [durability]. A longer delay wears the device less, a shorter one acknowledges \
         sooner.\nRewritten is what commits write at least, a page each; payload, tables and the filesystem come on top.\n",
        report.directory,
        columns(&latencies, &[1, 2, 3, 4]),
        columns(&choices, &[0, 1, 2, 3]),
        report.proposed_max_delay_ms
    )
}

/// A file to overwrite; gone with its owner.
struct Scratch {
    file: File,
    path: PathBuf,
}

impl Scratch {
    fn make(dir: &Path) -> std::io::Result<Scratch> {
        let path = dir.join(format!(".headwater-bench-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let scratch = Scratch { file, path };
        let zeros = vec![0; 64 << 10];
        for at in (0..FILE_BYTES).step_by(zeros.len()) {
            scratch.file.write_all_at(&zeros, at)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }

    /// All sizes in turn, so that a passing load of the machine falls on each alike.
    fn syncs(&self) -> std::io::Result<[Vec<Duration>; SIZES.len()]> {
        let begun = Instant::now();
        let mut took = [const { Vec::new() }; SIZES.len()];
        let mut block = vec![0; SIZES[SIZES.len() - 1]];
        for round in 0..SYNCS {
            // Other bytes every time: some devices notice that nothing changes.
            block.fill(round.to_le_bytes()[0] | 1);
            for (took, size) in took.iter_mut().zip(SIZES) {
                let at = (round * size) as u64 % (FILE_BYTES - size as u64 + 1);
                let start = Instant::now();
                self.file.write_all_at(&block[..size], at)?;
                self.file.sync_data()?;
                took.push(start.elapsed());
            }
            if begun.elapsed() > LIMIT {
                break;
            }
        }
        Ok(took)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Should that fail, the name says what it is.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_measured() {
        let latency = Latency::of(4096, (1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (51.0, 100.0, 100.0));
        assert_eq!(Latency::of(4096, Vec::new()).p99_ms, 0.0);
    }

    #[test]
    fn a_fast_device_is_not_made_to_wait_and_a_slow_one_waits_for_about_a_sync() {
        assert_eq!([0.1, 0.9, 1.5, 6.0, 80.0, 900.0].map(proposed), [0, 0, 2, 20, 100, 500]);
    }

    #[test]
    fn a_longer_delay_never_writes_more() {
        let days: Vec<f64> = DELAYS.into_iter().map(|delay| choice(delay, 4.0).bytes_a_day_at_100).collect();
        assert!(days.is_sorted_by(|a, b| a >= b), "{days:?}");
        // 10 messages a second, each by itself, rewrite a page each.
        assert!((choice(0, 4.0).bytes_a_day_at_10 - 10.0 * 4096.0 * 86_400.0).abs() < 1.0);
    }
}
