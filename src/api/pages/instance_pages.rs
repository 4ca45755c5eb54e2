//! What is shown on an instance's host when the instance cannot answer. `home` is the front page's absolute URL.

use super::Page;
use super::html::Html;
use super::notice::{Notice, Sign};
use crate::instance::EndReason;

const HOME_BUTTON: &str = r#"<a class="button" href="{{home}}" target="_top">See what you can try</a>"#;
const HOME_LINK: &str = r#"<a class="quiet" href="{{home}}" target="_top">See all apps</a>"#;
const RELOAD: &str = r#"<a class="button" href="">Reload</a>"#;
const FRESH: &str = r#"<form method="post" action="{{home}}try/{{template}}" data-once>
<button type="submit" data-busy="Getting your copy…">{{words}}</button></form>"#;
const ONCE_SCRIPT: &str = include_str!("once.js");

/// No instance has this host: 404.
pub fn no_instance(home: &str, request_id: &str) -> Page {
    Notice {
        sentence: Html::markup("It may have ended a while ago, or the address has a typing mistake in it."),
        ..there(Sign::Lost, "There is no copy at this address", home, request_id)
    }
    .page()
}

/// The instance of this host is over: 410. `template` is the name of its template, empty when it is not known.
pub fn ended(ending: EndReason, template: &str, home: &str, request_id: &str) -> Page {
    let (sign, heading, sentence, words) = match ending {
        EndReason::Expired => (
            Sign::Clock,
            "Your time with this copy is over",
            "Thank you for trying it! What you did in it is gone with it; a fresh one starts from the beginning.",
            "Start a fresh one",
        ),
        EndReason::Failed => (
            Sign::Broken,
            "This copy stopped working",
            "That was nothing you did: the app ended before its time. A fresh one starts from the beginning.",
            "Start again",
        ),
    };
    let notice = Notice { sentence: Html::markup(sentence), ..there(sign, heading, home, request_id) };
    if template.is_empty() {
        return notice.page();
    }
    let actions = Html::concat([
        Html::fill(
            FRESH,
            &[("home", slashed(home)), ("template", Html::text(template)), ("words", Html::markup(words))],
        ),
        Html::fill(HOME_LINK, &[("home", slashed(home))]),
    ]);
    Notice { actions, script: ONCE_SCRIPT, forms: true, ..notice }.page()
}

/// The instance does not answer, or not in time: 502 and 504.
pub fn unreachable(home: &str, request_id: &str) -> Page {
    Notice {
        sentence: Html::markup(
            "It may be busy with something. Please wait a few seconds and reload the page.",
        ),
        actions: Html::concat([Html::markup(RELOAD), Html::fill(HOME_LINK, &[("home", slashed(home))])]),
        ..there(Sign::Broken, "The app does not answer right now", home, request_id)
    }
    .page()
}

/// The host is none of ours: 421.
pub fn misdirected(home: &str, request_id: &str) -> Page {
    Notice {
        sentence: Html::markup(
            "The server that you reached does not answer for this host name. Please check the address.",
        ),
        ..there(Sign::Lost, "This address does not belong here", home, request_id)
    }
    .page()
}

/// A page on another host than ours, with the way to the front page. Its links leave a frame, since the front page
/// refuses to be in one.
fn there(sign: Sign, heading: &'static str, home: &str, request_id: &str) -> Notice {
    Notice {
        sign,
        heading,
        sentence: Html::default(),
        actions: Html::fill(HOME_BUTTON, &[("home", slashed(home))]),
        home: slashed(home),
        request_id: Html::text(request_id),
        script: "",
        forms: false,
        framed: true,
    }
}

/// The URL with one slash at its end.
fn slashed(home: &str) -> Html {
    Html::concat([Html::text(home.trim_end_matches('/')), Html::markup("/")])
}
