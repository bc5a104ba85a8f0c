//! Waiting for a condition, with a deadline. Nothing in these tests sleeps and hopes.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// What most conditions are given. Long, because a busy machine is no failure; a condition that holds costs none of it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks at `probe` until it yields a value.
///
/// # Panics
/// If it has not within `limit`; `what` and the last refusal say what was missing.
#[track_caller]
pub fn until<T, F, P>(limit: Duration, what: &str, mut probe: P) -> impl Future<Output = T>
where
    P: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let begun = Instant::now();
        loop {
            let refusal = match tokio::time::timeout(limit, probe()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(refusal)) => refusal,
                Err(_) => "no answer at all".to_owned(),
            };
            assert!(begun.elapsed() < limit, "{caller}: waited {limit:?} for: {what}; last seen: {refusal}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The same for a condition that needs no `await`.
///
/// # Panics
/// If it does not hold within `limit`.
#[track_caller]
pub fn until_now<T, P>(limit: Duration, what: &str, mut probe: P) -> T
where
    P: FnMut() -> Result<T, String>,
{
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(refusal) => assert!(begun.elapsed() < limit, "waited {limit:?} for: {what}; last seen: {refusal}"),
        }
        std::thread::sleep(POLL);
    }
}
