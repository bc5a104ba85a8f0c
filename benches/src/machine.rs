//! What a figure depends on beside the program: processor, memory, kernel, filesystem, versions.

use std::path::Path;
use std::process::Command;

/// Name and value of each fact about this machine and the filesystem that holds `data`. What cannot be read is said to be unknown.
#[must_use]
pub fn facts(data: &Path) -> Vec<(String, String)> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("machine", processor()),
        fact("kernel", first_line(&["uname", "-srm"])),
        fact(
            "filesystem of the data",
            first_line(&["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "--target", &data.to_string_lossy()]),
        ),
        fact("date", first_line(&["date", "-u", "+%Y-%m-%d %H:%M UTC"])),
    ]
}

/// The first line that a program prints on either channel, "unknown" if it cannot be asked.
#[must_use]
pub fn first_line(command: &[&str]) -> String {
    let printed = Command::new(command[0]).args(&command[1..]).output().ok();
    printed
        .map(|done| [done.stdout, done.stderr].concat())
        .and_then(|bytes| String::from_utf8_lossy(&bytes).lines().next().map(|line| line.trim().to_owned()))
        .filter(|line| !line.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn processor() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gibibytes = memory
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024 / 1024);
    format!("{model}, {cores} cores, {gibibytes} GiB")
}
