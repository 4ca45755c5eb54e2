//! The pages. Fills the HTML templates beside this file.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::app::SampleApp;
use super::form::Form;
use super::guest_book::{BookEntry, EntryRefusal};
use super::response::{self, AppResponse};
use crate::api::pages::html::Html;
use crate::clock::Millis;

const PAGE: &str = include_str!("page.html");
const NOTICE: &str = include_str!("notice.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

const ENTRY: &str = r#"
<li data-id="{{id}}"><span class="face tone-{{tone}}" aria-hidden="true">{{initial}}</span><div>
<p class="by"><bdi>{{name}}</bdi><time datetime="{{at}}">{{ago}}</time></p>
<p class="said" dir="auto">{{text}}</p></div></li>"#;

const COUNTDOWN: &str = r#"  <div class="fact time" id="time" data-left-ms="{{millis}}">
    <h2 id="time-title">Time left</h2>
    <p class="clock" id="clock" role="timer" aria-labelledby="time-title">{{clock}}</p>
    <p class="until">until <time id="until" datetime="{{until}}">{{hour}} UTC</time></p>
  </div>"#;

/// Why an entry was refused, for the page or as JSON.
#[derive(Debug)]
pub(super) struct FormProblem {
    pub(super) status: StatusCode,
    /// The form field that is wrong, if it is one.
    pub(super) field: Option<&'static str>,
    pub(super) message: String,
}

impl FormProblem {
    /// Returns a problem with the request as a whole.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> FormProblem {
        FormProblem { status, field: None, message: message.into() }
    }

    fn is_about(&self, field: &str) -> bool {
        self.field == Some(field)
    }
}

impl From<EntryRefusal> for FormProblem {
    fn from(refusal: EntryRefusal) -> FormProblem {
        FormProblem {
            status: StatusCode::BAD_REQUEST,
            field: Some(refusal.field()),
            message: refusal.to_string(),
        }
    }
}

/// The time until the instance's deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeLeft {
    until: Millis,
    left: Duration,
}

impl TimeLeft {
    /// Returns the time in milliseconds; 0 after the deadline.
    pub(super) fn millis(self) -> u64 {
        u64::try_from(self.left.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Returns the time until the deadline in the header that the proxy adds to each request; `None` without the header.
pub(super) fn time_left(headers: &HeaderMap, now: Millis) -> Option<TimeLeft> {
    let text = headers.get("x-demo-expires-at")?.to_str().ok()?;
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let until = Millis(u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()?);
    Some(TimeLeft { until, left: until.since(now) })
}

/// Returns the guest book's page. After a refused entry it has the typed text and the problem.
pub(super) fn guest_book(
    app: &SampleApp,
    headers: &HeaderMap,
    form: &Form,
    problem: Option<&FormProblem>,
) -> AppResponse {
    let now = app.clock.wall_now();
    let book = app.entries.book();
    let count = book.newest_first().len();
    let entries = Html::concat(book.newest_first().map(|each| entry(each, now)));
    let state = |field| match problem {
        Some(problem) if problem.is_about(field) => Html::markup(" aria-invalid=\"true\" autofocus"),
        _ => Html::default(),
    };
    let field_problem = |field| match problem {
        Some(problem) if problem.is_about(field) => Html::escape(&problem.message),
        _ => Html::default(),
    };
    let id = app.settings.current_id();
    let title = format!("{}Guest book · {}", if problem.is_some() { "Not signed: " } else { "" }, id);
    let values = vec![
        ("title", Html::escape(&title)),
        ("id", Html::escape(&id)),
        ("address", address(&app.settings.current_url())),
        ("countdown", time_left(headers, now).map_or_else(Html::default, countdown)),
        (
            "problem",
            problem.filter(|p| p.field.is_none()).map_or_else(Html::default, |p| Html::escape(&p.message)),
        ),
        ("name", Html::escape(&form.name)),
        ("name_state", state("name")),
        ("name_wrong", field_problem("name")),
        ("text", Html::escape(&form.text)),
        ("text_state", state("text")),
        ("text_wrong", field_problem("text")),
        ("total", Html::number(count as u64)),
        ("empty_state", Html::markup(if count == 0 { "" } else { " hidden" })),
        ("entries", entries),
        ("script", Html::markup(SCRIPT)),
    ];
    document(problem.map_or(StatusCode::OK, |p| p.status), PAGE, values)
}

/// Returns a page with a title, a sentence, and a link to the guest book.
pub(super) fn notice(status: StatusCode, title: &str, message: &str) -> AppResponse {
    document(status, NOTICE, vec![("title", Html::escape(title)), ("message", Html::escape(message))])
}

fn document(
    status: StatusCode,
    template: &'static str,
    mut values: Vec<(&'static str, Html)>,
) -> AppResponse {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).expect("Linux always has a random source");
    let nonce = format!("{:032x}", u128::from_ne_bytes(random));
    values.push(("nonce", Html::escape(&nonce)));
    values.push(("style", Html::markup(STYLE)));
    let html = Html::fill(template, &values).into_string();
    let mut response = response::whole(status, "text/html; charset=utf-8", html);
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self' ws: wss:; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    );
    let headers = response.headers_mut();
    headers.insert(
        "content-security-policy",
        HeaderValue::from_str(&policy).expect("the nonce is hexadecimal, the rest a constant"),
    );
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    // The secret host name is what keeps an instance private, so no link may send it to another site.
    headers.insert("referrer-policy", HeaderValue::from_static("same-origin"));
    response
}

fn entry(entry: &BookEntry, now: Millis) -> Html {
    Html::fill(
        ENTRY,
        &[
            ("id", Html::number(entry.id)),
            ("tone", Html::number(u64::from(entry.tone()))),
            ("initial", Html::escape(&entry.initial())),
            ("name", Html::escape(&entry.name)),
            ("at", Html::escape(&entry.at.rfc3339())),
            ("ago", Html::escape(&ago(entry.at, now))),
            ("text", Html::escape(&entry.text)),
        ],
    )
}

fn countdown(time: TimeLeft) -> Html {
    let until = time.until.rfc3339();
    let hour = until.get(11..16).unwrap_or_default();
    Html::fill(
        COUNTDOWN,
        &[
            ("millis", Html::number(time.millis())),
            ("clock", Html::escape(&clock(time.left))),
            ("until", Html::escape(&until)),
            ("hour", Html::escape(hour)),
        ],
    )
}

/// Returns a link, or plain text for a URL that is not http or https.
fn address(url: &str) -> Html {
    let Some(short) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Html::escape(url);
    };
    let values = [("url", Html::escape(url)), ("short", Html::escape(short.trim_end_matches('/')))];
    Html::fill(r#"<a href="{{url}}">{{short}}</a>"#, &values)
}

/// Returns `1:02:03` or `2:03`. A part of a second counts as one, so that zero means the end.
fn clock(left: Duration) -> String {
    let seconds = left.as_millis().div_ceil(1000);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

fn ago(at: Millis, now: Millis) -> String {
    match now.since(at).as_secs() {
        0..60 => "just now".to_owned(),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86400 => format!("{} h ago", seconds / 3600),
        _ => at.rfc3339().get(..10).unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample_app::guest_book::BADGE_COLOURS;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([("x-demo-expires-at".parse().unwrap(), HeaderValue::from_static(value))])
    }

    #[test]
    fn time_left_counts_down_to_the_header_and_stops_at_zero() {
        let headers = headers("2023-11-14T23:13:20+01:00");
        let left = |now| time_left(&headers, Millis(now)).unwrap().millis();
        assert_eq!(left(1_700_000_000_000 - 90_500), 90_500);
        assert_eq!(left(1_700_000_000_001), 0);
    }

    #[test]
    fn without_a_valid_time_there_is_no_countdown() {
        assert_eq!(time_left(&HeaderMap::new(), Millis(0)), None);
        for bad in ["", "soon", "2023-11-14", "1700000000", "1900-01-01T00:00:00Z"] {
            assert_eq!(time_left(&headers(bad), Millis(0)), None, "{bad}");
        }
    }

    #[test]
    fn the_clock_reaches_zero_only_at_the_end() {
        let shown = |millis| clock(Duration::from_millis(millis));
        assert_eq!(
            [shown(3_723_000), shown(123_000), shown(1), shown(0)],
            ["1:02:03", "2:03", "0:01", "0:00"]
        );
    }

    #[test]
    fn an_age_is_rounded_down_and_an_entry_from_the_future_is_new() {
        let hour = 3_600_000;
        assert_eq!(ago(Millis(0), Millis(59_999)), "just now");
        assert_eq!(ago(Millis(0), Millis(hour - 1)), "59 min ago");
        assert_eq!(ago(Millis(0), Millis(24 * hour - 1)), "23 h ago");
        assert_eq!(ago(Millis(0), Millis(24 * hour)), "1970-01-01");
        assert_eq!(ago(Millis(5), Millis(0)), "just now");
    }

    #[test]
    fn a_url_becomes_a_link_only_with_http_or_https() {
        assert_eq!(address("javascript:alert(1)").into_string(), "javascript:alert(1)");
        assert_eq!(address("http://a/?\"").into_string(), "<a href=\"http://a/?&quot;\">a/?&quot;</a>");
        assert_eq!(address("https://a/").into_string(), "<a href=\"https://a/\">a</a>");
    }

    #[test]
    fn every_element_that_the_script_uses_is_in_the_template() {
        let wanted = SCRIPT.split("el(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        for id in wanted.chain(["name-wrong", "text-wrong"]) {
            let attribute = format!("id=\"{id}\"");
            assert!(PAGE.contains(&attribute) || COUNTDOWN.contains(&attribute), "{id}");
        }
    }

    #[test]
    fn the_style_sheet_has_every_colour_of_a_badge() {
        assert!((1..BADGE_COLOURS).all(|tone| STYLE.contains(&format!(".tone-{tone} "))));
    }
}
