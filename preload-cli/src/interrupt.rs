//! Ctrl-C and SIGTERM: the first is a request, the second is obeyed on the spot.

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Result};

/// Runs `work` until it is done or the user wants out; `None` in the second case.
///
/// From then on a second signal ends the process at once.
///
/// # Errors
/// As `work`; a defect when signals cannot be heard.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<Option<T>> {
    let deaf = |e| Failure::internal(format!("listen for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(deaf)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(deaf)?;
    tokio::select! {
        // Work that ends because of the signal is interrupted work.
        biased;
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        done = work => return Ok(Some(done)),
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(None)
}
