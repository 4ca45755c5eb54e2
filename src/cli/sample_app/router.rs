//! Maps method and path to a handler, and handles the guest book's own requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::app::SampleApp;
use super::form::Form;
use super::guest_book::{BookEntry, EntryDraft};
use super::page::{self, FormProblem};
use super::response::{self, AppResponse};
use super::{inspect, live, streams};

/// The largest form, in bytes. The longest name and text fit with every character percent-encoded.
const MAX_FORM: usize = 8 * 1024;
/// The time for a form to arrive.
const FORM_DEADLINE: Duration = Duration::from_secs(10);

/// Answers one request. hyper omits the body of the answer to a HEAD.
pub(super) async fn respond(app: Arc<SampleApp>, request: Request<Incoming>) -> AppResponse {
    let method = match *request.method() {
        Method::HEAD => Method::GET,
        ref other => other.clone(),
    };
    let path = request.uri().path().to_owned();
    match (method, path.as_str()) {
        (Method::GET, "/") => page::guest_book(&app, request.headers(), &Form::default(), None),
        (Method::GET, "/entries") => response::json(StatusCode::OK, &entries(&app, request.headers())),
        (Method::POST, "/entries") => sign(&app, request).await,
        (Method::GET, "/health") => response::text(StatusCode::OK, "ok"),
        (Method::GET, "/live") => live::socket(app, request),
        (Method::GET, "/events") => live::events(&app),
        (Method::POST, "/upload") => streams::upload(request.into_body()).await,
        (Method::GET, "/download") => streams::download(request.uri().query()),
        (_, "/whoami") => inspect::whoami(&app, &request),
        (Method::GET, "/cookie") => inspect::cookie(request.uri().query()),
        _ => page::notice(StatusCode::NOT_FOUND, "Not found", "The guest book has no such page."),
    }
}

/// Returns the whole book and the remaining time, from which the page's script catches up after its socket broke.
fn entries(app: &SampleApp, headers: &HeaderMap) -> Value {
    let book = app.entries.book();
    json!({
        "entries": book.newest_first().map(BookEntry::view).collect::<Vec<_>>(),
        "last_id": book.last_id(),
        "left_ms": page::time_left(headers, app.clock.wall_now()).map(|left| left.millis()),
    })
}

/// Adds an entry. A browser's form gets a 303 to the page, or the page with the problem and the typed text. A client
/// that accepts JSON gets the entry, or `{"error", "field"}`.
async fn sign(app: &Arc<SampleApp>, request: Request<Incoming>) -> AppResponse {
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
        (Ok(entry), true) => response::json(StatusCode::CREATED, &entry.view()),
        (Ok(_), false) => response::with(response::text(StatusCode::SEE_OTHER, "Signed.\n"), LOCATION, "/"),
        (Err(problem), true) => {
            response::json(problem.status, &json!({ "error": problem.message, "field": problem.field }))
        }
        (Err(problem), false) => page::guest_book(app, &head.headers, &form, Some(&problem)),
    }
}

async fn read(headers: &HeaderMap, body: Incoming) -> Result<Form, FormProblem> {
    // A body without a content type is read as a form.
    if headers.contains_key(CONTENT_TYPE) && !has(headers, CONTENT_TYPE, "application/x-www-form-urlencoded")
    {
        return Err(FormProblem::new(StatusCode::BAD_REQUEST, "Please send the entry as an HTML form."));
    }
    let collected = timeout(FORM_DEADLINE, Limited::new(body, MAX_FORM).collect())
        .await
        .map_err(|_| FormProblem::new(StatusCode::REQUEST_TIMEOUT, "The form took too long to arrive."))?;
    let bytes: Bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(FormProblem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "The form is too large: at most 8 KiB.",
            ));
        }
        Err(_) => {
            return Err(FormProblem::new(StatusCode::BAD_REQUEST, "The form did not arrive as a whole."));
        }
    };
    Form::parse(&bytes).map_err(|error| FormProblem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn enter(app: &Arc<SampleApp>, form: &Form) -> Result<BookEntry, FormProblem> {
    let draft = EntryDraft::new(&form.name, &form.text).map_err(FormProblem::from)?;
    app.entries.sign(draft, app.clock.wall_now()).await.map_err(|error| {
        tracing::warn!(%error, "failed to save entry");
        FormProblem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    })
}

fn has(headers: &HeaderMap, name: http::HeaderName, wanted: &str) -> bool {
    let matches =
        |part: &str| part.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted));
    headers.get_all(name).iter().any(|value| value.to_str().is_ok_and(|text| text.split(',').any(matches)))
}
