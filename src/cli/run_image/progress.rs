//! Shows how far a run is: a bar on a terminal, else one line for each step.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::runtime::TransferProgress;

/// Time between two looks at a transfer, and between two pictures of the bar.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is done now.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins to show progress, on standard error.
    pub(super) fn begin() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(INTERVAL);
            bar
        });
        Self(bar)
    }

    /// Shows the next step.
    pub(super) fn step(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.set_message(text.to_owned()),
            // A closed standard error has no reader, and the command goes on without one.
            None => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Waits for a transfer, and shows how many of its bytes have come. `seen` returns `None` where that is not known.
    pub(super) async fn follow<T>(
        &self,
        transfer: impl Future<Output = T>,
        seen: impl Fn() -> Option<TransferProgress>,
    ) -> T {
        let Some(bar) = &self.0 else { return transfer.await };
        let mut transfer = std::pin::pin!(transfer);
        let outcome = loop {
            tokio::select! {
                outcome = &mut transfer => break outcome,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if let Some(TransferProgress { received, total }) = seen() {
                bar.set_style(style("{spinner} {msg} {wide_bar} {bytes}/{total_bytes}"));
                bar.set_length(total);
                bar.set_position(received);
            }
        };
        bar.set_style(style("{spinner} {msg}"));
        outcome
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid, which a test checks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bar_follows_a_transfer_and_shows_its_bytes() {
        let bar = ProgressBar::hidden();
        let progress = Progress(Some(bar.clone()));
        progress.step("fetching");
        let seen = || Some(TransferProgress { received: 3, total: 7 });
        let done = progress.follow(tokio::time::sleep(INTERVAL * 3), seen).await;
        assert_eq!((done, bar.position(), bar.length()), ((), 3, Some(7)));
        progress.end();
        assert!(bar.is_finished());
    }
}
