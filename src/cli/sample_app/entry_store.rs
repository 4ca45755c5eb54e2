//! Stores the guest book: the current value for readers, one writer at a time, saved before it is visible.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Mutex, broadcast};
use tokio::time::timeout;

use super::error::SampleAppError;
use super::guest_book::{BookEntry, EntryDraft, GuestBook};
use crate::clock::Millis;

/// How long a request waits until an entry is saved.
const SAVE_DEADLINE: Duration = Duration::from_secs(5);
/// How many entries a slow live socket may lag behind before it has to read the whole book again.
const LIVE_BACKLOG: usize = 64;

/// Why an entry was not saved. The text is shown to the visitor.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("The guest book could not be saved ({0}).")]
    Io(#[from] io::Error),
    #[error("The guest book could not be saved in time. Please try again.")]
    Late,
}

/// The guest book and its file. Readers never wait for the disk.
#[derive(Debug)]
pub(super) struct EntryStore {
    file: PathBuf,
    book: RwLock<Arc<GuestBook>>,
    /// Locked while an entry is saved, so that files replace each other in the order of the entries.
    write_lock: Arc<Mutex<()>>,
    new_entries: broadcast::Sender<BookEntry>,
}

impl EntryStore {
    /// Reads the book in `file`. A missing file is a new book.
    ///
    /// # Errors
    /// The file cannot be read, or is no guest book; it is left unchanged.
    pub(super) fn open(file: &Path) -> Result<EntryStore, SampleAppError> {
        let book = match std::fs::read(file) {
            Ok(saved) => GuestBook::from_json(&saved)
                .map_err(|why| SampleAppError::Damaged { file: file.to_owned(), why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => GuestBook::default(),
            Err(source) => return Err(SampleAppError::Unreadable { file: file.to_owned(), source }),
        };
        Ok(EntryStore {
            file: file.to_owned(),
            book: RwLock::new(Arc::new(book)),
            write_lock: Arc::default(),
            new_entries: broadcast::channel(LIVE_BACKLOG).0,
        })
    }

    /// Returns the book as it is now.
    pub(super) fn book(&self) -> Arc<GuestBook> {
        Arc::clone(&self.book.read())
    }

    /// Subscribes to all entries from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<BookEntry> {
        self.new_entries.subscribe()
    }

    /// Adds an entry: it is saved first, and then visible to readers and subscribers.
    ///
    /// # Errors
    /// The file cannot be written, and the book is unchanged; or it was not written in time, and the entry may appear
    /// later.
    pub(super) async fn sign(
        self: &Arc<Self>,
        draft: EntryDraft,
        now: Millis,
    ) -> Result<BookEntry, SignError> {
        let lock = Arc::clone(&self.write_lock).lock_owned();
        let lock = timeout(SAVE_DEADLINE, lock).await.map_err(|_| SignError::Late)?;
        let store = Arc::clone(self);
        // The lock moves to the thread that writes: a request that is abandoned must not let the next write overtake
        // this one.
        let write = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            let mut next = GuestBook::clone(&store.book());
            let entry = next.sign(draft, now);
            save(&store.file, &next.to_json())?;
            *store.book.write() = Arc::new(next);
            // An error only means that there are no subscribers.
            let _ = store.new_entries.send(entry.clone());
            Ok(entry)
        });
        match timeout(SAVE_DEADLINE, write).await {
            Ok(Ok(written)) => written,
            Ok(Err(panicked)) => Err(SignError::Io(io::Error::other(panicked))),
            Err(_) => Err(SignError::Late),
        }
    }
}

/// Replaces `file` in one step, so that a reader and a crash leave the old book or the new one. There is no fsync: a
/// killed process loses nothing, and an instance does not survive a power failure.
fn save(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = file.as_os_str().to_owned();
    draft.push(".tmp");
    std::fs::write(&draft, bytes)?;
    std::fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample_app::tests::TempFolder;

    fn draft(text: &str) -> EntryDraft {
        EntryDraft::new("Ada", text).unwrap()
    }

    #[tokio::test]
    async fn entries_survive_a_restart_and_no_other_file_is_left() {
        let folder = TempFolder::new();
        let file = folder.path().join("guestbook.json");
        let store = Arc::new(EntryStore::open(&file).unwrap());
        store.sign(draft("first"), Millis(1)).await.unwrap();
        store.sign(draft("second"), Millis(2)).await.unwrap();

        let reopened = EntryStore::open(&file).unwrap();
        let texts: Vec<String> = reopened.book().newest_first().map(|e| e.text.clone()).collect();
        assert_eq!(texts, ["second", "first"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn concurrent_entries_are_all_saved_and_announced_in_order() {
        let folder = TempFolder::new();
        let file = folder.path().join("guestbook.json");
        let store = Arc::new(EntryStore::open(&file).unwrap());
        let mut new_entries = store.subscribe();
        let texts: Vec<String> = (0..20).map(|n| format!("entry {n}")).collect();
        let all = texts.iter().map(|text| store.sign(draft(text), Millis(1)));
        let signed = futures_util::future::join_all(all).await;
        assert!(signed.iter().all(Result::is_ok));
        for id in 1..=20 {
            assert_eq!(new_entries.recv().await.unwrap().id, id);
        }
        assert_eq!(EntryStore::open(&file).unwrap().book(), store.book());
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_saved_changes_nothing() {
        let folder = TempFolder::new();
        let store = Arc::new(EntryStore::open(&folder.path().join("missing/guestbook.json")).unwrap());
        let mut new_entries = store.subscribe();
        assert!(matches!(store.sign(draft("lost"), Millis(1)).await, Err(SignError::Io(_))));
        assert_eq!(store.book().newest_first().len(), 0);
        assert!(new_entries.try_recv().is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays_unchanged() {
        let folder = TempFolder::new();
        let file = folder.path().join("guestbook.json");
        std::fs::write(&file, "{oops").unwrap();
        let error = EntryStore::open(&file).unwrap_err().to_string();
        assert!(error.contains("guestbook.json"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"{oops");
    }
}
