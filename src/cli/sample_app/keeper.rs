//! Keeps the guest book: the present value for readers, one writer at a time, saved before it is shown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Mutex, broadcast};
use tokio::time::timeout;

use super::Error;
use super::guest_book::{Draft, Entry, GuestBook};
use crate::clock::Millis;

/// How long a visitor waits for an entry to be written.
const SAVE_DEADLINE: Duration = Duration::from_secs(5);
/// Entries that a slow live socket may fall behind before it is told to read the whole book again.
const LIVE_BACKLOG: usize = 64;

/// Why an entry was not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("The guest book could not be saved ({0}).")]
    Io(#[from] io::Error),
    #[error("The guest book could not be saved in time. Please try again.")]
    Late,
}

/// The book and its file. Readers never wait for the disk.
#[derive(Debug)]
pub(super) struct EntryStore {
    file: PathBuf,
    book: RwLock<Arc<GuestBook>>,
    /// Whoever holds it may write; one holder, so files replace each other in the order of the entries.
    pen: Arc<Mutex<()>>,
    news: broadcast::Sender<Entry>,
}

impl EntryStore {
    /// Reads the book saved in `file`; a missing file is a new book, a damaged one an error that leaves it as it is.
    pub(super) fn open(file: &Path) -> Result<EntryStore, Error> {
        let book = match std::fs::read(file) {
            Ok(saved) => {
                GuestBook::from_json(&saved).map_err(|why| Error::Damaged { file: file.to_owned(), why })?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => GuestBook::default(),
            Err(source) => return Err(Error::Unreadable { file: file.to_owned(), source }),
        };
        Ok(EntryStore {
            file: file.to_owned(),
            book: RwLock::new(Arc::new(book)),
            pen: Arc::default(),
            news: broadcast::channel(LIVE_BACKLOG).0,
        })
    }

    /// The book as it is now.
    pub(super) fn book(&self) -> Arc<GuestBook> {
        Arc::clone(&self.book.read())
    }

    /// Every entry made from now on.
    pub(super) fn follow(&self) -> broadcast::Receiver<Entry> {
        self.news.subscribe()
    }

    /// Adds an entry: saved first, then visible to readers and followers. On an I/O error the book is unchanged.
    pub(super) async fn sign(self: &Arc<Self>, draft: Draft, now: Millis) -> Result<Entry, SignError> {
        let pen =
            timeout(SAVE_DEADLINE, Arc::clone(&self.pen).lock_owned()).await.map_err(|_| SignError::Late)?;
        let keeper = Arc::clone(self);
        // The pen goes along: a visitor who gives up must not let the next writer overtake this write.
        let write = tokio::task::spawn_blocking(move || {
            let _pen = pen;
            let mut next = GuestBook::clone(&keeper.book());
            let entry = next.sign(draft, now);
            save(&keeper.file, &next.to_json())?;
            *keeper.book.write() = Arc::new(next);
            // An error only says that nobody follows.
            let _ = keeper.news.send(entry.clone());
            Ok(entry)
        });
        match timeout(SAVE_DEADLINE, write).await {
            Ok(Ok(written)) => written,
            Ok(Err(panicked)) => Err(SignError::Io(io::Error::other(panicked))),
            Err(_) => Err(SignError::Late),
        }
    }
}

/// Replaces `file` in one step, so that a reader or a crash sees the old book or the new one. There is no fsync: a
/// killed process loses nothing, and an instance does not outlive a power cut.
fn save(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".tmp");
    std::fs::write(&fresh, bytes)?;
    std::fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample_app::tests::TempFolder;

    fn draft(text: &str) -> Draft {
        Draft::new("Ada", text).unwrap()
    }

    #[tokio::test]
    async fn entries_are_still_there_after_a_restart_and_no_other_file_is() {
        let folder = TempFolder::new();
        let file = folder.path().join("guestbook.json");
        let keeper = Arc::new(EntryStore::open(&file).unwrap());
        keeper.sign(draft("first"), Millis(1)).await.unwrap();
        keeper.sign(draft("second"), Millis(2)).await.unwrap();

        let reopened = EntryStore::open(&file).unwrap();
        let texts: Vec<String> = reopened.book().newest_first().map(|e| e.text.clone()).collect();
        assert_eq!(texts, ["second", "first"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn entries_made_at_once_are_all_kept_and_announced_in_order() {
        let folder = TempFolder::new();
        let file = folder.path().join("guestbook.json");
        let keeper = Arc::new(EntryStore::open(&file).unwrap());
        let mut news = keeper.follow();
        let texts: Vec<String> = (0..20).map(|n| format!("entry {n}")).collect();
        let all = texts.iter().map(|text| keeper.sign(draft(text), Millis(1)));
        let signed = futures_util::future::join_all(all).await;
        assert!(signed.iter().all(Result::is_ok));
        for id in 1..=20 {
            assert_eq!(news.recv().await.unwrap().id, id);
        }
        assert_eq!(EntryStore::open(&file).unwrap().book(), keeper.book());
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_saved_changes_nothing() {
        let folder = TempFolder::new();
        let keeper = Arc::new(EntryStore::open(&folder.path().join("missing/guestbook.json")).unwrap());
        let mut news = keeper.follow();
        assert!(matches!(keeper.sign(draft("lost"), Millis(1)).await, Err(SignError::Io(_))));
        assert_eq!(keeper.book().newest_first().len(), 0);
        assert!(news.try_recv().is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_is_left_alone() {
        let folder = TempFolder::new();
        let file = folder.path().join("guestbook.json");
        std::fs::write(&file, "{oops").unwrap();
        let error = EntryStore::open(&file).unwrap_err().to_string();
        assert!(error.contains("guestbook.json"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"{oops");
    }
}
