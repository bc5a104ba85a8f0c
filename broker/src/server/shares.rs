//! The task that reads the log for groups of shared subscriptions, and saves how far they have come.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shutdown;
use super::hub::Hub;

/// One page of a read. One page at most is held, whatever the number of groups.
const PAGE_MSGS: usize = 64;
const PAGE_BYTES: usize = 64 * 1024;

/// Positions of groups are saved after this long; a kill of the broker repeats at most so much.
const SAVE_AFTER: Duration = Duration::from_secs(1);

/// Serves until the shutdown. Sleeps while no group is behind and none has moved.
pub(super) async fn serve(hub: Arc<Hub>, mut shutdown: Shutdown) {
    let mut durable = hub.log.durable();
    let mut save_at: Option<Instant> = None;
    loop {
        durable.borrow_and_update();
        let waits_for_mark = hand_out(&hub).await;
        if save_at.is_none() && hub.with(|router, _| router.shares_unsaved()) {
            save_at = Some(Instant::now() + SAVE_AFTER);
        }
        tokio::select! {
            () = hub.shares.notified() => {}
            changed = durable.changed(), if waits_for_mark => if changed.is_err() { return },
            () = tokio::time::sleep_until(save_at.unwrap_or_else(Instant::now)), if save_at.is_some() => {
                // Without room they stay unsaved, and are tried again.
                let _ = hub.with(|router, log| router.save_shares(log));
                save_at = None;
            }
            () = shutdown.requested() => return,
        }
    }
}

/// Reads for the groups until none can go on. `true`: one may when more is durable.
async fn hand_out(hub: &Arc<Hub>) -> bool {
    while let Some(read) = hub.with(|router, _| router.share_read()) {
        let log = hub.log.clone();
        let reading =
            tokio::task::spawn_blocking(move || log.read(read.stream_id, read.from, PAGE_MSGS, PAGE_BYTES)).await;
        let batch = match reading {
            Ok(Ok(batch)) => batch,
            Ok(Err(error)) => {
                tracing::error!(?error, "the log cannot be read for a shared subscription");
                return true;
            }
            // The runtime ends.
            Err(_) => return false,
        };
        if !hub.with(|router, _| router.share_page(&read, batch)) {
            return true;
        }
    }
    false
}
