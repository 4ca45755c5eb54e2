//! One flat match from method and path to an answer, and the handlers of the guest book itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::form::Form;
use super::guest_book::{Draft, Entry};
use super::page::{self, Problem};
use super::reply::{self, Reply};
use super::{App, inspect, live, streams};

/// Largest form, in bytes: the longest name and text fit with every character percent-encoded.
const FORM_LIMIT: usize = 8 * 1024;
/// Time for a form to arrive.
const FORM_DEADLINE: Duration = Duration::from_secs(10);

/// Answers one request. hyper leaves the body off the answer to a HEAD.
pub(super) async fn answer(app: Arc<App>, request: Request<Incoming>) -> Reply {
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    let path = request.uri().path().to_owned();
    match (method, path.as_str()) {
        (Method::GET, "/") => page::guest_book(&app, request.headers(), &Form::default(), None),
        (Method::GET, "/entries") => reply::json(StatusCode::OK, &entries(&app, request.headers())),
        (Method::POST, "/entries") => sign(&app, request).await,
        (Method::GET, "/health") => reply::text(StatusCode::OK, "ok"),
        (Method::GET, "/live") => live::socket(app, request),
        (Method::GET, "/events") => live::events(&app),
        (Method::POST, "/upload") => streams::upload(request.into_body()).await,
        (Method::GET, "/download") => streams::download(request.uri().query()),
        (_, "/whoami") => inspect::whoami(&app, &request),
        (Method::GET, "/cookie") => inspect::cookie(request.uri().query()),
        _ => page::notice(StatusCode::NOT_FOUND, "Not found", "The guest book has no such page."),
    }
}

/// The whole book, with the time left: enough for the page's script to catch up after it lost its socket.
fn entries(app: &App, headers: &HeaderMap) -> Value {
    let book = app.keeper.book();
    json!({
        "entries": book.newest_first().map(Entry::view).collect::<Vec<_>>(),
        "last_id": book.last_id(),
        "left_ms": page::time_left(headers, app.clock.now()).map(|left| left.millis()),
    })
}

/// Takes an entry. A browser's form gets a 303 back to the page, or the page again with what is wrong and what was
/// typed; a client that asks for JSON gets the entry, or `{"error", "field"}`.
async fn sign(app: &Arc<App>, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let wants_json = has(&head.headers, ACCEPT, "application/json");
    let mut form = Form::default();
    let outcome = match read(&head.headers, body).await {
        Ok(read) => {
            form = read;
            enter(app, &form).await
        }
        Err(problem) => Err(problem),
    };
    match (outcome, wants_json) {
        (Ok(entry), true) => reply::json(StatusCode::CREATED, &entry.view()),
        (Ok(_), false) => reply::with(reply::text(StatusCode::SEE_OTHER, "Signed.\n"), LOCATION, "/"),
        (Err(problem), true) => {
            reply::json(problem.status, &json!({ "error": problem.message, "field": problem.field }))
        }
        (Err(problem), false) => page::guest_book(app, &head.headers, &form, Some(&problem)),
    }
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Form, Problem> {
    // A client that names no type is taken at its word that it sends a form.
    if headers.contains_key(CONTENT_TYPE) && !has(headers, CONTENT_TYPE, "application/x-www-form-urlencoded")
    {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "Please send the entry as an HTML form."));
    }
    let collected = timeout(FORM_DEADLINE, Limited::new(body, FORM_LIMIT).collect())
        .await
        .map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "The form took too long to arrive."))?;
    let bytes: Bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "The form is too large: at most 8 KiB."));
        }
        Err(_) => return Err(Problem::new(StatusCode::BAD_REQUEST, "The form did not arrive as a whole.")),
    };
    Form::parse(&bytes).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn enter(app: &Arc<App>, form: &Form) -> Result<Entry, Problem> {
    let draft = Draft::new(&form.name, &form.text).map_err(Problem::from)?;
    app.keeper.sign(draft, app.clock.now()).await.map_err(|error| {
        tracing::warn!(%error, "an entry was not kept");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    })
}

fn has(headers: &HeaderMap, name: http::HeaderName, wanted: &str) -> bool {
    let matches =
        |part: &str| part.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted));
    headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|text| text.split(',').any(matches)))
}
