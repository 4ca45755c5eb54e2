//! The guest book as a value: what an entry may hold, and which entries are kept. No IO.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Millis;

/// Entries kept; signing a full book drops the oldest, so memory and the saved file stay bounded.
pub(super) const MAX_ENTRIES: usize = 200;
/// Longest name, in characters.
pub(super) const MAX_NAME: usize = 60;
/// Longest text, in characters.
pub(super) const MAX_TEXT: usize = 500;
/// How many colours the style sheet has for the badge beside an entry.
pub(super) const TONES: u32 = 6;

/// What is wrong with what somebody wrote; shown to them as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("Please enter your name.")]
    NoName,
    #[error("The name is too long: at most 60 characters.")]
    LongName,
    #[error("The name must be one line of visible characters.")]
    OddName,
    #[error("Please write a message.")]
    NoText,
    #[error("The message is too long: at most 500 characters.")]
    LongText,
    #[error("The message must not contain control characters.")]
    OddText,
}

impl Refusal {
    /// The form field that it is about.
    pub(super) fn field(self) -> &'static str {
        match self {
            Refusal::NoName | Refusal::LongName | Refusal::OddName => "name",
            Refusal::NoText | Refusal::LongText | Refusal::OddText => "text",
        }
    }
}

/// A name and a text that may be entered: trimmed, within the limits, lines ended by `\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Draft {
    name: String,
    text: String,
}

impl Draft {
    /// Checks what came from a form. The first field that is wrong is the one reported.
    pub(super) fn new(name: &str, text: &str) -> Result<Draft, Refusal> {
        let name = name.trim();
        // A browser sends a text area's line ends as CRLF but counts each as one character.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let text = text.trim();
        match name.chars().count() {
            0 => return Err(Refusal::NoName),
            n if n > MAX_NAME => return Err(Refusal::LongName),
            _ if name.chars().any(char::is_control) => return Err(Refusal::OddName),
            _ => {}
        }
        match text.chars().count() {
            0 => Err(Refusal::NoText),
            n if n > MAX_TEXT => Err(Refusal::LongText),
            _ if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => Err(Refusal::OddText),
            _ => Ok(Draft { name: name.to_owned(), text: text.to_owned() }),
        }
    }
}

/// One signature in the book.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Rises by one with each entry and is never used again.
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) text: String,
    pub(super) at: Millis,
}

impl Entry {
    /// The first letter of the name, for the badge.
    pub(super) fn initial(&self) -> String {
        let letter = self.name.chars().find(|c| c.is_alphanumeric()).or_else(|| self.name.chars().next());
        letter.map_or_else(|| "?".to_owned(), |c| c.to_uppercase().collect())
    }

    /// The badge's colour, the same for every entry of one name.
    pub(super) fn tone(&self) -> u32 {
        // FNV-1a: names that differ in a letter or two should not look alike.
        let hash = self
            .name
            .bytes()
            .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        (hash ^ (hash >> 16)) % TONES
    }

    /// The entry as clients see it. It carries `initial` and `tone`, so that the page's script need not know how
    /// they are chosen.
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
    /// The id of the newest entry ever made; zero in a new book.
    last_id: u64,
    entries: Vec<Entry>,
}

impl GuestBook {
    /// Adds an entry and returns it.
    pub(super) fn sign(&mut self, draft: Draft, at: Millis) -> Entry {
        self.last_id += 1;
        let entry = Entry { id: self.last_id, name: draft.name, text: draft.text, at };
        self.entries.push(entry.clone());
        self.keep_the_newest();
        entry
    }

    /// All entries, newest first.
    pub(super) fn newest_first(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.iter().rev()
    }

    /// The id of the newest entry ever made; zero in a new book.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The form in which the book is saved.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always serialise")
    }

    /// Reads a saved book, or says why it is none.
    pub(super) fn from_json(saved: &[u8]) -> Result<GuestBook, String> {
        let mut book: GuestBook = serde_json::from_slice(saved).map_err(|e| e.to_string())?;
        if !book.entries.is_sorted_by(|a, b| a.id < b.id) {
            return Err("the ids of the entries do not rise".to_owned());
        }
        if book.entries.last().is_some_and(|newest| newest.id > book.last_id) {
            return Err("an entry has a higher id than last_id".to_owned());
        }
        book.keep_the_newest();
        Ok(book)
    }

    fn keep_the_newest(&mut self) {
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
            book.sign(Draft::new("Ada", &format!("entry {n}")).unwrap(), Millis(n));
        }
        book
    }

    #[test]
    fn a_draft_is_trimmed_and_its_line_ends_are_unified() {
        let draft = Draft::new("  Ada ", "\r\none\r\ntwo\rthree ").unwrap();
        assert_eq!(draft, Draft { name: "Ada".into(), text: "one\ntwo\nthree".into() });
    }

    #[test]
    fn limits_count_characters_and_are_inclusive() {
        assert!(Draft::new(&"é".repeat(60), &"語".repeat(500)).is_ok());
        assert_eq!(Draft::new(&"é".repeat(61), "x"), Err(Refusal::LongName));
        assert_eq!(Draft::new("Ada", &"語".repeat(501)), Err(Refusal::LongText));
    }

    #[test]
    fn a_text_area_full_of_line_ends_fits_although_each_is_sent_as_two_characters() {
        assert!(Draft::new("Ada", &format!("a{}b", "\r\n".repeat(498))).is_ok());
    }

    #[test]
    fn blank_or_odd_fields_are_refused_with_the_field_that_is_wrong() {
        assert_eq!(Draft::new(" ", "x"), Err(Refusal::NoName));
        assert_eq!(Draft::new("Ada", "\r\n "), Err(Refusal::NoText));
        assert_eq!(Draft::new("A\nda", "x"), Err(Refusal::OddName));
        assert_eq!(Draft::new("Ada", "x\0y"), Err(Refusal::OddText));
        assert_eq!(Refusal::OddText.field(), "text");
        assert_eq!(Refusal::NoName.field(), "name");
    }

    #[test]
    fn the_messages_name_the_limits_in_force() {
        assert!(Refusal::LongName.to_string().contains(&MAX_NAME.to_string()));
        assert!(Refusal::LongText.to_string().contains(&MAX_TEXT.to_string()));
    }

    #[test]
    fn a_full_book_drops_its_oldest_entry_and_reuses_no_id() {
        let book = signed(203);
        let ids: Vec<u64> = book.newest_first().map(|e| e.id).collect();
        assert_eq!((ids.len(), ids[0], ids[199]), (200, 203, 4));
    }

    #[test]
    fn a_saved_book_reads_back_the_same() {
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
    fn a_badge_has_a_letter_and_one_colour_a_name() {
        let entry = |name: &str| Entry { id: 1, name: name.into(), text: "x".into(), at: Millis(0) };
        assert_eq!(entry("ada").initial(), "A");
        assert_eq!(entry("…ß").initial(), "SS");
        assert_eq!(entry("🎈").initial(), "🎈");
        assert_eq!(entry("ada").tone(), entry("ada").tone());
        assert!((0..50).all(|n| entry(&format!("name {n}")).tone() < TONES));
    }
}
