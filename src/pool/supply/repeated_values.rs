//! Which values two restored instances of a checkpoint have in common that should be random. Pure.
//!
//! Each instance answers the same page twice, as to two new visitors. Compared are cookies and the words of the page:
//!
//! | value | is reported if |
//! |---|---|
//! | cookie | both instances set the same value |
//! | word that the second answer of an instance does not repeat | the other instance drew it too |
//! | word near a name such as `csrf` | it is on both pages |
//!
//! A counter that starts equal in all instances looks like a random value and is reported too. A value that is hashed
//! or encrypted with the time is not found.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{Response, header};

/// Fewest characters of a cookie, or of a word that changes from answer to answer.
const MIN_DRAWN_LENGTH: usize = 10;
/// Fewest characters of a word near a name of [`SECRET_NAMES`]: such names are also in scripts, near shorter words.
const MIN_NAMED_LENGTH: usize = 16;
/// Fewest digits of a word without letters. The time in microseconds has 16, and is not the same in two instances.
const MIN_DIGITS: usize = 16;

/// Names of values that a page must not share with the page of another visitor.
const SECRET_NAMES: [&str; 4] = ["csrf", "xsrf", "nonce", "authenticity"];
/// How far before a word its name may be, in bytes.
const NAME_DISTANCE: usize = 64;

/// Most values in a report.
const MAX_REPORTED: usize = 8;

/// What is compared of one answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AnswerValues {
    /// Values of cookies, by name.
    cookies: BTreeMap<String, String>,
    /// Words of the body that look random, each with the text just before it.
    words: BTreeMap<String, String>,
}

impl AnswerValues {
    /// Returns the values of an answer.
    pub(super) fn of(response: &Response<Bytes>) -> Self {
        let cookies = response.headers().get_all(header::SET_COOKIE).iter();
        let cookies = cookies.filter_map(|cookie| {
            let pair = std::str::from_utf8(cookie.as_bytes()).ok()?.split(';').next()?;
            let (name, value) = pair.split_once('=')?;
            let value = value.trim().trim_matches('"');
            looks_random(value, MIN_DRAWN_LENGTH).then(|| (name.trim().to_owned(), value.to_owned()))
        });
        let body = String::from_utf8_lossy(response.body());
        let (mut words, mut start) = (BTreeMap::new(), 0);
        for piece in body.split_inclusive(|c: char| !is_word_character(c)) {
            let word = piece.trim_end_matches(|c| !is_word_character(c));
            if looks_random(word, MIN_DRAWN_LENGTH) {
                words.insert(word.to_owned(), text_before(&body, start).to_owned());
            }
            start += piece.len();
        }
        Self { cookies: cookies.collect(), words }
    }
}

/// Returns the values that both instances drew, each described for the operator; none if all is well. Each instance has
/// answered the same request twice.
pub(super) fn find_repeated(first: &[AnswerValues; 2], second: &[AnswerValues; 2]) -> Vec<String> {
    let (drawn, drawn_by_second) = (drawn_words(first), drawn_words(second));
    let mut found = BTreeSet::new();
    for answer in first {
        for (name, value) in &answer.cookies {
            if second.iter().any(|other| other.cookies.get(name) == Some(value)) {
                found.insert(format!("cookie {name}"));
            }
        }
        for (word, before) in &answer.words {
            let is_drawn = drawn.contains(word) && drawn_by_second.contains(word);
            let is_secret = word.len() >= MIN_NAMED_LENGTH && has_secret_name(before);
            if is_drawn || is_secret && second.iter().any(|other| other.words.contains_key(word)) {
                found.insert(format!("text after `{}`", before.trim_start()));
            }
        }
    }
    found.into_iter().take(MAX_REPORTED).collect()
}

/// Returns the words that are in only one of the two answers of an instance.
fn drawn_words(answers: &[AnswerValues; 2]) -> BTreeSet<&String> {
    let [first, second] = answers.each_ref().map(|answer| answer.words.keys().collect::<BTreeSet<_>>());
    first.symmetric_difference(&second).copied().collect()
}

fn has_secret_name(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|name| text.contains(name))
}

fn is_word_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// Returns whether a generator may have made a word: it has letters and digits, or many digits.
fn looks_random(word: &str, min_length: usize) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let letters = word.bytes().filter(u8::is_ascii_alphabetic).count();
    word.len() >= min_length && digits > 0 && letters > 0 || digits >= MIN_DIGITS
}

/// Returns the line before a position of a text, shortened to [`NAME_DISTANCE`] from the left.
fn text_before(text: &str, position: usize) -> &str {
    let line = text[..position].rsplit('\n').next().unwrap_or_default();
    let start = line.len().saturating_sub(NAME_DISTANCE);
    &line[line.ceil_char_boundary(start)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(cookies: &[&str], body: &str) -> AnswerValues {
        let mut response = Response::builder();
        for cookie in cookies {
            response = response.header(header::SET_COOKIE, *cookie);
        }
        AnswerValues::of(&response.body(Bytes::copy_from_slice(body.as_bytes())).unwrap())
    }

    fn find(first: [(&[&str], &str); 2], second: [(&[&str], &str); 2]) -> Vec<String> {
        let of = |answers: [(&[&str], &str); 2]| answers.map(|(cookies, body)| answer(cookies, body));
        find_repeated(&of(first), &of(second))
    }

    #[test]
    fn the_same_cookie_of_two_instances_is_reported() {
        let sid = |value: &str| format!("sid={value}; Path=/; HttpOnly");
        let (a, b, c) = (sid("0bd1e1b3f9a94c0e"), sid("\"b7aa10c2d3e4\""), sid("5f5f5f5f5f"));
        // The first draw of one instance is the second of the other.
        assert_eq!(find([(&[&a], ""), (&[&b], "")], [(&[&b], ""), (&[&c], "")]), ["cookie sid"]);
        assert_eq!(find([(&[&a], ""), (&[&a], "")], [(&[&b], ""), (&[&c], "")]), [""; 0]);
        // Not random: a flag, a deleted cookie, a language.
        let plain: &[&str] = &["seen=1", "old=; Max-Age=0", "lang=en_GB", "theme=dark-and-very-long"];
        assert_eq!(find([(plain, ""), (plain, "")], [(plain, ""), (plain, "")]), [""; 0]);
    }

    #[test]
    fn words_that_change_within_an_instance_but_not_between_two_are_reported() {
        let page = |id: &str| format!("<link href=/app.3f2a9c81d0.css>\n<p>Your request: <b>{id}</b></p>");
        let (a, b, c) = (page("k3j9x0qpz7"), page("1d4c7q2m9w"), page("9zz8yx7wv6"));
        let repeated = ["text after `<p>Your request: <b>`"];
        assert_eq!(find([(&[], &a), (&[], &b)], [(&[], &a), (&[], &b)]), repeated);
        assert_eq!(find([(&[], &a), (&[], &b)], [(&[], &c), (&[], &a)]), repeated);
        // The name of the style sheet is the same everywhere, and no draw is.
        let d = page("0a1b2c3d4e");
        assert_eq!(find([(&[], &a), (&[], &b)], [(&[], &c), (&[], &d)]), [""; 0]);
        // Only digits, as `Math.random` prints them.
        let (a, b) = (page("0.8444218515250481"), page("0.7579544029403025"));
        assert_eq!(
            find([(&[], &a), (&[], &b)], [(&[], &a), (&[], &b)]),
            ["text after `<p>Your request: <b>0.`"]
        );
    }

    #[test]
    fn a_secret_by_its_name_is_reported_even_if_it_never_changes() {
        let form = |name: &str, value: &str| format!("<input type=hidden name={name} value=\"{value}\">");
        let key = "d41d8cd98f00b204e9800998";
        let same = form("CSRF-Token", key);
        let found = find([(&[], &same), (&[], &same)], [(&[], &same), (&[], &same)]);
        assert_eq!(found, ["text after `<input type=hidden name=CSRF-Token value=\"`"]);
        let other = form("CSRF-Token", "aabbccddeeff00112233");
        assert_eq!(find([(&[], &same), (&[], &same)], [(&[], &other), (&[], &other)]), [""; 0]);
        let version = form("version", key);
        assert_eq!(find([(&[], &version), (&[], &version)], [(&[], &version), (&[], &version)]), [""; 0]);
    }

    #[test]
    fn any_bytes_are_compared_without_a_panic() {
        let body = "ä".repeat(40) + "csrf é 0123456789abcdef\u{fffd}" + "\0";
        let page = || [(&[][..], body.as_str()), (&["ü=\"", "=", ";"][..], "")];
        find(page(), page());
    }
}
