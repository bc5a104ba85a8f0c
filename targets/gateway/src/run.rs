//! `headwater run`.

use crate::cli::RunArgs;
use crate::failure::Failure;
use crate::out::say;
use crate::{disk, logging, settings, summary};

pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    logging::start(args.log_format, &args.log_level)?;
    let loaded = settings::load(&args.settings)?;
    let config = &loaded.config;
    let budget = disk::budget(&config.disk, &config.gateway.data_dir)?;
    say(format_args!(
        "Headwater {}\n{}",
        env!("CARGO_PKG_VERSION"),
        summary::text(&summary::lines(config, budget.max_bytes))
    ))
}
