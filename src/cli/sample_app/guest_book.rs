//! The guest book as a value: what an entry may contain, and which entries are kept. No IO.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Millis;

/// The most entries. A new entry in a full book removes the oldest one, so that memory and the file stay bounded.
pub(super) const MAX_ENTRIES: usize = 200;
/// The longest name, in characters.
pub(super) const MAX_NAME: usize = 60;
/// The longest text, in characters.
pub(super) const MAX_TEXT: usize = 500;
/// The number of colours that the style sheet has for the badge of an entry.
pub(super) const BADGE_COLOURS: u32 = 6;

/// Why an entry is refused. The text is shown to the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum EntryRefusal {
    #[error("Please enter your name.")]
    NoName,
    #[error("The name is too long: at most 60 characters.")]
    LongName,
    #[error("The name must be one line of visible characters.")]
    InvalidName,
    #[error("Please write a message.")]
    NoText,
    #[error("The message is too long: at most 500 characters.")]
    LongText,
    #[error("The message must not contain control characters.")]
    InvalidText,
}

impl EntryRefusal {
    /// Returns the form field that is wrong.
    pub(super) fn field(self) -> &'static str {
        match self {
            EntryRefusal::NoName | EntryRefusal::LongName | EntryRefusal::InvalidName => "name",
            EntryRefusal::NoText | EntryRefusal::LongText | EntryRefusal::InvalidText => "text",
        }
    }
}

/// A valid name and text for an entry: trimmed, within the limits, with `\n` at the end of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryDraft {
    name: String,
    text: String,
}

impl EntryDraft {
    /// Checks the fields of a form.
    ///
    /// # Errors
    /// The first problem.
    pub(super) fn new(name: &str, text: &str) -> Result<EntryDraft, EntryRefusal> {
        let name = name.trim();
        // A browser sends the line ends of a text area as CRLF, and counts each as one character.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let text = text.trim();
        match name.chars().count() {
            0 => return Err(EntryRefusal::NoName),
            n if n > MAX_NAME => return Err(EntryRefusal::LongName),
            _ if name.chars().any(char::is_control) => return Err(EntryRefusal::InvalidName),
            _ => {}
        }
        match text.chars().count() {
            0 => Err(EntryRefusal::NoText),
            n if n > MAX_TEXT => Err(EntryRefusal::LongText),
            _ if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
                Err(EntryRefusal::InvalidText)
            }
            _ => Ok(EntryDraft { name: name.to_owned(), text: text.to_owned() }),
        }
    }
}

/// One entry of the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BookEntry {
    /// Rises by one with each entry. An id is never used again.
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) text: String,
    pub(super) at: Millis,
}

impl BookEntry {
    /// Returns the first letter of the name, for the badge.
    pub(super) fn initial(&self) -> String {
        let letter = self.name.chars().find(|c| c.is_alphanumeric()).or_else(|| self.name.chars().next());
        letter.map_or_else(|| "?".to_owned(), |c| c.to_uppercase().collect())
    }

    /// Returns the number of the badge's colour, which is the same for all entries of one name.
    pub(super) fn tone(&self) -> u32 {
        // FNV-1a, so that similar names get different colours.
        let hash = self
            .name
            .bytes()
            .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        (hash ^ (hash >> 16)) % BADGE_COLOURS
    }

    /// Returns the entry as clients see it. It includes `initial` and `tone`, so that the page's script need not know
    /// the rules for them.
    pub(super) fn view(&self) -> Value {
        json!({
            "id": self.id, "name": self.name, "text": self.text, "at": self.at.rfc3339(),
            "initial": self.initial(), "tone": self.tone(),
        })
    }
}

/// All entries, oldest first, at most [`MAX_ENTRIES`], with rising ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GuestBook {
    /// The id of the newest entry ever made; 0 in a new book.
    last_id: u64,
    entries: Vec<BookEntry>,
}

impl GuestBook {
    /// Adds an entry and returns it.
    pub(super) fn sign(&mut self, draft: EntryDraft, at: Millis) -> BookEntry {
        self.last_id += 1;
        let entry = BookEntry { id: self.last_id, name: draft.name, text: draft.text, at };
        self.entries.push(entry.clone());
        self.drop_oldest();
        entry
    }

    /// Returns all entries, newest first.
    pub(super) fn newest_first(&self) -> impl ExactSizeIterator<Item = &BookEntry> {
        self.entries.iter().rev()
    }

    /// Returns the id of the newest entry ever made; 0 in a new book.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Returns the book in the format of its file.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always serialise")
    }

    /// Reads a saved book.
    ///
    /// # Errors
    /// The file is no guest book; the text says why.
    pub(super) fn from_json(saved: &[u8]) -> Result<GuestBook, String> {
        let mut book: GuestBook = serde_json::from_slice(saved).map_err(|e| e.to_string())?;
        if !book.entries.is_sorted_by(|a, b| a.id < b.id) {
            return Err("the ids of the entries do not rise".to_owned());
        }
        if book.entries.last().is_some_and(|newest| newest.id > book.last_id) {
            return Err("an entry has a higher id than last_id".to_owned());
        }
        book.drop_oldest();
        Ok(book)
    }

    fn drop_oldest(&mut self) {
        let surplus = self.entries.len().saturating_sub(MAX_ENTRIES);
        self.entries.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(count: u64) -> GuestBook {
        let mut book = GuestBook::default();
        for n in 1..=count {
            book.sign(EntryDraft::new("Ada", &format!("entry {n}")).unwrap(), Millis(n));
        }
        book
    }

    #[test]
    fn a_draft_is_trimmed_and_its_line_ends_are_unified() {
        let draft = EntryDraft::new("  Ada ", "\r\none\r\ntwo\rthree ").unwrap();
        assert_eq!(draft, EntryDraft { name: "Ada".into(), text: "one\ntwo\nthree".into() });
    }

    #[test]
    fn limits_count_characters_and_are_inclusive() {
        assert!(EntryDraft::new(&"é".repeat(60), &"語".repeat(500)).is_ok());
        assert_eq!(EntryDraft::new(&"é".repeat(61), "x"), Err(EntryRefusal::LongName));
        assert_eq!(EntryDraft::new("Ada", &"語".repeat(501)), Err(EntryRefusal::LongText));
    }

    #[test]
    fn a_line_end_that_is_sent_as_two_characters_counts_as_one() {
        assert!(EntryDraft::new("Ada", &format!("a{}b", "\r\n".repeat(498))).is_ok());
    }

    #[test]
    fn blank_and_invalid_fields_are_refused_with_the_name_of_the_field() {
        assert_eq!(EntryDraft::new(" ", "x"), Err(EntryRefusal::NoName));
        assert_eq!(EntryDraft::new("Ada", "\r\n "), Err(EntryRefusal::NoText));
        assert_eq!(EntryDraft::new("A\nda", "x"), Err(EntryRefusal::InvalidName));
        assert_eq!(EntryDraft::new("Ada", "x\0y"), Err(EntryRefusal::InvalidText));
        assert_eq!(EntryRefusal::InvalidText.field(), "text");
        assert_eq!(EntryRefusal::NoName.field(), "name");
    }

    #[test]
    fn the_messages_name_the_limits() {
        assert!(EntryRefusal::LongName.to_string().contains(&MAX_NAME.to_string()));
        assert!(EntryRefusal::LongText.to_string().contains(&MAX_TEXT.to_string()));
    }

    #[test]
    fn a_full_book_drops_its_oldest_entry_and_reuses_no_id() {
        let book = signed(203);
        let ids: Vec<u64> = book.newest_first().map(|e| e.id).collect();
        assert_eq!((ids.len(), ids[0], ids[199]), (200, 203, 4));
    }

    #[test]
    fn a_saved_book_reads_back_unchanged() {
        let book = signed(3);
        assert_eq!(GuestBook::from_json(&book.to_json()), Ok(book));
    }

    #[test]
    fn a_file_that_is_no_guest_book_is_refused_with_a_reason() {
        for bad in [
            "",
            "[]",
            "{\"last_id\":1,\"entries\":[{}]}",
            r#"{"last_id":1,"entries":[{"id":2,"name":"a","text":"b","at":0}]}"#,
            r#"{"last_id":9,"entries":[{"id":2,"name":"a","text":"b","at":0},{"id":2,"name":"a","text":"b","at":0}]}"#,
        ] {
            assert!(GuestBook::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_badge_has_a_letter_and_one_colour_for_each_name() {
        let entry = |name: &str| BookEntry { id: 1, name: name.into(), text: "x".into(), at: Millis(0) };
        assert_eq!(entry("ada").initial(), "A");
        assert_eq!(entry("…ß").initial(), "SS");
        assert_eq!(entry("🎈").initial(), "🎈");
        assert_eq!(entry("ada").tone(), entry("ada").tone());
        assert!((0..50).all(|n| entry(&format!("name {n}")).tone() < BADGE_COLOURS));
    }
}
