//! Log lines to stderr.

use std::fmt;
use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, Layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::cli::LogFormat;
use crate::failure::Failure;

/// Begins to write log lines as asked for.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = filter(level)?;
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        LogFormat::Text if stderr_is_journal() => tracing::subscriber::set_global_default(registry.with(journal())),
        LogFormat::Text => tracing::subscriber::set_global_default(registry.with(text())),
        LogFormat::Json => {
            tracing::subscriber::set_global_default(registry.with(Layer::new().json().with_writer(std::io::stderr)))
        }
    };
    set.map_err(Failure::runtime)
}

fn text<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl tracing_subscriber::Layer<S> {
    Layer::new().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal())
}

/// The journal notes the time itself, and takes the level from the start of the line.
fn journal<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl tracing_subscriber::Layer<S> {
    Layer::new()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(Journal(Format::default().without_time().with_level(false)))
}

/// Whether stderr is the journal's, not only that of something that runs below a service (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(std::io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Lines as systemd wants them (sd-daemon(3)): `<priority>` in front, no time.
struct Journal(Format<Full, ()>);

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(to, "<{priority}>")?;
        self.0.format_event(context, to, event)
    }
}

/// A bare level is meant for our own code: what libraries say at `info` and below helps nobody who runs a gateway.
fn filter(level: &str) -> Result<Targets, Failure> {
    match level.parse::<LevelFilter>() {
        Ok(level) => Ok(Targets::new()
            .with_default(level.min(LevelFilter::WARN))
            // Calls every lost link an error; the uplink says the same in its own words, and what it means.
            .with_target("async_nats", if level > LevelFilter::INFO { LevelFilter::WARN } else { LevelFilter::OFF })
            .with_target("headwater", level)),
        // A single word that is no level would count as the name of a module.
        Err(_) if level.split(',').all(|part| part.contains('=') || part.parse::<LevelFilter>().is_ok()) => {
            level.parse::<Targets>().map_err(|_| unknown(level))
        }
        Err(_) => Err(unknown(level)),
    }
}

fn unknown(level: &str) -> Failure {
    Failure::usage(format!(
        "--log-level: expected error, warn, info, debug, trace or \"info,headwater_sync=debug\", found \"{level}\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quieter_than_we_are() {
        let filter = filter("info").expect("a level");
        assert!(filter.would_enable("headwater_broker::log", &Level::INFO));
        assert!(!filter.would_enable("fjall", &Level::INFO));
        assert!(filter.would_enable("fjall", &Level::WARN));
        assert!(!filter.would_enable("async_nats::connector", &Level::ERROR));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(filter("info,headwater_sync=debug").is_ok());
        assert!(filter("loud").is_err());
        assert!(filter("headwater=loud").is_err());
    }
}
