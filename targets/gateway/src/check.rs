//! `headwater check`: reads a configuration as `run` would, and says what it would do. Touches nothing.

use headwater_broker::auth::Auth;
use headwater_broker::config::Config;
use headwater_broker::server::tls;

use crate::cli::SettingsArgs;
use crate::failure::Failure;
use crate::out::say;
use crate::{disk, settings, summary};

pub(crate) fn check(args: &SettingsArgs) -> Result<(), Failure> {
    let loaded = settings::load(args)?;
    let config = &loaded.config;
    let missing = unreadable_files(config);
    if !missing.is_empty() {
        return Err(Failure::usage(missing.join("\n")));
    }
    auth(config)?;
    for listener in &config.listeners {
        if let Some(files) = listener.kind.tls() {
            tls::check(files).map_err(Failure::usage)?;
        }
    }
    let budget = disk::budget(&config.disk, &config.gateway.data_dir)?;
    say(format_args!("ok\n{}", summary::text(&summary::lines(config, budget.max_bytes))))?;
    for note in loaded.notes.iter().chain(&budget.lowered) {
        say(format_args!("note: {note}\n"))?;
    }
    Ok(())
}

/// Users and rights, as the configuration names their files.
pub(crate) fn auth(config: &Config) -> Result<Auth, Failure> {
    Auth::load(&config.auth.files)
        .map_err(|errors| Failure::usage(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

/// Files that the configuration names and that cannot be read, each with its key and the reason.
pub(crate) fn unreadable_files(config: &Config) -> Vec<String> {
    let files = config.uplinks.iter().flat_map(|uplink| {
        uplink.files().into_iter().map(move |(key, path)| (format!("uplink \"{}\": {key}", uplink.name), path))
    });
    files
        .filter_map(|(key, path)| {
            let error = std::fs::File::open(path).err()?;
            Some(format!("{key}: cannot read {}: {error}", path.display()))
        })
        .collect()
}
