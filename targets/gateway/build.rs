//! Notes what `headwater self` says: the commit, the target, and how it was built. Works without git and without a network.

use std::process::Command;

fn main() {
    let set = |name: &str, value: &str| println!("cargo:rustc-env=HEADWATER_{name}={value}");
    let cargo = |name: &str| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rerun-if-env-changed=HEADWATER_COMMIT");
    set(
        "BUILD_COMMIT",
        &std::env::var("HEADWATER_COMMIT").ok().or_else(commit).unwrap_or_else(|| "unknown".to_owned()),
    );
    set("BUILD_TARGET", &cargo("TARGET"));
    set("BUILD_PROFILE", &cargo("PROFILE"));
    set("BUILD_OPT_LEVEL", &cargo("OPT_LEVEL"));
    set("BUILD_PANIC", &cargo("CARGO_CFG_PANIC"));
    set("BUILD_TARGET_FEATURES", &target_features());
    set("BUILD_RUSTC", &rustc().unwrap_or_else(|| "unknown".to_owned()));
}

/// Separated by commas: what cargo tells, which are those that a stable compiler knows, and what was asked for beyond. Nothing for a
/// target whose baseline is all there is.
fn target_features() -> String {
    let known = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let asked = flags.split('\u{1f}').filter_map(|flag| flag.trim_start_matches("-C").strip_prefix("target-feature="));
    let mut features: Vec<&str> = known.split(',').collect();
    features.extend(asked.flat_map(|asked| asked.split(',')).filter_map(|feature| feature.strip_prefix('+')));
    features.retain(|feature| !feature.is_empty());
    features.join(",")
}

/// The commit of the work tree. Only a changed HEAD makes this run again: `targets/build` names the commit itself.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let head = git(&["rev-parse", "--git-path", "HEAD"])?;
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={head}");
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn rustc() -> Option<String> {
    let output = Command::new(std::env::var_os("RUSTC")?).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
