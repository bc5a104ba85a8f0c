//! What the kernel knows of a broker's process: CPU time, memory, and the process itself as a guard.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running broker. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident now.
    pub rss: u64,
    /// Resident now, shared pages divided among those who share them.
    pub pss: u64,
    /// Highest resident since the start.
    pub peak: u64,
}

impl Process {
    /// Starts `program`, its output in `log`.
    ///
    /// # Errors
    /// When the program cannot be started or the log file not be made.
    pub fn start(program: &Path, arguments: &[&str], log: &Path) -> io::Result<Self> {
        let output = File::create(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|e| io::Error::new(e.kind(), format!("cannot start {}: {e}", program.display())))?;
        Ok(Self { child })
    }

    /// User and system time used so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> io::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, second field, may hold spaces: fields are counted from behind it (proc(5): utime 14, stime 15).
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Memory now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn memory(&self) -> io::Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        Ok(Memory {
            rss: number(&status, "VmRSS:") * 1024,
            pss: number(&rollup, "Pss:") * 1024,
            peak: number(&status, "VmHWM:") * 1024,
        })
    }

    /// Voluntary and involuntary context switches so far, by thread.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn context_switches(&self) -> io::Result<BTreeMap<String, u64>> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let path = task?.path();
            // A thread may end while we look.
            let Ok(status) = std::fs::read_to_string(path.join("status")) else { continue };
            let sum = number(&status, "voluntary_ctxt_switches:") + number(&status, "nonvoluntary_ctxt_switches:");
            threads.insert(path.to_string_lossy().into_owned(), sum);
        }
        Ok(threads)
    }

    /// Context switches since `before`; those of threads that ended meanwhile are not counted.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn context_switches_since(&self, before: &BTreeMap<String, u64>) -> io::Result<u64> {
        let now = self.context_switches()?;
        Ok(now.iter().map(|(thread, sum)| sum - before.get(thread).copied().unwrap_or(0)).sum())
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Already gone is as good as killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn number(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}
