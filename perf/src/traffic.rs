//! What the loads ask for.

use crate::Failure;
use crate::answer::Answer;
use crate::load::Traffic;

/// The same request on each connection, for ever; different connections may name different hosts.
#[derive(Debug)]
pub(crate) struct Same(Vec<Vec<u8>>);

impl Same {
    /// `GET path` from each of the hosts in turn.
    pub(crate) fn get(path: &str, hosts: &[String]) -> Self {
        Self(hosts.iter().map(|host| request("GET", path, host)).collect())
    }

    /// What is known of each of the instances.
    pub(crate) fn look(ids: &[String]) -> Self {
        Self(ids.iter().map(|id| request("GET", &format!("/api/v1/demo/{id}"), "localhost")).collect())
    }

    /// A minute more for each of the instances.
    pub(crate) fn extend(ids: &[String]) -> Self {
        const BODY: &str = r#"{"minutes":1}"#;
        let one = |id: &String| {
            format!(
                "POST /api/v1/demo/{id}/extend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{BODY}",
                BODY.len(),
            )
        };
        Self(ids.iter().map(|id| one(id).into_bytes()).collect())
    }
}

impl Traffic for Same {
    fn next(&mut self, link: usize) -> (&[u8], bool) {
        (&self.0[link % self.0.len()], true)
    }

    fn answered(&mut self, _link: usize, answer: Answer<'_>) -> Result<(), Failure> {
        expect_ok(answer)
    }
}

/// Acquires, and keeps the ids of what it gets.
#[derive(Debug)]
pub(crate) struct Acquires {
    request: Vec<u8>,
    /// Every how many-th id is kept; 0 keeps none.
    keep_each: usize,
    count: usize,
    /// The ids that were kept.
    pub(crate) ids: Vec<String>,
}

impl Acquires {
    /// Keeps every `keep_each`-th id, none if that is 0.
    pub(crate) fn new(keep_each: usize) -> Self {
        Self { request: acquire(), keep_each, count: 0, ids: Vec::new() }
    }
}

impl Traffic for Acquires {
    fn next(&mut self, _link: usize) -> (&[u8], bool) {
        (&self.request, true)
    }

    fn answered(&mut self, _link: usize, answer: Answer<'_>) -> Result<(), Failure> {
        expect_ok(answer)?;
        self.count += 1;
        if self.keep_each > 0 && self.count.is_multiple_of(self.keep_each) {
            self.ids.push(id(answer.body)?.to_owned());
        }
        Ok(())
    }
}

/// Gives instances back.
#[derive(Debug)]
pub(crate) struct Releases {
    ids: Vec<String>,
    request: Vec<u8>,
}

impl Releases {
    /// Those that are to be given back; as many requests may be made.
    pub(crate) fn new(ids: Vec<String>) -> Self {
        Self { ids, request: Vec::new() }
    }
}

impl Traffic for Releases {
    fn next(&mut self, _link: usize) -> (&[u8], bool) {
        let id = self.ids.pop().unwrap_or_default();
        self.request = release(&id);
        (&self.request, true)
    }

    fn answered(&mut self, _link: usize, answer: Answer<'_>) -> Result<(), Failure> {
        expect_ok(answer)
    }
}

/// Acquires, and gives back at once what it got. Only the acquires are measured.
#[derive(Debug)]
pub(crate) struct Turnover {
    request: Vec<u8>,
    /// What each connection has to give back.
    held: Vec<Option<String>>,
    release: Vec<u8>,
}

impl Turnover {
    /// For at most so many connections.
    pub(crate) fn new(links: usize) -> Self {
        Self { request: acquire(), held: vec![None; links], release: Vec::new() }
    }
}

impl Traffic for Turnover {
    fn next(&mut self, link: usize) -> (&[u8], bool) {
        match &self.held[link] {
            Some(id) => {
                self.release = release(id);
                (&self.release, false)
            }
            None => (&self.request, true),
        }
    }

    fn answered(&mut self, link: usize, answer: Answer<'_>) -> Result<(), Failure> {
        expect_ok(answer)?;
        self.held[link] = match self.held[link].take() {
            Some(_) => None,
            None => Some(id(answer.body)?.to_owned()),
        };
        Ok(())
    }
}

/// A request without a body.
pub(crate) fn request(method: &str, path: &str, host: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n\r\n").into_bytes()
}

fn acquire() -> Vec<u8> {
    request("POST", "/api/v1/demo/acquire", "localhost")
}

fn release(id: &str) -> Vec<u8> {
    request("DELETE", &format!("/api/v1/demo/{id}"), "localhost")
}

fn expect_ok(answer: Answer<'_>) -> Result<(), Failure> {
    match answer.status {
        200 => Ok(()),
        other => Err(format!("answered {other}: {}", String::from_utf8_lossy(answer.body)).into()),
    }
}

/// The id in the answer to an acquire, found without reading the JSON: that would cost more than the rest.
fn id(body: &[u8]) -> Result<&str, Failure> {
    const BEFORE: &[u8] = b"\"id\":\"";
    let found = memchr::memmem::find(body, BEFORE).and_then(|at| {
        let rest = &body[at + BEFORE.len()..];
        std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
    });
    found.ok_or_else(|| format!("no id in {}", String::from_utf8_lossy(body)).into())
}
