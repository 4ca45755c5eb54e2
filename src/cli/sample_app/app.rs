//! What all connections of one sample app share.

use std::sync::Arc;

use tokio::sync::watch;

use super::entry_store::EntryStore;
use super::error::SampleAppError;
use super::settings::Settings;
use crate::clock::Clock;

/// What all connections of one sample app share.
#[derive(Debug)]
pub(super) struct SampleApp {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) entries: Arc<EntryStore>,
    /// The number of open live sockets.
    pub(super) visitors: watch::Sender<u64>,
}

impl SampleApp {
    /// Opens the saved guest book.
    ///
    /// # Errors
    /// The file cannot be read, or is no guest book.
    pub(super) fn open(settings: Settings) -> Result<Arc<Self>, SampleAppError> {
        let entries = Arc::new(EntryStore::open(&settings.data_file)?);
        Ok(Arc::new(Self { settings, clock: Clock::System, entries, visitors: watch::Sender::new(0) }))
    }
}
