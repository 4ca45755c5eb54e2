//! Starts an app once, to find the port that serves its pages and a page that answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tokio::time::Instant;

use super::suggestion::ReadyPage;
use crate::config::PublicUrl;
use crate::instance::{Endpoint, InstanceId};
use crate::request::one_shot::exchange;
use crate::runtime::{ImageFacts, Runtime, RuntimeError, StartRequest};
use crate::template::{App, Template};

/// Pause between two looks at the app.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time of one request. An app may do much at its first one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an app that answers with an error of the client (404, 401) may take until it has a better answer.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// Longest time to stop the instance.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of the app's last output in an error.
const MAX_OUTPUT_BYTES: usize = 1000;
/// The ports of several exposed ones that serve pages most often, the first one first.
const USUAL_PORTS: [u16; 6] = [80, 8080, 8000, 3000, 5000, 8888];
/// Pages that apps have whose first page is an error.
const OTHER_PAGES: [&str; 6] = ["/health", "/healthz", "/login", "/index.html", "/index.php", "/status"];

/// What to explore.
#[derive(Clone, Copy)]
pub(crate) struct ExploreRequest<'a> {
    /// How visitors reach instances.
    pub(crate) public_url: &'a PublicUrl,
    /// The template, as far as it is known.
    pub(crate) template: &'a Template,
    /// What the image declares.
    pub(crate) facts: &'a ImageFacts,
    /// The only port to try; `None` tries all.
    pub(crate) port: Option<u16>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The port that serves pages.
    pub(crate) port: u16,
    /// The page for the ready check; `None` where the image's health check decides.
    pub(crate) page: Option<ReadyPage>,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExploreError {
    /// The instance did not start.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The app ended.
    #[error("the app ended ({cause}) before it answered; its last output:\n{output}")]
    Ended {
        /// How it ended.
        cause: String,
        /// Its last output.
        output: String,
    },
    /// The app did not answer in time.
    #[error("the app did not answer within {after:?}: {last}; its last output:\n{output}")]
    Silent {
        /// The time that it had.
        after: Duration,
        /// Where it listens, and what happened last.
        last: String,
        /// Its last output.
        output: String,
    },
}

/// Starts an instance, waits until it answers, and ends it.
///
/// # Errors
/// See [`ExploreError`].
pub(crate) async fn explore(
    runtime: &dyn Runtime,
    request: ExploreRequest<'_>,
) -> Result<Found, ExploreError> {
    let template = request.template;
    let id = InstanceId::random(&template.name);
    let mut exits = runtime.exits();
    let port = request.port.unwrap_or_else(|| first_port(&request.facts.ports));
    let (url, host) = (request.public_url.instance_url(&id), request.public_url.instance_host(&id));
    let app = App { port, ..(*template.app).clone() }.into();
    let start = StartRequest::new(id.clone(), url, host, app, template.revision);
    let endpoint = runtime.start(&start).await?.endpoint;
    let authority = request.public_url.instance_authority(&id);
    let search = Search { runtime, request, id: &id, endpoint, start_port: port, authority };
    let outcome = tokio::select! {
        found = search.run() => found,
        Some(exit) = exits.recv() => {
            let output = search.output().await;
            Err(ExploreError::Ended { cause: exit.cause, output })
        }
    };
    match tokio::time::timeout(STOP_DEADLINE, runtime.stop(&id)).await {
        Ok(stopped) => stopped?,
        // The command stops it at its end.
        Err(_) => tracing::warn!(%id, "failed to stop instance in time"),
    }
    outcome
}

/// Returns the port of `PORT`: the usual one of those that are exposed.
fn first_port(exposed: &[u16]) -> u16 {
    let usual = USUAL_PORTS.into_iter().find(|port| exposed.contains(port));
    usual.or(exposed.first().copied()).unwrap_or(USUAL_PORTS[0])
}

/// A started instance whose port and page are sought.
struct Search<'a> {
    runtime: &'a dyn Runtime,
    request: ExploreRequest<'a>,
    id: &'a InstanceId,
    endpoint: Endpoint,
    /// The port of the variable `PORT`.
    start_port: u16,
    authority: String,
}

/// The answer to the first page of one port.
#[derive(Debug)]
enum Answer {
    /// There is no answer, or one that says that the app is not ready.
    None(String),
    /// The page works.
    Works(ReadyPage),
    /// The page is an error of the client, such as 404.
    Refused(ReadyPage),
}

impl Search<'_> {
    async fn run(&self) -> Result<Found, ExploreError> {
        let after = self.request.template.ready.timeout;
        let deadline = Instant::now() + after;
        let mut settled: Option<Instant> = None;
        loop {
            let listeners = self.runtime.listeners(self.id).await.unwrap_or_default();
            let mut last = describe(&listeners, self.request.port);
            let mut refused = None;
            for port in self.ports(&listeners) {
                match self.ask(port).await {
                    Answer::Works(page) => return Ok(self.found(port, page)),
                    Answer::Refused(page) => {
                        last = format!("GET / on port {port} answers {}", page.status);
                        refused = refused.or(Some(self.found(port, page)));
                    }
                    Answer::None(why) => last = format!("port {port}: {why}"),
                }
            }
            if let Some(found) = refused {
                let since = *settled.get_or_insert_with(Instant::now);
                if since.elapsed() >= SETTLE_TIME {
                    return Ok(self.with_other_page(found).await);
                }
            }
            if Instant::now() >= deadline {
                return Err(ExploreError::Silent { after, last, output: self.output().await });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the ports to ask, those that the image exposes first.
    fn ports(&self, listeners: &[SocketAddr]) -> Vec<u16> {
        // Only this port of the instance leads to the app.
        if matches!(self.endpoint, Endpoint::Direct(_)) {
            return vec![self.start_port];
        }
        let listening: BTreeSet<u16> =
            listeners.iter().filter(|at| is_on_loopback(at)).map(SocketAddr::port).collect();
        let mut ports: Vec<u16> = listening.into_iter().collect();
        if let Some(only) = self.request.port {
            ports.retain(|port| *port == only);
        }
        let exposed = &self.request.facts.ports;
        ports.sort_by_key(|port| {
            let usual = USUAL_PORTS.iter().position(|usual| usual == port).unwrap_or(USUAL_PORTS.len());
            (!exposed.contains(port), usual)
        });
        ports
    }

    fn found(&self, port: u16, page: ReadyPage) -> Found {
        Found { port, page: self.request.facts.health_check.is_none().then_some(page) }
    }

    /// Asks a port for its first page.
    async fn ask(&self, port: u16) -> Answer {
        let response = match self.get(port, "/").await {
            Ok(response) => response,
            Err(why) => return Answer::None(why),
        };
        let status = response.status().as_u16();
        let page = ReadyPage { path: "/".to_owned(), status };
        match status {
            200..300 => Answer::Works(page),
            300..400 => Answer::Works(self.target_of(port, &response).await.unwrap_or(page)),
            400..500 => Answer::Refused(page),
            _ => Answer::None(format!("GET / answers {status}")),
        }
    }

    /// Returns the page that a redirect leads to, if it is one of the app and answers with 200.
    async fn target_of(&self, port: u16, response: &Response<Bytes>) -> Option<ReadyPage> {
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        let path = match location.split_once("://") {
            None => location,
            Some((_, rest)) => rest.strip_prefix(self.authority.as_str())?,
        };
        // A query may hold what only one instance knows.
        let is_known = |c: char| c.is_ascii_alphanumeric() || "/-_.~%".contains(c);
        let is_plain = path.starts_with('/') && !path.starts_with("//") && path.chars().all(is_known);
        if !is_plain {
            return None;
        }
        let status = self.get(port, path).await.ok()?.status().as_u16();
        (status == 200).then(|| ReadyPage { path: path.to_owned(), status })
    }

    /// Replaces an error by a page that works, if the app has one of the usual ones.
    async fn with_other_page(&self, found: Found) -> Found {
        if found.page.is_none() {
            return found;
        }
        for path in OTHER_PAGES {
            let answer = self.get(found.port, path).await;
            if answer.is_ok_and(|response| response.status().as_u16() == 200) {
                return Found { page: Some(ReadyPage { path: path.to_owned(), status: 200 }), ..found };
            }
        }
        found
    }

    async fn get(&self, port: u16, path: &str) -> Result<Response<Bytes>, String> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(port, path)).await {
            Ok(answered) => answered,
            Err(_) => Err(format!("no answer to GET {path} within {REQUEST_TIMEOUT:?}")),
        }
    }

    async fn exchange(&self, port: u16, path: &str) -> Result<Response<Bytes>, String> {
        let endpoint = match self.endpoint {
            // The engine forwards a port of this host to that of the app.
            Endpoint::Direct(_) => self.endpoint,
            sealed => sealed.with_port(port),
        };
        let stream = match (self.runtime.connect(endpoint).await, endpoint.on_ipv6_loopback()) {
            (Ok(stream), _) => Ok(stream),
            (Err(_), Some(other)) => self.runtime.connect(other).await,
            (Err(error), None) => Err(error),
        };
        let stream = stream.map_err(|error| error.to_string())?;
        let host = HeaderValue::from_str(&self.authority).map_err(|error| error.to_string())?;
        let request = Request::get(path).header(header::HOST, host).header(header::CONNECTION, "close");
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let no_http = |error| format!("it does not answer as HTTP does: {error}");
        exchange(stream, request).await.map_err(no_http)
    }

    /// Returns the end of the app's output.
    async fn output(&self) -> String {
        let log = self.runtime.logs(self.id).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(MAX_OUTPUT_BYTES)..]).into_owned();
        let text: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
        match text.trim() {
            "" => "(none)".to_owned(),
            text => text.to_owned(),
        }
    }
}

fn is_on_loopback(listener: &SocketAddr) -> bool {
    let address = listener.ip().to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// Describes where an app listens of which no port was asked.
fn describe(listeners: &[SocketAddr], only: Option<u16>) -> String {
    let names: Vec<String> = listeners.iter().map(SocketAddr::to_string).collect();
    match (names.is_empty(), only) {
        (true, _) => "it listens on no port".to_owned(),
        (false, Some(port)) => format!("it listens on {}, not on {port}", names.join(", ")),
        (false, None) => format!("it listens on {}, which 127.0.0.1 does not reach", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_usual_one_of_those_that_are_exposed() {
        assert_eq!(first_port(&[]), 80);
        assert_eq!(first_port(&[443, 8443]), 443);
        assert_eq!(first_port(&[443, 3000, 8080]), 8080);
    }

    #[test]
    fn the_description_says_where_the_app_listens() {
        let at = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(describe(&[], Some(80)), "it listens on no port");
        assert_eq!(describe(&at(&["127.0.0.1:81"]), Some(80)), "it listens on 127.0.0.1:81, not on 80");
        assert!(describe(&at(&["10.0.0.1:80"]), None).contains("which 127.0.0.1 does not reach"));
        assert!(is_on_loopback(&at(&["[::]:80"])[0]) && !is_on_loopback(&at(&["10.0.0.1:80"])[0]));
    }
}
