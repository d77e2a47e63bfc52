//! Waiting for what other people do.

use std::{error::Error, time::Duration};

use tokio::time::{Instant, sleep};

const LOOKS_EVERY: Duration = Duration::from_millis(30);

/// Looks until there is something, for as long as the caller has time.
///
/// Fails with what was awaited when it does not come, and at once when looking fails.
pub async fn until<T>(
    what: &str,
    timeout_ms: u64,
    mut look: impl AsyncFnMut() -> Result<Option<T>, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let end = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(format!("waited {timeout_ms} ms for {what}").into());
        }
        sleep(LOOKS_EVERY).await;
    }
}
