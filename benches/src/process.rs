//! What the kernel knows of a broker's process: CPU time, memory, and the process itself as a guard.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

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
    /// Resident now and in no file: heap and stacks.
    pub anonymous: u64,
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
        let ticks = cpu_of(&self.child.id().to_string())?;
        // Ticks are hundredths of a second. The threads know it to the nanosecond, but those that ended are not among them.
        let mut exact = Duration::ZERO;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            exact += Duration::from_nanos(text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0));
        }
        Ok(if ticks.abs_diff(exact) < Duration::from_millis(50) { exact } else { ticks })
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
            anonymous: number(&status, "RssAnon:") * 1024,
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

    /// Context switches per second over the next `time`.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn switches_per_second(&self, time: Duration) -> io::Result<f64> {
        let (before, start) = (self.context_switches()?, Instant::now());
        std::thread::sleep(time);
        Ok(self.context_switches_since(&before)? as f64 / start.elapsed().as_secs_f64())
    }

    /// It is not running any more.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Asks it to end in order (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn terminate(mut self) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait()?;
        Ok(())
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

/// User and system time of this process: what the load generator costs.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn own_cpu() -> io::Result<Duration> {
    cpu_of("self")
}

fn cpu_of(process: &str) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, second field, may hold spaces: fields are counted from behind it (proc(5): utime 14, stime 15).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks: u64 = fields.iter().skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Raises the limit on file descriptors for this process and the brokers it starts to `wanted`, or as far as it may; gives what it is
/// then.
#[must_use]
pub fn raise_descriptors(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    // Only root may raise the hard limit; the soft one may always follow it.
    for limit in [
        Rlimit { current: Some(wanted), maximum: Some(hard.max(wanted)) },
        Rlimit { current: Some(wanted.min(hard)), maximum: now.maximum },
    ] {
        if setrlimit(Resource::Nofile, limit).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn number(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}
