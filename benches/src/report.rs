//! What a run prints: the machine, and medians with their range.

use std::fmt::Write as _;
use std::path::Path;

/// Values of one figure over the runs.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<f64>);

impl Runs {
    /// Adds the value of one run.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle value; the upper one of two.
    ///
    /// # Panics
    /// When nothing was measured.
    #[must_use]
    pub fn median(&self) -> f64 {
        assert!(!self.0.is_empty(), "a figure needs at least one run");
        self.0[self.0.len() / 2]
    }

    /// `median (min-max)` with `digits` behind the point, thousands kept plain.
    #[must_use]
    pub fn text(&self, digits: usize) -> String {
        let (min, max) = (self.0[0], self.0[self.0.len() - 1]);
        format!("{:.digits$} ({min:.digits$}-{max:.digits$})", self.median())
    }
}

/// The report: Markdown, printed and kept.
#[derive(Debug, Default)]
pub struct Report(String);

impl Report {
    /// Begins with the machine.
    #[must_use]
    pub fn new(title: &str) -> Self {
        let mut report = Self::default();
        report.line(&format!("# {title}\n"));
        report.line(&format!("Machine: {}\n", machine()));
        report
    }

    /// Adds a line and prints it at once, so that a long run can be followed.
    #[allow(clippy::print_stdout)] // the report is this program's output
    pub fn line(&mut self, text: &str) {
        println!("{text}");
        writeln!(self.0, "{text}").expect("writing to a String cannot fail");
    }

    /// Writes the report to `file`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, file: &Path) -> std::io::Result<()> {
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(file, &self.0)
    }
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024 / 1024);
    format!("{model}, {cores} cores, {memory} GiB, Linux {}", kernel.trim())
}
