//! The requests of the loads.

use crate::failure::Failure;
use crate::load::{CONNECTIONS, Traffic};
use crate::response::HttpResponse;

/// The same request on each connection again and again. Different connections may request different hosts.
#[derive(Debug)]
pub(crate) struct Repeated(Vec<Vec<u8>>);

impl Repeated {
    /// `GET path`, for each of the hosts in turn.
    pub(crate) fn get(path: &str, hosts: &[String]) -> Self {
        Self(hosts.iter().map(|host| request("GET", path, host)).collect())
    }

    /// `GET` of each instance in the API.
    pub(crate) fn get_instances(ids: &[String]) -> Self {
        Self(ids.iter().map(|id| request("GET", &format!("/api/v1/demo/{id}"), "localhost")).collect())
    }

    /// Extends each instance by a minute.
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

impl Traffic for Repeated {
    fn next_request(&mut self, connection: usize) -> (&[u8], bool) {
        (&self.0[connection % self.0.len()], true)
    }

    fn receive(&mut self, _connection: usize, response: HttpResponse<'_>) -> Result<(), Failure> {
        expect_ok(response)
    }
}

/// `GET` of one host after another, whatever the connection.
#[derive(Debug)]
pub(crate) struct Spread {
    requests: Vec<Vec<u8>>,
    connections: usize,
    next: usize,
}

impl Spread {
    /// Requests the same path of all hosts.
    pub(crate) fn new(hosts: &[String], path: &str, connections: usize) -> Self {
        let requests = hosts.iter().map(|host| request("GET", path, host)).collect();
        Self { requests, connections, next: 0 }
    }
}

impl Traffic for Spread {
    fn connections(&self) -> usize {
        self.connections
    }

    fn next_request(&mut self, _connection: usize) -> (&[u8], bool) {
        self.next = (self.next + 1) % self.requests.len();
        (&self.requests[self.next], true)
    }

    fn receive(&mut self, _connection: usize, response: HttpResponse<'_>) -> Result<(), Failure> {
        expect_ok(response)
    }
}

/// Acquires, and stores the ids of the instances.
#[derive(Debug)]
pub(crate) struct Acquires {
    request: Vec<u8>,
    connections: usize,
    /// One of so many ids is stored; with 0 none is.
    keep_each: usize,
    count: usize,
    /// The ids that were stored.
    pub(crate) ids: Vec<String>,
}

impl Acquires {
    /// Stores every `keep_each`-th id; with 0 none.
    pub(crate) fn new(keep_each: usize) -> Self {
        Self { request: acquire(), connections: CONNECTIONS, keep_each, count: 0, ids: Vec::new() }
    }

    /// Sends them one after another, on one connection. Stores no id.
    pub(crate) fn one_by_one() -> Self {
        Self { connections: 1, ..Self::new(0) }
    }
}

impl Traffic for Acquires {
    fn connections(&self) -> usize {
        self.connections
    }

    fn next_request(&mut self, _connection: usize) -> (&[u8], bool) {
        (&self.request, true)
    }

    fn receive(&mut self, _connection: usize, response: HttpResponse<'_>) -> Result<(), Failure> {
        expect_ok(response)?;
        self.count += 1;
        if self.keep_each > 0 && self.count.is_multiple_of(self.keep_each) {
            self.ids.push(id(response.body)?.to_owned());
        }
        Ok(())
    }
}

/// Releases instances.
#[derive(Debug)]
pub(crate) struct Releases {
    ids: Vec<String>,
    request: Vec<u8>,
}

impl Releases {
    /// Returns the releases of these instances. As many requests may be made.
    pub(crate) fn new(ids: Vec<String>) -> Self {
        Self { ids, request: Vec::new() }
    }
}

impl Traffic for Releases {
    fn next_request(&mut self, _connection: usize) -> (&[u8], bool) {
        let id = self.ids.pop().unwrap_or_default();
        self.request = release(&id);
        (&self.request, true)
    }

    fn receive(&mut self, _connection: usize, response: HttpResponse<'_>) -> Result<(), Failure> {
        expect_ok(response)
    }
}

/// Acquires instances and releases each at once. Only the acquires are measured.
#[derive(Debug)]
pub(crate) struct Turnover {
    request: Vec<u8>,
    /// The instance that each connection releases next.
    acquired: Vec<Option<String>>,
    release: Vec<u8>,
}

impl Turnover {
    /// Returns the requests for at most this number of connections.
    pub(crate) fn new(connections: usize) -> Self {
        Self { request: acquire(), acquired: vec![None; connections], release: Vec::new() }
    }
}

impl Traffic for Turnover {
    fn next_request(&mut self, connection: usize) -> (&[u8], bool) {
        match &self.acquired[connection] {
            Some(id) => {
                self.release = release(id);
                (&self.release, false)
            }
            None => (&self.request, true),
        }
    }

    fn receive(&mut self, connection: usize, response: HttpResponse<'_>) -> Result<(), Failure> {
        expect_ok(response)?;
        self.acquired[connection] = match self.acquired[connection].take() {
            Some(_) => None,
            None => Some(id(response.body)?.to_owned()),
        };
        Ok(())
    }
}

/// Returns a request without a body.
pub(crate) fn request(method: &str, path: &str, host: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\naccept: */*\r\n\r\n").into_bytes()
}

fn acquire() -> Vec<u8> {
    request("POST", "/api/v1/demo/acquire", "localhost")
}

fn release(id: &str) -> Vec<u8> {
    request("DELETE", &format!("/api/v1/demo/{id}"), "localhost")
}

fn expect_ok(response: HttpResponse<'_>) -> Result<(), Failure> {
    match response.status {
        200 => Ok(()),
        other => {
            Err(format!("the server responded with {other}: {}", String::from_utf8_lossy(response.body))
                .into())
        }
    }
}

/// Returns the id in the response to an acquire. It does not parse the JSON, which would cost more than everything
/// else.
pub(crate) fn id(body: &[u8]) -> Result<&str, Failure> {
    const BEFORE: &[u8] = b"\"id\":\"";
    let found = memchr::memmem::find(body, BEFORE).and_then(|at| {
        let rest = &body[at + BEFORE.len()..];
        std::str::from_utf8(&rest[..memchr::memchr(b'"', rest)?]).ok()
    });
    found.ok_or_else(|| format!("no id in {}", String::from_utf8_lossy(body)).into())
}
