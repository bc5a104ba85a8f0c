//! How every scenario is run and told: brokers in turn, a warm-up that does not count, a table with ratios to Headwater.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headwater_benches::brokers::{Broker, Kind, Modes, Programs};
use headwater_benches::plot;
use headwater_benches::report::{Cell, Runs, Section};

pub(crate) const MIB: f64 = 1024.0 * 1024.0;

/// What the command line says, for every scenario.
pub(crate) struct Context<'a> {
    pub(crate) programs: &'a Programs,
    /// On the device that is measured.
    pub(crate) data: &'a Path,
    /// At most so many runs that count.
    pub(crate) runs: usize,
    /// No further run begins that would not be over by then; one is always made.
    pub(crate) until: Instant,
    /// When everything began, for the lines that tell how far it is.
    pub(crate) began: Instant,
    /// Name of the scenario.
    pub(crate) name: &'a str,
    /// Sizes of the issue times this.
    pub(crate) scale: f64,
    /// Descriptors that a process may open.
    pub(crate) descriptors: u64,
}

impl Context<'_> {
    /// A size of the full run, scaled, but not below `least`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number of messages or clients
    pub(crate) fn size(&self, full: u64, least: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(least)
    }

    /// One line about how far it is, with the time since the beginning.
    pub(crate) fn say(&self, what: &str) {
        say(self.began, &format!("{}: {what}", self.name));
    }

    /// There is time for another run that takes as long as one that took `last`.
    pub(crate) fn has_time_for(&self, last: Duration) -> bool {
        Instant::now() + last <= self.until
    }

    pub(crate) fn kinds(&self, modes: Modes) -> Vec<Contender> {
        self.programs.kinds(modes).into_iter().map(Contender::of).collect()
    }
}

/// A line for whoever watches: minutes and seconds since `began`, and `what`.
pub(crate) fn say(began: Instant, what: &str) {
    let seconds = began.elapsed().as_secs();
    eprintln!("[{:02}:{:02}] {what}", seconds / 60, seconds % 60);
}

/// A broker with one size of the work.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    /// What is told apart beside the broker: "5,000 clients". Ratios are taken among the same. Empty where there is only one.
    pub(crate) variant: String,
    pub(crate) size: u64,
}

impl Contender {
    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind, variant: String::new(), size: 0 }
    }

    /// Every kind with every size, the kinds of one size after each other.
    pub(crate) fn sized(kinds: &[Contender], sizes: &[u64], unit: &str) -> Vec<Self> {
        let sized = |size: &u64| {
            let size = *size;
            kinds.iter().map(move |contender| Self { kind: contender.kind, variant: format!("{size} {unit}"), size })
        };
        // Small scales make sizes that are the same.
        let mut sizes = sizes.to_vec();
        sizes.dedup();
        sizes.iter().flat_map(sized).collect()
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.variant.as_str() {
            "" => write!(f, "{}", self.kind),
            variant => write!(f, "{}, {variant}", self.kind),
        }
    }
}

/// One run of one contender.
pub(crate) struct Round {
    /// Empty, and removed afterwards.
    pub(crate) dir: PathBuf,
    /// 1, and 0.1 in the warm-up: the share of the work that is to be done.
    pub(crate) share: f64,
}

impl Round {
    /// That share of `messages`, at least `least`.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number of messages
    pub(crate) fn part(&self, messages: u64, least: u64) -> u64 {
        ((messages as f64 * self.share) as u64).max(least)
    }
}

/// A column of figures: its name, and the digits shown behind the point.
pub(crate) type Column = (&'static str, usize);

/// What came of a contender: a figure for each column, or why there is none.
pub(crate) struct Measured {
    pub(crate) contender: Contender,
    pub(crate) outcome: Result<Vec<Runs>, String>,
}

impl Measured {
    pub(crate) fn runs(&self, column: usize) -> Option<&Runs> {
        self.outcome.as_ref().ok().and_then(|figures| figures.get(column))
    }
}

/// Runs every contender in turn (A B C A B C), the first round with a tenth of the work and not counted. A contender that fails is left
/// out of the rounds behind and told in the report with its error: a peer that cannot do the work is a result, too. Rounds for which
/// the scenario has no time any more are left out; the first that counts is always made.
pub(crate) fn in_turns(
    context: &Context<'_>,
    contenders: Vec<Contender>,
    columns: &[Column],
    mut run: impl FnMut(&Contender, &Round) -> io::Result<Vec<f64>>,
) -> io::Result<Vec<Measured>> {
    let empty = vec![Runs::default(); columns.len()];
    let mut measured: Vec<Measured> =
        contenders.into_iter().map(|contender| Measured { contender, outcome: Ok(empty.clone()) }).collect();
    let mut last = Duration::ZERO;
    for round in 0..=context.runs {
        let begin = Instant::now();
        if round > 1 && !context.has_time_for(last) {
            context.say(&format!("no time for more than {} of {} runs", round - 1, context.runs));
            break;
        }
        for Measured { contender, outcome } in &mut measured {
            let Ok(figures) = outcome else { continue };
            let dir = tempfile::tempdir_in(context.data)?;
            let share = if round == 0 { 0.1 } else { 1.0 };
            let since = Instant::now();
            let done = run(contender, &Round { dir: dir.path().to_owned(), share });
            let label = if round == 0 { "warm-up".to_owned() } else { format!("run {round} of {}", context.runs) };
            context.say(&format!("{label}, {contender}: {:.1} s", since.elapsed().as_secs_f64()));
            match done {
                Ok(values) => {
                    assert_eq!(values.len(), columns.len(), "a run gives a value for each column");
                    if round > 0 {
                        figures.iter_mut().zip(values).for_each(|(figure, value)| figure.push(value));
                    }
                }
                Err(error) => {
                    context.say(&format!("{contender}: {error}; the broker's last words: {}", last_words(dir.path())));
                    *outcome = Err(error.to_string());
                }
            }
        }
        last = begin.elapsed();
    }
    Ok(measured)
}

/// The last line of each log in `dir`.
fn last_words(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    let last = logs.filter_map(|log| Some(std::fs::read_to_string(log).ok()?.lines().last()?.to_owned()));
    last.collect::<Vec<_>>().join(" | ")
}

/// How a table is told.
pub(crate) struct Telling<'a> {
    pub(crate) title: &'a str,
    pub(crate) note: &'a str,
    /// Heading of the variants; `None` where there are none.
    pub(crate) variant: Option<&'static str>,
    pub(crate) columns: &'a [Column],
    /// The column that is drawn as bars and told as a ratio to Headwater, if there is one.
    pub(crate) main: Option<(usize, &'static str)>,
}

/// The table of what was measured.
pub(crate) fn tell(telling: &Telling<'_>, measured: Vec<Measured>) -> Section {
    let mut names = vec!["broker", "an acknowledgement means"];
    names.extend(telling.variant);
    names.extend(telling.columns.iter().map(|column| column.0));
    names.extend(telling.main.map(|_| "ratio to headwater"));
    let runs = measured.iter().filter_map(|one| one.runs(0)).map(Runs::count).max().unwrap_or(0);
    let note = format!("{} {}", telling.note, if runs == 1 { "One run.".into() } else { format!("{runs} runs.") });
    let mut section = Section::new(telling.title, &note, &names);
    if let Some((column, unit)) = telling.main {
        let bars: Vec<_> =
            measured.iter().filter_map(|one| Some(one.runs(column)?.bar(&one.contender.to_string()))).collect();
        section.plot(plot::bars(telling.title, unit, &bars));
    }
    let ours = |variant: &str, column: usize| {
        let same =
            measured.iter().find(|one| one.contender.kind == Kind::Headwater && one.contender.variant == variant);
        same.and_then(|one| one.runs(column)).map(Runs::median)
    };
    let ratios: Vec<Cell> = measured
        .iter()
        .map(|one| {
            let column = telling.main.map_or(0, |main| main.0);
            match (one.runs(column), ours(&one.contender.variant, column)) {
                (Some(runs), Some(ours)) if ours != 0.0 => Cell::once(runs.median() / ours, 2),
                _ => Cell::text(""),
            }
        })
        .collect();
    for (Measured { contender, outcome }, ratio) in measured.into_iter().zip(ratios) {
        let mut cells = vec![Cell::text(contender.kind.to_string()), Cell::text(contender.kind.promise())];
        cells.extend(telling.variant.map(|_| Cell::text(contender.variant.clone())));
        match outcome {
            Ok(figures) => {
                cells.extend(
                    figures.into_iter().zip(telling.columns).map(|(runs, column)| Cell::Figure(runs, column.1)),
                );
            }
            Err(error) => {
                section.failed(&contender.to_string(), &error);
                cells.push(Cell::text(format!("failed: {error}")));
                cells.resize(names.len() - usize::from(telling.main.is_some()), Cell::text(""));
            }
        }
        cells.extend(telling.main.map(|_| ratio));
        section.row(cells);
    }
    section
}

/// The columns that stand in every table, of the broker's process.
pub(crate) const PROCESS: [Column; 4] = [("CPU us/msg", 2), ("RSS MiB", 1), ("PSS MiB", 1), ("peak RSS MiB", 1)];

/// The values of [`PROCESS`], since `before`.
pub(crate) fn process(broker: &Broker, before: Duration, messages: u64) -> io::Result<[f64; 4]> {
    let cpu = broker.process.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
    let memory = broker.process.memory()?;
    let mib = |bytes: u64| bytes as f64 / MIB;
    Ok([cpu / messages.max(1) as f64, mib(memory.rss), mib(memory.pss), mib(memory.peak)])
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The longest that one piece of load may take: a broker that stalls ends as a row that says so, not as a run that hangs.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs `future` here, for at most [`LIMIT`].
pub(crate) fn block_on<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(limited(future))
}

/// `future`, or an error after [`LIMIT`].
pub(crate) async fn limited<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::other(format!("did not finish in {} s", LIMIT.as_secs()));
    tokio::time::timeout(LIMIT, future).await.map_err(late)?
}

/// Runs `future` in a thread of its own: what measures latencies must not wait for what makes load.
pub(crate) fn apart<T: Send + 'static>(
    future: impl Future<Output = io::Result<T>> + Send + 'static,
) -> std::thread::JoinHandle<io::Result<T>> {
    std::thread::spawn(move || block_on(future))
}

/// What a thread of [`apart`] came to.
pub(crate) fn joined<T>(thread: std::thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().map_err(|_| io::Error::other("a thread of the load generator panicked"))?
}
