//! `headwater self`: what this binary is, for a report of an error or an inventory. Everything was noted when it was built.

use serde::Serialize;

use crate::failure::Failure;
use crate::out::{columns, say};

#[derive(Debug, Serialize)]
struct Own {
    version: &'static str,
    /// Of the sources, or `unknown`; with `-modified` if they were changed.
    commit: &'static str,
    target: &'static str,
    /// What can be in a binary or not, and is in this one.
    features: Vec<&'static str>,
    allocator: &'static str,
    profile: &'static str,
    opt_level: &'static str,
    panic: &'static str,
    /// Of the processor that the compiler was allowed to use.
    target_features: Vec<&'static str>,
    rustc: &'static str,
}

impl Own {
    fn new() -> Own {
        Own {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("HEADWATER_BUILD_COMMIT"),
            target: env!("HEADWATER_BUILD_TARGET"),
            features: FEATURES.to_vec(),
            // musl's: measured, it takes a fifth more processor time per message than glibc's, and a third less memory.
            allocator: if cfg!(target_env = "musl") { "musl" } else { "glibc" },
            profile: env!("HEADWATER_BUILD_PROFILE"),
            opt_level: env!("HEADWATER_BUILD_OPT_LEVEL"),
            panic: env!("HEADWATER_BUILD_PANIC"),
            target_features: env!("HEADWATER_BUILD_TARGET_FEATURES").split(',').filter(|f| !f.is_empty()).collect(),
            rustc: env!("HEADWATER_BUILD_RUSTC"),
        }
    }
}

/// Every binary has all of them: there are no cargo features to build without one.
const FEATURES: &[&str] = &["mqtt", "auth", "jetstream", "http", "systemd"];

pub(crate) fn own(as_json: bool) -> Result<(), Failure> {
    let own = Own::new();
    if as_json {
        let text = serde_json::to_string_pretty(&own).map_err(Failure::runtime)?;
        return say(format_args!("{text}\n"));
    }
    let cpu = if own.target_features.is_empty() { "baseline".to_owned() } else { own.target_features.join(" ") };
    let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
    say(format_args!(
        "{}",
        columns(
            &[
                row("version", own.version),
                row("commit", own.commit),
                row("target", own.target),
                row("features", &own.features.join(" ")),
                row("allocator", own.allocator),
                row("profile", own.profile),
                row("opt-level", own.opt_level),
                row("panic", own.panic),
                row("cpu", &cpu),
                row("rustc", own.rustc),
            ],
            &[]
        )
    ))
}
